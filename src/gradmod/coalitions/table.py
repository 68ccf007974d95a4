"""What a model says on every coalition, the empty one included: for looking at a trained model, not for training it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import check_inputs, mask
from gradmod.coalitions.no_gradient import without_gradient
from gradmod.coalitions.protocols import Encodes, split_output
from gradmod.functional import MAX_ENUMERATED_MODALITIES


@without_gradient()
def coalition_logits(model: nn.Module, inputs: Mapping[str, Any], modalities: Sequence[str]) -> Tensor:
    """Logits of every coalition in the model's present mode, without gradient.

    A model that says how it encodes runs each encoder on what is shown and on what is masked once, and only the fusion
    and the head for each coalition; any other model is called 2^M times.

    Args:
        model: the network.
        inputs: the batch, by modality. Keys that are no modality are shown in every coalition.
        modalities: the players.

    Returns:
        [2^M, B, ..., K]; row i is the coalition whose members are the bits set in i, as in
        `gradmod.functional.shapley_values`.

    Raises:
        ValueError: inputs without one of the modalities; more than 10 modalities.
    """
    check_inputs(inputs, modalities)
    if len(modalities) > MAX_ENUMERATED_MODALITIES:
        raise ValueError(
            f"{len(modalities)} modalities have {1 << len(modalities)} coalitions; at most {MAX_ENUMERATED_MODALITIES} "
            "modalities are enumerated"
        )
    hidden = {m: mask(model, m, inputs[m]) for m in modalities}
    shown_at = [{m: bool(code >> bit & 1) for bit, m in enumerate(modalities)} for code in range(1 << len(modalities))]
    if isinstance(model, Encodes):
        encoded = {m: (model.encode(m, hidden[m]), model.encode(m, inputs[m])) for m in modalities}
        rows = [model.head(model.fuse({m: encoded[m][shown[m]] for m in modalities})) for shown in shown_at]
    else:
        rows = [
            split_output(model({**inputs, **{m: hidden[m] for m in modalities if not shown[m]}}))[0]
            for shown in shown_at
        ]
    return torch.stack(rows)
