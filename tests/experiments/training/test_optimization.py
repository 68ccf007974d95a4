"""Learning rates and clipping, by hand and against torch."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import nn

from gradmod.experiments.settings.config import OptimizerConfig
from gradmod.experiments.training.optimization import build_optimizer, clip_gradients, learning_rate


def rates(epochs: int, **settings: object) -> list[float]:
    config = OptimizerConfig(lr=1.0, **settings)  # type: ignore[arg-type]
    return [learning_rate(config, epoch, epochs) for epoch in range(1, epochs + 1)]


def test_schedules_by_hand() -> None:
    assert rates(3) == [1.0, 1.0, 1.0]
    assert rates(5, schedule="step", decay_every=2, decay_factor=0.5) == [1.0, 1.0, 0.5, 0.5, 0.25]
    assert rates(4, schedule="cosine") == pytest.approx(
        [0.5 * (1 + math.cos(math.pi * e / 4)) for e in range(4)]
    )
    assert rates(4, schedule="warmup-cosine", warmup_epochs=2) == pytest.approx(
        [0.5, 1.0, 1.0, 0.5]
    )


def test_step_schedule_equals_torch() -> None:
    parameter = nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.3)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 7, 0.1)
    config = OptimizerConfig(lr=0.3, schedule="step", decay_every=7, decay_factor=0.1)
    for epoch in range(1, 25):
        assert learning_rate(config, epoch, 25) == pytest.approx(scheduler.get_last_lr()[0])
        optimizer.step()
        scheduler.step()


def gradients(scale: float) -> nn.Sequential:
    torch.manual_seed(0)
    net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    (net(torch.randn(5, 3)).sum() * scale).backward()
    return net


@pytest.mark.parametrize("scale", [0.001, 1.0, 1e6])
def test_clipping_equals_torch(scale: float) -> None:
    net = gradients(scale)
    expected = copy.deepcopy(net)
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        theirs.grad = ours.grad.clone()  # type: ignore[union-attr]
    norm = clip_gradients(net.parameters(), 2.0)
    torch.testing.assert_close(norm, nn.utils.clip_grad_norm_(expected.parameters(), 2.0))
    for ours, theirs in zip(net.parameters(), expected.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)


@pytest.mark.parametrize(("scale", "clips"), [(0.01, False), (100.0, True)])
def test_the_published_rule_clips_when_an_entry_of_the_heads_gradient_is_large(
    scale: float, clips: bool
) -> None:
    net = gradients(scale)
    before = [p.grad.clone() for p in net.parameters()]  # type: ignore[union-attr]
    assert bool(net[1].weight.grad.abs().max() > 1) == clips
    clip_gradients(net.parameters(), 1.0, trigger=net[1].weight)
    changed = any(not torch.equal(p.grad, b) for p, b in zip(net.parameters(), before, strict=True))
    assert changed is clips
    if clips:
        total = torch.stack([p.grad.norm() for p in net.parameters()]).norm()  # type: ignore[union-attr]
        assert float(total) == pytest.approx(1.0, rel=1e-4)


def test_the_published_rule_looks_at_the_size_of_an_entry() -> None:
    """-3 is large; its sign does not matter."""
    head, other = (nn.Parameter(torch.zeros(2)) for _ in range(2))
    head.grad, other.grad = torch.tensor([-3.0, 0.5]), torch.tensor([4.0, 0.0])
    clip_gradients([head, other], 1.0, trigger=head)
    assert float(torch.cat([head.grad, other.grad]).norm()) == pytest.approx(1.0, rel=1e-4)


def test_no_clipping_only_measures() -> None:
    net = gradients(1e6)
    before = net[0].weight.grad.clone()
    assert float(clip_gradients(net.parameters(), None)) > 1e5
    assert torch.equal(net[0].weight.grad, before)


@pytest.mark.parametrize(
    ("name", "kind"),
    [("sgd", torch.optim.SGD), ("adam", torch.optim.Adam), ("adamw", torch.optim.AdamW)],
)
def test_optimizers(name: str, kind: type) -> None:
    optimizer = build_optimizer(
        [nn.Parameter(torch.zeros(1))], OptimizerConfig(optimizer=name, lr=0.5, weight_decay=0.1)
    )
    assert type(optimizer) is kind
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert optimizer.param_groups[0]["weight_decay"] == 0.1
