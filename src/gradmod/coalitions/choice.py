"""Which strategy evaluates a model's coalitions."""

from __future__ import annotations

from collections.abc import Sequence

from torch import nn

from gradmod.coalitions.passes import Batched, Looped
from gradmod.coalitions.protocols import Additive, Encodes
from gradmod.coalitions.reuse import AdditiveHead, EncoderReuse
from gradmod.coalitions.strategy import Strategy
from gradmod.functional import MAX_ENUMERATED_MODALITIES

STRATEGIES = ("auto", "looped", "batched", "reuse", "additive", "shared")


def choose_strategy(model: nn.Module, modalities: Sequence[str], name: str = "auto") -> Strategy:
    """The strategy of that name, or the cheapest exact one that the model allows.

    Args:
        model: the network.
        modalities: its modalities.
        name: `looped` and `batched` take any model; `reuse` one that declares `Encodes`; `additive` one that declares
            `Additive`; `shared`, an approximation, takes either and is never chosen by `auto`.

    Raises:
        ValueError: unknown name, a model that does not declare what the strategy needs, or more than 10 modalities
            where coalitions have to be enumerated.
    """
    if name not in STRATEGIES:
        raise ValueError(f"coalitions is {name!r}; expected one of {', '.join(STRATEGIES)}")
    encodes, additive = isinstance(model, Encodes), isinstance(model, Additive)
    if name == "auto":
        name = "additive" if additive else "reuse" if encodes else "batched"
    if (name in ("reuse", "shared") and not encodes) or (name == "additive" and not additive):
        needed = "encoders, encode, fuse, head" + (" and contribution" if name == "additive" else "")
        raise ValueError(
            f"coalitions is {name!r}, but {type(model).__name__} does not declare {needed} (see "
            "gradmod.coalitions.protocols); use 'auto', or 'batched' or 'looped', which take any model"
        )
    enumerated = not (name == "additive" or (name == "shared" and additive))
    if enumerated and len(modalities) > MAX_ENUMERATED_MODALITIES:
        raise ValueError(
            f"{len(modalities)} modalities have {1 << len(modalities)} coalitions; at most "
            f"{MAX_ENUMERATED_MODALITIES} modalities are enumerated. Use a model with an additive head (late or sum "
            "fusion)"
        )
    if name == "looped":
        return Looped()
    if name == "batched":
        return Batched()
    shared = name == "shared"
    return AdditiveHead(shared) if name == "additive" or (shared and additive) else EncoderReuse(shared)
