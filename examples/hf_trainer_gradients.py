"""A method that changes gradients (OGM-GE; MSES likewise) in the Hugging Face Trainer.

python examples/hf_trainer_gradients.py

The Trainer clips before its callbacks' `on_pre_optimizer_step`. So the method has its turn at the end of
`training_step`, in the last of the batches whose gradients are gathered for a step.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from clip_towers import TwoTowers, data
from gradmod import OGMGE, ModulatedModel
from hf_trainer import ForTrainer


class GradientTrainer(Trainer):
    """Lets a method change the gradients of a step before they are clipped."""

    def training_step(
        self, model: nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> Tensor:
        """Forward and backward; with the gradients of a whole step, the method."""
        loss = super().training_step(model, inputs, num_items_in_batch)
        if self.accelerator.sync_gradients:
            self.accelerator.unwrap_model(model).model.after_backward()
        return loss


def main(
    epochs: float = 10,
    folder: str = "trainer_output",
    trainer: type[Trainer] = GradientTrainer,
    **more: object,
) -> tuple[nn.Module, float]:
    """Train; return the model and the loss on the training data."""
    torch.manual_seed(0)
    wrapped = ForTrainer()
    wrapped.model = ModulatedModel(TwoTowers(), OGMGE(modalities=("image", "text"), noise=False))
    settings: dict[str, Any] = {
        "per_device_train_batch_size": 32,
        "learning_rate": 1e-3,
        "report_to": [],
        **more,
    }
    arguments = TrainingArguments(folder, num_train_epochs=epochs, **settings)
    used = trainer(wrapped, arguments, train_dataset=data(), eval_dataset=data())  # type: ignore[arg-type]
    used.train()
    return used.model.model, used.evaluate()["eval_loss"]  # type: ignore[union-attr,return-value]


if __name__ == "__main__":
    print(f"loss {main()[1]:.3f}")
