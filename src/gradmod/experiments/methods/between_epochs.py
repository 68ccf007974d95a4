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


@dataclass(frozen=True)
class GBlendingSettings(MethodSettings):
    """Settings of Gradient Blending."""

    online: bool = False
    """Estimate the weights again every --super-epoch epochs, and hold the held-out part out of training as well."""
    super_epoch: int = 10
    """Epochs for which each loss is trained alone on trial; with --online also from one estimation to the next."""
    held_out: float = 0.1
    """Share of the training split that trials are measured on and never train on; above 0 and below 1."""

    def __post_init__(self) -> None:
        checks.flag("gblending.online", self.online)
        checks.whole("gblending.super_epoch", self.super_epoch, 1)
        checks.number("gblending.held_out", self.held_out, 0, 1, above=True)
        if self.held_out == 1:
            raise ConfigError("gblending.held_out is 1; expected a number > 0 and < 1")

    def check_run(self, run: RunFacts) -> None:
        """A second estimation must be in a run that is online."""
        if self.online and self.super_epoch >= run.epochs:
            raise ConfigError(
                f"gblending.super_epoch is {self.super_epoch} in a run of {run.epochs} epochs: --online would estimate "
                f"the weights once, as without it, and train on fewer samples. Expected less than {run.epochs}: "
                f"--super-epoch {max(run.epochs // 4, 1)}, say, or train longer, or leave --online out"
            )

    def notes(self, run: RunFacts) -> list[str]:
        """That a trial is longer than the run."""
        if self.super_epoch <= run.epochs:
            return []
        return [
            f"gblending trains each loss for {self.super_epoch} epochs on trial, longer than the run of {run.epochs}: "
            "--super-epoch says how long"
        ]


GBLENDING = MethodEntry(
    name="gblending",
    factory="gradmod.methods.gblending:GBlending",
    settings=GBlendingSettings,
    summary="weighs the joint and the uni-modal losses by what each is found on trial to gain and to overfit",
    paper="Wang et al., CVPR 2020",
    cost="uni-modal heads; M + 1 trials of `super_epoch` epochs, once or (online) again and again",
    mechanism="loss",
    needs=("features", "heads", "trials"),
    search={"super_epoch": (10, 5, 20)},
)
