"""The data and the model of a run, from its settings."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from dataclasses import dataclass

from torch import nn

from gradmod.datasets.load import load_dataset
from gradmod.datasets.registry import DatasetInfo, dataset_info
from gradmod.datasets.splits import Splits
from gradmod.errors import ConfigError
from gradmod.experiments.config import Config
from gradmod.methods.registry import build_method
from gradmod.models.build import build_model
from gradmod.models.masked import MaskedModel
from gradmod.tasks import Classification, Task
from gradmod.training.loading import sensible_workers
from gradmod.training.randomness import seed_all
from gradmod.wrapper import ModulatedModel


@dataclass(frozen=True)
class Parts:
    """What a run trains: its data, its model, and what its targets are."""

    data: Splits
    model: ModulatedModel
    task: Task
    workers: int


def build_parts(config: Config) -> Parts:
    """Make data and model of a run. The same seed gives the same initial weights, whatever the method.

    Raises:
        ConfigError: settings that do not go together.
        DataError: the data cannot be read.
    """
    data = load_dataset(
        config.data.dataset, config.data.root, config.data.protocol, config.data.split_seed, config.data.options
    )
    info = dataset_info(config.data.dataset)
    modality = config.data.modality
    if modality != "multimodal" and modality not in info.modalities:
        raise ConfigError(
            f"data.modality is {modality!r}; {info.name} has {', '.join(info.modalities)}, or multimodal for all of "
            "them"
        )
    seed_all(config.train.seed)
    network = _network(config, data.train.shapes, info)
    modalities = info.modalities if modality == "multimodal" else (modality,)
    method = build_method(
        config.method.method,
        modalities,
        alpha=config.method.alpha,
        cap=config.method.cap,
        epochs=config.method.window,
    )
    task = Classification()
    try:
        model = ModulatedModel(network, method, task=task, coalitions=config.method.coalitions)
    except ValueError as error:
        raise ConfigError(str(error)) from None
    if config.train.batch_size < 2 * config.train.devices * config.train.nodes:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, shared by {config.train.devices * config.train.nodes} "
            "process(es); expected at least 2 samples for each"
        )
    if len(data.train) < 2 * config.train.devices * config.train.nodes:
        raise ConfigError(f"the training split has {len(data.train)} samples; expected at least 2 for each process")
    workers = config.train.workers
    return Parts(data, model, task, sensible_workers(info.decodes) if workers is None else workers)


def describe_splits(data: Splits) -> Iterator[str]:
    """What a user should see of the data before it is trained on: sizes, class counts, notes; a line each."""
    for name, split in data.items():
        counts = split.class_counts()
        classes = "" if counts is None else "; by class: " + " ".join(f"{c}:{n}" for c, n in counts.items())
        yield f"{name}: {len(split)} samples{classes}"
    yield from (f"note: {note}" for note in data.notes)


def _network(config: Config, shapes: dict[str, tuple[int, ...]], info: DatasetInfo) -> nn.Module:
    """The network. For one modality alone: its encoder and head; with early fusion the whole, the others masked."""
    encoder = info.encoder if config.model.encoder == "auto" else config.model.encoder
    alone = config.data.modality
    if alone != "multimodal" and config.model.fusion != "early":
        shapes = {alone: shapes[alone]}
    network = build_model(shapes, info.classes, encoder, config.model.fusion, config.model.width)
    if info.initialisation is not None:
        module, _, function = info.initialisation.partition(":")
        getattr(importlib.import_module(module), function)(network)
    if alone != "multimodal" and config.model.fusion == "early":
        return MaskedModel(network, shown=(alone,), shapes=shapes)
    return network
