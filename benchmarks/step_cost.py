"""What a step of AGM costs, as a ratio to a step of joint training.

    python benchmarks/step_cost.py                  # every case; writes benchmarks/results/step_cost_<device>.{json,md}
    python benchmarks/step_cost.py --cases a-late d-linear-512 --rounds 15
    python benchmarks/step_cost.py --device cuda --modes eager compile bf16 compile+bf16

How it is measured: benchmarks/steps.py. Compiled and bf16 steps are compared with compiled and bf16 joint training.
"""

from __future__ import annotations

import argparse
import json
import platform
import statistics
import sys
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from torch import Tensor, nn

from gradmod.models.fusion import EarlyFusion, LateFusion
from gradmod.models.mlp import MLP
from gradmod.models.resnet import ResNet18
from steps import MODES, Case, hardware, median_ratio, peak_memory, take_turns, variant, variants

RESULTS = Path(__file__).parent / "results"
AUDIO_VISUAL = ("audio", "visual")
SIX = ("one", "two", "three", "four", "five", "six")


class TransformerEncoder(nn.Module):
    """UR-Funny's encoder: projection to 768, 8 post-norm layers, the first time step's output."""

    forward_ignores_mode = True
    out_features = 768

    def __init__(self, inputs: int, dropout: float) -> None:
        super().__init__()
        self.project = nn.Linear(inputs, 768, bias=False)
        layer = nn.TransformerEncoderLayer(768, 4, 2048, dropout, batch_first=True)
        self.layers = nn.TransformerEncoder(layer, 8, enable_nested_tensor=False)

    def forward(self, x: Tensor) -> Tensor:
        features: Tensor = self.layers(self.project(x))
        return features[:, 0]


class CrossAttention(nn.Module):
    """A network that is merely callable: audio attends to vision and back; no encoder stands alone."""

    def __init__(self, width: int = 128, classes: int = 29) -> None:
        super().__init__()
        self.audio, self.visual = nn.Linear(128, width), nn.Linear(512, width)
        self.to_visual = nn.MultiheadAttention(width, 4, batch_first=True)
        self.to_audio = nn.MultiheadAttention(width, 4, batch_first=True)
        self.out = nn.Sequential(nn.Linear(2 * width, width), nn.ReLU(), nn.Linear(width, classes))

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        audio, visual = self.audio(inputs["audio"]).relu(), self.visual(inputs["visual"]).relu()
        seen, _ = self.to_visual(audio, visual, visual, need_weights=False)
        heard, _ = self.to_audio(visual, audio, audio, need_weights=False)
        logits: Tensor = self.out(torch.cat([audio + seen, visual + heard], -1))
        return logits


def resnets(fusion: type[nn.Module], norm: bool) -> nn.Module:
    return fusion({m: ResNet18(in_channels=1, norm=norm) for m in AUDIO_VISUAL}, classes=10)


def mlps(fusion: type[nn.Module], hidden: int) -> nn.Module:
    return fusion({m: MLP(64, hidden=(hidden, hidden)) for m in SIX}, classes=10)


def transformers(dropout: float) -> nn.Module:
    sizes = {"visual": 371, "audio": 81, "text": 300}
    return LateFusion(
        {m: TransformerEncoder(size, dropout) for m, size in sizes.items()}, classes=2
    )


AV_MNIST = {"audio": (1, 112, 112), "visual": (1, 28, 28)}
UR_FUNNY = {"visual": (20, 371), "audio": (20, 81), "text": (20, 300)}
LATE = ("additive", "reuse", "batched", "looped", "shared")
EARLY = ("reuse", "batched", "looped", "shared")
RESNETS = {"inputs": AV_MNIST, "batch": 64, "classes": 10}
FUNNY = {"inputs": UR_FUNNY, "batch": 8, "classes": 2}
MLPS = {"inputs": dict.fromkeys(SIX, (64,)), "batch": 64, "classes": 10}
CASES = {
    "a-late": Case(
        "two ResNet-18, AV-MNIST, late",
        partial(resnets, LateFusion, True),
        LATE,
        goals={"additive": 2.1, "shared": 1.15},
        **RESNETS,
    ),
    "a-early": Case(
        "two ResNet-18, AV-MNIST, early",
        partial(resnets, EarlyFusion, True),
        EARLY,
        goals={"reuse": 2.1, "shared": 1.15},
        **RESNETS,
    ),
    "b-late": Case(
        "a-late without batch norm",
        partial(resnets, LateFusion, False),
        LATE[:4],
        goals={"additive": 1.15},
        **RESNETS,
    ),
    "b-early": Case(
        "a-early without batch norm",
        partial(resnets, EarlyFusion, False),
        EARLY[:3],
        goals={"reuse": 1.15},
        **RESNETS,
    ),
    "c-dropout-0": Case(
        "three transformers, UR-Funny, no dropout",
        partial(transformers, 0.0),
        ("additive", "batched", "looped"),
        goals={"additive": 1.3},
        **FUNNY,
    ),
    "c-dropout": Case(
        "three transformers, UR-Funny, dropout 0.1",
        partial(transformers, 0.1),
        ("additive", "batched", "looped", "shared"),
        goals={"additive": 2.3},
        **FUNNY,
    ),
    "d-linear-512": Case(
        "six MLPs of 512, linear head",
        partial(mlps, LateFusion, 512),
        LATE[:4],
        goals={"additive": 1.3},
        **MLPS,
    ),
    "d-linear-2048": Case(
        "six MLPs of 2048, linear head",
        partial(mlps, LateFusion, 2048),
        LATE[:4],
        goals={"additive": 1.3},
        **MLPS,
    ),
    "d-maxout-512": Case(
        "six MLPs of 512, MaxOut head", partial(mlps, EarlyFusion, 512), EARLY[:3], **MLPS
    ),
    "d-maxout-2048": Case(
        "six MLPs of 2048, MaxOut head", partial(mlps, EarlyFusion, 2048), EARLY[:2], **MLPS
    ),
    "e-callable": Case(
        "cross-attention, merely callable, AVE shapes",
        CrossAttention,
        ("batched", "looped"),
        goals={"batched vs looped": 1.05},
        inputs={"audio": (10, 128), "visual": (10, 512)},
        batch=64,
        classes=29,
        target=(10,),
    ),
}


def measure(
    case: Case, rounds: int, device: torch.device, mode: str
) -> dict[str, dict[str, float]]:
    """Of each variant: median seconds, ratio to joint training (of `batched`, to `looped` as well), peak memory."""
    steps = variants(case, ("joint", *case.strategies), device, mode)
    seconds = take_turns(steps, rounds)
    figures = {}
    for name, times in seconds.items():
        figures[name] = {
            "seconds": statistics.median(times),
            "ratio": median_ratio(times, seconds["joint"]),
        }
        if name == "batched":
            figures[name]["ratio to looped"] = median_ratio(times, seconds.get("looped", times))
        figures[name]["memory_mib"] = peak_memory(
            partial(variant, case, name, device, mode), device
        )
    return figures


def markdown(report: dict[str, object]) -> str:
    lines = [
        "# Cost of an AGM step relative to a joint step",
        "",
        f"`{report['command']}` on {report['hardware']}; torch {report['torch']}; median of {report['rounds']} rounds.",
        "",
        "| case | mode | strategy | ms | ratio to joint | goal | peak memory, MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_mode in report["cases"].items():  # type: ignore[attr-defined]
        goals = CASES[name].goals
        for mode, figures in by_mode.items():
            for strategy, row in figures.items():
                goal = f"<= {goals[strategy]:g}" if strategy in goals and mode == "eager" else ""
                if strategy == "batched" and "batched vs looped" in goals:
                    goal = f"{row['ratio to looped']:.2f} of looped, goal <= {goals['batched vs looped']:g}"
                lines.append(
                    f"| {name}: {CASES[name].title} | {mode} | {strategy} | {row['seconds'] * 1000:.1f} | "
                    f"{row['ratio']:.2f} | {goal} | {row['memory_mib']:.0f} |"
                )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--modes", nargs="+", default=["eager"], choices=MODES)
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    device = torch.device(options.device)
    cases: dict[str, dict[str, dict[str, dict[str, float]]]] = {}
    for name in options.cases:
        for mode in options.modes:
            figures = cases.setdefault(name, {})[mode] = measure(
                CASES[name], options.rounds, device, mode
            )
            for strategy, row in figures.items():
                shown = f"{row['ratio']:6.2f} x joint  {row['memory_mib']:8.0f} MiB"
                print(f"{name:14} {mode:12} {strategy:10} {shown}", flush=True)
    report = {
        "command": " ".join(["python benchmarks/step_cost.py", *sys.argv[1:]]),
        "hardware": hardware(device),
        "platform": platform.platform(),
        "torch": torch.__version__,
        "rounds": options.rounds,
        "cases": cases,
    }
    stem = options.out / f"step_cost_{device.type}"
    stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
    stem.with_suffix(".md").write_text(markdown(report))


if __name__ == "__main__":
    main()
