"""UMT: each encoder stays near what a mono-modal teacher makes of the same input."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.coalitions.features import as_tensor
from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.other_encoders import features_with
from gradmod.functional import at_least_float32
from gradmod.methods.base import Need
from gradmod.methods.record import StepRecord
from gradmod.methods.teachers import TaughtMethod
from gradmod.methods.view import Batch, View


class UMT(TaughtMethod):
    """Uni-Modal Teacher (Du et al., ICML 2023, arXiv 2305.01233).

        loss = task(logits) + weight * sum over m of  mean( (z^m - teacher's z^m)^2 )

    The teacher of m is an encoder of the same form, trained on m alone and then fixed: in eval mode, without gradient.
    The mean is over all entries of the features of the samples that have m. Where the network does not say how it
    encodes, z^m is the output of what its `feature_modules` or `encoders` name, the network's own with the teachers'
    weights in all encoders.

    Args:
        modalities: names of the inputs; M >= 1.
        weight: of the distillation, >= 0; 0 is joint training, to the last bit.

    Raises:
        ValueError: a weight out of range.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import UMT
        >>> from gradmod.models import LateFusion, MLP
        >>> trained_alone = {"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, UMT(("audio", "visual")))
        >>> model.take_teachers(trained_alone)
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.01)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
    """

    needs_training_step = True

    def __init__(self, modalities: Sequence[str], weight: float = 50.0) -> None:
        super().__init__(modalities)
        if not (math.isfinite(weight) and weight >= 0):
            raise ValueError(f"weight is {weight}; expected a finite number >= 0")
        self.weight = float(weight)
        if self.weight == 0:
            self.needs = self.needs - {Need.TEACHERS}

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"weight={self.weight:g}"

    def _use(self, states: Mapping[str, dict[str, Tensor]]) -> None:
        home = self._home()
        self.store = {
            f"{m}.{name}": tensor.to(home, copy=True)
            for m, state in states.items()
            for name, tensor in state.items()
        }

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and the losses `distillation.<modality>`, weighted."""
        if self.last_step is None:
            self.last_step = StepRecord(torch.ones(len(self.modalities), dtype=torch.float64))
        if self.weight == 0:
            return view.output(batch)
        before = None if torch.compiler.is_compiling() else NetworkState(view.model)
        output, features = view.features(batch)
        teachers = features_with(
            view.model,
            {m: self._encoder(m) for m in self.modalities},
            {m: self._teacher(m) for m in self.modalities},
            batch.inputs,
            self.modalities,
            before,
        )
        losses = {}
        for n, m in enumerate(self.modalities):
            own, taught = (
                at_least_float32(as_tensor(found[m], m)) for found in (features, teachers)
            )
            squared = (own - taught).square()
            if batch.present is None:
                loss = squared.mean()
            else:
                has = batch.present[:, n].to(squared).reshape(-1, *(1,) * (squared.dim() - 1))
                entries = has.sum().clamp(min=1) * squared[0].numel()
                loss = (squared * has).sum() / entries
            losses[f"distillation.{m}"] = self.weight * loss
        return view.with_losses(output, losses)

    def _teacher(self, modality: str) -> dict[str, Tensor]:
        start = f"{modality}."
        names = self._encoder(modality).state_dict()
        return {name: self.store[start + name] for name in names if start + name in self.store}
