"""MLA: turns by hand, the projection by hand, and a prediction that is the sample's own."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import gradmod
from gradmod import ModulatedModel, Regression
from gradmod.experiments.training.loop import head_weight
from gradmod.methods import MLA
from gradmod.methods.shared_head import SharedHeadFusion
from gradmod.models import MLP, LateFusion
from networks import NAMES, batch, network

TWO, THREE = NAMES[:2], NAMES[:3]


def made(modalities: tuple[str, ...] = TWO, **settings: Any) -> tuple[ModulatedModel, Any]:
    """A model whose head has its sizes, and its network."""
    torch.manual_seed(3)
    model = ModulatedModel(
        network(modalities, late=True, layer="layer-norm"), MLA(modalities, **settings)
    )
    torch.manual_seed(4)
    model.give_heads_their_sizes(batch(modalities, 3, 3)[0])
    return model, model.model


def sgd(model: nn.Module) -> torch.optim.SGD:
    return torch.optim.SGD(model.parameters(), 0.1, momentum=0.9, weight_decay=0.01)


def by_hand(net: Any, batches: list[Any], steps: int, projection: bool) -> None:
    """The same training, slowly and plainly: an optimizer for each modality's encoder, and one for the head."""
    optimizers = {
        m: torch.optim.SGD(net.encoders[m].parameters(), 0.1, momentum=0.9, weight_decay=0.01)
        for m in net.modalities
    }
    head = torch.optim.SGD([net.weight, net.bias], 0.1, momentum=0.9, weight_decay=0.01)
    p = torch.eye(net.weight.shape[1], dtype=torch.float64)
    for number, (inputs, target) in enumerate(batches):
        for m in net.modalities:
            feature = net.encoders[m](inputs[m])
            loss = F.cross_entropy(F.linear(feature, net.weight, net.bias), target)
            optimizers[m].zero_grad()
            head.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            if projection:
                r = feature.detach().mean(0)[:, None]
                k = p @ r
                p = p - k @ k.T / (0.1 ** (1 + number % steps / steps) + r.T @ k)
                p = p / p.square().sum().sqrt()
                net.weight.grad = net.weight.grad @ p.T
            optimizers[m].step()
            head.step()


@pytest.mark.parametrize("modalities", [NAMES[:1], TWO, THREE, NAMES])
@pytest.mark.parametrize("projection", [False, True])
def test_it_is_turns_written_out_by_hand(modalities: tuple[str, ...], projection: bool) -> None:
    model, net = made(modalities, projection=projection)
    plain = copy.deepcopy(net)
    batches = [batch(modalities, 7, 3, seed=seed) for seed in range(6)]
    optimizer = sgd(model)
    for number, (inputs, target) in enumerate(batches):
        if number % 3 == 0:
            model.before_epoch(1 + number // 3, train=batches[:3])
        model.training_step(inputs, target, optimizer)
    by_hand(plain, batches, 3, projection)
    for (name, ours), theirs in zip(net.named_parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-9, atol=1e-12, msg=name)
    assert not torch.equal(net.weight, made(modalities)[1].weight)


def test_nothing_moves_but_what_has_its_turn() -> None:
    """Whatever gradients lie about: the network's own fusion and head stay, and have no momentum."""
    model, net = made()
    optimizer = sgd(model)
    unused = list(net.network.out.parameters())
    before = [p.detach().clone() for p in unused]
    for p in unused:
        p.grad = torch.ones_like(p)
    model.training_step(*batch(TWO, 7, 3), optimizer)
    assert all(map(torch.equal, before, unused))
    assert not any(p in optimizer.state for p in unused)


def test_the_loss_is_that_of_all_turns_and_the_record_has_each_modality() -> None:
    model, net = made()
    inputs, target = batch(TWO, 7, 3)
    first = F.cross_entropy(net.alone("audio", net.encode("audio", inputs["audio"])), target)
    loss = model.training_step(inputs, target, torch.optim.SGD(model.parameters(), 0.0))
    second = F.cross_entropy(net.alone("visual", net.encode("visual", inputs["visual"])), target)
    torch.testing.assert_close(loss, (first + second).detach())
    assert model.last_step is not None
    assert model.last_step.scores is not None
    torch.testing.assert_close(model.last_step.scores, torch.stack([first, second]).detach())


def test_the_projection_goes_on_in_the_middle_of_an_epoch() -> None:
    batches = [batch(TWO, 7, 3, seed=seed) for seed in range(4)]
    (whole, net), (resumed, again) = made(projection=True), made(projection=True)
    optimizers = sgd(whole), sgd(resumed)
    whole.before_epoch(1, train=batches)
    for given in batches[:2]:
        whole.training_step(*given, optimizers[0])
    resumed.load_state_dict(copy.deepcopy(whole.state_dict()))
    optimizers[1].load_state_dict(copy.deepcopy(optimizers[0].state_dict()))
    resumed.before_epoch(1, train=batches)  # told again, and not begun again
    for model, optimizer in zip((whole, resumed), optimizers, strict=True):
        for given in batches[2:]:
            model.training_step(*given, optimizer)
    assert all(map(torch.equal, net.parameters(), again.parameters()))


def test_the_projection_takes_out_directions_that_were_seen() -> None:
    model, net = made(projection=True)
    constant = {m: torch.ones_like(x) for m, x in batch(TWO, 8, 3)[0].items()}
    target = torch.tensor([0, 1, 2, 0, 1, 2, 0, 1])
    model.before_epoch(1, train=[None])
    optimizer = torch.optim.SGD(model.parameters(), 0.0)
    model.training_step(constant, target, optimizer)
    p = model.method.store["projection"] / model.method.store["projection"].diag().max()
    seen = net.rows("visual", net.encode("visual", constant["visual"]))[0].detach().double()
    assert float((p @ seen).norm() / seen.norm()) < 0.1
    unseen = torch.linalg.svd(torch.stack([seen, p @ seen]))[2][-1]
    assert float((p @ unseen).norm()) > 0.2


def test_a_prediction_is_the_samples_own() -> None:
    model, _ = made()
    inputs, target = batch(TWO, 9, 3)
    model.training_step(inputs, target, sgd(model))
    model.eval()
    together = model(inputs)
    for row in range(9):
        single = model({m: x[row : row + 1] for m, x in inputs.items()})
        torch.testing.assert_close(single, together[row : row + 1], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("weighting", ["entropy", "mean"])
def test_the_weighting_by_hand(weighting: str) -> None:
    model, net = made(THREE, weighting=weighting)
    inputs, _ = batch(THREE, 5, 3)
    said = torch.stack([net.alone(m, net.encoders[m](inputs[m])) for m in THREE])
    probabilities = said.softmax(-1)
    entropies = -(probabilities * probabilities.log()).sum(-1)
    weights = (-entropies).exp() / (-entropies).exp().sum(0)
    if weighting == "mean":
        weights = torch.full_like(weights, 1 / 3)
    torch.testing.assert_close(model.eval()(inputs), (weights[..., None] * said).sum(0))
    torch.testing.assert_close(model.own_predictions(inputs), said)


def test_what_is_diagnosed_is_what_predicts() -> None:
    """The network's own head was never trained: whoever asks it in place of the shared one gets another accuracy."""
    model, _ = made()
    optimizer = sgd(model)
    for seed in range(60):
        model.training_step(*easy(seed), optimizer)
    inputs, target = easy(100, size=200)
    accuracy = float((model.eval()(inputs).argmax(-1) == target).double().mean())
    assert accuracy > 0.9
    found = gradmod.diagnose(model, [(inputs, target)]).attribution
    assert found.whole == pytest.approx(accuracy)


def easy(seed: int, size: int = 32) -> tuple[dict[str, Tensor], Tensor]:
    inputs, target = batch(TWO, size, 3, seed=seed)
    return {m: x + 3 * F.one_hot(target, x.shape[1]) for m, x in inputs.items()}, target


def test_features_of_unequal_sizes_share_the_head_all_the_same() -> None:
    torch.manual_seed(0)
    net = LateFusion({"audio": MLP(5, hidden=(7,)), "visual": MLP(4, hidden=(3,))}, classes=3)
    model = ModulatedModel(net, MLA(TWO))
    optimizer = sgd(model)  # before the sizes are known
    inputs, target = batch(TWO, 6, 3)
    inputs = {m: x.float() for m, x in inputs.items()}
    model.training_step(inputs, target, optimizer)
    shared: Any = model.model
    assert shared.weight.shape == (3, 7)
    small = net.encoders["visual"](inputs["visual"])
    expected = F.linear(small, shared.weight[:, :3], shared.bias)
    torch.testing.assert_close(shared.alone("visual", small), expected)
    again = ModulatedModel(copy.deepcopy(net), MLA(TWO))
    again.load_state_dict(model.state_dict())
    assert torch.equal(again.eval()(inputs), model.eval()(inputs))


def test_segments_have_logits_of_their_own() -> None:
    class Segments(nn.Module):
        """[B, T, F] in, [B, T, K] out."""

        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({m: nn.Linear(4, 6) for m in TWO})
            self.head = nn.Linear(12, 3)

        def encode(self, m: str, x: Tensor) -> Any:
            return self.encoders[m](x)

        def fuse(self, features: Any) -> Tensor:
            return torch.cat([features[m] for m in TWO], -1)

        def forward(self, inputs: Any) -> Any:
            return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in TWO}))

    model = ModulatedModel(Segments(), MLA(TWO))
    inputs = {m: torch.randn(5, 2, 4) for m in TWO}
    model.training_step(inputs, torch.randint(3, (5, 2)), sgd(model))
    assert model.eval()(inputs).shape == (5, 2, 3)


def test_a_sample_without_a_modality_does_not_teach_it() -> None:
    present = {"audio": torch.tensor([True, False, True, True, False])}
    inputs, target = batch(TWO, 5, 3)
    few, _ = made(projection=True)
    few.before_epoch(1, train=[None])
    few.training_step(inputs, target, torch.optim.SGD(few.parameters(), 0.1), present=present)
    has = present["audio"]
    only, net = made(projection=True)
    only.before_epoch(1, train=[None])
    optimizer = torch.optim.SGD(only.parameters(), 0.1)
    some = {m: x[has] for m, x in inputs.items()}
    only.training_step(some, target[has], optimizer)
    for ours, theirs in zip(
        few.model.encoders["audio"].parameters(),  # type: ignore[union-attr, operator]
        net.encoders["audio"].parameters(),
        strict=True,
    ):
        torch.testing.assert_close(ours, theirs)
    for ours, theirs in zip(
        few.method.store["projection"], only.method.store["projection"], strict=True
    ):
        assert not torch.equal(ours, theirs)  # visual was seen in all five samples


def test_what_is_refused() -> None:
    inputs, target = batch(TWO, 4, 3)
    model, _ = made(projection=True)
    with pytest.raises(RuntimeError, match=r"call model\.before_epoch"):
        model.training_step(inputs, target, sgd(model))
    model.before_epoch(1, train=[None])
    model.training_step(inputs, target, sgd(model))
    with pytest.raises(RuntimeError, match="batch 2 of 1"):
        model.training_step(inputs, target, sgd(model))
    with pytest.raises(ValueError, match="accumulate is 2; MLA makes several optimizer steps"):
        model.training_step(inputs, target, sgd(model), accumulate=2)
    with pytest.raises(RuntimeError, match=r"model\.training_step"):
        made()[0](inputs, target)
    with pytest.raises(ValueError, match="weighting is 'best'"):
        MLA(TWO, weighting="best")
    late = network(TWO, late=True, layer="plain")
    with pytest.raises(ValueError, match="of classes, and the task is Regression"):
        ModulatedModel(late, MLA(TWO), task=Regression())
    ModulatedModel(late, MLA(TWO, weighting="mean"), task=Regression())
    opaque = gradmod.adapt(late, lambda net, x: net(x), encoders=dict(late.encoders.items()))
    with pytest.raises(ValueError, match="does not say how it encodes"):
        ModulatedModel(opaque, MLA(TWO))
    with pytest.raises(ValueError, match="8 numbers; the shared head reads 6"):
        made()[1].alone("audio", torch.zeros(2, 8, dtype=torch.float64))
    with pytest.raises(ValueError, match="a shared head reads a tensor"):
        SharedHeadFusion.alone(made()[1], "audio", [torch.zeros(2, 8)])


def test_what_is_read_before_the_head_are_the_features_and_its_weight_is_found() -> None:
    """Competition strength reads the first, clipping by the head's weight the second."""
    model, net = made(THREE)
    inputs, _ = batch(THREE, 5, 3)
    features = [net.encoders[m](inputs[m]) for m in THREE]
    joint = net.fuse(dict(zip(THREE, features, strict=True)))
    assert torch.equal(joint.flatten(1), torch.cat(features, 1))
    assert head_weight(model.model) is net.weight
