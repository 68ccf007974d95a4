"""MSES against numbers worked out by hand."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from gradmod import MSES, ModulatedModel
from gradmod.methods.epoch import Epoch
from gradmod.methods.record import ValidationFigures
from gradmod.models.fusion import SumFusion
from gradmod.models.mlp import MLP
from networks import batch, network

TWO = ("audio", "visual")


def losses(audio: float, visual: float) -> dict[str, ValidationFigures]:
    return {m: ValidationFigures(value, 0.0) for m, value in (("audio", audio), ("visual", visual))}


def tensors(model: ModulatedModel, modality: str) -> list[Tensor]:
    return [
        t.clone()
        for m in model.method._modules_of[modality]
        for t in (*m.parameters(), *m.buffers())
    ]


def test_when_a_modality_is_stopped() -> None:
    """Smoothed with 1/2: audio 4, 3, 3.5, 3.75 (best 3, two epochs without), then stopped; visual falls throughout."""
    method = MSES(TWO, patience=2, smoothing=0.5)
    method.bind(dict.fromkeys(TWO, ()))
    expected = ((4.0, 4.0), (2.0, 3.0), (4.0, 3.5), (4.0, 3.75))
    for epoch, (loss, smoothed) in enumerate(expected, 1):
        changed = method.after_epoch(Epoch(1, validation=losses(loss, 10.0 - epoch)))
        assert method._smoothed["audio"] == smoothed
        assert changed == (epoch == 4)
        assert method.stopped == (("audio",) if epoch == 4 else ())
        assert not method.has_finished
    for epoch in range(3):
        method.after_epoch(Epoch(1, validation=losses(0.0, 100.0)))
        assert method.has_finished == (epoch >= 1)
    assert method.stopped == ("audio", "visual")


def test_a_loss_that_stays_has_not_fallen() -> None:
    method = MSES(TWO, patience=2, smoothing=0.0)
    method.bind(dict.fromkeys(TWO, ()))
    for stopped in ((), (), ("audio",)):
        visual = 1.0 / (1 + len(method._smoothed) + method._waited["audio"])
        method.after_epoch(Epoch(1, validation=losses(1.0, visual)))
        assert method.stopped == stopped


def test_patience_by_modality() -> None:
    method = MSES(TWO, patience={"audio": 1, "visual": 3}, smoothing=0.0)
    method.bind(dict.fromkeys(TWO, ()))
    stopped = []
    for loss in (1.0, 2.0, 3.0, 4.0):
        method.after_epoch(Epoch(1, validation=losses(loss, loss)))
        stopped.append(method.stopped)
    assert stopped == [(), ("audio",), ("audio",), ("audio", "visual")]


@pytest.mark.parametrize("kind", ["sgd", "adamw"])
def test_a_stopped_modality_is_back_at_its_best_and_really_still(kind: str) -> None:
    """With momentum, weight decay and batch norm, none of which may move it any more; the rest goes on."""
    model = ModulatedModel(
        network(TWO, late=False, layer="batch-norm"), MSES(TWO, patience=1, smoothing=0.0)
    )
    optimizer = (
        torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.1)
        if kind == "sgd"
        else torch.optim.AdamW(model.parameters(), 0.01, weight_decay=0.1)
    )

    def epoch(seed: int) -> None:
        model.train()
        for step in range(3):
            inputs, target = batch(TWO, 16, 3, seed=10 * seed + step)
            optimizer.zero_grad()
            F.cross_entropy(model(inputs, target), target).backward()
            model.after_backward()
            optimizer.step()

    epoch(1)
    model.after_epoch(losses(1.0, 1.0))
    best = tensors(model, "audio")
    epoch(2)
    moved, visual = tensors(model, "audio"), tensors(model, "visual")
    assert model.after_epoch(losses(2.0, 0.5))
    assert not any(torch.equal(a, b) for a, b in zip(best, moved, strict=True))
    for seed in (3, 4):
        epoch(seed)
        assert all(torch.equal(a, b) for a, b in zip(best, tensors(model, "audio"), strict=True))
        assert not model.model.encoders["audio"].training
    assert not any(torch.equal(a, b) for a, b in zip(visual, tensors(model, "visual"), strict=True))
    assert model.last_step is not None
    assert model.last_step.coefficients.tolist() == [0.0, 1.0]


def test_a_modalitys_own_head_goes_with_it() -> None:
    net = SumFusion({"audio": MLP(5, (4,)), "visual": MLP(4, (4,))}, 3).double()
    model = ModulatedModel(net, MSES(TWO, patience=1, smoothing=0.0))
    model.after_epoch(losses(1.0, 1.0))
    best = net.heads["audio"].weight.clone()
    with torch.no_grad():
        net.heads["audio"].weight.add_(1)
    model.after_epoch(losses(2.0, 0.5))
    assert torch.equal(net.heads["audio"].weight, best)


def test_its_memory_is_saved_the_best_weights_included() -> None:
    one, other = (
        ModulatedModel(
            network(TWO, late=True, layer="batch-norm"), MSES(TWO, patience=2, smoothing=0.3)
        )
        for _ in range(2)
    )
    one.after_epoch(losses(1.0, 1.0))
    best = tensors(one, "audio")
    with torch.no_grad():
        for parameter in one.parameters():
            parameter.add_(0.5)
    one.after_epoch(losses(2.0, 0.9))
    other.load_state_dict(one.state_dict())
    for model in (one, other):
        model.after_epoch(losses(2.0, 0.8))
        assert model.method.stopped == ("audio",)  # type: ignore[union-attr]
        assert all(torch.equal(a, b) for a, b in zip(best, tensors(model, "audio"), strict=True))
    again = ModulatedModel(
        network(TWO, late=True, layer="batch-norm"), MSES(TWO, patience=2, smoothing=0.3)
    )
    again.load_state_dict(other.state_dict())
    assert again.method.stopped == ("audio",)  # type: ignore[union-attr]


def test_a_step_without_after_backward_is_noticed() -> None:
    inputs, target = batch(TWO, 8, 3)
    model = ModulatedModel(network(TWO, late=True, layer="plain"), MSES(TWO))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    F.cross_entropy(model(inputs, target), target).backward()
    optimizer.step()
    with pytest.raises(
        RuntimeError, match="MSES changes gradients, but an optimizer step was made without it"
    ):
        model(inputs, target)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"modalities": ("audio",)}, "there is one, 'audio'"),
        ({"patience": 0}, "patience is 0"),
        ({"patience": {"audio": 3}}, "patience is"),
        ({"smoothing": 1.0}, "smoothing is 1"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        MSES(**{"modalities": TWO, **settings})  # type: ignore[arg-type]
