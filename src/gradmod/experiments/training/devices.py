"""From the settings to Fabric: devices, processes, precision."""

from __future__ import annotations

import importlib.util
import sys
import warnings
from datetime import timedelta
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.settings.config import TrainConfig

if TYPE_CHECKING:
    from lightning_fabric import Fabric


def _import_fabric() -> type[Fabric]:
    """Fabric's class, imported without torchmetrics.

    Fabric asks for the version of torchmetrics by importing it, and with it transformers and scipy where they are
    installed: 3 to 5 seconds of every command. It looks at `__version__` first and at the installed metadata
    second, so that an empty module of that name gets the same answer from the metadata.
    """
    name = "torchmetrics"
    stand_in = name not in sys.modules and importlib.util.find_spec(name) is not None
    if stand_in:
        sys.modules[name] = ModuleType(name)
    try:
        from lightning_fabric import Fabric
    finally:
        if stand_in:
            del sys.modules[name]
    return Fabric


def make_fabric(config: TrainConfig) -> Fabric:
    """Fabric for the run's devices, not launched yet.

    Raises:
        ConfigError: the device is not there, the precision needs another one, or Fabric refuses the strategy.
    """
    accelerator, _, numbers = config.device.partition(":")
    if accelerator == "auto":
        accelerator = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    present = {"cuda": torch.cuda.device_count(), "mps": int(torch.backends.mps.is_available())}
    chosen = [int(number) for number in numbers.split(",")] if numbers else []
    if accelerator in present and present[accelerator] <= max([0, *chosen]):
        raise ConfigError(
            f"train.device is {config.device!r}, but torch {torch.__version__} sees {present[accelerator]} "
            f"{accelerator} device(s) here; use auto or cpu"
        )
    if config.precision == "16-mixed" and accelerator == "cpu":
        raise ConfigError(
            "train.precision is '16-mixed', which needs a GPU; on the CPU use bf16-mixed or 32-true"
        )
    if chosen and config.devices not in (1, len(chosen)):
        raise ConfigError(
            f"train.devices is {config.devices}, but train.device {config.device!r} names {len(chosen)}; leave out "
            "one of them"
        )
    if config.sync_batch_norm and accelerator != "cuda":
        raise ConfigError(
            f"train.sync_batch_norm is true on {accelerator!r}; torch synchronises batch norm on GPUs alone: leave it "
            "out"
        )
    Fabric = _import_fabric()
    devices: Any = chosen or config.devices
    processes = (len(chosen) or config.devices) * config.nodes
    strategy = "ddp" if config.strategy == "auto" and processes > 1 else config.strategy
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*GPU available but not used.*")
        try:
            fabric = Fabric(
                accelerator=accelerator,
                devices=devices,
                num_nodes=config.nodes,
                strategy=strategy,
                precision=config.precision,  # type: ignore[arg-type]
            )
        except (ValueError, RuntimeError, ImportError) as error:
            raise ConfigError(
                f"train.strategy {config.strategy!r}, train.device {config.device!r} and train.precision "
                f"{config.precision!r} do not go together, says Lightning Fabric: {error}"
            ) from None
    _expect_whole_models(fabric, config.strategy)
    # Every strategy that waits has it, whatever Fabric made of the name.
    if hasattr(fabric.strategy, "_timeout"):
        fabric.strategy._timeout = timedelta(minutes=config.timeout)
    return fabric


def _expect_whole_models(fabric: Fabric, name: str) -> None:
    """Raise ConfigError unless each process has the whole model, as the checkpoints need it, and runs the command."""
    from lightning_fabric.strategies.ddp import DDPStrategy
    from lightning_fabric.strategies.launchers import _SubprocessScriptLauncher
    from lightning_fabric.strategies.single_device import SingleDeviceStrategy

    if not isinstance(fabric.strategy, (DDPStrategy, SingleDeviceStrategy)):
        raise ConfigError(
            f"train.strategy is {name!r}; expected auto or ddp: checkpoints are of whole models. In a loop of your own "
            "a model can be sharded, fully_shard(ModulatedModel(net, method))"
        )
    launcher = fabric.strategy.launcher
    if launcher is not None and not isinstance(launcher, _SubprocessScriptLauncher):
        raise ConfigError(
            f"train.strategy is {name!r}, whose processes are copies of this one; expected one that starts the command "
            "again in each: use ddp"
        )


def peak_memory(device: torch.device) -> float | None:
    """MiB: on a GPU the most that tensors took, elsewhere the largest resident set of this process; None: not known."""
    if device.type == "cuda":
        return round(torch.cuda.max_memory_allocated(device) / 2**20, 1)
    try:
        import resource
    except ImportError:  # Windows
        return None
    largest = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return round(largest / (2**20 if sys.platform == "darwin" else 2**10), 1)
