"""MCR's bottleneck: the divergence of Gaussians, whom it teaches, and parameters that are trained and saved."""

from __future__ import annotations

import copy
import math
from functools import partial
from typing import Any

import pytest
import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributions import Independent, Normal, kl_divergence
from torch.nn.parallel import DistributedDataParallel
from torch.nn.parameter import is_lazy

from gradmod import Classification, Joint, ModulatedModel
from gradmod.methods import MCR
from gradmod.methods.bottleneck import FeatureDecoder, bottleneck_loss
from gradmod.models import MLP, LateFusion
from gradmod.testing import check_method
from networks import NAMES, SIZES, batch, network
from processes import on_processes

TWO, THREE = NAMES[:2], NAMES[:3]
ALONE = partial(MCR, strength=0.0, weight=0.0)
"""MCR with its bottleneck alone."""


def unequal(names: tuple[str, ...] = THREE) -> Any:
    torch.manual_seed(0)
    encoders = {m: MLP(SIZES[m], hidden=(n + 4,)) for n, m in enumerate(names)}
    return LateFusion(encoders, 3).double()


def losses_of(model: ModulatedModel, inputs: Any, target: Tensor, *present: Any) -> Any:
    with model.in_training_step():
        return model(inputs, target, *present).losses


def gaussian(mean: Tensor) -> Independent:
    return Independent(Normal(mean, math.sqrt(0.5)), 1)


@pytest.mark.parametrize("some_lack", [False, True])
def test_it_is_the_divergence_of_two_gaussians(some_lack: bool) -> None:
    """By hand from torch's distributions, of features of unequal sizes; and whose gradient it is."""
    net = unequal()
    model = ModulatedModel(net, ALONE(THREE, bottleneck=0.7))
    inputs, target = batch(THREE, 6, 3)
    target[4] = -100
    has = {m: torch.ones(6).bool() for m in THREE}
    if some_lack:
        has["audio"] = torch.tensor([True, False, True, True, True, False])
    found = losses_of(model, inputs, target, *([has] if some_lack else []))
    assert list(found) == ["bottleneck"]

    decoder: Any = model.method.decoder
    assert decoder.hidden.shape == (6, 3)  # the largest feature, and the classes
    assert [decoder.weights[m].shape for m in THREE] == [(4, 6), (5, 6), (6, 6)]
    seen = {m: x * has[m][:, None] for m, x in inputs.items()}
    features = {m: net.encode(m, seen[m]) for m in THREE}
    hidden = (net(seen).detach() @ decoder.hidden.T).relu()
    divergences, numbers = [], 0
    for m in THREE:
        rows = has[m] & (target != -100)
        around_features, around_said = (
            gaussian(mean[rows]) for mean in (features[m], hidden @ decoder.weights[m].T)
        )
        divergences.append(kl_divergence(around_features, around_said).sum())
        numbers += int(rows.sum()) * features[m].shape[1]
    expected = 0.7 * torch.stack(divergences).sum() / numbers
    torch.testing.assert_close(found["bottleneck"], expected, rtol=0, atol=1e-12)

    named = dict(model.named_parameters())
    ours, theirs = (
        torch.autograd.grad(loss, list(named.values()), allow_unused=True)
        for loss in (found["bottleneck"], expected)
    )
    for name, one, other in zip(named, ours, theirs, strict=True):
        taught = "encoders" in name or "decoder" in name
        assert taught == (one is not None), name  # the head, and so the logits, get none
        if one is not None:
            torch.testing.assert_close(one, other, rtol=0, atol=1e-12)
            assert one.abs().max() > 0


def test_it_bounds_what_features_keep_beyond_the_prediction() -> None:
    """Two features, equal chance, known once the prediction is known, but for a bit: I(Z; X | Y) is at most log 2."""
    decoder = FeatureDecoder(("audio",))
    logits = torch.zeros(2, 3, dtype=torch.float64)
    for distance in (0.1, 1.0, 4.0):
        features = {"audio": torch.tensor([[-distance], [distance]], dtype=torch.float64)}
        decoder.take_sizes(features, logits)
        bound = bottleneck_loss(decoder, features, logits, torch.ones(1, 2)).detach()
        # The mixture of the two, in numbers.
        z = torch.linspace(-30, 30, 60001, dtype=torch.float64)
        each = Normal(features["audio"], math.sqrt(0.5)).log_prob(z)
        mixed = each.logsumexp(0) - math.log(2)
        information = (each.exp() * (each - mixed)).sum(1).mean() * (z[1] - z[0])
        assert float(information) <= math.log(2) + 1e-9
        assert float(information) <= float(bound)
        torch.testing.assert_close(float(bound), distance**2)


def test_segments_and_classes_on_another_axis() -> None:
    torch.manual_seed(0)

    class Segments(nn.Module):
        """Features [B, T, 6] and logits [B, T, K], or [B, K, T]."""

        def __init__(self, axis: int) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({m: nn.Linear(SIZES[m], 6) for m in TWO})
            self.out, self.axis = nn.Linear(6, 3), axis

        def encode(self, modality: str, x: Tensor) -> Tensor:
            return self.encoders[modality](x).tanh()

        def fuse(self, features: Any) -> Tensor:
            return features["audio"] + features["visual"]

        def head(self, joint: Tensor) -> Tensor:
            return self.out(joint).movedim(-1, self.axis)

        def forward(self, inputs: Any) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in TWO}))

    nets = Segments(-1).double(), Segments(1).double()
    nets[1].load_state_dict(nets[0].state_dict())
    inputs = {m: torch.randn(5, 4, SIZES[m], dtype=torch.float64) for m in TWO}
    target = torch.randint(3, (5, 4))
    target[2, 3] = -100
    found = []
    for net, axis in zip(nets, (None, 1), strict=True):
        method = ALONE(TWO, bottleneck=1.0)
        model = ModulatedModel(net, method, task=Classification(class_axis=axis))
        model.give_heads_their_sizes(inputs)
        if found:
            method.load_state_dict(found[0][1])
        found.append((losses_of(model, inputs, target)["bottleneck"], method.state_dict()))
    torch.testing.assert_close(found[0][0], found[1][0], rtol=0, atol=1e-12)
    decoder: Any = method.decoder
    rows = (target != -100).unsqueeze(-1)
    said = decoder(nets[0](inputs))
    squares = [((nets[0].encode(m, inputs[m]) - said[m]) ** 2 * rows).sum() for m in TWO]
    expected = torch.stack(squares).sum() / (19 * 12)
    torch.testing.assert_close(found[1][0], expected, rtol=0, atol=1e-12)


def test_without_it_there_is_nothing_of_it() -> None:
    assert MCR(TWO).decoder is None
    assert not list(MCR(TWO).parameters())
    assert list(MCR(TWO).state_dict()) == ["_extra_state"]


@pytest.mark.parametrize("layer", ["dropout", "batch-norm"])
def test_the_head_is_trained_as_jointly_to_the_last_bit(layer: str) -> None:
    """In the first step, in which the encoders are the same too; and no random number is drawn by it."""
    methods = (ALONE(TWO, bottleneck=2.0), Joint(TWO))
    ours, joint = (ModulatedModel(network(TWO, late=False, layer=layer), m) for m in methods)
    inputs, target = batch(TWO, 6, 3)
    ours.give_heads_their_sizes(inputs)
    for model in (ours, joint):
        torch.manual_seed(0)
        model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 0.1))
        model.draw = torch.rand(1)
    assert torch.equal(ours.draw, joint.draw)
    pairs = zip(ours.model.named_parameters(), joint.model.parameters(), strict=True)
    different = {name for (name, one), other in pairs if not torch.equal(one, other)}
    assert different >= {f"encoders.{m}.0.weight" for m in TWO}
    assert all("encoders" in name for name in different), different
    for one, other in zip(ours.model.buffers(), joint.model.buffers(), strict=True):
        assert torch.equal(one, other)


def test_the_optimizer_trains_it_and_the_state_holds_it() -> None:
    """An optimizer that was made before the sizes were known; a state loaded into a model that has not seen a batch."""
    made = [ModulatedModel(unequal(), MCR(THREE, bottleneck=1.0, permutations=2)) for _ in range(2)]
    optimizers = [torch.optim.SGD(model.parameters(), 0.1, momentum=0.9) for model in made]
    (whole, resumed), (first, second) = made, optimizers
    assert all(is_lazy(p) for p in whole.method.parameters())
    assert "(visual): no size yet" in repr(whole)
    whole.training_step(*batch(THREE, 6, 3), first)
    assert "(visual): [5, 6]" in repr(whole)
    before = {name: p.detach().clone() for name, p in whole.method.named_parameters()}
    assert set(before) == {"decoder.hidden", *(f"decoder.weights.{m}" for m in THREE)}
    resumed.load_state_dict(whole.state_dict())
    second.load_state_dict(copy.deepcopy(first.state_dict()))
    for model, optimizer in zip(made, optimizers, strict=True):
        for seed in (1, 2):
            model.training_step(*batch(THREE, 6, 3, seed=seed), optimizer)
    for name, parameter in whole.method.named_parameters():
        assert not torch.equal(parameter, before[name]), name
    for one, other in zip(whole.state_dict().items(), resumed.state_dict().items(), strict=True):
        assert one[0] == other[0]
        assert torch.equal(one[1], other[1]), one[0]


def test_its_sizes_can_be_given_before_and_disturb_nothing() -> None:
    net = network(TWO, late=False, layer="batch-norm")
    model = ModulatedModel(net, MCR(TWO, bottleneck=1.0))
    assert not model.has_sizes
    before, random = copy.deepcopy(net.state_dict()), torch.get_rng_state()
    model.give_heads_their_sizes(batch(TWO, 6, 3)[0])
    assert model.has_sizes
    assert torch.equal(random, torch.get_rng_state())
    assert all(torch.equal(value, before[name]) for name, value in net.state_dict().items())
    assert all(module.training for module in model.modules())
    turned = ModulatedModel(copy.deepcopy(net), MCR(TWO[::-1], bottleneck=1.0))
    turned.give_heads_their_sizes(batch(TWO, 6, 3)[0])
    for name, parameter in model.method.named_parameters():
        assert torch.equal(parameter, turned.method.get_parameter(name)), name


@pytest.mark.parametrize("counts", [(2,), pytest.param((3, 6), marks=pytest.mark.slow)])
def test_it_is_a_method_as_every_other(counts: tuple[int, ...]) -> None:
    checked = check_method(partial(MCR, bottleneck=1.0, permutations=2), counts=counts)
    assert f"{counts[-1]} modalities, late fusion: resumes exactly" in checked
    checked = check_method(partial(ALONE, bottleneck=1.0), counts=counts)
    assert f"{counts[-1]} modalities, late fusion: is not joint training" in checked


def test_it_is_finite_where_a_class_is_ruled_out_and_where_nothing_counts() -> None:
    net = unequal(TWO)
    with torch.no_grad():
        net.head.bias[2] = -math.inf
    model = ModulatedModel(net, ALONE(TWO, bottleneck=1.0))
    inputs, target = batch(TWO, 6, 2)
    found = losses_of(model, inputs, target)["bottleneck"]
    found.backward()
    assert bool(found.isfinite())
    decoder: Any = model.method.decoder
    for parameter in (*net.encoders.parameters(), *decoder.parameters()):
        assert bool(parameter.grad.isfinite().all())
    model.zero_grad()
    nothing = losses_of(model, inputs, torch.full_like(target, -100))["bottleneck"]
    nothing.backward()
    assert float(nothing.detach()) == 0
    for parameter in (*net.encoders.parameters(), *decoder.parameters()):
        assert float(parameter.grad.abs().max()) == 0  # which DDP waits for


def test_what_is_refused() -> None:
    with pytest.raises(ValueError, match="bottleneck is -1"):
        MCR(TWO, bottleneck=-1.0)
    with pytest.raises(ValueError, match="bottleneck is nan"):
        MCR(TWO, bottleneck=math.nan)
    segments = network(TWO, late=True, layer="plain", segments=5)  # whose features have none
    model = ModulatedModel(segments, MCR(TWO, bottleneck=1.0))
    with pytest.raises(ValueError, match=r"that of 'audio' is \[6, 6\]; expected \[6, 5, 'F'\]"):
        model.give_heads_their_sizes(batch(TWO, 6, 3, segments=5)[0])
    decoder = FeatureDecoder(("audio",))
    decoder.take_sizes({"audio": torch.zeros(2, 4)}, torch.zeros(2, 3))
    with pytest.raises(ValueError, match="'audio' has 5 numbers, and the bottleneck's decoder"):
        bottleneck_loss(decoder, {"audio": torch.zeros(2, 5)}, torch.zeros(2, 3), torch.ones(1, 2))
    with pytest.raises(ValueError, match="that of 'audio' is tuple"):
        decoder.take_sizes({"audio": (torch.zeros(2, 4),)}, torch.zeros(2, 3))


def halves(rank: int) -> float:
    """How far DDP's step is from the mean of those of its processes."""
    models = [
        ModulatedModel(unequal(), MCR(THREE, bottleneck=2.0, permutations=2)) for _ in range(2)
    ]
    inputs, target = batch(THREE, 10, 3)
    mine = {m: x.chunk(2)[rank] for m, x in inputs.items()}
    own = target.chunk(2)[rank]
    for model in models:
        torch.manual_seed(1)
        model.give_heads_their_sizes(inputs)
    ours, alone = models
    for model, through in ((ours, DistributedDataParallel(ours)), (alone, None)):
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        model.training_step(mine, own, optimizer, through=through)
    distances = []
    for p, q in zip(ours.parameters(), alone.parameters(), strict=True):
        mean = q.detach().clone()
        dist.all_reduce(mean)
        distances.append(float((p.detach() - mean / 2).abs().max()))
    return max(distances)


def test_processes_average_its_gradients() -> None:
    assert max(on_processes(halves, 2)) < 1e-12
