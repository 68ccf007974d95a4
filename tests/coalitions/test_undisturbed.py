"""What a diagnosis leaves as it was: the model, the caller's tensors, the random numbers."""

from __future__ import annotations

import copy
import random
from collections import OrderedDict, deque
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

import gradmod
from gradmod.coalitions.undisturbed import undisturbed

NAMES = ("audio", "visual")


class Plain(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.v = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, inputs: Any) -> Tensor:
        return self.a(3 * inputs["audio"]) + self.v(inputs["visual"])


class InPlace(Plain):
    def forward(self, inputs: Any) -> Tensor:
        return self.a(inputs["audio"].mul_(3)) + self.v(inputs["visual"])


class Popping(Plain):
    def forward(self, inputs: Any) -> Tensor:
        return self.a(3 * inputs.pop("audio")) + self.v(inputs.pop("visual"))


class Replacing(Plain):
    def forward(self, inputs: Any) -> Tensor:
        inputs["audio"] = 3 * inputs["audio"]
        return self.a(inputs["audio"]) + self.v(inputs["visual"])


class InPlaceEncoders(Plain):
    """Writes into its features as well: those of one coalition must not reach the next."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"audio": self.a, "visual": self.v, "text": nn.Linear(4, 3)})

    def encode(self, modality: str, x: Tensor) -> Tensor:
        return x.mul_(3 if modality == "audio" else 1)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        features["audio"].add_(features["text"])
        return torch.cat([features["audio"], features["visual"]], 1)

    def head(self, joint: Tensor) -> Tensor:
        return self.a(joint[:, :4]) + self.v(joint[:, 4:])

    def forward(self, inputs: Any) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, x) for m, x in inputs.items()}))


def data(names: tuple[str, ...] = NAMES) -> list[tuple[dict[str, Tensor], Tensor]]:
    generator = torch.Generator().manual_seed(1)
    return [
        (
            {m: torch.randn(20, 4, generator=generator) for m in names},
            torch.randint(3, (20,), generator=generator),
        )
        for _ in range(3)
    ]


@pytest.mark.parametrize("kind", [InPlace, Popping, Replacing])
def test_networks_that_write_into_their_inputs(kind: type[Plain]) -> None:
    batches = data()
    found = gradmod.diagnose(kind(), batches, replicates=0)
    assert found == gradmod.diagnose(Plain(), data(), replicates=0)
    for (inputs, target), (before, before_target) in zip(batches, data(), strict=True):
        assert inputs.keys() == before.keys()
        assert all(torch.equal(inputs[m], before[m]) for m in NAMES)
        assert torch.equal(target, before_target)


def test_networks_that_write_into_their_features() -> None:
    names = (*NAMES, "text")
    net = InPlaceEncoders()

    class Whole(nn.Module):
        def forward(self, x: Any) -> Tensor:
            return net.a(3 * x["audio"] + x["text"]) + net.v(x["visual"])

    batches = data(names)
    assert gradmod.diagnose(net, batches, replicates=0) == gradmod.diagnose(
        Whole(), data(names), replicates=0
    )
    assert all(
        torch.equal(x, y)
        for (a, _), (b, _) in zip(batches, data(names), strict=True)
        for x, y in zip(a.values(), b.values(), strict=True)
    )


def test_inputs_that_are_nested_or_of_ones_own_kind() -> None:
    @dataclass
    class Table:
        values: Tensor
        rows: Any

    class Net(Plain):
        def mask(self, modality: str, x: Any) -> Any:
            if isinstance(x, Table):
                x.values.zero_()  # a mask may write into what it is given as well
                return x
            return {"list": [torch.zeros_like(x["list"][0])]}

        def forward(self, inputs: Any) -> Tensor:
            table = inputs["audio"]
            table.rows += 1
            return self.a(table.values.mul_(2)) + self.v(inputs["visual"]["list"][0].add_(1))

    batches = [
        ({"audio": Table(x["audio"], np.zeros(3)), "visual": {"list": [x["visual"]]}}, y)
        for x, y in data()
    ]
    gradmod.diagnose(Net(), batches, replicates=0)
    for (inputs, _), (before, _) in zip(batches, data(), strict=True):
        assert torch.equal(inputs["audio"].values, before["audio"])
        assert not inputs["audio"].rows.any()
        assert torch.equal(inputs["visual"]["list"][0], before["visual"])


def test_functions_of_ones_own_may_write_into_what_they_get() -> None:
    def noise(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return x.mul_(1 + level)

    def metric(logits: Tensor, target: Tensor) -> float:
        return float((logits.mul_(0).argmax(-1) == target.zero_()).double().mean())

    batches = data()
    found = gradmod.diagnose(Plain(), batches, noise={"audio": noise}, metric=metric, replicates=3)
    assert set(found.attribution.game.values()) == {1.0}
    assert torch.equal(batches[0][0]["audio"], data()[0][0]["audio"])
    assert torch.equal(batches[0][1], data()[0][1])


class Restless(Plain):
    """Moves whatever a forward can move."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("seen", torch.zeros(()))
        self.register_buffer("queue", torch.zeros(2))
        self.register_buffer("grows", torch.zeros(1))
        self.momentum = nn.Linear(4, 3).requires_grad_(False)
        self.embedding = nn.Embedding(5, 3, max_norm=0.1)
        self.calls, self.losses, self.store = 0, [], {"a": 1}
        self.tags, self.last, self.ordered = {1}, deque([0], maxlen=3), OrderedDict(x=1)
        self.centre = torch.zeros(3)
        self.generator = torch.Generator().manual_seed(3)
        self.features: Tensor | None = None

    def forward(self, inputs: Any) -> Tensor:
        self.seen += 1
        self.queue = self.queue + 1  # another tensor in its place
        self.grows.resize_(self.grows.numel() + 1)
        self.momentum.weight.data = self.momentum.weight.data * 0.9
        self.a.weight.data.clamp_(-0.01, 0.01)
        self.calls += 1
        self.losses.append(inputs["audio"].mean())
        self.store["a"] += 1
        self.store[len(self.store)] = 0
        self.tags.add(len(self.tags) + 5)
        self.last.append(self.calls)
        self.ordered.move_to_end("x")
        self.ordered["y"] = self.calls
        self.centre.add_(1)
        self.features = inputs["audio"]
        self.new = 1
        self.a.captured = inputs["visual"]
        torch.randn(1, generator=self.generator)
        self.train()
        logits = super().forward(inputs) + self.momentum(inputs["audio"])
        logits = logits + self.embedding(torch.zeros(len(logits), dtype=torch.long))
        return (
            nn.functional.dropout(logits, 0.5, self.training) + random.random() + np.random.rand()
        )


def everything(net: Restless) -> dict[str, Any]:
    kept = {
        name: value
        for name, value in vars(net).items()
        if not name.startswith("_") and name != "generator"
    }
    return copy.deepcopy({**kept, **net.state_dict(), "modes": [m.training for m in net.modules()]})


@pytest.mark.parametrize("fails", [False, True])
def test_the_model_is_as_it_was(fails: bool) -> None:
    net = Restless()
    net.momentum.eval()
    before, buffer, last, drawn = everything(net), net.queue, net.last, net.generator.get_state()
    batches = data()
    if fails:
        batches[1][1].fill_(7)
        with pytest.raises(ValueError, match="classes from 7 to 7"):
            gradmod.diagnose(net, batches)
    else:
        gradmod.diagnose(net, batches, replicates=2)
    after = everything(net)
    assert after.keys() == before.keys()
    for name, value in before.items():
        same = (
            torch.equal(after[name], value) if isinstance(value, Tensor) else after[name] == value
        )
        assert same, name
    assert not hasattr(net.a, "captured")
    assert net.queue is buffer
    assert net.last is last
    assert torch.equal(net.generator.get_state(), drawn)


def test_the_random_numbers_are_as_they_were() -> None:
    def numbers() -> list[Any]:
        return [random.random(), float(np.random.rand()), float(torch.rand(()))]

    loader = torch.utils.data.DataLoader(
        [(x, int(y)) for b, t in data() for x, y in zip(b["audio"], t, strict=True)], shuffle=True
    )
    states = random.getstate(), np.random.get_state(), torch.get_rng_state()
    expected = numbers()
    random.setstate(states[0])
    np.random.set_state(states[1])
    torch.set_rng_state(states[2])

    class Draws(nn.Module):
        def forward(self, inputs: Any) -> Tensor:
            return inputs["audio"][:, :3] + torch.rand(()) + random.random() + np.random.rand()

    gradmod.diagnose(Draws(), loader, modalities=("audio",), replicates=2)
    assert numbers() == expected


def test_a_backward_that_is_still_to_come_is_not_spoilt() -> None:
    net = Restless()
    inputs, target = data()[0]
    loss = nn.functional.cross_entropy(Plain.forward(net, inputs), target)
    expected = torch.autograd.grad(loss, net.a.weight, retain_graph=True)[0]
    gradmod.diagnose(net, data(), replicates=0)
    assert torch.equal(torch.autograd.grad(loss, net.a.weight)[0], expected)


def test_lazy_modules_and_scripts_may_be_looked_at() -> None:
    lazy = nn.Sequential(nn.LazyLinear(3), nn.Dropout())
    net = gradmod.adapt(
        lazy, call=lambda net, inputs: net(torch.cat([inputs[m] for m in NAMES], 1))
    )
    gradmod.diagnose(net, data(), replicates=0, noise_levels=())
    assert type(lazy[0]) is nn.Linear
    assert lazy[0].in_features == 8
    script = torch.jit.script(nn.Sequential(nn.BatchNorm1d(4), nn.Linear(4, 3)))
    net = gradmod.adapt(script, call=lambda net, inputs: net(inputs["audio"]))
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    with undisturbed(net):
        assert not net.training
        net.train()
        net(data()[0][0])
    assert net.training
    assert all(torch.equal(tensor, before[name]) for name, tensor in net.state_dict().items())
