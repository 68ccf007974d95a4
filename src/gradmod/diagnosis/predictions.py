"""What a trained model says on every coalition of a split, looked at as training does."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.masking import map_tensors
from gradmod.coalitions.presence import hide_absent
from gradmod.coalitions.table import coalition_logits, differs_between_samples, hiding_changes
from gradmod.coalitions.undisturbed import undisturbed
from gradmod.diagnosis.batches import Batch, open_batches
from gradmod.diagnosis.scores import Metric, Score, score_of
from gradmod.tasks import Task


@dataclass(frozen=True)
class CoalitionPredictions:
    """Logits of every coalition on a split.

    Attributes:
        modalities: the players.
        logits: [2^M, N, ..., K]; row i shows the modalities whose bits are set in i, row 0 none.
        target: [N, ...].
    """

    modalities: tuple[str, ...]
    logits: Tensor
    target: Tensor

    def check(self, task: Task) -> None:
        """Look at logits and targets as training does.

        Raises:
            ValueError: logits that are not finite; a target of another shape or dtype than goes with them, or a class
                that there is no logit for.
        """
        _refuse_not_finite(self.logits, self.modalities)
        check_target(task, self.logits[-1], self.target)

    def game(self, task: Task, metric: str | Metric | Score, rows: Tensor | None = None) -> Tensor:
        """[2^M] float64 score of every coalition; row 0 is that of the best constant answer.

        Args:
            task: what the targets are.
            metric: see `attribute`. Where lower is better (loss, mae) the score is its negative.
            rows: samples to take, with repetitions; None: all of them once.

        Raises:
            ValueError: the task has no such metric.
        """
        score = metric if isinstance(metric, Score) else score_of(task, metric)
        target = self.target if rows is None else self.target[rows]
        values = [
            score(logits if rows is None else logits[rows], target)
            for logits in self._with_constant(task)
        ]
        return torch.tensor(values, dtype=torch.float64)

    def resampled_games(
        self, task: Task, metric: str | Metric | Score, replicates: int, seed: int
    ) -> Tensor:
        """[2^M, replicates] the same for samples drawn with replacement."""
        score = metric if isinstance(metric, Score) else score_of(task, metric)
        generator = torch.Generator().manual_seed(seed)
        count = len(self.target)
        draws = (torch.randint(count, (count,), generator=generator) for _ in range(replicates))
        terms = self._terms(task, score)
        if terms is None:
            return torch.stack([self.game(task, score, rows) for rows in draws], 1)
        # A mean over samples: their terms, weighted by how often each was drawn.
        return torch.stack(
            [terms @ rows.bincount(minlength=count).double() / count for rows in draws], 1
        )

    def _terms(self, task: Task, score: Score) -> Tensor | None:
        """[2^M, N] what each sample adds to the score of each coalition; None where the score is no mean of such."""
        if score.name != task.sample_metric or not score.by_name:
            return None
        terms = torch.stack(
            [task.per_sample(logits, self.target) for logits in self._with_constant(task)]
        )
        terms = -terms if score.lower_is_better else terms
        return terms if torch.allclose(terms.mean(1), self.game(task, score)) else None

    def _with_constant(self, task: Task) -> list[Tensor]:
        return [task.constant_logits(self.logits[0], self.target), *self.logits[1:]]


class CoalitionReader:
    """Reads what a model says on every coalition, batch by batch, and looks at each as training does.

    Args:
        model: the network, called with a dict of inputs.
        modalities: the players.
        device: where the batches are moved to; None: they stay where they are.
        task: what the targets are checked by; None: they are not looked at.
    """

    def __init__(
        self,
        model: nn.Module,
        modalities: Sequence[str],
        device: Any = None,
        task: Task | None = None,
    ) -> None:
        self._model, self._modalities, self._device, self._task = (
            model,
            tuple(modalities),
            device,
            task,
        )
        self._logits: list[Tensor] = []
        self._targets: list[Tensor] = []
        # Modalities that no mask has changed yet, and whether their inputs differ between samples.
        self._unhidden = dict.fromkeys(self._modalities, False)

    def read(self, batch: Batch) -> Mapping[str, Any]:
        """Read one batch; returns its inputs as the network saw them, on the device.

        Raises:
            ValueError: inputs without one of the modalities, logits that are not finite, or a target that does not go
                with them.
        """
        inputs: Mapping[str, Any] = self._moved(batch.inputs)
        if batch.present is not None:
            inputs = hide_absent(self._model, inputs, self._moved(batch.present))
        logits = coalition_logits(self._model, inputs, self._modalities).float().cpu()
        _refuse_not_finite(logits, self._modalities, inputs, before=sum(map(len, self._targets)))
        target = batch.target.detach().cpu().clone()  # some loaders fill the same tensor again
        if self._task is not None:
            check_target(self._task, logits[-1], target)
        self._logits.append(logits)
        self._targets.append(target)
        self._look_at_masks(inputs)
        return inputs

    def predictions(self) -> CoalitionPredictions:
        """All that was read.

        Raises:
            ValueError: hiding a modality changed nothing in any sample, though its input is not always the same.
        """
        for m in self.nothing_to_hide():
            if self._unhidden[m]:
                raise ValueError(
                    f"hiding {m!r} changes nothing: in every sample its input stays as it is, and nothing can be said "
                    "of it. Say what the hidden modality looks like: define mask(modality, x) on the model, or pass "
                    "mask=... to gradmod.adapt"
                )
        return CoalitionPredictions(
            self._modalities, torch.cat(self._logits, 1), torch.cat(self._targets)
        )

    def nothing_to_hide(self) -> tuple[str, ...]:
        """Modalities whose input was that of the hidden modality in every sample."""
        return tuple(self._unhidden)

    def _moved(self, tree: Any) -> Any:
        return (
            tree if self._device is None else map_tensors(lambda leaf: leaf.to(self._device), tree)
        )

    def _look_at_masks(self, inputs: Mapping[str, Any]) -> None:
        for m in [m for m in self._unhidden if hiding_changes(self._model, m, inputs[m])]:
            del self._unhidden[m]
        for m in self._unhidden:
            self._unhidden[m] |= differs_between_samples(inputs[m])


def predict_coalitions(
    model: nn.Module,
    loader: Any,
    modalities: Sequence[str],
    device: Any = None,
    task: Task | None = None,
) -> CoalitionPredictions:
    """A trained model on every coalition of every sample, in one pass over the data, in eval mode.

    Model, inputs and random numbers are left as they were.

    Args:
        model: the network, called with a dict of inputs.
        loader: batches (inputs by modality, target), or another form that `gradmod.diagnose` takes.
        modalities: the players.
        device: where the batches are moved to; None: they stay where they are.
        task: what the targets are checked by, batch by batch; None: `attribute` checks them.

    Raises:
        ValueError: no batch; inputs without one of the modalities; logits that are not finite; a target that does not
            go with them; hiding a modality changes nothing.
        TypeError: a batch, or a network, of another form.
    """
    with undisturbed(model):
        names, batches = open_batches(loader, modalities, model)
        reader = CoalitionReader(model, names, device, task)
        for batch in batches:
            reader.read(batch)
        return reader.predictions()


def check_target(task: Task, logits: Tensor, target: Tensor) -> None:
    """Raise ValueError unless `target` goes with `logits` [N, ..., K]: shape, dtype and values, as in training."""
    task.check(logits, target)
    task.scores(logits.unsqueeze(0), target)


def _refuse_not_finite(
    logits: Tensor,
    modalities: Sequence[str],
    inputs: Mapping[str, Any] | None = None,
    before: int = 0,
) -> None:
    """Raise ValueError where the logits of a coalition are not finite; those of the empty one are read by nobody.

    Args:
        logits: [2^M, B, ..., K].
        modalities: the players.
        inputs: the batch, where it is known.
        before: samples before this batch.
    """
    bad = ~logits[1:].isfinite().flatten(2).all(2)
    if not bad.any():
        return
    code = len(bad) if bad[-1].any() else int(bad.any(1).nonzero()[0]) + 1
    rows = bad[code - 1].nonzero().flatten()
    said = (
        f"the model's logits are not finite for {len(rows)} of {len(bad[0])} samples"
        f"{'' if inputs is None else ' of a batch'}, sample {before + int(rows[0])} the first (counted from 0)"
    )
    if code < len(bad):
        shown = coalition_name([m for bit, m in enumerate(modalities) if code >> bit & 1])
        raise ValueError(
            f"{said}, when it is shown {shown} alone: it cannot compute with what stands for a hidden modality (zeros, "
            "unless it says otherwise). Define mask(modality, x) on the model, or pass mask=... to gradmod.adapt"
        )
    culprits = [m for m in modalities if inputs is not None and _holds_not_finite(inputs[m])]
    if culprits:
        said += f": the input of {', '.join(map(repr, culprits))} is not finite. Mend or drop such samples"
    raise ValueError(said)


def _holds_not_finite(tree: Any) -> bool:
    finite = []

    def look(leaf: Tensor) -> Tensor:
        finite.append(bool(leaf.isfinite().all()))
        return leaf

    map_tensors(look, tree)
    return not all(finite)


def coalition_name(shown: Sequence[str]) -> str:
    """Name of a coalition by its members, which stand in the order of the modalities."""
    return "+".join(shown) or "nothing"
