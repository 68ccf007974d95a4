"""Joint training, and the methods that change its gradients or its learning rates: settings and entry of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradmod.experiments import checks
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.entry import (
    MULTIMODAL,
    MethodEntry,
    MethodSettings,
    PerModality,
    RunFacts,
    WindowedSettings,
)

# Every command imports this file, so choices stand here as plain text and not in the modules of the methods, which
# import torch; tests/experiments/methods/test_settings.py checks that both agree.
FILTERS = ("all", "published")
RULES = ("keep", "smooth", "dynamic")
DEFAULT_CAP = 2.0
MAX_EXPONENT = 88.0
_SCALE_FREE = ("adam", "adamw")
"""Optimizers that divide each gradient by its own size."""


def _where_gradients_are_divided(
    method: str, run: RunFacts, page: str = "docs/methods/ogm-ge.md"
) -> list[str]:
    if run.optimizer not in _SCALE_FREE:
        return []
    return [
        f"{run.optimizer} divides each gradient by its own running size, which cancels much of what {method.upper()} "
        f"multiplies it by; sgd does not. See {page}"
    ]


JOINT = MethodEntry(
    name="joint",
    factory="gradmod.methods.joint:Joint",
    settings=MethodSettings,
    summary="plain joint training, the baseline",
    paper="",
    cost="what the network itself costs",
    mechanism="-",
    modalities=1,
    search={"lr": (0.01, 0.003, 0.03)},
)


@dataclass(frozen=True)
class AGMSettings(WindowedSettings):
    """Settings of AGM."""

    method = "agm"
    alpha: float = 1.0
    """Strength of the modulation; 0 is joint training."""
    cap: float | None = DEFAULT_CAP
    """Most that a modality counts as behind by; none: no limit."""

    def __post_init__(self) -> None:
        checks.number("agm.alpha", self.alpha, 0)
        if self.cap is not None:
            checks.number("agm.cap", self.cap, 0, above=True)
            exponent = float(self.alpha) * float(self.cap)
            if exponent >= MAX_EXPONENT:
                raise ConfigError(
                    f"agm.alpha * agm.cap is {exponent:g}; expected less than {MAX_EXPONENT:g}, where exp leaves the "
                    "range of float32: lower one of them"
                )
        self.check_window()

    def without_effect(self) -> dict[str, str]:
        """All but alpha, where alpha is 0."""
        reason = "to AGM with --alpha 0, which is joint training"
        return {} if self.alpha else dict.fromkeys(("cap", "starts", "ends"), reason)

    def notes(self, run: RunFacts) -> list[str]:
        """Where AGM does less than it seems to."""
        page = "docs/methods/agm.md, Adaptive optimizers"
        notes = _where_gradients_are_divided(self.method, run, page) + super().notes(run)
        if run.modality != MULTIMODAL:
            notes.append(f"with the one modality {run.modality!r}, AGM is joint training")
        return notes


AGM = MethodEntry(
    name="agm",
    factory="gradmod.methods.agm:AGM",
    settings=AGMSettings,
    summary="scales the gradient through each modality's Shapley response",
    paper="Li et al., ICCV 2023",
    cost="masked passes with gradient: 1.0 to 2.1 times a joint step with late or early fusion",
    mechanism="gradients",
    needs=("coalitions",),
    search={"alpha": (1.0, 0.3, 3.0)},
)


@dataclass(frozen=True)
class OGMGESettings(WindowedSettings):
    """Settings of OGM-GE."""

    method = "ogm-ge"
    alpha: float = 1.0
    """Strength of the modulation, above 0."""
    noise: bool = True
    """Add noise to the gradients; false: OGM."""
    filter: str = "all"
    """Parameters of a modality that are modulated: all, or published (those of convolutions)."""

    def __post_init__(self) -> None:
        checks.number("ogm-ge.alpha", self.alpha, 0, above=True)
        checks.flag("ogm-ge.noise", self.noise)
        checks.one_of("ogm-ge.filter", self.filter, FILTERS)
        self.check_window()

    def notes(self, run: RunFacts) -> list[str]:
        """Where OGM-GE does less than it seems to."""
        return super().notes(run) + _where_gradients_are_divided(self.method, run)


OGM_GE = MethodEntry(
    name="ogm-ge",
    factory="gradmod.methods.ogm_ge:OGMGE",
    settings=OGMGESettings,
    summary="scales down the gradients of the leading modality's encoder",
    paper="Peng et al., CVPR 2022",
    cost="masked passes without gradient (none where modalities have heads of their own), and the noise",
    mechanism="gradients",
    needs=("modules",),
    search={"alpha": (1.0, 0.1, 0.3)},
)


@dataclass(frozen=True)
class OGMSettings(WindowedSettings):
    """Settings of OGM."""

    method = "ogm"
    alpha: float = 1.0
    """Strength of the modulation; 0 is joint training."""
    filter: str = "all"
    """Parameters of a modality that are modulated: all, or published (those of convolutions)."""

    def __post_init__(self) -> None:
        checks.number("ogm.alpha", self.alpha, 0)
        checks.one_of("ogm.filter", self.filter, FILTERS)
        self.check_window()

    def without_effect(self) -> dict[str, str]:
        """All but alpha, where alpha is 0."""
        reason = "to OGM with --alpha 0, which is joint training"
        return {} if self.alpha else dict.fromkeys(("filter", "starts", "ends"), reason)

    def notes(self, run: RunFacts) -> list[str]:
        """Where OGM does less than it seems to."""
        return super().notes(run) + _where_gradients_are_divided(self.method, run)


OGM = MethodEntry(
    name="ogm",
    factory="gradmod.methods.ogm_ge:OGM",
    settings=OGMSettings,
    summary="scales down the gradients of the leading modality's encoder, without noise",
    paper="Peng et al., CVPR 2022",
    cost="masked passes without gradient (none where modalities have heads of their own)",
    mechanism="gradients",
    needs=("modules",),
    search={"alpha": (1.0, 0.1, 0.3)},
)


@dataclass(frozen=True)
class MSLRSettings(MethodSettings):
    """Settings of MSLR."""

    initial: PerModality = ""
    """Initial factor of each modality's learning rate, as in audio=1.3,visual=0.7; those left out have 1."""
    rule: str = "dynamic"
    """keep the factors, smooth (they go to 1 over `window` epochs), or dynamic (with the validation)."""
    window: int = 5
    """Epochs of smooth; validations that dynamic takes the mean of."""

    def __post_init__(self) -> None:
        if "" in checks.by_name("mslr.initial", self.initial, float):
            raise ConfigError(
                f"mslr.initial is {checks.shown(self.initial)}; expected a modality's name before each number"
            )
        checks.one_of("mslr.rule", self.rule, RULES)
        checks.whole("mslr.window", self.window, 1)

    def arguments(self) -> dict[str, Any]:
        """The factors as numbers by modality."""
        factors = checks.by_name("mslr.initial", self.initial, float)
        return {**super().arguments(), "initial": factors}

    def without_effect(self) -> dict[str, str]:
        """The window, where the factors are kept."""
        return {"window": "to --rule keep"} if self.rule == "keep" else {}


MSLR = MethodEntry(
    name="mslr",
    factory="gradmod.methods.mslr:MSLR",
    settings=MSLRSettings,
    summary="a learning rate for each modality",
    paper="Yao and Mihalcea, 2022",
    cost="nothing",
    mechanism="optimizer",
    needs=("modules", "validation"),
    search={"window": (5, 2, 10)},
)


@dataclass(frozen=True)
class MSESSettings(MethodSettings):
    """Settings of MSES."""

    patience: PerModality = "10"
    """Epochs without improvement before a modality is stopped: one number, or as in audio=10,visual=30."""
    smoothing: float = 0.6
    """Weight of the past in the smoothed validation loss, from 0 on and below 1."""

    def __post_init__(self) -> None:
        checks.by_name("mses.patience", self.patience, int)
        checks.number("mses.smoothing", self.smoothing, 0, 1)

    def arguments(self) -> dict[str, Any]:
        """The patience as one number, or as numbers by modality."""
        return {
            **super().arguments(),
            "patience": checks.one_or_by_name("mses.patience", self.patience, int),
        }

    def notes(self, run: RunFacts) -> list[str]:
        """That the run is too short for any modality to be stopped."""
        shortest = min(checks.by_name("mses.patience", self.patience, int).values(), default=0)
        if shortest < run.epochs:
            return []
        return [
            f"MSES stops a modality after {shortest} epochs without improvement (--patience), which {run.epochs} "
            "epochs have no room for: this is joint training"
        ]


MSES = MethodEntry(
    name="mses",
    factory="gradmod.methods.mses:MSES",
    settings=MSESSettings,
    summary="stops each modality at its own best epoch",
    paper="Fujimori et al., 2019",
    cost="nothing in time; a copy of each modality's best weights",
    mechanism="schedule",
    needs=("modules", "validation"),
    search={"patience": ("10", "3", "5")},
)
