"""Modular co-attention, the network for CMU-MOSEI.

Source: Delbrouck et al., "A Transformer-based joint-encoding for Emotion Recognition and Sentiment Analysis",
Challenge-HML 2020 (arXiv 2006.15955).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

TEXT = "text"


class UnbiasedLayerNorm(nn.Module):
    """Layer norm that divides by the unbiased standard deviation plus 1e-6, as published; torch's does not."""

    forward_ignores_mode = True

    def __init__(self, width: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))
        self.bias = nn.Parameter(torch.zeros(width))

    def forward(self, x: Tensor) -> Tensor:
        """Like `x`."""
        deviation = x.std(-1, keepdim=True)
        normed: Tensor = (
            self.weight * (x - x.mean(-1, keepdim=True)) / (deviation + 1e-6) + self.bias
        )
        return normed


class Attention(nn.Module):
    """Attention of one sequence to another, added to it and normalised."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.attention = nn.MultiheadAttention(width, heads, dropout, batch_first=True)
        self.dropout = nn.Dropout(dropout)
        self.norm = UnbiasedLayerNorm(width)

    def forward(self, x: Tensor, to: Tensor, padding: Tensor | None) -> Tensor:
        """[B, T, width]; `padding` [B, T'] is true where `to` is to be looked away from."""
        heard, _ = self.attention(x, to, to, key_padding_mask=padding, need_weights=False)
        normed: Tensor = self.norm(x + self.dropout(heard))
        return normed


class FeedForward(nn.Module):
    """Two layers, added to their input and normalised."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.layers = _mlp(width, hidden, width, dropout)
        self.dropout = nn.Dropout(dropout)
        self.norm = UnbiasedLayerNorm(width)

    def forward(self, x: Tensor) -> Tensor:
        """Like `x`."""
        normed: Tensor = self.norm(x + self.dropout(self.layers(x)))
        return normed


class Flattening(nn.Module):
    """Weighted means of a sequence over time, `glimpses` of them: [B, T, width] to [B, glimpses, width]."""

    def __init__(self, width: int, hidden: int, glimpses: int, dropout: float) -> None:
        super().__init__()
        self.scores = _mlp(width, hidden, glimpses, dropout)

    def forward(self, x: Tensor, padding: Tensor | None) -> Tensor:
        """Padding gets no weight."""
        scores = self.scores(x)
        if padding is not None:
            scores = scores.masked_fill(padding.unsqueeze(2), -1e9)
        means: Tensor = scores.softmax(1).transpose(1, 2) @ x
        return means


class Block(nn.Module):
    """Text attends to itself, every other modality to itself and to the text; then each is flattened to its own length.

    Args:
        lengths: time steps of each modality, text first.
        width, hidden, heads, dropout: of attention and feed-forward parts.
        last: whether it is the last block, which does not flatten.
    """

    def __init__(
        self,
        lengths: Mapping[str, int],
        width: int,
        hidden: int,
        heads: int,
        dropout: float,
        last: bool,
    ) -> None:
        super().__init__()
        self.own = nn.ModuleDict({m: Attention(width, heads, dropout) for m in lengths})
        self.guided = nn.ModuleDict(
            {m: Attention(width, heads, dropout) for m in lengths if m != TEXT}
        )
        self.forward_parts = nn.ModuleDict(
            {m: FeedForward(width, hidden, dropout) for m in lengths}
        )
        self.flattening: nn.ModuleDict | None = None
        self.norms: nn.ModuleDict | None = None
        if not last:
            flat = {m: Flattening(width, hidden, steps, dropout) for m, steps in lengths.items()}
            self.flattening = nn.ModuleDict(flat)
            self.norms = nn.ModuleDict({m: UnbiasedLayerNorm(width) for m in lengths})
            self.dropout = nn.Dropout(dropout)

    def parts_of(self, modality: str) -> list[nn.Module]:
        """The modules that only this modality goes through."""
        held = (child for child in self.children() if isinstance(child, nn.ModuleDict))
        return [parts[modality] for parts in held if modality in parts]

    def forward(
        self, x: dict[str, Tensor], padding: Mapping[str, Tensor | None]
    ) -> dict[str, Tensor]:
        """Each modality [B, T, width]."""
        text = self.forward_parts[TEXT](self.own[TEXT](x[TEXT], x[TEXT], padding[TEXT]))
        out = {TEXT: text + x[TEXT]}
        for m in self.guided:
            own = self.own[m](x[m], x[m], padding[m])
            heard = self.forward_parts[m](self.guided[m](own, x[TEXT], padding[TEXT]))
            out[m] = heard + x[m]
        if self.flattening is None or self.norms is None:
            return out
        return {
            m: self.norms[m](y + self.dropout(self.flattening[m](y, padding[m])))
            for m, y in out.items()
        }


class CoAttention(nn.Module):
    """Logits of a clip from its words and from sequences of features.

    Args:
        classes: number of outputs.
        embedding: [V, E] vectors of the words; row 0 is padding.
        features: features of a time step of every modality but text.
        lengths: time steps of every modality.
        width: of the model; `heads` divide it.
        hidden: of the feed-forward parts.
        layers: number of blocks.
        heads: of attention.
        dropout: everywhere.
        masks_padding: True: attention and flattening look away from padding in every block; False: in the first block
            alone, as published.
    """

    def __init__(
        self,
        classes: int,
        embedding: Tensor,
        features: Mapping[str, int],
        lengths: Mapping[str, int],
        width: int = 512,
        hidden: int | None = None,
        layers: int = 6,
        heads: int = 4,
        dropout: float = 0.1,
        masks_padding: bool = True,
    ) -> None:
        super().__init__()
        if width % heads:
            raise ValueError(f"width {width}; expected a multiple of heads, {heads}")
        hidden = 2 * width if hidden is None else hidden
        ordered = {TEXT: lengths[TEXT], **{m: lengths[m] for m in features}}
        self.masks_padding = masks_padding
        self.embedding = nn.Embedding(*embedding.shape)
        self.embedding.weight.data.copy_(embedding)
        self.words = nn.LSTM(embedding.shape[1], width, batch_first=True)
        self.inputs = nn.ModuleDict({m: nn.Linear(size, width) for m, size in features.items()})
        self.blocks = nn.ModuleList(
            Block(ordered, width, hidden, heads, dropout, last=number == layers - 1)
            for number in range(layers)
        )
        self.flattening = nn.ModuleDict({m: Flattening(width, hidden, 1, dropout) for m in ordered})
        self.outputs = nn.ModuleDict({m: nn.Linear(width, 2 * width) for m in ordered})
        self.norm = UnbiasedLayerNorm(2 * width)
        self.head = nn.Linear(2 * width, classes)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """What belongs to one modality: its input, and its parts of every block and of the output."""
        inputs = {
            TEXT: [self.embedding, self.words],
            **{m: [layer] for m, layer in self.inputs.items()},
        }
        return {
            m: nn.ModuleList([*own, *self._parts_of_blocks(m), self.flattening[m], self.outputs[m]])
            for m, own in inputs.items()
        }

    @property
    def feature_modules(self) -> dict[str, nn.Module]:
        """What ends in a modality's own feature [B, T, width]: before the first co-attention."""
        return {TEXT: self.words, **dict(self.inputs.items())}

    def _parts_of_blocks(self, modality: str) -> list[nn.Module]:
        return [
            part
            for block in self.blocks
            if isinstance(block, Block)
            for part in block.parts_of(modality)
        ]

    def mask(self, modality: str, x: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """A hidden input: padding tokens or zeros; which steps are there is still known, as published."""
        return {
            key: value if key == "mask" else torch.zeros_like(value) for key, value in x.items()
        }

    def forward(self, inputs: Mapping[str, Any]) -> Tensor:
        """Logits [B, classes].

        Args:
            inputs: `text` {"tokens": [B, T] int64, "mask": [B, T] bool}; every other {"x": [B, T, features], "mask"}.
                The mask is true where there is something.
        """
        padding: dict[str, Tensor | None] = {m: ~inputs[m]["mask"] for m in self.outputs}
        x = {TEXT: self.words(self.embedding(inputs[TEXT]["tokens"]))[0]}
        x |= {m: layer(inputs[m]["x"]) for m, layer in self.inputs.items()}
        nowhere: dict[str, Tensor | None] = dict.fromkeys(padding)
        for number, block in enumerate(self.blocks):
            x = block(x, padding if self.masks_padding or number == 0 else nowhere)
        last = padding if self.masks_padding else nowhere
        flat = [self.outputs[m](self.flattening[m](x[m], last[m]).squeeze(1)) for m in self.outputs]
        logits: Tensor = self.head(self.norm(torch.stack(flat).sum(0)))
        return logits


def _mlp(inputs: int, hidden: int, outputs: int, dropout: float) -> nn.Sequential:
    return nn.Sequential(
        nn.Linear(inputs, hidden), nn.ReLU(), nn.Dropout(dropout), nn.Linear(hidden, outputs)
    )
