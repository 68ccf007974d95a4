"""MCR: a game in which every encoder makes the prediction depend on its own modality, and less on the others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masked_passes import masked_passes
from gradmod.coalitions.masking import map_tensors, tensor_leaves
from gradmod.coalitions.permuted import check_terms, logits_of_permuted
from gradmod.functional import at_least_float32
from gradmod.methods.base import Method, Need
from gradmod.methods.draws import generator_of, process_number
from gradmod.methods.head_losses import record_of_heads, uni_modal_losses
from gradmod.methods.record import StepRecord
from gradmod.methods.uni_modal_losses import Weight, weights_by_modality
from gradmod.methods.view import Batch, View
from gradmod.protocols import declares_own_heads, declares_terms
from gradmod.tasks import Classification, Task

_ROWS_AT_ONCE = 8192
"""Permuted rows that are held at once, or one permutation of the batch."""


class MCR(Method):
    """Multimodal Competition Regularizer (Kontras et al., NeurIPS 2025), without its bottleneck term.

        loss   = task(logits) + sum over m of  weight^m * task(uni-modal head of m)
                 + strength * game + contrastive * supervised contrastive loss of the features
        MIPD^m = mean over permutations of  JSD( softmax f(z), softmax f(z with z^m permuted in the batch) )
        game of encoder m:  - MIPD^m + sum over n != m of MIPD^n

    MIPD^m is how much the prediction depends on modality m: the Jensen-Shannon divergence between the joint prediction
    and the one in which the features of m are those of other samples. Every encoder raises its own and lowers the
    others', with the gradient through its own features alone. Fusion and head get no gradient of the game: the terms
    of two encoders are opposite there, and cancel.

    Encoders run once. Where the network declares its terms (`contribution`: late and sum fusion), those are permuted,
    and cost little. Other networks' fusion and head are called again on permuted features. Both in eval mode (the joint
    prediction that the game compares with too), so that running statistics are not moved and nothing is drawn but the
    permutations. Those are seeded by the step and the process. Features are permuted among the samples that have the
    modality, and MIPD^m is the mean over those.

    Args:
        modalities: names of the inputs; M >= 2.
        strength: of the game, >= 0.
        weight: of each modality's own loss, one number or one by modality (those left out have 1); >= 0. With strength
            and weight 0 this is joint training, to the last bit.
        contrastive: weight of `contrastive_loss` of all modalities' features, >= 0; above 0 it needs features [B, F]
            of one size, and one class a sample.
        permutations: how many are drawn for each modality in a step, >= 1.
        seed: of the permutations.

    Raises:
        ValueError: one modality; a setting out of range.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import MCR
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, MCR(("audio", "visual")))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> model.last_step.ratios.shape  # MIPD of each modality
        torch.Size([2])
    """

    needs = frozenset({Need.FEATURES, Need.FUSION, Need.HEADS, Need.MODULES})
    needs_training_step = True

    def __init__(
        self,
        modalities: Sequence[str],
        strength: float = 0.1,
        weight: Weight = 1.0,
        contrastive: float = 0.0,
        permutations: int = 32,
        seed: int = 0,
    ) -> None:
        super().__init__(modalities)
        if len(self.modalities) < 2:
            raise ValueError(
                f"MCR is a game between modalities, and there is {self.modalities[0]!r} alone; expected two or more"
            )
        for name, value in (("strength", strength), ("contrastive", contrastive)):
            if not (math.isfinite(value) and value >= 0):
                raise ValueError(f"{name} is {value}; expected a finite number >= 0")
        if permutations < 1:
            raise ValueError(f"permutations is {permutations}; expected 1 or more")
        self.strength, self.contrastive = float(strength), float(contrastive)
        self.permutations, self.seed = permutations, seed
        self.weights = weights_by_modality(weight, self.modalities)
        self._steps = 0
        self._is_checked = False
        if not any(self.weights.values()):
            self.needs = self.needs - {Need.HEADS}

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return (
            f"strength={self.strength:g}, weight={self.weights}, contrastive={self.contrastive:g}, "
            f"permutations={self.permutations}"
        )

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: the network as it is.

        Raises:
            ValueError: another task than classification.
        """
        if not isinstance(task, Classification):
            raise ValueError(
                f"MCR compares the probabilities of classes, and the task is {type(task).__name__}; expected "
                "Classification. For labels and numbers take another method, say UniModalLosses"
            )
        return network

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits; and the losses `uni_modal.<modality>`, `game` and `contrastive`, weighted."""
        has_heads = Need.HEADS in self.needs
        if not (self.strength or self.contrastive or has_heads):
            return view.output(batch)
        before = NetworkState(view.model)
        output, features = view.features(batch)
        logits = view.logits_of(output)
        view.task.check(logits, batch.target)
        losses = {}
        record = StepRecord(
            torch.ones(len(self.modalities), dtype=torch.float64),
            left_out_targets=view.task.left_out(batch.target),
        )
        if has_heads:
            net: Any = view.model
            if declares_own_heads(net, self.modalities):
                read = net.mono_logits(features)
            else:
                assert view.heads is not None
                read = view.heads(features, logits)
            found = uni_modal_losses(view.task, read, batch, self.modalities)
            losses = {f"uni_modal.{m}": self.weights[m] * loss for m, loss in found.items()}
            weights = [self.weights[m] for m in self.modalities]
            record = record_of_heads(self, view.task, read, batch, weights)
        if self.strength:
            orders = self._draw(len(batch.target), batch.present)
            with torch.enable_grad(), masked_passes(view.model, before):
                game, dependence = self._play(view, batch, features, orders)
            losses["game"] = self.strength * game
            record = replace(record, ratios=dependence)
        if self.contrastive:
            rows, classes = self._rows(view, batch, features)
            losses["contrastive"] = self.contrastive * contrastive_loss(rows, classes)
        self.last_step = record
        return view.with_losses(output, losses)

    def _rows(self, view: View, batch: Batch, features: Mapping[str, Any]) -> tuple[Tensor, Tensor]:
        """[N, F] all features of all modalities, and [N] their classes; -1 where there is no feature, or no target."""
        for m in self.modalities:
            feature, first = features[m], features[self.modalities[0]]
            if (
                not isinstance(feature, Tensor)
                or feature.dim() != 2
                or feature.shape != first.shape
            ):
                shape = (
                    list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
                )
                raise ValueError(
                    f"contrastive is {self.contrastive:g}, which compares features with each other, and that of {m!r} "
                    f"is {shape}; expected [B, F] of the same size for all. Use contrastive=0"
                )
        if batch.target.dim() != 1:
            raise ValueError(
                f"contrastive is {self.contrastive:g} and targets have the shape {list(batch.target.shape)}; expected "
                "one class a sample, [B]. Use contrastive=0"
            )
        rows = torch.cat([at_least_float32(features[m]) for m in self.modalities])
        counted = self._counted(view, batch, rows.device) > 0
        target = batch.target.to(rows.device).expand(len(self.modalities), -1)
        return rows, torch.where(counted, target, -1).flatten()

    def _play(
        self, view: View, batch: Batch, features: Mapping[str, Any], orders: Tensor
    ) -> tuple[Tensor, Tensor]:
        """The game's loss, whose gradient is in the features, each one's of its own encoder's game; and [M] MIPD.

        The gradients are taken here, permutations of one modality at a time, so that no graph is kept of them.
        """
        inputs: dict[str, list[Tensor]] = {}
        copies: dict[str, Any] = {}
        for m in self.modalities:
            copies[m] = map_tensors(_copied, features[m])
            inputs[m] = [leaf for leaf in tensor_leaves(copies[m]) if leaf.requires_grad]
            _check_rows(m, features[m], orders.shape[-1])
        flat = [leaf for m in self.modalities for leaf in inputs[m]]
        owners = [m for m in self.modalities for _ in inputs[m]]
        slopes = [torch.zeros_like(at_least_float32(leaf)) for leaf in flat]
        has_terms = declares_terms(view.model, self.modalities)
        if has_terms and not self._is_checked:
            check_terms(view.model, copies, orders)
            self._is_checked = True
        weights = self._counted(view, batch, flat[0].device)
        parts = max(1, _ROWS_AT_ONCE // max(orders.shape[-1], 1))
        sums = []
        for n, (moved, some) in enumerate(zip(self.modalities, orders, strict=True)):
            count = (weights[n].sum() * self.permutations).clamp(min=1)
            total = weights.new_zeros(())
            for part in torch.split(some, parts):
                divergence = self._divergence(view, copies, moved, part, has_terms)
                summed = (divergence * weights[n]).sum()
                found = torch.autograd.grad(summed, flat, allow_unused=True)
                total = total + summed.detach()
                for slope, gradient, owner in zip(slopes, found, owners, strict=True):
                    if gradient is not None:
                        slope += (-1 if owner == moved else 1) * gradient.to(slope) / count
            sums.append(total / count)
        dependence = torch.stack(sums)
        value = (len(self.modalities) - 2) * dependence.sum()
        leaves = [
            leaf
            for m in self.modalities
            for leaf in tensor_leaves(features[m])
            if leaf.is_floating_point()
        ]
        carried = torch.stack(
            [(leaf.to(s) * s).sum() for leaf, s in zip(leaves, slopes, strict=True)]
        ).sum()
        return carried - carried.detach() + value, dependence

    def _divergence(
        self, view: View, features: Mapping[str, Any], moved: str, orders: Tensor, has_terms: bool
    ) -> Tensor:
        """[R, B, ...] between the prediction and those of R permutations [R, B] of one modality's features."""
        log = logits_of_permuted(view.model, features, moved, orders, by_terms=has_terms)
        axis = view.task.output_axis
        axis = axis if axis < 0 else axis + 1
        log = log.clamp(min=torch.finfo(log.dtype).min / 4).log_softmax(axis)
        return jensen_shannon(log[:1], log[1:], axis)

    def _counted(self, view: View, batch: Batch, device: torch.device) -> Tensor:
        """[M, B, ...] 1 where a sample has the modality, and a target."""
        scored = view.task.weights(batch.target)
        assert scored is not None  # of classes
        counted = scored.to(device).to(torch.float32)
        if batch.present is None:
            return counted.expand(len(self.modalities), *counted.shape)
        present = batch.present.T.to(counted)
        return counted * present.reshape(*present.shape, *(1,) * (counted.dim() - 1))

    def _draw(self, samples: int, present: Tensor | None) -> Tensor:
        """[M, R, B] on the CPU, which sample's feature each sample gets; its own where it lacks the modality."""
        generator = generator_of(self.seed, self._steps, process_number())
        self._steps += 1
        table = None if present is None else present.cpu()
        orders = {}
        for m in sorted(self.modalities):  # the order in which they are named makes no difference
            column = None if table is None else table[:, self.modalities.index(m)]
            rows = torch.arange(samples) if column is None else column.nonzero().squeeze(1)
            draws = torch.rand(
                self.permutations, len(rows), generator=generator, dtype=torch.float64
            )
            order = torch.arange(samples).repeat(self.permutations, 1)
            order[:, rows] = rows[draws.argsort(1)]
            orders[m] = order
        return torch.stack([orders[m] for m in self.modalities])

    def memory(self) -> dict[str, Any]:
        """Steps so far, which seed the permutations."""
        return {"steps": self._steps}

    def set_memory(self, memory: Mapping[str, Any]) -> None:
        """See `Method.set_memory`."""
        self._steps = int(memory["steps"])


def jensen_shannon(log_p: Tensor, log_q: Tensor, axis: int = -1) -> Tensor:
    """Jensen-Shannon divergence of two distributions, given as logarithms; from 0 to log 2."""
    mean = torch.logaddexp(log_p, log_q) - math.log(2)
    return 0.5 * (log_p.exp() * (log_p - mean) + log_q.exp() * (log_q - mean)).sum(axis)


def contrastive_loss(rows: Tensor, classes: Tensor, temperature: float = 0.5) -> Tensor:
    """Supervised contrastive loss (NT-Xent), the mean over all ordered pairs of two rows of the same class.

        - log( exp(s_ap) / (exp(s_ap) + sum over rows n of other classes of exp(s_an)) ),   s = cosine / temperature

    Args:
        rows: [N, F].
        classes: [N]; below 0: the row is left out.
        temperature: of the cosines; 0.5 in the published code.

    Returns:
        Scalar; 0 where there is no such pair.
    """
    unit = torch.nn.functional.normalize(rows, dim=1)
    similar = unit @ unit.T / temperature
    known = (classes >= 0) & (classes >= 0)[:, None]
    same = classes == classes[:, None]
    others = similar.masked_fill(~(known & ~same), torch.finfo(similar.dtype).min / 4)
    terms = torch.nn.functional.softplus(others.logsumexp(1, keepdim=True) - similar)
    pairs = known & same & ~torch.eye(len(rows), dtype=torch.bool, device=rows.device)
    return torch.where(pairs, terms, 0.0).sum() / pairs.sum().clamp(min=1)


def _copied(leaf: Tensor) -> Tensor:
    return leaf.detach().requires_grad_() if leaf.is_floating_point() else leaf


def _check_rows(modality: str, feature: Any, samples: int) -> None:
    """Raise ValueError unless the feature has a row for each sample."""
    for leaf in tensor_leaves(feature):
        if leaf.dim() == 0 or len(leaf) != samples:
            raise ValueError(
                f"MCR permutes features, but that of {modality!r} holds a tensor {list(leaf.shape)} for {samples} "
                "samples; expected the samples on the first axis"
            )
