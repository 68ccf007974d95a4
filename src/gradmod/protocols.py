"""What gradmod knows of a model: what it returns, and what it may declare so that coalitions cost less.

A network of somebody else may have attributes of the same names that mean something else: `encoders` that are a list of
blocks, `heads` that is a number, `mask` that is a parameter. What does not have the form of a declaration is none.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from functools import lru_cache
from typing import Any, Literal, NamedTuple, Protocol, runtime_checkable

import torch
from torch import Tensor, nn


class Output(NamedTuple):
    """Logits together with losses of the model's own; a tuple, so that DDP and Fabric can look into it.

    Attributes:
        logits: [..., K], what is modulated.
        losses: scalars by name, added to the task's loss as they are. What of them goes through the logits is modulated
            as any loss of theirs is; the masked passes' losses are not used.
    """

    logits: Tensor
    losses: Mapping[str, Tensor] = {}


def read_output(model: nn.Module, output: Any) -> Output:
    """Logits and losses of what `model` returned.

    Raises:
        TypeError: it returned something else; losses without names.
        ValueError: the logits have fewer than two axes.
    """
    logits = logits_of(model, output)
    losses = output.losses if isinstance(output, Output) else {}
    if not isinstance(losses, Mapping):
        raise TypeError(
            f"the model returned Output with losses of type {type(losses).__name__}; expected them by name: "
            'Output(logits, {"name": loss})'
        )
    return Output(logits, losses)


def logits_of(model: nn.Module, output: Any) -> Tensor:
    """The logits in what `model` returned.

    Where it returned a tensor in which `logits=` finds none, that tensor: many a network returns logits with something
    beside them in train mode, and logits alone in eval mode.

    Args:
        model: the network; one made by `adapt(..., logits=)` says where they are.
        output: what it returned.

    Raises:
        TypeError: there are none.
        ValueError: they have fewer than two axes.
    """
    select = getattr(model, "select_logits", None)
    if not callable(select):
        logits = output.logits if isinstance(output, Output) else output
        if not isinstance(logits, Tensor):
            raise TypeError(
                f"the model returned {type(output).__name__}; expected a logits tensor [..., K] or "
                "gradmod.Output(logits, losses). Say where the logits are: gradmod.adapt(net, logits=lambda out: "
                "out.logits), which hands the model's own output back"
            )
        return _checked(logits)
    try:
        logits = select(output)
    except (AttributeError, IndexError, KeyError, TypeError):
        if not isinstance(output, Tensor):
            raise
        logits = output
    if isinstance(output, Tensor) and isinstance(logits, Tensor) and logits.dim() < 2:
        # `out[0]` of a network that returns (logits, auxiliary) in train mode alone.
        logits = output
    if not isinstance(logits, Tensor):
        raise TypeError(
            f"logits= gives {type(logits).__name__} of what the model returned; expected a tensor [..., K]"
        )
    return _checked(logits)


def _checked(logits: Tensor) -> Tensor:
    if logits.dim() < 2:
        raise ValueError(
            f"the model returned logits of shape {list(logits.shape)}; expected [B, ..., K], the batch first and "
            "the outputs last. For one output a sample: logits.unsqueeze(-1)"
        )
    return logits


@runtime_checkable
class Encodes(Protocol):
    """A model that says how it encodes each modality and fuses the features.

    Its `forward(inputs)` must equal `head(fuse({m: encode(m, inputs[m]) for every modality m}))`, and `encode(m, x)`
    must run no module but `encoders[m]`. The check of the first step finds out whether that is so.
    """

    encoders: Mapping[str, nn.Module]

    def encode(self, modality: str, x: Any) -> Any:
        """Features [B, ...] of one modality's input: a tensor, or nested tensors."""

    def fuse(self, features: Mapping[str, Any]) -> Tensor:
        """Joint feature [B, ...], what the head reads."""

    def head(self, joint: Tensor) -> Tensor:
        """Logits [B, ..., K] of a joint feature."""


@runtime_checkable
class Additive(Encodes, Protocol):
    """A model whose logits are a sum: a term for each modality, and a constant."""

    def contribution(self, modality: str, feature: Any) -> Tensor:
        """Term [B, ..., K] of one modality. A bias that belongs to no modality is left out."""


@runtime_checkable
class HasOwnHeads(Encodes, Protocol):
    """A model in which every modality has a head of its own, and so makes predictions of its own."""

    def mono_logits(self, features: Mapping[str, Any]) -> Tensor:
        """[M, B, ..., K] each modality's own logits, in the order of `features`."""


@runtime_checkable
class DefinesMask(Protocol):
    """A model that says what a hidden modality looks like; without it, a floating tensor of zeros."""

    def mask(self, modality: str, x: Any) -> Any:
        """The masked input, of the same structure and batch size as `x`."""


def declared_modules(
    model: nn.Module, name: str, modalities: Sequence[str]
) -> Mapping[str, nn.Module] | None:
    """The modules by modality that `model` declares under `name` (`encoders`, `heads`); None where it declares none.

    A mapping of modules that names none of the modalities means something else, as do a list and a number.
    """
    found = getattr(model, name, None)
    if isinstance(found, nn.ModuleDict):
        found = dict(found.items())
    if not isinstance(found, Mapping) or not all(
        isinstance(module, nn.Module) for module in found.values()
    ):
        return None
    return found if any(m in found for m in modalities) else None


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
                raise ValueError(
                    f"{kind}s name {modality!r}, which has no encoder; the encoders are {list(encoders)}"
                )
            if shared == "parameters" or (
                shared == "modules" and kind == "encoder" and id(module) in counted
            ):
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
    return {
        m: (encoders[m], heads[m]) if heads and m in heads else (encoders[m],) for m in modalities
    }


def declares_encoding(model: nn.Module, modalities: Sequence[str]) -> bool:
    """Whether `model` has the form of `Encodes` for these modalities."""
    encoders = declared_modules(model, "encoders", modalities)
    return (
        encoders is not None
        and all(m in encoders for m in modalities)
        and _takes(getattr(model, "encode", None), 2)
        and _takes(getattr(model, "fuse", None), 1)
        and _takes(getattr(model, "head", None), 1)
    )


def declares_terms(model: nn.Module, modalities: Sequence[str]) -> bool:
    """Whether `model` has the form of `Additive` for these modalities."""
    return declares_encoding(model, modalities) and _takes(getattr(model, "contribution", None), 2)


def declares_own_heads(model: nn.Module, modalities: Sequence[str]) -> bool:
    """Whether `model` has the form of `HasOwnHeads` for these modalities."""
    return declares_encoding(model, modalities) and _takes(getattr(model, "mono_logits", None), 1)


def declared_mask(model: nn.Module) -> Callable[[str, Any], Any] | None:
    """The model's `mask(modality, x)`; None where it has none, or something else of that name."""
    own = getattr(model, "mask", None)
    if own is None or isinstance(own, (nn.Module, Tensor)) or not callable(own):
        return None
    # A signature cannot be looked at in a compiled step.
    return own if torch.compiler.is_compiling() or _takes(own, 2) else None


def _takes(function: Any, count: int) -> bool:
    """Whether `function` can be called with `count` positional arguments; a module takes one input."""
    if isinstance(function, nn.Module):
        return count == 1
    if not callable(function):
        return False
    bound = inspect.ismethod(function)
    return _accepts(function.__func__ if bound else function, count + bound)


@lru_cache(maxsize=256)
def _accepts(function: Callable[..., Any], count: int) -> bool:
    try:
        inspect.signature(function).bind(*range(count))
    except TypeError:
        return False
    except ValueError:  # a builtin without a signature
        return True
    return True
