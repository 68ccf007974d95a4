"""Networks that return a type of their own, and losses that are computed inside them."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, NamedTuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, Joint, ModulatedModel, Output, adapt
from gradmod.coalitions.outputs import replace_logits, scalar_losses

TWO = ("a", "v")


@dataclass
class Found:
    logits: Tensor
    loss: Tensor | None = None
    name: str = "found"


class Pair(NamedTuple):
    loss: Tensor | None
    logits: Tensor


class Net(nn.Module):
    def __init__(self, make: Callable[[Tensor, Tensor | None], Any]) -> None:
        super().__init__()
        self.a, self.v, self.out, self.make = (
            nn.Linear(5, 6),
            nn.Linear(4, 6),
            nn.Linear(12, 3),
            make,
        )

    def forward(self, a: Tensor, v: Tensor, labels: Tensor | None = None) -> Any:
        logits = self.out(torch.cat([self.a(a).tanh(), self.v(v).tanh()], 1))
        self.last_logits = logits
        loss = None
        if labels is not None:
            loss = (
                F.cross_entropy(logits, labels, label_smoothing=0.1)
                + 0.1 * self.out.weight.square().mean()
            )
        return self.make(logits, loss)


def model_output(logits: Tensor, loss: Tensor | None) -> Any:
    modeling_outputs = pytest.importorskip(
        "transformers.modeling_outputs", reason="transformers is not installed"
    )
    return modeling_outputs.SequenceClassifierOutput(loss=loss, logits=logits)


FORMS: dict[str, tuple[Callable[..., Any], Callable[[Any], Tensor], Callable[[Any], Tensor]]] = {
    "dict": (
        lambda z, loss: {"logits": z, "loss": loss, "n": 3},
        lambda o: o["logits"],
        lambda o: o["loss"],
    ),
    "dataclass": (lambda z, loss: Found(z, loss), lambda o: o.logits, lambda o: o.loss),
    "named tuple": (lambda z, loss: Pair(loss, z), lambda o: o.logits, lambda o: o.loss),
    "tuple": (lambda z, loss: (loss, z, [z.detach()]), lambda o: o[1], lambda o: o[0]),
    "ModelOutput": (model_output, lambda o: o.logits, lambda o: o.loss),
}


def data() -> tuple[dict[str, Tensor], Tensor]:
    torch.manual_seed(1)
    return {"a": torch.randn(7, 5).double(), "v": torch.randn(7, 4).double()}, torch.randint(
        3, (7,)
    )


def call(net: Any, x: Any) -> Any:
    return net(x["a"], x["v"], x.get("labels"))


def made(
    make: Callable[..., Any], logits: Callable[[Any], Tensor], method: Any = AGM, **settings: Any
) -> ModulatedModel:
    torch.manual_seed(0)
    return ModulatedModel(adapt(Net(make).double(), call, logits=logits), method(TWO, **settings))


def gradients(model: nn.Module) -> list[Tensor]:
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("form", FORMS)
def test_the_networks_own_output_comes_back_with_modulated_logits(form: str) -> None:
    make, logits, _ = FORMS[form]
    x, y = data()
    model = made(make, logits, alpha=3.0)
    output = model(x, y)
    plain = call(model.model.net, x)
    assert type(output) is type(plain)
    assert torch.equal(logits(output), logits(plain))
    F.cross_entropy(logits(output), y).backward()
    expected = ModulatedModel(
        adapt(copy.deepcopy(made(make, logits).model.net), lambda net, x: logits(call(net, x))),
        AGM(TWO, alpha=3.0),
    )
    F.cross_entropy(expected(x, y), y).backward()
    for ours, theirs in zip(gradients(model), gradients(expected), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    assert type(model.eval()(x)) is type(plain)


@pytest.mark.parametrize("coalitions", ["batched", "looped"])
@pytest.mark.parametrize("form", FORMS)
def test_a_loss_computed_inside_the_network_is_modulated(form: str, coalitions: str) -> None:
    """As the same loss computed outside, of the modulated logits; its part beside the logits as it is."""
    make, logits, loss = FORMS[form]
    x, y = data()
    model = made(make, logits, alpha=3.0)
    output = model({**x, "labels": y}, y)
    plain = call(model.model.net, {**x, "labels": y})
    torch.testing.assert_close(loss(output), loss(plain), rtol=0, atol=0)
    loss(output).backward()
    outside = made(make, logits, alpha=3.0)
    total = F.cross_entropy(logits(outside(x, y)), y, label_smoothing=0.1)
    (total + 0.1 * outside.model.net.out.weight.square().mean()).backward()
    for ours, theirs in zip(gradients(model), gradients(outside), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)
    joint = made(make, logits, Joint)
    loss(joint({**x, "labels": y}, y)).backward()
    assert not torch.allclose(gradients(model)[0], gradients(joint)[0])


def test_a_loss_handed_through_as_extra_loss_is_modulated_where_it_comes_from_the_logits() -> None:
    x, y = data()

    def through(net: Any, x: Any) -> Output:
        found = net(x["a"], x["v"], x["labels"])
        return Output(found["logits"], {"own": found["loss"]})

    models = []
    for last in range(2):
        torch.manual_seed(0)
        net = Net(FORMS["dict"][0]).double()
        model = ModulatedModel(adapt(net, through), AGM(TWO, alpha=3.0))
        logits, losses = model({**x, "labels": y}, y)
        if last:
            extra = 0.1 * net.out.weight.square().mean()
            (F.cross_entropy(logits, y, label_smoothing=0.1) + extra).backward()
        else:
            losses["own"].backward()
        models.append(model)
    for ours, theirs in zip(gradients(models[0]), gradients(models[1]), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-12, atol=1e-14)


def test_a_loss_of_other_logits_than_those_returned_is_refused_in_the_first_backward() -> None:
    x, y = data()
    model = made(lambda z, loss: {"logits": z.clone(), "loss": loss}, lambda o: o["logits"])
    with pytest.raises(RuntimeError, match="went past the logits"):
        model({**x, "labels": y}, y)["loss"].backward()
    model.zero_grad()
    output = model({**x, "labels": y}, y)
    (
        F.cross_entropy(output["logits"], y) + output["loss"]
    ).backward()  # added to a loss of the logits: fine


def test_a_loss_of_logits_that_the_network_keeps_is_refused() -> None:
    x, y = data()
    model = made(lambda z, loss: z, lambda o: o)
    model(x, y)
    with pytest.raises(RuntimeError, match="went past the logits"):
        F.cross_entropy(model.model.net.last_logits, y).backward()
    logits = model(x, y)
    (F.cross_entropy(logits, y) + model.model.net.last_logits.square().mean()).backward()


def test_an_extra_loss_may_have_a_backward_of_its_own_but_not_the_only_one() -> None:
    x, y = data()

    def through(net: Any, x: Any) -> Output:
        return Output(net(x["a"], x["v"]), {"decay": net.out.weight.square().mean()})

    torch.manual_seed(0)
    model = ModulatedModel(adapt(Net(lambda z, loss: z).double(), through), AGM(TWO))
    for _ in range(2):
        logits, losses = model(x, y)
        losses["decay"].backward()
        F.cross_entropy(logits, y).backward()
    _, losses = model(x, y)
    losses["decay"].backward()
    with pytest.raises(RuntimeError, match="went past the logits"):
        model(x, y)


def test_logits_that_the_output_does_not_hold_are_refused() -> None:
    x, y = data()
    model = made(lambda z, loss: {"logits": z}, lambda o: o["logits"].log_softmax(1))
    with pytest.raises(TypeError, match="are not in the dict that the model returned"):
        model(x, y)
    model = made(lambda z, loss: {"logits": z}, lambda o: o)
    with pytest.raises(TypeError, match="logits= gives dict"):
        model(x, y)


def test_infinite_logits_of_ruled_out_classes_stay_without_harm() -> None:
    logits = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    modulated = torch.tensor([[0.0, -torch.inf]], requires_grad=True)
    loss = F.cross_entropy(logits, torch.tensor([0]))
    found = replace_logits({"loss": loss, "logits": logits}, logits, modulated)["loss"]
    assert found.item() == loss.item()
    found.backward()
    assert torch.isfinite(modulated.grad).all()  # type: ignore[arg-type]


def test_losses_in_an_output_are_its_scalars_with_a_gradient() -> None:
    logits, weight = torch.ones(2, 3, requires_grad=True), torch.ones((), requires_grad=True)
    parts = [
        weight * 2,
        {"more": weight * 3, "seen": torch.tensor(4), "logits": logits, "scale": 2.0},
        (weight * 4,),
    ]
    assert [float(loss.detach()) for loss in scalar_losses(Found(logits, weight * 1, "x"))] == [1.0]
    assert [float(loss.detach()) for loss in scalar_losses(parts)] == [2.0, 3.0, 4.0]
