"""Which strategies can evaluate a model's coalitions, the cheapest first."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from torch import nn

from gradmod.coalitions.passes import Batched, Looped
from gradmod.coalitions.reuse import AdditiveHead, EncoderReuse
from gradmod.coalitions.strategy import Strategy
from gradmod.functional import MAX_ENUMERATED_MODALITIES
from gradmod.protocols import declares_encoding, declares_terms

STRATEGIES = ("auto", "looped", "batched", "reuse", "additive", "shared")


def choose_strategy(
    model: nn.Module,
    modalities: Sequence[str],
    name: str = "auto",
    batch_axes: Mapping[str, int] | None = None,
) -> Strategy:
    """The strategy of that name, or the cheapest exact one that the model's declarations allow.

    Args:
        model: the network.
        modalities: its modalities.
        name: `looped` and `batched` take any model; `reuse` one that declares `Encodes`; `additive` one that declares
            `Additive`; `shared`, an approximation, takes either and is never chosen by `auto`.
        batch_axes: see `Strategy`.

    Raises:
        ValueError: see `possible_strategies`.
    """
    return possible_strategies(model, modalities, name, batch_axes)[0]


def possible_strategies(
    model: nn.Module,
    modalities: Sequence[str],
    name: str = "auto",
    batch_axes: Mapping[str, int] | None = None,
) -> list[Strategy]:
    """What may evaluate the model's coalitions, the cheapest first: for a strategy's name it alone.

    Raises:
        ValueError: unknown name, a model that does not declare what the strategy needs, or more than 10 modalities
            where coalitions have to be enumerated.
    """
    if name not in STRATEGIES:
        raise ValueError(f"coalitions is {name!r}; expected one of {', '.join(STRATEGIES)}")
    axes = {key: axis for key, axis in (batch_axes or {}).items() if axis}
    encodes, additive = declares_encoding(model, modalities), declares_terms(model, modalities)
    if (name in ("reuse", "shared") and not encodes) or (name == "additive" and not additive):
        needed = "encoders, encode, fuse, head" + (
            " and contribution" if name == "additive" else ""
        )
        raise ValueError(
            f"coalitions is {name!r}, but {type(model).__name__} does not declare {needed} (see "
            "gradmod.protocols); use 'auto', or 'batched' or 'looped', which take any model"
        )
    if axes and name in ("reuse", "additive", "shared"):
        raise ValueError(
            f"coalitions is {name!r} and batch_axis is {axes}; features are expected to have their samples on axis 0. "
            "Use coalitions='batched' or 'looped'"
        )
    found: list[Strategy] = []
    if name == "shared":
        found = [
            AdditiveHead(share_train_pass=True) if additive else EncoderReuse(share_train_pass=True)
        ]
    elif name == "auto" and not axes:
        found = [*([AdditiveHead()] if additive else []), *([EncoderReuse()] if encodes else [])]
    elif name in ("reuse", "additive"):
        found = [AdditiveHead() if name == "additive" else EncoderReuse()]
    if name in ("auto", "batched"):
        found.append(Batched(axes, falls_back=name == "auto"))
    if name in ("auto", "looped"):
        found.append(Looped(axes))
    if len(modalities) > MAX_ENUMERATED_MODALITIES:
        found = [strategy for strategy in found if isinstance(strategy, AdditiveHead)]
    if not found:
        raise ValueError(
            f"{len(modalities)} modalities have {1 << len(modalities)} coalitions; at most "
            f"{MAX_ENUMERATED_MODALITIES} modalities are enumerated. Use a model with an additive head (late or sum "
            "fusion)"
        )
    return found
