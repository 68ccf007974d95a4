"""AGM in the Hugging Face Trainer; the image-text model and its data are those of clip_towers.py.

python examples/hf_trainer.py
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers import Trainer, TrainingArguments

from clip_towers import TwoTowers, data
from gradmod import AGM, ModulatedModel


class ForTrainer(nn.Module):
    """What the Trainer calls: its columns in, loss and logits out."""

    def __init__(self) -> None:
        super().__init__()
        self.model = ModulatedModel(TwoTowers(), AGM(modalities=("image", "text"), alpha=1.0))

    def forward(
        self,
        pixel_values: Tensor,
        input_ids: Tensor,
        attention_mask: Tensor,
        labels: Tensor | None = None,
    ) -> dict[str, Tensor]:
        """Loss and logits; in prediction there are no labels."""
        inputs = {
            "image": pixel_values,
            "text": {"input_ids": input_ids, "attention_mask": attention_mask},
        }
        logits = self.model(inputs, labels)
        return (
            {"logits": logits}
            if labels is None
            else {"loss": F.cross_entropy(logits, labels), "logits": logits}
        )


def main(
    epochs: float = 10, folder: str = "trainer_output", **more: object
) -> tuple[nn.Module, float]:
    """Train; return the model and the loss on the training data."""
    torch.manual_seed(0)
    settings = TrainingArguments(
        folder,
        num_train_epochs=epochs,
        per_device_train_batch_size=32,
        learning_rate=1e-3,
        report_to=[],
        **more,
    )
    trainer = Trainer(ForTrainer(), settings, train_dataset=data(), eval_dataset=data())  # type: ignore[arg-type]
    trainer.train()
    return trainer.model.model, trainer.evaluate()["eval_loss"]  # type: ignore[union-attr,return-value]


if __name__ == "__main__":
    print(f"loss {main()[1]:.3f}")
