"""Tables on the terminal."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from rich import box
from rich.console import Console
from rich.table import Table

from gradmod.experiments.reporting.style import METRIC_TITLES, network_title
from gradmod.experiments.runs.records import read_json


def show_run(folder: Path, result: Mapping[str, Any]) -> None:
    """Print a finished run: its figures on every split, the coefficients' range, where it lies."""
    what = f"{result['method']} on {result['dataset']}, {network_title(result['fusion'])}, seed {result['seed']}"
    splits = {
        name: result["splits"][name]
        for name in ("test", "validation", "train")
        if name in result["splits"]
    }
    show_table(figures_table(splits, title=what))
    coefficients = result.get("coefficients")
    if coefficients:
        show_table(coefficients_table(coefficients))
    console = Console(highlight=False, soft_wrap=True)
    console.print(
        f"best epoch {result['best_epoch']} of {result['epochs']} ({result['selected_by']}); protocol "
        f"{result['protocol']}; {result['train_seconds']:.0f} s of training; coalitions: {result['strategy']}"
    )
    console.print(f"run folder: [bold]{folder}[/bold]   curves: {folder / 'curves.svg'}")


def show_table(table: Table) -> None:
    """Print a table on standard output; one that is wider than the terminal is never cut."""
    console = Console(highlight=False)
    needed = console.measure(table, options=console.options.update(max_width=1000)).maximum
    console.width = max(console.width, needed)
    console.print(table)


def terminal_width() -> int:
    """Columns of standard output; 80 where it is no terminal."""
    return Console().width


def new_table(title: str) -> Table:
    """An empty table in the style of all of them: narrow enough for 80 columns, easy to copy into a mail."""
    return Table(
        title=title, title_justify="left", title_style="bold", box=box.SIMPLE_HEAD, pad_edge=False
    )


def figures_table(splits: Mapping[str, Mapping[str, Any]], title: str) -> Table:
    """The first two metrics of the model and of each modality's response, a column for each split and metric.

    Args:
        splits: what `gradmod.experiments.training.evaluation.measure` returns, by split.
        title: above the table.
    """
    table = new_table(title)
    table.add_column("", no_wrap=True)
    metrics = [name for name in METRIC_TITLES if all(name in block for block in splits.values())][
        :2
    ]
    for split in splits:
        for position, metric in enumerate(metrics):
            words = METRIC_TITLES[metric]
            title = f"{split}\n{words}" if position == 0 else words.replace(" ", "\n")
            table.add_column(title, justify="right", no_wrap=True)
    blocks = list(splits.values())
    table.add_row(
        "[bold]model", *(f"[bold]{block[metric]:.3f}" for block in blocks for metric in metrics)
    )
    modalities = list(blocks[0]["responses"])
    for modality in modalities if len(modalities) > 1 else []:
        responses = [block["responses"][modality] for block in blocks]
        table.add_row(
            f"{modality} response", *(f"{r[metric]:.3f}" for r in responses for metric in metrics)
        )
    return table


def coefficients_table(coefficients: Mapping[str, Mapping[str, Any]]) -> Table:
    """Range of each modality's coefficient over the run."""
    table = new_table("coefficients over the run")
    for column in ("", "smallest", "median of epochs", "largest"):
        table.add_column(column, justify="left" if not column else "right")
    for modality, figures in coefficients.items():
        table.add_row(
            modality, *(f"{float(figures[name]):.3g}" for name in ("min", "median", "max"))
        )
    return table


def show_attribution(path: Path) -> None:
    """Print a diagnosis that was written: shares, missing modalities, noise, and the verdict."""
    record = read_json(path)
    title = f"{path.parent.parent}, {record['split']} split, {record['samples']} samples"
    table = new_table(f"{title}: {METRIC_TITLES.get(record['metric'], record['metric'])}")
    for column in ("modality", "contribution", "share of the whole"):
        table.add_column(column, justify="left" if column == "modality" else "right", no_wrap=True)
    for row in contribution_rows(record):
        table.add_row(*row)
    show_table(table)
    missing = new_table("by the modalities that the model is shown")
    missing.add_column("shown", no_wrap=True)
    missing.add_column(str(METRIC_TITLES.get(record["metric"], record["metric"])), justify="right")
    for coalition, value in record["game"].items():
        missing.add_row(
            "nothing (best constant answer)" if coalition == "nothing" else coalition,
            f"{value:.3f}",
        )
    show_table(missing)
    if record["robustness"]:
        noise = new_table("with noise in one modality, in standard deviations of its input")
        noise.add_column("modality", no_wrap=True)
        for level in record["noise_levels"]:
            noise.add_column(f"{level:g}", justify="right")
        for modality, values in record["robustness"].items():
            noise.add_row(modality, *(f"{value:.3f}" for value in values))
        show_table(noise)
    console = Console(highlight=False, soft_wrap=True)
    for sentence in record["verdict"]:
        console.print(f"- {sentence}", markup=False)
    console.print(f"{path}", markup=False)


def show_competition(folder: Path, record: Mapping[str, Any]) -> None:
    """Print competition strengths."""
    table = new_table("competition strength")
    for column in ("modality", f"{record['split']} split"):
        table.add_column(column, justify="left" if column == "modality" else "right", no_wrap=True)
    for modality, value in record["strength"].items():
        table.add_row(modality, f"{value:.3f}")
    show_table(table)
    print(
        f"0: what it learns alone ({record['concept']}) can be read linearly from the joint feature; 1: nothing of it"
    )
    print(f"{folder / 'competition' / record['split']}.json")


def contribution_rows(record: Mapping[str, Any]) -> list[tuple[str, str, str]]:
    """Of a diagnosis: each modality, its contribution and its share of the score, with their intervals; cooperation."""
    intervals = record["intervals"]
    rows = []
    for modality, value in record["values"].items():
        share = record["contributions"][modality]
        written = (
            ""
            if isinstance(share, str)
            else f"{share:.0%}{_bracket(intervals['contributions'].get(modality), '.0%')}"
        )
        rows.append(
            (modality, f"{value:+.3f}{_bracket(intervals['values'].get(modality))}", written)
        )
    return [
        *rows,
        ("cooperation", f"{record['cooperation']:+.3f}{_bracket(intervals['cooperation'])}", ""),
    ]


def _bracket(interval: Any, style: str = "+.3f") -> str:
    """An interval in brackets; nothing where there is none or it is not finite."""
    if interval is None or any(isinstance(end, str) for end in interval):
        return ""
    return f" [{interval[0]:{style}}, {interval[1]:{style}}]"
