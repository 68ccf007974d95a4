"""A few samples at a time: the same numbers as all at once, and less memory."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel
from gradmod.coalitions import chunks
from networks import NAMES, batch, network, train_steps


@pytest.mark.parametrize("layer", ["layer-norm", "batch-norm", "dropout"])
@pytest.mark.parametrize("strategy", ["batched", "reuse"])
@pytest.mark.parametrize("segments", [0, 5])
def test_the_numbers_are_those_of_all_at_once(
    strategy: str, layer: str, segments: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    net = network(NAMES[:3], late=False, layer=layer, segments=segments)
    whole = train_steps(net, strategy, NAMES[:3], segments)
    sizes: list[int] = []
    checkpoint = chunks.checkpoint
    monkeypatch.setattr(chunks, "checkpoint", lambda *a, **k: (sizes.append(len(a[1])), checkpoint(*a, **k))[1])
    for at_once, expected in ((1, [1] * 7), (3, [3, 3, 1])):
        sizes.clear()
        leaves = 7 * 3 * max(segments, 1) + 7 * (2 * (5 + 4 + 3) if strategy == "batched" else 18)
        monkeypatch.setattr(chunks, "MEMORY_SHARE", (at_once + 0.1) / 7 * 6 * leaves * 8 / chunks.HOST_MEMORY)
        parts = train_steps(net, strategy, NAMES[:3], segments)
        assert sizes == expected * 3
        assert parts.keys() == whole.keys()
        for name, value in whole.items():
            torch.testing.assert_close(parts[name], value, rtol=1e-10, atol=1e-12)


def test_gaps_and_other_inputs_are_cut_with_the_samples(monkeypatch: pytest.MonkeyPatch) -> None:
    class Scaled(nn.Module):
        """Looks at an input that is no modality and at one that has no batch axis."""

        def __init__(self) -> None:
            super().__init__()
            self.net = network(NAMES[:3], late=False, layer="layer-norm")

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.net(inputs) * inputs["weight"].unsqueeze(1) * inputs["scale"]

    inputs, target = batch(NAMES[:3], 8, 3)
    inputs |= {"weight": torch.linspace(1, 2, 8, dtype=torch.float64), "scale": torch.tensor([[2.0]]).double()}
    present = {"text": torch.arange(8) % 2 == 0}
    model = ModulatedModel(Scaled(), AGM(NAMES[:3]), coalitions="batched").eval()
    whole = model.responses(inputs, present).responses
    monkeypatch.setattr(chunks, "MEMORY_SHARE", 0.0)
    parts = model.responses(inputs, present).responses
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-12)
    twin = copy.deepcopy(model).train()
    twin(inputs, target, present).sum().backward()
    assert all(p.grad is not None for p in twin.model.net.out.parameters())


def test_what_is_kept_for_the_backward_does_not_grow_with_the_coalitions(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bytes that autograd saves, counted: in parts they are those of the batch, not those of 2^M of it."""

    def saved_bytes(modalities: tuple[str, ...]) -> int:
        net = network(modalities, late=False, layer="layer-norm", classes=50)
        inputs, target = batch(modalities, 16, 50)
        model = ModulatedModel(net, AGM(modalities), coalitions="reuse")
        seen: dict[int, int] = {}

        def pack(tensor: Tensor) -> Tensor:
            seen[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            loss = model.task.loss(model(inputs, target), target)
        loss.backward()
        return sum(seen.values())

    whole = [saved_bytes(NAMES[:count]) for count in (2, 6)]
    monkeypatch.setattr(chunks, "MEMORY_SHARE", 0.0)
    parts = [saved_bytes(NAMES[:count]) for count in (2, 6)]
    assert whole[1] > 8 * whole[0]
    assert parts[1] < 4 * parts[0]
