"""A run from its settings to its folder: begun, or gone on with."""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
import torch.distributed as dist

from gradmod.experiments.datasets.fingerprint import record_of
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import CheckpointError, ConfigError, GradmodError, damage_in
from gradmod.experiments.files import write_json
from gradmod.experiments.methods.entry import table_of
from gradmod.experiments.runs.checkpoints import Checkpoints
from gradmod.experiments.runs.folder import (
    command_line,
    create_run_folder,
    git_revision,
    remove_leftovers,
    versions,
)
from gradmod.experiments.runs.names import CONFIG, METRICS, RESULT
from gradmod.experiments.runs.recorder import Recorder
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import save_config
from gradmod.experiments.training.devices import make_fabric, peak_memory
from gradmod.experiments.training.evaluation import measure, predict, save_predictions
from gradmod.experiments.training.interrupts import interrupts_named
from gradmod.experiments.training.known_data import (
    read_known_data,
    save_known_data,
    with_code_named,
)
from gradmod.experiments.training.loop import Loop
from gradmod.experiments.training.monitors import make_monitors
from gradmod.experiments.training.opening import load_model, run_config
from gradmod.experiments.training.optimization import build_optimizer, load_optimizer_state
from gradmod.experiments.training.parts import Parts, build_parts, describe_splits
from gradmod.experiments.training.position import Position, position_of, refuse_fewer_epochs
from gradmod.experiments.training.processes import as_launched, launch, leave, lost_processes_named

if TYPE_CHECKING:
    from lightning_fabric import Fabric


Prepare = Callable[[Config, Parts], None]
"""What is done with the parts of a run before its first step; not where it goes on from a checkpoint."""


@dataclass(frozen=True)
class RunSummary:
    """A finished run: its folder, and what stands in its result.json."""

    folder: Path
    result: dict[str, Any]


def begin(config: Config, *, prepare: Prepare, unique: bool = False) -> RunSummary | None:
    """Train a new run.

    Args:
        config: its settings.
        prepare: called before its folder is made.
        unique: add a number to the name in the settings where it is taken, as is done where they name none.

    Returns:
        The run; None on processes other than the first.

    Raises:
        ConfigError, DataError: before anything is written.
        TrainingError, InterruptedRunError: see `Loop.run`.
    """
    config = as_launched(config)
    fabric = make_fabric(config.train)
    launch(fabric)
    with lost_processes_named(fabric):
        parts = build_parts(config)
        prepare(config, parts)
        folder = _new_folder(config, fabric, parts.data, unique=unique or not config.train.name)
    return _train(config, folder, fabric, parts, state=None)


def go_on(
    folder: Path | str,
    *,
    prepare: Prepare,
    checkpoint: str = "last",
    epochs: int | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> RunSummary | None:
    """Go on with a run from a checkpoint; without any checkpoint, from its start.

    Args:
        folder: the run's folder.
        prepare: called where it goes on from its very start.
        checkpoint: `last`, `previous`, `best`, or a path.
        epochs: train to this epoch in place of the one in the run's settings, which are changed.
        devices: processes on this machine in place of those in the run's settings, which are changed. Every step has
            the same samples for any number of processes.
        nodes: the same for the number of machines.
        dataset: the run's data set again, where it is code of the user's own.
        model: the same for its network.
        method: the same for its method.
        root: where the run's data lie now, in place of where its settings say, which are changed.

    Raises:
        CheckpointError: no run there, or the checkpoint is damaged; names those that are whole. Or a run that was
            trained has no checkpoint any more.
        ConfigError: the run is finished or further than `epochs`; it has code of the user's own that is not named.
        DataError: its data cannot be read, or are others than it was trained on.
    """
    folder = Path(folder)
    saved = run_config(folder)
    given = {"epochs": epochs, "devices": devices, "nodes": nodes}
    changes: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    if dist.is_torchelastic_launched():  # its numbers count, whatever the run began with
        changes = {"devices": 1, "nodes": 1, **changes}
    code = {"dataset": dataset, "model": model, "method": method}
    named = with_code_named(saved, folder, code, root)
    config = as_launched(replace(named, train=replace(saved.train, **changes)))
    checkpoints = Checkpoints(folder)
    state = checkpoints.load(checkpoint) if checkpoints.exist() or checkpoint != "last" else None
    if state is not None:
        refuse_fewer_epochs(state, config.train.epochs)
        if state["epoch"] > config.train.epochs and (folder / RESULT).exists() and epochs is None:
            raise ConfigError(
                f"the run {folder} is finished ({config.train.epochs} epochs); to train on, say --epochs with a larger "
                "number"
            )
    elif (folder / RESULT).exists():  # training it anew would take the place of its figures
        raise CheckpointError(
            f"the run {folder} is finished, but has no checkpoint any more: put its checkpoints back, or train anew "
            "under another --name"
        )
    fabric = make_fabric(config.train)
    launch(fabric)
    parts = build_parts(config, read_known_data(config, folder))
    if state is None:
        prepare(config, parts)
    return _train(config, folder, fabric, parts, state, save=config != saved)


def default_name(config: Config) -> str:
    """Name of a run that was given none."""
    method = table_of(config.method.method)
    what = method if config.data.modality == "multimodal" else config.data.modality
    return f"{config.data.short_name}-{config.model.label}-{what}-seed{config.train.seed}"


def _new_folder(config: Config, fabric: Fabric, data: Splits, *, unique: bool) -> Path:
    """The folder that the first process makes; if it can't, its error on every process, so that none waits for it."""
    made: Path | GradmodError = Path()
    if fabric.is_global_zero:
        try:
            name = config.train.name or default_name(config)
            made = create_run_folder(
                Path(config.train.out), name, config, unique=unique, data=record_of(data)
            )
        except GradmodError as error:
            made = error
    made = fabric.broadcast(made)
    if isinstance(made, GradmodError):
        raise made
    return made


def _train(
    config: Config,
    folder: Path,
    fabric: Fabric,
    parts: Parts,
    state: dict[str, Any] | None,
    save: bool = False,
) -> RunSummary | None:
    """Train from `state` on, and finish the run; `save`: its settings are not yet those in its folder."""
    with interrupts_named(folder), lost_processes_named(fabric, folder):
        position, facts = _trained(config, folder, fabric, parts, state, save)
        summary = _finish(config, folder, fabric, parts, position, facts)
        leave()
    return summary


def _trained(
    config: Config,
    folder: Path,
    fabric: Fabric,
    parts: Parts,
    state: dict[str, Any] | None,
    save: bool,
) -> tuple[Position, dict[str, Any]]:
    """Train to the last epoch; where that leaves it, and what the run is."""
    modalities = parts.model.method.modalities
    if state is not None:
        load_model(parts.model, state, "the run's")
    monitors = make_monitors(config, fabric, parts)
    optimizer = build_optimizer(parts.model.parameter_groups(), config.optimizer)
    wrapped, wrapped_optimizer = fabric.setup(parts.model, optimizer)
    position = Position()
    if state is not None:
        with damage_in(f"the checkpoint of {folder}"):
            load_optimizer_state(optimizer, state["optimizer"])
            fabric.strategy.precision.load_state_dict(state.get("precision", {}))
            position = position_of(state, fabric.device, len(modalities))
    recorder = Recorder(
        folder if fabric.is_global_zero else None,
        modalities,
        keep_bytes=state["log_bytes"] if state is not None else 0,
        first_step=position.step + 1,
    )
    if fabric.is_global_zero:  # not before the log is this process' alone
        remove_leftovers(folder)
        if save:
            save_config(config, folder / CONFIG)
        save_known_data(folder, parts.data)
        if position.epoch <= config.train.epochs:  # a result says that the run is finished
            (folder / RESULT).unlink(missing_ok=True)
    facts = {
        "method": table_of(config.method.method),
        "strategy": parts.model.strategy.name,
        "exact": parts.model.strategy.exact,
        "task": parts.task.name,
        "task_settings": parts.task.settings(),
        "headline": parts.task.headline,
        "lower_is_better": parts.task.lower_is_better,
        "sample_metric": parts.task.sample_metric,
        "seed": config.train.seed,
        "protocol": config.data.protocol,
        "splits": {name: len(split) for name, split in parts.data.items()},
        "class_counts": {name: split.class_counts() for name, split in parts.data.items()},
        "data_notes": list(parts.data.notes),
        "parameters": sum(parameter.numel() for parameter in parts.model.parameters()),
        "device": _device_name(fabric.device),
        "processes": fabric.world_size,
        "workers": parts.workers,
        "precision": config.train.precision,
        "versions": versions(),
        "git": git_revision(),
        "command": command_line(sys.argv),
    }
    if state is None or state["log_bytes"] == 0:
        recorder.start(**facts)
    if fabric.is_global_zero:
        for line in describe_splits(parts.data):
            print(line, file=sys.stderr)
    try:
        Loop(
            config=config,
            folder=folder,
            fabric=fabric,
            model=parts.model,
            wrapped=wrapped,
            optimizer=wrapped_optimizer,
            data=parts.data,
            task=parts.task,
            recorder=recorder,
            workers=parts.workers,
            position=position,
            monitors=monitors,
        ).run()
    finally:
        recorder.close()
    return position, facts


def _finish(
    config: Config,
    folder: Path,
    fabric: Fabric,
    parts: Parts,
    position: Position,
    facts: dict[str, Any],
) -> RunSummary | None:
    """Evaluate the best epoch on every split, each once; write the result, the predictions and the curves."""
    state = Checkpoints(folder).load("best") if fabric.is_global_zero else {}
    load_model(parts.model, fabric.broadcast(state), "best")  # the others may not see the folder
    modalities = parts.model.method.modalities
    figures: dict[str, Any] = {}
    for name, split in parts.data.items():
        if name == "test" and not config.train.score_test:
            continue
        predictions = predict(
            fabric, parts.model, split, batch_size=config.train.batch_size, workers=parts.workers
        )
        figures[name] = measure(predictions, parts.task, modalities)
        if name in ("validation", "test") and fabric.is_global_zero:
            save_predictions(folder, name, predictions)
    if not fabric.is_global_zero:
        return None
    from gradmod.experiments.reporting.plots.curves import plot_curves
    from gradmod.experiments.runs.records import coefficient_range, read_metrics

    result = {
        "dataset": config.data.dataset,
        "modality": config.data.modality,
        "modalities": list(modalities),
        "fusion": config.model.label,
        **facts,
        "epochs": config.train.epochs,
        "epochs_trained": position.epoch - 1,
        "steps": position.step,
        "best_epoch": position.best_epoch,
        "selected_by": f"best {parts.task.headline} on the validation split"
        + (
            ""
            if config.data.protocol == "heldout"
            else ", which is the one reported (published protocol)"
        ),
        "train_seconds": round(position.seconds, 3),
        "peak_memory_mib": peak_memory(fabric.device),
        "splits": figures,
    }
    coefficients = coefficient_range(read_metrics(folder / METRICS))
    if coefficients:
        result["coefficients"] = coefficients
    plot_curves(folder)
    write_json(folder / RESULT, result)  # last: with it the run is finished
    return RunSummary(folder, result)


def _device_name(device: torch.device) -> str:
    if device.type == "cuda":
        return f"{torch.cuda.get_device_name(device)} ({device})"
    return f"{device.type}, {torch.get_num_threads()} threads"
