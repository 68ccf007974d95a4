"""Diagnosis of a trained model: what each modality gives it, and what happens without it or with noise in it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from gradmod.attribution import Attribution, attribute, in_eval_mode, predict_coalitions
from gradmod.coalitions.masking import map_tensors
from gradmod.coalitions.protocols import split_output
from gradmod.tasks import LOWER_IS_BETTER, Classification, Task
from gradmod.wrapper import ModulatedModel

NOISE_LEVELS = (0.0, 0.25, 0.5, 1.0, 2.0)
AddNoise = Callable[[Any, float, torch.Generator], Any]
Loader = Iterable[tuple[Mapping[str, Any], Tensor]]


@dataclass(frozen=True)
class Diagnosis:
    """What was found out about a model.

    Attributes:
        attribution: SHAPE scores, and the score of every coalition (of every set of missing modalities).
        noise_levels: standard deviations of the noise, in those of the input.
        robustness: by modality the score at each noise level, the other modalities clean; modalities to whose input no
            noise can be added (whole numbers only) are left out.
        alone: by modality the score of a model trained on it alone, where that is known.
    """

    attribution: Attribution
    noise_levels: tuple[float, ...] = ()
    robustness: dict[str, tuple[float, ...]] = field(default_factory=dict)
    alone: dict[str, float] = field(default_factory=dict)

    def as_record(self) -> dict[str, Any]:
        """As plain values, for JSON."""
        return {
            **self.attribution.as_record(),
            "noise_levels": self.noise_levels,
            "robustness": self.robustness,
            "alone": self.alone,
            "verdict": self.verdict(),
        }

    def verdict(self) -> list[str]:
        """What it means, a sentence each."""
        found, names = self.attribution, self.attribution.modalities
        if len(names) < 2:
            return [f"the model has one modality, {names[0]}: there is nothing to divide"]
        return [
            *(self._about(m) for m in sorted(names, key=lambda m: -found.scores.values[m])),
            self._about_cooperation(),
            *self._about_noise(),
        ]

    def _about(self, modality: str) -> str:
        found = self.attribution
        value = found.scores.values[modality]
        without, whole = found.score([m for m in found.modalities if m != modality]), found.whole
        share = found.scores.contributions[modality]
        metric = found.metric.replace("_", " ")
        sentence = (
            f"{modality} adds {value:+.2f}" if math.isnan(share) else f"{modality} carries {share:.0%} of the {metric}"
        )
        interval = found.value_intervals.get(modality)
        if interval is not None and interval[0] <= 0 <= interval[1]:
            sentence = f"{modality} is not used: what it contributes cannot be told from nothing"
        if self.is_suppressed(modality):
            sentence += (
                f"; alone it would reach {self.alone[modality]:.2f} but contributes {value:.2f}: it is suppressed"
            )
        return f"{sentence} (without it: {without:.2f} in place of {whole:.2f})"

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
        if value > 0:
            return f"the modalities complement each other: together {value:.2f} more than the sum of what each adds"
        return f"the modalities overlap: together {-value:.2f} less than the sum of what each adds"

    def _about_noise(self) -> list[str]:
        """The modality whose noise costs most, at the noise level next to 1."""
        if not self.robustness or not self.noise_levels:
            return []
        at = min(range(len(self.noise_levels)), key=lambda i: abs(self.noise_levels[i] - 1))
        whole = self.attribution.whole
        losses = {m: whole - scores[at] for m, scores in self.robustness.items()}
        worst = max(losses, key=lambda m: losses[m])
        return [
            f"noise hurts most in {worst}: {whole - losses[worst]:.2f} in place of {whole:.2f} at "
            f"{self.noise_levels[at]:g} standard deviation{'' if self.noise_levels[at] == 1 else 's'} of the input"
        ]


def diagnose(
    model: nn.Module,
    loader: Loader,
    *,
    task: Task | None = None,
    modalities: Sequence[str] | None = None,
    metric: str | None = None,
    noise_levels: Sequence[float] = NOISE_LEVELS,
    noise: Mapping[str, AddNoise] | None = None,
    alone: Mapping[str, float] | None = None,
    device: Any = None,
    replicates: int = 1000,
    seed: int = 0,
) -> Diagnosis:
    """Find out what each modality gives a trained model.

        print("\\n".join(gradmod.diagnose(model, loader).verdict()))

    Args:
        model: a `ModulatedModel`, or any network that is called with a dict of inputs (see `gradmod.adapt`).
        loader: batches (inputs by modality, target); it is gone through once for the coalitions and once for each
            modality and noise level, so it must start anew each time, as a DataLoader or a list does.
        task: what the targets are; None: that of a `ModulatedModel`, else classification.
        modalities: names of the inputs; None: those of a `ModulatedModel`, else the keys of the first batch.
        metric: the score; None: accuracy (of numbers: negative mean absolute error).
        noise_levels: standard deviations of the Gaussian noise, in those of each input over its batch; () for none.
        noise: by modality a function (input, level, generator) in place of Gaussian noise.
        alone: by modality the score of a model trained on it alone, in the same metric: what "suppressed" is told by.
        device: where batches are moved to; None: where the model's parameters are.
        replicates: of the bootstrap over samples; 0: no intervals.
        seed: of the noise and the bootstrap.

    Raises:
        ValueError: no batch, a loader that cannot be gone through twice, inputs without one of the modalities, a metric
            that the task does not have.
    """
    if isinstance(model, ModulatedModel):
        task, modalities = task or model.task, modalities or model.method.modalities
        model = model.model
    task = task or Classification()
    if device is None:
        parameter = next(model.parameters(), None)
        device = None if parameter is None else parameter.device
    if modalities is None:
        first = next(iter(loader), None)
        if first is None:
            raise ValueError("the loader gave no batch; expected (inputs, target) pairs")
        modalities = tuple(first[0])
    predictions = predict_coalitions(model, loader, modalities, device)
    attribution = attribute(predictions, task, metric, replicates=replicates, seed=seed)
    robustness: dict[str, tuple[float, ...]] = {}
    for modality in modalities:
        add = (noise or {}).get(modality, add_gaussian_noise)
        scores = []
        for level in noise_levels:
            generator = torch.Generator().manual_seed(seed)
            noisy = partial(_noisy, add, level, generator)
            score = (
                attribution.whole
                if level == 0
                else _score(model, loader, task, attribution.metric, modality, noisy, device)
            )
            if score is None:
                break
            scores.append(score)
        else:
            robustness[modality] = tuple(scores)
    return Diagnosis(attribution, tuple(noise_levels), robustness if noise_levels else {}, dict(alone or {}))


def add_gaussian_noise(x: Any, level: float, generator: torch.Generator) -> Any:
    """Add noise of `level` standard deviations of each floating tensor of an input; others stay as they are.

    Returns:
        The input, or None where it holds no floating tensor.
    """
    changed = []

    def noisy(leaf: Tensor) -> Tensor:
        if not leaf.is_floating_point():
            return leaf
        changed.append(leaf)
        drawn = torch.randn(leaf.shape, generator=generator, dtype=torch.float32).to(leaf)
        return leaf + level * leaf.float().std().to(leaf.dtype) * drawn

    result = map_tensors(noisy, x)
    return result if changed else None


def _noisy(add: AddNoise, level: float, generator: torch.Generator, x: Any) -> Any:
    return add(x, level, generator)


@torch.no_grad()
def _score(
    model: nn.Module,
    loader: Loader,
    task: Task,
    metric: str,
    modality: str,
    noisy: Callable[[Any], Any],
    device: Any,
) -> float | None:
    """Score with noise in one modality; None where its input holds nothing that noise can be added to."""
    logits, targets = [], []
    with in_eval_mode(model):
        for inputs, target in loader:
            changed = noisy(inputs[modality])
            if changed is None:
                return None
            shown = {**inputs, modality: changed}
            moved = shown if device is None else map_tensors(lambda leaf: leaf.to(device), shown)
            logits.append(split_output(model(moved))[0].float().cpu())
            targets.append(target.cpu())
    if not targets:
        raise ValueError("the loader gave no batch the second time; give a DataLoader or a list, not an iterator")
    value = float(task.figures(torch.cat(logits), torch.cat(targets))[metric])
    return -value if metric in LOWER_IS_BETTER else value
