"""Small multi-modal networks that the tests train: every kind of layer that a strategy must get right."""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel

NAMES = ("audio", "visual", "text", "touch", "smell", "taste")
SIZES = dict(zip(NAMES, (5, 4, 3, 6, 2, 4), strict=True))
LAYERS = {
    "plain": lambda: nn.Identity(),
    "batch-norm": lambda: nn.BatchNorm1d(6),
    "layer-norm": lambda: nn.LayerNorm(6),
    "dropout": lambda: nn.Dropout(0.4),
    "frozen-batch-norm": lambda: nn.BatchNorm1d(6).eval(),
}


class Network(nn.Module):
    """Encoders, fusion, head; declares encode and fuse, so that encoders can be reused."""

    def __init__(
        self, modalities: Sequence[str], layer: str, classes: int, segments: int = 0
    ) -> None:
        super().__init__()
        self.modalities = tuple(modalities)
        self.encoders = nn.ModuleDict(
            {
                m: nn.Sequential(nn.Linear(SIZES[m], 6), LAYERS[layer](), nn.Tanh())
                for m in modalities
            }
        )
        self.classes, self.segments = classes, segments
        self.fusion, width = self._fusion(layer)
        self.out = nn.Linear(width, classes * max(segments, 1))

    def _fusion(self, layer: str) -> tuple[nn.Module, int]:
        fusion = nn.Sequential(
            nn.Linear(6 * len(self.modalities), 6), LAYERS[layer](), nn.ReLU(), nn.Dropout(0.3)
        )
        return fusion, 6

    def encode(self, modality: str, x: Tensor) -> Tensor:
        return self.encoders[modality](x)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return self.fusion(torch.cat([features[m] for m in self.modalities], 1))

    def head(self, joint: Tensor) -> Tensor:
        return self._segmented(self.out(joint))

    def _segmented(self, logits: Tensor) -> Tensor:
        return logits.unflatten(1, (self.segments, self.classes)) if self.segments else logits

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self.modalities}))


class LateNetwork(Network):
    """Concatenation and a linear head: additive."""

    def _fusion(self, layer: str) -> tuple[nn.Module, int]:
        return nn.Identity(), 6 * len(self.modalities)

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        start = 6 * self.modalities.index(modality)
        return self._segmented(F.linear(feature, self.out.weight[:, start : start + 6]))


def batch(
    modalities: Sequence[str], size: int, classes: int, segments: int = 0, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor]:
    """A batch of float64 inputs and targets."""
    generator = torch.Generator().manual_seed(seed)
    inputs = {
        m: torch.randn(size, SIZES[m], dtype=torch.float64, generator=generator) for m in modalities
    }
    shape = (size, segments) if segments else (size,)
    return inputs, torch.randint(classes, shape, generator=generator)


def network(
    modalities: Sequence[str],
    *,
    late: bool,
    layer: str,
    classes: int = 3,
    segments: int = 0,
    seed: int = 0,
) -> Network:
    """A float64 network with weights from `seed`."""
    torch.manual_seed(seed)
    kind = LateNetwork if late else Network
    return kind(modalities, layer, classes, segments).double()


def train_steps(
    net: nn.Module, strategy: str, modalities: tuple[str, ...], segments: int, steps: int = 3
) -> dict[str, Tensor]:
    """A few steps of AGM; returns everything that they could change."""
    agm = AGM(modalities, alpha=1.3, cap=4.0)
    model = ModulatedModel(copy.deepcopy(net), agm, coalitions=strategy)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1, momentum=0.9)
    seen: dict[str, Tensor] = {}
    for step in range(steps):
        inputs, target = batch(modalities, 7, 3, segments, seed=step)
        torch.manual_seed(step)  # the same dropout in every strategy's train-mode pass
        optimizer.zero_grad()
        loss = model.task.loss(model(inputs, target), target)
        loss.backward()
        optimizer.step()
        assert agm.last_step is not None
        seen[f"loss {step}"] = loss.detach()
        seen[f"kappa {step}"] = agm.last_step.coefficients
        seen |= {
            f"gradient {step} {name}": p.grad.clone()
            for name, p in model.named_parameters()
            if p.grad is not None
        }
    return seen | {
        f"state {name}": value.clone()
        for name, value in model.state_dict().items()
        if value.is_floating_point()
    }
