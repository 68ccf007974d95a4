"""Which modules compute the same in both modes, and that modes are restored."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gradmod.coalitions import choose_strategy
from gradmod.coalitions.modes import (
    _MODE_FREE,
    MaskedPassMode,
    has_training_batch_norm,
    same_in_both_modes,
)
from networks import NAMES, batch, network


class FunctionalDropout(nn.Module):
    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.dropout(x, 0.5, self.training)


class Declared(nn.Module):
    forward_ignores_mode = True

    def __init__(self, inner: nn.Module) -> None:
        super().__init__()
        self.inner = inner

    def forward(self, x: Tensor) -> Tensor:
        return self.inner(x)


class Subclass(Declared):
    """May override anything, so the parent's declaration does not count."""


SAME = {
    "linear": nn.Sequential(nn.Linear(3, 3), nn.ReLU(), nn.LayerNorm(3)),
    "no dropout": nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.0)),
    "lstm": nn.LSTM(3, 3, num_layers=2),
    "transformer": nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8, dropout=0.0), 2, enable_nested_tensor=False
    ),
    "frozen batch norm": nn.BatchNorm1d(3).eval(),
    "declared": Declared(nn.Linear(3, 3)),
}
DIFFERENT = {
    "batch norm": nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)),
    "dropout": nn.Dropout(0.1),
    "lstm with dropout": nn.LSTM(3, 3, num_layers=2, dropout=0.1),
    "attention with dropout": nn.MultiheadAttention(4, 2, dropout=0.1),
    "transformer with dropout": nn.TransformerEncoder(
        nn.TransformerEncoderLayer(4, 2, 8), 2, enable_nested_tensor=False
    ),
    "unknown": FunctionalDropout(),
    "declared around dropout": Declared(nn.Dropout(0.1)),
    "subclass of a declared one": Subclass(nn.Linear(3, 3)),
    "rrelu": nn.RReLU(),
}


@pytest.mark.parametrize("name", SAME)
def test_same_in_both_modes(name: str) -> None:
    assert same_in_both_modes(SAME[name])


@pytest.mark.parametrize("name", DIFFERENT)
def test_different_in_both_modes(name: str) -> None:
    assert not same_in_both_modes(DIFFERENT[name])


def test_no_listed_type_looks_at_its_mode() -> None:
    import inspect

    for kind in _MODE_FREE:
        assert "self.training" not in inspect.getsource(kind.forward), kind


def modes(net: nn.Module) -> list[bool]:
    return [module.training for module in net.modules()]


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse"])
def test_every_submodules_mode_is_restored(strategy: str) -> None:
    net = network(NAMES[:2], late=False, layer="batch-norm")
    net.encoders["audio"].eval()  # the user froze it
    before = modes(net)
    inputs, _ = batch(NAMES[:2], 6, 3)
    choose_strategy(net, NAMES[:2], strategy).evaluate(net, inputs, NAMES[:2])
    assert modes(net) == before
    assert not all(before)


def test_modes_are_restored_when_a_forward_raises() -> None:
    class Fails(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            if not self.training:
                raise RuntimeError("boom")
            return inputs["audio"]

    net = nn.Sequential(Fails(), nn.Dropout())
    net[1].eval()
    inputs, _ = batch(NAMES[:2], 6, 3)
    with pytest.raises(RuntimeError, match="boom"):
        choose_strategy(net[0], NAMES[:2], "looped").evaluate(net[0], inputs, NAMES[:2])
    assert modes(net) == [True, True, False]


def test_recurrent_layers_compute_as_in_eval_mode_but_stay_in_train_mode() -> None:
    torch.manual_seed(0)
    lstm = nn.LSTM(3, 4, num_layers=2, dropout=0.5)
    x = torch.randn(5, 2, 3)
    expected = copy.deepcopy(lstm).eval()(x)[0]
    with MaskedPassMode(lstm).entered():
        assert lstm.training
        torch.testing.assert_close(lstm(x)[0], expected)
    assert lstm.dropout == 0.5


def test_has_training_batch_norm() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    assert has_training_batch_norm(net)
    assert not has_training_batch_norm(net.eval())
    assert not has_training_batch_norm(nn.BatchNorm1d(2, track_running_stats=False))
