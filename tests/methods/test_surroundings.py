"""Where a training forward may be called from: checkpointing, loading, copies, torch.func, the meta device."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.func import functional_call, grad, vmap
from torch.utils.checkpoint import checkpoint

from gradmod import AGM, MSES, MSLR, OGMGE, Joint, Method, ModulatedModel
from networks import NAMES, batch, network

TWO = NAMES[:2]
CHANGE_GRADIENTS: tuple[Any, ...] = (OGMGE, MSES)
ALL: tuple[Any, ...] = (AGM, OGMGE, MSES, Joint)


def made(
    kind: type[Method], *, late: bool = True, layer: str = "plain", strategy: str = "auto"
) -> ModulatedModel:
    return ModulatedModel(network(TWO, late=late, layer=layer), kind(TWO), coalitions=strategy)


def gradients(model: ModulatedModel, seed: int = 0) -> None:
    inputs, target = batch(TWO, 6, 3, seed=seed)
    F.cross_entropy(model(inputs, target), target).backward()


def change_weights(model: ModulatedModel) -> None:
    """What an optimizer's step does, and loading, and setting anew."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.01)


@pytest.mark.parametrize("kind", CHANGE_GRADIENTS)
@pytest.mark.parametrize("with_backward", [False, True])
def test_weights_loaded_after_a_forward_are_no_step(
    kind: type[Method], with_backward: bool
) -> None:
    """A shape check, a learning rate finder, a sanity step; then the weights of before."""
    model = made(kind)
    saved = copy.deepcopy(model.state_dict())
    inputs, target = batch(TWO, 6, 3)
    logits = model(inputs, target)
    if with_backward:
        logits.sum().backward()
    model.load_state_dict(saved)
    gradients(model)
    model.after_backward()


@pytest.mark.parametrize("kind", CHANGE_GRADIENTS)
@pytest.mark.parametrize(
    "between",
    [
        lambda model: change_weights(model),  # a forward to look at shapes; then an initialisation
        lambda model: model.model.load_state_dict(model.model.state_dict()),
        lambda model: model.double(),
    ],
)
def test_a_forward_without_backward_expects_nothing(
    kind: type[Method], between: Callable[[ModulatedModel], Any]
) -> None:
    model = made(kind)
    inputs, target = batch(TWO, 6, 3)
    model(inputs, target)
    with torch.no_grad():
        model(inputs, target)
    between(model)
    gradients(model)
    model.after_backward()


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize(
    "duplicate", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))]
)
def test_a_model_is_copied_and_pickled_between_forward_and_step(
    kind: type[Method], duplicate: Callable[[ModulatedModel], ModulatedModel]
) -> None:
    model = made(kind)
    gradients(model)
    model.after_backward()
    change_weights(model)
    gradients(model, seed=1)
    other = duplicate(model)
    for one in (model, other):
        one.zero_grad()
        gradients(one, seed=2)
        one.after_backward()
    for ours, theirs in zip(model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(theirs.grad, ours.grad)


@pytest.mark.parametrize("kind", CHANGE_GRADIENTS)
def test_a_step_is_noticed_with_a_later_forward_in_between(kind: type[Method]) -> None:
    """Two micro-batches, of which the second has no backward; by hand and not by an optimizer."""
    model = made(kind)
    gradients(model)
    inputs, target = batch(TWO, 6, 3)
    model(inputs, target)
    change_weights(model)
    with pytest.raises(
        RuntimeError, match=rf"{kind.__name__} changes gradients, but an optimizer step was made"
    ):
        model(inputs, target)


@pytest.mark.parametrize("optimizer", [torch.optim.SGD, torch.optim.Adam])
@pytest.mark.parametrize("kind", CHANGE_GRADIENTS)
def test_a_fused_step_is_noticed(
    kind: type[Method], optimizer: Callable[..., torch.optim.Optimizer]
) -> None:
    """It changes parameters, but not their versions; a step of other parameters is none of this model."""
    model, other = made(kind), torch.nn.Linear(2, 1)
    other(torch.ones(1, 2)).sum().backward()
    own = optimizer(model.parameters(), 0.1, fused=True)
    for with_call in (True, False):
        gradients(model)
        optimizer(other.parameters(), 0.1, fused=True).step()
        gradients(model)
        if with_call:
            model.after_backward()
        own.step()
    with pytest.raises(
        RuntimeError, match=rf"{kind.__name__} changes gradients, but an optimizer step was made"
    ):
        gradients(model)


@pytest.mark.parametrize("kind", CHANGE_GRADIENTS)
def test_gradients_that_are_not_there_are_noticed(kind: type[Method]) -> None:
    """After zero_grad(), or taken with torch.autograd.grad, there is nothing to change: that was joint training."""
    inputs, target = batch(TWO, 6, 3)
    model = made(kind)
    gradients(model)
    model.zero_grad()
    with pytest.raises(RuntimeError, match="no parameter of 'audio', 'visual' has any"):
        model.after_backward()
    model = made(kind)
    torch.autograd.grad(F.cross_entropy(model(inputs, target), target), list(model.parameters()))
    with pytest.raises(RuntimeError, match=r"before\s+zero_grad"):
        model.after_backward()
    made(kind).after_backward()  # before the first step there is nothing to notice


@pytest.mark.parametrize("reentrant", [False, True])
@pytest.mark.parametrize("kind", [AGM, OGMGE])
def test_a_checkpointed_model_counts_a_step_once(kind: type[Method], reentrant: bool) -> None:
    """Two micro-batches for a step: the numbers without checkpointing.

    Both forwards come before both backwards, but for reentrant checkpointing, whose steps are made in the backward.
    """
    plain, checked = (made(kind, late=False, layer="layer-norm") for _ in range(2))
    optimizers = [torch.optim.SGD(model.parameters(), 0.1) for model in (plain, checked)]

    def forward(model: ModulatedModel, inputs: dict[str, Tensor], target: Tensor) -> Tensor:
        def called(audio: Tensor, visual: Tensor, target: Tensor) -> Any:
            return model({"audio": audio, "visual": visual}, target)

        given = *(x.requires_grad_() for x in inputs.values()), target
        found: Tensor = (
            called(*given)
            if model is plain
            else checkpoint(called, *given, use_reentrant=reentrant)
        )
        return found

    for step in range(3):
        for model, optimizer in zip((plain, checked), optimizers, strict=True):
            torch.manual_seed(step)
            batches = [batch(TWO, 6, 3, seed=10 * step + part) for part in range(2)]
            optimizer.zero_grad()
            if reentrant:
                for one in batches:
                    F.cross_entropy(forward(model, *one), one[1]).backward()
            else:
                losses = [F.cross_entropy(forward(model, *one), one[1]) for one in batches]
                sum(losses).backward()  # type: ignore[union-attr]
            model.after_backward()
            optimizer.step()
        for ours, theirs in zip(
            checked.state_dict().values(), plain.state_dict().values(), strict=True
        ):
            torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-12)
    assert plain.last_step is not None
    assert len(plain.last_step.coefficients.unique()) == 2


def test_a_step_made_in_the_backward_is_its_own_though_its_target_lies_where_another_lay() -> None:
    model, (inputs, target) = made(AGM, late=False, layer="layer-norm"), batch(TWO, 6, 3)
    F.cross_entropy(model(inputs, target), target).backward()
    given = [x.requires_grad_() for x in inputs.values()]
    found = checkpoint(
        lambda a, v: model({"audio": a, "visual": v}, target), *given, use_reentrant=True
    )
    assert model.method.get_buffer("steps").tolist() == [1, 1]
    F.cross_entropy(found, target).backward()
    assert model.method.get_buffer("steps").tolist() == [2, 2]


@pytest.mark.parametrize("kind", [AGM, OGMGE, MSES])
def test_transforms_of_a_training_forward_are_refused(kind: type[Method]) -> None:
    model, (inputs, target) = made(kind), batch(TWO, 6, 3)
    before = copy.deepcopy(model.state_dict())
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    with pytest.raises(RuntimeError, match=f"{kind.__name__} keeps statistics from step to step"):
        grad(lambda given: functional_call(model, given, (inputs, target)).sum())(parameters)
    with pytest.raises(RuntimeError, match=f"{kind.__name__} keeps statistics from step to step"):
        vmap(lambda a, v, t: model({"audio": a[None], "visual": v[None]}, t[None]))(
            *inputs.values(), target
        )
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    model.eval()
    each = vmap(lambda a, v: model({"audio": a[None], "visual": v[None]})[0])(*inputs.values())
    torch.testing.assert_close(each, model(inputs))


@pytest.mark.parametrize("kind", [Joint, MSLR])
def test_methods_without_statistics_can_be_transformed(kind: type[Method]) -> None:
    model, (inputs, target) = made(kind), batch(TWO, 6, 3)
    model.method.learning_rates_are_set()
    parameters = {name: parameter.detach() for name, parameter in model.named_parameters()}
    found = grad(
        lambda given: F.cross_entropy(functional_call(model, given, (inputs, target)), target)
    )(parameters)
    gradients(model)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(found[name], parameter.grad)


def test_agm_with_the_parameters_of_functional_call() -> None:
    model, other, (inputs, target) = made(AGM), made(AGM), batch(TWO, 6, 3)
    gradients(other)
    given = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in other.named_parameters()
    }
    change_weights(model)  # which are not read
    F.cross_entropy(functional_call(model, given, (inputs, target)), target).backward()
    for name, parameter in other.named_parameters():
        torch.testing.assert_close(given[name].grad, parameter.grad)
    torch.testing.assert_close(model.method.mean_score, other.method.mean_score)


@pytest.mark.parametrize("kind", CHANGE_GRADIENTS)
def test_methods_that_change_gradients_refuse_the_parameters_of_functional_call(
    kind: type[Method],
) -> None:
    model, (inputs, target) = made(kind), batch(TWO, 6, 3)
    given = {
        name: parameter.detach().clone().requires_grad_()
        for name, parameter in model.named_parameters()
    }
    with pytest.raises(
        RuntimeError, match=r"is called\s+with others \(torch.func.functional_call\)"
    ):
        functional_call(model, given, (inputs, target))
    functional_call(model, dict(model.named_parameters()), (inputs, target)).sum().backward()
    model.after_backward()


@pytest.mark.parametrize("kind", ALL)
def test_a_model_is_made_on_the_meta_device(kind: type[Method]) -> None:
    """Statistics begin at 0 whatever stood in the memory; weights are loaded."""
    whole = made(kind)
    with torch.device("meta"):
        model = made(kind)
    model.to_empty(device="cpu")
    assert all(
        not buffer.any() and buffer.dtype == torch.float64 for buffer in model.method.buffers()
    )
    model.model.load_state_dict(whole.model.state_dict())
    for one in (whole, model):
        gradients(one)
        one.after_backward()
    for ours, theirs in zip(model.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours.grad, theirs.grad)
    with torch.device("meta"):
        model = made(kind)
    model.load_state_dict(whole.state_dict(), assign=True)
    gradients(model)


@pytest.mark.parametrize("kind", ALL)
@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
def test_an_empty_batch_is_no_step(kind: type[Method], strategy: str) -> None:
    model = made(kind, strategy=strategy)
    gradients(model)
    model.after_backward()
    model.zero_grad()
    state = copy.deepcopy(list(model.method.buffers()))
    inputs, target = batch(TWO, 0, 3)
    logits = model(inputs, target)
    assert logits.shape == (0, 3)
    logits.sum().backward()
    model.after_backward()
    assert all(
        parameter.grad is None or not parameter.grad.any() for parameter in model.parameters()
    )
    assert all(torch.equal(a, b) for a, b in zip(state, model.method.buffers(), strict=True))


def test_shared_memory_holds_the_statistics_too() -> None:
    model = made(AGM).share_memory()
    assert all(tensor.is_shared() for tensor in (*model.parameters(), *model.buffers()))
