"""A comparison's table as text: for the terminal, Markdown, LaTeX, and CSV with every figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Callable, Sequence

from rich.console import Console
from rich.measure import Measurement
from rich.table import Table

from gradmod.experiments.reporting.comparison import ComparisonTable, Row, Spread
from gradmod.experiments.reporting.style import METRIC_TITLES
from gradmod.experiments.reporting.tables import new_table


def terminal(table: ComparisonTable, title: str, width: int) -> Table:
    """A table for the terminal; where `width` columns are too few, deviations and intervals stand on a second line."""
    shown = _terminal(table, title, lambda cell: cell)
    if Measurement.get(Console(width=1000), Console(width=1000).options, shown).maximum > width:
        shown = _terminal(
            table, title, lambda cell: cell.replace(" ± ", "\n± ").replace(" [", "\n[")
        )
    return shown


def _terminal(table: ComparisonTable, title: str, written: Callable[[str], str]) -> Table:
    shown = new_table(title)
    header, body = cells_of(table)
    for position, name in enumerate(header):
        shown.add_column(
            name.replace(" ", "\n"), justify="left" if position < 2 else "right", no_wrap=True
        )
    previous = ""
    for cells in body:
        if previous and cells[0] != previous:
            shown.add_section()
        shown.add_row(*map(written, cells))
        previous = cells[0]
    return shown


def markdown(table: ComparisonTable) -> str:
    """A table for a Markdown page, the notes under it."""
    header, body = cells_of(table)
    lines = [header, ["---"] * len(header), *body]
    text = "".join(f"| {' | '.join(line)} |\n" for line in lines)
    return text + "\n" + "".join(f"{note}.  \n" for note in table.notes)


def latex(table: ComparisonTable) -> str:
    """A table for a paper (package booktabs), the notes as comments."""
    header, body = cells_of(table)
    escape = _escaped
    lines = [f"% {note}" for note in table.notes]
    lines += [rf"\begin{{tabular}}{{ll{'r' * (len(header) - 2)}}}", r"\toprule"]
    lines += [" & ".join(map(escape, header)) + r" \\", r"\midrule"]
    lines += [" & ".join(map(escape, cells)) + r" \\" for cells in body]
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def as_csv(table: ComparisonTable) -> str:
    """Every figure in full, a column each; empty where there is none."""
    file = io.StringIO()
    writer = csv.writer(file, lineterminator="\n")
    spreads: list[tuple[str, Callable[[Row], Spread | None]]] = [
        *((name, lambda row, name=name: row.metrics.get(name)) for name in table.metrics),
        *(
            (f"{m}_response_{table.headline}", lambda row, m=m: row.responses.get(m))
            for m in table.modalities
        ),
    ]
    difference = [
        f"{table.sample_metric}_difference_to_{reference}{end}"
        for reference in table.references
        for end in ("", "_low", "_high")
    ]
    names = [f"{name}_{part}" for name, _ in spreads for part in ("mean", "std")]
    writer.writerow(
        ["fusion", "method", "seeds", *names, *difference, "relative_time", "peak_memory_mib"]
    )
    for row in table.rows:
        values: list[float | None] = []
        for _, of in spreads:
            spread = of(row)
            values += [None, None] if spread is None else [spread.mean, spread.deviation]
        for reference in table.references:
            values += row.differences.get(reference, (None, None, None))
        values += [row.time, row.memory]
        written = ["" if value is None or math.isnan(value) else repr(value) for value in values]
        writer.writerow([row.fusion, row.label, " ".join(map(str, row.seeds)), *written])
    return file.getvalue()


def cells_of(table: ComparisonTable) -> tuple[list[str], list[list[str]]]:
    """Header and body as words."""
    metrics = table.metrics[:2]
    header = ["fusion", "method", *(METRIC_TITLES[name] for name in metrics)]
    header += [f"{m} response" for m in table.modalities]
    header += [f"{METRIC_TITLES[table.sample_metric]} minus {name}" for name in table.references]
    header += ["time", "memory MiB"]
    return header, [_line(row, table, metrics) for row in table.rows]


def _line(row: Row, table: ComparisonTable, metrics: Sequence[str]) -> list[str]:
    cells = [row.fusion, row.label, *(_spread(row.metrics[name]) for name in metrics)]
    cells += [_spread(row.responses[m]) if m in row.responses else "" for m in table.modalities]
    for reference in table.references:
        found = row.differences.get(reference)
        cells.append("" if found is None else "{:+.3f} [{:+.3f}, {:+.3f}]".format(*found))
    cells.append("" if row.time is None else f"{row.time:.2f}")
    cells.append("" if row.memory is None else f"{row.memory:.0f}")
    return cells


def _spread(spread: Spread) -> str:
    return f"{spread.mean:.3f}" + (
        "" if math.isnan(spread.deviation) else f" ± {spread.deviation:.3f}"
    )


def _escaped(text: str) -> str:
    for character in "&%_#":
        text = text.replace(character, "\\" + character)
    return text.replace("±", r"$\pm$")
