"""What a method is shown between epochs: where training stands, and the features of whole splits."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from gradmod.coalitions.features import as_tensor, features_pass
from gradmod.coalitions.masking import map_tensors
from gradmod.coalitions.presence import hide_absent, without_missing
from gradmod.coalitions.undisturbed import undisturbed
from gradmod.methods.record import ValidationFigures

if TYPE_CHECKING:
    from gradmod.methods.trials import Trials


@dataclass(frozen=True)
class SplitFeatures:
    """What the encoders make of every sample of a split, in eval mode, on the CPU.

    Attributes:
        features: by modality [N, ..., F].
        target: [N, ...].
        present: by modality [N] bool, which sample has it, where some lack it; None: all have all.
    """

    features: Mapping[str, Tensor]
    target: Tensor
    present: Mapping[str, Tensor] | None = None


@dataclass(frozen=True)
class Epoch:
    """An epoch that is about to begin, or has ended.

    Attributes:
        number: counted from 1.
        steps: batches in it; None: not known.
        validation: how well each modality alone predicts on the validation split, after an epoch; else empty.
        splits: what reads the features of a split, by its name.
        trials: what trains the model on trial; None: the training loop did not hand over what it takes.
    """

    number: int
    steps: int | None = None
    validation: Mapping[str, ValidationFigures] = field(default_factory=dict)
    splits: Mapping[str, Callable[[], SplitFeatures]] = field(default_factory=dict)
    trials: Trials | None = None

    def features(self, split: str) -> SplitFeatures:
        """The features of all samples of `train` or `validation`: one pass over it, which leaves nothing changed.

        Raises:
            RuntimeError: the training loop did not hand that split over.
        """
        if split not in self.splits:
            raise RuntimeError(
                f"the method looks at the features of the {split} split between epochs, and it was not given: call "
                "model.before_epoch(number, train=loader, validation=loader) before every epoch"
            )
        return self.splits[split]()

    def trial(self, seed: int = 0) -> AbstractContextManager[Trials]:
        """Training on trial: when left, model, optimizer and random numbers are to the bit as they were.

            with epoch.trial() as trial:
                trial.train(epochs=10)
                print(trial.losses("held_out"))

        Args:
            seed: of what is drawn in it, with the number of the epoch. Trials of one seed see the same batches.

        Raises:
            RuntimeError: the training loop did not hand over what it takes.
        """
        if self.trials is None:
            raise RuntimeError(
                "the method trains the model on trial before an epoch, and was not given what that takes: call "
                "model.before_epoch(number, train=loader, held_out=loader, optimizer=optimizer) before every epoch, "
                "`held_out` a part of the training split that `train` does not give"
            )
        return self.trials.begin((seed, self.number))


def read_features(
    model: nn.Module, batches: Iterable[Sequence[Any]], modalities: Sequence[str]
) -> SplitFeatures:
    """Features of every sample that `batches` gives; the model and the random numbers are afterwards as they were.

    Args:
        model: the network; declares its `encoders`.
        batches: gives (inputs by modality, target), or (inputs, target, present); inputs are moved to the model.
        modalities: whose features.

    Raises:
        TypeError: a batch is something else, or a feature is no tensor.
        ValueError: there is no batch.
    """
    parts: dict[str, list[Tensor]] = {m: [] for m in modalities}
    has: dict[str, list[Tensor]] = {m: [] for m in modalities}
    targets: list[Tensor] = []
    with undisturbed(model), torch.no_grad():
        for inputs, target, present in moved_batches(model, batches):
            absent = without_missing(inputs, present, modalities, target)
            moved = dict(hide_absent(model, inputs, absent)) if absent else inputs
            found = features_pass(model, moved, modalities, gradient=False).features
            every = torch.ones(len(target), dtype=torch.bool)
            for m in modalities:
                parts[m].append(as_feature(found[m], m).cpu())
                has[m].append((absent or {}).get(m, every).cpu())
            targets.append(target.cpu())
    if not targets:
        raise ValueError("the split gave no batch; expected (inputs, target) pairs")
    lacks = not all(bool(torch.cat(rows).all()) for rows in has.values())
    return SplitFeatures(
        {m: torch.cat(values) for m, values in parts.items()},
        torch.cat(targets),
        {m: torch.cat(rows) for m, rows in has.items()} if lacks else None,
    )


def moved_batches(
    model: nn.Module, batches: Iterable[Sequence[Any]]
) -> Iterator[tuple[dict[str, Any], Tensor, Mapping[str, Tensor] | None]]:
    """Inputs, target and `present` of each batch, on the device of the model.

    Raises:
        TypeError: a batch is something else.
    """
    device = next((parameter.device for parameter in model.parameters()), torch.device("cpu"))
    for batch in batches:
        inputs, target, present = _parts_of(batch)
        yield (
            {name: map_tensors(lambda leaf: leaf.to(device), x) for name, x in inputs.items()},
            target.to(device),
            None if present is None else {m: rows.to(device) for m, rows in present.items()},
        )


def as_feature(feature: Any, modality: str) -> Tensor:
    """The feature of a modality, without gradient, in 32 bits or more.

    Raises:
        TypeError: it is no tensor.
    """
    values = as_tensor(feature, modality).detach()
    return values.to(torch.promote_types(values.dtype, torch.float32))


def _parts_of(batch: Any) -> tuple[Mapping[str, Any], Tensor, Mapping[str, Tensor] | None]:
    if not (
        isinstance(batch, (tuple, list))
        and len(batch) in (2, 3)
        and isinstance(batch[0], Mapping)
        and isinstance(batch[1], Tensor)
    ):
        raise TypeError(
            f"a batch of the split is {type(batch).__name__}; expected (inputs by modality, target) or (inputs, "
            "target, present)"
        )
    return batch[0], batch[1], batch[2] if len(batch) == 3 else None
