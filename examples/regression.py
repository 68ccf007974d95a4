"""Numbers and not classes: three sensors of a machine, and how long it will go on.

python examples/regression.py
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel, Regression

SIZES = {"vibration": 24, "temperature": 4, "current": 12}


class Net(nn.Module):
    """A branch for each sensor, and one number."""

    def __init__(self) -> None:
        super().__init__()
        self.branches = nn.ModuleDict(
            {m: nn.Sequential(nn.Linear(size, 16), nn.ReLU()) for m, size in SIZES.items()}
        )
        self.out = nn.Linear(48, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        """Predictions [B, 1]."""
        prediction: Tensor = self.out(torch.cat([self.branches[m](inputs[m]) for m in SIZES], 1))
        return prediction


def data(samples: int = 512, seed: int = 0) -> tuple[dict[str, Tensor], Tensor]:
    """Each sensor knows a part of the answer; targets [B, 1] of about unit variance."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(samples, size, generator=generator) for m, size in SIZES.items()}
    parts = torch.stack([x.mean(1) * x.shape[1] ** 0.5 for x in inputs.values()], 1)
    return inputs, parts @ torch.tensor([[0.8], [0.4], [0.4]]) + 0.1 * torch.randn(
        samples, 1, generator=generator
    )


def main(epochs: int = 30) -> tuple[ModulatedModel, float]:
    """Train; return the model and its mean absolute error on new samples."""
    torch.manual_seed(0)
    task = Regression()
    model = ModulatedModel(Net(), AGM(modalities=tuple(SIZES), alpha=1.0), task=task)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    inputs, target = data()
    for _ in range(epochs):
        for rows in torch.randperm(len(target)).split(64):
            batch = {m: x[rows] for m, x in inputs.items()}
            loss = task.loss(model(batch, target[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    unseen, wanted = data(seed=1)
    with torch.no_grad():
        error = task.metrics(model.eval()(unseen), wanted)["mae"].item()
    return model, error


if __name__ == "__main__":
    print(f"mean absolute error {main()[1]:.3f}")
