"""What a training step of every method costs, as a ratio to a step of joint training.

    python benchmarks/method_cost.py                 # every case; writes benchmarks/results/step_cost_methods.{json,md}
    python benchmarks/method_cost.py --cases resnet-late mlp-early-6 --methods mcr tcmax --rounds 15 --out /tmp

A step is `model.training_step`: forward, losses, backward, and the steps of the optimizer (SGD with momentum). The
methods are those of the registry, with its defaults. They take turns in one process, each with a copy of the network;
a ratio is the median of the ratios within a round. On one thread, seconds are those of the processor, which other
programs of the machine do not lengthen. What is done between epochs is not in it.
"""

from __future__ import annotations

import argparse
import copy
import json
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gradmod import ModulatedModel
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.registry import build_method
from gradmod.models.fusion import EarlyFusion, LateFusion
from gradmod.models.mlp import MLP
from gradmod.models.resnet import ResNet18
from gradmod.models.small_cnn import SmallCNN
from gradmod.protocols import declared_modules
from gradmod.tasks import Classification
from steps import Step, hardware, median_ratio, take_turns

RESULTS = Path(__file__).parent / "results"
NAMES = ("one", "two", "three", "four", "five", "six")
CLASSES = 10
FUSIONS = {"late": LateFusion, "early": EarlyFusion}


class Batch(NamedTuple):
    """Inputs by modality, and targets: all that the methods are trained on."""

    inputs: dict[str, Tensor]
    target: Tensor


class Case(NamedTuple):
    """An encoder for each modality's shape, the batch size, and how many rounds are measured."""

    title: str
    encoder: Callable[[tuple[int, ...]], nn.Module]
    shapes: Mapping[str, tuple[int, ...]]
    fusion: str
    batch: int
    rounds: int

    def network(self) -> nn.Module:
        """The network, always with the same weights."""
        torch.manual_seed(0)
        encoders = {m: self.encoder(shape) for m, shape in self.shapes.items()}
        return FUSIONS[self.fusion](encoders, classes=CLASSES)

    def data(self) -> Batch:
        """A batch, always the same."""
        torch.manual_seed(1)
        inputs = {m: torch.randn(self.batch, *shape) for m, shape in self.shapes.items()}
        return Batch(inputs, torch.randint(CLASSES, (self.batch,)))


def resnet(shape: tuple[int, ...]) -> nn.Module:
    return ResNet18(in_channels=shape[0])


def small_cnn(shape: tuple[int, ...]) -> nn.Module:
    return SmallCNN(in_channels=shape[0])


def mlp(shape: tuple[int, ...]) -> nn.Module:
    return MLP(shape[0])


AV_MNIST = {"audio": (1, 112, 112), "visual": (1, 28, 28)}
CASES = {
    f"resnet-{fusion}": Case("two ResNet-18, AV-MNIST", resnet, AV_MNIST, fusion, 16, 3)
    for fusion in FUSIONS
}
SMALL = {
    "cnn": ("small CNNs, 28 x 28", small_cnn, (1, 28, 28), 7),
    "mlp": ("MLPs of 128 and 64", mlp, (64,), 15),
}
CASES |= {
    f"{kind}-{fusion}-{count}": Case(
        title, encoder, dict.fromkeys(NAMES[:count], shape), fusion, 32, rounds
    )
    for kind, (title, encoder, shape, rounds) in SMALL.items()
    for fusion in FUSIONS
    for count in (2, 3, 6)
}


class Goal(NamedTuple):
    """The largest ratio aimed at on two ResNet-18, for these fusions."""

    ratio: float
    fusions: tuple[str, ...] = ("late", "early")


GOALS = {
    **dict.fromkeys(("modality-dropout", "opm", "dgl", "uni-modal-losses", "tcmax"), Goal(1.1)),
    "mmpareto": Goal(1.8),
    "mla": Goal(1.2),
    "mcr": Goal(1.3, ("late",)),  # of 32 permutations, the default, and a linear head
}

NOTES = {
    "mses": "in a step it does what joint training does: how far its row is from 1 is the noise of the measurement. "
    "So are mslr and diagnosing-relearning.",
    "mmpareto": "a second backward pass makes 1.7 of it, since a backward is two thirds of a joint step. The rest is "
    "reading two gradients of 22 million parameters, the same for any batch size.",
    "tcmax": "with early fusion all pairs of the batch go through the MaxOut network, forward and backward: its price "
    "grows with the square of the batch. With late fusion the sum factors.",
    "mcr": "with early fusion the MaxOut network runs on 33 M batches.",
    "mla": "it has one linear head in place of the fusion, so that with early fusion and small encoders it is cheaper "
    "than joint training.",
    "agm": "with early fusion 2^M - 2 coalitions go through the MaxOut network.",
}


Preparation = Callable[[ModulatedModel, Batch, torch.optim.Optimizer], object]


def show_splits(model: ModulatedModel, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    """Show the method its data, as a loop does before every epoch."""
    model.before_epoch(1, train=[tuple(batch)], validation=[tuple(batch)])


def make_trials(model: ModulatedModel, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    """Let the method train the model on trial, as a loop does before every epoch."""
    model.before_epoch(1, train=[tuple(batch)], held_out=[tuple(batch)], optimizer=optimizer)


def give_teachers(model: ModulatedModel, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    """The network's own encoders, as teachers."""
    encoders = declared_modules(model.model, "encoders", tuple(batch.inputs))
    assert encoders is not None
    model.take_teachers(copy.deepcopy(dict(encoders)))


PREPARATIONS: dict[str, Preparation] = {
    "splits": show_splits,
    "trials": make_trials,
    "teachers": give_teachers,
}
"""What is done with a method before its first step, by what it needs: a value of `gradmod.methods.base.Need`."""
NEEDS_OF_THE_NETWORK = {"coalitions", "features", "fusion", "heads", "modules", "validation"}


def step_of(name: str, network: nn.Module, batch: Batch) -> Step:
    """A training step of the method called `name`, on a copy of the network.

    Raises:
        ValueError: the method does not go with the network.
        LookupError: it needs something that nothing here prepares.
    """
    method = build_method(name, tuple(batch.inputs))
    model = ModulatedModel(copy.deepcopy(network), method, task=Classification())
    model.give_heads_their_sizes(batch.inputs)
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=1e-3, momentum=0.9)
    model.set_learning_rate(optimizer, 1e-3)
    for need in sorted(need.value for need in method.needs):
        if need in PREPARATIONS:
            PREPARATIONS[need](model, batch, optimizer)
        elif need not in NEEDS_OF_THE_NETWORK:
            raise LookupError(f"it needs {need}, which PREPARATIONS of this file does not know")
    return partial(_step, model, batch, optimizer)


def _step(model: ModulatedModel, batch: Batch, optimizer: torch.optim.Optimizer) -> None:
    model.training_step(batch.inputs, batch.target, optimizer)


def measure(case: Case, names: Sequence[str], rounds: int) -> dict[str, dict[str, Any]]:
    """Of each method: median seconds and ratio to joint training, or why it was not measured."""
    network, batch = case.network(), case.data()
    steps: dict[str, Step] = {}
    figures: dict[str, dict[str, Any]] = {}
    for name in dict.fromkeys(("joint", *names)):
        figures[name] = {}
        try:
            steps[name] = step_of(name, network, batch)
        except (ValueError, LookupError) as error:
            figures[name]["refused"] = str(error)
    clock = time.process_time if torch.get_num_threads() == 1 else time.perf_counter
    seconds = take_turns(steps, rounds, clock)
    for name, times in seconds.items():
        figures[name]["seconds"] = statistics.median(times)
        figures[name]["ratio"] = median_ratio(times, seconds["joint"])
    return figures


def verdict(name: str, cases: Mapping[str, Mapping[str, Any]]) -> tuple[str, str]:
    """The goal of a method, and whether it is met."""
    if name not in GOALS:
        return "", ""
    goal = GOALS[name]
    found = {}
    for fusion in goal.fusions:
        ratio = cases.get(f"resnet-{fusion}", {}).get(name, {}).get("ratio")
        if ratio is not None:
            found[fusion] = "met" if ratio <= goal.ratio else "missed"
    only = "" if len(goal.fusions) > 1 else f", {goal.fusions[0]}"
    alike = len(set(found.values())) == 1
    said = next(iter(found.values())) if alike else ", ".join(f"{v} {f}" for f, v in found.items())
    return f"<= {goal.ratio:.2f}{only}", said


def markdown(report: dict[str, Any]) -> str:
    cases = report["cases"]
    titles = {key: CASES[key] for key in cases}
    lines = [
        "# Cost of a training step of every method, relative to joint training",
        "",
        f"`{report['command']}` on {report['hardware']}; torch {report['torch']}.",
        "Medians of rounds in which the methods take turns; seconds of the processor. Goals are of two ResNet-18.",
        "An empty cell: the method does not go with the network.",
        "",
        *(
            f"- **{key}**: {case.title}, {case.fusion} fusion, M = {len(case.shapes)}, batch {case.batch}, "
            f"{report['rounds'][key]} rounds; a joint step takes {cases[key]['joint']['seconds'] * 1000:.1f} ms"
            for key, case in titles.items()
        ),
        "",
        "| method | goal | | " + " | ".join(cases) + " |",
        "|---|---|---|" + "---|" * len(cases),
    ]
    names = list(dict.fromkeys(name for figures in cases.values() for name in figures))
    for name in names:
        ratios = [figures.get(name, {}).get("ratio") for figures in cases.values()]
        cells = ["" if ratio is None else f"{ratio:.2f}" for ratio in ratios]
        lines.append(f"| {' | '.join([name, *verdict(name, cases), *cells])} |")
    refused = {
        name: row["refused"]
        for figures in cases.values()
        for name, row in figures.items()
        if "refused" in row
    }
    lines += [
        "",
        *(f"- **{name}**: {NOTES[name]}" for name in names if name in NOTES),
        *(f"- **{name}** does not go with every network: {why}" for name, why in refused.items()),
    ]
    return "\n".join(lines).rstrip() + "\n"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--cases", nargs="+", default=list(CASES), choices=list(CASES))
    parser.add_argument("--methods", nargs="+", default=list(METHODS), choices=list(METHODS))
    parser.add_argument("--rounds", type=int, help="in place of each case's own number")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    cases: dict[str, Any] = {}
    report = {
        "command": " ".join(["python benchmarks/method_cost.py", *sys.argv[1:]]),
        "hardware": hardware(torch.device("cpu")),
        "torch": torch.__version__,
        "rounds": {key: options.rounds or CASES[key].rounds for key in options.cases},
        "cases": cases,
    }
    stem = options.out / "step_cost_methods"
    for key in options.cases:
        cases[key] = measure(CASES[key], options.methods, options.rounds or CASES[key].rounds)
        for name, row in cases[key].items():
            shown = f"{row['ratio']:6.2f} x joint" if "ratio" in row else row["refused"][:60]
            print(f"{key:14} {name:22} {shown}", flush=True)
        stem.with_suffix(".json").write_text(json.dumps(report, indent=2) + "\n")
        stem.with_suffix(".md").write_text(markdown(report))


if __name__ == "__main__":
    main()
