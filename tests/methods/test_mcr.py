"""MCR: the game by hand, whose gradient reaches whom, and permutations that are its own."""

from __future__ import annotations

import copy
import itertools
import math
from typing import Any

import pytest
import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from counts import Operators
from gradmod import Classification, Joint, ModulatedModel, Regression, UniModalLosses
from gradmod.methods import MCR, permutation_game
from gradmod.methods.contrastive import contrastive_loss
from gradmod.methods.permutation_game import jensen_shannon
from gradmod.models import MLP, LateFusion, SumFusion
from networks import NAMES, SIZES, batch, network
from processes import on_processes

TWO, THREE = NAMES[:2], NAMES[:3]


def plain(names: tuple[str, ...] = TWO, layer: str = "layer-norm") -> Any:
    """A network with an early fusion that computes the same in both modes."""
    net = network(names, late=False, layer=layer)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    return net


def losses_of(model: ModulatedModel, inputs: Any, target: Tensor, *present: Any) -> Any:
    with model.in_training_step():
        return model(inputs, target, *present).losses


def divergence(one: Tensor, other: Tensor) -> Tensor:
    """By the definition: half the sum of the divergences from the mean."""
    p, q = one.softmax(-1), other.softmax(-1)
    mean = (p + q) / 2
    return 0.5 * ((p * (p / mean).log()).sum(-1) + (q * (q / mean).log()).sum(-1))


def mipd(net: Any, features: dict[str, Tensor], moved: str, orders: Tensor, rows: Any) -> Tensor:
    """Of one modality, one permutation after the other."""
    joint = net.head(net.fuse(features))
    found = []
    for order in orders:
        other = net.head(net.fuse({**features, moved: features[moved][order]}))
        found.append(divergence(joint, other)[rows].mean())
    return torch.stack(found).mean()


@pytest.mark.parametrize("names", [TWO, THREE])
@pytest.mark.parametrize("at_once", [8192, 20])
@pytest.mark.parametrize("some_lack", [False, True])
def test_every_encoder_gets_the_gradient_of_its_own_game_alone(
    names: tuple[str, ...], at_once: int, some_lack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(permutation_game, "_ROWS_AT_ONCE", at_once)
    net = plain(names)
    method = MCR(names, strength=0.7, weight=0.0, permutations=5, seed=3)
    inputs, target = batch(names, 6, 3)
    target[4] = -100
    has = {m: torch.ones(6).bool() for m in names}
    if some_lack:
        has["audio"] = torch.tensor([True, False, True, True, True, False])
    table = torch.stack(list(has.values()), 1)
    orders = copy.deepcopy(method)._draw(6, table if some_lack else None)
    model = ModulatedModel(net, method)
    game = losses_of(model, inputs, target, *([has] if some_lack else []))["game"]
    found = torch.autograd.grad(game, list(net.parameters()), allow_unused=True)
    ours = dict(zip([name for name, _ in net.named_parameters()], found, strict=True))
    seen = {m: x * has[m][:, None] for m, x in inputs.items()}
    rows = {m: has[m] & (target != -100) for m in names}
    total = torch.zeros(())
    for m in names:
        features = {n: net.encode(n, seen[n]) for n in names}
        features = {n: f if n == m else f.detach() for n, f in features.items()}
        dependence = {
            n: mipd(net, features, n, orders[names.index(n)], rows[n].nonzero().squeeze(1))
            for n in names
        }
        objective = sum((-1 if n == m else 1) * value for n, value in dependence.items())
        total = total + objective.detach()
        slopes = torch.autograd.grad(0.7 * objective, list(net.encoders[m].parameters()))
        for (name, _), slope in zip(net.encoders[m].named_parameters(), slopes, strict=True):
            torch.testing.assert_close(ours[f"encoders.{m}.{name}"], slope, rtol=0, atol=1e-12)
            assert slope.abs().max() > 0
    for name, slope in ours.items():
        assert ("encoders" in name) == (slope is not None), name  # no gradient of fusion and head
    torch.testing.assert_close(game.detach(), 0.7 * total, rtol=0, atol=1e-12)
    assert method.last_step is not None
    assert method.last_step.ratios is not None
    expected = torch.stack([dependence[m].detach() for m in names])
    torch.testing.assert_close(method.last_step.ratios, expected, rtol=0, atol=1e-12)


@pytest.mark.parametrize("fusion", [LateFusion, SumFusion])
@pytest.mark.parametrize("some_lack", [False, True])
def test_permuted_terms_are_permuted_features(
    fusion: Any, some_lack: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs, target = batch(THREE, 7, 3)
    has = [{m: torch.arange(7) % (n + 2) > 0 for n, m in enumerate(THREE)}] if some_lack else []
    found = []
    for has_terms in (True, False):
        torch.manual_seed(0)
        net = fusion({m: MLP(SIZES[m], hidden=(5,)) for m in THREE}, 3).double()
        monkeypatch.setattr("gradmod.methods.mcr.declares_terms", lambda *_, said=has_terms: said)
        model = ModulatedModel(net, MCR(THREE, weight=0.0, permutations=4, seed=3))
        game = losses_of(model, inputs, target, *has)["game"]
        found.append((game, torch.autograd.grad(game, list(net.encoders.parameters()))))
    torch.testing.assert_close(*found, rtol=0, atol=1e-12)
    assert all(slope.abs().max() > 0 for slope in found[0][1])


def test_a_linear_head_sees_no_permutations() -> None:
    """The products of a step are as many, of as many rows, for 2 and for 32 permutations."""
    inputs, target = batch(TWO, 8, 3)
    found = []
    for permutations in (2, 32):
        net = LateFusion({m: MLP(SIZES[m], hidden=(5,)) for m in TWO}, 3).double()
        model = ModulatedModel(net, MCR(TWO, weight=0.0, permutations=permutations))
        losses_of(model, inputs, target)  # the first step checks the terms
        with Operators() as counted:
            losses_of(model, inputs, target)
        found.append([(counted.calls[name], counted.rows[name]) for name in ("addmm", "mm")])
    assert found[0] == found[1]
    assert found[0][0][0] > 0


def test_terms_that_are_wrong_are_refused() -> None:
    class Wrong(LateFusion):
        def contribution(self, modality: str, feature: Tensor) -> Tensor:
            """Half of it."""
            return super().contribution(modality, feature) / 2

    net = Wrong({m: MLP(SIZES[m], hidden=(5,)) for m in TWO}, 3).double()
    with pytest.raises(ValueError, match=r"the term of 'audio' that Wrong declares"):
        losses_of(ModulatedModel(net, MCR(TWO)), *batch(TWO, 8, 3))


def test_permutations_of_three_samples_by_hand() -> None:
    """Logits that are the two features' sum, one number a class: every divergence can be written down."""

    class Sum(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({m: nn.Linear(3, 3) for m in TWO})
            for layer in self.encoders.values():
                nn.init.eye_(layer.weight)
                nn.init.zeros_(layer.bias)

        def encode(self, modality: str, x: Tensor) -> Tensor:
            return self.encoders[modality](x)

        def fuse(self, features: dict[str, Tensor]) -> Tensor:
            return features["audio"] + features["visual"]

        def head(self, joint: Tensor) -> Tensor:
            return joint

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in TWO}))

    certain = 60.0  # the audio says which class, and nothing else does
    inputs = {"audio": certain * torch.eye(3), "visual": torch.zeros(3, 3)}
    method = MCR(TWO, weight=0.0, permutations=200, seed=1)
    orders = copy.deepcopy(method)._draw(3, None)
    assert {tuple(order.tolist()) for order in orders[0]} == set(itertools.permutations(range(3)))
    losses_of(ModulatedModel(Sum(), method), inputs, torch.arange(3))
    moved = (orders[0] != torch.arange(3)).double().mean()  # whose class is then another one
    assert method.last_step is not None
    assert method.last_step.ratios is not None
    expected = torch.stack([moved * math.log(2), torch.zeros(()).double()])
    torch.testing.assert_close(method.last_step.ratios.double(), expected, rtol=0, atol=1e-6)


def test_a_modality_that_the_head_ignores_has_no_share() -> None:
    """Also where the network has dropout, and batch norm in its fusion."""
    for layer in ("dropout", "batch-norm"):
        net = network(TWO, late=False, layer=layer)
        with torch.no_grad():
            net.fusion[0].weight[:, 6:] = 0  # type: ignore[index]
        model = ModulatedModel(net, MCR(TWO))
        inputs, target = batch(TWO, 7, 3)
        losses_of(model, inputs, target)
        method: Any = model.method
        assert method.last_step.ratios[1] == 0
        assert method.last_step.ratios[0] > 1e-5


def test_the_loss_is_all_of_its_terms() -> None:
    for net in (plain(), SumFusion({m: MLP(SIZES[m], hidden=(6,)) for m in TWO}, 3).double()):
        game, heads, both = (copy.deepcopy(net) for _ in range(3))
        inputs, target = batch(TWO, 7, 3)
        weight = {"audio": 0.5, "visual": 2.0}
        models = [
            ModulatedModel(game, MCR(TWO, strength=3.0, weight=0.0)),
            ModulatedModel(heads, UniModalLosses(TWO, weight=weight)),
            ModulatedModel(both, MCR(TWO, strength=3.0, weight=weight)),
        ]
        for model in models:
            torch.manual_seed(1)
            model.give_heads_their_sizes(inputs)
        slopes = []
        for model in models:
            model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 1.0))
            slopes.append([p.detach() - q.detach() for p, q in
                           zip(model.model.parameters(), net.parameters(), strict=True)])  # fmt: skip
        joint = copy.deepcopy(net)
        F.cross_entropy(joint(inputs), target).backward()
        for one, two, all_, p in zip(*slopes, joint.parameters(), strict=True):
            torch.testing.assert_close(one + two, all_ - p.grad, rtol=0, atol=1e-12)


@pytest.mark.parametrize("layer", ["dropout", "batch-norm"])
def test_without_game_and_own_losses_it_is_joint_training_to_the_last_bit(layer: str) -> None:
    methods = (MCR(TWO, strength=0.0, weight=0.0), Joint(TWO))
    ours, joint = (ModulatedModel(network(TWO, late=False, layer=layer), m) for m in methods)
    for model in (ours, joint):
        torch.manual_seed(0)
        optimizer = torch.optim.SGD(model.parameters(), 0.1)
        for seed in range(3):
            model.training_step(*batch(TWO, 6, 3, seed=seed), optimizer)
    for one, other in zip(ours.state_dict().items(), joint.state_dict().items(), strict=True):
        assert one[0] == other[0]
        if "method" not in one[0]:
            assert torch.equal(one[1], other[1])


def test_the_game_leaves_the_network_and_the_random_numbers_as_the_full_pass_does() -> None:
    net = network(TWO, late=False, layer="batch-norm")
    other = copy.deepcopy(net)
    inputs, target = batch(TWO, 6, 3)
    torch.manual_seed(4)
    model = ModulatedModel(net, MCR(TWO, weight=0.0))
    losses_of(model, inputs, target)
    state = torch.get_rng_state()
    torch.manual_seed(4)
    other.train()(inputs)
    assert torch.equal(state, torch.get_rng_state())
    for (name, one), two in zip(net.named_buffers(), other.buffers(), strict=True):
        assert torch.equal(one, two), name
    assert all(module.training for module in net.modules())
    assert all(p.grad is None for p in net.parameters())


def test_the_permutations_are_its_own_and_go_on_where_they_were() -> None:
    method = MCR(TWO, permutations=4, seed=3)
    state = torch.get_rng_state()
    first, second = method._draw(9, None), method._draw(9, None)
    assert torch.equal(state, torch.get_rng_state())
    assert not torch.equal(first, second)
    assert torch.equal(first.sort(-1).values, torch.arange(9).expand(2, 4, 9))
    resumed = MCR(TWO, permutations=4, seed=3)
    resumed._draw(9, None)
    again = MCR(TWO, permutations=4, seed=3)
    again.load_state_dict(resumed.state_dict())
    assert torch.equal(again._draw(9, None), second)
    swapped = MCR(TWO[::-1], permutations=4, seed=3)._draw(9, None)
    assert torch.equal(swapped.flip(0), first)
    assert not torch.equal(MCR(TWO, permutations=4, seed=4)._draw(9, None), first)


def test_segments_and_classes_on_another_axis() -> None:
    net = network(TWO, late=True, layer="plain", segments=5)
    inputs, target = batch(TWO, 6, 3, segments=5)
    last = MCR(TWO, weight=0.0)
    losses_of(ModulatedModel(net, last), inputs, target)

    class Turned(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net, self.encoders = net, net.encoders
            self.fuse = net.fuse

        def encode(self, modality: str, x: Tensor) -> Tensor:
            return self.net.encode(modality, x)

        def head(self, joint: Tensor) -> Tensor:
            return self.net.head(joint).movedim(-1, 1)

        def forward(self, inputs: Any) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in TWO}))

    first = MCR(TWO, weight=0.0)
    losses_of(ModulatedModel(Turned(), first, task=Classification(class_axis=1)), inputs, target)
    found = []
    for method in (last, first):
        assert method.last_step is not None
        assert method.last_step.ratios is not None
        assert bool((method.last_step.ratios > 0).all())
        found.append(method.last_step.ratios)
    torch.testing.assert_close(found[0], found[1], rtol=0, atol=1e-12)


def test_the_divergence_is_finite_where_predictions_are_certain() -> None:
    logits = torch.tensor([[1e4, 0.0, -1e4], [0.0, 1e4, -1e4]]).log_softmax(-1)
    assert float(jensen_shannon(logits[0], logits[1])) == pytest.approx(math.log(2))
    net = LateFusion({m: MLP(SIZES[m], hidden=(6,)) for m in TWO}, 3)
    with torch.no_grad():
        net.head.weight *= 1e6
        net.head.bias[2] = -math.inf
    inputs, target = batch(TWO, 6, 2)
    model = ModulatedModel(net, MCR(TWO, weight=0.0))
    game = losses_of(model, {m: x.float() for m, x in inputs.items()}, target)["game"]
    game.backward()
    for m in TWO:
        assert all(bool(p.grad.isfinite().all()) for p in net.encoders[m].parameters())


def test_the_contrastive_term_by_hand() -> None:
    inputs, target = batch(TWO, 6, 3)
    target[2] = -100
    has = {"visual": torch.tensor([True, False, True, True, True, True])}
    net = plain()
    model = ModulatedModel(net, MCR(TWO, strength=0.0, weight=0.0, contrastive=2.0))
    found = losses_of(model, inputs, target, has)
    rows = [
        (F.normalize(net.encode(m, inputs[m])[i], dim=0), int(target[i]))
        for m in TWO
        for i in range(6)
        if i != 2 and (m, i) != ("visual", 1)
    ]
    terms = []
    for a, (x, kind) in enumerate(rows):
        against = sum((2 * x @ y).exp() for y, other in rows if other != kind)
        for p, (y, other) in enumerate(rows):
            if other == kind and p != a:
                own = (2 * x @ y).exp()
                terms.append(-(own / (own + against)).log())
    expected = 2.0 * torch.stack(terms).mean()
    torch.testing.assert_close(found["contrastive"], expected, rtol=0, atol=1e-12)
    assert list(found) == ["contrastive"]
    found["contrastive"].backward()
    assert all(bool(p.grad.abs().max() > 0) for p in net.encoders["audio"].parameters())
    alone = contrastive_loss(torch.randn(3, 4).requires_grad_(), torch.tensor([0, -1, 0]))
    alone.backward()
    assert float(alone.detach()) == 0  # one class alone has nothing to be told from


def test_what_is_refused() -> None:
    sizes = LateFusion({m: MLP(SIZES[m], hidden=(n + 4,)) for n, m in enumerate(TWO)}, 3).double()
    unequal = ModulatedModel(sizes, MCR(TWO, contrastive=1.0))
    with pytest.raises(ValueError, match=r"that of 'visual' is \[6, 5\]; expected \[B, F\]"):
        losses_of(unequal, *batch(TWO, 6, 3))
    segments = network(TWO, late=True, layer="plain", segments=5)
    with pytest.raises(ValueError, match=r"targets have the shape \[6, 5\]"):
        losses_of(
            ModulatedModel(segments, MCR(TWO, contrastive=1.0)), *batch(TWO, 6, 3, segments=5)
        )
    with pytest.raises(ValueError, match="contrastive is -1"):
        MCR(TWO, contrastive=-1.0)
    with pytest.raises(ValueError, match="'audio' alone; expected two or more"):
        MCR(("audio",))
    with pytest.raises(ValueError, match="strength is -1"):
        MCR(TWO, strength=-1.0)
    with pytest.raises(ValueError, match="permutations is 0"):
        MCR(TWO, permutations=0)
    with pytest.raises(ValueError, match="'smell'"):
        MCR(TWO, weight={"smell": 1.0})
    with pytest.raises(ValueError, match="the task is Regression; expected Classification"):
        ModulatedModel(plain(), MCR(TWO), task=Regression())
    with pytest.raises(ValueError, match="does not say how it encodes"):
        ModulatedModel(nn.Linear(2, 2), MCR(TWO))
    model = ModulatedModel(plain(), MCR(TWO))
    with pytest.raises(RuntimeError, match=r"MCR has losses.*model\.training_step"):
        model(*batch(TWO, 6, 3))


def halves(rank: int) -> tuple[float, bool]:
    """How far DDP's gradient is from the mean of those of its processes; whether their permutations are the same."""
    net = plain()
    ours, alone = (ModulatedModel(copy.deepcopy(net), MCR(TWO, strength=2.0)) for _ in range(2))
    inputs, target = batch(TWO, 10, 3)
    mine = {m: x.chunk(2)[rank] for m, x in inputs.items()}
    own = target.chunk(2)[rank]
    for model in (ours, alone):
        torch.manual_seed(1)
        model.give_heads_their_sizes(inputs)
    orders = copy.deepcopy(ours.method)._draw(5, None)  # type: ignore[operator]
    others = [torch.empty_like(orders) for _ in range(2)]
    dist.all_gather(others, orders)
    ddp = DistributedDataParallel(ours)
    for model, through in ((ours, ddp), (alone, None)):
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        model.training_step(mine, own, optimizer, through=through)
    distances = []
    for p, q in zip(ours.parameters(), alone.parameters(), strict=True):
        mean = q.detach().clone()
        dist.all_reduce(mean)
        distances.append(float((p.detach() - mean / 2).abs().max()))
    return max(distances), torch.equal(*others)


def test_processes_permute_by_themselves_and_average_their_gradients() -> None:
    for distance, is_same in on_processes(halves, 2):
        assert distance < 1e-12
        assert not is_same
