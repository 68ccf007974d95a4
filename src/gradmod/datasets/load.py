"""Reading a data set by name."""

from __future__ import annotations

import importlib
from typing import cast

from gradmod.datasets.registry import dataset_info
from gradmod.datasets.splits import Splits
from gradmod.errors import ConfigError


def load_dataset(name: str, root: str, protocol: str, split_seed: int = 0) -> Splits:
    """Read the data set called `name`.

    Args:
        name: one of `registry.DATASETS`.
        root: its folder; not looked at where the data set is embedded.
        protocol: `heldout` or `published`.
        split_seed: seed of the held-out parts.

    Raises:
        ConfigError: unknown name or protocol.
        DataError: the files are missing or not what they should be.
    """
    info = dataset_info(name)
    if protocol not in info.protocols:
        raise ConfigError(f"data.protocol is {protocol!r}; {info.title} has {', '.join(info.protocols)}")
    module, _, function = str(info.loader).partition(":")
    return cast(Splits, getattr(importlib.import_module(module), function)(root, protocol, split_seed))
