"""AGM in a plain PyTorch loop.

python examples/plain_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader, TensorDataset

from gradmod import AGM, ModulatedModel


class Net(nn.Module):
    """Two branches and a classifier; called with a dict of inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.audio, self.visual = (
            nn.Sequential(nn.Linear(size, 32), nn.ReLU()) for size in (20, 30)
        )
        self.classifier = nn.Linear(64, 4)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Logits [B, 4]."""
        logits: Tensor = self.classifier(
            torch.cat([self.audio(inputs["audio"]), self.visual(inputs["visual"])], 1)
        )
        return logits


def data(samples: int = 512) -> TensorDataset:
    """Noise with a class in it, louder in the one than in the other."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (samples,), generator=generator)
    audio = torch.randn(samples, 20, generator=generator) + 2.0 * F.one_hot(target, 20)
    visual = torch.randn(samples, 30, generator=generator) + 1.0 * F.one_hot(target, 30)
    return TensorDataset(audio, visual, target)


def main(epochs: int = 10) -> nn.Module:
    """Train; return the model."""
    torch.manual_seed(0)
    model = ModulatedModel(Net(), AGM(modalities=("audio", "visual"), alpha=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    for epoch in range(epochs):
        for audio, visual, target in DataLoader(data(), batch_size=64):
            inputs = {"audio": audio, "visual": visual}
            loss = F.cross_entropy(model(inputs, target), target)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    return model


if __name__ == "__main__":
    main()
