"""A network of the user's own: its function is called, and what it returns is tried on two samples before training."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import nn

from gradmod.experiments.datasets.split import Split
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.import_strings import load_object, place_of
from gradmod.experiments.own_code import call_of, running
from gradmod.protocols import logits_of

TRIED_SAMPLES = 2


def load_network(where: str, train: Split, outputs: int) -> nn.Module:
    """Call the user's function `make(shapes, outputs)`, and try the network that it returns.

    Args:
        where: "folder/file.py:function".
        train: what it is to be trained on; `shapes` are those of one sample of each of its inputs, by name.
        outputs: how many logits a sample has.

    Raises:
        ConfigError: the function takes other arguments, returns no network, or one with other outputs.
        DataError: its code fails; names the line.
    """
    function = load_object(where)
    place = place_of(function, where)
    shapes = {name: tuple(shape) for name, shape in train.shapes.items()}
    arguments = {"shapes": shapes, "outputs": outputs}
    call = call_of(function, place, where, arguments, "make(shapes, outputs)")
    with running(where, place):
        network = call()
    if not isinstance(network, nn.Module):
        hint = ": does it lack its return?" if network is None else ""
        raise ConfigError(
            f"{place}: {where} returned {type(network).__name__}; expected a torch.nn.Module that takes a dict of the "
            f"inputs {', '.join(shapes)} and returns logits{hint}"
        )
    _try(network, train, outputs, where, place)
    return network


def _try(network: nn.Module, train: Split, outputs: int, where: str, place: str) -> None:
    """Run it once, as it is evaluated; weights that are made at the first call are then there for the optimizer."""
    sample, _ = train.read(np.arange(min(TRIED_SAMPLES, len(train))))
    count = min(TRIED_SAMPLES, len(train))
    mode = network.training
    with running(where, place), torch.no_grad(), torch.random.fork_rng(devices=[]):
        answer = network.eval()(_copied(sample))
    network.train(mode)
    try:
        logits = logits_of(network, answer)
    except (TypeError, ValueError) as error:
        raise ConfigError(f"{place}: {where}: {error}") from None
    if logits.shape[0] != count or logits.shape[-1] != outputs:
        raise ConfigError(
            f"{place}: the network of {where} answers {count} samples with logits of the shape {list(logits.shape)}; "
            f"expected [{count}, {outputs}], {outputs} being the number of outputs that it is given"
        )


def _copied(inputs: Mapping[str, Any]) -> dict[str, Any]:
    """Containers of its own, in case the network changes them."""
    return {
        name: dict(value) if isinstance(value, Mapping) else value for name, value in inputs.items()
    }
