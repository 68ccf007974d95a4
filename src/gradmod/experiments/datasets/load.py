"""Reading a data set by name."""

from __future__ import annotations

from collections.abc import Mapping

from gradmod.experiments.datasets.own import load_own
from gradmod.experiments.datasets.registry import dataset_info
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.import_strings import load_object


def load_dataset(
    name: str,
    root: str,
    protocol: str,
    split_seed: int = 0,
    options: Mapping[str, object] | None = None,
) -> Splits:
    """Read the data set called `name`.

    Args:
        name: one of `registry.DATASETS`.
        root: its folder; not looked at where the data set is embedded.
        protocol: `heldout` or `published`.
        split_seed: seed of the held-out parts.
        options: of those settings that only some data sets have, the ones that are not at their default.

    Raises:
        ConfigError: unknown name or protocol, an option that the data set does not have, or a function of the user's
            that takes or returns something else.
        DataError: the files are missing or not what they should be, or the user's function fails.
    """
    info = dataset_info(name)
    if protocol not in info.protocols:
        raise ConfigError(
            f"data.protocol is {protocol!r}; {info.title} has {', '.join(info.protocols)}"
        )
    for option, value in (options or {}).items():
        if option not in info.options:
            takes = f"it has {', '.join(info.options)}" if info.options else "it has no options"
            raise ConfigError(
                f"data.{option} is {value!r}, but {info.title} does not take it: {takes}"
            )
    loader = load_object(info.loader)
    if info.is_own:
        return load_own(loader, info.loader, root, protocol, split_seed)
    splits: Splits = loader(root, protocol, split_seed, **(options or {}))
    return splits
