"""AGM under Hugging Face Accelerate; network and data are those of plain_loop.py.

accelerate launch examples/accelerate_loop.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from accelerate import Accelerator
from torch import nn
from torch.utils.data import DataLoader

from gradmod import AGM, ModulatedModel
from plain_loop import Net, data


def main(epochs: int = 10) -> nn.Module:
    """Train; return the model."""
    torch.manual_seed(0)
    accelerator = Accelerator()
    model = ModulatedModel(Net(), AGM(modalities=("audio", "visual"), alpha=1.0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model, optimizer, loader = accelerator.prepare(
        model, optimizer, DataLoader(data(), batch_size=64)
    )
    for epoch in range(epochs):
        for audio, visual, target in loader:
            inputs = {"audio": audio, "visual": visual}
            loss = F.cross_entropy(model(inputs, target), target)
            optimizer.zero_grad()
            accelerator.backward(loss)
            optimizer.step()
        accelerator.print(f"epoch {epoch + 1}: loss {loss.item():.3f}")
    trained: nn.Module = accelerator.unwrap_model(model)
    return trained


if __name__ == "__main__":
    main()
