"""AGM in a LightningModule; network and data are those of plain_loop.py.

python examples/lightning_module.py
"""

from __future__ import annotations

import lightning as L
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.data import DataLoader

from gradmod import AGM, ModulatedModel
from plain_loop import Net, data

Batch = tuple[Tensor, Tensor, Tensor]


class Classifier(L.LightningModule):
    """Sound and picture to one of four classes."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ModulatedModel(Net(), AGM(modalities=("audio", "visual"), alpha=1.0))

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        """Loss of a batch."""
        audio, visual, target = batch
        return F.cross_entropy(self.model({"audio": audio, "visual": visual}, target), target)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        """Accuracy of a batch: in eval mode the model is the network itself."""
        audio, visual, target = batch
        right = self.model({"audio": audio, "visual": visual}).argmax(1) == target
        self.log("accuracy", right.float().mean())

    def configure_optimizers(self) -> torch.optim.Optimizer:
        """Plain SGD."""
        return torch.optim.SGD(self.parameters(), lr=0.1)


def main(epochs: int = 10, folder: str = "lightning_logs", **settings: object) -> nn.Module:
    """Train; return the model."""
    L.seed_everything(0, verbose=False)
    classifier = Classifier()
    trainer = L.Trainer(max_epochs=epochs, default_root_dir=folder, logger=False, **settings)  # type: ignore[arg-type]
    trainer.fit(classifier, DataLoader(data(), batch_size=64), DataLoader(data(128), batch_size=64))
    print(f"accuracy {trainer.callback_metrics['accuracy']:.3f}")
    return classifier.model


if __name__ == "__main__":
    main()
