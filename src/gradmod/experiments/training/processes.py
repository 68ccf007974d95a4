"""Several processes of one run: those that torchrun started, and what is said when one of them is lost."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.distributed as dist
from torch import nn

from gradmod.experiments.errors import ConfigError, TrainingError
from gradmod.experiments.settings.config import Config

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def as_launched(config: Config) -> Config:
    """The settings with the numbers of processes and machines that torchrun started; as they are without torchrun.

    Raises:
        ConfigError: the settings name other numbers.
    """
    if not dist.is_torchelastic_launched():
        return config
    train = config.train
    devices, nodes = int(os.environ["LOCAL_WORLD_SIZE"]), int(os.environ["GROUP_WORLD_SIZE"])
    if train.devices not in (1, devices) or train.nodes not in (1, nodes):
        raise ConfigError(
            f"train.devices is {train.devices} and train.nodes {train.nodes}, but torchrun started {devices} "
            f"process(es) on each of {nodes} machine(s); leave out --devices and --nodes"
        )
    return replace(config, train=replace(train, devices=devices, nodes=nodes))


def launch(fabric: Fabric) -> None:
    """Start the processes of a run, or meet those that were started.

    Raises:
        TrainingError: not all came in time.
    """
    try:
        fabric.launch()
    except RuntimeError as error:
        if fabric.world_size == 1 or not _is_about_communication(error):
            raise
        raise TrainingError(
            f"not all of the {fabric.world_size} processes of the run came together within --timeout; look for their "
            f"own errors beside this one ({_in_short(error)})"
        ) from None


@torch.no_grad()
def share_buffers(model: nn.Module, world: int) -> None:
    """Give every process the buffers of the first, whose model is saved; those of batch norm are each one's own.

    DDP does the same at the beginning of the next training step, so training goes on as it would.
    """
    if world == 1:
        return
    for buffer in model.buffers():
        value = buffer.detach().clone(memory_format=torch.contiguous_format)
        dist.broadcast(value, src=0)
        buffer.copy_(value)


def leave() -> None:
    """Part from the other processes once all are done; without it, one that exits can abort another's threads."""
    if dist.is_initialized():
        dist.barrier()
        dist.destroy_process_group()


@contextmanager
def lost_processes_named(fabric: Fabric, folder: Path | None = None) -> Iterator[None]:
    """Turn what the communication library raises when another process is gone into a clear error.

    Args:
        fabric: of this process.
        folder: the run's folder; None: there is none yet.

    Raises:
        TrainingError: another process of the run ended, or did not answer within the time-out.
    """
    try:
        yield
    except RuntimeError as error:
        if fabric.world_size == 1 or not _is_about_communication(error):
            raise
        raise TrainingError(
            f"process {fabric.global_rank} of {fabric.world_size} lost another one, which ended or did not answer in "
            f"time; look for its own error beside this one ({_in_short(error)}). "
            + (
                "Nothing was written"
                if folder is None
                else f"The run is saved up to its last checkpoint; go on with: gradmod resume {folder}"
            )
        ) from None


def _is_about_communication(error: RuntimeError) -> bool:
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def _in_short(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
