"""The one step of every method: a plain loop's, gathered, scaled, over processes, and by some parameters alone."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from gradmod import AGM, MSES, OGMGE, Joint, Method, MMPareto, ModulatedModel, UniModalLosses
from gradmod.methods import DGL, MCR, MLA, MLB, TCMax
from gradmod.methods.step import Engine, Step
from gradmod.methods.view import Batch
from networks import NAMES, batch, network
from processes import on_processes
from properties import distance, weights

TWO, THREE = NAMES[:2], NAMES[:3]
WITH_LOSSES: tuple[Any, ...] = (UniModalLosses, MMPareto, DGL)


def made(
    kind: Any, modalities: tuple[str, ...] = TWO, layer: str = "plain", **settings: Any
) -> ModulatedModel:
    net = network(modalities, late=False, layer=layer)
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    model = ModulatedModel(net, kind(modalities, **settings))
    torch.manual_seed(1)
    model.give_heads_their_sizes(batch(modalities, 3, 3)[0])
    return model


def sgd(model: nn.Module, lr: float = 0.1) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), lr, momentum=0.9)


@pytest.mark.parametrize("kind", [Joint, AGM, OGMGE, MSES])
def test_it_is_the_plain_loop_of_a_method_that_only_modulates(kind: type[Method]) -> None:
    ours, plain = made(kind), made(kind)
    our_optimizer, optimizer = sgd(ours), sgd(plain)
    for seed in range(3):
        inputs, target = batch(TWO, 7, 3, seed=seed)
        loss = ours.training_step(inputs, target, our_optimizer, clip_norm=0.5)
        expected = F.cross_entropy(plain(inputs, target), target)
        expected.backward()  # type: ignore[no-untyped-call]
        plain.after_backward()
        nn.utils.clip_grad_norm_(plain.parameters(), 0.5)
        optimizer.step()
        optimizer.zero_grad()
        assert not loss.requires_grad
        assert float(loss) == pytest.approx(float(expected.detach()))
    assert distance(weights(ours), weights(plain)) == 0
    assert all(parameter.grad is None for parameter in ours.parameters())


@pytest.mark.parametrize("kind", WITH_LOSSES)
def test_a_method_that_needs_it_says_so_at_the_first_forward_of_another_loop(
    kind: type[Method],
) -> None:
    model = made(kind)
    inputs, target = batch(TWO, 5, 3)
    with pytest.raises(RuntimeError, match=rf"{kind.__name__} has losses.*model\.training_step"):
        model(inputs, target)
    model.training_step(inputs, target, sgd(model))
    with pytest.raises(RuntimeError, match=kind.__name__):  # after a step as well
        model(inputs, target)
    with torch.no_grad():
        model(inputs)  # statistics alone


@pytest.mark.parametrize("kind", [*WITH_LOSSES, MLB, MCR])
def test_a_modalitys_own_loss_is_of_the_samples_that_have_it(kind: type[Method]) -> None:
    inputs, target = batch(TWO, 8, 3)
    has = torch.tensor([True, False, True, True, False, False, True, True])
    rows = {m: x[has] for m, x in inputs.items()}
    found = []
    for given in ((inputs, target, {"audio": has}), (rows, target[has]), (inputs, target)):
        model = made(kind)
        with model.in_training_step():
            found.append(model(*given).losses["uni_modal.audio"].detach())
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-12)
    assert abs(float(found[0] - found[2])) > 1e-3


@pytest.mark.parametrize("kind", [Joint, UniModalLosses])
def test_parts_of_a_batch_add_up_to_it(kind: type[Method]) -> None:
    inputs, target = batch(TWO, 12, 3)
    models = [made(kind), made(kind)]
    for model, parts in zip(models, (1, 3), strict=True):
        optimizer = sgd(model)
        before = weights(model)
        for part in range(2 * parts):
            rows = torch.arange(12).chunk(parts)[part % parts]
            model.training_step(
                {m: x[rows] for m, x in inputs.items()}, target[rows], optimizer, accumulate=parts
            )
            stepped = distance(before, weights(model)) > 0
            assert stepped == (part >= parts - 1)
    assert distance(weights(models[0]), weights(models[1])) < 1e-12


@pytest.mark.parametrize(
    ("kind", "settings"),
    [
        (Joint, {}),
        (OGMGE, {"alpha": 2.0}),
        (MLB, {}),
        (TCMax, {}),
        (MCR, {"strength": 0.0, "contrastive": 1.0, "bottleneck": 1.0}),
        *((kind, {}) for kind in WITH_LOSSES),
    ],
)
def test_parts_are_changed_and_clipped_once_as_a_whole(kind: Any, settings: Any) -> None:
    """A batch that comes twice in two parts of a step is a step with it."""
    inputs, target = batch(TWO, 8, 3)
    models = [made(kind, **settings), made(kind, **settings)]
    norms = []
    for model, parts in zip(models, (1, 2), strict=True):
        optimizer = torch.optim.SGD(model.parameters(), 1.0)
        before = weights(model)
        for _ in range(parts):
            model.training_step(inputs, target, optimizer, accumulate=parts, clip_norm=1e-3)
        norms.append(
            sum(float((before[n] - p).square().sum()) for n, p in weights(model).items()) ** 0.5
        )
    assert norms == pytest.approx([1e-3, 1e-3], rel=1e-4)
    assert distance(weights(models[0]), weights(models[1])) < 1e-12


@pytest.mark.parametrize("kind", [Joint, AGM, OGMGE, *WITH_LOSSES])
def test_a_scaled_loss_gives_the_same_step(kind: type[Method]) -> None:
    models = [made(kind), made(kind)]
    scalers = [None, torch.amp.GradScaler("cpu", init_scale=4096.0)]
    for model, scaler in zip(models, scalers, strict=True):
        model.float()
        optimizer = sgd(model)
        for seed in range(3):
            inputs, target = batch(TWO, 7, 3, seed=seed)
            inputs = {m: x.float() for m, x in inputs.items()}
            model.training_step(inputs, target, optimizer, scaler=scaler, clip_norm=0.3)
    assert distance(weights(models[0]), weights(models[1])) < 1e-5


@pytest.mark.parametrize("kind", [Joint, *WITH_LOSSES])
def test_a_step_whose_gradients_overflow_is_left_out(kind: type[Method]) -> None:
    model = made(kind)
    model.float()
    model.model.out.weight.data *= 1e3  # type: ignore[union-attr, operator]
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**127, growth_interval=10**6)
    optimizer, before = sgd(model), weights(model)
    inputs, target = batch(TWO, 7, 3)
    model.training_step({m: x.float() for m, x in inputs.items()}, target, optimizer, scaler=scaler)
    assert distance(before, weights(model)) == 0
    assert scaler.get_scale() == 2.0**126


@pytest.mark.parametrize("kind", [UniModalLosses, MMPareto])
def test_an_optimizer_may_be_made_before_the_heads_have_sizes(kind: type[Method]) -> None:
    sized = made(kind)
    late = ModulatedModel(copy.deepcopy(sized.model), kind(TWO))
    assert "(visual): no size yet" in repr(late)
    assert "(visual): [3, 6]" in repr(sized)
    optimizers = [sgd(sized), sgd(late)]
    assert sized.heads is not None
    assert late.heads is not None
    assert sized.heads.has_sizes
    assert not late.heads.has_sizes
    late.load_state_dict(sized.state_dict())
    assert late.heads.has_sizes
    inputs, target = batch(TWO, 7, 3)
    for model, optimizer in zip((sized, late), optimizers, strict=True):
        before = weights(model)
        for _ in range(2):
            model.training_step(inputs, target, optimizer)
        moved = {name: float((before[name] - p).abs().max()) for name, p in weights(model).items()}
        assert min(moved.values()) > 0, moved
    assert distance(weights(sized), weights(late)) == 0
    fresh = ModulatedModel(copy.deepcopy(sized.model), kind(TWO))
    optimizer = sgd(fresh)
    fresh.training_step(inputs, target, optimizer)  # sized by the first batch
    assert fresh.heads is not None
    assert fresh.heads.has_sizes
    assert len(optimizer.state) == len(list(fresh.parameters()))
    copied = copy.deepcopy(fresh)
    copied.training_step(inputs, target, sgd(copied))


def test_only_the_parameters_that_are_named_move_momentum_included() -> None:
    model = made(Joint)
    optimizer = sgd(model)
    inputs, target = batch(TWO, 7, 3)
    model.training_step(inputs, target, optimizer)
    state = {
        name: optimizer.state[p]["momentum_buffer"].clone() for name, p in model.named_parameters()
    }
    before = weights(model)
    step = Step(Engine(model, optimizer), model, Batch(inputs, target))
    step.backward(step.losses(step.forward())["task"])
    named = list(model.model.encoders["audio"].parameters())  # type: ignore[union-attr, index]
    gradients = {name: p.grad for name, p in model.named_parameters()}
    step.apply(only=named)
    for name, parameter in model.named_parameters():
        moved = "audio" in name
        assert torch.equal(before[name], parameter.detach()) != moved, name
        assert torch.equal(state[name], optimizer.state[parameter]["momentum_buffer"]) != moved, (
            name
        )
        assert gradients[name] is not None


def test_what_is_refused() -> None:
    inputs, target = batch(TWO, 7, 3)
    model = made(Joint)
    with pytest.raises(ValueError, match=r"eval mode: call model\.train\(\)"):
        model.eval().training_step(inputs, target, sgd(model))
    with pytest.raises(ValueError, match="accumulate is 0"):
        model.train().training_step(inputs, target, sgd(model), accumulate=0)
    step = Step(Engine(model, sgd(model)), model, Batch(inputs, target))
    with pytest.raises(RuntimeError, match="takes_gradients = True"):
        step.gradients([step.losses(step.forward())["task"]], list(model.parameters()))

    class Idle(Method):
        def update(self, step: Step, output: Any) -> None:
            """Nothing."""

    with pytest.raises(RuntimeError, match=r"Idle\.update made no backward pass"):
        made(Idle).training_step(inputs, target, sgd(model))


def halves(rank: int) -> dict[str, float]:
    """How far two processes, each with half of the batch, are from one with all of it."""
    found = {}
    for kind in (Joint, AGM, OGMGE, *WITH_LOSSES):
        for parts in (1, 2):
            one, both = made(kind, THREE, layer="layer-norm"), made(kind, THREE, layer="layer-norm")
            one.method.use_process_group(None)
            ddp = DistributedDataParallel(both)
            optimizers = [sgd(one), sgd(both)]
            for seed in range(3 * parts):
                inputs, target = batch(THREE, 8, 3, seed=seed)
                one.training_step(inputs, target, optimizers[0], clip_norm=1.0, accumulate=parts)
                mine = {m: x.chunk(2)[rank] for m, x in inputs.items()}
                own = target.chunk(2)[rank]
                both.training_step(
                    mine, own, optimizers[1], clip_norm=1.0, accumulate=parts, through=ddp
                )
            found[f"{kind.__name__} {parts}"] = distance(weights(one), weights(both))
    found["MLA"] = turns(rank)
    return found


def turns(rank: int) -> float:
    """The same of MLA with its projection: no process waits for gradients of those whose turn it is not."""
    one, both = (made(MLA, THREE, layer="layer-norm", projection=True) for _ in range(2))
    one.method.use_process_group(None)
    ddp = DistributedDataParallel(both)
    optimizers = [sgd(one), sgd(both)]
    for model in (one, both):
        model.before_epoch(1, train=[None] * 3)
    for seed in range(3):
        inputs, target = batch(THREE, 8, 3, seed=seed)
        one.training_step(inputs, target, optimizers[0], clip_norm=1.0)
        mine = {m: x.chunk(2)[rank] for m, x in inputs.items()}
        both.training_step(mine, target.chunk(2)[rank], optimizers[1], clip_norm=1.0, through=ddp)
    return distance(weights(one), weights(both))


def test_two_processes_equal_one() -> None:
    for found in on_processes(halves, 2):
        assert len(found) == 13
        assert all(distance < 1e-6 for distance in found.values()), found
