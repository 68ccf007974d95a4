"""What does each modality give a network of your own? Plain PyTorch, trained as you always do, then diagnosed.

python examples/diagnose.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradmod
from gradmod.data import Split
from gradmod.experiments.datasets.load import load_dataset


class Net(nn.Module):
    """A network with a signature of its own: two branches and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.ear = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU())
        self.eye = nn.Sequential(nn.Flatten(), nn.LazyLinear(64), nn.ReLU())
        self.classifier = nn.Linear(128, 10)

    def forward(self, sound: Tensor, picture: Tensor) -> Tensor:
        """Logits [B, 10]."""
        logits: Tensor = self.classifier(torch.cat([self.ear(sound), self.eye(picture)], 1))
        return logits


def batches(split: Split) -> list[tuple[dict[str, Tensor], Tensor]]:
    """A split, 64 samples at a time; any DataLoader of (inputs by modality, target) will do."""
    return [
        split.read(range(start, min(start + 64, len(split)))) for start in range(0, len(split), 64)
    ]


def main(epochs: int = 20) -> gradmod.diagnosis.Diagnosis:
    """Train, and say what was found."""
    torch.manual_seed(0)
    data = load_dataset("av-digits", "", "heldout", 0, {})
    net = Net()
    model = gradmod.adapt(net, call=lambda net, inputs: net(inputs["audio"], inputs["visual"]))
    model(data.train.read(range(2))[0])  # the lazy layers see their sizes
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9)
    for _ in range(epochs):
        for inputs, target in batches(data.train):
            optimizer.zero_grad()
            F.cross_entropy(model(inputs), target).backward()
            optimizer.step()
    found = gradmod.diagnose(model, batches(data.test))
    for sentence in found.verdict():
        print("-", sentence)
    for modality, scores in found.robustness.items():
        print(
            f"{modality:>8} with noise of {found.noise_levels}:",
            *(f"{score:.2f}" for score in scores),
        )
    return found


if __name__ == "__main__":
    main()
