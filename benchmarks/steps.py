"""A training step of each way to evaluate the coalitions, timed in turns: what the scripts beside this one share.

A step is forward, loss and backward of the same network on the same batch (no optimizer: it costs all the same, and
would only make the ratio look better). The variants take turns in one process, each round in a new order; figures are
medians over rounds, and a ratio is the median of the ratios within a round. Memory is the growth of the peak resident
set of a fresh process over a few steps (on a GPU: the peak of allocated memory above the parameters).
"""

from __future__ import annotations

import multiprocessing
import random
import statistics
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import nn

from gradmod import AGM, Joint, ModulatedModel

Step = Callable[[], None]
MODES = ("eager", "compile", "bf16", "compile+bf16")


@dataclass(frozen=True)
class Case:
    """One network and batch.

    Attributes:
        title: what it is.
        network: makes the network; a function or a partial of one, so that another process can have it.
        strategies: what is compared with joint training.
        inputs: per-sample shapes.
        batch: batch size.
        classes: number of classes.
        target: shape of the targets, without the batch.
        goals: strategy -> largest ratio aimed at on the CPU.
    """

    title: str
    network: Callable[[], nn.Module]
    strategies: tuple[str, ...]
    inputs: Mapping[str, tuple[int, ...]]
    batch: int
    classes: int
    target: tuple[int, ...] = ()
    goals: Mapping[str, float] = field(default_factory=dict)


def variants(
    case: Case, names: Iterable[str], device: torch.device, mode: str = "eager"
) -> dict[str, Step]:
    """A training step of every variant, all on the same network and batch.

    Args:
        case: network and batch.
        names: of strategies; `joint` for joint training.
        device: where.
        mode: one of MODES; `compile` compiles the whole training forward, `bf16` is autocast around forward and loss.
    """
    torch.manual_seed(0)
    network = case.network().to(device)
    inputs = {m: torch.randn(case.batch, *shape, device=device) for m, shape in case.inputs.items()}
    target = torch.randint(case.classes, (case.batch, *case.target), device=device)
    modalities = tuple(case.inputs)

    def step_of(name: str) -> Step:
        method = Joint(modalities) if name == "joint" else AGM(modalities)
        model = ModulatedModel(network, method, coalitions="auto" if name == "joint" else name)
        called = torch.compile(model) if "compile" in mode else model

        def step() -> None:
            network.zero_grad(set_to_none=True)
            with torch.autocast(device.type, torch.bfloat16, enabled="bf16" in mode):
                loss = model.task.loss(called(inputs, target), target)
            loss.backward()
            if device.type == "cuda":
                torch.cuda.synchronize()

        return step

    return {name: step_of(name) for name in names}


def variant(case: Case, name: str, device: torch.device, mode: str = "eager") -> Step:
    """A training step of one variant."""
    return variants(case, [name], device, mode)[name]


def take_turns(
    steps: Mapping[str, Step], rounds: int, clock: Callable[[], float] = time.perf_counter
) -> dict[str, list[float]]:
    """Seconds of every step in each round, each round in a new order.

    Args:
        steps: by name.
        rounds: how many.
        clock: `time.process_time`, of one thread on the CPU, does not count what other programs of the machine take.
    """
    for step in steps.values():
        step()
    seconds: dict[str, list[float]] = {name: [] for name in steps}
    order = list(steps)
    shuffle = random.Random(0).shuffle
    for _ in range(rounds):
        shuffle(order)
        for name in order:
            started = clock()
            steps[name]()
            seconds[name].append(clock() - started)
    return seconds


def median_ratio(times: list[float], others: list[float]) -> float:
    """Median over the rounds of one step's seconds by another's."""
    return statistics.median(a / b for a, b in zip(times, others, strict=True))


def peak_memory(make: Callable[[], Step], device: torch.device) -> float:
    """MiB that a step needs above network and batch.

    Args:
        make: makes the step; a partial of a function, so that another process can have it.
        device: where.
    """
    if device.type != "cuda":
        with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as fresh:
            return fresh.submit(_own_peak_memory, make).result()
    step = make()
    step()
    torch.cuda.synchronize()
    torch.cuda.reset_peak_memory_stats()
    base = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - base) / 2**20


def _own_peak_memory(make: Callable[[], Step]) -> float:
    step = make()
    base = _status_mib("VmRSS")
    for _ in range(4):
        step()
    return _status_mib("VmHWM") - base


def _status_mib(name: str) -> float:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) / 1024 for line in lines if line.startswith(f"{name}:"))


def hardware(device: torch.device) -> str:
    """Name of the processor and its threads, or of the GPU."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.split(":")[1].strip() for line in lines if "model name" in line), "?")
    return f"{model}, {torch.get_num_threads()} threads"
