"""Why a loss is not finite: which step, which modality, which samples."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from torch import Tensor

from gradmod.experiments.errors import TrainingError
from gradmod.experiments.training.sampling import Indices
from gradmod.methods.record import StepRecord
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from gradmod.experiments.datasets.split import Split


def explain_non_finite(
    found: tuple[int, float, StepRecord | None] | None,
    *,
    step_before_epoch: int,
    epoch: int,
    model: ModulatedModel,
    data: Split,
    samples_of: Callable[[int], Indices],
) -> TrainingError:
    """Make the error that stops a run.

    Args:
        found: (step in the epoch, counted from 0; loss; the method's record) of the first loss that is not finite;
            None: the losses are finite but a parameter is not.
        step_before_epoch: steps of the run before this epoch.
        epoch: the epoch.
        model: to name its parameters that are not finite.
        data: the training split, to look at the inputs of that step again.
        samples_of: samples of a step of this epoch.
    """
    remedy = "Lower --lr, clip harder (--clip-norm) or lower --alpha; the last checkpoint is from before it"
    broken = [
        name
        for name, parameter in model.model.named_parameters()
        if not bool(parameter.isfinite().all())
    ]
    parameters = (
        f"parameters that are not finite: {_some(broken)}"
        if broken
        else "all parameters are finite"
    )
    if found is None:
        return TrainingError(
            f"an update in epoch {epoch} made parameters that are not finite: {_some(broken)}. {remedy}"
        )
    step_in_epoch, loss, record = found
    where = f"loss is {loss} at step {step_before_epoch + step_in_epoch + 1} (epoch {epoch})"
    if record is not None and record.scores is not None:
        scores = dict(zip(model.method.modalities, record.scores.tolist(), strict=True))
        where += "; scores: " + ", ".join(
            f"{modality} {score:.4g}" for modality, score in scores.items()
        )
    samples = samples_of(step_in_epoch)
    bad = samples_not_finite(data, samples)
    if bad:
        listed = "; ".join(
            f"the input of {m!r} is not finite in sample(s) {found}" for m, found in bad.items()
        )
        return TrainingError(f"{where}; {listed} of the training split. Mend or drop them")
    return TrainingError(f"{where}; the inputs are finite; {parameters}. {remedy}")


def samples_not_finite(data: Split, samples: Indices) -> dict[str, str]:
    """By modality, those of some samples of a split whose input is not finite, as text; none: nothing."""
    inputs, _ = data.read(samples)
    found = {}
    for modality, tree in inputs.items():
        leaves = tree.values() if isinstance(tree, dict) else (tree,)
        rows = sorted({row for leaf in leaves for row in _rows_not_finite(leaf)})
        if rows:
            found[modality] = _some([str(int(samples[row])) for row in rows])
    return found


def _rows_not_finite(values: Tensor) -> list[int]:
    rows: list[int] = (
        (~values.isfinite()).reshape(len(values), -1).any(1).nonzero().flatten().tolist()
    )
    return rows


def _some(names: list[str], most: int = 5) -> str:
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more
