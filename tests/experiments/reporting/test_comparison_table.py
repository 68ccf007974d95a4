"""The table of a comparison, from run folders whose figures are small enough to check by hand."""

from __future__ import annotations

import csv
import io
import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from gradmod.experiments.errors import CheckpointError, ConfigError
from gradmod.experiments.reporting.comparison import ComparisonTable, RunRecord, compare
from gradmod.experiments.reporting.formats import as_csv, cells_of, latex, markdown, terminal
from gradmod.experiments.reporting.plots.comparison import comparison_curves

TARGET = np.array([0, 1, 0, 1])
PREDICTED = {
    # row: by seed the predicted classes of the four samples
    "joint": {0: [0, 1, 0, 0], 1: [0, 1, 1, 0]},
    "agm": {0: [0, 1, 0, 1], 1: [0, 1, 0, 0]},
    "audio alone": {0: [0, 0, 0, 0], 1: [0, 1, 1, 1]},
    "visual alone": {0: [1, 1, 1, 1], 1: [1, 1, 1, 0]},
}
SECONDS = {"joint": 10.0, "agm": 25.0, "audio alone": 4.0, "visual alone": 6.0}


def logits(classes: list[int], confidence: float) -> np.ndarray:
    out = np.zeros((len(classes), 2), np.float32)
    out[np.arange(len(classes)), classes] = confidence
    return out


def write_run(folder: Path, row: str, seed: int, **changes: Any) -> RunRecord:
    modality = row.split()[0] if row.endswith("alone") else ""
    # The visual model is surer of itself: the ensemble follows it wherever they differ.
    values = logits(PREDICTED[row][seed], 3.0 if row == "visual alone" else 1.0)
    accuracy = float((values.argmax(1) == TARGET).mean())
    figures = {"accuracy": accuracy, "macro_f1": accuracy / 2, "loss": 1.0}
    modalities = [modality] if modality else ["audio", "visual"]
    figures["responses"] = {m: {"accuracy": 0.25 + 0.5 * seed} for m in modalities}
    result = {
        "task": "classification", "dataset": "made", "protocol": "heldout", "method": row, "seed": seed, "epochs": 7,
        "selected_by": "best accuracy on the validation split", "device": "cpu, 1 threads",
        "modalities": modalities, "train_seconds": SECONDS[row] * (1 + seed),
        "peak_memory_mib": 100.0 + seed, "splits": {"test": figures, "validation": figures},
    }  # fmt: skip
    (folder / "predictions").mkdir(parents=True)
    np.savez(folder / "predictions" / "test.npz", logits=values, target=TARGET)
    (folder / "result.json").write_text(json.dumps(result | changes))
    lines = [{"kind": "start", "headline": "accuracy", "modalities": ["audio", "visual"]}]
    lines += [
        {"kind": "epoch", "epoch": n, "validation": {"accuracy": n / 10 + seed / 10}}
        for n in range(1, 4 + seed)
    ]
    (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return RunRecord(row, "late", seed, modality, folder)


@pytest.fixture
def runs(tmp_path: Path) -> list[RunRecord]:
    return [write_run(tmp_path / f"{row}{seed}", row, seed) for row in PREDICTED for seed in (0, 1)]


def test_every_figure_by_hand(runs: list[RunRecord]) -> None:
    table = compare(runs)
    rows = {row.label: row for row in table.rows}
    assert list(rows) == ["joint", "agm", "audio alone", "visual alone", "ensemble"]
    assert (table.modalities, table.metrics) == (["audio", "visual"], ["accuracy", "macro_f1"])
    # joint: 3/4 and 2/4; AGM: 4/4 and 3/4
    assert rows["joint"].metrics["accuracy"].mean == 0.625
    assert rows["joint"].metrics["accuracy"].deviation == pytest.approx(math.sqrt(2 * 0.125**2))
    assert rows["agm"].metrics["accuracy"].mean == 0.875
    assert rows["agm"].responses["audio"].mean == 0.5
    assert rows["joint"].differences == {}
    # By seed 0 0 0 1 and 0 0 1 0: equal means; 1/3 is left within samples, and 1.96 sqrt(1/3 / 8) is 0.4.
    assert rows["agm"].differences["joint"] == pytest.approx((0.25, -0.15, 0.65), abs=1e-3)
    assert (rows["joint"].time, rows["agm"].time, rows["audio alone"].time) == (1.0, 2.5, 0.4)
    assert rows["agm"].memory == 100.5
    assert rows["audio alone"].responses == {}


def test_the_cheap_method_is_a_reference_as_well(runs: list[RunRecord]) -> None:
    """AGM's runs under the name of uni-modal losses: 7/8, joint training 5/8."""
    renamed = [replace(run, row="uni-modal-losses") if run.row == "agm" else run for run in runs]
    table = compare([*renamed, *(run for run in runs if run.row == "agm")])
    rows = {row.label: row for row in table.rows}
    assert table.references == ["joint", "uni-modal-losses"]
    assert rows["joint"].differences["uni-modal-losses"][0] == -0.25
    assert set(rows["uni-modal-losses"].differences) == {"joint"}
    assert rows["agm"].differences["uni-modal-losses"] == (0, 0, 0)
    assert set(rows["ensemble"].differences) == set(table.references)
    header, body = cells_of(table)
    place = header.index("accuracy minus uni-modal-losses")
    assert body[0][place].startswith("-0.250 [")
    assert body[1][place] == ""
    figures = next(csv.DictReader(io.StringIO(as_csv(table))))
    assert float(figures["accuracy_difference_to_uni-modal-losses"]) == -0.25


def test_the_ensemble_is_the_mean_of_the_softmaxes(runs: list[RunRecord]) -> None:
    """It follows the surer visual model: 1 1 1 1 (2 of 4) and 1 1 1 0 (1 of 4)."""
    row = compare(runs).rows[-1]
    assert (row.metrics["accuracy"].mean, row.seeds) == ((2 / 4 + 1 / 4) / 2, (0, 1))
    assert (row.time, row.memory) == (None, None)
    assert "joint" in row.differences
    assert row.differences["joint"][0] == row.metrics["accuracy"].mean - 0.625


def test_runs_are_paired_by_seed_and_not_by_position(runs: list[RunRecord]) -> None:
    expected = {row.label: row for row in compare(runs).rows}
    joint = [run for run in runs if run.row == "joint"]
    turned = [*joint, *(run for run in reversed(runs) if run.row != "joint")]
    found = {row.label: row for row in compare(turned).rows}
    for label, row in expected.items():
        assert found[label].differences.keys() == row.differences.keys()
        for reference, difference in row.differences.items():
            assert found[label].differences[reference] == pytest.approx(difference)
        assert found[label].time == row.time


def test_what_an_interval_covers_is_told(runs: list[RunRecord]) -> None:
    text = " ".join(compare(runs).notes)
    assert "holds the true difference, of any seed and any sample, in 95 of 100 cases" in text
    without = [run for run in runs if (run.row, run.seed) != ("agm", 1)]
    for some in (without, [run for run in runs if run.seed == 0]):
        text = " ".join(compare(some).notes)
        assert (
            "on other test samples in 95 of 100 cases. With one seed it says nothing of other seeds"
            in text
        )


def test_a_seed_that_failed_is_left_out_of_the_pairs(runs: list[RunRecord]) -> None:
    without = [run for run in runs if (run.row, run.seed) not in {("joint", 1), ("audio alone", 0)}]
    rows = {row.label: row for row in compare(without).rows}
    assert rows["agm"].differences["joint"][0] == 0.25  # seed 0 alone: 4/4 - 3/4
    assert rows["agm"].metrics["accuracy"].mean == 0.875
    assert rows["ensemble"].seeds == (1,)
    assert math.isnan(rows["joint"].metrics["accuracy"].deviation)
    no_joint = [run for run in runs if run.row != "joint"]
    first = compare(no_joint).rows[0]
    assert (first.differences, first.time) == ({}, None)


def test_each_fusion_has_rows_of_its_own(runs: list[RunRecord], tmp_path: Path) -> None:
    early = [
        RunRecord(run.row, "early", run.seed, run.modality, run.folder)
        for run in runs
        if run.row in ("joint", "agm")
    ]
    table = compare([*runs, *early])
    assert [row.fusion for row in table.rows] == ["late"] * 5 + ["early"] * 2


def test_what_stands_under_it(runs: list[RunRecord]) -> None:
    text = " ".join(compare(runs).notes)
    for part in (
        "protocol heldout",
        "seeds 0, 1",
        "7 epochs",
        "best accuracy on the validation",
        "test split, 4 sam",
    ):
        assert part in text


def printed(table: ComparisonTable, width: int) -> str:
    file = io.StringIO()
    Console(file=file, width=500).print(terminal(table, "title", width))
    return file.getvalue()


def test_the_formats_hold_the_same_figures(runs: list[RunRecord]) -> None:
    table = compare(runs)
    table.notes.append("100 % of a_b & #1")
    rows = list(csv.DictReader(io.StringIO(as_csv(table))))
    assert [row["method"] for row in rows] == [row.label for row in table.rows]
    agm = rows[1]
    assert float(agm["accuracy_mean"]) == 0.875
    assert float(agm["accuracy_difference_to_joint"]) == 0.25
    assert float(agm["visual_response_accuracy_mean"]) == 0.5
    assert rows[2]["visual_response_accuracy_mean"] == ""
    assert agm["seeds"] == "0 1"
    text = markdown(table)
    assert (
        "| late | agm | 0.875 ± 0.177 | 0.438 ± 0.088 | 0.500 ± 0.354 | 0.500 ± 0.354 | +0.250 ["
        in text
    )
    body = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in body}) == 1
    assert r"late & agm & 0.875 $\pm$ 0.177" in latex(table)
    assert r"\toprule" in latex(table)
    assert "accuracy" in printed(table, 200)
    wide, narrow = printed(table, 200), printed(table, 80)
    assert "0.875 ± 0.177" in wide
    assert max(map(len, wide.rstrip().splitlines())) > 100
    assert "0.875" in narrow
    assert "0.875 ± 0.177" not in narrow
    assert narrow.count("± 0.177") == wide.count("± 0.177")


def test_latex_escapes_what_it_must(runs: list[RunRecord]) -> None:
    named = [
        RunRecord("a_b & 5 %", run.fusion, run.seed, run.modality, run.folder) for run in runs[:2]
    ]
    assert r"late & a\_b \& 5 \% &" in latex(compare(named))


def test_the_curves_are_means_as_far_as_every_seed_goes(runs: list[RunRecord]) -> None:
    figure = comparison_curves(runs)
    (axes,) = figure.axes
    lines = {line.get_label(): line.get_ydata() for line in axes.get_lines()}
    assert set(lines) == {"joint", "agm"}
    # Seed 0 has three epochs, seed 1 four.
    assert list(lines["agm"]) == pytest.approx([0.15, 0.25, 0.35])


def test_an_unfinished_run_is_named(runs: list[RunRecord]) -> None:
    (runs[2].folder / "result.json").unlink()
    with pytest.raises(CheckpointError, match=r"agm0 has no result\.json"):
        compare(runs)


def known_by(folder: Path, test: str = "t", train: str = "n", samples: int = 4) -> None:
    splits = {
        name: {"samples": samples, "targets": targets}
        for name, targets in (("train", train), ("test", test))
    }
    (folder / "data.json").write_text(json.dumps({"format": 1, "splits": splits}))


def test_runs_that_were_scored_on_other_samples_are_not_compared(runs: list[RunRecord]) -> None:
    for run in runs[:-1]:  # the last is of an older version
        known_by(run.folder)
    notes = compare(runs).notes
    known_by(runs[3].folder, train="other")
    assert [note for note in compare(runs).notes if note not in notes] == [
        f"{runs[3].folder.name} was trained on other data than {runs[0].folder.name}: train: other labels, or in "
        "another order"
    ]
    for change, told in (
        ({"test": "other"}, "test: other labels"),
        ({"samples": 5}, "test: 5 samples, 4 then"),
    ):
        known_by(runs[3].folder, **change)  # type: ignore[arg-type]
        with pytest.raises(
            ConfigError, match=rf"was not scored on the samples that .* was scored on \({told}"
        ):
            compare(runs)
    (runs[3].folder / "data.json").write_text('{"splits": 3}')
    with pytest.raises(CheckpointError, match=r"data\.json"):
        compare(runs)
