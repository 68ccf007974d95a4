"""Hiding modalities: zeros, a model's own mask, nested inputs, token ids."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel, adapt
from gradmod.coalitions.masking import map_tensors, mask, proper_coalitions, stack_samples


class Text(NamedTuple):
    ids: Tensor
    lengths: Tensor


class TextAndImage(nn.Module):
    """Token ids with lengths, and an image; says what a hidden text is: one padding token."""

    def __init__(self) -> None:
        super().__init__()
        self.embedding = nn.Embedding(10, 4)
        self.image = nn.Linear(3, 4)
        self.out = nn.Linear(8, 2)

    def mask(self, modality: str, x: Any) -> Any:
        if modality == "text":
            return Text(torch.zeros_like(x.ids), torch.ones_like(x.lengths))
        return torch.zeros_like(x)

    def forward(self, inputs: dict[str, Any]) -> Tensor:
        text: Text = inputs["text"]
        shown = torch.arange(text.ids.shape[1]) < text.lengths.unsqueeze(1)
        words = (self.embedding(text.ids) * shown.unsqueeze(2)).sum(1) / text.lengths.unsqueeze(1)
        return self.out(torch.cat([words, self.image(inputs["image"])], 1))


def text_batch() -> tuple[dict[str, Any], Tensor]:
    ids = torch.tensor([[1, 2, 3], [4, 5, 0]])
    return {"text": Text(ids, torch.tensor([3, 2])), "image": torch.randn(2, 3).double()}, torch.tensor([0, 1])


def test_proper_coalitions_come_in_the_order_of_their_codes() -> None:
    assert proper_coalitions(("a", "b")) == [{"a"}, {"b"}]
    assert proper_coalitions(("a", "b", "c")) == [{"a"}, {"b"}, {"a", "b"}, {"c"}, {"a", "c"}, {"b", "c"}]
    assert proper_coalitions(("a",)) == []


def test_the_default_mask_is_zeros_of_every_floating_tensor() -> None:
    masked = mask(nn.Identity(), "audio", {"wave": torch.ones(2, 3), "scales": [torch.ones(2), None]})
    assert not masked["wave"].any()
    assert not masked["scales"][0].any()
    assert masked["scales"][1] is None


def test_token_ids_without_a_mask_of_their_own_are_an_error() -> None:
    with pytest.raises(ValueError, match=r"'text' holds a tensor of dtype torch.int64.*define mask"):
        mask(nn.Identity(), "text", torch.tensor([[1, 2]]))


def test_strategies_agree_on_nested_inputs_with_a_models_own_mask() -> None:
    results = []
    for strategy in ("looped", "batched"):
        torch.manual_seed(0)
        model = ModulatedModel(TextAndImage().double(), AGM(("text", "image"), alpha=1.0), coalitions=strategy)
        inputs, target = text_batch()
        model.task.loss(model(inputs, target), target).backward()
        results.append([p.grad for p in model.parameters()])
    for ours, oracle in zip(*results, strict=True):
        torch.testing.assert_close(ours, oracle, rtol=1e-12, atol=1e-12)


def test_a_mask_given_to_adapt_is_used_and_rows_that_differ_are_all_encoded() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.out = nn.Linear(3, 4), nn.Linear(3, 4), nn.Linear(4, 2)

    def half(modality: str, x: Tensor) -> Tensor:
        return x / 2

    torch.manual_seed(0)
    net = Net().double()
    inputs = {"a": torch.randn(5, 3).double(), "b": torch.randn(5, 3).double()}

    def fuse(net: Net, features: Any) -> Tensor:
        return torch.tanh(features["a"] * features["b"])

    def head(net: Net, joint: Tensor) -> Tensor:
        return net.out(joint)

    reusing = adapt(net, encoders={"a": net.a, "b": net.b}, fuse=fuse, head=head, mask=half)
    looped = ModulatedModel(reusing, AGM(("a", "b")), coalitions="looped").responses(inputs)
    reused = ModulatedModel(reusing, AGM(("a", "b")), coalitions="reuse").responses(inputs)
    torch.testing.assert_close(reused.responses, looped.responses, rtol=1e-12, atol=1e-12)
    hidden = {"a": inputs["a"], "b": inputs["b"] / 2}
    expected_a = (reusing(inputs) - reusing({"a": inputs["a"] / 2, "b": inputs["b"]}) + reusing(hidden)) / 2
    torch.testing.assert_close(looped.responses[0], expected_a, rtol=1e-12, atol=1e-12)


def test_trees_are_concatenated_leaf_by_leaf() -> None:
    tree = Text(torch.tensor([[1, 2]]), torch.tensor([2]))
    both = stack_samples([tree, map_tensors(lambda leaf: leaf + 1, tree)], 1, 0, "text")
    assert both.ids.tolist() == [[1, 2], [2, 3]]
    assert both.lengths.tolist() == [2, 3]


def test_inputs_that_are_no_modality_are_shown_to_every_coalition() -> None:
    class Net(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return (inputs["a"] + inputs["b"]) * inputs["scale"]

    inputs = {"a": torch.randn(4, 2), "b": torch.randn(4, 2), "scale": torch.rand(4, 1) + 1}
    for strategy in ("looped", "batched"):
        responses = ModulatedModel(Net(), AGM(("a", "b")), coalitions=strategy).responses(inputs).responses
        torch.testing.assert_close(responses[0], inputs["a"] * inputs["scale"])
