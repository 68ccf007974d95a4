"""What is measured at the end of an epoch beside the validation: SHAPE scores and competition strength."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import numpy.typing as npt

from gradmod.diagnosis.attribution import attribute, predict_coalitions
from gradmod.experiments.datasets.split import Split
from gradmod.experiments.errors import GradmodError, TrainingError
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training.concepts import concept_outputs, concepts_of, predictor_split
from gradmod.experiments.training.evaluation import predict_features
from gradmod.experiments.training.loading import split_batches
from gradmod.experiments.training.parts import Parts
from gradmod.metrics.competition import competition_strength
from gradmod.tasks import Task
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric

Concepts = Mapping[str, tuple[npt.NDArray[np.float32], npt.NDArray[np.float32]]]


class Monitor(Protocol):
    """Measures a model every few epochs."""

    name: str
    every: int

    def measure(self, model: ModulatedModel) -> dict[str, Any]:
        """Figures as plain values. Every process calls it."""


class ShapeMonitor:
    """SHAPE scores on a split; every process goes over the whole of it."""

    name = "shape"

    def __init__(
        self, every: int, fabric: Fabric, split: Split, task: Task, batch_size: int, workers: int
    ) -> None:
        self.every = every
        self._fabric, self._split, self._task = fabric, split, task
        self._batch_size, self._workers = batch_size, workers

    def measure(self, model: ModulatedModel) -> dict[str, Any]:
        """Shares and Shapley values by modality, and the cooperation.

        Raises:
            TrainingError: the model's answers to masked inputs are not finite.
        """
        loader = split_batches(self._fabric, self._split, self._batch_size, self._workers)
        try:
            with self._fabric.autocast():
                predictions = predict_coalitions(model.model, loader, model.method.modalities)
            scores = attribute(predictions, self._task, replicates=0).scores
        except GradmodError:
            raise
        except ValueError as error:
            raise TrainingError(f"SHAPE scores on the validation split: {error}") from None
        return {
            "contributions": scores.contributions,
            "values": scores.values,
            "cooperation": scores.cooperation,
        }


class CompetitionMonitor:
    """Competition strength, the predictor fitted on one split and the strength taken on another.

    Args:
        every: epochs between two measurements.
        fabric: device and precision.
        fit: the predictor split.
        evaluated: the evaluation split.
        concepts: by modality the concept's outputs on both.
        batch_size: of the passes.
        workers: processes that read ahead.
    """

    name = "competition"

    def __init__(
        self,
        every: int,
        fabric: Fabric,
        fit: Split,
        evaluated: Split,
        concepts: Concepts,
        batch_size: int,
        workers: int,
    ) -> None:
        self.every = every
        self._fabric, self._fit, self._evaluated, self._concepts = fabric, fit, evaluated, concepts
        self._batch_size, self._workers = batch_size, workers

    def measure(self, model: ModulatedModel) -> dict[str, Any]:
        """Strength by modality."""
        fit, evaluated = self._features(model, self._fit), self._features(model, self._evaluated)
        return {
            m: competition_strength(fit, on_fit, evaluated, on_evaluated)
            for m, (on_fit, on_evaluated) in self._concepts.items()
        }

    def _features(self, model: ModulatedModel, split: Split) -> npt.NDArray[np.float32]:
        features, _ = predict_features(
            self._fabric, model, split, batch_size=self._batch_size, workers=self._workers
        )
        return np.asarray(features)


def make_monitors(config: Config, fabric: Fabric, parts: Parts) -> list[Monitor]:
    """The monitors that a run's settings ask for.

    Raises:
        ConfigError: competition strength is asked for and a concept is missing, or the protocol has no predictor split.
    """
    wanted, monitors = config.monitor, list[Monitor]()
    reading = config.train.batch_size, parts.workers
    if wanted.shape_every:
        monitors.append(
            ShapeMonitor(wanted.shape_every, fabric, parts.data.validation, parts.task, *reading)
        )
    if wanted.competition_every:
        fit, evaluated = predictor_split(config, parts.data), parts.data.validation
        outputs = {
            m: (
                concept_outputs(concept, "predictor", parts.data, wanted.concept),
                concept_outputs(concept, "validation", parts.data, wanted.concept),
            )
            for m, concept in concepts_of(config, parts.data).items()
        }
        monitors.append(
            CompetitionMonitor(wanted.competition_every, fabric, fit, evaluated, outputs, *reading)
        )
    return monitors
