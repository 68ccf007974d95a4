"""Mono-modal concepts: what each modality learns without competition, trained once and kept by content.

A concept is an ordinary run of one modality (late fusion: its encoder and head alone; early fusion: the same network,
the others masked). Its folder is named by a hash of the data, the model, the settings and the seed.
"""

from __future__ import annotations

import hashlib
import json
from contextlib import AbstractContextManager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from gradmod.experiments.datasets.split import Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError, TrainingError
from gradmod.experiments.files import read_arrays, write_arrays
from gradmod.experiments.runs.locks import acquired
from gradmod.experiments.runs.names import RESULT
from gradmod.experiments.settings.config import Config, MethodConfig, MonitorConfig
from gradmod.experiments.training.evaluation import predict_features
from gradmod.experiments.training.opening import open_run
from gradmod.experiments.training.parts import modalities_of

FORMAT = 2
"""Another number where the same settings and data give another concept than before."""


@dataclass(frozen=True)
class Concept:
    """A mono-modal concept.

    Attributes:
        modality: its modality.
        config: settings of its run, place and name included.
    """

    modality: str
    config: Config

    @property
    def folder(self) -> Path:
        """Where it lies."""
        return Path(self.config.train.out) / self.config.train.name

    @property
    def is_trained(self) -> bool:
        """Whether its run is finished."""
        return (self.folder / RESULT).is_file()

    def lock(self) -> AbstractContextManager[None]:
        """Hold it while it is trained or its outputs are computed; others wait."""
        return acquired(self.folder.with_suffix(".lock"))


def concepts_of(config: Config, data: Splits) -> dict[str, Concept]:
    """The concept of every modality that a run is measured against, trained or not.

    Args:
        config: the run's settings.
        data: its data.

    Raises:
        ConfigError: a run of one modality.
    """
    if config.data.modality != "multimodal":
        raise ConfigError(
            f"the run has one modality, {config.data.modality}: nothing competes with it"
        )
    out = config.monitor.concepts or str(Path(config.train.out) / "concepts")
    concepts = {}
    for modality in modalities_of(config, data):
        alone = replace(
            config,
            data=replace(config.data, modality=modality),
            method=MethodConfig(method="joint"),
            train=replace(
                config.train,
                out=out,
                save_every=0,
                score_test=True,
                devices=1,
                nodes=1,
                strategy="auto",
                sync_batch_norm=False,
            ),
            monitor=MonitorConfig(),
        )
        name = f"{config.data.short_name}-{config.model.label}-{modality}-seed{config.train.seed}"
        name += f"-{_hash(alone, data.content_hash)}"
        concepts[modality] = Concept(
            modality, replace(alone, train=replace(alone.train, name=name))
        )
    return concepts


def predictor_split(config: Config, data: Splits) -> Split:
    """What competition strength is fitted on.

    Raises:
        ConfigError: the protocol has none.
    """
    if data.predictor is None:
        raise ConfigError(
            f"the protocol {config.data.protocol!r} of {config.data.dataset} has no predictor split, on which "
            "competition strength is fitted; use the protocol heldout"
        )
    return data.predictor


def concept_outputs(
    concept: Concept, split: str, data: Splits, kind: str = "logits"
) -> npt.NDArray[np.float32]:
    """[rows, C] what a concept says on a split, or the features that its head reads; computed once, then kept.

    Raises:
        ConfigError: it is not trained.
        TrainingError: it says the same of every sample, so that there is nothing to look for.
    """
    if not concept.is_trained:
        raise ConfigError(
            f"the mono-modal concept of {concept.modality!r} is not trained ({concept.folder}): `gradmod train "
            "--competition-every N` on one process trains it first, and so does `gradmod competition RUN`"
        )
    path = concept.folder / "outputs" / f"{split}.npz"
    if not path.is_file():
        with concept.lock():
            if not path.is_file():
                _compute_outputs(concept, split, data, path)
    outputs = read_arrays(path, (kind,))[kind]
    if not np.ptp(outputs, axis=0).any():
        raise TrainingError(
            f"the mono-modal concept of {concept.modality!r} says the same of every sample of {split} ({kind} in "
            f"{path}): it has learnt nothing that could be suppressed. Train it longer or with another learning rate, "
            "or leave out --competition-every"
        )
    return outputs


def _compute_outputs(concept: Concept, split: str, data: Splits, path: Path) -> None:
    run = open_run(concept.folder, "best", data)
    features, logits = predict_features(
        run.fabric,
        run.model,
        run.split(split),
        batch_size=run.config.train.batch_size,
        workers=run.parts.workers,
    )
    path.parent.mkdir(exist_ok=True)
    write_arrays(path, {"features": features.numpy(), "logits": logits.numpy()})


def _hash(config: Config, content: str) -> str:
    """Of what the figures of a run depend on; not of where it lies and what it is called."""
    sections: dict[str, Any] = asdict(config)
    del sections["monitor"]
    del sections["data"]["root"]
    for section, key in (("data", "dataset"), ("model", "model")):
        place, colon, name = sections[section][key].rpartition(":")
        # Code of the user's may lie anywhere.
        sections[section][key] = f"{Path(place).name}{colon}{name}"
    for neutral in ("out", "name", "workers", "device", "log_every", "timeout"):
        del sections["train"][neutral]
    text = json.dumps([FORMAT, sections, content], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()[:12]
