"""A run that was trained, opened again: its settings, its data, and its model as it was at a checkpoint."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradmod.experiments.datasets.split import Split
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import CheckpointError, ConfigError, did_you_mean
from gradmod.experiments.runs.checkpoints import Checkpoints
from gradmod.experiments.runs.names import CONFIG
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import load_config
from gradmod.experiments.training.devices import make_fabric
from gradmod.experiments.training.known_data import (
    expect_known_data,
    read_known_data,
    with_code_named,
)
from gradmod.experiments.training.parts import Parts, build_parts
from gradmod.wrapper import ModulatedModel

if TYPE_CHECKING:
    from lightning_fabric import Fabric


@dataclass(frozen=True)
class OpenRun:
    """A run on one process, its model on the device.

    Attributes:
        folder: where it lies.
        config: its settings.
        fabric: device and precision.
        parts: data, model and task.
    """

    folder: Path
    config: Config
    fabric: Fabric
    parts: Parts

    @property
    def model(self) -> ModulatedModel:
        """The model, as it was at the checkpoint."""
        return self.parts.model

    def split(self, name: str) -> Split:
        """A split by name.

        Raises:
            ConfigError: the run's protocol has no such split.
        """
        splits = dict(self.parts.data.items())
        if name not in splits:
            raise ConfigError(
                f"split is {name!r}; the run's protocol {self.config.data.protocol!r} has {', '.join(splits)}"
                f"{did_you_mean(name, splits)}"
            )
        return splits[name]


def open_run(
    folder: Path | str,
    checkpoint: str = "best",
    data: Splits | None = None,
    *,
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> OpenRun:
    """Open a run.

    Args:
        folder: the run's folder.
        checkpoint: `best`, `last`, `previous`, or a path.
        data: its data, where they are read already.
        dataset: the run's data set again, where it is code of the user's own; see `refuse_unnamed_code`.
        model: the same for its network.
        method: the same for its method.
        root: where the run's data lie now; empty: where its settings say.

    Raises:
        CheckpointError: no run there, or the checkpoint is damaged or does not fit.
        ConfigError: it has code of the user's own that is not named.
        DataError: its data cannot be read, or are others than it was trained on.
    """
    folder = Path(folder)
    config = run_config(folder)
    if data is None:
        named = {"dataset": dataset, "model": model, "method": method}
        config = with_code_named(config, folder, named, root)
    state = Checkpoints(folder).load(checkpoint)
    fabric = make_fabric(
        replace(config.train, devices=1, nodes=1, strategy="auto", sync_batch_norm=False)
    )
    fabric.launch()
    if data is None:
        data = read_known_data(config, folder)
    else:
        expect_known_data(data, folder, config)
    parts = build_parts(config, data)
    load_model(parts.model.to(fabric.device), state, checkpoint)
    return OpenRun(folder, config, fabric, parts)


def run_config(folder: Path) -> Config:
    """Settings of the run in `folder`.

    Raises:
        CheckpointError: there is no run.
    """
    if not (folder / CONFIG).is_file():
        raise CheckpointError(
            f"{folder} is not a run folder: it has no {CONFIG}; give the folder that `gradmod train` printed"
        )
    return load_config(folder / CONFIG)


def load_model(model: ModulatedModel, state: dict[str, Any], name: str) -> None:
    """Load a checkpoint's model.

    Raises:
        CheckpointError: it does not fit.
    """
    try:
        model.load_state_dict(state["model"])
    except Exception as error:  # what stands in a damaged state may be of any type
        reason = " ".join(str(error).split())[:300]
        raise CheckpointError(
            f"checkpoint {name} does not fit the model in {CONFIG}: {reason}"
        ) from None


def locate(path: str, default: str) -> tuple[Path, str]:
    """Run folder and checkpoint that `path` means: a run folder, or a checkpoint file in one.

    Args:
        path: either.
        default: the checkpoint of a run folder.
    """
    given = Path(path)
    if given.suffix == ".pt":
        return given.parent.parent, str(given)
    return given, default
