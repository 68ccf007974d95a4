"""TCMax: a loss of the joint logits whose negatives are all combinations of the batch's features and classes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradmod.coalitions.kept_state import NetworkState, is_batch_norm, kept_state
from gradmod.coalitions.recomputation import held_through_recomputation
from gradmod.functional import at_least_float32
from gradmod.methods.base import Method, Need
from gradmod.methods.record import StepRecord
from gradmod.methods.view import Batch, View
from gradmod.protocols import declares_terms, logits_of
from gradmod.tasks import Classification, Task

_PAIRS_AT_ONCE = 4096
"""More pairs than this are computed in parts, and again in the backward, so that only one part is held."""


class TCMax(Method):
    """TCMax, total correlation maximization (Hu et al., ICLR 2026); a loss in place of the task's.

    B samples, K classes, f the network's logits, z^m the feature of modality m:

        L = - mean over i of f(z_i)[y_i]
            + log sum over j^1, ..., j^M and y of exp f(z^1_j1, ..., z^M_jM)[y]  -  log(B^M K)

    The second term is over every combination of the features in the batch, and every class. So -L is a lower bound of
    the total correlation of features and target. The prediction is softmax(f), as ever.

    Where the network declares its terms (`contribution`: late and sum fusion), the sum factors over the modalities, and
    costs next to nothing for any M. Other networks that say how they encode have all B^2 pairs of features go through
    their fusion and head, in train mode, M = 2 alone; batch norms take the statistics of the pairs there, and their
    running ones are not moved by it. For one modality the sum is over the logits themselves.

    A sample that lacks modalities is compared with combinations of what it has: the sum over j^m runs over the samples
    that have m, and what the network sees of a hidden modality stands in place of those that the sample lacks. Samples
    without a target are left out. Each segment of a sample is one for itself, where the features have segments.

    Args:
        modalities: names of the inputs; M >= 1, and 2 at most where the network does not declare its terms.
        gathered: under DDP the combinations are those of the batch of all processes; False: each process' own.

    Example:
        >>> import torch
        >>> from gradmod import ModulatedModel
        >>> from gradmod.methods import TCMax
        >>> from gradmod.models import LateFusion, MLP
        >>> net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
        >>> model = ModulatedModel(net, TCMax(("audio", "visual")))
        >>> optimizer = torch.optim.SGD(model.parameters(), 0.1)
        >>> inputs = {"audio": torch.randn(5, 6), "visual": torch.randn(5, 4)}
        >>> loss = model.training_step(inputs, torch.tensor([0, 1, 2, 0, 1]), optimizer)
        >>> loss.shape
        torch.Size([])
    """

    needs = frozenset({Need.FEATURES})
    needs_training_step = True
    replaces_task_loss = True

    def __init__(self, modalities: Sequence[str], gathered: bool = False) -> None:
        super().__init__(modalities)
        self.gathered = gathered
        self.averages_scores = gathered
        self._has_terms = False
        self._is_checked = False

    def extra_repr(self) -> str:
        """Settings, for `repr`."""
        return f"gathered={self.gathered}"

    def prepare_network(self, network: nn.Module, task: Task) -> nn.Module:
        """See `Method.prepare_network`: the network as it is.

        Raises:
            ValueError: another task than one class a sample; a network that says neither its terms nor, for two
                modalities, how it encodes.
        """
        if not isinstance(task, Classification):
            raise ValueError(
                f"TCMax is a loss of one class a sample, and the task is {type(task).__name__}; expected "
                "Classification. For labels and numbers take another method, say UniModalLosses"
            )
        if task.output_axis != -1 or task.label_smoothing:
            raise ValueError(
                f"TCMax was given Classification(class_axis={task.class_axis}, label_smoothing="
                f"{task.label_smoothing:g}); expected classes on the last axis and no label smoothing, for which the "
                "loss is not defined"
            )
        self._has_terms = declares_terms(network, self.modalities)
        if self._has_terms:
            return network
        name, count = type(network).__name__, len(self.modalities)
        self.needs = self.needs | {Need.FUSION}
        if count > 2:
            raise ValueError(
                f"TCMax needs the terms of the logits for {count} modalities: a batch of 32 has 32^{count} "
                f"combinations, and {name} does not declare `contribution(modality, feature)`. Use late or sum fusion, "
                "or two modalities"
            )
        return network

    def forward(self, view: View, batch: Batch) -> Any:
        """The network's logits, and the loss as `tcmax`.

        Raises:
            ValueError: soft targets; segments that the features do not have; terms that do not add up to the logits.
        """
        if batch.target.is_floating_point():
            raise ValueError(
                "TCMax was given soft targets; expected class indices [B], int64: target.argmax(-1)"
            )
        before = None if self._has_terms else NetworkState(view.model)
        output, features = view.features(batch)
        given = view.logits_of(output)
        view.task.check(given, batch.target)
        self._check_features(features, given)
        logits = at_least_float32(given).flatten(0, -2)
        target = batch.target.to(logits.device)
        weights = view.task.weights(target)
        assert weights is not None  # of classes
        scored = weights.bool()
        has = scored.flatten().expand(len(self.modalities), -1)
        if batch.present is not None:
            present = batch.present.T.to(logits.device)
            segments = present.reshape(*present.shape, *(1,) * (scored.dim() - 1))
            has = has & segments.expand(-1, *scored.shape).flatten(1)
        known = scored.flatten()
        if self._has_terms:
            normaliser = self._by_terms(view.model, features, logits, has)
        elif len(self.modalities) == 1:
            (summed,) = self._summed(logits[None], has)
            normaliser = torch.where(has[0, :, None], summed, logits)
        else:
            assert before is not None
            normaliser = self._by_pairs(
                view.model, before, features, logits, has, given.shape[1:-1]
            )
        index = torch.where(known, target.flatten(), 0)
        own = logits.gather(1, index[:, None]).squeeze(1)
        terms = normaliser.logsumexp(1) - math.log(logits.shape[1]) - own
        share = torch.stack([torch.where(known, terms, 0.0).sum(), known.sum().to(terms)])
        total, count = self._of_processes(share).sum(0)
        self.last_step = StepRecord(
            torch.ones(len(self.modalities), dtype=torch.float64),
            left_out_targets=view.task.left_out(batch.target),
        )
        return view.with_losses(output, {"tcmax": total / count.detach().clamp(min=1)})

    def _check_features(self, features: Mapping[str, Any], logits: Tensor) -> None:
        """Raise ValueError unless every row of the logits has a feature of its own."""
        rows = list(logits.shape[:-1])
        for m in self.modalities if len(rows) > 1 or not self._has_terms else ():
            feature = features[m]
            shape = list(feature.shape) if isinstance(feature, Tensor) else type(feature).__name__
            if not isinstance(feature, Tensor) or shape[: len(rows)] != rows:
                raise ValueError(
                    f"TCMax combines features of different rows, but the feature of {m!r} is {shape} and the logits "
                    f"{list(logits.shape)}; expected a feature {[*rows, '...']} for each row of the logits"
                )

    def _by_terms(
        self, model: Any, features: Mapping[str, Any], logits: Tensor, has: Tensor
    ) -> Tensor:
        """[N, K] logarithm of the mean of exp f over the combinations that each row is compared with, by class."""
        terms = torch.stack(
            [
                at_least_float32(model.contribution(m, features[m])).flatten(0, -2)
                for m in self.modalities
            ]
        )
        rest = logits - terms.sum(0)
        constant = rest.mean(0)
        if not self._is_checked:
            _check_terms(type(model).__name__, logits, terms, (rest - constant).detach())
            self._is_checked = True
        summed = self._summed(terms, has)
        return constant + torch.where(has[:, :, None], summed[:, None], terms).sum(0)

    def _by_pairs(
        self,
        model: Any,
        before: NetworkState,
        features: Mapping[str, Tensor],
        logits: Tensor,
        has: Tensor,
        segments: Sequence[int],
    ) -> Tensor:
        """The same of two modalities, from the logits of all pairs: own rows of the first, all rows of the second."""
        # By name, so that the order in which they are named changes no draw of dropout.
        names = sorted(self.modalities)
        has = has[[self.modalities.index(m) for m in names]]
        first, second = (features[m].flatten(0, len(segments)) for m in names)
        rows = len(first)
        most, start = self._largest_share(rows)
        columns = self._of_processes(_filled(second, most)).flatten(0, 1)
        has_second = self._of_processes(_filled(has[1].to(logits), most)).flatten() > 0
        with _as_in_training(model, before):
            pairs = self._logits_of_pairs(model, first, columns, segments)
        by_column = self._summed(pairs.transpose(0, 1), has[0].expand(len(columns), -1))
        by_row = _log_mean_exp(pairs, has_second.expand(rows, -1))
        both = _log_mean_exp(by_column[None], has_second[None])
        places = torch.arange(rows, device=logits.device)
        fused = torch.where(has[0, :, None], by_column[start : start + rows], by_row)
        alone = torch.where(has.any(0)[:, None], fused, pairs[places, start + places])
        return torch.where(has.all(0)[:, None], both, alone)

    def _logits_of_pairs(
        self, model: Any, first: Tensor, columns: Tensor, segments: Sequence[int]
    ) -> Tensor:
        """[N, C, K] logits of every row of the first modality's feature with every row of the second's."""

        def part(some: Tensor, others: Tensor) -> Tensor:
            rows = (
                some.repeat_interleave(len(others), 0),
                others.repeat(len(some), *(1,) * (others.dim() - 1)),
            )
            fused = model.fuse(
                {
                    m: x.reshape(-1, *segments, *x.shape[1:])
                    for m, x in zip(sorted(self.modalities), rows, strict=True)
                }
            )
            found = at_least_float32(logits_of(model, model.head(fused)))
            return found.reshape(len(some), len(others), -1)

        # Whole samples, whose segments the fusion may expect together.
        sample = math.prod(segments)
        size = max(sample, _PAIRS_AT_ONCE // max(len(columns), 1) // sample * sample)
        if size >= len(first):
            return part(first, columns)
        return torch.cat(
            [
                checkpoint(part, some, columns, use_reentrant=False)
                for some in torch.split(first, size)
            ]
        )

    def _summed(self, values: Tensor, has: Tensor) -> Tensor:
        """[G, K] log of the mean of exp of values [G, N, K] over the rows, of all processes, that `has` [G, N] names.

        0 where there are none.
        """
        counts = has.sum(1, keepdim=True).to(values)
        local = _log_mean_exp(values, has)
        everyone = self._of_processes(torch.cat([local, counts], 1))
        counts = everyone[..., -1:].detach()
        total = counts.sum(0)
        shares = everyone[..., :-1] + counts.clamp(min=1).log()
        shares = shares.masked_fill((counts == 0) & (total > 0), -math.inf)
        return torch.where(total > 0, shares.logsumexp(0) - total.clamp(min=1).log(), 0.0)

    def _of_processes(self, values: Tensor) -> Tensor:
        """[W, ...] what each process has, its gradient included; of this one alone where nothing is gathered."""
        if not self._averaging.is_across_processes:
            return values[None]
        found: Tensor = _Gathered.apply(values, self)  # type: ignore[no-untyped-call]
        return found

    def _largest_share(self, rows: int) -> tuple[int, int]:
        """How many rows the largest share of the batch has, and where this process' own begin among the padded ones."""
        if not self._averaging.is_across_processes:
            return rows, 0
        sizes = torch.zeros(dist.get_world_size())
        sizes[dist.get_rank()] = rows
        device = next(p.device for m in self._modules_of.values() for p in m[0].parameters())
        most = int(self._averaging.sum(sizes.to(device)).max())
        return most, dist.get_rank() * most


class _Gathered(torch.autograd.Function):
    """Tensors of one shape from all processes, each in its row; the gradient is the sum of what all make of it."""

    @staticmethod
    def forward(ctx: Any, values: Tensor, method: TCMax) -> Tensor:
        ctx.method = method
        everyone = values.new_zeros(dist.get_world_size(), *values.shape)
        everyone[dist.get_rank()] = values
        return method.sum_over_processes(everyone)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        return ctx.method._averaging.sum(gradient.clone())[dist.get_rank()], None


@contextmanager
def _as_in_training(model: nn.Module, before: NetworkState) -> Iterator[None]:
    """The surroundings of the pairs: the full pass' modes and the state before it; what it left is put back."""
    norms = [module for module in model.modules() if is_batch_norm(module) and module.training]
    again = partial(_as_in_training, model, before)
    with kept_state(model, before), held_through_recomputation(again):
        # copies, which the pairs may move; the own ones are put back with the rest.
        for norm in norms:
            copies = {name: b.clone() for name, b in norm._buffers.items() if b is not None}
            norm._buffers.update(copies)
        yield


def _log_mean_exp(values: Tensor, has: Tensor) -> Tensor:
    """[G, K] log of the mean of exp of values [G, N, K] over the rows named by `has` [G, N]; 0 where there are none."""
    counts = has.sum(1, keepdim=True).to(values)
    # A sum over nothing would be -inf, and its gradient NaN, though nobody reads it.
    shown = values.masked_fill(~has[:, :, None] & (counts > 0)[:, :, None], -math.inf)
    return torch.where(counts > 0, shown.logsumexp(1) - counts.clamp(min=1).log(), 0.0)


def _filled(rows: Tensor, size: int) -> Tensor:
    """[size, ...] the rows, and zeros behind them."""
    return torch.cat([rows, rows.new_zeros(size - len(rows), *rows.shape[1:])])


def _check_terms(name: str, logits: Tensor, terms: Tensor, distance: Tensor) -> None:
    """Raise ValueError unless the terms add up to the logits, but for a constant and rounding."""
    reduced = torch.is_autocast_enabled(logits.device.type)
    tolerance = 0.1 if reduced else 1e-8 if logits.dtype == torch.float64 else 5e-3
    size = float((logits.abs() + terms.abs().sum(0)).detach().max())
    found = float(distance.abs().max())
    if found > tolerance * (size + 1e-6):
        raise ValueError(
            f"the terms that {name} declares (`contribution`) and a constant add up to its logits but for "
            f"{found:.3g}, where the logits are up to {size:.3g}; expected no more than rounding. Is there dropout, or "
            "a function of the sum, behind them? Correct `contribution`, or leave it out: then TCMax takes pairs, for "
            "two modalities"
        )
