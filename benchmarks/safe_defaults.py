"""Which cap and which clipping keep AGM from collapsing: the measurement behind the defaults.

    python benchmarks/safe_defaults.py --root PATH_TO_AVMNIST --jobs 2

Small CNN, late fusion, SGD 0.01 with momentum 0.9, batch 64, a few epochs. A run has collapsed when its best validation
accuracy is below 0.2 (chance is 0.1), or when a loss or parameter stopped being finite. Joint training under the same
clipping stands beside it. Writes benchmarks/results/safe_defaults.{json,md}.
"""

from __future__ import annotations

import argparse
import json
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gradmod.experiments.methods.modulating import AGMSettings
from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)
from sweep import run_all

CHANCE_LIMIT = 0.2
CAPS: tuple[float | None, ...] = (0.5, 2.0, None)
CLIPS: tuple[float | None, ...] = (None, 5.0)


def grid(
    alphas: list[float], seeds: int, root: str, epochs: int, width: int
) -> Iterator[tuple[tuple[Any, ...], Config]]:
    """Every setting as (method, alpha, cap, clip, seed) and its configuration."""
    for seed in range(seeds):
        for clip in CLIPS:
            settings = [
                ("joint", 0.0, None),
                *(("agm", alpha, cap) for alpha in alphas for cap in CAPS),
            ]
            for method, alpha, cap in settings:
                yield (
                    (method, alpha, cap, clip, seed),
                    Config(
                        DataConfig(dataset="av-mnist", root=root),
                        ModelConfig(encoder="small-cnn", width=width),
                        MethodConfig(
                            method, settings=AGMSettings(alpha, cap) if method == "agm" else None
                        ),
                        OptimizerConfig(lr=0.01, clip_norm=clip),
                        TrainConfig(epochs=epochs, seed=seed, log_every=25, device="cpu"),
                    ),
                )


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--root", required=True, help="folder of an AV-MNIST")
    parser.add_argument("--runs", type=Path, default=Path("runs/safe-defaults"))
    parser.add_argument("--jobs", type=int, default=2)
    parser.add_argument("--seeds", type=int, default=5)
    parser.add_argument("--alphas", type=float, nargs="+", default=[1.0, 4.0])
    parser.add_argument("--epochs", type=int, default=4)
    parser.add_argument("--width", type=int, default=4)
    options = parser.parse_args()
    settings = list(
        grid(options.alphas, options.seeds, options.root, options.epochs, options.width)
    )
    names = {"-".join(map(str, key)): (key, config) for key, config in settings}
    results = run_all(
        {name: config for name, (_, config) in names.items()}, options.runs, options.jobs
    )
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    for name, (key, _) in names.items():
        rows.setdefault(key[:4], []).append(results[name])
    table = [summary(key, outcomes) for key, outcomes in rows.items()]
    out = Path(__file__).parent / "results"
    facts = vars(options) | {"root": Path(options.root).name, "runs": options.runs.name}
    (out / "safe_defaults.json").write_text(
        json.dumps({"settings": facts, "rows": table}, indent=2) + "\n"
    )
    (out / "safe_defaults.md").write_text(markdown(table, facts))
    print(markdown(table, facts))


def summary(key: tuple[Any, ...], outcomes: list[dict[str, Any]]) -> dict[str, Any]:
    """One row: a setting over its seeds."""
    method, alpha, cap, clip = key
    accuracies = [r["splits"]["validation"]["accuracy"] for r in outcomes if "error" not in r]
    largest = [
        max(float(c["max"]) for c in r["coefficients"].values())
        for r in outcomes
        if "coefficients" in r
    ]
    return {
        "method": method,
        "alpha": alpha,
        "cap": cap,
        "clip_norm": clip,
        "collapsed": len(outcomes) - sum(a >= CHANCE_LIMIT for a in accuracies),
        "not_finite": sum("error" in r for r in outcomes),
        "seeds": len(outcomes),
        "accuracy_mean": statistics.fmean(accuracies) if accuracies else None,
        "accuracy_min": min(accuracies, default=None),
        "largest_coefficient": max(largest, default=None),
    }


def markdown(table: list[dict[str, Any]], facts: dict[str, Any]) -> str:
    lines = [
        "# Which cap and clipping keep AGM from collapsing",
        "",
        f"`python benchmarks/safe_defaults.py`: {facts['root']}, small CNN of width {facts['width']}, late fusion, "
        "SGD 0.01, "
        f"{facts['epochs']} epochs, {facts['seeds']} seeds. Best validation accuracy over epochs; chance is 0.1.",
        "",
        "| method | alpha | cap | clip norm | collapsed | mean accuracy | worst seed | largest coefficient |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in table:
        collapsed = f"{row['collapsed']} of {row['seeds']}"
        cells = [row["method"], f"{row['alpha']:g}", row["cap"], row["clip_norm"], collapsed]
        cells += [
            f"{row[k]:.3f}" if row[k] is not None else "-"
            for k in ("accuracy_mean", "accuracy_min")
        ]
        largest = row["largest_coefficient"]
        cells.append(f"{largest:.3g}" if largest is not None else "-")
        lines.append(
            "| " + " | ".join("none" if cell is None else str(cell) for cell in cells) + " |"
        )
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
