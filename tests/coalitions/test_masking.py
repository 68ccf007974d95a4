"""Hiding modalities: zeros, a model's own mask, nested inputs, token ids."""

from __future__ import annotations

import pickle
from collections import UserDict
from types import MappingProxyType
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel, adapt
from gradmod.coalitions.masking import (
    CannotStackError,
    append_row,
    check_inputs,
    copy_containers,
    first_row,
    map_tensors,
    mask,
    nested_alike,
    proper_coalitions,
    stack_samples,
    tensor_leaves,
    with_items,
)


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
    return {
        "text": Text(ids, torch.tensor([3, 2])),
        "image": torch.randn(2, 3).double(),
    }, torch.tensor([0, 1])


def test_proper_coalitions_come_in_the_order_of_their_codes() -> None:
    assert proper_coalitions(("a", "b")) == [{"a"}, {"b"}]
    assert proper_coalitions(("a", "b", "c")) == [
        {"a"},
        {"b"},
        {"a", "b"},
        {"c"},
        {"a", "c"},
        {"b", "c"},
    ]
    assert proper_coalitions(("a",)) == []


def test_the_default_mask_is_zeros_of_every_floating_tensor() -> None:
    masked = mask(
        nn.Identity(), "audio", {"wave": torch.ones(2, 3), "scales": [torch.ones(2), None]}
    )
    assert not masked["wave"].any()
    assert not masked["scales"][0].any()
    assert masked["scales"][1] is None


def test_token_ids_without_a_mask_of_their_own_are_an_error() -> None:
    with pytest.raises(
        ValueError, match=r"'text' holds a tensor of dtype torch.int64.*define mask"
    ):
        mask(nn.Identity(), "text", torch.tensor([[1, 2]]))


def test_strategies_agree_on_nested_inputs_with_a_models_own_mask() -> None:
    results = []
    for strategy in ("looped", "batched"):
        torch.manual_seed(0)
        model = ModulatedModel(
            TextAndImage().double(), AGM(("text", "image"), alpha=1.0), coalitions=strategy
        )
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
    expected_a = (
        reusing(inputs) - reusing({"a": inputs["a"] / 2, "b": inputs["b"]}) + reusing(hidden)
    ) / 2
    torch.testing.assert_close(looped.responses[0], expected_a, rtol=1e-12, atol=1e-12)


def test_trees_are_concatenated_leaf_by_leaf() -> None:
    tree = Text(torch.tensor([[1, 2]]), torch.tensor([2]))
    both = stack_samples([tree, map_tensors(lambda leaf: leaf + 1, tree)], 1, 0, "text")
    assert both.ids.tolist() == [[1, 2], [2, 3]]
    assert both.lengths.tolist() == [2, 3]


SETTINGS: tuple[Any, ...] = ("a word", b"bytes", True, 300_000, 0.5, None)


@pytest.mark.parametrize("setting", SETTINGS)
def test_settings_beside_the_tensors_stay_single_where_they_are_the_same(setting: Any) -> None:
    def tree(start: int, beside: Any) -> dict[str, Any]:
        return {"x": torch.arange(start, start + 2), "beside": [beside]}

    equal = pickle.loads(pickle.dumps(setting))  # another object
    both = stack_samples([tree(0, setting), tree(2, equal)], 2, 0, "text")
    assert both["x"].tolist() == [0, 1, 2, 3]
    assert both["beside"] == [setting]
    same = object()
    assert stack_samples([tree(0, same), tree(2, same)], 2, 0, "text")["beside"] == [same]
    for other in (object(), "other", 7, 1.0, None if setting is not None else 0):
        if other != setting:
            with pytest.raises(CannotStackError, match="differs between coalitions"):
                stack_samples([tree(0, setting), tree(2, other)], 2, 0, "text")


def test_what_cannot_be_stacked_is_said() -> None:
    one = torch.zeros(2, 3)
    assert (
        stack_samples([one, torch.ones(2, 3)], 2, 0, "a").tolist()
        == [[0.0] * 3] * 2 + [[1.0] * 3] * 2
    )
    assert stack_samples([one, torch.ones(2, 3)], 3, 1, "a").shape == (2, 6)
    scale = torch.tensor(2.0)
    assert stack_samples([scale, scale], 2, 0, "a") is scale
    others: list[Any] = [
        torch.zeros(2, 4),
        torch.zeros(3, 3),
        torch.zeros(2, 3, 1),
        torch.zeros(2, 3).double(),
        torch.zeros(2, 3, device="meta"),
        torch.zeros(2, 3).to_sparse(),
        "a word",
    ]
    for other in others:
        with pytest.raises(
            CannotStackError, match="without 2 samples on axis 0 in every coalition"
        ):
            stack_samples([one, other], 2, 0, "a")
    for samples, axis in ((3, 0), (2, 1), (2, 2)):
        with pytest.raises(CannotStackError, match=f"without {samples} samples on axis {axis}"):
            stack_samples([one, torch.ones(2, 3)], samples, axis, "a")
    for pair in (([one], [one, one]), ([one], (one,)), ({"a": one}, [one]), ([], [one])):
        with pytest.raises(CannotStackError, match="differs between coalitions"):
            stack_samples(pair, 2, 0, "a")


def test_a_row_is_taken_from_a_batch_and_appended_to_it() -> None:
    x = {"a": torch.arange(4.0).reshape(2, 2), "b": [torch.tensor([5.0, 6.0]), None]}
    row = first_row(x)
    assert row["a"].tolist() == [[0.0, 1.0]]
    assert row["b"][0].tolist() == [5.0]
    assert row["b"][1] is None
    longer = append_row(x, map_tensors(torch.zeros_like, row))
    assert longer["a"].tolist() == [[0.0, 1.0], [2.0, 3.0], [0.0, 0.0]]
    assert longer["b"][0].tolist() == [5.0, 6.0, 0.0]
    assert append_row(x, x) is None
    assert append_row(x, {"a": row["a"]}) is None
    ragged: list[Any] = [
        None,
        [],
        [torch.tensor(1.0), torch.ones(2)],
        [torch.ones(3), torch.ones(2)],
    ]
    for other in ragged:
        assert first_row(other) is None
        assert append_row(other, row) is None


def test_trees_are_alike_in_nesting_shapes_and_dtypes() -> None:
    def tree() -> dict[str, Any]:
        return {"a": [torch.ones(2), None], "b": (torch.ones(1, dtype=torch.int64), "word")}

    assert nested_alike(tree(), map_tensors(lambda leaf: leaf * 2, tree()))
    others: list[Any] = [
        {**tree(), "a": [torch.ones(3), None]},
        {**tree(), "a": [torch.ones(2).double(), None]},
        {**tree(), "a": [torch.ones(2)]},
        {**tree(), "a": (torch.ones(2), None)},
        {**tree(), "a": [None, None]},
        {**tree(), "a": [torch.ones(2), "word"]},
        {"a": tree()["a"], "c": tree()["b"]},
        {"a": tree()["a"]},
        torch.ones(2),
    ]
    for other in others:
        assert not nested_alike(tree(), other)
        assert not nested_alike(other, tree())


class Held:
    def __init__(self, tensor: Tensor) -> None:
        self.tensor = tensor


def test_containers_are_copied_and_tensors_only_where_asked() -> None:
    x = {
        "list": [torch.ones(1)],
        "held": Held(torch.ones(1)),
        "array": np.ones(1),
        "type": Held,
        "function": len,
    }
    for with_tensors in (False, True):
        twin = copy_containers(x, with_tensors)
        assert twin is not x
        assert twin["list"] is not x["list"]
        assert (twin["list"][0] is x["list"][0]) is not with_tensors
        assert twin["held"] is not x["held"]
        assert twin["held"].tensor is not x["held"].tensor  # type: ignore[attr-defined]
        assert torch.equal(twin["held"].tensor, torch.ones(1))
        assert (twin["array"] is x["array"]) is not with_tensors
        assert twin["type"] is Held
        assert twin["function"] is len


def test_items_are_replaced_in_a_mapping_of_its_own_type() -> None:
    for made in (dict, UserDict):
        before = made({"a": 1, "b": 2})
        after = with_items(before, {"b": 3})
        assert type(after) is made
        assert dict(after) == {"a": 1, "b": 3}
        assert dict(before) == {"a": 1, "b": 2}
    assert with_items(MappingProxyType({"a": 1, "b": 2}), {"b": 3}) == {"a": 1, "b": 3}
    nested = UserDict({"a": torch.ones(1), "b": [torch.zeros(1), "word"]})
    doubled = map_tensors(lambda leaf: leaf + 1, nested)
    assert type(doubled) is UserDict
    assert [float(leaf) for leaf in tensor_leaves(doubled)] == [2.0, 1.0]
    assert [float(leaf) for leaf in tensor_leaves(nested)] == [1.0, 0.0]


def test_inputs_are_a_mapping_that_holds_every_modality() -> None:
    check_inputs({"a": 1, "b": None, "more": 2}, ("a", "b"))
    with pytest.raises(TypeError, match="inputs is list; expected a dict by modality"):
        check_inputs([1], ("a",))  # type: ignore[arg-type]
    with pytest.raises(ValueError, match=r"inputs lack 'b', 'c': they hold \['a'\]"):
        check_inputs({"a": 1}, ("a", "b", "c"))


def test_inputs_that_are_no_modality_are_shown_to_every_coalition() -> None:
    class Net(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return (inputs["a"] + inputs["b"]) * inputs["scale"]

    inputs = {"a": torch.randn(4, 2), "b": torch.randn(4, 2), "scale": torch.rand(4, 1) + 1}
    for strategy in ("looped", "batched"):
        responses = (
            ModulatedModel(Net(), AGM(("a", "b")), coalitions=strategy).responses(inputs).responses
        )
        torch.testing.assert_close(responses[0], inputs["a"] * inputs["scale"])
