"""One HTML page of a run, or of several: no network, no scripts; what runs wrote down and nothing else."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradmod.experiments.errors import (
    UNREADABLE,
    CheckpointError,
    ConfigError,
    damage_in,
    why_unreadable,
)
from gradmod.experiments.files import write_text
from gradmod.experiments.reporting.comparison import RunRecord, compare
from gradmod.experiments.reporting.formats import cells_of
from gradmod.experiments.reporting.plots.comparison import comparison_bars, comparison_curves
from gradmod.experiments.reporting.plots.figures import inline_svg
from gradmod.experiments.reporting.plots.of_run import diagnosis_plots, training_plots
from gradmod.experiments.reporting.style import METRIC_TITLES, network_title
from gradmod.experiments.reporting.tables import contribution_rows
from gradmod.experiments.runs.names import CONFIG, METRICS, RESULT
from gradmod.experiments.runs.records import Metrics, Record, read_json, read_metrics, read_result

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COMPARISON = "comparison.json"


def write_report(folders: Sequence[Path], path: Path) -> Path:
    """Write the page.

    Args:
        folders: of finished runs; or one of a comparison, which stands for its runs.
        path: the page.

    Returns:
        `path`.

    Raises:
        ConfigError: no run, or runs of different data sets; or `path` is a file that is no report.
        CheckpointError: a run is not finished, or its records are damaged.
    """
    if path.parent not in folders and path.exists() and not _is_report(path):
        raise ConfigError(
            f"{path} is there already and is no report of gradmod's: name another page with --out"
        )
    records = [record for folder in folders for record in _records(folder)]
    if not records:
        raise ConfigError("no run was given; expected run folders, or the folder of a comparison")
    results = [read_result(record.folder) for record in records]
    with damage_in(", ".join(map(str, folders))):
        text = _page(records, results, folders)
    write_text(path, text)
    return path


def _is_report(path: Path) -> bool:
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return b'name="generator" content="gradmod"' in file.read(1000)


def _page(records: Sequence[RunRecord], results: Sequence[Record], folders: Sequence[Path]) -> str:
    from jinja2 import Environment, StrictUndefined

    datasets = list(dict.fromkeys(result["dataset"] for result in results))
    if len(datasets) > 1:
        raise ConfigError(
            f"the runs are of different data sets ({', '.join(datasets)}); expected one"
        )
    compared = _compared(records, folders) if len(records) > 1 else None
    runs = [
        _run(record.folder, result, f"run{n}")
        for n, (record, result) in enumerate(zip(records, results, strict=True))
    ]
    title = runs[0]["title"] if len(runs) == 1 else f"{len(runs)} runs on {datasets[0]}"
    template = (
        files("gradmod.experiments.reporting")
        .joinpath("report.html.j2")
        .read_text(encoding="utf-8")
    )
    page = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True).from_string(
        template
    )
    return page.render(title=title, subtitle=_subtitle(results), comparison=compared, runs=runs)


def _records(folder: Path) -> list[RunRecord]:
    """The runs that a folder means."""
    if (folder / COMPARISON).is_file():
        try:
            listed = json.loads((folder / COMPARISON).read_text(encoding="utf-8"))
            return [RunRecord(**{**entry, "folder": folder / entry["folder"]}) for entry in listed]
        except (*UNREADABLE, TypeError, KeyError) as error:
            raise CheckpointError(
                f"{folder / COMPARISON} is damaged: {why_unreadable(error)}"
            ) from None
    result = read_result(folder)
    with damage_in(folder / RESULT):
        alone = result["modality"] != "multimodal"
        row = f"{result['modality']} alone" if alone else result["method"]
        return [
            RunRecord(
                row, result["fusion"], result["seed"], result["modality"] if alone else "", folder
            )
        ]


def _compared(records: Sequence[RunRecord], folders: Sequence[Path]) -> dict[str, Any]:
    table = compare(_apart(records))
    header, rows = cells_of(table)
    drawn = [
        _figure(
            lambda: comparison_bars(table),
            "figures-of-each-method",
            "test figures, mean and standard deviation over seeds",
        )
    ]
    if any(not record.modality for record in records):
        drawn.append(
            _figure(
                lambda: comparison_curves(records),
                "validation-over-epochs",
                "validation over the epochs, mean and standard deviation over seeds",
            )
        )
    return {"header": header, "rows": rows, "notes": table.notes, "figures": drawn}


def _apart(records: Sequence[RunRecord]) -> list[RunRecord]:
    """Runs with the same row, fusion and seed (of other settings, then) get rows of their own, by their folders."""
    keys = [(record.row, record.fusion, record.seed) for record in records]
    return [
        RunRecord(
            f"{record.row} ({record.folder.name})",
            record.fusion,
            record.seed,
            record.modality,
            record.folder,
        )
        if keys.count(key) > 1
        else record
        for record, key in zip(records, keys, strict=True)
    ]


def _run(folder: Path, result: Record, name: str) -> dict[str, Any]:
    metrics = read_metrics(folder / METRICS)
    splits = {
        split: result["splits"][split]
        for split in ("test", "validation", "train")
        if split in result["splits"]
    }
    shown = [metric for metric in METRIC_TITLES if metric in next(iter(splits.values()))][:2]
    header = ["", *(f"{split} {METRIC_TITLES[metric]}" for split in splits for metric in shown)]
    rows = [["model", *(f"{block[metric]:.3f}" for block in splits.values() for metric in shown)]]
    modalities = list(next(iter(splits.values()))["responses"])
    for modality in modalities if len(modalities) > 1 else []:
        values = [
            block["responses"][modality][metric] for block in splits.values() for metric in shown
        ]
        rows.append([f"{modality} response", *(f"{value:.3f}" for value in values)])
    first = next(iter(splits))
    headline = result["headline"]
    return {
        "title": f"{result['method']} on {result['dataset']}, {network_title(result['fusion'])}, seed {result['seed']}"
        + ("" if result["modality"] == "multimodal" else f", {result['modality']} alone"),
        "cards": [
            (f"{first} {METRIC_TITLES.get(headline, headline)}", f"{splits[first][headline]:.3f}"),
            ("best epoch", f"{result['best_epoch']} of {result['epochs']}"),
            ("training", f"{result['train_seconds']:.0f} s"),
            ("parameters", f"{result['parameters']:,}"),
            ("protocol", result["protocol"]),
        ],
        "warnings": []
        if result.get("exact", True)
        else [f"coalitions: {result['strategy']}, which is approximate"],
        "results_header": header,
        "results": rows,
        "selection": f"Epoch: {result['selected_by']}. A response is a modality's Shapley share of the logits; its "
        "accuracy is not that of a model trained on it alone.",
        "figures": [
            _figure(plot.make, f"{name}-{plot.name}", plot.caption)
            for plot in training_plots(metrics)
        ],
        "diagnoses": [
            _diagnosis(path, f"{name}-{path.stem}")
            for path in sorted((folder / "attribution").glob("*.json"))
        ],
        **_competition(folder),
        "coefficients": [
            [modality, *(f"{values[key]:.3g}" for key in ("min", "median", "max"))]
            for modality, values in result.get("coefficients", {}).items()
        ],
        **_data(metrics),
        "command": metrics.start.get("command", ""),
        "config": (folder / CONFIG).read_text(encoding="utf-8")
        if (folder / CONFIG).is_file()
        else "",
        "versions": [
            *result["versions"].items(),
            ("commit", result.get("git") or "unknown"),
            ("device", result["device"]),
            ("precision", result["precision"]),
            ("coalitions", result["strategy"]),
        ],
    }


def _diagnosis(path: Path, name: str) -> dict[str, Any]:
    record = read_json(path)
    try:
        metric = METRIC_TITLES.get(record["metric"], record["metric"])
        drawn = [
            _figure(plot.make, f"{name}-{plot.name}", plot.caption)
            for plot in diagnosis_plots(record)
        ]
        return {
            "split": record["split"],
            "verdict": record["verdict"],
            "shares": contribution_rows(record),
            "shares_header": ["modality", f"contribution to the {metric}", "share"],
            "figures": drawn,
            "missing": [[coalition, f"{value:.3f}"] for coalition, value in record["game"].items()],
            "metric": metric,
        }
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise CheckpointError(
            f"{path} is damaged ({error!r}): make it again with gradmod attribute"
        ) from None


def _competition(folder: Path) -> dict[str, Any]:
    records = [read_json(path) for path in sorted((folder / "competition").glob("*.json"))]
    modalities = list(dict.fromkeys(m for record in records for m in record["strength"]))
    return {
        "competition": [
            [
                f"{r['split']} ({r['concept']})",
                *(f"{r['strength'][m]:.3f}" if m in r["strength"] else "" for m in modalities),
            ]
            for r in records
        ],
        "competition_header": ["split", *modalities],
    }


def _data(metrics: Metrics) -> dict[str, Any]:
    sizes: Mapping[str, int] = metrics.start.get("splits", {})
    counts: Mapping[str, Any] = metrics.start.get("class_counts", {})
    classes = list(dict.fromkeys(c for split in counts.values() if split for c in split))
    classes = classes if len(classes) <= 30 else []
    rows = [
        [split, f"{size:,}", *((counts.get(split) or {}).get(c, 0) for c in classes)]
        for split, size in sizes.items()
    ]
    return {
        "data_header": ["split", "samples", *(f"class {c}" for c in classes)],
        "data": rows,
        "data_notes": metrics.start.get("data_notes", []),
    }


def _subtitle(results: Sequence[Record]) -> str:
    versions = results[0]["versions"]
    return f"gradmod {versions['gradmod']}, torch {versions['torch']}, {results[0]['device']}"


def _figure(make: Callable[[], Figure], name: str, caption: str) -> dict[str, Any]:
    from markupsafe import Markup

    return {"svg": Markup(inline_svg(make, name)), "caption": caption}
