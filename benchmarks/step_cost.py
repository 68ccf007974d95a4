"""What a step of AGM costs, as a ratio to a step of joint training.

    python benchmarks/step_cost.py                  # every case; writes benchmarks/results/step_cost_<device>.{json,md}
    python benchmarks/step_cost.py --cases a-late d-linear --rounds 15

A step is forward, loss and backward of the same network on the same batch (no optimizer: it costs both the same, and
would only make the ratio look better). The variants take turns in one process, each round in a new order; the
figures are medians over rounds, and the ratio is the median of the ratios within a round. Memory is the growth of the
peak resident set of a fresh process over one warm-up and three steps (on a GPU: the peak of allocated memory above the
parameters).
"""

from __future__ import annotations

import argparse
import json
import platform
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from gradmod import AGM, Joint, ModulatedModel
from gradmod.models.fusion import EarlyFusion, LateFusion
from gradmod.models.mlp import MLP
from gradmod.models.resnet import ResNet18

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


@dataclass(frozen=True)
class Case:
    """One network and batch.

    Attributes:
        title: what it is.
        network: makes the network.
        inputs: per-sample shapes.
        batch: batch size.
        target: shape of the targets, without the batch.
        classes: number of classes.
        strategies: what is compared with joint training.
        goals: strategy -> largest ratio aimed at on the CPU.
    """

    title: str
    network: Callable[[], nn.Module]
    strategies: tuple[str, ...]
    goals: Mapping[str, float]
    inputs: Mapping[str, tuple[int, ...]]
    batch: int
    classes: int
    target: tuple[int, ...] = ()


def resnets(fusion: type[nn.Module], norm: bool) -> Callable[[], nn.Module]:
    def build() -> nn.Module:
        return fusion({m: ResNet18(in_channels=1, norm=norm) for m in AUDIO_VISUAL}, classes=10)

    return build


def mlps(fusion: type[nn.Module], hidden: int) -> Callable[[], nn.Module]:
    return lambda: fusion({m: MLP(64, hidden=(hidden, hidden)) for m in SIX}, classes=10)


def transformers(dropout: float) -> Callable[[], nn.Module]:
    sizes = {"visual": 371, "audio": 81, "text": 300}
    return lambda: LateFusion({m: TransformerEncoder(size, dropout) for m, size in sizes.items()}, classes=2)


AV_MNIST = {"audio": (1, 112, 112), "visual": (1, 28, 28)}
UR_FUNNY = {"visual": (20, 371), "audio": (20, 81), "text": (20, 300)}
LATE = ("additive", "reuse", "batched", "looped", "shared")
EARLY = ("reuse", "batched", "looped", "shared")
RESNETS = {"inputs": AV_MNIST, "batch": 64, "classes": 10}
FUNNY = {"inputs": UR_FUNNY, "batch": 8, "classes": 2}
MLPS = {"inputs": dict.fromkeys(SIX, (64,)), "batch": 64, "classes": 10}
CASES = {
    "a-late": Case(
        "two ResNet-18, AV-MNIST, late", resnets(LateFusion, True), LATE, {"additive": 2.1, "shared": 1.15}, **RESNETS
    ),
    "a-early": Case(
        "two ResNet-18, AV-MNIST, early", resnets(EarlyFusion, True), EARLY, {"reuse": 2.1, "shared": 1.15}, **RESNETS
    ),
    "b-late": Case("a-late without batch norm", resnets(LateFusion, False), LATE[:4], {"additive": 1.15}, **RESNETS),
    "b-early": Case("a-early without batch norm", resnets(EarlyFusion, False), EARLY[:3], {"reuse": 1.15}, **RESNETS),
    "c-dropout-0": Case(
        "three transformers, UR-Funny, no dropout",
        transformers(0.0),
        ("additive", "batched", "looped"),
        {"additive": 1.3},
        **FUNNY,
    ),
    "c-dropout": Case(
        "three transformers, UR-Funny, dropout 0.1",
        transformers(0.1),
        ("additive", "batched", "looped", "shared"),
        {"additive": 2.3},
        **FUNNY,
    ),
    "d-linear-512": Case("six MLPs of 512, linear head", mlps(LateFusion, 512), LATE[:4], {"additive": 1.3}, **MLPS),
    "d-linear-2048": Case("six MLPs of 2048, linear head", mlps(LateFusion, 2048), LATE[:4], {"additive": 1.3}, **MLPS),
    "d-maxout-512": Case("six MLPs of 512, MaxOut head", mlps(EarlyFusion, 512), EARLY[:3], {}, **MLPS),
    "d-maxout-2048": Case("six MLPs of 2048, MaxOut head", mlps(EarlyFusion, 2048), EARLY[:2], {}, **MLPS),
    "e-callable": Case(
        "cross-attention, merely callable, AVE shapes",
        CrossAttention,
        ("batched", "looped"),
        {"batched vs looped": 1.05},
        inputs={"audio": (10, 128), "visual": (10, 512)},
        batch=64,
        classes=29,
        target=(10,),
    ),
}


def variants(case: Case, device: torch.device) -> dict[str, Callable[[], None]]:
    """A training step of every variant, all on the same network and batch."""
    torch.manual_seed(0)
    network = case.network().to(device)
    inputs = {m: torch.randn(case.batch, *shape, device=device) for m, shape in case.inputs.items()}
    target = torch.randint(case.classes, (case.batch, *case.target), device=device)
    modalities = tuple(case.inputs)
    models = {"joint": ModulatedModel(network, Joint(modalities))}
    models |= {s: ModulatedModel(network, AGM(modalities), coalitions=s) for s in case.strategies}

    def step_of(model: ModulatedModel) -> Callable[[], None]:
        def step() -> None:
            network.zero_grad(set_to_none=True)
            model.task.loss(model(inputs, target), target).backward()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return step

    return {name: step_of(model) for name, model in models.items()}


def measure(case: Case, rounds: int, device: torch.device) -> dict[str, dict[str, float]]:
    """Median seconds of each variant, and its ratio to joint training (for `batched`, to `looped` as well)."""
    steps = variants(case, device)
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            started = time.perf_counter()
            steps[name]()
            seconds[name].append(time.perf_counter() - started)
    figures = {}
    for name, times in seconds.items():
        figures[name] = {"seconds": statistics.median(times), "ratio": median_ratio(times, seconds["joint"])}
        if name == "batched":
            figures[name]["ratio to looped"] = median_ratio(times, seconds.get("looped", times))
    return figures


def median_ratio(times: list[float], others: list[float]) -> float:
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def peak_memory(name: str, variant: str, device: torch.device) -> float:
    """MiB that the steps of one variant need above network and batch."""
    if device.type == "cuda":
        step = variants(CASES[name], device)[variant]
        step()
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        base = torch.cuda.memory_allocated()
        step()
        return (torch.cuda.max_memory_allocated() - base) / 2**20
    command = [sys.executable, __file__, "--memory-of", name, variant]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def print_own_peak_memory(name: str, variant: str) -> None:
    step = variants(CASES[name], torch.device("cpu"))[variant]
    base = status_mib("VmRSS")
    for _ in range(4):
        step()
    print(status_mib("VmHWM") - base)


def status_mib(field: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{field}:"))


def hardware(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    model = next(
        (x.split(":")[1].strip() for x in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in x), "?"
    )
    return f"{model}, {torch.get_num_threads()} threads"


def markdown(report: dict[str, object]) -> str:
    lines = [
        "# Cost of an AGM step relative to a joint step",
        "",
        f"`{report['command']}` on {report['hardware']}; torch {report['torch']}; median of {report['rounds']} rounds.",
        "",
        "| case | strategy | ms | ratio to joint | goal | peak memory, MiB |",
        "|---|---|---|---|---|---|",
    ]
    for name, figures in report["cases"].items():  # type: ignore[attr-defined]
        goals = CASES[name].goals
        for strategy, row in figures.items():
            goal = f"<= {goals[strategy]:g}" if strategy in goals else ""
            if strategy == "batched" and "batched vs looped" in goals:
                goal = f"{row['ratio to looped']:.2f} of looped, goal <= {goals['batched vs looped']:g}"
            lines.append(
                f"| {name}: {CASES[name].title} | {strategy} | {row['seconds'] * 1000:.1f} | {row['ratio']:.2f} | "
                f"{goal} | {row['memory_mib']:.0f} |"
            )
    return "\n".join(lines) + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--rounds", type=int, default=11)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--out", type=Path, default=RESULTS)
    parser.add_argument("--memory-of", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.memory_of:
        print_own_peak_memory(*options.memory_of)
        return
    device = torch.device(options.device)
    cases: dict[str, dict[str, dict[str, float]]] = {}
    for name in options.cases:
        cases[name] = measure(CASES[name], options.rounds, device)
        for variant, row in cases[name].items():
            row["memory_mib"] = peak_memory(name, variant, device)
            print(f"{name:14} {variant:10} {row['ratio']:6.2f} x joint  {row['memory_mib']:8.0f} MiB", flush=True)
    report = {
        "command": "python benchmarks/step_cost.py " + " ".join(sys.argv[1:]),
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
