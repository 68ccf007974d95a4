"""The methods that do their work between epochs: settings and entry of each."""

from __future__ import annotations

from dataclasses import dataclass

from gradmod.experiments import checks
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.entry import MethodEntry, MethodSettings, RunFacts


@dataclass(frozen=True)
class DiagnosingRelearningSettings(MethodSettings):
    """Settings of Diagnosing & Re-learning."""

    every: int = 20
    """Epochs from one diagnosis to the next."""
    times: int = 3
    """How many diagnoses there are."""
    strength: float = 3.0
    """How far encoders are put back for a gap between the purities of training and validation features; above 0."""

    def __post_init__(self) -> None:
        checks.whole("diagnosing-relearning.every", self.every, 1)
        checks.whole("diagnosing-relearning.times", self.times, 1)
        checks.number("diagnosing-relearning.strength", self.strength, 0, above=True)

    def check_run(self, run: RunFacts) -> None:
        """The first diagnosis must be in the run."""
        if self.every >= run.epochs:
            raise ConfigError(
                f"diagnosing-relearning.every is {self.every} in a run of {run.epochs} epochs: there would be no "
                f"diagnosis, and training would be joint. Expected less than {run.epochs}: --every "
                f"{max(run.epochs // 4, 1)}, say, or train longer"
            )


DIAGNOSING_RELEARNING = MethodEntry(
    name="diagnosing-relearning",
    factory="gradmod.methods.diagnosing_relearning:DiagnosingRelearning",
    settings=DiagnosingRelearningSettings,
    summary="puts encoders back towards their first weights, by how much they have overfitted",
    paper="Wei et al., ECCV 2024",
    cost="a pass over the training and validation split and a clustering, a few times in a run",
    mechanism="schedule",
    needs=("features", "modules", "splits"),
    modalities=1,
    tasks=("classes",),
    search={"strength": (3.0, 1.0, 10.0)},
)
