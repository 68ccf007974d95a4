"""Uni-modal losses and MMPareto, against their equations written out with one backward pass for each loss."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import Tensor, nn

from counts import Operators
from gradmod import (
    Classification,
    Joint,
    Method,
    MMPareto,
    ModulatedModel,
    MultiLabel,
    Regression,
    UniModalLosses,
    adapt,
)
from gradmod.methods.mmpareto import combine
from gradmod.methods.step import Engine, Step
from gradmod.methods.view import Batch
from gradmod.models import MLP, LateFusion, SumFusion
from networks import NAMES, SIZES, batch
from properties import step_gradients

FUSIONS = {"late": LateFusion, "sum": SumFusion}
KINDS: tuple[Any, ...] = (UniModalLosses, MMPareto)


def made(kind: Any, count: int = 2, fusion: str = "late", **settings: Any) -> ModulatedModel:
    names = NAMES[:count]
    torch.manual_seed(0)
    net = FUSIONS[fusion]({m: MLP(SIZES[m], hidden=(6,)) for m in names}, 3).double()
    model = ModulatedModel(net, kind(names, **settings))
    model.give_heads_their_sizes(batch(names, 3, 3)[0])
    return model


def written_out(model: ModulatedModel, inputs: Any, target: Tensor) -> dict[str, dict[str, Tensor]]:
    """The gradient of the joint loss, and of each modality's own, one backward each; encoders read one by one."""
    net: Any = model.model
    losses = {"joint": F.cross_entropy(net(inputs), target)}
    for m in model.method.modalities:
        feature = net.encoders[m](inputs[m])
        own = (
            net.heads[m](feature)
            if isinstance(net, SumFusion)
            else F.linear(feature, model.heads.weights[m], model.heads.biases[m])  # type: ignore[union-attr]
        )
        losses[m] = F.cross_entropy(own, target)
    named = dict(model.named_parameters())
    found = {}
    for name, loss in losses.items():
        gradients = torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        found[name] = {
            key: torch.zeros_like(p) if g is None else g
            for (key, p), g in zip(named.items(), gradients, strict=True)
        }
    return found


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("fusion", list(FUSIONS))
def test_the_gradient_is_that_of_the_joint_and_the_weighted_own_losses(
    count: int, fusion: str
) -> None:
    names = NAMES[:count]
    weights = {m: 0.5 + number for number, m in enumerate(names)}
    model = made(UniModalLosses, count, fusion, weight=weights)
    assert (model.heads is None) == (fusion == "sum")  # the network's own
    inputs, target = batch(names, 9, 3)
    expected = written_out(model, inputs, target)
    found = step_gradients(model, inputs, target)
    for name, gradient in found.items():
        total = expected["joint"][name] + sum(weights[m] * expected[m][name] for m in names)
        torch.testing.assert_close(gradient, total, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("count", [1, 2, 3, 6])
@pytest.mark.parametrize("fusion", list(FUSIONS))
@pytest.mark.parametrize("gamma", [1.0, 1.5])
def test_mmpareto_is_its_equations(count: int, fusion: str, gamma: float) -> None:
    names = NAMES[:count]
    conflicts = []
    for seed in range(4):
        model = made(MMPareto, count, fusion, gamma=gamma)
        inputs, target = batch(names, 4, 3, seed=seed)
        parts = written_out(model, inputs, target)
        found = step_gradients(model, inputs, target)
        expected = {name: sum(part[name] for part in parts.values()) for name in found}
        for m in names:
            own_names = [name for name in found if f"encoders.{m}." in name]
            g = torch.cat([parts["joint"][name].flatten() for name in own_names])
            h = torch.cat([parts[m][name].flatten() for name in own_names])
            k = 0.5
            conflicts.append(bool(g @ h < 0))
            if conflicts[-1]:
                k = float((((h - g) @ h) / (g - h).square().sum()).clamp(0, 1))
            for name in own_names:
                plain = parts["joint"][name] + parts[m][name]
                n = 2 * k * parts["joint"][name] + 2 * (1 - k) * parts[m][name]
                expected[name] = gamma * n * max(1.0, float(plain.norm() / n.norm()))
        for name, gradient in found.items():
            torch.testing.assert_close(gradient, expected[name], rtol=1e-9, atol=1e-12)
    assert fusion == "sum" or count == 1 or len(set(conflicts)) == 2, "both cases are to be seen"


vectors = st.lists(st.floats(-3, 3, allow_nan=False, width=32), min_size=4, max_size=4)


@given(vectors, vectors)
def test_the_combination_makes_both_losses_fall(first: list[float], second: list[float]) -> None:
    g, h = (torch.tensor(v, dtype=torch.float64) for v in (first, second))
    (combined,), share = combine([g], [h], 1.0)
    assert combined.isfinite().all()
    assert 0 <= float(share) <= 2
    if g @ h >= 0:
        torch.testing.assert_close(combined, g + h)
    else:
        assert combined @ g >= -1e-9
        assert combined @ h >= -1e-9
        # Else they are opposite: nothing is left.
        if float((share / 2 * h + (1 - share / 2) * g).norm()) > 1e-12:
            assert combined.norm() >= (g + h).norm() - 1e-9
        # The shortest vector of the segment, searched for.
        shares = torch.linspace(0, 1, 2001, dtype=torch.float64)[:, None]
        lengths = (shares * h + (1 - shares) * g).norm(dim=1)
        assert float((share / 2 * h + (1 - share / 2) * g).norm()) <= float(lengths.min()) + 1e-6


@given(vectors, vectors)
def test_the_shortest_vector_is_that_of_torchjd(first: list[float], second: list[float]) -> None:
    """Of gradients in conflict, turned where they are not; its solver is Frank-Wolfe's, on the Gramian alone."""
    from torchjd.aggregation import MGDA

    g, h = (torch.tensor(v, dtype=torch.float64) for v in (first, second))
    if g @ h > 0:
        h = -h
    assume(float(g @ h) < -1e-6)
    share = combine([g], [h], 1.0)[1] / 2
    shortest = MGDA(epsilon=1e-12)(torch.stack([g, h]))
    torch.testing.assert_close((1 - share) * g + share * h, shortest, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_rounding_is_not_stretched(dtype: torch.dtype) -> None:
    g = torch.tensor([0.1, 0.2, 0.3], dtype=dtype)
    (combined,), _ = combine([g], [-3.3 * g], 1.5)
    assert float(combined.norm()) < 1e-5


def test_opposite_gradients_and_none_at_all() -> None:
    g = torch.tensor([1.0, 2.0], dtype=torch.float64)
    (combined,), share = combine([g], [-g], 1.5)
    assert float(share) == pytest.approx(1.0)
    assert torch.equal(combined, torch.zeros(2, dtype=torch.float64))
    # Absent from the batch: the joint gradient alone.
    (combined,), _ = combine([g], [torch.zeros_like(g)], 1.0)
    torch.testing.assert_close(combined, g)


def test_gradients_are_combined_one_parameter_at_a_time_in_four_writes() -> None:
    """Networks have tens of millions of parameters: every copy of them all takes as long as a pass."""
    sizes = (30_000, 20_000, 40_000)
    joint, alone = ([torch.randn(n) for n in sizes] for _ in range(2))
    with Operators() as counted:
        combine(joint, alone, 1.5)
    assert counted.largest == max(sizes)
    assert counted.written < 4.1 * sum(sizes)


def test_a_frozen_encoder_stays_as_it_is() -> None:
    model = made(MMPareto)
    frozen: Any = model.model.encoders["audio"]  # type: ignore[union-attr, index]
    frozen.requires_grad_(False)
    before = [parameter.clone() for parameter in frozen.parameters()]
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], 0.1)
    model.training_step(*batch(NAMES[:2], 6, 3), optimizer)
    assert all(torch.equal(a, b) for a, b in zip(before, frozen.parameters(), strict=True))
    assert model.last_step is not None
    assert float(model.last_step.coefficients[0]) == 1


@pytest.mark.parametrize("kind", KINDS)
def test_a_loss_is_the_mean_over_the_samples_that_have_the_modality(kind: type[Method]) -> None:
    names = NAMES[:2]
    inputs, target = batch(names, 6, 3)
    has = torch.tensor([True, True, False, True, False, False])
    model = made(kind)
    step = Step(
        Engine(model, torch.optim.SGD(model.parameters(), 0.1)),
        model,
        Batch(inputs, target),
        {"audio": has},
    )
    losses = step.losses(step.forward())
    feature = model.model.encoders["audio"](inputs["audio"][has])  # type: ignore[union-attr, index, operator]
    own = F.linear(feature, model.heads.weights["audio"], model.heads.biases["audio"])  # type: ignore[union-attr]
    torch.testing.assert_close(losses["uni_modal.audio"], F.cross_entropy(own, target[has]))
    found = step_gradients(made(kind), inputs, target, {"audio": torch.zeros(6, dtype=torch.bool)})
    assert all(gradient.isfinite().all() for gradient in found.values())
    assert not found["heads.weights.audio"].any()
    assert found["heads.weights.visual"].any()


class Plain(Classification):
    """A task of one's own that is NaN for no sample, as F.cross_entropy is."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits, target)


@pytest.mark.parametrize("kind", KINDS)
def test_a_modality_that_no_sample_has_is_no_loss_whatever_the_task_and_the_head(kind: Any) -> None:
    net: Any = made(kind, fusion="sum").model
    with torch.no_grad():
        for head in net.heads.values():
            head.bias[2] = -torch.inf  # a class that is ruled out
    model = ModulatedModel(net, kind(NAMES[:2]), task=Plain())
    inputs, target = batch(NAMES[:2], 6, 2)
    step = Step(
        Engine(model, torch.optim.SGD(model.parameters(), 0.1)),
        model,
        Batch(inputs, target),
        {"audio": torch.zeros(6, dtype=torch.bool)},
    )
    losses = step.losses(step.forward())
    assert float(losses["uni_modal.audio"].detach()) == 0
    losses["uni_modal.audio"].backward()
    assert all(p.grad is None or bool((p.grad == 0).all()) for p in model.parameters())


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("task", [MultiLabel(), Regression()])
def test_other_targets(kind: type[Method], task: Any) -> None:
    model = ModulatedModel(made(kind).model, kind(NAMES[:2]), task=task)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    inputs, _ = batch(NAMES[:2], 16, 3)
    target = torch.rand(16, 3, dtype=torch.float64).round()
    losses = [float(model.training_step(inputs, target, optimizer)) for _ in range(15)]
    assert losses[-1] < losses[0]
    assert model.last_step is not None
    assert model.last_step.scores is not None
    assert model.last_step.scores.shape == (2,)


@pytest.mark.parametrize("kind", KINDS)
def test_a_foreign_network_that_names_its_encoders_alone(kind: type[Method]) -> None:
    class Foreign(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ears, self.eyes, self.out = nn.Linear(5, 4), nn.Linear(4, 4), nn.Linear(8, 3)

        def forward(self, sound: Tensor, picture: Tensor) -> Tensor:
            both = torch.cat([self.ears(sound).relu(), self.eyes(picture).relu()], 1)
            found: Tensor = self.out(both)
            return found

    torch.manual_seed(0)
    net = Foreign().double()
    adapted = adapt(
        net,
        lambda net, x: net(x["audio"], x["visual"]),
        encoders={"audio": net.ears, "visual": net.eyes},
    )
    model = ModulatedModel(adapted, kind(NAMES[:2]))
    inputs, target = batch(NAMES[:2], 16, 3)
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    losses = [float(model.training_step(inputs, target, optimizer)) for _ in range(15)]
    assert losses[-1] < losses[0]
    model.eval()
    torch.testing.assert_close(model(inputs), net(inputs["audio"], inputs["visual"]))
    assert model.own_predictions(inputs).shape == (2, 16, 3)


def test_what_is_refused() -> None:
    names = NAMES[:2]
    for weight in (-1.0, float("nan"), {"audio": float("inf")}):
        with pytest.raises(ValueError, match="finite numbers >= 0"):
            UniModalLosses(names, weight)
    with pytest.raises(ValueError, match="'smell'"):
        UniModalLosses(names, {"smell": 1.0})
    for gamma in (0.0, -1.0, float("inf")):
        with pytest.raises(ValueError, match="gamma is"):
            MMPareto(names, gamma)
    plain = adapt(nn.Linear(5, 3).double(), lambda net, x: net(x["audio"]))
    for kind in KINDS:
        with pytest.raises(ValueError, match="does not say which"):
            ModulatedModel(plain, kind(names))


def test_weights_towards_zero_are_joint_training() -> None:
    inputs, target = batch(NAMES[:2], 9, 3)
    joint = step_gradients(made(Joint), inputs, target)
    small = step_gradients(made(UniModalLosses, weight=1e-12), inputs, target)
    for name, gradient in joint.items():
        torch.testing.assert_close(small[name], gradient, rtol=1e-9, atol=1e-9)
