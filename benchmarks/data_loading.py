"""How fast samples are read: CREMA-D decoded and prepared, and AV-MNIST against the training step.

    python benchmarks/data_loading.py          # writes benchmarks/results/data_loading.{json,md}

CREMA-D: a folder in the original layout is made of photographs that scikit-learn ships, 480 x 360 as the data set's
frames, and of 2.5 s of noise at 16 kHz; reading takes as long as with the real thing. The same batches are read, with
the augmentation of training, from its wav and jpg files and from what `gradmod prepare crema-d` makes of them.

AV-MNIST: the loader (memory-mapped uint8, batches of 64 in random order) against a joint training step on such a batch,
the cheapest step that there is. Both alternate in one process, without workers; the figures are medians, the ratio is
the median of the ratios within a round. The files are in the page cache: a slow disk is not measured.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile
import torch
from PIL import Image
from sklearn.datasets import load_sample_images

from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.preparation.crema_d import prepare
from gradmod.experiments.datasets.split import Split
from gradmod.experiments.training.network import build_model
from step_cost import hardware

RESULTS = Path(__file__).parent / "results"
BATCH = 64
CODES = ("NEU", "HAP", "SAD", "FEA", "DIS", "ANG")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=9)
    parser.add_argument("--out", type=Path, default=RESULTS)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = {
            "command": " ".join(["python benchmarks/data_loading.py", *sys.argv[1:]]),
            "hardware": hardware(torch.device("cpu")),
            "rounds": options.rounds,
            "crema_d": crema_d(Path(folder) / "crema_d", options.rounds),
            "av_mnist": av_mnist(Path(folder) / "av_mnist", options.rounds),
        }
    (options.out / "data_loading.json").write_text(json.dumps(report, indent=2) + "\n")
    text = markdown(report)
    (options.out / "data_loading.md").write_text(text)
    print(text)


def crema_d(root: Path, rounds: int) -> dict[str, float]:
    """Samples a second of decoding and of reading what is prepared, and their ratio."""
    write_cremad(root / "raw", clips=192)
    prepare(root / "raw", root / "fast")
    decoded, stored = (
        load_dataset("crema-d", str(root / name), "heldout").train for name in ("raw", "fast")
    )
    one, other = alternate(reading(decoded), reading(stored), rounds)
    return {
        "decoded": statistics.median(one),
        "prepared": statistics.median(other),
        "ratio": statistics.median(b / a for a, b in zip(one, other, strict=True)),
    }


def av_mnist(root: Path, rounds: int) -> dict[str, dict[str, float]]:
    """Samples a second of the loader and of the step of each encoder, and their ratio."""
    write_avmnist(root, samples=6400)
    split = load_dataset("av-mnist", str(root), "heldout").train
    figures = {}
    for encoder in ("resnet18", "small-cnn"):
        loader, step = alternate(reading(split), stepping(split, encoder), rounds)
        figures[encoder] = {
            "loader": statistics.median(loader),
            "step": statistics.median(step),
            "ratio": statistics.median(a / b for a, b in zip(loader, step, strict=True)),
        }
    return figures


def reading(split: Split) -> Callable[[int], float]:
    """Reads two batches of a split for training; tells the samples a second."""

    def read(number: int) -> float:
        rows = np.random.default_rng(number).permutation(len(split))[: 2 * BATCH]
        start = time.perf_counter()
        for batch in np.array_split(rows, 2):
            split.read(batch, np.random.default_rng(number))
        return len(rows) / (time.perf_counter() - start)

    return read


def stepping(split: Split, encoder: str) -> Callable[[int], float]:
    """One joint training step; tells the samples a second."""
    torch.manual_seed(0)
    model = build_model(split.shapes, 10, encoder, "late")
    optimizer = torch.optim.SGD(model.parameters(), 1e-3, momentum=0.9)
    inputs, targets = split.read(range(BATCH))

    def step(number: int) -> float:
        start = time.perf_counter()
        optimizer.zero_grad()
        torch.nn.functional.cross_entropy(model(inputs), targets).backward()
        optimizer.step()
        return BATCH / (time.perf_counter() - start)

    return step


def alternate(
    first: Callable[[int], float], second: Callable[[int], float], rounds: int
) -> tuple[list[float], list[float]]:
    """Both in turn, after a warm-up of each."""
    first(0), second(0)
    pairs = [(first(number), second(number)) for number in range(1, rounds + 1)]
    return [a for a, _ in pairs], [b for _, b in pairs]


def write_cremad(root: Path, clips: int) -> None:
    """Clips in the original layout: three frames and 2.5 seconds of sound each."""
    rng = np.random.default_rng(0)
    photographs = [Image.fromarray(photograph) for photograph in load_sample_images().images]
    (root / "CREMAD").mkdir(parents=True)
    (root / "Audio").mkdir()
    lines = []
    for number in range(clips):
        name = f"{1001 + number}_DFA_{CODES[number % 6]}_XX"
        lines.append(f"{name},{CODES[number % 6]}\n")
        soundfile.write(
            root / "Audio" / f"{name}.wav", rng.normal(0, 0.1, 40_000), 16_000, subtype="PCM_16"
        )
        (root / "Image-01-FPS" / name).mkdir(parents=True)
        for frame in range(3):
            photograph = photographs[int(rng.integers(2))]
            left, top = (
                int(rng.integers(photograph.width - 480)),
                int(rng.integers(photograph.height - 360)),
            )
            part = photograph.crop((left, top, left + 480, top + 360))
            part.save(root / "Image-01-FPS" / name / f"{frame:05d}.jpg", quality=90)
    (root / "CREMAD" / "train.csv").write_text("".join(lines[:-12]))
    (root / "CREMAD" / "test.csv").write_text("".join(lines[-12:]))


def write_avmnist(root: Path, samples: int) -> None:
    """Random values in the original layout."""
    rng = np.random.default_rng(0)
    for name, shape in (("image", (784,)), ("audio", (112, 112))):
        (root / name).mkdir(parents=True)
        for split in ("train", "test"):
            np.save(
                root / name / f"{split}_data.npy",
                rng.integers(0, 256, (samples, *shape), dtype=np.uint8),
            )
    for split in ("train", "test"):
        np.save(root / f"{split}_labels.npy", rng.integers(0, 10, samples))


def markdown(report: dict[str, object]) -> str:
    """The report as a page."""
    crema_d, av_mnist = report["crema_d"], report["av_mnist"]
    lines = [
        "# How fast samples are read",
        "",
        f"`{report['command']}` on {report['hardware']}; medians of {report['rounds']} rounds; samples a second.",
        "",
        "| CREMA-D, augmentation included | decoded from wav and jpg | prepared | ratio |",
        "|---|---|---|---|",
        f"| one process | {crema_d['decoded']:.0f} | {crema_d['prepared']:.0f} | {crema_d['ratio']:.1f} |",
        "",
        "| AV-MNIST, batch 64, no workers | loader alone | joint step | ratio |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {e} | {row['loader']:.0f} | {row['step']:.0f} | {row['ratio']:.0f} |"
        for e, row in av_mnist.items()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
