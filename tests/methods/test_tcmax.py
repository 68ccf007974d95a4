"""TCMax: against the sum over every combination, what leaves the loss alone, and processes that gather batches."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradmod import Classification, ModulatedModel, Regression
from gradmod.methods import TCMax, tcmax
from gradmod.models import MLP, LateFusion
from networks import NAMES, SIZES, batch, network
from processes import on_processes

TWO, THREE = NAMES[:2], NAMES[:3]


def of_terms(count: int, seed: int = 0) -> LateFusion:
    torch.manual_seed(seed)
    return LateFusion({m: MLP(SIZES[m], hidden=(6,)) for m in NAMES[:count]}, 3).double()


class Undeclared(nn.Module):
    """An additive network that does not say so."""

    def __init__(self, inner: Any) -> None:
        super().__init__()
        self.inner, self.encoders = inner, inner.encoders

    def encode(self, modality: str, x: Tensor) -> Tensor:
        return self.inner.encode(modality, x)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        return self.inner.fuse(features)

    def head(self, joint: Tensor) -> Tensor:
        return self.inner.head(joint)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in self.inner.modalities}))


def gradients(loss: Tensor, net: nn.Module) -> list[Tensor]:
    found = torch.autograd.grad(loss, list(net.parameters()), allow_unused=True)
    return [
        torch.zeros_like(p) if g is None else g
        for g, p in zip(found, net.parameters(), strict=True)
    ]


def ours(
    net: Any, inputs: Any, target: Tensor, present: Any = None, **task: Any
) -> tuple[Tensor, list[Tensor]]:
    """The loss, and its gradients by the network's parameters."""
    method = TCMax(tuple(net.encoders))
    model = ModulatedModel(net, method, task=Classification(**task))
    with model.in_training_step():
        more = () if present is None else (present,)
        loss = model(inputs, target, *more).losses["tcmax"]
    return loss.detach(), gradients(loss, net)


def by_hand(
    net: Any, inputs: Any, target: Tensor, present: Any = None
) -> tuple[Tensor, list[Tensor]]:
    """Every combination of every sample's features by itself, in a loop."""
    names = tuple(net.encoders)
    n = len(target)
    has = {
        m: torch.ones(n, dtype=torch.bool) if present is None else present.get(m, torch.ones(n) > 0)
        for m in names
    }
    seen = {m: x * has[m][:, None] for m, x in inputs.items()}
    features = {m: net.encode(m, seen[m]) for m in names}
    known = [i for i in range(n) if target[i] != -100]
    losses = []
    for i in known:
        places = [
            [j for j in known if has[m][j]] if has[m][i] else [i]  # what it lacks is its own
            for m in names
        ]
        logits = torch.stack(
            [
                net.head(
                    net.fuse({m: features[m][j : j + 1] for m, j in zip(names, which, strict=True)})
                )[0]
                for which in itertools.product(*places)
            ]
        )
        own = net.head(net.fuse({m: features[m][i : i + 1] for m in names}))[0, target[i]]
        losses.append(logits.flatten().logsumexp(0) - math.log(logits.numel()) - own)
    loss = torch.stack(losses).mean()
    return loss.detach(), gradients(loss, net)


def expect_same(one: tuple[Tensor, list[Tensor]], other: tuple[Tensor, list[Tensor]]) -> None:
    torch.testing.assert_close(one[0], other[0], rtol=0, atol=1e-12)
    for ours, theirs in zip(one[1], other[1], strict=True):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12)


def lacking(names: tuple[str, ...]) -> dict[str, Tensor]:
    """Patterns of what samples have: all, one thing missing, and, at the end, nothing."""
    table = torch.tensor([[1, 1, 1], [0, 1, 1], [1, 0, 1], [1, 1, 0], [1, 1, 1], [0, 0, 0]]).bool()
    return {m: table[:, n] for n, m in enumerate(names)}


@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("some_lack", [False, True])
def test_of_terms_it_is_the_sum_over_all_combinations(count: int, some_lack: bool) -> None:
    net = of_terms(count)
    inputs, target = batch(NAMES[:count], 6, 3)
    present = lacking(NAMES[:count]) if some_lack else None
    expect_same(ours(net, inputs, target, present), by_hand(net, inputs, target, present))


@pytest.mark.parametrize("some_lack", [False, True])
@pytest.mark.parametrize("at_once", [4096, 13])
def test_of_pairs_it_is_too(some_lack: bool, at_once: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tcmax, "_PAIRS_AT_ONCE", at_once)
    net = network(TWO, late=False, layer="layer-norm")
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    inputs, target = batch(TWO, 6, 3)
    present = lacking(TWO) if some_lack else None
    expect_same(ours(net, inputs, target, present), by_hand(net, inputs, target, present))


def test_with_every_sample_whole_it_is_the_formula_of_the_paper() -> None:
    """And not merely the mean of what each sample is compared with."""
    net = of_terms(2)
    inputs, target = batch(TWO, 5, 3)
    a, v = (net.encode(m, inputs[m]) for m in TWO)
    every = torch.stack([net.head(torch.cat([x, y])) for x in a for y in v])
    own = net(inputs).gather(1, target[:, None])
    expected = every.flatten().logsumexp(0) - math.log(5 * 5 * 3) - own.mean()
    torch.testing.assert_close(ours(net, inputs, target)[0], expected.detach(), rtol=0, atol=1e-12)


def test_pairs_equal_terms_on_an_additive_network() -> None:
    net = of_terms(2)
    inputs, target = batch(TWO, 6, 3)
    expect_same(ours(net, inputs, target), ours(Undeclared(net), inputs, target))


@pytest.mark.parametrize("wrapped", [False, True])
def test_samples_without_a_target_are_left_out(wrapped: bool) -> None:
    net = of_terms(2)
    inputs, target = batch(TWO, 7, 3)
    target[[1, 4]] = -100
    rest = torch.tensor([0, 2, 3, 5, 6])
    found = ours(Undeclared(net) if wrapped else net, inputs, target)
    expect_same(found, ours(net, {m: x[rest] for m, x in inputs.items()}, target[rest]))
    loss, slopes = ours(net, inputs, torch.full_like(target, -100))
    assert loss == 0
    assert all(bool((slope == 0).all()) for slope in slopes)


def test_a_constant_added_to_a_modalitys_logits_changes_nothing() -> None:
    net = of_terms(2)
    inputs, target = batch(TWO, 6, 3)
    before = ours(net, inputs, target)[0]
    contribution = net.contribution
    shifted = copy.deepcopy(net)

    class Shifted(LateFusion):
        shift: Any = 7.5

        def contribution(self, modality: str, feature: Tensor) -> Tensor:
            return contribution(modality, feature) + self.shift * (modality == "audio")

        def forward(self, inputs: Any) -> Tensor:
            return super().forward(inputs) + self.shift

    shifted.__class__ = Shifted
    torch.testing.assert_close(ours(shifted, inputs, target)[0], before, rtol=0, atol=1e-12)
    one = torch.zeros(6, 1, dtype=torch.float64)
    one[2] = 7.5  # of a single sample
    Shifted.shift = one
    assert abs(float(ours(shifted, inputs, target)[0] - before)) > 0.1


@pytest.mark.parametrize("wrapped", [False, True])
def test_it_is_finite_at_large_logits(wrapped: bool) -> None:
    net = of_terms(2).float()
    with torch.no_grad():
        net.head.weight *= 1e5
    inputs, target = batch(TWO, 6, 3)
    inputs = {m: x.float() for m, x in inputs.items()}
    assert net(inputs).abs().max() > 1e4
    loss, slopes = ours(Undeclared(net) if wrapped else net, inputs, target)
    assert loss.isfinite()
    assert all(bool(slope.isfinite().all()) for slope in slopes)


class Segments(nn.Module):
    """Every segment of a sample has its own feature."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Linear(SIZES[m], 4) for m in TWO})
        self.heads = nn.ModuleDict({m: nn.Linear(4, 3) for m in TWO})

    def encode(self, modality: str, x: Tensor) -> Tensor:
        return self.encoders[modality](x)

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        return self.heads[modality](feature)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        return torch.stack([self.contribution(m, features[m]) for m in TWO])

    def head(self, joint: Tensor) -> Tensor:
        return joint.sum(0)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in TWO}))


def test_segments_with_features_are_samples() -> None:
    torch.manual_seed(0)
    net = Segments().double()
    inputs = {m: torch.randn(4, 5, SIZES[m], dtype=torch.float64) for m in TWO}
    target = torch.randint(3, (4, 5))
    target[1, 2] = -100
    flat = ours(net, {m: x.flatten(0, 1) for m, x in inputs.items()}, target.flatten())
    expect_same(ours(net, inputs, target), flat)

    class Pairs(Segments):
        contribution: Any = None

        def fuse(self, features: dict[str, Tensor]) -> Tensor:
            assert features["audio"].shape[1:] == (5, 4)
            return torch.stack([self.heads[m](features[m]) for m in TWO])

    undeclared = copy.deepcopy(net)
    undeclared.__class__ = Pairs
    expect_same(ours(undeclared, inputs, target), flat)
    one_feature = network(TWO, late=True, layer="plain", segments=5)
    inputs, target = batch(TWO, 4, 3, segments=5)
    with pytest.raises(ValueError, match=r"expected a feature \[4, 5, '...'\] for each row"):
        ours(one_feature, inputs, target)


def test_the_pairs_move_no_statistics_of_batch_norms() -> None:
    net = network(TWO, late=False, layer="batch-norm")
    plain = copy.deepcopy(net)
    inputs, target = batch(TWO, 6, 3)
    ours(net, inputs, target)
    plain.train()(inputs)
    for (name, one), other in zip(net.named_buffers(), plain.buffers(), strict=True):
        assert torch.equal(one, other), name
    assert all(module.training for module in net.modules())


@pytest.mark.parametrize("at_once", [4096, 13])
def test_pairs_in_parts_draw_the_same_dropout_again(
    at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The numerical derivative, at fixed random numbers, is the gradient."""
    monkeypatch.setattr(tcmax, "_PAIRS_AT_ONCE", at_once)
    net = network(TWO, late=False, layer="dropout")
    inputs, target = batch(TWO, 6, 3)
    bias: Any = net.out.weight

    def at(shift: float) -> tuple[Tensor, list[Tensor]]:
        with torch.no_grad():
            bias[1, 2] += shift
        torch.manual_seed(5)
        found = ours(net, inputs, target)
        with torch.no_grad():
            bias[1, 2] -= shift
        return found

    slope = (at(1e-6)[0] - at(-1e-6)[0]) / 2e-6
    number = [id(p) for p in net.parameters()].index(id(bias))
    torch.testing.assert_close(at(0.0)[1][number][1, 2], slope, rtol=1e-6, atol=1e-8)


def test_it_takes_the_place_of_the_tasks_loss() -> None:
    net = of_terms(2)
    plain = copy.deepcopy(net)
    model = ModulatedModel(net, TCMax(TWO))
    inputs, target = batch(TWO, 6, 3)
    expected, slopes = ours(plain, inputs, target)
    loss = model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 1.0))
    torch.testing.assert_close(loss, expected, rtol=0, atol=1e-12)
    for ours_, theirs, slope in zip(net.parameters(), plain.parameters(), slopes, strict=True):
        torch.testing.assert_close(ours_, theirs - slope, rtol=0, atol=1e-12)
    assert torch.equal(model.eval()(inputs), net(inputs))


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match=r"the task is Regression; expected Classification"):
        ModulatedModel(of_terms(2), TCMax(TWO), task=Regression())
    for settings in ({"class_axis": 1}, {"label_smoothing": 0.1}):
        with pytest.raises(ValueError, match="classes on the last axis and no label smoothing"):
            ModulatedModel(of_terms(2), TCMax(TWO), task=Classification(**settings))
    with pytest.raises(ValueError, match=r"32\^3 combinations.*Use late or sum fusion"):
        ModulatedModel(network(THREE, late=False, layer="plain"), TCMax(THREE))
    with pytest.raises(ValueError, match="does not say how it encodes"):
        ModulatedModel(nn.Linear(2, 2), TCMax(TWO))
    inputs, target = batch(TWO, 6, 3)
    with pytest.raises(ValueError, match="soft targets; expected class indices"):
        ours(of_terms(2), inputs, torch.full((6, 3), 1 / 3, dtype=torch.float64))

    class Wrong(LateFusion):
        def forward(self, inputs: Any) -> Tensor:
            return super().forward(inputs).tanh()

    net = of_terms(2)
    net.__class__ = Wrong
    with pytest.raises(ValueError, match=r"Wrong declares.*no more than rounding"):
        ours(net, inputs, target)


def in_parts(rank: int) -> dict[str, float]:
    """How far two processes with unequal parts of a batch are from one with all of it."""
    found = {}
    for kind in ("terms", "pairs"):
        if kind == "terms":
            net: nn.Module = of_terms(3)
        else:
            net = network(TWO, late=False, layer="layer-norm")
            for module in net.modules():
                if isinstance(module, nn.Dropout):
                    module.p = 0.0
        names = THREE if kind == "terms" else TWO
        one, both = (
            ModulatedModel(copy.deepcopy(net), TCMax(names, gathered=True)) for _ in range(2)
        )
        one.method.use_process_group(None)
        ddp = DistributedDataParallel(both)
        optimizers = [
            torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in (one, both)
        ]
        for seed in range(4):
            inputs, target = batch(names, 8, 3, seed=seed)
            target[1] = -100
            present = {"audio": torch.arange(8) % 3 > 0} if seed % 2 else None
            if seed == 3:  # one process has nobody with it
                present = {"visual": torch.arange(8) > 5}
            loss = one.training_step(inputs, target, optimizers[0], present=present)
            mine = slice(0, 5) if rank == 0 else slice(5, 8)
            own = both.training_step(
                {m: x[mine] for m, x in inputs.items()},
                target[mine],
                optimizers[1],
                present=None if present is None else {m: x[mine] for m, x in present.items()},
                through=ddp,
            )
            found[f"{kind} loss {seed}"] = abs(float(loss - own))
        for (name, p), q in zip(one.named_parameters(), both.parameters(), strict=True):
            found[f"{kind} {name}"] = float((p - q).detach().abs().max())
    return found


def test_gathered_two_processes_are_one_with_the_whole_batch() -> None:
    for found in on_processes(in_parts, 2):
        assert len(found) > 20
        assert all(distance < 1e-9 for distance in found.values()), found
