"""What was seen of a data set, on one screen."""

from __future__ import annotations

from rich.console import Console
from rich.markup import escape

from gradmod.experiments.datasets.check import DatasetFacts
from gradmod.experiments.reporting.tables import new_table


def show_inspection(facts: DatasetFacts, root: str) -> None:
    """Print files, splits, inputs, doubles between splits, and a verdict."""
    console = Console(highlight=False)
    if facts.files:
        files = new_table(f"{facts.info.title}: files of {root}")
        for column in ("file", "found", "MB"):
            files.add_column(column, justify="left" if column == "file" else "right")
        for pattern, (count, size) in facts.files.items():
            files.add_row(
                root if pattern == "." else pattern,
                str(count) if count else "missing",
                f"{size / 1e6:.1f}",
            )
        console.print(files)
    if facts.splits:
        splits = new_table("splits (protocol heldout)")
        for column in ("split", "samples", "classes", "smallest class", "largest class"):
            splits.add_column(column, justify="left" if column == "split" else "right")
        for name, count in facts.splits.items():
            classes = facts.classes[name]
            sizes = (
                [""] * 3
                if classes is None
                else [len(classes), min(classes.values()), max(classes.values())]
            )
            splits.add_row(name, str(count), *map(str, sizes))
        console.print(splits)
    if facts.inputs:
        inputs = new_table("inputs")
        for column in ("input", "shape of a sample", "smallest", "largest", "not finite"):
            inputs.add_column(column, justify="left" if column == "input" else "right")
        for name, seen in facts.inputs.items():
            shape = ", ".join("T" if size is None else str(size) for size in seen.shape)
            inputs.add_row(
                name,
                escape(f"[{shape}]"),
                f"{seen.low:.4g}",
                f"{seen.high:.4g}",
                str(seen.not_finite),
            )
        console.print(inputs)
    for note in facts.notes:
        warns = note.startswith("warning: ")
        console.print(note if warns else f"note: {note}", soft_wrap=True, markup=False)
    for remark in facts.remarks():
        console.print(f"note: {remark}", soft_wrap=True, markup=False)
    for warning in facts.warnings():
        console.print(f"warning: {warning}", soft_wrap=True, markup=False)
    for problem in facts.problems:
        console.print(f"problem: {problem}", soft_wrap=True, markup=False)
    if (
        facts.problems
        and facts.info.leaving_out
        and (facts.info.is_own or any(n for n, _ in facts.files.values()))
    ):
        unusable = (
            f"{facts.unreadable} samples cannot be used as they are. " if facts.unreadable else ""
        )
        console.print(
            f"note: {unusable}Fetch or make again what is damaged; to leave a sample out, {facts.info.leaving_out}",
            soft_wrap=True,
            markup=False,
        )
    console.print("[bold]not usable" if facts.problems else "[bold]ready to train on")
