"""The methods by name, as import strings: naming them imports no torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gradmod.errors import ConfigError
from gradmod.imports import named

if TYPE_CHECKING:
    from gradmod.methods.base import Method


@dataclass(frozen=True)
class MethodInfo:
    """What `gradmod list` says of a method.

    Attributes:
        name: on the command line.
        factory: "module:Class"; None for a method of a later release.
        summary: one line.
        paper: where it is from.
        settings: the settings of [method] that it takes.
    """

    name: str
    factory: str | None
    summary: str
    paper: str
    settings: tuple[str, ...] = ()


METHODS = {
    info.name: info
    for info in (
        MethodInfo("joint", "gradmod.methods.joint:Joint", "plain joint training, the baseline", "-"),
        MethodInfo(
            "agm",
            "gradmod.methods.agm:AGM",
            "scales the gradient through each modality's Shapley response",
            "Li et al., ICCV 2023",
            ("alpha", "cap", "epochs"),
        ),
        MethodInfo("ogm-ge", None, "scales the gradients of the leading modality's encoder", "Peng et al., CVPR 2022"),
        MethodInfo("mslr", None, "a learning rate for each modality", "Yao and Mihalcea, 2022"),
        MethodInfo("mses", None, "stops each modality at its own best epoch", "Fujimori et al., 2019"),
    )
}


def method_class(name: str) -> type[Method]:
    """Class of the method called `name`.

    Raises:
        ConfigError: there is none, or not yet.
    """
    info = METHODS.get(name)
    if info is None or info.factory is None:
        ready = ", ".join(other.name for other in METHODS.values() if other.factory)
        state = "is unknown" if info is None else "comes in a later release"
        raise ConfigError(f"the method {name!r} {state}; choose one of {ready}")
    found: type[Method] = named(info.factory)
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
