"""The methods that begin with mono-modal models, or learn from them: settings and entry of each."""

from __future__ import annotations

from dataclasses import dataclass

from gradmod.experiments import checks
from gradmod.experiments.methods.entry import MethodEntry, MethodSettings


@dataclass(frozen=True)
class PretrainedSettings(MethodSettings):
    """Settings of mono-modal pre-training."""

    encoder_lr: float = 1.0
    """What the learning rate is multiplied by for the encoders; 0 freezes them."""

    def __post_init__(self) -> None:
        checks.number("pretrained.encoder_lr", self.encoder_lr, 0)


PRETRAINED = MethodEntry(
    name="pretrained",
    factory="gradmod.methods.pretrained:Pretrained",
    settings=PretrainedSettings,
    summary="begins with encoders that were trained on one modality alone; they are trained on, or frozen",
    paper="",
    cost="a mono-modal run for each modality before, once for all runs of the same settings; then nothing",
    mechanism="schedule",
    needs=("features", "modules", "teachers"),
    search={"encoder_lr": (1.0, 0.1, 0.0)},
)


@dataclass(frozen=True)
class UMTSettings(MethodSettings):
    """Settings of UMT."""

    weight: float = 50.0
    """Weight of the distance between an encoder's features and its teacher's; 0 is joint training."""

    def __post_init__(self) -> None:
        checks.number("umt.weight", self.weight, 0)


UMT = MethodEntry(
    name="umt",
    factory="gradmod.methods.umt:UMT",
    settings=UMTSettings,
    summary="keeps each encoder's features near those of a teacher that was trained on its modality alone",
    paper="Du et al., ICML 2023",
    cost="a mono-modal run for each modality before, as for pretrained; each encoder once more, without gradient",
    mechanism="loss",
    needs=("features", "modules", "teachers"),
    search={"weight": (50.0, 10.0, 1.0)},
)
