"""What there is: `gradmod check` looks at a data set, `gradmod list` at everything by name."""

from __future__ import annotations

from typing import Annotated

from gradmod.experiments.cli.named_runs import positional
from gradmod.experiments.errors import ConfigError, UnusableDataError


def check(
    dataset: Annotated[str, positional()],
    root: Annotated[str, positional()] = "",
    labels: str = "",
    video: bool | None = None,
) -> None:
    """Read a whole data set and say whether it is what the loader needs; exit code 0 if it is, else 1.

    Args:
        dataset: Its name.
        root: Its folder or file.
        labels: CMU-MOSEI: which targets; empty: sentiment-2.
        video: CMU-MOSEI: read the visual features too.
    """
    from gradmod.experiments.datasets.check import inspect
    from gradmod.experiments.datasets.registry import DATASETS, dataset_info
    from gradmod.experiments.reporting.check import show_inspection

    info = dataset_info(dataset)
    if root and info.name in DATASETS and not info.layout:
        raise ConfigError(
            f"a root, {root}, makes no difference to {info.title}, which is embedded. Leave it out"
        )
    chosen = {
        name: value
        for name, value in {"labels": labels or None, "video": video}.items()
        if value is not None
    }
    for name in chosen:
        if name not in info.options:
            raise ConfigError(f"--{name} makes no difference to {info.title}. Leave it out")
    facts = inspect(dataset, root, chosen)
    show_inspection(facts, root)
    if facts.problems:
        raise UnusableDataError(
            f"{facts.info.title} at {root or 'an empty root'}: {facts.problems[0]}"
        )


def list_everything(method: Annotated[str, positional()] = "") -> None:
    """Show methods, data sets and models, and what each needs.

    Args:
        method: Show this one alone, with its settings.
    """
    if method:
        from gradmod.experiments.settings.arguments import method_help

        print(method_help(method), end="")
        return
    from gradmod.experiments.reporting.catalogue import show_catalogue

    show_catalogue()
