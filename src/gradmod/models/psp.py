"""Positive Sample Propagation, the network for AVE.

Source: Zhou et al., "Positive Sample Propagation along the Audio-Visual Event Line", CVPR 2021 (arXiv 2104.00239); its
audio-guided visual attention: Tian et al., "Audio-Visual Event Localization in Unconstrained Videos", ECCV 2018.
"""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod.protocols import Output

SMALL = 1e-8


class GuidedAttention(nn.Module):
    """Where on the map of each segment the sound looks: [B, T, A] and [B, T, positions, V] to [B, T, V].

    Args:
        audio: features of a segment's sound.
        visual: features of a position of the map.
        hidden: width of both projections.
        positions: of the map.
    """

    def __init__(self, audio: int, visual: int, hidden: int, positions: int) -> None:
        super().__init__()
        self.from_audio = nn.Linear(audio, hidden)
        self.from_visual = nn.Linear(visual, hidden)
        self.audio_scores = nn.Linear(hidden, positions, bias=False)
        self.visual_scores = nn.Linear(hidden, positions, bias=False)
        self.score = nn.Linear(positions, 1, bias=False)
        for layer in (
            self.from_audio,
            self.from_visual,
            self.audio_scores,
            self.visual_scores,
            self.score,
        ):
            nn.init.xavier_uniform_(layer.weight)

    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        """The map's features, weighted."""
        seen = self.visual_scores(self.from_visual(visual).relu())
        # One number for each position, added along the positions of the map as published.
        heard = self.audio_scores(self.from_audio(audio).relu()).unsqueeze(-1)
        weights = self.score((seen + heard).tanh()).softmax(dim=2)
        attended: Tensor = (weights * visual).sum(2)
        return attended


class Propagation(nn.Module):
    """Segments of one modality learn from those segments of the other that they resemble.

    Args:
        width: features of a segment, of both modalities.
        threshold: a share of resemblance below it counts as none.
        dropout: behind every projection.
    """

    def __init__(self, width: int, threshold: float, dropout: float) -> None:
        super().__init__()
        self.threshold = threshold
        self.visual_key, self.visual_query, self.visual_out = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.audio_key, self.audio_query, self.audio_out = (
            nn.Linear(width, width, bias=False) for _ in range(3)
        )
        self.dropout = nn.Dropout(dropout)
        self.norm = nn.LayerNorm(width, eps=1e-6)
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)

    def forward(self, audio: Tensor, visual: Tensor) -> tuple[Tensor, Tensor]:
        """Audio and visual features [B, T, width], each with what it learnt from the other."""
        visual_key, visual_query = (
            self._branch(self.visual_key, visual),
            self._branch(self.visual_query, visual),
        )
        audio_key, audio_query = (
            self._branch(self.audio_key, audio),
            self._branch(self.audio_query, audio),
        )
        resemblance = (
            visual_query @ audio_key.transpose(1, 2) / math.sqrt(visual_query.shape[2])
        ).relu()
        visual = visual + self._pruned(resemblance) @ audio_query
        audio = audio + self._pruned(resemblance.transpose(1, 2)) @ visual_key
        return self.norm(self._branch(self.audio_out, audio)), self.norm(
            self._branch(self.visual_out, visual)
        )

    def _branch(self, layer: nn.Module, x: Tensor) -> Tensor:
        projected: Tensor = self.dropout(layer(x).relu())
        return projected

    def _pruned(self, resemblance: Tensor) -> Tensor:
        """Rows that sum to 1, shares up to the threshold taken out."""
        shares = resemblance / (resemblance.sum(2, keepdim=True) + SMALL)
        kept = torch.where(shares > self.threshold, shares, 0)
        return kept / (kept.sum(2, keepdim=True) + SMALL)


class PositiveSamplePropagation(nn.Module):
    """Logits of every segment of a video, from its sound and its pictures.

    In training it also returns 100 times the audio-visual pair similarity loss: the mean squared error between the
    resemblance of both modalities over the segments and 1/n on the n segments with the event.

    Args:
        classes: number of logits of a segment.
        audio: features of a segment's sound (VGGish).
        visual: features of a position of a segment's map (VGG-19).
        positions: of that map.
        width: of the sequence model of each direction; the propagation has twice as much.
        attention: width of the guided attention.
        bottleneck: width of the layer before both sequence models.
        hidden: width of the layer before the logits.
        threshold, dropout: of the propagation.
        similarity_weight: of the similarity loss.
    """

    def __init__(
        self,
        classes: int = 29,
        audio: int = 128,
        visual: int = 512,
        positions: int = 49,
        width: int = 128,
        attention: int = 512,
        bottleneck: int = 256,
        hidden: int = 64,
        threshold: float = 0.099,
        dropout: float = 0.1,
        similarity_weight: float = 100.0,
    ) -> None:
        super().__init__()
        self.similarity_weight = similarity_weight
        self.audio_in = _two_layers(audio, bottleneck, width)
        self.visual_in = _two_layers(visual, bottleneck, width)
        self.attention = GuidedAttention(width, visual, attention, positions)
        self.audio_sequence = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.visual_sequence = nn.LSTM(width, width, batch_first=True, bidirectional=True)
        self.propagation = Propagation(2 * width, threshold, dropout)
        self.hidden = nn.Linear(2 * width, hidden, bias=False)
        self.head = nn.Linear(hidden, classes, bias=False)
        for layer in (self.hidden, self.head):
            nn.init.xavier_uniform_(layer.weight)

    @property
    def encoders(self) -> dict[str, nn.Module]:
        """What belongs to one modality: everything before the propagation, the guided attention to vision."""
        return {
            "audio": nn.ModuleList([self.audio_in, self.audio_sequence]),
            "visual": nn.ModuleList([self.attention, self.visual_in, self.visual_sequence]),
        }

    @property
    def feature_modules(self) -> dict[str, nn.Module]:
        """What ends in a modality's own feature [B, T, 2 width]; that of vision was chosen by the guided attention."""
        return {"audio": self.audio_sequence, "visual": self.visual_sequence}

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor | Output:
        """Logits [B, T, classes]; in training with the similarity loss.

        Args:
            inputs: `audio` [B, T, audio], `visual` [B, T, H, W, visual]; in training also `event` [B, T], 1 on the
                segments with the event and 0 on the others.

        Raises:
            ValueError: in training, `event` is missing.
        """
        maps = inputs["visual"].flatten(2, 3)
        heard = self.audio_in(inputs["audio"])
        seen = self.visual_in(self.attention(heard, maps))
        audio, visual = self.propagation(
            self.audio_sequence(heard)[0], self.visual_sequence(seen)[0]
        )
        logits: Tensor = self.head(self.hidden((audio + visual) / 2).relu())
        if not self.training:
            return logits
        if "event" not in inputs:
            raise ValueError(
                "inputs lack 'event' [B, T], which the similarity loss of this network needs in training"
            )
        loss = similarity_loss(audio, visual, inputs["event"])
        return Output(logits, {"similarity": self.similarity_weight * loss})


def similarity_loss(audio: Tensor, visual: Tensor, event: Tensor) -> Tensor:
    """Mean squared error between the modalities' resemblance over time and the event's.

    Args:
        audio: [B, T, F].
        visual: [B, T, F].
        event: [B, T], 1 on the segments with the event.

    Returns:
        Scalar.
    """
    alike = F.cosine_similarity(audio, visual, dim=2, eps=1e-12).relu()
    shares = alike / (alike.sum(1, keepdim=True) + SMALL)
    return F.mse_loss(shares, event / event.sum(1, keepdim=True).clamp(min=1))


def _two_layers(inputs: int, hidden: int, outputs: int) -> nn.Sequential:
    """Two linear layers with nothing between, as published."""
    return nn.Sequential(
        nn.Linear(inputs, hidden, bias=False), nn.Linear(hidden, outputs, bias=False)
    )
