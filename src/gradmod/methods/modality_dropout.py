"""Modality dropout: in training, samples are shown some of their modalities."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from gradmod.coalitions.presence import hide_absent
from gradmod.methods.base import Method, Need
from gradmod.methods.draws import generator_of, process_number
from gradmod.methods.record import StepRecord
from gradmod.methods.view import Batch, View

Probability = float | Mapping[str, float]


class ModalityDropout(Method):
    """Modality dropout (after ModDrop: Neverova et al., TPAMI 2016, arXiv 1501.00102).

    In every training step each modality of each sample is hidden with probability p^m, by itself; a draw that would
    hide all that a sample has is made again. A hidden modality looks as the network says (`mask`, else zeros), to its
    encoder too. Evaluation sees everything.

    Args:
        modalities: names of the inputs; M >= 1. With one modality it is joint training.
        p: probability of hiding a modality, one number or one by modality (those left out have 0); from 0 on and
            below 1. 0 is joint training, to the last bit.
        by_batch: one draw for the whole batch, in place of one for each sample.
        rescale: multiply the feature of a modality that is shown by 1 over the probability that it is, as dropout does:
            (1 - p^1 p^2 ... p^M) / (1 - p^m). Needs a network that says which modules encode.
        seed: of the draws.

    Raises:
        ValueError: a probability out of range, or of no modality.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import ModalityDropout
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, ModalityDropout(("audio", "visual"), p=0.5))
        >>> logits = model({"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}, torch.zeros(5).long())
        >>> model.last_step.coefficients.shape  # the share of the samples that saw each modality
        torch.Size([2])
    """

    def __init__(
        self,
        modalities: Sequence[str],
        p: Probability = 0.3,
        by_batch: bool = False,
        rescale: bool = False,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities)
        given = dict(p) if isinstance(p, Mapping) else dict.fromkeys(self.modalities, p)
        unknown = [m for m in given if m not in self.modalities]
        if unknown:
            raise ValueError(
                f"p names {', '.join(map(repr, unknown))}; the modalities are {list(self.modalities)}"
            )
        wrong = {m: value for m, value in given.items() if not 0 <= value < 1}
        if wrong:
            raise ValueError(f"p is {wrong}; expected probabilities from 0 on and below 1")
        self.p = {m: float(given.get(m, 0.0)) for m in self.modalities}
        self.by_batch, self.rescale, self.seed = by_batch, rescale, seed
        self._steps = 0
        if rescale:
            self.needs = frozenset({Need.FEATURES})

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"p={self.p}, by_batch={self.by_batch}, rescale={self.rescale}"

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's output on what the batch is shown."""
        if not any(self.p.values()) or len(self.modalities) == 1:
            return view.output(batch)
        shown = self._draw(len(batch.target), batch.present).to(batch.target.device)
        self.last_step = StepRecord(shown.double().mean(0))
        columns = {m: shown[:, n] for n, m in enumerate(self.modalities) if self.p[m]}
        axes = view.strategy.batch_axes
        seen = Batch(hide_absent(view.model, batch.inputs, columns, axes), batch.target)
        if not self.rescale:
            return view.output(seen)
        return view.features(seen, change=self._scaled(shown)).output

    def _draw(self, samples: int, present: Tensor | None) -> Tensor:
        """[B, M] bool on the CPU, what each sample is shown: of what it has something, where it has anything."""
        generator = generator_of(self.seed, self._steps, process_number())
        self._steps += 1
        # So that the order in which they are named makes no difference.
        names = sorted(self.modalities)
        order = [names.index(m) for m in self.modalities]
        hidden = torch.tensor([self.p[m] for m in names])
        has = torch.ones(samples, len(hidden), dtype=torch.bool)
        if present is not None:
            has = present.cpu()
        rows = 1 if self.by_batch else samples

        def drawn() -> Tensor:
            keep = torch.rand(rows, len(hidden), generator=generator) >= hidden
            return keep[:, order].expand_as(has)

        shown = drawn() & has
        empty = has.any(1) & ~shown.any(1)
        while empty.any():
            shown = torch.where(empty[:, None], drawn() & has, shown)
            empty = has.any(1) & ~shown.any(1)
        return shown

    def _scaled(self, shown: Tensor) -> Any:
        nothing = math.prod(self.p.values())

        def change(modality: str, feature: Any) -> Any:
            if not isinstance(feature, Tensor) or len(feature) != len(shown):
                raise ValueError(
                    f"rescale multiplies features, and that of {modality!r} is no tensor [B, ...] of {len(shown)} "
                    "samples; use rescale=False"
                )
            factor = (1 - nothing) / (1 - self.p[modality])
            column = shown[:, self.modalities.index(modality)]
            factors = torch.where(column, factor, 1.0).to(feature.dtype)
            return feature * factors.reshape(-1, *(1,) * (feature.dim() - 1))

        return change

    def memory(self) -> dict[str, Any]:
        """Steps so far, which seed the draws."""
        return {"steps": self._steps}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._steps = int(memory["steps"])
