"""The plots of the README, from the run that `make train` makes.

python docs/make_images.py
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from gradmod.experiments.cli import main as cli
from gradmod.experiments.reporting.plots.attribution import contribution_bars
from gradmod.experiments.reporting.plots.curves import curves
from gradmod.experiments.reporting.plots.figures import save_figure
from gradmod.experiments.reporting.plots.monitored import competition_over_epochs
from gradmod.experiments.runs.records import read_json, read_metrics

IMAGES = Path(__file__).parent / "images"


def main() -> None:
    """Train, measure, draw."""
    with tempfile.TemporaryDirectory() as out:
        words = [
            "--dataset",
            "av-digits",
            "--method",
            "agm",
            "--device",
            "cpu",
            "--out",
            out,
            "--name",
            "run",
        ]
        if cli.main(["train", *words, "--shape-every", "1", "--competition-every", "1"]):
            raise SystemExit("training failed")
        cli.main(["attribute", f"{out}/run"])
        metrics = read_metrics(Path(out) / "run" / "metrics.jsonl")
        record = read_json(Path(out) / "run" / "attribution" / "test.json")
    save_figure(lambda: curves(metrics), IMAGES / "av-digits.svg")
    save_figure(lambda: competition_over_epochs(metrics), IMAGES / "av-digits-competition.svg")
    save_figure(lambda: contribution_bars(record), IMAGES / "av-digits-contributions.svg")
    for png in IMAGES.glob("*.png"):  # the pages show the SVGs
        png.unlink()


if __name__ == "__main__":
    main()
