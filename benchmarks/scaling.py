"""How the time and memory of a step of AGM grow: with the batch, the modalities, the classes and the encoders.

    python benchmarks/scaling.py        # ten minutes or so; writes benchmarks/results/scaling.{json,md,svg}
    python benchmarks/scaling.py --axes classes --rounds 5

Late fusion of MLPs, which every way to evaluate the coalitions can run. One size grows at a time; how a step is
measured: benchmarks/steps.py.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import nn

from gradmod.models.fusion import LateFusion
from gradmod.models.mlp import MLP
from steps import Case, hardware, median_ratio, peak_memory, take_turns, variant, variants

RESULTS = Path(__file__).parent / "results"
STRATEGIES = ("additive", "reuse", "batched", "looped")
INPUT = 64


@dataclass(frozen=True)
class Sizes:
    """What can grow.

    Attributes:
        batch: samples.
        modalities: M.
        classes: K.
        width: of both hidden layers of every encoder.
    """

    batch: int = 64
    modalities: int = 3
    classes: int = 10
    width: int = 256

    def case(self) -> Case:
        """Network and batch of these sizes."""
        names = [f"modality {number}" for number in range(1, self.modalities + 1)]
        network = partial(network_of, tuple(names), self.classes, self.width)
        return Case(
            str(self), network, STRATEGIES, dict.fromkeys(names, (INPUT,)), self.batch, self.classes
        )


AXES: dict[str, tuple[int, ...]] = {
    "batch": (16, 32, 64, 128, 256, 512),
    "modalities": (2, 3, 4, 5, 6, 7, 8),
    "classes": (10, 100, 1000, 10_000),
    "width": (64, 128, 256, 512, 1024, 2048),
}
Row = dict[str, Any]


def network_of(modalities: tuple[str, ...], classes: int, width: int) -> nn.Module:
    return LateFusion({m: MLP(INPUT, hidden=(width, width)) for m in modalities}, classes=classes)


def grow(axis: str, rounds: int, device: torch.device) -> list[Row]:
    """Every strategy at every size of one axis."""
    rows = []
    for size in AXES[axis]:
        case = replace(Sizes(), **{axis: size}).case()
        seconds = take_turns(variants(case, ("joint", *STRATEGIES), device), rounds)
        for name, times in seconds.items():
            ratio = round(median_ratio(times, seconds["joint"]), 2)
            memory = round(peak_memory(partial(variant, case, name, device), device))
            rows.append(
                {"axis": axis, "size": size, "strategy": name, "ratio": ratio, "memory_mib": memory}
            )
            print(f"{axis} {size:6} {name:9} {ratio:7.2f} x joint {memory:8} MiB", flush=True)
    return rows


def total_memory(device: torch.device) -> int:
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def markdown(report: dict[str, Any]) -> str:
    base = ", ".join(f"{name} {value}" for name, value in vars(Sizes()).items())
    lines = [
        "# How a step of AGM grows",
        "",
        f"`{report['command']}` on {report['hardware']}, {report['memory_gib']:.0f} GiB; torch {report['torch']}; "
        f"median of {report['rounds']} rounds. MLPs, late fusion; unless it grows: {base}.",
        "",
        "![Time and memory of a step over batch, modalities, classes and width](scaling.svg)",
        "",
        "| | | " + " | ".join(f"{s}: x joint" for s in STRATEGIES) + " | joint, MiB | "
        + " | ".join(f"{s}, MiB" for s in STRATEGIES) + " |",
        "|---|---|" + "---|" * (2 * len(STRATEGIES) + 1),
    ]  # fmt: skip
    by_key = {(row["axis"], row["size"], row["strategy"]): row for row in report["growth"]}
    for axis, size in dict.fromkeys((row["axis"], row["size"]) for row in report["growth"]):
        of = {s: by_key[axis, size, s] for s in ("joint", *STRATEGIES)}
        cells = [axis, f"{size:,}", *(f"{of[s]['ratio']:.2f}" for s in STRATEGIES)]
        lines.append(
            "| " + " | ".join([*cells, *(f"{row['memory_mib']:.0f}" for row in of.values())]) + " |"
        )
    return "\n".join(lines) + "\n"


def plot(growth: list[Row], path: Path) -> None:
    import matplotlib
    from matplotlib.figure import Figure

    from gradmod.experiments.reporting.style import MODEL_COLOUR, PALETTE, RC

    axes_names = list(dict.fromkeys(row["axis"] for row in growth))
    palette = {"joint": MODEL_COLOUR, **dict(zip(STRATEGIES, PALETTE, strict=False))}
    with matplotlib.rc_context(RC):
        figure = Figure(figsize=(2.4 * len(axes_names), 4.4), layout="constrained")
        panels = figure.subplots(2, len(axes_names), sharey="row", squeeze=False)
        for column, axis in enumerate(axes_names):
            for name, colour in palette.items():
                rows = [row for row in growth if (row["axis"], row["strategy"]) == (axis, name)]
                sizes = [row["size"] for row in rows]
                for panel, figures in zip(panels[:, column], ("ratio", "memory_mib"), strict=True):
                    values = [row[figures] for row in rows]
                    panel.plot(
                        sizes,
                        values,
                        color=colour,
                        marker="o",
                        markersize=2.5,
                        linewidth=1.3,
                        label=name,
                    )
            for panel in panels[:, column]:
                panel.set_yscale("log")
                panel.set_xscale("linear" if axis == "modalities" else "log")
                ticks = list(AXES[axis])
                panel.set_xticks(ticks, [f"{size:,}" for size in ticks], fontsize=7)
                panel.minorticks_off()
            panels[1, column].set_xlabel(axis)
        panels[0, 0].set_ylabel("time of a step,\nrelative to joint training")
        panels[1, 0].set_ylabel("peak memory, MiB")
        panels[0, 0].legend(fontsize=7)
        figure.savefig(path, metadata={"Date": None})


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--axes", nargs="+", default=list(AXES), choices=list(AXES))
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = torch.device(options.device)
    report = {
        "command": " ".join(["python benchmarks/scaling.py", *sys.argv[1:]]),
        "hardware": hardware(device),
        "memory_gib": total_memory(device) / 2**30,
        "torch": torch.__version__,
        "rounds": options.rounds,
        "growth": [row for axis in options.axes for row in grow(axis, options.rounds, device)],
    }
    stem = options.out / ("scaling" if device.type == "cpu" else f"scaling_{device.type}")
    stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    stem.with_suffix(".md").write_text(markdown(report).replace("scaling.svg", f"{stem.name}.svg"))
    plot(report["growth"], stem.with_suffix(".svg"))


if __name__ == "__main__":
    main()
