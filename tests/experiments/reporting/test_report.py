"""The report: one page, whole by itself, that shows what runs wrote and trusts nothing of it."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gradmod.experiments.analysis.competition import measure_competition
from gradmod.experiments.analysis.diagnosis import attribute_run
from gradmod.experiments.cli import main as cli
from gradmod.experiments.errors import CheckpointError, ConfigError
from gradmod.experiments.reporting.comparison import RunRecord, compare
from gradmod.experiments.reporting.plots.attribution import contribution_bars, robustness_curves
from gradmod.experiments.reporting.plots.comparison import comparison_bars
from gradmod.experiments.reporting.plots.figures import inline_svg, save_figure
from gradmod.experiments.reporting.plots.monitored import competition_over_epochs, shape_over_epochs
from gradmod.experiments.reporting.plots.steps import step_figures
from gradmod.experiments.reporting.report import write_report
from gradmod.experiments.runs.records import Metrics, newest_run, read_metrics
from gradmod.experiments.training.run import train
from runs import short

VOID = {"meta", "link", "br", "hr", "img", "input", "use", "path", "rect", "circle"}


class Page(HTMLParser):
    """Text of a page, and whether its elements are closed in order."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.words = ""
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.ids += [value for name, value in attributes if name == "id" and value]
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.words += data


@pytest.fixture(scope="module")
def finished(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with everything that a report can show, and another method beside it."""
    out = tmp_path_factory.mktemp("runs")
    words = [
        "--epochs",
        "2",
        "--width",
        "8",
        "--batch-size",
        "128",
        "--log-every",
        "4",
        "--device",
        "cpu",
    ]
    assert (
        cli.main(
            [
                "train",
                *words,
                "--out",
                str(out),
                "--name",
                "agm",
                "--shape-every",
                "1",
                "--competition-every",
                "1",
            ]
        )
        == 0
    )
    attribute_run(out / "agm", noise_levels=(0.0, 1.0), replicates=20)
    measure_competition(out / "agm")
    train(short(out, name="joint", method="joint", width=8))
    return out


def test_a_page_of_one_run(finished: Path, tmp_path: Path) -> None:
    path = write_report([finished / "agm"], tmp_path / "report.html")
    text = path.read_text(encoding="utf-8")
    page = Page(text)
    result = json.loads((finished / "agm" / "result.json").read_text())
    for part in (
        "agm on av-digits, late fusion, seed 0", f"{result['splits']['test']['accuracy']:.3f}", "best epoch", "heldout",
        "Diagnosis, test split", "carries", "With modalities missing", "Competition strength",
        "Coefficients over the run", "class 9", "How to repeat it", "gradmod train --config", "[optimizer]",
        result["versions"]["torch"],
    ):  # fmt: skip
        assert part in page.words, part
    assert text.count("<svg") == 6  # curves, contributions, competition, steps, bars, noise
    assert len(set(page.ids)) == len(page.ids)
    assert "prefers-color-scheme: dark" in text
    assert "@media print" in text
    # Nothing is fetched and nothing runs.
    assert "<script" not in text
    assert not re.search(
        r'(src|href)="(?!#)', text.replace('xlink:href="#', "").replace("xmlns:", "")
    )
    assert not re.search(r"url\((?!#)|@import", text)


def test_what_a_run_says_is_escaped(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "evil"
    shutil.copytree(finished / "agm", copy)
    evil = "<script>alert(1)</script>"
    for name in ("result.json", "attribution/test.json", "metrics.jsonl"):
        text = (
            (copy / name)
            .read_text()
            .replace('"audio"', json.dumps(evil))
            .replace("av-digits", "<img src=x>")
        )
        (copy / name).write_text(text)
    record = json.loads((copy / "attribution" / "test.json").read_text())
    (copy / "attribution" / "test.json").write_text(json.dumps({**record, "verdict": [evil]}))
    text = write_report([copy], tmp_path / "report.html").read_text()
    assert "<script" not in text
    assert "<img" not in text
    assert "&lt;script&gt;" in text


def test_a_page_of_several_runs_and_of_a_comparison(finished: Path, tmp_path: Path) -> None:
    several = write_report(
        [finished / "agm", finished / "joint"], tmp_path / "several.html"
    ).read_text()
    assert "2 runs on av-digits" in Page(several).words
    assert several.count("<details>") == 2 + 2  # a run each, and its settings
    shutil.copytree(finished / "joint", tmp_path / "mine" / "runs" / "a")
    entry = {"row": "joint", "fusion": "late", "seed": 0, "modality": "", "folder": "runs/a"}
    (tmp_path / "mine" / "comparison.json").write_text(json.dumps([entry]))
    assert (
        "joint on av-digits"
        in Page(write_report([tmp_path / "mine"], tmp_path / "c.html").read_text()).words
    )
    twice = write_report(
        [finished / "joint", tmp_path / "mine" / "runs" / "a"], tmp_path / "twice.html"
    ).read_text()
    assert "joint (joint)" in twice
    assert "joint (a)" in twice


def test_the_command(
    finished: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(finished.parent)
    (finished.parent / "runs").symlink_to(finished, target_is_directory=True)
    assert cli.main(["report"]) == 0
    newest = newest_run(Path("runs"))
    assert (
        capsys.readouterr().out == f"report: {newest / 'report.html'}\nplots: {newest / 'plots'}\n"
    )
    assert cli.main(["report", "runs/agm", "runs/joint", "--out", "both.html"]) == 0
    assert Path("both.html").is_file()
    names = {path.name for path in Path("runs/agm/plots").iterdir()}
    plots = ("curves", "contributions", "competition", "steps", "contribution_test", "noise_test")
    assert names == {f"{name}.{kind}" for name in plots for kind in ("svg", "png")}
    assert cli.main(["report", "nowhere"]) == 2
    assert "nowhere has no result.json" in capsys.readouterr().err
    assert cli.main(["report", "runs/agm", "--out", "no/such/folder.html"]) == 1
    assert "cannot be written" in capsys.readouterr().err


def test_a_page_of_the_users_own_is_not_written_over(finished: Path, tmp_path: Path) -> None:
    page = tmp_path / "report.html"
    page.write_text("<p>mine</p>")
    with pytest.raises(ConfigError, match=r"report.html is there already and is no report.*--out"):
        write_report([finished / "agm"], page)
    assert page.read_text() == "<p>mine</p>"
    ours = write_report([finished / "agm"], tmp_path / "ours.html")
    written = ours.read_bytes()
    ours.write_bytes(written + b" ")
    assert write_report([finished / "agm"], ours).read_bytes() == written


def test_damage_is_named(finished: Path, tmp_path: Path) -> None:
    copy = tmp_path / "run"
    shutil.copytree(finished / "agm", copy)
    (copy / "attribution" / "test.json").write_text('{"metric": "accuracy"}')
    with pytest.raises(
        CheckpointError, match=r"test\.json is damaged .*: make it again with gradmod attribute"
    ):
        write_report([copy], tmp_path / "report.html")
    (tmp_path / "comparison.json").write_text('[{"row": 1}]')
    with pytest.raises(CheckpointError, match=r"comparison\.json is damaged"):
        write_report([tmp_path], tmp_path / "report.html")
    with pytest.raises(ConfigError, match="no run was given"):
        write_report([], tmp_path / "report.html")
    with pytest.raises(CheckpointError, match="no finished run"):
        newest_run(tmp_path / "nowhere")


def lines_of(figure: Any) -> dict[str, list[float]]:
    return {
        line.get_label(): list(line.get_ydata())
        for axes in figure.axes
        for line in axes.get_lines()
    }


def test_plots_show_the_figures(finished: Path) -> None:
    metrics = read_metrics(finished / "agm" / "metrics.jsonl")
    shapes = [epoch["shape"] for epoch in metrics.epochs]
    drawn = lines_of(shape_over_epochs(metrics))
    assert drawn["audio"] == [shape["values"]["audio"] for shape in shapes]
    assert drawn["cooperation"] == [shape["cooperation"] for shape in shapes]
    drawn = lines_of(competition_over_epochs(metrics))
    assert drawn["visual"] == [epoch["competition"]["visual"] for epoch in metrics.epochs]
    panels = step_figures(metrics).axes
    assert [axes.get_ylabel()[:5] for axes in panels] == ["score", "ratio", "coeff"]
    record = json.loads((finished / "agm" / "attribution" / "test.json").read_text())
    bars = [patch.get_width() for patch in contribution_bars(record).axes[0].patches]
    assert bars == pytest.approx([*record["values"].values(), record["cooperation"]])
    assert lines_of(robustness_curves(record))["audio"] == pytest.approx(
        record["robustness"]["audio"]
    )
    runs = [RunRecord(name, "late", 0, "", finished / name) for name in ("joint", "agm")]
    table = compare(runs)
    figure = comparison_bars(table)
    assert [label.get_text() for label in figure.axes[0].get_yticklabels()] == ["joint", "agm"]


def test_a_figure_is_written_twice_and_the_same_each_time(finished: Path, tmp_path: Path) -> None:
    metrics = read_metrics(finished / "agm" / "metrics.jsonl")
    first = save_figure(lambda: shape_over_epochs(metrics), tmp_path / "a.svg").read_bytes()
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert save_figure(lambda: shape_over_epochs(metrics), tmp_path / "b.svg").read_bytes() == first
    inline = inline_svg(lambda: shape_over_epochs(metrics), "one")
    assert inline.startswith('<svg role="img" aria-label="one"')
    assert "currentColor" in inline
    assert "#222222" not in inline
    assert 'id="one-' in inline
    assert not set(re.findall(r'href="#([^"]+)"', inline)) - set(
        re.findall(r'id="([^"]+)"', inline)
    )


def test_a_run_without_anything_extra(finished: Path, tmp_path: Path) -> None:
    words = Page(write_report([finished / "joint"], tmp_path / "r.html").read_text()).words
    assert "Diagnosis" not in words
    assert "Competition strength" not in words
    assert Metrics().modalities == []


@pytest.mark.parametrize(("width", "scheme"), [(390, 0), (1100, 1)])
def test_a_browser_draws_it(width: int, scheme: int, finished: Path, tmp_path: Path) -> None:
    browser = next(
        filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
    )
    if browser is None:
        pytest.skip("no Chromium on this machine: the page was not drawn")
    from PIL import Image

    path = write_report([finished / "agm"], tmp_path / "report.html")
    command = [
        browser, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
        "--disable-background-networking", "--disable-component-update", "--disable-sync", "--hide-scrollbars",
        f"--user-data-dir={tmp_path / 'profile'}", f"--window-size={width},1600",
        f"--blink-settings=preferredColorScheme={scheme}", f"--screenshot={tmp_path / 'page.png'}", path.as_uri(),
    ]  # fmt: skip
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    image = np.asarray(Image.open(tmp_path / "page.png").convert("L"), dtype=float)
    assert image.shape == (1600, width)
    assert image.std() > 10
    assert (image[0, 0] < 64) == (scheme == 0)  # dark or light, as was asked for
    assert np.ptp(image[:, -8:], axis=1).max() < 64  # nothing stands out over the right edge
