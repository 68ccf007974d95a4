"""AV-Digits: what each modality reaches alone, what joint training and methods reach, under SGD and under AdamW.

    python benchmarks/av_digits.py --jobs 2

The defaults of `gradmod train` but for what the table names; 5 seeds; the epoch is chosen on validation, the test split
is scored once. Writes benchmarks/results/av_digits.{json,md}. Finished runs are not repeated.
"""

from __future__ import annotations

import argparse
import json
import platform
from pathlib import Path
from typing import Any

import torch

from gradmod.experiments.methods.modulating import AGMSettings
from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    OptimizerConfig,
    TrainConfig,
)
from summaries import cell, ensemble, summary
from sweep import run_all

RESULTS = Path(__file__).parent / "results"
LEARNING_RATES = {"sgd": 0.01, "adamw": 0.001}
ALPHAS = (0.3, 1.0, 3.0)
METHODS = (
    "uni-modal-losses",
    "mmpareto",
    "modality-dropout",
    "dgl",
    "mlb",
    "opm",
    "mla",
    "tcmax",
    "mcr",
)
"""With their defaults, untuned; the first two under AdamW as well."""


def rows() -> dict[str, tuple[DataConfig, MethodConfig, OptimizerConfig]]:
    """Every line of the table: its name and its settings."""
    lines = {}
    for optimizer, lr in LEARNING_RATES.items():
        settings = OptimizerConfig(optimizer=optimizer, lr=lr)
        lines[f"{optimizer}-joint"] = (DataConfig(), MethodConfig(method="joint"), settings)
        for alpha in ALPHAS:
            lines[f"{optimizer}-agm-{alpha:g}"] = (
                DataConfig(),
                MethodConfig(settings=AGMSettings(alpha)),
                settings,
            )
        for method in METHODS if optimizer == "sgd" else METHODS[:2]:
            lines[f"{optimizer}-{method}"] = (DataConfig(), MethodConfig(method=method), settings)
        for modality in ("audio", "visual"):
            lines[f"{optimizer}-{modality}"] = (
                DataConfig(modality=modality),
                MethodConfig(method="joint"),
                settings,
            )
    return lines


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--runs", type=Path, default=Path("runs/av-digits"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    options = parser.parse_args()
    configs = {
        f"{name}-seed{seed}": Config(
            data, method=method, optimizer=optimizer, train=TrainConfig(seed=seed, device="cpu")
        )
        for name, (data, method, optimizer) in rows().items()
        for seed in range(options.seeds)
    }
    results = run_all(configs, options.runs, options.jobs)
    folders = {
        name: [options.runs / f"{name}-seed{seed}" for seed in range(options.seeds)]
        for name in rows()
    }
    lines: dict[str, Any] = {
        name: summary([results[f.name] for f in listed]) for name, listed in folders.items()
    }
    for optimizer in LEARNING_RATES:
        lines[f"{optimizer}-ensemble"] = ensemble(
            folders[f"{optimizer}-audio"], folders[f"{optimizer}-visual"]
        )
    report = {
        "command": "python benchmarks/av_digits.py",
        "seeds": list(range(options.seeds)),
        "epochs": TrainConfig().epochs,
        "torch": torch.__version__,
        "machine": f"{platform.machine()}, one thread a run",
        "learning_rates": LEARNING_RATES,
        "rows": lines,
    }
    RESULTS.mkdir(exist_ok=True)
    (RESULTS / "av_digits.json").write_text(json.dumps(report, indent=2) + "\n")
    (RESULTS / "av_digits.md").write_text(markdown(report))
    print(markdown(report))


def markdown(report: dict[str, Any]) -> str:
    lines = [
        f"`{report['command']}`: late fusion of two MLPs, {report['epochs']} epochs, {len(report['seeds'])} seeds.",
        "",
        "| optimizer | training | test accuracy | audio response | visual response | coefficients, audio | visual "
        "| best epochs |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for name, row in sorted(
        report["rows"].items(), key=lambda item: item[0].split("-")[0], reverse=True
    ):
        optimizer, _, what = name.partition("-")
        title = what.replace("agm-", "AGM, alpha ")
        title = f"{title} alone" if title in ("audio", "visual") else title
        ranges = [row.get("coefficients", {}).get(m) for m in ("audio", "visual")]
        cells = [
            f"{optimizer} {report['learning_rates'][optimizer]:g}",
            title,
            cell(row["accuracy"]),
        ]
        cells += [cell(row["responses"].get(m)) for m in ("audio", "visual")]
        cells += [f"{r[0]:.2g} to {r[1]:.2g}" if r else "" for r in ranges]
        cells.append(", ".join(map(str, row.get("best_epochs", []))))
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
