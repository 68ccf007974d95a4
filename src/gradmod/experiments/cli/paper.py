"""The command line of the paper's published code, mapped on our settings.

Every flag of it is there, with its default. What it cannot do here, or what makes no difference, is an error; with one
exception, which is said: the published README itself gives --alpha to --methods Normal.
"""

from __future__ import annotations

import argparse
import os
import re
from collections.abc import Collection, Sequence

from gradmod.experiments.cli.paper_flags import (
    DATASETS,
    FUSIONS,
    METHODS,
    MODALITIES,
    SCHEDULES,
    given,
    parser,
)
from gradmod.experiments.datasets.registry import DATASETS as REGISTERED
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.entry import MethodSettings
from gradmod.experiments.methods.registry import method_entry
from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    TrainConfig,
)

PUBLISHED_CAPS = {"CREMAD": 10.0, "URFunny": 7.0}
"""Caps in the published code; the other data sets have none."""
PUBLISHED_LR_FACTORS: dict[str, str] = {
    "AV-MNIST": "audio=1.3,visual=0.7",
    "CREMAD": "audio=0.9,visual=1.1",
    "URFunny": "audio=0.9,visual=1.4,text=0.7",
}
PUBLISHED_PATIENCE = {"AV-MNIST": "10", "URFunny": "30", "CREMAD": "80"}
"""MSLR's initial factors and MSES' patience in the published code, which has neither for the other data sets."""
CONVOLUTIONAL = ("AV-MNIST", "CREMAD")
"""Data sets of ResNets, where OGM-GE's published filter (convolutions) finds something."""
WITH_A_NETWORK = frozenset(name for name, info in REGISTERED.items() if info.network is not None)
"""Data sets that have one network, whatever the fusion."""
PUBLISHED_CLIP_NORM = 1.0
"""AV-MNIST and CREMA-D: all gradients to norm 1, when an entry of the head's weight gradient exceeds 1 in size."""


MODULATING = ("AGM", "OGM-GE")
"""Methods with a strength and a window of epochs."""
FIELDS = {
    "data.dataset": "dataset",
    "data.root": "data_root",
    "data.modality": "modality",
    "model.fusion": "fusion_type",
    "method.method": "methods",
    **{
        f"{method}.{name}": flag
        for method in ("agm", "ogm-ge")
        for name, flag in (
            ("alpha", "alpha"),
            ("starts", "modulation_starts"),
            ("ends", "modulation_ends"),
        )
    },
    "optimizer.optimizer": "optim",
    "optimizer.lr": "learning_rate",
    "optimizer.schedule": "lr_scalar",
    "optimizer.decay_every": "lr_decay_step",
    "optimizer.decay_factor": "lr_decay_ratio",
    "train.epochs": "EPOCHS",
    "train.batch_size": "batch_size",
    "train.seed": "random_seed",
    "train.device": "device",
    "train.out": "expt_dir",
    "train.name": "expt_name",
}
"""Our settings, and the paper's flags that set them."""


def settings(options: argparse.Namespace, *, cuda: bool) -> tuple[Config, list[str]]:
    """Map the paper's flags.

    Args:
        options: what `parser` parsed.
        cuda: whether there is a CUDA device.

    Returns:
        Our settings, and what the user should be told of them, a line each.

    Raises:
        ConfigError: a value that cannot be.
    """
    notes: list[str] = []
    device, devices = _device(options, cuda, notes)
    windowed = options.methods in MODULATING
    multimodal = options.modality == "Multimodal"
    method = METHODS[options.methods] if multimodal else "joint"
    if options.methods in MODULATING and options.modulation_starts > options.EPOCHS:
        raise ConfigError(
            f"--modulation_starts is {options.modulation_starts}, after the last of {options.EPOCHS} epochs: "
            f"{options.methods} would be joint training. Start earlier, or train longer"
        )
    if not multimodal and options.methods != "Normal":
        raise ConfigError(
            f"--methods {options.methods} needs several modalities; --modality {options.modality} goes with --methods "
            "Normal"
        )
    if windowed and options.modulation_ends < options.EPOCHS:
        notes.append(
            f"{options.methods} modulates up to epoch {options.modulation_ends} of {options.EPOCHS} and is joint "
            f"training after it: this is the published default. For the whole run: --modulation_ends {options.EPOCHS}"
        )
    if options.SHAPE_contribution and not multimodal:
        raise ConfigError(
            f"--SHAPE_contribution: with --modality {options.modality} there is nothing to divide"
        )
    embedded = options.dataset == "AV-Digits"
    config = Config(
        DataConfig(
            dataset=DATASETS[options.dataset],
            root=options.data_root,
            protocol="heldout" if embedded else "published",
            modality=MODALITIES[options.modality],
        ),
        ModelConfig(fusion=FUSIONS[options.fusion_type]),
        MethodConfig(method, settings=_settings_of(method, options)),
        OptimizerConfig(
            optimizer=options.optim,
            lr=options.learning_rate,
            schedule=SCHEDULES[options.lr_scalar],
            decay_every=options.lr_decay_step,
            decay_factor=options.lr_decay_ratio,
            weight_decay=0.0 if options.optim == "adam" else 1e-4,
            clip_norm=PUBLISHED_CLIP_NORM,
            clip_when="head",
        ),
        TrainConfig(
            epochs=options.EPOCHS,
            batch_size=options.batch_size,
            seed=options.random_seed,
            device=device,
            devices=devices,
            out=options.expt_dir,
            name=options.expt_name,
        ),
        MonitorConfig(shape_every=int(options.SHAPE_contribution and multimodal)),
    )
    return config, notes


def _settings_of(method: str, options: argparse.Namespace) -> MethodSettings:
    """The settings of a method: the paper's flags, and what its code has for each data set."""
    entry, dataset = method_entry(method), options.dataset
    published = {
        "alpha": options.alpha,
        "starts": options.modulation_starts,
        "ends": options.modulation_ends,
        "cap": PUBLISHED_CAPS.get(dataset),
        "filter": "published" if dataset in CONVOLUTIONAL else "all",
        "initial": PUBLISHED_LR_FACTORS.get(dataset, ""),
        "patience": PUBLISHED_PATIENCE.get(dataset, "10"),
    }
    return entry.settings(
        **{name: published[name] for name in entry.setting_names if name in published}
    )


def run(arguments: Sequence[str]) -> None:
    """Run the paper's command line: train, or evaluate or go on where a path says so.

    Raises:
        GradmodError: whatever is wrong.
    """
    options, named = parser().parse_args(arguments), given(arguments)
    if options.checkpoint_path and options.breakpoint_path:
        raise ConfigError(
            "--checkpoint_path evaluates and --breakpoint_path goes on training; give one of them"
        )
    notes = refuse_without_effect(options, named, os.environ.get("LOCAL_RANK"))
    import torch

    from gradmod.experiments.reporting.tables import figures_table, show_run, show_table
    from gradmod.experiments.training import run as runs
    from gradmod.experiments.training.opening import locate, run_config

    if options.checkpoint_path:
        folder, checkpoint = locate(options.checkpoint_path, default="best")
        config = run_config(folder)
        split = "test" if config.data.protocol == "heldout" else "validation"
        figures = runs.evaluate(folder, split=split, checkpoint=checkpoint, root=options.data_root)
        show_table(figures_table({split: figures}, title=f"{folder}, checkpoint {checkpoint}"))
        return
    if options.breakpoint_path:
        folder, checkpoint = locate(options.breakpoint_path, default="last")
        epochs = options.EPOCHS if "EPOCHS" in named else None
        summary = runs.resume(folder, checkpoint=checkpoint, epochs=epochs, root=options.data_root)
    else:
        config, more = settings(options, cuda=torch.cuda.is_available())
        for note in [*notes, *more]:
            print(f"note: {note}", flush=True)
        summary = runs.train(config, unique=True)
    if summary is not None:
        show_run(summary.folder, summary.result)


def refuse_without_effect(
    options: argparse.Namespace, named: Collection[str], rank: str | None
) -> list[str]:
    """Refuse flags that make no difference.

    Args:
        options: all values.
        named: the flags that were given.
        rank: of this process on its machine, by the launcher's environment; None: there is no launcher.

    Returns:
        What is to be said of a flag that makes none and is let through.

    Raises:
        ConfigError: names them, and why.
    """
    if options.local_rank not in (-1, int(rank or 0)):
        raise ConfigError(
            f"--local_rank is {options.local_rank}, but the environment of the launcher says "
            f"{rank or 'that there is none'}: start several processes with torchrun, or --use_mgpu True"
        )
    saved = {
        "checkpoint_path": ("checkpoint_path", "data_root"),
        "breakpoint_path": ("breakpoint_path", "EPOCHS", "data_root"),
    }
    for path, used in saved.items():
        idle = [f"--{name}" for name in sorted(set(named) - {*used, "local_rank"})]
        if getattr(options, path) and idle:
            raise ConfigError(
                f"{', '.join(idle)} makes no difference with --{path}: the run's own settings hold. Leave out what "
                f"changes nothing; used are {', '.join(f'--{name}' for name in used)}"
            )
    found: dict[str, str] = {}
    if options.dataset == "AV-Digits" and options.data_root:
        found["data_root"] = "to --dataset AV-Digits, which is embedded"
    if DATASETS[options.dataset] in WITH_A_NETWORK:
        found["fusion_type"] = f"to --dataset {options.dataset}, which has one network of its own"
    if options.methods not in MODULATING:
        for name in ("modulation_starts", "modulation_ends"):
            found[name] = f"to --methods {options.methods}"
    if options.lr_scalar != "lrstep":
        for name in ("lr_decay_step", "lr_decay_ratio"):
            found[name] = f"to --lr_scalar {options.lr_scalar}"
    if options.use_mgpu:
        found["device"] = "with --use_mgpu True, where --gpu_ids says it"
    else:
        found["gpu_ids"] = "without --use_mgpu True"
    if not options.save_checkpoint:
        found["save_checkpoint"] = "as False: checkpoints are always written"
    idle = [
        f"--{name} makes no difference {reason}" for name, reason in found.items() if name in named
    ]
    if idle and not (options.checkpoint_path or options.breakpoint_path):
        raise ConfigError(f"{'; '.join(idle)}. Leave out what changes nothing")
    notes = []
    if "alpha" in named and options.methods not in MODULATING:
        notes.append(f"--alpha makes no difference to --methods {options.methods}")
    if (
        options.lr_scalar == "lrstep"
        and options.lr_decay_step >= options.EPOCHS
        and "lr_decay_step" in named
    ):
        notes.append(
            f"--lr_decay_step {options.lr_decay_step} makes no difference in {options.EPOCHS} epochs"
        )
    return notes


def in_flags(message: str) -> str:
    """An error, in which settings are called as the paper's flags that set them."""
    for field, flag in FIELDS.items():
        message = re.sub(rf"(?<![\w./\\:-]){re.escape(field)}\b(?!\.\w)", f"--{flag}", message)
    return message.replace("say --epochs ", "say --EPOCHS ").replace("--root", "--data_root")


def _device(options: argparse.Namespace, cuda: bool, notes: list[str]) -> tuple[str, int]:
    if options.use_mgpu:
        ids = options.gpu_ids.replace(" ", "")
        if not cuda:
            raise ConfigError(
                f"--use_mgpu True with --gpu_ids {options.gpu_ids}, but torch sees no CUDA device here"
            )
        return f"cuda:{ids}", len(ids.split(","))
    if options.device.startswith("cuda") and not cuda:
        notes.append(
            f"--device {options.device}: torch sees no CUDA device here, so this runs on the cpu"
        )
        return "cpu", 1
    return str(options.device), 1
