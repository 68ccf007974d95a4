"""Does AGM lower the competition? SHAPE and competition strength over training, joint training against AGM.

    gradmod compare --dataset av-mnist --root PATH/avmnist-small --encoder small-cnn --fusions late,early \\
      --methods joint,agm --seeds 0,1,2 --epochs 40 --lr 0.03 --set agm.alpha=0.3 --device cpu --jobs 2 --mono false \\
      --shape-every 1 --competition-every 1 --name competition
    python benchmarks/competition_over_training.py runs/competition

Writes benchmarks/results/competition.{md,svg}: figures on the validation split at the best epoch and at the last.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from statistics import fmean, stdev
from typing import Any

from gradmod.experiments.reporting.plots.figures import save_figure, whole_ticks
from gradmod.experiments.reporting.style import colours
from gradmod.experiments.runs.names import METRICS
from gradmod.experiments.runs.records import read_metrics, read_result

RESULTS = Path(__file__).parent / "results"
Group = tuple[str, str]


def spread(values: list[float]) -> str:
    return f"{fmean(values):.3f} ± {stdev(values):.3f}" if len(values) > 1 else f"{values[0]:.3f}"


def table(runs: dict[Group, list[Path]], modalities: list[str]) -> str:
    header = [
        "fusion",
        "method",
        "test accuracy",
        "epoch",
        *(f"{m} contribution" for m in modalities),
        "cooperation",
    ]
    header += [f"{m} competition" for m in modalities]
    lines = [header, ["---"] * len(header)]
    for (fusion, method), folders in runs.items():
        results = [read_result(folder) for folder in folders]
        logs = [read_metrics(folder / METRICS).epochs for folder in folders]
        accuracy = spread([result["splits"]["test"]["accuracy"] for result in results])
        best = [log[result["best_epoch"] - 1] for log, result in zip(logs, results, strict=True)]
        for name, epochs in (("best", best), ("last", [log[-1] for log in logs])):
            shapes = [epoch["shape"] for epoch in epochs]
            cells = [fusion, method, accuracy if name == "best" else "", name]
            cells += [spread([shape["values"][m] for shape in shapes]) for m in modalities]
            cells += [spread([shape["cooperation"] for shape in shapes])]
            cells += [spread([epoch["competition"][m] for epoch in epochs]) for m in modalities]
            lines.append(cells)
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)


def figure(runs: dict[Group, list[Path]], modalities: list[str]) -> Any:
    from matplotlib.figure import Figure

    fusions = list(dict.fromkeys(fusion for fusion, _ in runs))
    drawn = Figure(figsize=(4.2 * len(fusions), 5.2), layout="constrained")
    panels = drawn.subplots(2, len(fusions), sharex=True, sharey="row", squeeze=False)
    for (fusion, method), folders in runs.items():
        logs = [read_metrics(folder / METRICS).epochs for folder in folders]
        style = (0, (4, 2)) if method == "joint" else "-"
        for modality, colour in colours(modalities).items():
            for row, name in enumerate(("shape", "competition")):
                by_epoch = [
                    fmean(
                        float(e[name]["values"][modality] if row == 0 else e[name][modality])
                        for e in epochs
                    )
                    for epochs in zip(*logs, strict=False)
                ]
                axes = panels[row, fusions.index(fusion)]
                label = f"{modality}, {method}"
                axes.plot(
                    range(1, len(by_epoch) + 1),
                    by_epoch,
                    color=colour,
                    linestyle=style,
                    linewidth=1.3,
                    label=label,
                )
    for column, fusion in enumerate(fusions):
        panels[0, column].set_title(f"{fusion} fusion", fontsize=9)
        panels[1, column].set_xlabel("epoch")
        whole_ticks(panels[1, column])
    panels[0, 0].set_ylabel("contribution to the accuracy")
    panels[1, 0].set_ylabel("competition strength $d^m$")
    panels[1, -1].legend(fontsize=8, ncols=2)
    return drawn


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("comparison", type=Path, help="folder of the comparison")
    folder = parser.parse_args().comparison
    runs: dict[Group, list[Path]] = {}
    for entry in json.loads((folder / "comparison.json").read_text(encoding="utf-8")):
        runs.setdefault((entry["fusion"], entry["row"]), []).append(folder / entry["folder"])
    modalities = read_result(next(iter(runs.values()))[0])["modalities"]
    (RESULTS / "competition.md").write_text(table(runs, modalities), encoding="utf-8")
    save_figure(lambda: figure(runs, modalities), RESULTS / "competition.svg").with_suffix(
        ".png"
    ).unlink()
    print((RESULTS / "competition.md").read_text(encoding="utf-8"))


if __name__ == "__main__":
    main()
