"""The first real result, on a small AV-MNIST: joint training, AGM (exact, `shared`), mono-modal models, their ensemble.

    python benchmarks/avmnist_small.py --root PATH_TO_AVMNIST --jobs 2

Small CNN, late fusion, SGD with momentum 0.9 and clipping at norm 5, protocol heldout. First every method's settings
are chosen on the validation split alone (mean over the tuning seeds of the best epoch's validation accuracy); then the
chosen ones are run with every seed, and the test split is scored once for each run, at its best validation epoch.
Writes benchmarks/results/avmnist_small.{json,md} and a plot of accuracy over epochs. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gradmod.experiments.methods.modulating import AGMSettings
from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from summaries import cell, ensemble, summary
from sweep import run_all

RESULTS = Path(__file__).parent / "results"
LEARNING_RATES = (0.03, 0.1)
ALPHAS = (0.1, 0.3, 1.0)


@dataclass(frozen=True)
class Row:
    """One line of the table.

    Attributes:
        title: its name there.
        method: joint or agm.
        coalitions: strategy.
        modality: multimodal, or the one that is trained.
        alphas: values to choose from.
    """

    title: str
    method: str = "joint"
    coalitions: str = "auto"
    modality: str = "multimodal"
    alphas: tuple[float, ...] = (0.0,)

    def trials(self) -> list[tuple[float, float]]:
        """(learning rate, alpha) of each trial."""
        return list(itertools.product(LEARNING_RATES, self.alphas))


ROWS = {
    "joint": Row("joint training"),
    "agm": Row("AGM", "agm", alphas=ALPHAS),
    "agm-shared": Row("AGM, shared (approximate)", "agm", "shared", alphas=ALPHAS),
    "audio": Row("audio alone", modality="audio"),
    "visual": Row("visual alone", modality="visual"),
}


def run_name(row: str, lr: float, alpha: float, seed: int) -> str:
    """Folder of a run."""
    return f"{row}-lr{lr:g}-alpha{alpha:g}-seed{seed}"


def configuration(row: Row, lr: float, alpha: float, seed: int, root: str, epochs: int) -> Config:
    """Settings of a run."""
    return Config(
        DataConfig(dataset="av-mnist", root=root, modality=row.modality),
        ModelConfig(encoder="small-cnn", fusion="late"),
        MethodConfig(
            row.method,
            row.coalitions,
            AGMSettings(alpha) if row.method == "agm" else None,  # type: ignore[arg-type]
        ),
        OptimizerConfig(lr=lr),
        TrainConfig(epochs=epochs, seed=seed, device="cpu", log_every=75),
    )


def validation(result: dict[str, Any]) -> float:
    """Validation accuracy of the best epoch; 0 for a run that stopped by an error."""
    return 0.0 if "error" in result else float(result["splits"]["validation"]["accuracy"])


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of an AV-MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/avmnist-small"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--tuning-seeds", type=int, default=2)
    options = parser.parse_args()

    def train(cells: Sequence[tuple[str, float, float, int]]) -> dict[str, dict[str, Any]]:
        configs = {
            run_name(*cell): configuration(
                ROWS[cell[0]], *cell[1:], root=options.root, epochs=options.epochs
            )
            for cell in cells
        }
        return run_all(configs, options.runs, options.jobs)

    tuning = [
        (name, lr, alpha, seed)
        for name, row in ROWS.items()
        for lr, alpha in row.trials()
        for seed in range(options.tuning_seeds)
    ]
    results = train(tuning)
    scores = {
        (name, lr, alpha): statistics.fmean(
            validation(results[run_name(name, lr, alpha, seed)])
            for seed in range(options.tuning_seeds)
        )
        for name, row in ROWS.items()
        for lr, alpha in row.trials()
    }
    chosen = {
        name: max(ROWS[name].trials(), key=lambda trial, n=name: scores[(n, *trial)])
        for name in ROWS
    }
    results |= train(
        [(name, *chosen[name], seed) for name in ROWS for seed in range(options.seeds)]
    )
    folders = {
        name: [options.runs / run_name(name, *chosen[name], seed) for seed in range(options.seeds)]
        for name in ROWS
    }
    table = {name: [results[folder.name] for folder in listed] for name, listed in folders.items()}
    report = {
        "command": f"python benchmarks/avmnist_small.py --root {Path(options.root).name}",
        "epochs": options.epochs,
        "seeds": list(range(options.seeds)),
        "tuning_seeds": list(range(options.tuning_seeds)),
        "torch": torch.__version__,
        "tuning": [
            {"row": n, "lr": lr, "alpha": a, "validation": v} for (n, lr, a), v in scores.items()
        ],
        "chosen": {name: {"lr": lr, "alpha": alpha} for name, (lr, alpha) in chosen.items()},
        "rows": {name: summary(runs) for name, runs in table.items()}
        | {"ensemble": ensemble(folders["audio"], folders["visual"])},
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "avmnist_small.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "avmnist_small.md").write_text(markdown(report))
    plot(folders, RESULTS / "avmnist_small.svg")
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    lines = [
        "| | test accuracy | macro F1 | audio response | visual response | lr, alpha | best epochs | training, s |",
        "|---|---|---|---|---|---|---|---|",
    ]
    titles = {name: row.title for name, row in ROWS.items()} | {"ensemble": "ensemble of the two"}
    for name, row in report["rows"].items():
        chosen = report["chosen"].get(name)
        setting = (
            f"{chosen['lr']:g}, {chosen['alpha']:g}"
            if chosen and ROWS[name].method == "agm"
            else ""
        )
        setting = setting or (f"{chosen['lr']:g}" if chosen else "")
        cells = [titles[name], *(cell(row[metric]) for metric in ("accuracy", "macro_f1"))]
        cells += [cell(row["responses"].get(m)) for m in ("audio", "visual")]
        cells += [setting, ", ".join(map(str, row.get("best_epochs", [])))]
        cells.append(f"{row['train_seconds']:.0f}" if "train_seconds" in row else "")
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        "Validation accuracy of every trial:",
        "",
        "| | lr | alpha | validation |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {ROWS[t['row']].title} | {t['lr']:g} | {t['alpha']:g} | {t['validation']:.3f} |"
        for t in report["tuning"]
    ]
    return "\n".join(lines) + "\n"


def plot(folders: dict[str, list[Path]], path: Path) -> None:
    """Validation accuracy over epochs, mean over seeds: the model and each response under joint training and AGM."""
    import matplotlib
    from matplotlib.figure import Figure

    from gradmod.experiments.reporting.style import MODEL_COLOUR, RC, colours
    from gradmod.experiments.runs.names import METRICS
    from gradmod.experiments.runs.records import read_metrics

    palette = {"model": MODEL_COLOUR, **colours(("audio", "visual"))}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(5.0, 3.2), layout="constrained")
        axes = figure.subplots()
        for name, line in (("joint", "--"), ("agm", "-")):
            curves = [read_metrics(folder / METRICS).epochs for folder in folders[name]]
            for what, colour in palette.items():
                blocks = [
                    [
                        e["validation"] if what == "model" else e["validation"]["responses"][what]
                        for e in c
                    ]
                    for c in curves
                ]
                mean = np.mean([[block["accuracy"] for block in run] for run in blocks], axis=0)
                axes.plot(
                    range(1, len(mean) + 1),
                    mean,
                    line,
                    color=colour,
                    linewidth=1.4,
                    label=f"{what}, {name}",
                )
        axes.set_xlabel("epoch")
        axes.set_ylabel(f"validation accuracy\n(mean of {len(folders['joint'])} seeds)")
        axes.legend(ncols=2, fontsize=7, loc="lower right")
        figure.savefig(path, metadata={"Date": None})


if __name__ == "__main__":
    main()
