"""The methods by name, as import strings: naming them imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradmod.experiments.errors import ConfigError, did_you_mean
from gradmod.experiments.import_strings import load_object

if TYPE_CHECKING:
    from gradmod.methods.base import Method


@dataclass(frozen=True)
class MethodInfo:
    """What `gradmod list` says of a method.

    Attributes:
        name: on the command line.
        factory: "module:Class".
        summary: one line.
        paper: where it is from.
        cost: what a step costs beside that of joint training.
        settings: the arguments that it takes.
    """

    name: str
    factory: str
    summary: str
    paper: str
    cost: str
    settings: tuple[str, ...] = ()


METHODS = {
    info.name: info
    for info in (
        MethodInfo(
            "joint", "gradmod.methods.joint:Joint", "plain joint training, the baseline", "-", "-"
        ),
        MethodInfo(
            "agm",
            "gradmod.methods.agm:AGM",
            "scales the gradient through each modality's Shapley response",
            "Li et al., ICCV 2023",
            "masked passes with gradient: 1.0 to 2.1 times a joint step with late or early fusion",
            ("alpha", "cap", "epochs"),
        ),
        MethodInfo(
            "ogm-ge",
            "gradmod.methods.ogm_ge:OGMGE",
            "scales down the gradients of the leading modality's encoder",
            "Peng et al., CVPR 2022",
            "masked passes without gradient (none where modalities have heads of their own), and the noise",
            ("alpha", "noise", "filter", "epochs", "seed"),
        ),
        MethodInfo(
            "mslr",
            "gradmod.methods.mslr:MSLR",
            "a learning rate for each modality",
            "Yao and Mihalcea, 2022",
            "nothing",
            ("initial", "rule", "window"),
        ),
        MethodInfo(
            "mses",
            "gradmod.methods.mses:MSES",
            "stops each modality at its own best epoch",
            "Fujimori et al., 2019",
            "nothing in time; a copy of each modality's best weights",
            ("patience", "smoothing"),
        ),
        MethodInfo(
            "uni-modal-losses",
            "gradmod.methods.uni_modal_losses:UniModalLosses",
            "a loss for each modality beside the joint one",
            "no single one (multi-loss)",
            "uni-modal heads: next to nothing",
            ("weight",),
        ),
        MethodInfo(
            "mmpareto",
            "gradmod.methods.mmpareto:MMPareto",
            "joins each encoder's gradients of the joint and of its own loss so that both fall",
            "Wei and Hu, ICML 2024",
            "a second backward pass, and uni-modal heads",
            ("gamma",),
        ),
    )
}
FLAGS = {
    "epochs": ("modulation_starts", "modulation_ends"),
    "filter": ("ogm_filter",),
    "initial": ("lr_factors",),
    "rule": ("lr_rule",),
    "window": ("lr_window",),
    "seed": (),
    "weight": ("uni_modal_weight",),
}
"""Settings of [method] that an argument is made of, where they are not called like it."""


def flags_of(name: str) -> tuple[str, ...]:
    """The settings of [method] that the method called `name` looks at."""
    return tuple(
        flag for argument in METHODS[name].settings for flag in FLAGS.get(argument, (argument,))
    )


def method_class(name: str) -> type[Method]:
    """Class of the method called `name`.

    Raises:
        ConfigError: there is none.
    """
    info = METHODS.get(name)
    if info is None:
        raise ConfigError(
            f"the method {name!r} is unknown; choose one of {', '.join(METHODS)}{did_you_mean(name, METHODS)}"
        )
    found: type[Method] = load_object(info.factory)
    return found


def build_method(name: str, modalities: Sequence[str], **settings: object) -> Method:
    """Make the method called `name`, giving it those of the `settings` that it takes (see `MethodInfo.settings`).

    Raises:
        ConfigError: no such method, or it refuses a setting.
    """
    kind = method_class(name)
    try:
        return kind(modalities, **{key: settings[key] for key in METHODS[name].settings})
    except ValueError as error:
        raise ConfigError(str(error)) from None
