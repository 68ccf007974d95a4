"""A small image-text model of two CLIP towers, made from a config without a download, and data for it.

The network says how it encodes and fuses, so that each tower runs but once, and what hidden text looks like.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from transformers import CLIPTextConfig, CLIPTextModel, CLIPVisionConfig, CLIPVisionModel

SMALL: dict[str, int] = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
}


class TwoTowers(nn.Module):
    """Image and text to one of four classes."""

    def __init__(self) -> None:
        super().__init__()
        image = CLIPVisionModel(CLIPVisionConfig(**SMALL, image_size=16, patch_size=8))
        text = CLIPTextModel(
            CLIPTextConfig(**SMALL, vocab_size=50, max_position_embeddings=8, eos_token_id=49)
        )
        self.encoders = nn.ModuleDict({"image": image, "text": text})
        self.head = nn.Linear(64, 4)

    def encode(self, modality: str, x: Any) -> Tensor:
        """What a tower makes of its input, [B, 32]."""
        x = {"pixel_values": x} if modality == "image" else x
        return self.encoders[modality](**x).pooler_output  # type: ignore[no-any-return]

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        """What the head reads, [B, 64]."""
        return torch.cat([features["image"], features["text"]], 1)

    def mask(self, modality: str, x: Any) -> Any:
        """Hidden: a grey image, or an empty text: its first token alone is attended to, and it is token 0."""
        if modality == "image":
            return torch.zeros_like(x)
        first = torch.arange(x["input_ids"].shape[1], device=x["input_ids"].device) == 0
        return {"input_ids": x["input_ids"] * 0, "attention_mask": x["attention_mask"] * 0 + first}

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        """Logits [B, 4]."""
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in ("image", "text")}))  # type: ignore[no-any-return]


def data(samples: int = 256) -> list[dict[str, Any]]:
    """Images with a bright quarter, and texts of three to six tokens in which the class is a word."""
    generator = torch.Generator().manual_seed(0)
    found = []
    for label in torch.randint(4, (samples,), generator=generator).tolist():
        image, length = (
            torch.randn(3, 16, 16, generator=generator),
            int(torch.randint(3, 7, (), generator=generator)),
        )
        image[:, 8 * (label // 2) :][:, :8, 8 * (label % 2) :][:, :, :8] += 0.5
        ids = torch.randint(10, 49, (8,), generator=generator)
        ids[1], ids[length], mask = 4 + label, 49, (torch.arange(8) <= length).long()
        found.append(
            {
                "pixel_values": image,
                "input_ids": ids * mask,
                "attention_mask": mask,
                "labels": label,
            }
        )
    return found
