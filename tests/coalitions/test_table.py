"""Logits of every coalition, against passes through the model."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
from torch import nn

from gradmod import adapt
from gradmod.coalitions.table import coalition_logits, differs_between_samples, hiding_changes
from networks import NAMES, SIZES, Network


@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("reuse", [True, False])
def test_every_row_is_a_pass_with_the_others_masked(count: int, reuse: bool) -> None:
    torch.manual_seed(count)
    names = NAMES[:count]
    network = Network(names, "batch-norm", 3, segments=2).eval()
    model = network if reuse else adapt(network, call=lambda net, inputs: net(inputs)).eval()
    inputs = {m: torch.randn(5, SIZES[m]) for m in names}
    found = coalition_logits(model, inputs, names)
    assert not found.requires_grad
    for code in range(1 << count):
        shown = {
            m: x if code >> bit & 1 else torch.zeros_like(x)
            for bit, (m, x) in enumerate(inputs.items())
        }
        torch.testing.assert_close(found[code], network(shown))


def test_each_encoder_runs_twice_however_many_coalitions() -> None:
    names = NAMES[:4]
    model = Network(names, "plain", 3).eval()
    calls: list[nn.Module] = []
    for encoder in model.encoders.values():
        encoder.register_forward_hook(lambda module, *_: calls.append(module))
    coalition_logits(model, {m: torch.randn(5, SIZES[m]) for m in names}, names)
    assert len(calls) == 16


def test_what_is_refused() -> None:
    model = Network(NAMES[:2], "plain", 3)
    with pytest.raises(ValueError, match="inputs lack 'visual'"):
        coalition_logits(model, {"audio": torch.zeros(2, 5)}, NAMES[:2])
    many = [f"m{i}" for i in range(11)]
    with pytest.raises(ValueError, match="2048 coalitions"):
        coalition_logits(model, dict.fromkeys(many, torch.zeros(2, 5)), many)


@dataclass
class Table:
    values: torch.Tensor


class Opaque:
    def __init__(self, values: torch.Tensor) -> None:
        self.values = values


class Sentences:
    """Equal by what it says; what else it keeps is its own affair."""

    def __init__(self, values: torch.Tensor) -> None:
        self.values = values
        self.token = object()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sentences) and torch.equal(self.values, other.values)

    __hash__ = None  # type: ignore[assignment]


KINDS = {
    "tensor": lambda x: x,
    "dict": lambda x: {"a": x, "b": torch.ones(4, 2)},
    "list": lambda x: [x, torch.ones(4, 2)],
    "tuple": lambda x: (torch.ones(4, 2), x),
    "dataclass": Table,
    "object": Opaque,
    "object with an equality of its own": Sentences,
    "numpy": lambda x: x.numpy(),
    "words": lambda x: [f"word {value:g}" for value in x[:, 0].tolist()],
}


@pytest.mark.parametrize("kind", KINDS)
def test_whether_a_mask_hides_anything_of_an_input_of_any_kind(kind: str) -> None:
    class Masked(nn.Module):
        def __init__(self, answer: object) -> None:
            super().__init__()
            self.answer = answer

        def mask(self, modality: str, x: object) -> object:
            return x if self.answer is None else self.answer

    x = torch.arange(8.0).reshape(4, 2)
    shown = KINDS[kind](x.clone())
    assert not hiding_changes(Masked(None), "audio", shown)
    assert not hiding_changes(Masked(KINDS[kind](x.clone())), "audio", shown)
    assert hiding_changes(Masked(KINDS[kind](torch.where(x == 6, -1.0, x))), "audio", shown)
    assert hiding_changes(Masked(None if kind == "words" else "hidden"), "audio", shown) is (
        kind != "words"
    )


@pytest.mark.parametrize("kind", [kind for kind in KINDS if not kind.startswith("object")])
def test_whether_samples_differ(kind: str) -> None:
    assert differs_between_samples(KINDS[kind](torch.arange(8.0).reshape(4, 2)))
    if kind in ("list", "tuple"):  # their entries may be anything, the samples too
        return
    assert not differs_between_samples(KINDS[kind](torch.ones(4, 2)))
    assert not differs_between_samples(KINDS[kind](torch.ones(1, 2)))


def test_whether_samples_of_one_number_differ() -> None:
    for numbers in (torch.arange(4.0), torch.arange(4.0).numpy()):
        assert differs_between_samples(numbers)
        assert not differs_between_samples(numbers * 0)
        assert not differs_between_samples(numbers.sum())  # no axis of samples
