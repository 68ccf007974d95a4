"""The methods that have losses of their own, of a head for each modality: settings and entry of each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from gradmod.experiments import checks
from gradmod.experiments.methods.entry import MethodEntry, MethodSettings, PerModality

WEIGHTINGS = ("entropy", "mean")
HIDDEN = ("features", "inputs")


@dataclass(frozen=True)
class UniModalLossesSettings(MethodSettings):
    """Settings of uni-modal losses."""

    weight: PerModality = "1"
    """Weight of each modality's own loss: one number, or as in audio=1,visual=0.5."""

    def __post_init__(self) -> None:
        checks.by_name("uni-modal-losses.weight", self.weight, float)

    def arguments(self) -> dict[str, Any]:
        """The weight as one number, or as numbers by modality."""
        return {"weight": checks.one_or_by_name("uni-modal-losses.weight", self.weight, float)}


UNI_MODAL_LOSSES = MethodEntry(
    name="uni-modal-losses",
    factory="gradmod.methods.uni_modal_losses:UniModalLosses",
    settings=UniModalLossesSettings,
    summary="a loss for each modality beside the joint one",
    paper="",
    cost="uni-modal heads: next to nothing",
    mechanism="loss",
    needs=("features", "heads"),
    search={"weight": ("1", "0.3", "3")},
)


@dataclass(frozen=True)
class MMParetoSettings(MethodSettings):
    """Settings of MMPareto."""

    gamma: float = 1.5
    """What the gradients of encoders are multiplied by; 1: nothing but the joining of gradients."""

    def __post_init__(self) -> None:
        checks.number("mmpareto.gamma", self.gamma, 0, above=True)


MMPARETO = MethodEntry(
    name="mmpareto",
    factory="gradmod.methods.mmpareto:MMPareto",
    settings=MMParetoSettings,
    summary="joins each encoder's gradients of the joint and of its own loss so that both fall",
    paper="Wei and Hu, ICML 2024",
    cost="a second backward pass, and uni-modal heads",
    mechanism="gradients",
    needs=("features", "heads", "modules"),
    search={"gamma": (1.5, 1.0, 2.0)},
)


@dataclass(frozen=True)
class DGLSettings(MethodSettings):
    """Settings of DGL."""

    weight: PerModality = "1"
    """Weight of each modality's own loss, above 0: one number, or as in audio=4,visual=2."""
    hidden: str = "features"
    """What the head says of a modality alone: with the features of the others zeros, or with their inputs masked."""

    def __post_init__(self) -> None:
        for value in checks.by_name("dgl.weight", self.weight, float).values():
            checks.number("dgl.weight", value, 0, above=True)
        checks.one_of("dgl.hidden", self.hidden, HIDDEN)

    def arguments(self) -> dict[str, Any]:
        """The weight as one number, or as numbers by modality."""
        weight = checks.one_or_by_name("dgl.weight", self.weight, float)
        return {**super().arguments(), "weight": weight}


DGL = MethodEntry(
    name="dgl",
    factory="gradmod.methods.dgl:DGL",
    settings=DGLSettings,
    summary="lets encoders learn from their own modality alone, and the fusion from all of them",
    paper="Wei et al., ICCV 2025",
    cost="fusion and head once more for every modality",
    mechanism="gradients",
    needs=("features", "modules"),
    search={"weight": ("1", "3", "5")},
)


@dataclass(frozen=True)
class MLBSettings(MethodSettings):
    """Settings of MLB."""

    strength: float = 0.5
    """How fast gradients change with how far a modality is ahead or behind; above 0."""
    fastest: float = 10.0
    """What the gradients of a modality that is behind are multiplied by at most; 1 speeds nothing up."""

    def __post_init__(self) -> None:
        checks.number("mlb.strength", self.strength, 0, above=True)
        checks.number("mlb.fastest", self.fastest, 1)


MLB = MethodEntry(
    name="mlb",
    factory="gradmod.methods.mlb:MLB",
    settings=MLBSettings,
    summary="adds a loss for each modality, slows the leading encoder down and speeds the others up",
    paper="Kontras et al., BMVC 2024",
    cost="uni-modal heads: next to nothing",
    mechanism="loss, gradients",
    needs=("features", "heads", "modules"),
    search={"strength": (0.5, 1.0, 2.0)},
)


@dataclass(frozen=True)
class MLASettings(MethodSettings):
    """Settings of MLA."""

    projection: bool = False
    """Project the gradients of the shared head away from directions that features have had."""
    weighting: str = "entropy"
    """Weights of the modalities in a prediction: entropy (how sure the head is of each), or mean."""

    def __post_init__(self) -> None:
        checks.flag("mla.projection", self.projection)
        checks.one_of("mla.weighting", self.weighting, WEIGHTINGS)


MLA = MethodEntry(
    name="mla",
    factory="gradmod.methods.mla:MLA",
    settings=MLASettings,
    summary="lets the modalities take turns in every batch, through one head that they share and that predicts",
    paper="Zhang et al., CVPR 2024",
    cost="each encoder once, as in joint training; a step of the optimizer for every modality",
    mechanism="optimizer, prediction",
    needs=("features", "fusion", "modules"),
    search={"lr": (0.01, 0.003, 0.03)},
)


@dataclass(frozen=True)
class TCMaxSettings(MethodSettings):
    """Settings of TCMax."""

    gathered: bool = False
    """Combine the features of the batch of all processes, in place of each process' own."""

    def __post_init__(self) -> None:
        checks.flag("tcmax.gathered", self.gathered)


TCMAX = MethodEntry(
    name="tcmax",
    factory="gradmod.methods.tcmax:TCMax",
    settings=TCMaxSettings,
    summary="a loss in place of the task's: each sample against all combinations of the batch's features and classes",
    paper="Hu et al., ICLR 2026",
    cost="next to nothing for late and sum fusion; for others B^2 passes through fusion and head",
    mechanism="loss",
    needs=("features",),
    tasks=("classes",),
    search={"lr": (0.01, 0.003, 0.03)},
)


@dataclass(frozen=True)
class MCRSettings(MethodSettings):
    """Settings of MCR."""

    strength: float = 0.1
    """Strength of the game on permuted features; 0: uni-modal losses alone."""
    weight: PerModality = "1"
    """Weight of each modality's own loss: one number, or as in audio=1,visual=0.5."""
    contrastive: float = 0.0
    """Weight of a supervised contrastive loss of all modalities' features, which then must have one size."""
    bottleneck: float = 0.0
    """Weight of a bottleneck: what a decoder cannot say of the features from the joint prediction is a loss."""
    permutations: int = 32
    """Permutations of each modality's features in a step."""

    def __post_init__(self) -> None:
        checks.number("mcr.strength", self.strength, 0)
        checks.by_name("mcr.weight", self.weight, float)
        checks.number("mcr.contrastive", self.contrastive, 0)
        checks.number("mcr.bottleneck", self.bottleneck, 0)
        checks.whole("mcr.permutations", self.permutations, 1)

    def arguments(self) -> dict[str, Any]:
        """The weight as one number, or as numbers by modality."""
        weight = checks.one_or_by_name("mcr.weight", self.weight, float)
        return {**super().arguments(), "weight": weight}

    def without_effect(self) -> dict[str, str]:
        """How many permutations, where there is no game."""
        return {} if self.strength else {"permutations": "to MCR with --strength 0"}


MCR = MethodEntry(
    name="mcr",
    factory="gradmod.methods.mcr:MCR",
    settings=MCRSettings,
    summary="lets every encoder make the prediction depend on its own modality, and less on the others",
    paper="Kontras et al., NeurIPS 2025",
    cost="uni-modal heads, and little more for late and sum fusion; for others fusion and head on 33 M batches",
    mechanism="loss",
    needs=("features", "fusion", "heads", "modules"),
    tasks=("classes",),
    search={"strength": (0.1, 0.01, 1.0)},
)
