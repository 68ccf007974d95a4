"""AGM around networks that keep more than tensors on themselves, and networks whose first batch shows nothing."""

from __future__ import annotations

import copy
import random
import warnings
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, OGMGE, ModulatedModel, adapt
from gradmod.coalitions.kept_state import NetworkState
from gradmod.coalitions.masking import zeroed
from oracles import brute_force_step, fresh

TWO = ("a", "v")


class Net(nn.Module):
    """Two encoders and a non-linear fusion."""

    def __init__(self) -> None:
        super().__init__()
        self.a, self.v = (nn.Sequential(nn.Linear(n, 6), nn.Tanh()) for n in (5, 4))
        self.joint, self.out = nn.Linear(12, 6), nn.Linear(6, 3)

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.a(x["a"]), self.v(x["v"])

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.out(self.joint(torch.cat(self.encoded(x), 1)).relu())


class Scaled(Net):
    """Divides by a number that each call moves."""

    def step(self) -> float:
        raise NotImplementedError

    def forward(self, x: dict[str, Any]) -> Tensor:
        return super().forward(x) / (1 + self.step())


class Array(Scaled):
    def __init__(self, size: int = 3) -> None:
        super().__init__()
        self.kept = np.zeros(size)

    def step(self) -> float:
        self.kept += 1
        return float(self.kept[0])


class LargeArray(Array):
    def __init__(self) -> None:
        super().__init__(20_000)


class Slots:
    __slots__ = ("count", "seen")

    def __init__(self) -> None:
        self.count = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Slots) and (self.count, self.seen) == (other.count, other.seen)


class InSlots(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Slots()

    def step(self) -> float:
        self.kept.count += 1
        self.kept.seen = self.kept.count  # which is not there at first
        return self.kept.count


@dataclass
class History:
    lengths: list[int] = field(default_factory=list)
    last: deque[int] = field(default_factory=lambda: deque(maxlen=2))
    bits: bytearray = field(default_factory=lambda: bytearray(2))


class InDataclass(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.kept = {"history": (History(),)}

    def step(self) -> float:
        history = self.kept["history"][0]
        history.lengths.append(1)
        history.last.append(len(history.lengths))
        history.bits[0] += 1
        return len(history.lengths) + history.last[-1] + history.bits[0]


class Layer:
    """As a layer of a cache of keys and values."""

    def __init__(self) -> None:
        self.keys: list[Tensor] = []


class Cache:
    def __init__(self) -> None:
        self.layers = [Layer(), Layer()]


class InCache(Net):
    def __init__(self) -> None:
        super().__init__()
        self.cache = Cache()

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        a, v = super().encoded(x)
        keys = self.cache.layers[1].keys
        keys.append(a.detach())
        return a + torch.stack(keys).sum(0), v


class LargeTable(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.kept: dict[int, list[int]] = {i: [] for i in range(3000)}

    def step(self) -> float:
        self.kept[7].append(1)
        return len(self.kept[7])


class PlainTensor(Scaled):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(2)

    def step(self) -> float:
        self.kept += 1
        return float(self.kept[0])


class TowerInAList(Net):
    def __init__(self) -> None:
        super().__init__()
        self.slow = [copy.deepcopy(self.a).double().requires_grad_(False)]

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            for slow, fast in zip(self.slow[0].parameters(), self.a.parameters(), strict=True):
                slow.mul_(0.9).add_(fast + 1, alpha=0.1)
        a, v = super().encoded(x)
        return a + self.slow[0](x["a"]), v


class Temperature(Net):
    """A weight with gradient that the forward moves by its data."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = nn.Parameter(torch.ones(()))

    def forward(self, x: dict[str, Any]) -> Tensor:
        self.kept.data.mul_(0.9)
        return super().forward(x) / self.kept


class Renormalised(Net):
    def forward(self, x: dict[str, Any]) -> Tensor:
        with torch.no_grad():
            self.out.weight.copy_(F.normalize(self.out.weight, dim=1) * 1.5)
        return super().forward(x)


class Generators(Net):
    """Generators of every kind, drawn from in each call."""

    def __init__(self) -> None:
        super().__init__()
        self.kept = {
            "torch": torch.Generator().manual_seed(3),
            "python": random.Random(3),
            "numpy": np.random.default_rng(3),
            "legacy": np.random.RandomState(3),
        }

    def __deepcopy__(self, memo: dict[int, Any]) -> Generators:
        twin = Generators().double()
        twin.load_state_dict(self.state_dict())
        twin.train(self.training)
        twin.kept["torch"].set_state(self.kept["torch"].get_state())
        for name in ("python", "numpy", "legacy"):
            twin.kept[name] = copy.deepcopy(self.kept[name])
        return twin

    def drawn(self) -> list[float]:
        drawn = [
            self.kept["python"].random(),
            self.kept["numpy"].random(),
            self.kept["legacy"].rand(),
        ]
        return [*drawn, float(torch.rand((), generator=self.kept["torch"]))]

    def forward(self, x: dict[str, Any]) -> Tensor:
        return super().forward(x) * (1 + sum(self.drawn()))


class BufferInTraining(Net):
    """Written in place, or put in another's place, in training passes alone: one rule for both."""

    rebinds = False

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("centre", torch.zeros(6))

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        a, v = super().encoded(x)
        if self.training:
            new = 0.5 * self.centre + 0.5 * a.detach().mean(0)
            if self.rebinds:
                self.centre = new
            else:
                self.centre.copy_(new)
        return a - self.centre, v


class BufferReboundInTraining(BufferInTraining):
    rebinds = True


class PlainTensorInTraining(Net):
    def __init__(self) -> None:
        super().__init__()
        self.kept = torch.zeros(6).double()

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        a, v = super().encoded(x)
        if self.training:
            self.kept.add_(a.detach().mean(0))
        return a - self.kept, v


class SpectralNorm(Net):
    def __init__(self) -> None:
        super().__init__()
        nn.utils.parametrizations.spectral_norm(self.joint)


STATE: dict[type[Net], Callable[[Any], Any]] = {
    Array: lambda net: net.kept.tolist(),
    LargeArray: lambda net: net.kept.tolist(),
    InSlots: lambda net: net.kept,
    InDataclass: lambda net: net.kept,
    InCache: lambda net: [[key.tolist() for key in layer.keys] for layer in net.cache.layers],
    LargeTable: lambda net: net.kept,
    PlainTensor: lambda net: net.kept.tolist(),
    TowerInAList: lambda net: [p.tolist() for p in net.slow[0].parameters()],
    Temperature: lambda net: net.kept.item(),
    Renormalised: lambda net: net.out.weight.tolist(),
    Generators: lambda net: net.drawn(),
    BufferInTraining: lambda net: net.centre.tolist(),
    BufferReboundInTraining: lambda net: net.centre.tolist(),
    PlainTensorInTraining: lambda net: net.kept.tolist(),
    SpectralNorm: lambda net: [buffer.tolist() for buffer in net.buffers()],
}


def data(seed: int = 7) -> tuple[dict[str, Tensor], Tensor]:
    generator = torch.Generator().manual_seed(seed)
    inputs = {m: torch.randn(8, n, generator=generator).double() for m, n in (("a", 5), ("v", 4))}
    return inputs, torch.randint(3, (8,), generator=generator)


def error_of_a_step(model: ModulatedModel, net: nn.Module, inputs: Any, target: Tensor) -> float:
    """The largest difference from a brute-force step on `net`, relative to the largest gradient."""
    expected, _ = brute_force_step(net, lambda n, x: n(x), inputs, target, TWO, 1.5, zeroed)
    F.cross_entropy(model(fresh(inputs), target), target).backward()
    parameters = dict(model.model.named_parameters())
    largest = max(float(g.abs().max()) for g in expected.values())
    found = {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in parameters.items()}
    return max(float((found[n] - g).abs().max()) for n, g in expected.items()) / largest


@pytest.mark.parametrize("coalitions", ["auto", "looped"])
@pytest.mark.parametrize("kind", STATE)
def test_gradients_are_those_of_brute_force_and_state_that_of_one_call(
    kind: type[Net], coalitions: str
) -> None:
    torch.manual_seed(0)
    net = kind().double()
    plain, (inputs, target) = copy.deepcopy(net), data()
    model = ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5), coalitions=coalitions)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coalitions of")
        assert error_of_a_step(model, net, inputs, target) < 1e-9
    plain(fresh(inputs))
    assert STATE[kind](model.model) == STATE[kind](plain)


@pytest.mark.parametrize("kind", STATE)
def test_the_check_leaves_everything_as_it_was(kind: type[Net]) -> None:
    torch.manual_seed(0)
    net = kind().double()
    expected = STATE[kind](copy.deepcopy(net)) if kind is not InSlots else 0
    places = {name: tensor.data_ptr() for name, tensor in net.state_dict().items()}
    values = copy.deepcopy(net.state_dict())
    numbers = torch.get_rng_state(), random.getstate()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "coalitions of")
        ModulatedModel(net, AGM(TWO)).check_network(data()[0])
    assert torch.equal(torch.get_rng_state(), numbers[0])
    assert random.getstate() == numbers[1]
    assert {name: tensor.data_ptr() for name, tensor in net.state_dict().items()} == places
    assert all(torch.equal(tensor, values[name]) for name, tensor in net.state_dict().items())
    assert (STATE[kind](net) if kind is not InSlots else net.kept.count) == expected


def test_what_is_moved_only_later_is_said_by_name_and_right_from_the_next_step_on() -> None:
    class Late(BufferInTraining):
        def train(self, mode: bool = True) -> Late:
            super().train(mode)
            return self

        def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
            a, v = Net.encoded(self, x)
            if self.training and x["late"].any():
                self.centre.add_(a.detach().mean(0))
            return a - self.centre, v

    torch.manual_seed(0)
    net, (inputs, target) = Late().double(), data()
    model = ModulatedModel(net, AGM(TWO, alpha=1.5), coalitions="looped")
    model({**inputs, "late": torch.zeros(8, 1)}, target).sum().backward()
    inputs["late"] = torch.ones(8, 1)
    with pytest.warns(
        UserWarning, match="changed 'centre' in place, which it did not do when it was looked at"
    ):
        model(inputs, target).sum().backward()
    net.zero_grad()
    model.method = AGM(TWO, alpha=1.5)  # its running means begin anew, as the oracle's do
    assert error_of_a_step(model, copy.deepcopy(net), inputs, target) < 1e-9


class Gate(Net):
    """encode, fuse and head, and a gate that is shut at first."""

    start = 0.0

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": self.a, "v": self.v})
        self.gate = nn.Parameter(torch.tensor(self.start))

    def encode(self, name: str, x: Tensor) -> Tensor:
        return self.encoders[name](x)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        return self.joint(torch.cat([features["a"], features["v"]], 1)).relu()

    def head(self, joint: Tensor) -> Tensor:
        return self.out(joint)

    def forward(self, x: dict[str, Any]) -> Tensor:
        features = {m: self.encode(m, x[m]) for m in TWO}
        return self.out(
            self.fuse(features)
            + (self.gate - self.start * self.start) * features["a"] * features["v"]
        )


class GateAtOne(Gate):
    start = 1.0


class Couples(Net):
    """Takes the batch's mean off, in eval mode too."""

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        a, v = super().encoded(x)
        return a - a.mean(0), v


class HeadOfZeros(Couples):
    def __init__(self) -> None:
        super().__init__()
        nn.init.zeros_(self.out.weight)


class Augments(Gate):
    """Draws, with a probability, in `encode`; not in the first step."""

    def encode(self, name: str, x: Tensor) -> Tensor:
        if self.training and random.random() < 0.5:
            x = x + torch.randn_like(x)
        return super().encode(name, x)

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, x[m]) for m in TWO}))


def first_draws(seed: int) -> list[float]:
    draw = random.Random(seed)
    return [draw.random() for _ in range(8)]


QUIET = next(seed for seed in range(10_000) if min(first_draws(seed)) > 0.5)
"""A seed with which nothing is augmented at first."""


@pytest.mark.parametrize(
    ("kind", "expected", "words"),
    [
        (Gate, "batched", "'reuse' differs .*parameters that start at one value moved"),
        (GateAtOne, "batched", "'reuse' differs .*parameters that start at one value moved"),
        (HeadOfZeros, "looped", "'batched' differs .*parameters that start at one value moved"),
        (
            Augments,
            "batched",
            "'reuse' takes the features of 'a', 'v' .* where encode draws random numbers",
        ),
    ],
)
def test_what_does_nothing_on_the_first_batch_is_seen(
    kind: type[Net], expected: str, words: str
) -> None:
    torch.manual_seed(0)
    random.seed(QUIET)
    net, (inputs, target) = kind().double(), data()
    model = ModulatedModel(net, AGM(TWO, alpha=1.5))
    with pytest.warns(UserWarning, match=words):
        model(fresh(inputs), target)
    assert model.strategy.name == expected


def test_a_silent_first_batch_hides_no_coupling() -> None:
    torch.manual_seed(0)
    inputs, target = data()
    model = ModulatedModel(Couples().double(), AGM(TWO))
    with pytest.warns(UserWarning, match=r"'batched' differs .*noise in silent inputs"):
        model({"a": torch.zeros_like(inputs["a"]), "v": inputs["v"]}, target)
    assert model.strategy.name == "looped"


@pytest.mark.parametrize("how", [torch.bfloat16, torch.float16, "autocast"])
def test_16_bits_hide_no_coupling_and_give_no_false_alarm(how: Any) -> None:
    class CouplesALittle(Couples):
        def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
            a, v = Net.encoded(self, x)
            return a - 0.2 * a.mean(0), v

    dtype = torch.float32 if how == "autocast" else how
    inputs, target = data()
    inputs = {m: x.to(dtype) for m, x in inputs.items()}
    for kind, expected in ((Net, "batched"), (CouplesALittle, "looped")):
        torch.manual_seed(0)
        model = ModulatedModel(kind().to(dtype), AGM(TWO))
        before = {
            name: (tensor.data_ptr(), tensor.dtype)
            for name, tensor in model.model.state_dict().items()
        }
        with (
            warnings.catch_warnings(),
            torch.autocast("cpu", torch.bfloat16, enabled=how == "autocast"),
        ):
            warnings.filterwarnings("ignore", "coalitions of")
            model(inputs, target)
        assert model.strategy.name == expected
        after = {
            name: (tensor.data_ptr(), tensor.dtype)
            for name, tensor in model.model.state_dict().items()
        }
        assert after == before


def test_a_later_step_is_looked_at_again() -> None:
    class Later(Gate):
        def fuse(self, features: dict[str, Tensor]) -> Tensor:
            self.gate.data.add_(0)
            return super().fuse(features)

        def forward(self, x: dict[str, Any]) -> Tensor:
            return (
                super().forward(x)
                if x["late"].any()
                else self.head(self.fuse({m: self.encode(m, x[m]) for m in TWO}))
            )

    torch.manual_seed(0)
    net, (inputs, target) = Later().double(), data()
    model = ModulatedModel(net, AGM(TWO))
    for _ in range(9):
        model({**inputs, "late": torch.zeros(8, 1)}, target).sum().backward()
    assert model.strategy.name == "reuse"
    net.gate.data.fill_(1.0)
    with pytest.warns(UserWarning, match="evaluated by 'batched'.*'reuse' differs"):
        model({**inputs, "late": torch.ones(8, 1)}, target)


def test_batch_norm_that_others_move_before_the_backward_changes_no_gradient() -> None:
    torch.manual_seed(0)
    base, (inputs, target) = Net().double(), data()
    base.a.append(nn.BatchNorm1d(6).double())
    gradients = []
    for coalitions in ("looped", "batched"):
        for moves in (False, True):
            net = copy.deepcopy(base)
            out = ModulatedModel(net, AGM(TWO, alpha=1.5), coalitions=coalitions)(inputs, target)
            if moves:
                net(data(9)[0])
            F.cross_entropy(out, target).backward()
            gradients.append([p.grad for p in net.parameters()])
    for other in gradients[1:]:
        for one, two in zip(gradients[0], other, strict=True):
            torch.testing.assert_close(one, two, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("declares", [False, True])
def test_a_constant_tensor_of_a_modality_stays_one_when_a_batch_has_as_many_samples(
    declares: bool,
) -> None:
    class Prototypes(Gate):
        mask_is_constant = True

        def mask(self, modality: str, x: Any) -> Any:
            return {**x, "x": torch.zeros_like(x["x"])} if modality == "a" else torch.zeros_like(x)

        def encode(self, name: str, x: Any) -> Tensor:
            if name == "a":
                x = (x["x"] @ x["p"].T).softmax(1).amax(1, keepdim=True).expand(-1, 5)
            return super().encode(name, x)

        def forward(self, x: dict[str, Any]) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, x[m]) for m in TWO}))

    class Undeclared(Prototypes):
        def __init__(self) -> None:
            super().__init__()
            del self.encoders

        def encode(self, name: str, x: Any) -> Tensor:  # type: ignore[override]
            if name == "a":
                x = (x["x"] @ x["p"].T).softmax(1).amax(1, keepdim=True).expand(-1, 5)
            return getattr(self, name)(x)

    torch.manual_seed(0)
    (inputs, target), prototypes = data(), torch.randn(5, 5).double()
    net = (Prototypes if declares else Undeclared)().double()
    model = ModulatedModel(net, AGM(TWO, alpha=1.5))
    model({"a": {"x": inputs["a"], "p": prototypes}, "v": inputs["v"]}, target).sum().backward()
    last = {"a": {"x": inputs["a"][:5], "p": prototypes}, "v": inputs["v"][:5]}
    looped = (
        ModulatedModel(copy.deepcopy(net), AGM(TWO), coalitions="looped").responses(last).responses
    )
    torch.testing.assert_close(model.responses(last).responses, looped, rtol=1e-9, atol=1e-12)
    assert model.strategy.name == ("reuse" if declares else "batched")


class SharedEncoder(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        both = nn.Linear(5, 6)
        self.encoders, self.out = nn.ModuleDict({"a": both, "v": both}), nn.Linear(6, 3)

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.out((self.encoders["a"](x["a"]) * self.encoders["v"](x["v"])).tanh())


def test_modalities_may_share_an_encoder_where_the_method_does_nothing_to_it() -> None:
    torch.manual_seed(0)
    net, (inputs, target) = SharedEncoder().double(), data()
    inputs["v"] = torch.randn(8, 5).double()
    assert (
        error_of_a_step(
            ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5)), net, inputs, target
        )
        < 1e-9
    )

    one = adapt(
        net,
        encoders={"a": net.encoders["a"], "v": net.encoders["v"]},
        fuse=lambda n, f: (f["a"] * f["v"]).tanh(),
        head=lambda n, h: n.out(h),
    )
    model = ModulatedModel(one, AGM(TWO, alpha=1.5))
    model(inputs, target).sum().backward()
    assert model.strategy.name == "reuse"
    for network in (net, one):
        with pytest.raises(
            ValueError, match="parameter 'weight' of the encoder of 'v' also belongs to"
        ):
            ModulatedModel(network, OGMGE(TWO))


@pytest.mark.parametrize("select", [lambda out: out["logits"], lambda out: out[0]])
def test_logits_beside_something_in_train_mode_and_alone_in_eval_mode(
    select: Callable[[Any], Tensor],
) -> None:
    named = select({"logits": 1, 0: 2}) == 1

    class Auxiliary(Net):
        def forward(self, x: dict[str, Any]) -> Any:  # type: ignore[override]
            logits = super().forward(x)
            if not self.training:
                return logits
            return {"logits": logits, "aux": logits * 2} if named else (logits, logits * 2)

    torch.manual_seed(0)
    net, (inputs, target) = Auxiliary().double(), data()
    model = ModulatedModel(adapt(net, logits=select), AGM(TWO, alpha=1.5))
    F.cross_entropy(select(model(inputs, target)), target).backward()
    plain = Net().double()
    plain.load_state_dict(net.state_dict())
    expected, _ = brute_force_step(plain, lambda n, x: n(x), inputs, target, TWO, 1.5, zeroed)
    for name, parameter in net.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-9, atol=1e-12)
    assert isinstance(model.eval()(inputs), Tensor)


def test_a_plain_network_is_looked_at_no_longer_than_its_modules() -> None:
    """State of a network without any costs nothing that grows with what others might keep."""
    state = NetworkState(Net())
    assert not state._others
    assert not state._copies
    assert not state._versions
    assert state.give_copies(Net()) == []
