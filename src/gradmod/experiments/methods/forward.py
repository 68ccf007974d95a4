"""The methods that change the forward in training: what a sample is shown, or what the fusion sees of it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradmod.experiments import checks
from gradmod.experiments.methods.entry import (
    MethodEntry,
    MethodSettings,
    PerModality,
    WindowedSettings,
)


@dataclass(frozen=True)
class ModalityDropoutSettings(MethodSettings):
    """Settings of modality dropout."""

    p: PerModality = "0.3"
    """Probability of hiding a modality of a sample: one number, or as in audio=0.5,visual=0.1; 0 is joint training."""
    by_batch: bool = False
    """One draw for the whole batch, in place of one for each sample."""
    rescale: bool = False
    """Multiply what is shown by 1 over the probability that it is."""

    def __post_init__(self) -> None:
        values = checks.by_name("modality-dropout.p", self.p, float).values()
        for value in values:
            checks.number("modality-dropout.p", value, 0, 1)
        checks.flag("modality-dropout.by_batch", self.by_batch)
        checks.flag("modality-dropout.rescale", self.rescale)

    def arguments(self) -> dict[str, Any]:
        """The probability as one number, or as numbers by modality."""
        p = checks.one_or_by_name("modality-dropout.p", self.p, float)
        return {**super().arguments(), "p": p}

    def without_effect(self) -> dict[str, str]:
        """How it is drawn, where nothing is."""
        values = checks.by_name("modality-dropout.p", self.p, float).values()
        reason = "to modality dropout with --p 0, which is joint training"
        return {} if any(values) else dict.fromkeys(("by_batch", "rescale"), reason)


MODALITY_DROPOUT = MethodEntry(
    name="modality-dropout",
    factory="gradmod.methods.modality_dropout:ModalityDropout",
    settings=ModalityDropoutSettings,
    summary="hides modalities of samples at random in training",
    paper="Neverova et al., TPAMI 2016 (ModDrop)",
    cost="nothing but the draws",
    mechanism="forward",
    search={"p": ("0.3", "0.1", "0.5")},
)


@dataclass(frozen=True)
class OPMSettings(WindowedSettings):
    """Settings of OPM."""

    method = "opm"
    q: float = 0.5
    """Base of the probability of dropping the feature of a modality that is ahead."""
    strength: float = 0.5
    """How much further ahead raises it."""
    often: float = 0.7
    """Share of the steps in which features are dropped."""

    def __post_init__(self) -> None:
        checks.number("opm.q", self.q, 0, 1, above=True)
        checks.number("opm.strength", self.strength, 0)
        checks.number("opm.often", self.often, 0, 1, above=True)
        self.check_window()


OPM = MethodEntry(
    name="opm",
    factory="gradmod.methods.opm:OPM",
    settings=OPMSettings,
    summary="drops features of the modality that is ahead, at random",
    paper="Wei et al., TPAMI 2024",
    cost="fusion and head once more for every modality, without gradient",
    mechanism="forward",
    needs=("features", "fusion"),
    search={"q": (0.5, 0.3, 0.7)},
)
