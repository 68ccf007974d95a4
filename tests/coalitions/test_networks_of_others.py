"""AGM around networks that keep state, write into inputs, recompute: the gradients of a brute-force AGM, state kept."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from gradmod import AGM, ModulatedModel, adapt
from gradmod.coalitions.masking import zeroed
from oracles import brute_force_step, fresh

TWO = ("a", "v")
pytestmark = pytest.mark.filterwarnings("ignore:None of the inputs have requires_grad")


class Net(nn.Module):
    """Two encoders, a fusion with a non-linear layer; subclasses add what networks of others do."""

    layer: Callable[[], nn.Module] = nn.Identity

    def __init__(self) -> None:
        super().__init__()
        self.a, self.v = (nn.Sequential(nn.Linear(n, 6), self.layer(), nn.Tanh()) for n in (5, 4))
        self.joint, self.out = nn.Linear(12, 6), nn.Linear(6, 3)

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.a(x["a"]), self.v(x["v"])

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.out(self.joint(torch.cat(self.encoded(x), 1)).relu())


class Plain(Net):
    pass


class BatchNorm(Net):
    layer = staticmethod(lambda: nn.BatchNorm1d(6))


class BatchNormWithoutStatistics(Net):
    layer = staticmethod(lambda: nn.BatchNorm1d(6, track_running_stats=False))


class KeepsFeatures(Net):
    """Features on self, a list that grows, a dict in a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.seen: list[Tensor] = []
        self.store: dict[str, Any] = {"last": {}}
        self.calls = 0

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        self.rep_a, self.rep_v = super().encoded(x)
        self.seen.append(self.rep_a)
        self.store["last"]["v"] = self.rep_v
        self.calls += 1
        return self.rep_a, self.rep_v


class MovesState(Net):
    """A momentum tower, a queue, a counter: not conditioned on `self.training`."""

    def __init__(self) -> None:
        super().__init__()
        # Equal at first: the first update changes nothing.
        self.slow = copy.deepcopy(self.a).requires_grad_(False)
        self.register_buffer("queue", torch.zeros(64, 6, dtype=torch.float64))
        self.register_buffer("at", torch.zeros((), dtype=torch.long))

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            for slow, fast in zip(self.slow.parameters(), self.a.parameters(), strict=True):
                slow.data.mul_(0.9).add_(fast.data, alpha=0.1)
            keys = self.slow(x["a"])
            at = int(self.at)
            self.queue[at : at + len(keys)] = keys
            self.at += len(keys)
        return super().encoded(x)


class Recurrent(Net):
    """A recurrent state on self, carried from batch to batch; a schedule that counts forwards."""

    def __init__(self) -> None:
        super().__init__()
        self.cell = nn.GRUCell(5, 5)
        self.state: Tensor | None = None
        self.forwards = 0
        self.register_buffer("trace", torch.zeros(8, 5))

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        state = torch.ones_like(x["a"]) if self.state is None else self.state
        self.forwards += 1
        state = self.cell(x["a"], state + self.trace) / self.forwards
        self.trace.copy_(state.detach())
        self.state = state.detach()
        return self.a(state), self.v(x["v"])


class WritesDict(Net):
    def forward(self, x: dict[str, Any]) -> Tensor:
        x["a"] = x["a"] * 3 - 1
        return super().forward(x)


class WritesInPlace(Net):
    def forward(self, x: dict[str, Any]) -> Tensor:
        x["a"].mul_(3).sub_(1)
        return super().forward(x)


class WritesInPlaceUnseen(Net):
    def forward(self, x: dict[str, Any]) -> Tensor:
        x["a"].data.mul_(3)  # past the version counter
        return super().forward(x)


class Pops(Net):
    def forward(self, x: dict[str, Any]) -> Tensor:
        scale = x.pop("scale")
        x["extra"].append(1.0)
        return super().forward({"a": x.pop("a") * scale + sum(x["extra"]), "v": x["v"]})


class InPlaceActivation(Net):
    layer = staticmethod(lambda: nn.LeakyReLU(0.1, inplace=True))


class NamedAlike(Net):
    """encode, fuse, head, encoders that are not what gradmod means by them."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({"a": self.a, "v": self.v})
        self.head = self.out

    def encode(self, name: str, x: Tensor) -> Tensor:
        return self.encoders[name](x)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        return self.joint(torch.cat([features["a"], features["v"]], 1))  # forward has a relu more

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.out(
            self.joint(torch.cat([self.encode("a", x["a"]), self.encode("v", x["v"])], 1)).relu()
        )


class MeansSomethingElse(Net):
    """Attributes of the same names: a number, a list of blocks, a parameter."""

    def __init__(self) -> None:
        super().__init__()
        self.heads = 8
        self.encoders = nn.ModuleList([nn.Linear(2, 2)])
        self.mask = nn.Parameter(torch.zeros(3, dtype=torch.float64))


class HasAMaskMethod(Net):
    def mask(self, x: Tensor) -> Tensor:
        raise AssertionError("not for gradmod")


class DropoutInEncode(NamedAlike):
    """Declared as meant, but with functional dropout outside the encoders."""

    def encode(self, name: str, x: Tensor) -> Tensor:
        return F.dropout(self.encoders[name](x), 0.5, self.training)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        return self.joint(torch.cat([features["a"], features["v"]], 1)).relu()


class InPlaceFuse(NamedAlike):
    def __init__(self) -> None:
        super().__init__()
        for m in TWO:
            self.encoders[m][2] = nn.Identity()  # a tanh needs its output for the backward

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        joined = torch.cat([F.leaky_relu_(features["a"], 0.1), features["v"].mul_(2)], 1)
        return self.joint(joined).relu()

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.out(self.fuse({m: self.encode(m, x[m]) for m in TWO}))


class HookedEncoder(InPlaceFuse):
    """A known type of encoder with a hook that looks at the mode."""

    def __init__(self) -> None:
        super().__init__()
        self.a[0].register_forward_hook(lambda module, _, out: out * 2 if module.training else out)

    def fuse(self, features: dict[str, Tensor]) -> Tensor:
        return self.joint(torch.cat([features["a"], features["v"]], 1)).relu()


class CouplesSamples(Net):
    """Takes the mean of the batch off, in eval mode as well."""

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        a, v = super().encoded(x)
        return a - a.mean(0), v


class Prompts(Net):
    """An input that is no modality, with as many rows as the batch by accident."""

    def forward(self, x: dict[str, Any]) -> Tensor:
        return super().forward(x) * x["prompts"].sum(0)


class ListsOfSamples(Net):
    """A list of B tensors of different lengths."""

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.a(torch.stack([rows.mean(0) for rows in x["a"]])), self.v(x["v"])


class TimeFirst(Net):
    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        return self.a(x["a"].mean(0)), self.v(x["v"].mean(0))


def inputs_of(kind: type[Net]) -> dict[str, Any]:
    torch.manual_seed(7)
    x: dict[str, Any] = {"a": torch.randn(8, 5).double(), "v": torch.randn(8, 4).double()}
    if kind is Pops:
        x |= {"scale": torch.rand(8, 1).double() + 1, "extra": [0.5]}
    if kind is Prompts:
        x["prompts"] = torch.randn(8, 3).double()
    if kind is ListsOfSamples:
        x["a"] = [torch.randn(1 + i % 3, 5).double() for i in range(8)]
    if kind is TimeFirst:
        x = {m: rows.repeat(6, 1, 1) * torch.rand(6, 1, 1).double() for m, rows in x.items()}
    return x


KINDS = [
    *(
        Plain,
        BatchNorm,
        BatchNormWithoutStatistics,
        KeepsFeatures,
        MovesState,
        Recurrent,
        WritesDict,
        WritesInPlace,
    ),
    *(
        WritesInPlaceUnseen,
        Pops,
        InPlaceActivation,
        NamedAlike,
        MeansSomethingElse,
        HasAMaskMethod,
        DropoutInEncode,
    ),
    *(InPlaceFuse, HookedEncoder, CouplesSamples, Prompts, ListsOfSamples, TimeFirst),
]
SAYS_SO = {
    *(NamedAlike, DropoutInEncode, CouplesSamples, Prompts, ListsOfSamples, TimeFirst, Recurrent),
    BatchNormWithoutStatistics,  # takes the batch's own, so that its samples do not stay apart
}


class MovesByData(Net):
    """A temperature that is learned, a scale that is no buffer: both moved in training passes, past their versions."""

    def __init__(self) -> None:
        super().__init__()
        self.temperature = nn.Parameter(torch.ones(3))
        self.scale = torch.ones(())

    def forward(self, x: dict[str, Any]) -> Tensor:
        if self.training:
            self.temperature.data.mul_(0.5)
            self.scale.data.add_(1.0)
        return super().forward(x) * self.temperature * self.scale


@pytest.mark.parametrize("coalitions", ["auto", "looped"])
def test_the_check_of_the_first_step_moves_nothing_by_its_data(coalitions: str) -> None:
    torch.manual_seed(0)
    net, target = MovesByData().double(), torch.randint(3, (8,))
    model = ModulatedModel(net, AGM(TWO, alpha=1.5), coalitions=coalitions)
    for step in (1, 2):
        model(inputs_of(Plain), target).sum().backward()
        assert net.temperature.tolist() == [0.5**step] * 3
        assert float(net.scale) == 1.0 + step


def assert_same_gradients(
    model: ModulatedModel, net: nn.Module, inputs: Any, target: Tensor
) -> None:
    """The step of `model`, whose network is a copy of `net`, against the brute-force one."""
    torch.manual_seed(3)
    expected, coefficients = brute_force_step(
        net, lambda n, x: n(x), inputs, target, TWO, 1.5, zeroed
    )
    torch.manual_seed(3)
    F.cross_entropy(model(fresh(inputs), target), target).backward()
    assert model.last_step is not None
    torch.testing.assert_close(model.last_step.coefficients, coefficients, rtol=1e-9, atol=1e-9)
    for name, parameter in model.model.named_parameters():
        ours = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(ours, expected[name], rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("coalitions", ["auto", "looped"])
@pytest.mark.parametrize("kind", KINDS)
def test_gradients_are_those_of_a_brute_force_agm(kind: type[Net], coalitions: str) -> None:
    torch.manual_seed(0)
    net, inputs, target = kind().double(), inputs_of(kind), torch.randint(3, (8,))
    model = ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5), coalitions=coalitions)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        assert_same_gradients(model, net, inputs, target)
    assert any("coalitions" in str(w.message) for w in said) == (
        kind in SAYS_SO and coalitions == "auto"
    )


@pytest.mark.parametrize("kind", KINDS)
def test_a_step_leaves_the_state_of_one_call(kind: type[Net]) -> None:
    """Buffers, moved parameters, attributes, inputs: after the step as after `net(inputs)`."""
    torch.manual_seed(0)
    plain, inputs, target = kind().double(), inputs_of(kind), torch.randint(3, (8,))
    model = ModulatedModel(copy.deepcopy(plain), AGM(TWO, alpha=1.5))
    for _ in range(2):
        given = fresh(inputs)
        torch.manual_seed(3)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            value = model(given, target)
        torch.manual_seed(3)
        torch.testing.assert_close(value, plain(fresh(inputs)), rtol=0, atol=1e-12)
        value.sum().backward()
        if kind is not WritesInPlace and kind is not WritesInPlaceUnseen:
            continue
        assert torch.equal(given["a"], inputs["a"])  # the caller's tensors are not written into
    for (name, ours), theirs in zip(
        model.model.state_dict().items(), plain.state_dict().values(), strict=True
    ):
        torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-12, msg=name)
    net: Any = model.model
    if kind is KeepsFeatures:
        assert net.calls == plain.calls == 2
        assert [torch.equal(a, b) for a, b in zip(net.seen, plain.seen, strict=True)] == [
            True,
            True,
        ]
        assert torch.equal(net.rep_a, plain.rep_a)
        assert torch.equal(net.store["last"]["v"], plain.store["last"]["v"])


def test_what_hooks_captured_is_that_of_the_full_pass() -> None:
    torch.manual_seed(0)
    net = Plain().double()
    captured: dict[str, Tensor] = {}
    seen: list[Tensor] = []
    net.a.register_forward_hook(lambda m, i, o: captured.__setitem__("a", o))
    net.v.register_forward_hook(lambda m, i, o: seen.append(o))
    inputs = inputs_of(Plain)
    for strategy in ("batched", "looped"):
        seen.clear()
        model = ModulatedModel(net, AGM(TWO, alpha=1.5), coalitions=strategy)
        model(fresh(inputs), torch.randint(3, (8,)))
        assert torch.equal(captured["a"], net.a(inputs["a"]))
        assert len(seen) == 1
        assert torch.equal(seen[0], net.v(inputs["v"]))
        net.v(inputs["v"])


def test_two_inputs_of_the_same_length_as_the_batch_are_told_apart_later() -> None:
    """A constant extra input stays one when the last batch happens to have as many samples as it has rows."""
    torch.manual_seed(0)
    net = Prompts().double()
    model = ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5))
    prompts = torch.randn(3, 3).double()
    inputs = inputs_of(Plain)
    model({**inputs, "prompts": prompts}, torch.randint(3, (8,))).sum().backward()
    assert model.strategy.name == "batched"
    last = {m: x[:3] for m, x in inputs.items()} | {"prompts": prompts}
    responses = model.responses(last).responses
    looped = ModulatedModel(net, AGM(TWO, alpha=1.5), coalitions="looped").responses(last).responses
    torch.testing.assert_close(responses, looped, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("batch_axis", [1, {"a": 1, "v": 1}])
def test_a_batch_axis_that_is_said_lets_coalitions_be_stacked(batch_axis: Any) -> None:
    torch.manual_seed(0)
    net, inputs, target = TimeFirst().double(), inputs_of(TimeFirst), torch.randint(3, (8,))
    model = ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5), batch_axis=batch_axis)
    assert_same_gradients(model, net, inputs, target)
    assert model.strategy.name == "batched"


def test_a_strategy_asked_for_by_name_that_is_not_right_is_refused() -> None:
    target = torch.randint(3, (8,))
    for kind, strategy in (
        (CouplesSamples, "batched"),
        (NamedAlike, "reuse"),
        (DropoutInEncode, "reuse"),
    ):
        torch.manual_seed(0)
        model = ModulatedModel(kind().double(), AGM(TWO), coalitions=strategy)
        with pytest.raises(
            ValueError, match=rf"coalitions='{strategy}' differs from looping .*'looped' takes any"
        ):
            model(inputs_of(kind), target)
    with pytest.raises(ValueError, match="batch_axis is"):
        ModulatedModel(InPlaceFuse(), AGM(TWO), coalitions="reuse", batch_axis=1)
    with pytest.raises(ValueError, match=r"batch_axis is \{'a': -1\}"):
        ModulatedModel(Plain(), AGM(TWO), batch_axis={"a": -1})


def test_without_the_check_names_alone_decide_nothing() -> None:
    torch.manual_seed(0)
    net, inputs, target = NamedAlike().double(), inputs_of(NamedAlike), torch.randint(3, (8,))
    model = ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5), check=False)
    assert_same_gradients(model, net, inputs, target)


def test_without_the_check_what_is_changed_in_place_is_refused() -> None:
    target = torch.randint(3, (8,))
    with pytest.raises(RuntimeError, match=r"changed an input of shape \[8, 5\] in place"):
        ModulatedModel(WritesInPlace().double(), AGM(TWO), check=False)(
            inputs_of(WritesInPlace), target
        )
    with pytest.raises(RuntimeError, match=r"a masked pass changed '(at|queue)' in place"):
        ModulatedModel(MovesState().double(), AGM(TWO), check=False)(inputs_of(MovesState), target)


def test_the_check_changes_nothing() -> None:
    torch.manual_seed(0)
    net, inputs = MovesState().double(), inputs_of(MovesState)
    model = ModulatedModel(net, AGM(TWO, alpha=1.5))
    before, random = copy.deepcopy(model.state_dict()), torch.get_rng_state()
    bindings = dict(net.named_parameters()) | dict(net.named_buffers())
    assert model.check_network(inputs) == "batched"
    assert torch.equal(torch.get_rng_state(), random)
    for name, value in model.state_dict().items():
        assert torch.equal(value, before[name]), name
    after = dict(net.named_parameters()) | dict(net.named_buffers())
    assert all(after[name] is tensor for name, tensor in bindings.items())
    assert "slow.0.weight" in model.strategy._candidates[0].habits.moves


class Recomputes(Net):
    """Encoders under activation checkpointing that does not ask `self.training`."""

    kind: str | None = None

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        if self.kind is None:
            return super().encoded(x)
        reentrant = self.kind == "reentrant"
        return tuple(
            checkpoint(net, x[m], use_reentrant=reentrant)
            for m, net in (("a", self.a), ("v", self.v))
        )


class RecomputesWithBatchNorm(Recomputes):
    layer = staticmethod(lambda: nn.BatchNorm1d(6))


class RecomputesWithDropout(Recomputes):
    layer = staticmethod(lambda: nn.Dropout(0.5))


@pytest.mark.parametrize("coalitions", ["batched", "looped"])
@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
@pytest.mark.parametrize("network", [Recomputes, RecomputesWithBatchNorm, RecomputesWithDropout])
def test_activation_checkpointing_changes_no_gradient(
    network: type[Recomputes], kind: str, coalitions: str
) -> None:
    inputs = {m: x.requires_grad_() for m, x in inputs_of(Plain).items()}
    target = torch.randint(3, (8,))
    gradients = []
    for how in (None, kind):
        torch.manual_seed(0)
        net = network().double()
        net.kind = how
        model = ModulatedModel(net, AGM(TWO, alpha=1.5), coalitions=coalitions)
        for _ in range(2):
            torch.manual_seed(3)
            model.zero_grad()
            F.cross_entropy(model(fresh(inputs), target), target).backward()
        gradients.append([p.grad for p in net.parameters()])
        assert all(module.training for module in net.modules())
    for ours, expected in zip(*gradients, strict=True):
        # Batch norm counts a batch twice when it is recomputed, with joint training too: then the second step differs.
        tolerance = 1e-2 if network is RecomputesWithBatchNorm else 1e-9
        torch.testing.assert_close(ours, expected, rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_a_recomputed_masked_pass_sees_the_statistics_of_its_own_step(kind: str) -> None:
    """The network itself is called between forward and backward, which moves its running statistics."""
    inputs = {m: x.requires_grad_() for m, x in inputs_of(Plain).items()}
    target = torch.randint(3, (8,))
    gradients = []
    for how in (None, kind):
        torch.manual_seed(0)
        net = RecomputesWithBatchNorm().double()
        net.kind = how
        loss = F.cross_entropy(
            ModulatedModel(net, AGM(TWO, alpha=1.5))(fresh(inputs), target), target
        )
        if how is not None:
            with torch.no_grad():
                net({m: 3 * x + 2 for m, x in inputs.items()})
        loss.backward()
        gradients.append([p.grad for p in net.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", ["reentrant", "non-reentrant"])
def test_a_recomputed_masked_pass_sees_the_statistics_of_the_forward(kind: str) -> None:
    inputs = {m: x.requires_grad_() for m, x in inputs_of(Plain).items()}
    target = torch.randint(3, (8,))
    gradients = []
    for how in (None, kind):
        torch.manual_seed(0)
        net = RecomputesWithBatchNorm().double()
        net.kind = how
        F.cross_entropy(
            ModulatedModel(net, AGM(TWO, alpha=1.5))(fresh(inputs), target), target
        ).backward()
        gradients.append([p.grad for p in net.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-9, atol=1e-12)


class KeepsItsLoss(Net):
    """The loop's loss is computed in the network and kept there; nobody holds the logits that it came from."""

    def forward(self, x: dict[str, Any]) -> dict[str, Tensor]:  # type: ignore[override]
        logits = super().forward(x)
        self.loss = F.cross_entropy(logits, x["labels"])
        return {"logits": logits, "log_probs": logits.log_softmax(1)}


@pytest.mark.parametrize("how", ["kept", "log_probs"])
def test_a_loss_past_the_logits_is_refused_whoever_holds_them(how: str) -> None:
    torch.manual_seed(0)
    net, target = KeepsItsLoss().double(), torch.randint(3, (8,))
    inputs = {**inputs_of(Plain), "labels": target}
    model = ModulatedModel(adapt(net, logits=lambda out: out["logits"]), AGM(TWO, alpha=1.5))
    out = model(inputs, target)
    with pytest.raises(RuntimeError, match="went past the logits"):
        (net.loss if how == "kept" else F.nll_loss(out["log_probs"], target)).backward()


class OverridesTrain(Net):
    """A flag of its own that follows the mode."""

    noisy = True

    def train(self, mode: bool = True) -> OverridesTrain:
        super().train(mode)
        self.noisy = mode
        return self

    def encoded(self, x: dict[str, Any]) -> tuple[Tensor, Tensor]:
        a, v = super().encoded(x)
        return (a * 2 if self.noisy else a), v


class OneClassRuledOut(NamedAlike):
    """A class at -1e9, beside which every difference is small."""

    def forward(self, x: dict[str, Any]) -> Tensor:
        out = super().forward(x)
        return out + torch.tensor([0.0, 0.0, -1e9], dtype=out.dtype)


class TakesGradients(Net):
    """Takes a gradient in its forward, and hooks one."""

    def forward(self, x: dict[str, Any]) -> Tensor:
        a, v = self.encoded(x)
        a.register_hook(lambda g: g)
        (slope,) = torch.autograd.grad(v.square().sum(), v, create_graph=True)
        return self.out(self.joint(torch.cat([a, slope], 1)).relu())


@pytest.mark.filterwarnings("ignore:coalitions of")
@pytest.mark.parametrize("coalitions", ["auto", "looped"])
@pytest.mark.parametrize("kind", [OverridesTrain, OneClassRuledOut, TakesGradients])
def test_what_a_hostile_reading_found(kind: type[Net], coalitions: str) -> None:
    torch.manual_seed(0)
    net, inputs, target = kind().double(), inputs_of(Plain), torch.randint(2, (8,))
    assert_same_gradients(
        ModulatedModel(copy.deepcopy(net), AGM(TWO, alpha=1.5), coalitions=coalitions),
        net,
        inputs,
        target,
    )
