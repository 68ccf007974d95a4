"""The data and the model of a run, from its settings."""

from __future__ import annotations

import inspect
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import numpy as np
from torch import nn

from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.registry import DatasetInfo, dataset_info
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.import_strings import load_object
from gradmod.experiments.methods.registry import build_method
from gradmod.experiments.models import ENCODERS
from gradmod.experiments.settings.config import Config, ModelConfig
from gradmod.experiments.training.loading import sensible_workers
from gradmod.experiments.training.network import build_model, suitable_encoder
from gradmod.experiments.training.own_network import load_network
from gradmod.experiments.training.randomness import Stream, seed_all
from gradmod.experiments.training.trials import divide
from gradmod.models.masked import MaskedModel
from gradmod.tasks import Task
from gradmod.wrapper import ModulatedModel


@dataclass(frozen=True)
class Parts:
    """What a run trains: its data, its model, and what its targets are."""

    data: Splits
    model: ModulatedModel
    task: Task
    workers: int


def read_data(config: Config) -> Splits:
    """Read the data set of a run.

    Raises:
        ConfigError: settings that do not go together.
        DataError: the data cannot be read.
    """
    data = config.data
    return load_dataset(data.dataset, data.root, data.protocol, data.split_seed, data.options)


def modalities_of(config: Config, data: Splits) -> tuple[str, ...]:
    """All modalities of a data set, whatever a run is trained on."""
    return (
        data.modalities or dataset_info(config.data.dataset).modalities or tuple(data.train.sources)
    )


def build_parts(config: Config, data: Splits | None = None) -> Parts:
    """Make data and model of a run. The same seed gives the same initial weights, whatever the method.

    Args:
        config: the run's settings.
        data: its data, where they are read already.

    Raises:
        ConfigError: settings that do not go together.
        DataError: the data cannot be read.
    """
    data = read_data(config) if data is None else data
    info = dataset_info(config.data.dataset)
    modality, modalities = config.data.modality, modalities_of(config, data)
    if modality != "multimodal" and modality not in modalities:
        raise ConfigError(
            f"data.modality is {modality!r}; {info.name} has {', '.join(modalities)}, or multimodal for all of them"
        )
    seed_all(config.train.seed, Stream.WEIGHTS)
    network = _network(config, data, modalities, info)
    if config.train.sync_batch_norm:
        network = nn.SyncBatchNorm.convert_sync_batchnorm(network)  # type: ignore[no-untyped-call]
    modalities = modalities if modality == "multimodal" else (modality,)
    method = build_method(
        config.method.method, modalities, config.method.settings, seed=config.train.seed
    )
    try:
        model = ModulatedModel(network, method, task=data.task, coalitions=config.method.coalitions)
        if not model.has_sizes:
            sample, _ = data.train.read(np.arange(min(2, len(data.train))))
            model.give_heads_their_sizes(sample)
    except (ValueError, RuntimeError) as error:
        raise ConfigError(str(error)) from None
    if config.train.batch_size < 2 * config.train.devices * config.train.nodes:
        raise ConfigError(
            f"train.batch_size is {config.train.batch_size}, shared by {config.train.devices * config.train.nodes} "
            "process(es); expected at least 2 samples for each"
        )
    if len(data.train) < 2 * config.train.devices * config.train.nodes:
        raise ConfigError(
            f"the training split has {len(data.train)} samples; expected at least 2 for each process"
        )
    divided = divide(
        data.train, method, config.train.seed, config.train.devices * config.train.nodes
    )
    trained = len(divided.trained if divided and not method.trains_on_held_out else data.train)
    rest = trained % config.train.batch_size
    if config.train.sync_batch_norm and 2 <= rest < config.train.devices * config.train.nodes:
        raise ConfigError(
            f"the last batch of an epoch has {rest} samples ({trained} in all, train.batch_size "
            f"{config.train.batch_size}), fewer than the {config.train.devices * config.train.nodes} processes whose "
            "samples train.sync_batch_norm takes together; choose another --batch-size"
        )
    workers = config.train.workers
    return Parts(
        data, model, data.task, sensible_workers(info.decodes) if workers is None else workers
    )


def describe_splits(data: Splits) -> Iterator[str]:
    """What a user should see of the data before it is trained on: sizes, class counts, notes; a line each."""
    for name, split in data.items():
        counts = split.class_counts()
        classes = (
            ""
            if counts is None
            else "; by class: " + " ".join(f"{c}:{n}" for c, n in counts.items())
        )
        yield f"{name}: {len(split)} samples{classes}"
        for m, has in split.present.items():
            if not has.all():
                yield f"{name}: {len(has) - int(has.sum())} of {len(has)} samples lack {m}"
    yield from (note if note.startswith("warning: ") else f"note: {note}" for note in data.notes)


def _network(
    config: Config, data: Splits, modalities: Sequence[str], info: DatasetInfo
) -> nn.Module:
    """The network. For one modality alone: its encoder and head, or the whole with the others masked."""
    model, alone = config.model, config.data.modality
    outputs = data.outputs or info.classes
    if not outputs:
        raise ConfigError(
            f"{info.title} does not say how many classes there are; expected Splits(outputs=...)"
        )
    one_network = bool(model.model) or info.network is not None
    masks = alone != "multimodal" and (one_network or model.fusion == "early")
    network: nn.Module
    if model.model:
        network = load_network(model.model, data.train, outputs)
    elif info.network is not None:
        network = _own_network(config, data, outputs, info)
    else:
        taken = modalities if alone == "multimodal" or masks else (alone,)
        encoder = _encoder_setting(model, info, modalities, taken)
        _refuse_other_encoders(encoder, data, taken)
        _refuse_norm_without_mlp(model, info, data.train.shapes, modalities)
        network = build_model(
            {m: data.train.shapes[m] for m in taken},
            outputs,
            encoder,
            model.fusion,
            width=model.width,
            layers=model.layers,
            masks_padding=model.padding == "masked",
            norm=model.norm,
        )
    if info.initialisation is not None and not model.model:
        load_object(info.initialisation)(network)
    return MaskedModel(network, shown=(alone,), modalities=modalities) if masks else network


def _refuse_other_encoders(
    encoder: str | dict[str, str], data: Splits, modalities: Sequence[str]
) -> None:
    """Sequences come with their padding, as a dict, which the transformer alone takes; and it takes nothing else."""
    sample, _ = data.train.read(np.zeros(1, dtype=np.int64))
    for m in modalities:
        kind = encoder if isinstance(encoder, str) else encoder.get(m, "")
        if isinstance(sample[m], dict) != (kind == "transformer") and kind in ENCODERS:
            what = (
                "sequences: use transformer"
                if isinstance(sample[m], dict)
                else "no sequences: use mlp"
            )
            raise ConfigError(f"model.encoder is {kind!r} for {m!r}, whose samples are {what}")


def _refuse_norm_without_mlp(
    model: ModelConfig,
    info: DatasetInfo,
    shapes: Mapping[str, tuple[int, ...]],
    modalities: Sequence[str],
) -> None:
    """Where `auto` is chosen by the shape of a sample, so that settings alone do not tell. Of all modalities, whichever
    is trained: one alone has the settings of all."""
    if not model.norm:
        return
    encoder = _encoder_setting(model, info, modalities, modalities)
    kinds = dict.fromkeys(modalities, encoder) if isinstance(encoder, str) else encoder
    found = {
        m: suitable_encoder(shapes[m]) if kind == "auto" else kind
        for m, kind in kinds.items()
        if m in shapes
    }
    if "mlp" not in found.values():
        listed = ", ".join(f"{m}={kind}" for m, kind in found.items())
        raise ConfigError(
            f"model.norm is true and makes no difference: it is batch norm in MLPs, and the encoders are {listed}. "
            "Leave it out, or choose --encoder mlp"
        )


def _encoder_setting(
    model: ModelConfig, info: DatasetInfo, modalities: Sequence[str], taken: Sequence[str]
) -> str | dict[str, str]:
    """One encoder for all, or one for each modality that is taken."""
    by_name = {m: info.encoder if kind == "auto" else kind for m, kind in model.encoders.items()}
    if "" in by_name:
        return by_name[""]
    return {m: kind for m, kind in by_name.items() if m in taken or m not in modalities}


def _own_network(config: Config, data: Splits, outputs: int, info: DatasetInfo) -> nn.Module:
    """The data set's own network, with those settings of [model] that it takes."""
    kind = load_object(str(info.network))
    takes = inspect.signature(kind).parameters
    settings: dict[str, Any] = {
        "width": config.model.width,
        "layers": config.model.layers,
        "masks_padding": None if config.model.padding == "masked" else False,
    }
    chosen = {name: value for name, value in settings.items() if value is not None}
    for name in chosen:
        if name not in takes:
            raise ConfigError(
                f"model.{name.replace('masks_', '')} is set, but {info.title}'s network does not take it"
            )
    try:
        return cast(nn.Module, kind(classes=outputs, **data.network, **chosen))
    except ValueError as error:
        raise ConfigError(str(error)) from None
