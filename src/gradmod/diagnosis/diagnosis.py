"""Diagnosis of a trained model: what each modality gives it, and what happens without it or with noise in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.parallel import DataParallel, DistributedDataParallel
from torch.optim.swa_utils import AveragedModel

from gradmod.coalitions.masking import copy_containers, mask
from gradmod.coalitions.undisturbed import undisturbed
from gradmod.diagnosis.attribution import Attribution, attribute
from gradmod.diagnosis.batches import open_batches
from gradmod.diagnosis.predictions import CoalitionReader
from gradmod.diagnosis.scores import Metric, Score, score_of
from gradmod.protocols import logits_of
from gradmod.tasks import LOWER_IS_BETTER, Classification, Task
from gradmod.wrapper import ModulatedModel

NOISE_LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0)
NOTHING = 1e-9
"""A score or a difference of scores that rounding alone may leave."""
AddNoise = Callable[[Any, float, torch.Generator], Any]


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a model.

    Attributes:
        attribution: SHAPE scores, and the score of every coalition (of every set of missing modalities).
        noise_levels: standard deviations of the noise, in those of the input.
        robustness: by modality the score at each noise level, the other modalities clean; modalities to whose input no
            noise can be added (whole numbers only) are left out.
        alone: by modality the score of a model trained on it alone, where that is known.
        notes: what could not be measured, and why, a sentence each.
    """

    attribution: Attribution
    noise_levels: tuple[float, ...] = ()
    robustness: dict[str, tuple[float, ...]] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    def as_record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            **self.attribution.as_record(),
            "noise_levels": self.noise_levels,
            "robustness": self.robustness,
            "alone": self.alone,
            "notes": self.notes,
            "verdict": self.verdict(),
        }

    def verdict(self) -> list[str]:
        """What it means, a sentence each."""
        found, names = self.attribution, self.attribution.modalities
        if len(names) < 2:
            return [
                f"the model has one modality, {names[0]}: there is nothing to divide",
                *self.notes,
            ]
        return [
            *(self._about(m) for m in sorted(names, key=lambda m: -found.scores.values[m])),
            self._about_cooperation(),
            *self._about_noise(),
            *self.notes,
        ]

    def _about(self, modality: str) -> str:
        found = self.attribution
        value = found.scores.values[modality]
        without, whole = found.score([m for m in found.modalities if m != modality]), found.whole
        share = found.scores.contributions[modality]
        metric = found.metric.replace("_", " ")
        if math.isnan(share):
            sentence = f"{modality} adds {value:+.2f}"
        elif value < -NOTHING:
            sentence = f"{modality} carries {share:.0%} of the {metric}: it does harm"
        else:
            sentence = f"{modality} carries {share:.0%} of the {metric}"
        interval = found.value_intervals.get(modality)
        if interval is not None and interval[0] <= 0 <= interval[1]:
            sentence = f"{modality} is not used: what it contributes cannot be told from nothing"
        if self.is_suppressed(modality):
            alone = self.alone[modality]
            sentence += (
                f"; alone it would reach {alone:.2f} but contributes {value:.2f}: it is suppressed"
            )
        return f"{sentence} (without it: {_in_place_of(without, whole)})"

    def is_suppressed(self, modality: str) -> bool:
        """Whether a model trained on the modality alone is known, and the modality contributes less than half of what
        it would if M modalities that know what it knows shared the score evenly."""
        if modality not in self.alone:
            return False
        possible = self.alone[modality] - self.attribution.score(())
        even = possible / len(self.attribution.modalities)
        return possible > 0 and self.attribution.scores.values[modality] < even / 2

    def _about_cooperation(self) -> str:
        value, interval = self.attribution.scores.cooperation, self.attribution.cooperation_interval
        if interval is not None and interval[0] <= 0 <= interval[1]:
            return "together the modalities reach about the sum of what each adds"
        if value > NOTHING:
            return f"the modalities complement each other: together {value:.2f} more than the sum of what each adds"
        if value < -NOTHING:
            return (
                f"the modalities overlap: together {-value:.2f} less than the sum of what each adds"
            )
        return "together the modalities reach the sum of what each adds"

    def _about_noise(self) -> list[str]:
        """The modality whose noise costs most, at the noise level next to 1; or that it costs nothing in any."""
        levels = [i for i, level in enumerate(self.noise_levels) if level > 0]
        if not self.robustness or not levels:
            return []
        at = min(levels, key=lambda i: abs(self.noise_levels[i] - 1))
        whole = self.attribution.whole
        scores = {m: values[at] for m, values in self.robustness.items()}
        worst = min(scores, key=lambda m: scores[m])
        level = f"{self.noise_levels[at]:g} standard deviation{'' if self.noise_levels[at] == 1 else 's'} of the input"
        if scores[worst] >= whole:
            reached = ", ".join(
                f"{_in_place_of(score, whole)} in {m}" for m, score in scores.items()
            )
            return [f"noise hurts in no modality: with {level} the score is {reached}"]
        return [f"noise hurts most in {worst}: {_in_place_of(scores[worst], whole)} at {level}"]


def _in_place_of(value: float, whole: float) -> str:
    """Two scores, with as many digits as show that they differ, where they do."""
    for digits in range(2, 7):
        shown = f"{value:.{digits}f}", f"{whole:.{digits}f}"
        if shown[0] != shown[1]:
            return f"{shown[0]} in place of {shown[1]}"
    return f"{value:.2f} in place of {whole:.2f}"


def diagnose(
    model: nn.Module,
    loader: Any,
    *,
    task: Task | None = None,
    modalities: Sequence[str] | None = None,
    metric: str | Metric | None = None,
    lower_is_better: bool | None = None,
    target: str = "",
    noise_levels: Sequence[float] = NOISE_LEVELS,
    noise: Mapping[str, AddNoise] | None = None,
    alone: Mapping[str, float] | None = None,
    device: Any = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Diagnosis:
    """Find out what each modality gives a trained model.

        print("\\n".join(gradmod.diagnose(model, loader).verdict()))

    The data are gone through once, in eval mode. The model (modes, parameters, buffers, attributes that its forward
    sets), the caller's tensors and the random numbers are afterwards as they were.

    Args:
        model: a `ModulatedModel`, or any network that is called with a dict of inputs (see `gradmod.adapt`).
        loader: a DataLoader, a list or an iterator of batches; a Dataset or a list of samples, which is put into
            batches of 64; or one batch. A batch is (inputs by modality, target), where more may follow and is not read
            but for `present` (see `ModulatedModel`); a dict or dataclass that holds the target beside the inputs; or,
            where `modalities` are given in that order, (first input, second input, ..., target).
        task: what the targets are; None: that of a `ModulatedModel`, else classification.
        modalities: names of the inputs; None: those of a `ModulatedModel`, else the keys of the first batch.
        metric: the score: one of the metrics that the task reports, `auroc` (for classes and labels), or a function
            (logits [N, ..., K], target [N, ...]) that gives a number over all samples; None: accuracy (of numbers:
            negative mean absolute error).
        lower_is_better: whether the score is the metric's negative. None: known of a metric by name; of a function
            what its attribute `higher_is_better` says (torchmetrics), else False.
        target: key of the target in batches that are dicts; empty: labels, label, targets, target or y.
        noise_levels: standard deviations of the Gaussian noise, in those of each input over its batch; () for none.
            Whole numbers (token ids, pixels as bytes) and masks (keys that end in "mask") stay as they are; the
            verdict says of which modality nothing was changed.
        noise: by modality a function (input, level, generator) in place of Gaussian noise.
        alone: by modality the metric of a model trained on it alone (an error as an error): what "suppressed" is told
            by.
        device: where batches are moved to; None: where the model's parameters are.
        replicates: of the bootstrap over samples; 0: no intervals.
        seed: of the noise and the bootstrap.

    Raises:
        ValueError: no batch; inputs without one of the modalities, or without names; a target that does not go with the
            logits; logits that are not finite; a mask that hides nothing; a metric that the task does not have, or that
            is not finite; a noise level below 0; `noise` or `alone` of what is no modality.
        TypeError: a batch, a network or a metric of another form; where the network takes its inputs one by one, the
            message holds the line of `gradmod.adapt` to paste.
    """
    if not isinstance(model, nn.Module):
        raise TypeError(
            f"the model is {model if isinstance(model, type) else type(model).__name__}; expected a network "
            "(nn.Module); one of a function: gradmod.adapt(nn.Identity(), call=lambda _, inputs: function(inputs))"
        )
    named = modalities is not None
    if named and (
        isinstance(modalities, str) or len(set(modalities or ())) != len(modalities or ())
    ):
        raise ValueError(
            f"modalities is {modalities!r}; expected different names, e.g. ('audio', 'visual')"
        )
    model, wrapper = _unwrapped(model)
    if wrapper is not None:
        task, modalities = task or wrapper.task, modalities or wrapper.method.modalities
    task = task or Classification()
    score = score_of(task, metric, lower_is_better)
    levels = (
        tuple(float(level) for level in noise_levels)
        if isinstance(noise_levels, Iterable)
        else (math.nan,)
    )
    if not all(math.isfinite(level) and level >= 0 for level in levels):
        raise ValueError(
            f"noise_levels is {noise_levels}; expected a sequence of finite numbers >= 0, e.g. (0.5, 1)"
        )
    if device is None:
        parameter = next(model.parameters(), None)
        device = None if parameter is None else parameter.device
    with undisturbed(model), torch.no_grad():
        names, batches = open_batches(loader, modalities, model, target=target, in_order=named)
        known = _alone_as_scores(alone or {}, score, names)
        _refuse_unknown("noise", noise or {}, names)
        reader = CoalitionReader(model, names, device, task)
        noisy = _NoisyPasses(model, names, levels, noise or {}, seed)
        for number, batch in enumerate(batches):
            if number == 0 and modalities is None:
                _refuse_keys_that_no_mask_hides(model, batch.inputs, names)
            noisy.read(reader.read(batch))
        predictions = reader.predictions()
    found = attribute(
        predictions, task, metric, lower_is_better=lower_is_better, replicates=replicates, seed=seed
    )
    robustness = noisy.scores(score, predictions.target, found.whole) if levels else {}
    same = (
        f"the input of {m} is in every sample what stands for it when it is hidden: whether the model uses it cannot "
        "be told"
        for m in reader.nothing_to_hide()
    )
    return Diagnosis(found, levels, robustness, known, (*same, *noisy.notes))


def add_gaussian_noise(x: Any, level: float, generator: torch.Generator) -> Any:
    """Add noise of `level` standard deviations of each floating tensor of an input; others stay as they are.

    Entries under a key that ends in "mask" stay as they are too. Deviations are over the entries that are finite.

    Returns:
        The input, or None where it holds no tensor that noise can be added to.
    """
    changed = []

    def noisy(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        changed.append(leaf)
        drawn = torch.randn(leaf.shape, generator=generator, dtype=torch.float32).to(leaf)
        wide = leaf[leaf.isfinite()].float()
        deviation = wide.std() if wide.numel() > 1 else wide.new_zeros(())
        return leaf + level * deviation.to(leaf.dtype) * drawn

    result = _map_but_masks(noisy, x)
    return result if changed else None


def _map_but_masks(function: Callable[[Tensor], Tensor], tree: Any) -> Any:
    if isinstance(tree, Mapping):
        return {
            key: value if str(key).lower().endswith("mask") else _map_but_masks(function, value)
            for key, value in tree.items()
        }
    if isinstance(tree, (list, tuple)):
        items = [_map_but_masks(function, value) for value in tree]
        return type(tree)(*items) if hasattr(tree, "_fields") else type(tree)(items)
    return function(tree) if isinstance(tree, Tensor) else tree


class _NoisyPasses:
    """Passes with noise in one modality, the others clean; the noise of each level is drawn from the same seed."""

    def __init__(
        self,
        model: nn.Module,
        modalities: Sequence[str],
        levels: Sequence[float],
        noise: Mapping[str, AddNoise],
        seed: int,
    ) -> None:
        self._model, self._levels = model, levels
        self._noise = {m: noise.get(m, add_gaussian_noise) for m in modalities}
        self._generators = {
            (m, i): torch.Generator().manual_seed(seed)
            for m in modalities
            for i in range(len(levels))
        }
        self._logits: dict[tuple[str, int], list[Tensor]] = {
            (m, i): [] for m in modalities for i, level in enumerate(levels) if level > 0
        }
        self.notes: list[str] = []

    def read(self, inputs: Mapping[str, Any]) -> None:
        """Pass one batch."""
        for (m, i), logits in list(self._logits.items()):
            if m not in self._noise:
                continue
            noisy = self._noise[m](
                copy_containers(inputs[m], with_tensors=True),
                self._levels[i],
                self._generators[m, i],
            )
            if noisy is None:
                self._leave_out(
                    m,
                    f"no noise was added to {m}: its input holds whole numbers (token ids, say) alone",
                )
                continue
            others = {k: x for k, x in inputs.items() if k != m}
            found = logits_of(
                self._model, self._model({**copy_containers(others, with_tensors=True), m: noisy})
            )
            logits.append(found.float().cpu().clone())
            if not bool(logits[-1].isfinite().all()):
                self._leave_out(
                    m,
                    f"how noise in {m} hurts was not measured: with {self._levels[i]:g} standard deviations of it the "
                    "model's logits are not finite",
                )

    def scores(self, score: Score, target: Tensor, clean: float) -> dict[str, tuple[float, ...]]:
        """By modality the score at each level."""
        return {
            m: tuple(
                clean if level == 0 else score(torch.cat(self._logits[m, i]), target)
                for i, level in enumerate(self._levels)
            )
            for m in self._noise
        }

    def _leave_out(self, modality: str, why: str) -> None:
        del self._noise[modality]
        self.notes.append(why)


def _unwrapped(model: nn.Module) -> tuple[nn.Module, ModulatedModel | None]:
    """The network itself, which declares its mask, and the method's wrapper around it, where there is one."""
    if isinstance(model, (DistributedDataParallel, DataParallel, AveragedModel)):
        return _unwrapped(model.module)
    # What torch.compile made of it, and what Fabric made of it.
    for inner in (getattr(model, "_orig_mod", None), getattr(model, "module", None)):
        if isinstance(inner, ModulatedModel):
            return inner.model, inner
    return (model.model, model) if isinstance(model, ModulatedModel) else (model, None)


def _refuse_keys_that_no_mask_hides(
    model: nn.Module, inputs: Mapping[str, Any], names: Sequence[str]
) -> None:
    """Raise ValueError where a key that was taken for a modality (ids of samples, say) cannot be hidden."""
    for m in names:
        try:
            mask(model, m, copy_containers(inputs[m], with_tensors=True))
        except ValueError as error:
            others = tuple(name for name in names if name != m)
            raise ValueError(
                f"{error}. The modalities are the keys of the first batch; if {m!r} is none, say which are: "
                f"modalities={others!r}"
            ) from None


def _alone_as_scores(
    alone: Mapping[str, float], score: Score, modalities: Sequence[str]
) -> dict[str, float]:
    _refuse_unknown("alone", alone, modalities)
    for m, value in alone.items():
        if not math.isfinite(value) or (
            value < 0 and score.by_name and score.name in LOWER_IS_BETTER
        ):
            raise ValueError(
                f"alone[{m!r}] is {value}; expected the {score.name} of a model trained on {m!r} alone, a finite "
                f"number{' >= 0' if score.lower_is_better else ''}"
            )
    return {m: score.signed(float(value)) for m, value in alone.items()}


def _refuse_unknown(what: str, given: Mapping[str, Any], modalities: Sequence[str]) -> None:
    unknown = [m for m in given if m not in modalities]
    if unknown:
        raise ValueError(
            f"{what} names {unknown}; expected some of the modalities {list(modalities)}"
        )
