"""A target of your own: how long until a machine stops, which for some samples is only known to be longer than so much.

python examples/own_task.py

A task says what the loss is and how badly a response does on each sample. All else has a default: see `gradmod.Task`.
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradmod import AGM, ModulatedModel, Task
from regression import SIZES, Net, data


class TimeLeft(Task):
    """Targets [B, 2]: a time, and 1 where the machine stopped then, 0 where it was still running."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        """Mean over the samples."""
        return self.scores(logits.unsqueeze(0), target).mean()

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        """[M, B] squared error; of a machine that was still running only where less was predicted."""
        time, stopped = target.unbind(-1)
        short = time - responses.squeeze(-1)
        return torch.where(stopped > 0, short, short.clamp(min=0)).square()


def main(epochs: int = 30) -> tuple[ModulatedModel, float]:
    """Train; return the model and its loss on new samples."""
    torch.manual_seed(0)
    model = ModulatedModel(Net(), AGM(modalities=tuple(SIZES), alpha=1.0), task=TimeLeft())
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    inputs, target = watched(*data())
    for _ in range(epochs):
        for rows in torch.randperm(len(target)).split(64):
            batch = {m: x[rows] for m, x in inputs.items()}
            loss = model.task.loss(model(batch, target[rows]), target[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
    unseen, wanted = watched(*data(seed=1))
    with torch.no_grad():
        return model, model.task.loss(model.eval()(unseen), wanted).item()


def watched(
    inputs: dict[str, Tensor], time: Tensor, until: float = 0.5
) -> tuple[dict[str, Tensor], Tensor]:
    """The samples as they are known when watching ends."""
    return inputs, torch.cat([time.clamp(max=until), (time < until).float()], 1)


if __name__ == "__main__":
    print(f"loss {main()[1]:.3f}")
