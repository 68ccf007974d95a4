"""Methods where the targets are numbers: scored around the best constant, in a unit of their own."""

from __future__ import annotations

import copy
import math
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from gradmod import AGM, OGMGE, ModulatedModel, Regression, functional
from gradmod.experiments.training.evaluation import Predictions, measure, validation_figures
from gradmod.methods.centre import TargetCentre
from networks import NAMES, batch, network
from processes import on_processes

COUNTS = st.integers(1, 4)


def method_of(kind: str, modalities: tuple[str, ...]) -> Any:
    return AGM(modalities, alpha=1.5) if kind == "agm" else OGMGE(modalities, noise=False)


def shifted(net: Any, factor: float, constant: float) -> Any:
    """A copy whose every output is `factor` times and `constant` more, whatever is hidden."""
    net = copy.deepcopy(net)
    with torch.no_grad():
        net.out.weight.mul_(factor)
        net.out.bias.mul_(factor).add_(constant)
    return net


@given(st.integers(0, 2**32), COUNTS, st.floats(-1e4, 1e4), st.booleans())
@settings(max_examples=30, deadline=None)
def test_own_predictions_move_with_the_constant(
    seed: int, players: int, constant: float, some_absent: bool
) -> None:
    """For any game: what a modality alone predicts, less the answer to nothing, is its share of the game around it."""
    generator = torch.Generator().manual_seed(seed)
    values = torch.randn(1 << players, 5, 2, generator=generator, dtype=torch.float64)
    values[0] = 0
    present = torch.rand(5, players, generator=generator) < 0.7 if some_absent else None
    moved = values + constant
    moved[0] = 0

    def responses(game: Tensor) -> Tensor:
        from gradmod.coalitions.presence import restrict_to_present

        return functional.shapley_values(
            game if present is None else restrict_to_present(game, present)
        )

    alone = functional.own_predictions(
        responses(values), torch.zeros(2, dtype=torch.float64), present
    )
    torch.testing.assert_close(alone, responses(values))
    moved_alone = functional.own_predictions(
        responses(moved), torch.full((2,), constant, dtype=torch.float64), present
    )
    has = torch.ones(5, players, dtype=torch.bool) if present is None else present
    difference = (moved_alone - alone - constant)[has.T]
    assert float(difference.abs().max() if len(difference) else 0) < 1e-9 * max(1.0, abs(constant))


@pytest.mark.parametrize("kind", ["agm", "ogm-ge"])
@pytest.mark.parametrize("error", ["squared", "absolute"])
@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize(
    ("factor", "constant"), [(1.0, 50.0), (1.0, -1000.0), (1000.0, 0.0), (0.1, 7.0)]
)
def test_neither_a_constant_nor_the_unit_of_the_targets_changes_a_coefficient(
    kind: str, error: str, late: bool, count: int, factor: float, constant: float
) -> None:
    modalities = NAMES[:count]
    net = network(modalities, late=late, layer="plain", classes=2)
    task = Regression(error)
    models = [
        ModulatedModel(net, method_of(kind, modalities), task=task),
        ModulatedModel(shifted(net, factor, constant), method_of(kind, modalities), task=task),
    ]
    for step in range(3):
        inputs, _ = batch(modalities, 16, 2, seed=step)
        target = torch.randn(
            16, 2, generator=torch.Generator().manual_seed(step), dtype=torch.float64
        )
        target = target * torch.tensor([1.0, 2.0]) + torch.tensor([0.0, 3.0])
        records = []
        for model, y in zip(models, (target, target * factor + constant), strict=True):
            torch.manual_seed(step)
            task.loss(model(inputs, y), y).backward()
            model.after_backward()
            assert model.last_step is not None
            records.append(model.last_step)
        ours, theirs = records
        unit = factor**2 if error == "squared" else factor
        torch.testing.assert_close(theirs.scores, ours.scores * unit, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(theirs.ratios, ours.ratios, rtol=1e-9, atol=1e-9)
        torch.testing.assert_close(theirs.coefficients, ours.coefficients, rtol=1e-9, atol=1e-9)
        if factor == 1:
            torch.testing.assert_close(theirs.headlines, ours.headlines, rtol=1e-9, atol=1e-9)
    assert (ours.coefficients - 1).abs().max() > 1e-3


def test_a_bias_and_targets_far_from_zero_train_as_near_it() -> None:
    """The case of ages or prices, 50 +- 10: coefficients stay sane, and each modality has its gradient."""

    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.v, self.out = nn.Linear(5, 16), nn.Linear(4, 16), nn.Linear(32, 1)

        def forward(self, x: dict[str, Tensor]) -> Tensor:
            logits: Tensor = self.out(torch.cat([self.a(x["a"]).relu(), self.v(x["v"]).relu()], 1))
            return logits

    seen: dict[tuple[int, int], Tensor] = {}
    for mean, deviation in ((0, 1), (50, 10)):
        torch.manual_seed(0)
        a, v = torch.randn(512, 5), torch.randn(512, 4)
        y = mean + deviation * (a[:, :1] + 0.5 * v[:, :1] + 0.3 * torch.randn(512, 1)) / 1.45
        net = Net()
        net.out.bias.data.fill_(mean)
        model = ModulatedModel(net, AGM(("a", "v"), alpha=1.0), task=Regression())
        optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        coefficients = []
        for _ in range(150):
            rows = torch.randint(512, (64,))
            optimizer.zero_grad()
            F.mse_loss(model({"a": a[rows], "v": v[rows]}, y[rows]), y[rows]).backward()
            optimizer.step()
            assert model.last_step is not None
            coefficients.append(model.last_step.coefficients)
        seen[mean, deviation] = torch.stack(coefficients)
    for found in seen.values():
        assert float(found.min()) > 0.05
        assert float(found.max()) < 5
        assert (found - 1).abs().max() > 0.05


def test_responses_on_a_split_are_measured_around_its_own_constant() -> None:
    torch.manual_seed(0)
    alone = torch.randn(2, 40, 1).double()
    target = alone[0] + 0.1 * torch.randn(40, 1).double()
    for constant in (0.0, 50.0):
        # What responses share of an output that is `constant` more.
        responses = alone + constant / 2
        predictions = Predictions(responses.sum(0), responses, target + constant)
        figures = measure(predictions, Regression(), ("a", "b"))["responses"]
        best = float(target.mean())
        expected = float((alone[0] + best / 2 - target).square().mean())
        assert figures["a"]["score"] == pytest.approx(expected, rel=1e-9)
        assert figures["a"]["mae"] < 0.2 < figures["b"]["mae"]
        of_validation = validation_figures(predictions, Regression(), ("a", "b"))
        assert of_validation["a"].score == pytest.approx(expected, rel=1e-9)
        assert of_validation["a"].headline == pytest.approx(figures["a"]["mae"])
    own = Predictions(alone.sum(0), alone, target, own=alone)  # of heads: predictions already
    assert validation_figures(own, Regression(), ("a", "b"))["a"].headline < 0.1


@given(st.integers(0, 2**32), st.floats(-1e6, 1e6), st.sampled_from([1e-3, 1.0, 1e3]))
@settings(max_examples=25, deadline=None)
def test_the_centre_is_the_mean_and_variance_of_all_targets_so_far(
    seed: int, mean: float, deviation: float
) -> None:
    generator = torch.Generator().manual_seed(seed)
    centre, task = TargetCentre(), Regression()
    batches = [
        torch.randn(n, 3, 2, generator=generator, dtype=torch.float64) * deviation + mean
        for n in (1, 7, 4)
    ]
    batches[1][2, 0] = torch.nan
    batches[2][0, 1, 0] = torch.inf
    for target in batches:
        centre.observe(target, task, lambda sums: sums)
    everything = torch.cat(batches).reshape(-1, 2)
    columns = [column[column.isfinite()] for column in everything.T]
    assert centre.mean is not None
    torch.testing.assert_close(
        centre.mean, torch.stack([c.mean() for c in columns]), rtol=1e-12, atol=1e-9
    )
    sums = sum(float((c - c.mean()).square().sum()) for c in columns)
    unit = centre.unit(task)
    assert unit is not None
    assert float(unit) == pytest.approx(sums / sum(map(len, columns)), rel=1e-6)
    absolute = centre.unit(Regression("absolute"))
    assert absolute is not None
    assert float(absolute) == pytest.approx(math.sqrt(float(unit)))


def test_the_centre_is_saved_and_training_goes_on_exactly() -> None:
    net = network(NAMES[:2], late=True, layer="plain", classes=1)

    def modulated() -> ModulatedModel:
        return ModulatedModel(copy.deepcopy(net), AGM(NAMES[:2], alpha=2.0), task=Regression())

    def step(model: ModulatedModel, number: int) -> Any:
        inputs, _ = batch(NAMES[:2], 8, 1, seed=number)
        target = (
            torch.randn(8, 1, generator=torch.Generator().manual_seed(number), dtype=torch.float64)
            + 30
        )
        model.task.loss(model(inputs, target), target).backward()
        return model.last_step

    whole, first = modulated(), modulated()
    assert not any("centre" in key for key in whole.state_dict())
    for number in range(2):
        step(whole, number)
        step(first, number)
    state = first.state_dict()
    assert {"method.centre.count", "method.centre.mean", "method.centre.moment"} <= state.keys()
    resumed = modulated()
    resumed.load_state_dict(state)
    fresh = modulated().state_dict()
    for number in range(2, 4):
        expected, found = step(whole, number), step(resumed, number)
        for name in ("scores", "ratios", "running_ratios", "coefficients"):
            assert torch.equal(getattr(expected, name), getattr(found, name)), name
    resumed.load_state_dict(fresh)  # of a model that has seen nothing
    assert resumed.method.centre.mean is None
    assert copy.deepcopy(whole).half().method.centre.mean.dtype == torch.float64


def test_targets_that_do_not_differ_compare_nothing() -> None:
    """With one sample a step the first target is all there is: nothing is scaled by a variance of 0."""
    model = ModulatedModel(
        network(NAMES[:2], late=True, layer="plain", classes=1), AGM(NAMES[:2]), task=Regression()
    )
    for step in range(2):
        inputs, _ = batch(NAMES[:2], 1, 1, seed=step)
        model(inputs, torch.full((1, 1), 0.1, dtype=torch.float64) * 1e5).sum().backward()
        assert model.last_step is not None
        assert model.last_step.coefficients.tolist() == [1, 1]
        assert model.last_step.of_the_step()["counted"]


def test_another_number_of_outputs_is_told() -> None:
    def same(sums: Tensor) -> Tensor:
        return sums

    centre = TargetCentre()
    centre.observe(torch.zeros(3, 4), Regression(), same)
    with pytest.raises(
        ValueError, match=r"targets of 5 outputs after targets of 4.*Regression\(output_axis="
    ):
        centre.observe(torch.zeros(3, 5), Regression(), same)
    maps = TargetCentre()
    maps.observe(torch.zeros(3, 2, 5, 5), Regression(output_axis=1), same)
    maps.observe(torch.zeros(3, 2, 7, 6), Regression(output_axis=1), same)
    with pytest.raises(ValueError, match="output_axis is 0"):
        Regression(output_axis=0)


def part_of_a_batch(step: int, rank: int) -> tuple[dict[str, Tensor], Tensor]:
    """5 or 6 samples of a process, some without a target; in the last step the first process has none with one."""
    inputs, _ = batch(NAMES[:2], 5 + rank, 1, seed=10 * step + rank)
    generator = torch.Generator().manual_seed(10 * step + rank)
    target = torch.randn(5 + rank, 1, generator=generator, dtype=torch.float64) * 3 + 40
    target[:1] = torch.nan
    return inputs, torch.full_like(target, torch.nan) if (step, rank) == (2, 0) else target


def record_of_steps(called: Any, model: ModulatedModel, parts: Any) -> list[Any]:
    found = []
    for step in range(3):
        inputs, target = parts(step)
        model.task.loss(called(inputs, target), target).backward()
        assert model.last_step is not None
        record = model.last_step
        found.append([record.scores.tolist(), record.ratios.tolist(), record.coefficients.tolist()])  # type: ignore[union-attr]
    return [found, model.method.centre.mean.tolist()]


def numbers_on_a_process(rank: int) -> dict[str, list[Any]]:
    found = {}
    for kind in ("agm", "ogm-ge"):
        net = network(NAMES[:2], late=False, layer="plain", classes=1).eval()
        model = ModulatedModel(net, method_of(kind, NAMES[:2]), task=Regression())
        found[kind] = record_of_steps(
            DistributedDataParallel(model), model, lambda step: part_of_a_batch(step, rank)
        )
    return found


def test_two_processes_have_the_numbers_of_one() -> None:
    ours, theirs = on_processes(numbers_on_a_process, 2)
    assert ours == theirs

    def whole(step: int) -> tuple[dict[str, Tensor], Tensor]:
        parts = [part_of_a_batch(step, rank) for rank in range(2)]
        return {m: torch.cat([x[m] for x, _ in parts]) for m in NAMES[:2]}, torch.cat(
            [y for _, y in parts]
        )

    for kind in ("agm", "ogm-ge"):
        net = network(NAMES[:2], late=False, layer="plain", classes=1).eval()
        model = ModulatedModel(net, method_of(kind, NAMES[:2]), task=Regression())
        steps, mean = record_of_steps(model, model, whole)
        torch.testing.assert_close(
            torch.tensor(ours[kind][0]), torch.tensor(steps), rtol=1e-12, atol=1e-12
        )
        torch.testing.assert_close(torch.tensor(ours[kind][1]), torch.tensor(mean))
