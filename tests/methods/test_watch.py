"""Steps that AGM cannot use, and coefficients that stay at their bounds: told once, counted, logged."""

from __future__ import annotations

import copy
import pickle
import warnings

import pytest
import torch
from torch import Tensor

from gradmod import AGM, ModulatedModel, Regression, Task
from gradmod.methods.epoch import Epoch
from gradmod.methods.watch import StepWatch
from networks import NAMES, batch, network

TWO = NAMES[:2]


def modulated(**settings: object) -> ModulatedModel:
    return ModulatedModel(network(TWO, late=True, layer="plain"), AGM(TWO, **settings))  # type: ignore[arg-type]


def told(model: ModulatedModel, steps: int, inputs: dict[str, Tensor], target: Tensor) -> list[str]:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for _ in range(steps):
            model(inputs, target)
    return [str(warning.message) for warning in caught]


def test_steps_with_scores_that_are_not_finite_are_told_once() -> None:
    inputs, target = batch(TWO, 6, 3)
    inputs["audio"][0] = torch.nan
    model = modulated()
    found = told(model, 40, inputs, target)
    assert len(found) == 1
    assert found[0].startswith(
        "AGM could not use 8 of the 8 steps so far: the score of a modality was NaN"
    )
    assert "Classification(ignore_index=...)" in found[0]
    assert model.last_step is not None
    assert model.last_step.of_the_step() == {"counted": False, "left_out_targets": 0}
    assert model.method.get_buffer("steps").tolist() == [0, 0]


def test_a_present_modality_with_scores_that_are_not_finite_is_not_an_absent_one() -> None:
    inputs, target = batch(TWO, 6, 3)
    model = modulated()
    model(inputs, target)
    inputs["audio"][0] = torch.nan
    for _ in range(6):
        model(inputs, target, present={"visual": torch.arange(6) > 0})
    with pytest.warns(RuntimeWarning, match="could not use 7 of the 8 steps"):
        model(inputs, target, present={"visual": torch.arange(6) > 0})
    assert model.method.get_buffer("steps").tolist() == [1, 1]


def test_one_batch_without_targets_is_fine_and_nothing_but_such_is_told() -> None:
    inputs, target = batch(TWO, 6, 3)
    nothing = torch.full_like(target, -100)
    model = modulated()
    model(inputs, target)
    assert told(model, 40, inputs, nothing) == []
    assert model.method.get_buffer("steps").tolist() == [1, 1]
    assert model.last_step is not None
    assert model.last_step.of_the_step() == {"counted": False, "left_out_targets": 6}
    found = told(modulated(), 40, inputs, nothing)
    assert len(found) == 1
    assert "could use none of the 8 steps so far: no target in them has a score" in found[0]


class Extreme(Task):
    """Scores that change sides from step to step: each modality is now cut off, now at the cap."""

    sides = 0

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return logits.sum()

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        self.sides += 1
        scores = torch.zeros(responses.shape[:2], dtype=torch.float64)
        scores[self.sides % 2] = 15.0
        return scores

    def headlines(self, responses: Tensor, target: Tensor) -> Tensor:
        return torch.zeros(len(responses))


def test_coefficients_at_their_bounds_are_told_once_after_many_steps() -> None:
    inputs, target = batch(TWO, 6, 3)
    model = ModulatedModel(network(TWO, late=True, layer="plain"), AGM(TWO), task=Extreme())
    assert told(model, 90, inputs, target) == []
    found = told(model, 400, inputs, target)
    assert len(found) == 1
    assert "coefficients at their bounds" in found[0]
    assert "lower alpha" in found[0]
    assert told(modulated(), 300, inputs, target) == []
    for agm in (AGM(TWO, alpha=0.0), AGM(TWO, epochs=(2, 3))):
        agm.begin_epoch(Epoch(1))
        model = ModulatedModel(network(TWO, late=True, layer="plain"), agm, task=Extreme())
        assert told(model, 300, inputs, target) == []


def test_which_coefficients_are_at_a_bound() -> None:
    agm = AGM(TWO, alpha=1.0, cap=2.0)
    top = torch.tensor(2.0, dtype=torch.float64).exp()
    values = torch.tensor(
        [1.0, 0.5, 1e-4, float(top), float("inf"), float("nan")], dtype=torch.float64
    )
    assert agm.at_bounds(values).tolist() == [False, False, True, True, True, True]
    assert AGM(TWO, alpha=1.0, cap=None).at_bounds(values).tolist() == [
        False,
        False,
        True,
        False,
        True,
        True,
    ]
    assert not AGM(("audio",)).at_bounds(top).any()


def test_the_trainer_looks_where_it_reads_anyway_and_so_does_an_epoch() -> None:
    inputs, target = batch(TWO, 6, 3)
    inputs["audio"][0] = torch.nan
    for look in (lambda m: m.method.look(), lambda m: m.before_epoch(2)):
        model = modulated()
        assert told(model, 3, inputs, target) == []
        with pytest.warns(RuntimeWarning, match="could not use 3 of the 3 steps"):
            look(model)


def test_the_counts_are_not_saved_and_copies_can_be_made() -> None:
    model = modulated()
    assert not any("watch" in key for key in model.state_dict())
    watch = StepWatch("AGM", TWO)
    watch._on_its_way = (torch.zeros(5), object.__new__(torch.cuda.Event))
    for twin in (copy.deepcopy(watch), pickle.loads(pickle.dumps(watch))):
        assert twin._on_its_way is None


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_nothing_waits_for_a_gpu_and_the_warning_comes() -> None:
    model = modulated().cuda()
    inputs, target = batch(TWO, 6, 3)
    inputs = {m: x.cuda() for m, x in inputs.items()}
    inputs["audio"][0] = torch.nan
    target = target.cuda()
    model(inputs, target)
    torch.cuda.set_sync_debug_mode("error")
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            for _ in range(300):
                model(inputs, target)
                while (
                    model.method.watch._on_its_way is not None
                    and not model.method.watch._on_its_way[1].query()
                ):
                    pass
    finally:
        torch.cuda.set_sync_debug_mode("default")
    assert len(caught) == 1
    assert "could not use" in str(caught[0].message)


def test_a_target_of_no_number_in_sight_is_told_for_regression() -> None:
    model = ModulatedModel(
        network(TWO, late=True, layer="plain", classes=1), AGM(TWO), task=Regression()
    )
    inputs, _ = batch(TWO, 6, 1)
    found = told(model, 10, inputs, torch.full((6, 1), torch.nan, dtype=torch.float64))
    assert len(found) == 1
    assert "no target in them has a score" in found[0]


def test_the_counts_are_looked_at_early_and_then_now_and_then(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    looks: list[int] = []
    watch, yes = StepWatch("AGM", TWO), torch.tensor(True)
    monkeypatch.setattr(watch, "_tell", lambda counts: looks.append(counts[0]))
    for _ in range(400):
        watch.add(yes, yes, torch.zeros(2, dtype=torch.bool))
    assert looks == [8, 16, 32, 64, 128, 256, 384]
