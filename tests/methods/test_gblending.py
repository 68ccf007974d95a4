"""Gradient Blending: its weights by hand, its estimation against plain torch, and trials that leave nothing changed."""

from __future__ import annotations

import copy
import math
import random
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from gradmod import ModulatedModel, MultiLabel, Regression, adapt
from gradmod.methods import GBlending
from gradmod.methods.gblending import SMALLEST_OVERFITTING, blending_weights
from gradmod.methods.step import Step
from gradmod.models import MLP, EarlyFusion, LateFusion, SumFusion
from networks import NAMES, SIZES, batch, network
from processes import on_processes

TWO = NAMES[:2]
FUSIONS: dict[str, Callable[..., nn.Module]] = {
    "late": LateFusion,
    "sum": SumFusion,
    "early": lambda encoders, classes: EarlyFusion(encoders, classes, (8, 4)),
}


def batches(names: Sequence[str] = TWO, count: int = 3, seed: int = 0) -> list[Any]:
    """Batches whose classes can be read from the first modality."""
    made = []
    for number in range(count):
        inputs, target = batch(names, 12, 3, seed=100 * seed + number)
        inputs[names[0]][:, :3] += 2 * F.one_hot(target, 3)
        made.append((inputs, target))
    return made


def fused(fusion: str, names: Sequence[str] = TWO, classes: int = 3) -> nn.Module:
    torch.manual_seed(0)
    net = FUSIONS[fusion]({m: MLP(SIZES[m], hidden=(8,)) for m in names}, classes).double()
    for module in net.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0  # a trial draws otherwise than plain torch
    return net


def sgd(model: nn.Module) -> torch.optim.Optimizer:
    return torch.optim.SGD(model.parameters(), 0.2, momentum=0.9, weight_decay=0.01)


def method_of(model: ModulatedModel) -> GBlending:
    assert isinstance(model.method, GBlending)
    return model.method


def test_weights_by_hand() -> None:
    found = blending_weights(
        {"a": 1.0, "b": 1.0, "c": 2.0, "d": -3.0}, {"a": 0.1, "b": -0.2, "c": 0.1, "d": 0.1}, 1e-3
    )
    assert sum(found.values()) == pytest.approx(1)
    assert found["b"] == pytest.approx(found["a"] / 4)  # equal gains, double overfitting
    assert found["c"] == pytest.approx(2 * found["a"])
    assert found["d"] == 0
    assert found == pytest.approx({"a": 100 / 325, "b": 25 / 325, "c": 200 / 325, "d": 0})


def test_weights_at_the_ends() -> None:
    even = {"a": 0.0, "b": 1e-9}
    assert blending_weights({"a": 1.0, "b": 3.0}, even, 0.01) == pytest.approx(
        {"a": 0.25, "b": 0.75}
    )
    assert blending_weights({"a": 1.0, "b": 3.0}, even, 0.0) == pytest.approx({"a": 1.0, "b": 0.0})
    assert blending_weights({"a": -1.0, "b": 0.0}, even, 0.01) == {}
    with pytest.warns(UserWarning, match=r"'a' alone diverged \(gain nan"):
        found = blending_weights({"a": math.nan, "b": 1.0}, {"a": math.inf, "b": 0.1}, 0.01)
    assert found == {"a": 0.0, "b": 1.0}


def by_hand(
    model: ModulatedModel,
    optimizer: torch.optim.Optimizer,
    train: Sequence[Any],
    held_out: Sequence[Any],
    epochs: int,
    clip: float | None,
) -> dict[str, float]:
    """The weights, estimated slowly on copies with plain torch."""
    names = ("joint", *model.method.modalities)

    def losses(copied: ModulatedModel, inputs: Any, target: Tensor) -> dict[str, Tensor]:
        net: Any = copied.model
        features = {m: net.encode(m, inputs[m]) for m in copied.method.modalities}
        logits = net.head(net.fuse(features))
        own = net.mono_logits(features) if copied.heads is None else copied.heads(features, logits)
        named = dict(zip(names, (logits, *own), strict=True))
        return {name: F.cross_entropy(said, target) for name, said in named.items()}

    def mean(copied: ModulatedModel, name: str, part: Sequence[Any]) -> float:
        copied.eval()
        with torch.no_grad():  # batches are of one size
            return sum(float(losses(copied, *one)[name]) for one in part) / len(part)

    raw: dict[str, float] = {}
    gains, overfittings = {}, {}
    start = sum(abs(mean(copy.deepcopy(model), name, held_out)) for name in names) / len(names)
    for name in names:
        trained, steps = copy.deepcopy((model, optimizer))
        before = mean(trained, name, train), mean(trained, name, held_out)
        for _ in range(epochs):
            for one in train:
                trained.train()
                steps.zero_grad()
                losses(trained, *one)[name].backward()
                if clip is not None:
                    nn.utils.clip_grad_norm_(trained.parameters(), clip)
                steps.step()
        after = mean(trained, name, train), mean(trained, name, held_out)
        gains[name] = before[1] - after[1]
        overfittings[name] = (after[1] - after[0]) - (before[1] - before[0])
        least = (SMALLEST_OVERFITTING * start) ** 2
        raw[name] = max(gains[name], 0.0) / max(overfittings[name] ** 2, least)
    found = method_of(model).estimates[-1]
    assert found["gain"] == pytest.approx(gains, rel=1e-8, abs=1e-10)
    assert found["overfitting"] == pytest.approx(overfittings, rel=1e-8, abs=1e-10)
    return {name: value / sum(raw.values()) for name, value in raw.items()}


@pytest.mark.parametrize("clip", [None, 0.05])
@pytest.mark.parametrize(("fusion", "count"), [("late", 2), ("sum", 2), ("early", 2), ("late", 3)])
def test_the_estimation_is_that_of_plain_torch(fusion: str, count: int, clip: float | None) -> None:
    names = NAMES[:count]
    model = ModulatedModel(fused(fusion, names), GBlending(names, online=True, super_epoch=2))
    train, held_out = batches(names), batches(names, 2, seed=7)
    optimizer = sgd(model)
    for epoch in (1, 2, 3):  # the second estimation begins from trained weights and momentum
        model.before_epoch(
            epoch, train=train, held_out=held_out, optimizer=optimizer, clip_norm=clip
        )
        if epoch != 2:
            expected = by_hand(model, optimizer, train, held_out, 2, clip)
            assert method_of(model).weights == pytest.approx(expected, rel=1e-6)
        for inputs, target in train:
            model.training_step(inputs, target, optimizer, clip_norm=clip)
    assert [found["epoch"] for found in method_of(model).estimates] == [1, 3]


def test_a_step_has_the_weighted_losses() -> None:
    model = ModulatedModel(fused("sum"), GBlending(TWO, super_epoch=1))
    optimizer = sgd(model)
    (inputs, target), *_ = train = batches()
    model.before_epoch(1, train=train, held_out=batches(seed=3), optimizer=optimizer)
    weights = {"joint": 0.5, "audio": 0.2, "visual": 0.3}
    method_of(model).weights = weights
    net: Any = model.model
    own = net.mono_logits({m: net.encode(m, inputs[m]) for m in TWO})
    said = dict(zip(("joint", *TWO), (net(inputs), *own), strict=True))
    expected = sum(weights[name] * F.cross_entropy(said[name], target) for name in weights)
    loss = model.training_step(inputs, target, optimizer)
    torch.testing.assert_close(loss, expected.detach())
    assert model.last_step is not None
    assert model.last_step.coefficients.tolist() == [0.2, 0.3]


def everything(model: nn.Module, *others: Any) -> list[Any]:
    """What a trial could change, as plain values: to the bit where they are compared."""
    numbers = random.getstate(), np.random.get_state()[1].tolist(), torch.get_rng_state().tolist()
    modes = [module.training for module in model.modules()]
    gradients = [None if p.grad is None else p.grad.tolist() for p in model.parameters()]
    state = {name: value.tolist() for name, value in model.state_dict().items()
             if not name.endswith("_extra_state")}  # fmt: skip
    return [numbers, modes, gradients, state, *(repr(other.state_dict()) for other in others)]


class Drawing(list[Any]):
    """A loader that draws from every generator of random numbers."""

    def __iter__(self) -> Any:
        for one in super().__iter__():
            torch.rand(1), np.random.rand(), random.random()
            yield one


@pytest.mark.parametrize("kind", ["sgd", "adam"])
@pytest.mark.parametrize("breaks_off", [False, True])
def test_nothing_is_changed_by_trials(kind: str, breaks_off: bool) -> None:
    torch.set_printoptions(precision=17, threshold=10**6)
    net = network(TWO, late=False, layer="batch-norm")
    net.encoders["audio"].eval()  # a layer that its user keeps frozen
    model = ModulatedModel(net, GBlending(TWO, online=True, super_epoch=1))
    model.give_heads_their_sizes(batches()[0][0])
    optimizer = sgd(model) if kind == "sgd" else torch.optim.Adam(model.parameters(), 0.01)
    scaler = torch.amp.GradScaler("cpu", init_scale=256.0, growth_interval=1)
    schedule = torch.optim.lr_scheduler.StepLR(optimizer, 1)
    train, held_out = Drawing(batches()), Drawing(batches(seed=3))
    given: dict[str, Any] = {"optimizer": optimizer, "scaler": scaler}
    model.before_epoch(1, train=train, held_out=held_out, **given)
    model.training_step(*train[0], **given)
    model.training_step(*train[1], accumulate=2, **given)  # leaves gradients

    class Broken(Drawing):
        def __iter__(self) -> Any:
            yield from super().__iter__()
            raise OSError("gone")

    broken = Broken(train)  # which goes through it
    before = everything(model, optimizer, scaler, schedule)
    assert optimizer.state

    if breaks_off:
        with pytest.raises(OSError, match="gone"):
            model.before_epoch(2, train=broken, held_out=held_out, **given)
        assert everything(model, optimizer, scaler, schedule) == before
    model.before_epoch(2, train=train, held_out=held_out, **given)
    assert len(method_of(model).estimates) == 2  # told again, it is made again
    assert everything(model, optimizer, scaler, schedule) == before
    torch.set_printoptions(profile="default")


def test_a_loader_with_a_generator_of_its_own_goes_on_as_without_trials() -> None:
    samples = [
        ({m: x[n] for m, x in inputs.items()}, target[n])
        for inputs, target in batches(count=2)
        for n in range(12)
    ]

    def loader() -> DataLoader[Any]:
        return DataLoader(
            samples, 6, shuffle=True, generator=torch.Generator().manual_seed(5), num_workers=0
        )

    ours, plain = loader(), loader()
    model = ModulatedModel(fused("late"), GBlending(TWO, super_epoch=2))
    model.before_epoch(1, train=ours, held_out=batches(seed=3), optimizer=sgd(model))
    assert [b[1].tolist() for b in ours] == [b[1].tolist() for b in plain]


def test_a_network_that_keeps_functions_of_itself_is_trained_and_put_back() -> None:
    """A deep copy of it would run the encoders of the original."""
    net: Any = fused("late")
    adapted = adapt(
        net,
        encoders=dict(net.encoders),
        encode=lambda _, m, x: net.encode(m, x),
        fuse=lambda _, features: net.fuse(features),
        head=lambda _, joint: net.head(joint),
    )
    plain, closed = (
        ModulatedModel(one, GBlending(TWO, super_epoch=2)) for one in (fused("late"), adapted)
    )
    weights = []
    for model in (plain, closed):
        torch.manual_seed(3)
        model.give_heads_their_sizes(batches()[0][0])
        model.before_epoch(1, train=batches(), held_out=batches(seed=3), optimizer=sgd(model))
        weights.append(method_of(model).weights)
    assert weights[1] == pytest.approx(weights[0])


def test_held_out_samples_are_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    model = ModulatedModel(fused("early"), GBlending(TWO, super_epoch=3))
    train, held_out = batches(), batches(seed=3)
    stepped: list[list[float]] = []
    original = Step.run

    def look(step: Step) -> Tensor:
        stepped.append(step.batch.inputs["audio"].tolist())
        return original(step)

    monkeypatch.setattr(Step, "run", look)
    model.before_epoch(1, train=train, held_out=held_out, optimizer=sgd(model))
    assert stepped == [inputs["audio"].tolist() for inputs, _ in train] * 3 * 3
    assert held_out[0][0]["audio"].tolist() not in stepped


def test_without_a_gain_the_last_weights_stay_and_at_first_all_are_even() -> None:
    method = GBlending(TWO, online=True, super_epoch=1)
    model = ModulatedModel(fused("late"), method)
    optimizer = torch.optim.SGD(model.parameters(), 0.2)
    train, held_out = batches(), batches(seed=3)
    others = [
        (inputs, (target + 1) % 3) for inputs, target in train
    ]  # what is learnt is wrong there
    given = {"train": train, "optimizer": optimizer}
    for group in optimizer.param_groups:
        group["lr"] = 1.0
    model.before_epoch(1, held_out=others, **given)
    assert max(method.estimates[0]["gain"].values()) < 0
    assert method.weights == dict.fromkeys(("joint", *TWO), pytest.approx(1 / 3))
    assert method.estimates[0]["from"] == "nothing"
    model.before_epoch(2, held_out=held_out, **given)
    assert method.estimates[1]["from"] == "gains"
    kept = method.weights
    model.before_epoch(3, held_out=others, **given)
    assert method.estimates[2]["from"] == "last weights"
    assert method.weights == kept
    assert method.epoch_record()["blending"]["from"] == "last weights"


def of_task(task: Any, target: Callable[[Tensor], Tensor], **more: Any) -> GBlending:
    model = ModulatedModel(fused("late"), GBlending(TWO, super_epoch=1), task=task)
    parts: list[Iterable[Any]] = [
        [(inputs, target(classes), *more.values()) for inputs, classes in batches(seed=seed)]
        for seed in (0, 3)
    ]
    optimizer = sgd(model)
    model.before_epoch(1, train=parts[0], held_out=parts[1], optimizer=optimizer)
    inputs, wanted, *_ = next(iter(parts[0]))
    model.training_step(inputs, wanted, optimizer)
    return method_of(model)


def test_it_blends_losses_of_labels_and_of_numbers_with_gaps() -> None:
    def numbers(classes: Tensor) -> Tensor:
        wanted = F.one_hot(classes, 3).double()
        wanted[0] = torch.nan
        return wanted

    for task in (MultiLabel(), Regression()):
        found = of_task(
            task, numbers if task.name == "regression" else lambda c: F.one_hot(c, 3).double()
        )
        assert sum(found.weights.values()) == pytest.approx(1)
        assert found.estimates[0]["from"] == "gains"


def test_weights_do_not_depend_on_the_unit_of_the_loss() -> None:
    class Cents(Regression):
        def loss(self, logits: Tensor, target: Tensor) -> Tensor:
            return super().loss(logits, target) * 100

    def weights(task: Any, lr: float) -> dict[str, float]:
        model = ModulatedModel(fused("late"), GBlending(TWO, super_epoch=1), task=task)
        parts = [
            [(inputs, F.one_hot(classes, 3).double()) for inputs, classes in batches(seed=seed)]
            for seed in (0, 3)
        ]
        optimizer = torch.optim.SGD(model.parameters(), lr)
        model.before_epoch(1, train=parts[0], held_out=parts[1], optimizer=optimizer)
        return method_of(model).weights

    assert weights(Cents(), 0.0002) == pytest.approx(weights(Regression(), 0.02))


def test_samples_may_lack_modalities_and_the_held_out_part_one_altogether() -> None:
    some = {"visual": torch.arange(12) % 2 == 0}
    none = {"visual": torch.zeros(12, dtype=torch.bool)}
    train = [(inputs, target, some) for inputs, target in batches()]
    with_some = [(inputs, target, some) for inputs, target in batches(seed=3)]
    for held_out in (with_some, [(inputs, target, none) for inputs, target, _ in with_some]):
        for inputs, _, present in (*train, *held_out):  # what stands there is not read
            inputs["visual"][~present["visual"]] = torch.nan
        model = ModulatedModel(fused("early"), GBlending(TWO, super_epoch=2))
        optimizer = sgd(model)
        model.before_epoch(1, train=train, held_out=held_out, optimizer=optimizer)
        (found,) = method_of(model).estimates
        assert all(map(math.isfinite, (*found["gain"].values(), *found["overfitting"].values())))
        assert (found["gain"]["visual"] == 0) == (held_out is not with_some)
        assert found["weights"]["visual"] == 0 or held_out is with_some
        inputs, target, present = train[0]
        model.training_step(inputs, target, optimizer, present=present)
        assert all(parameter.isfinite().all() for parameter in model.parameters())


def test_it_is_estimated_once_a_state_and_not_again_when_it_is_loaded() -> None:
    train, held_out = batches(), batches(seed=3)
    model = ModulatedModel(fused("late"), GBlending(TWO, super_epoch=1))
    given: dict[str, Any] = {"train": train, "held_out": held_out, "optimizer": sgd(model)}
    for epoch in (4, 5, 9):
        model.before_epoch(epoch, **given)
    assert [found["epoch"] for found in method_of(model).estimates] == [4]
    other = ModulatedModel(fused("late"), GBlending(TWO, super_epoch=1))
    other.load_state_dict(model.state_dict())
    other.before_epoch(9)  # nothing to do, so nothing is missed
    assert method_of(other).weights == method_of(model).weights
    assert method_of(other).estimates == method_of(model).estimates


def test_what_is_missing_is_said() -> None:
    (inputs, target), *_ = train = batches()
    model = ModulatedModel(fused("late"), GBlending(TWO))
    optimizer = sgd(model)
    with pytest.raises(RuntimeError, match=r"train=loader, held_out=loader, optimizer=optimizer\)"):
        model.training_step(inputs, target, optimizer)
    for given in ({}, {"train": train}, {"train": train, "held_out": train}):
        with pytest.raises(
            RuntimeError, match="a part of the training split that `train` does not"
        ):
            model.before_epoch(1, **given)  # type: ignore[arg-type]
    for name in ("train", "held_out"):
        loaders: dict[str, Any] = {"train": train, "held_out": train, name: iter([])}
        with pytest.raises(ValueError, match=rf"{name}= gave no batch; .* not an iterator that is"):
            model.before_epoch(1, optimizer=optimizer, **loaders)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"super_epoch": 0}, "super_epoch is 0; expected a whole number >= 1"),
        ({"held_out": 0.0}, "held_out is 0.0; expected a number > 0 and < 1"),
        ({"held_out": 1.0}, "held_out is 1.0; expected"),
        ({"modalities": ("joint", "audio")}, "a modality is called 'joint'"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        GBlending(**{"modalities": TWO, **settings})


def weights_of_halves(rank: int) -> list[dict[str, float]]:
    """What one process finds, and what two find in a loop of their own, each with half of every batch."""
    found = []
    train, held_out = batches(), batches(seed=3)
    for alone in (True, False):
        model = ModulatedModel(fused("late"), GBlending(TWO, super_epoch=2))
        torch.manual_seed(1)
        model.give_heads_their_sizes(train[0][0])
        through = None if alone else DistributedDataParallel(model)
        if alone:
            model.method.use_process_group(None)
        parts = {
            name: part
            if alone
            else [({m: x.chunk(2)[rank] for m, x in i.items()}, t.chunk(2)[rank]) for i, t in part]
            for name, part in (("train", train), ("held_out", held_out))
        }
        model.before_epoch(1, optimizer=sgd(model), through=through, **parts)
        found.append(method_of(model).weights)
    return found


def test_two_processes_find_the_weights_of_one() -> None:
    results = on_processes(weights_of_halves, 2)
    for alone, together in results:
        assert together == pytest.approx(alone, rel=1e-6)
    assert results[0][1] == results[1][1]
