"""Some samples lack a modality: say which, for each sample, and train on all of them.

python examples/missing_modality.py
"""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import AGM, ModulatedModel
from gradmod.data import Split
from gradmod.experiments.datasets.load import load_dataset
from gradmod.models.fusion import LateFusion
from gradmod.models.mlp import MLP

Batch = tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]


def batches(split: Split, share: float, seed: int) -> list[Batch]:
    """64 samples at a time, `share` of the sounds lost; what is recorded in their place does not matter."""
    generator = torch.Generator().manual_seed(seed)
    found = []
    for start in range(0, len(split), 64):
        inputs, target = split.read(range(start, min(start + 64, len(split))))
        heard = torch.rand(len(target), generator=generator) >= share
        inputs["audio"][~heard] = math.nan
        # Every sample has its picture, so "visual" is left out.
        found.append((inputs, target, {"audio": heard}))
    return found


def main(epochs: int = 20, share: float = 0.4) -> dict[str, float]:
    """Train; return the accuracy on test samples with and without sound."""
    torch.manual_seed(0)
    data = load_dataset("av-digits", "", "heldout", 0, {})
    sizes = {m: x[0].numel() for m, x in data.train.read(range(1))[0].items()}
    model = ModulatedModel(
        LateFusion({m: MLP(size, hidden=(64,)) for m, size in sizes.items()}, 10), AGM(tuple(sizes))
    )
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    for epoch in range(epochs):
        for inputs, target, present in batches(data.train, share, seed=epoch):
            loss = F.cross_entropy(model(inputs, target, present), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    model.eval()
    hits: dict[str, list[Tensor]] = {"with sound": [], "without sound": []}
    with torch.no_grad():
        for inputs, target, present in batches(data.test, share, seed=-1):
            right = (model(inputs, present=present).argmax(1) == target).double()
            hits["with sound"].append(right[present["audio"]])
            hits["without sound"].append(right[~present["audio"]])
    return {name: float(torch.cat(parts).mean()) for name, parts in hits.items()}


if __name__ == "__main__":
    print(", ".join(f"{name}: {value:.3f}" for name, value in main().items()))
