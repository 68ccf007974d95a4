"""What there is to choose from, for `gradmod list`; imports no torch."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from gradmod.experiments.datasets.registry import DATASETS
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.models import ENCODERS, FUSIONS
from gradmod.experiments.reporting.tables import new_table


def show_catalogue() -> None:
    """Print methods, data sets and models."""
    console = Console(highlight=False)
    methods = _table("methods (--method)", "name", "what it does", "from", "costs", "settings")
    for method in METHODS.values():
        settings = ", ".join(method.setting_names) or "-"
        methods.add_row(method.name, method.summary, method.paper or "-", method.cost, settings)
    console.print(methods)
    datasets = _table(
        "data sets (--dataset)", "name", "what it is", "modalities", "classes", "needs"
    )
    for info in DATASETS.values():
        root = "--root FILE" if info.files == (".",) else "--root FOLDER"
        datasets.add_row(
            info.name,
            info.summary,
            ", ".join(info.modalities) or "its own",
            str(info.classes or "its own"),
            root if info.layout else "nothing",
        )
    console.print(datasets)
    console.print("What lies in a FOLDER or FILE and where it comes from: docs/datasets/NAME.md\n")
    models = _table("models (--encoder, --fusion)", "name", "what it is")
    for model in (*ENCODERS.values(), *FUSIONS.values()):
        models.add_row(model.name, model.summary)
    console.print(models)


def _table(title: str, *columns: str) -> Table:
    table = new_table(title)
    for position, column in enumerate(columns):
        table.add_column(column, no_wrap=position == 0)
    return table
