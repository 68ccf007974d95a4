"""Which modules belong to which modality."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal

from torch import nn


def check_modality_modules(
    encoders: Mapping[str, nn.Module],
    modalities: Sequence[str],
    heads: Mapping[str, nn.Module] | None = None,
    *,
    shared: Literal["no", "modules", "parameters"] = "no",
) -> None:
    """Check that every modality has an encoder and that no parameter belongs to two modalities, or twice to one.

    Args:
        encoders: a module for each modality.
        modalities: their names.
        heads: where there are any, the modules that read one modality alone.
        shared: what several modalities may have in common: nothing; one and the same module as their encoder; or any
            parameters.

    Raises:
        ValueError: a modality without encoder, an encoder or head of no modality, or a parameter claimed twice.
    """
    missing = [m for m in modalities if m not in encoders]
    if missing:
        raise ValueError(
            f"no encoder for {', '.join(map(repr, missing))}: encoders are given for {list(encoders)}, the method's "
            f"modalities are {list(modalities)}. Name a module for each"
        )
    owners: dict[int, str] = {}
    counted: set[int] = set()
    for kind, modules in (("encoder", encoders), ("head", heads or {})):
        for modality, module in modules.items():
            if modality not in encoders:
                raise ValueError(f"{kind}s name {modality!r}, which has no encoder; the encoders are {list(encoders)}")
            if shared == "parameters" or (shared == "modules" and kind == "encoder" and id(module) in counted):
                continue
            counted.add(id(module))
            owner = f"the {kind} of {modality!r}"
            for name, parameter in module.named_parameters():
                other = owners.setdefault(id(parameter), owner)
                if other != owner:
                    raise ValueError(
                        f"parameter {name!r} of {owner} also belongs to {other}; expected every parameter in one "
                        "place: give shared modules to no modality"
                    )


def modality_modules(
    encoders: Mapping[str, nn.Module] | None,
    modalities: Sequence[str],
    heads: Mapping[str, nn.Module] | None = None,
    *,
    apart: bool = True,
) -> dict[str, tuple[nn.Module, ...]]:
    """The modules of each modality: its encoder, and its own head where it has one; none where no encoders are named.

    Args:
        encoders: a module for each modality.
        modalities: their names.
        heads: where there are any, the modules that read one modality alone.
        apart: whether every parameter must belong to one modality alone.

    Raises:
        ValueError: see `check_modality_modules`.
    """
    if encoders is None:
        return {}
    check_modality_modules(encoders, modalities, heads, shared="no" if apart else "parameters")
    return {m: (encoders[m], heads[m]) if heads and m in heads else (encoders[m],) for m in modalities}
