"""What a run wrote, read back, as tables and plots."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from gradmod.experiments.errors import CheckpointError
from gradmod.experiments.reporting.plots.curves import curves, plot_curves
from gradmod.experiments.reporting.plots.steps import step_figures
from gradmod.experiments.reporting.style import colours
from gradmod.experiments.reporting.tables import coefficients_table, figures_table
from gradmod.experiments.runs.records import Metrics, coefficient_range, read_metrics, read_result


def block(accuracy: float, modalities: tuple[str, ...]) -> dict[str, Any]:
    figures = {"accuracy": accuracy, "macro_f1": accuracy / 2, "loss": 1.0}
    return figures | {
        "responses": {m: {"accuracy": accuracy / 2, "macro_f1": 0.1} for m in modalities}
    }


def epoch(number: int, modalities: tuple[str, ...], *, modulated: bool = True) -> dict[str, Any]:
    line: dict[str, Any] = {"kind": "epoch", "epoch": number, "best": number == 2}
    line["validation"] = block(0.2 * number, modalities)
    if modulated:
        line["coefficients"] = {
            m: {"min": 0.5 / number, "p05": 0.6, "median": 0.9 + i, "p95": 1.5, "max": 1.0 * number}
            for i, m in enumerate(modalities)
        }
    return line


def metrics(modalities: tuple[str, ...], epochs: int = 3, *, modulated: bool = True) -> Metrics:
    lines = [epoch(n, modalities, modulated=modulated) for n in range(1, epochs + 1)]
    return Metrics({"modalities": list(modalities)}, [], lines)


def drawn(figure: Any) -> list[dict[str, Any]]:
    return [
        {line.get_label(): line.get_ydata() for line in axes.get_lines()} for axes in figure.axes
    ]


def test_curves_show_the_model_each_response_and_the_coefficients() -> None:
    accuracies, coefficients = drawn(curves(metrics(("audio", "visual"))))
    assert list(accuracies["model"]) == pytest.approx([0.2, 0.4, 0.6])
    assert list(accuracies["audio response"]) == pytest.approx([0.1, 0.2, 0.3])
    assert list(accuracies["best epoch"]) == pytest.approx([0.4])
    assert list(coefficients["visual"]) == pytest.approx([1.9, 1.9, 1.9])


@pytest.mark.parametrize("modalities", [("audio",), tuple(f"m{i}" for i in range(9))])
def test_curves_of_one_and_of_many_modalities(modalities: tuple[str, ...]) -> None:
    figure = curves(metrics(modalities, epochs=1, modulated=len(modalities) > 1))
    assert len(figure.axes) == (1 if len(modalities) == 1 else 2)


def test_the_plot_is_the_same_file_every_time(tmp_path: Path) -> None:
    made = metrics(("audio", "visual"))
    lines = [{"kind": "start", **made.start}, *made.epochs, {"kind": "resume", "step": 3}]
    (tmp_path / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    first = plot_curves(tmp_path).read_bytes()
    assert plot_curves(tmp_path).read_bytes() == first
    assert first.startswith(b"<?xml")


def test_colours_are_told_apart_and_stay() -> None:
    assert colours(("visual", "audio"))["audio"] == colours(("audio", "text"))["audio"]
    assert len(set(colours(("audio", "visual", "text", "depth", "touch")).values())) == 5


@pytest.mark.parametrize(
    "line",
    ["{", "[1]", '{"epoch": 1}', '"start"', '{"kind": "start"}\n{"kind": "epo'],
    ids=range(5),
)
def test_damaged_lines_are_named(line: str, tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    path.write_text(line + "\n")
    with pytest.raises(
        CheckpointError, match=rf"metrics\.jsonl, line {line.count(chr(10)) + 1} is damaged"
    ):
        read_metrics(path)


def test_missing_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"metrics\.jsonl cannot be read"):
        read_metrics(tmp_path / "metrics.jsonl")
    with pytest.raises(
        CheckpointError, match=r"the run is not finished. Go on with: gradmod resume"
    ):
        read_result(tmp_path)
    for text in ("{", "[]"):
        (tmp_path / "result.json").write_text(text)
        with pytest.raises(CheckpointError, match=r"result\.json (cannot be read|is damaged)"):
            read_result(tmp_path)
    (tmp_path / "result.json").write_text('{"seed": 3}')
    assert read_result(tmp_path) == {"seed": 3}


def test_the_range_of_the_coefficients() -> None:
    found = coefficient_range(metrics(("audio", "visual"), epochs=3))
    assert found["visual"] == {"min": pytest.approx(0.5 / 3), "median": 1.9, "max": 3.0}
    assert coefficient_range(metrics(("audio",), modulated=False)) == {}


def test_the_middle_coefficient_is_the_median_of_the_epochs_medians() -> None:
    """Not their mean, nor that of the last epoch."""
    lines = metrics(("audio",), epochs=4)
    for line, middle in zip(lines.epochs, (0.1, 5.0, 0.3, 0.2), strict=True):
        line["coefficients"]["audio"]["median"] = middle
    assert coefficient_range(lines)["audio"] == {
        "min": 0.125,
        "median": pytest.approx(0.25),
        "max": 4.0,
    }


def test_tables_fit_80_columns() -> None:
    splits = {name: block(0.5, ("audio", "visual")) for name in ("test", "validation", "train")}
    out = io.StringIO()
    console = Console(file=out, width=80)
    console.print(figures_table(splits, "a run"))
    console.print(coefficients_table(coefficient_range(metrics(("audio", "visual")))))
    text = out.getvalue()
    assert "…" not in text
    assert text.count("0.500") == 3
    for word in (
        "model",
        "audio response",
        "visual response",
        "validation",
        "macro",
        "smallest",
        "largest",
    ):
        assert word in text
    out.truncate(0)
    console.print(figures_table({"test": block(0.5, ("audio",))}, "one modality"))
    assert "response" not in out.getvalue()


def test_the_reference_of_ratios_and_coefficients_is_one() -> None:
    names = ("scores", "ratios", "coefficients")
    steps = [{"step": n, **{name: {"audio": 0.7, "visual": 1.4} for name in names}} for n in (1, 2)]
    panels = step_figures(Metrics({"modalities": ["audio", "visual"]}, steps, [])).axes
    references = [
        [list(line.get_ydata()) for line in axes.get_lines() if line.get_linestyle() == ":"]
        for axes in panels
    ]
    assert references == [[], [[1, 1]], [[1, 1]]]
