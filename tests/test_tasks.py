"""Tasks: loss, scores, metrics."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score, hamming_loss
from torch import Tensor

from gradmod import AGM, Classification, ModulatedModel, Task
from gradmod.tasks import TASKS, MultiLabel, Regression


def draw(seed: int, *shape: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(*shape, 5, generator=generator), torch.randint(5, shape, generator=generator)


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_metrics_equal_scikit_learn(seed: int, samples: int) -> None:
    logits, target = draw(seed, samples)
    metrics = Classification().metrics(logits, target)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy_score(target, logits.argmax(1)))
    assert float(metrics["macro_f1"]) == pytest.approx(
        f1_score(target, logits.argmax(1), average="macro", zero_division=0)
    )


def test_macro_f1_equals_torchmetrics_where_every_class_occurs() -> None:
    from torchmetrics.functional.classification import multiclass_f1_score

    logits, target = draw(0, 400)
    expected = multiclass_f1_score(logits, target, num_classes=5, average="macro")
    assert float(Classification().metrics(logits, target)["macro_f1"]) == pytest.approx(
        float(expected), rel=1e-6
    )


def test_segments_count_as_samples() -> None:
    task = Classification()
    logits, target = draw(1, 4, 7)
    flat = task.metrics(logits.flatten(0, 1), target.flatten())
    for name, value in task.metrics(logits, target).items():
        torch.testing.assert_close(value, flat[name])
    assert task.scores(logits.unsqueeze(0), target).shape == (1, 4, 7)


def test_accuracies_of_responses() -> None:
    responses = torch.eye(3).unsqueeze(0).repeat(2, 1, 1)
    responses[1] = responses[1].flip(0)
    torch.testing.assert_close(
        Classification().headlines(responses, torch.arange(3)), torch.tensor([1.0, 1 / 3]).double()
    )


@given(st.integers(0, 2**32), st.integers(1, 30))
def test_labels_at_once_equal_scikit_learn(seed: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(samples, 4, generator=generator)
    target = (torch.rand(samples, 4, generator=generator) < 0.3).float()
    metrics = MultiLabel().metrics(logits, target)
    predicted = (logits > 0).int().numpy()
    assert float(metrics["accuracy"]) == pytest.approx(
        1 - hamming_loss(target.int().numpy(), predicted)
    )
    expected = f1_score(target.int().numpy(), predicted, average="macro", zero_division=0)
    assert float(metrics["macro_f1"]) == pytest.approx(expected)


def test_label_scores_are_the_loss_where_no_floor_is_reached() -> None:
    logits, target = torch.randn(5, 4).double(), (torch.rand(5, 4) < 0.5).double()
    task = MultiLabel()
    torch.testing.assert_close(
        task.scores(logits.unsqueeze(0), target).mean(), task.loss(logits, target)
    )
    sure = torch.tensor([[1e30, -1e30]])
    assert task.scores(sure.unsqueeze(0), torch.tensor([[0.0, 1.0]])).item() == pytest.approx(
        18.42068, abs=1e-4
    )
    assert task.scores(sure.unsqueeze(0), torch.tensor([[1.0, 0.0]])).item() == 0


@given(st.integers(0, 2**32), st.integers(3, 30))
def test_regression_equals_numpy(seed: int, samples: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randn(samples, 1, generator=generator).double()
    target = torch.randint(-2, 3, (samples, 1), generator=generator).double()
    x, y = prediction.numpy()[:, 0], target.numpy()[:, 0]
    for error, expected in (("squared", ((x - y) ** 2).mean()), ("absolute", np.abs(x - y).mean())):
        task = Regression(error)
        assert float(task.loss(prediction, target)) == pytest.approx(expected)
        assert float(task.scores(prediction.unsqueeze(0), target).mean()) == pytest.approx(expected)
    metrics = Regression().metrics(prediction, target)
    assert float(metrics["mae"]) == pytest.approx(np.abs(x - y).mean())
    correlated = np.corrcoef(x, y)[0, 1] if y.std() > 0 else 0
    assert float(metrics["correlation"]) == pytest.approx(correlated, abs=1e-9)
    assert float(metrics["sign_accuracy"]) == pytest.approx(((x >= 0) == (y >= 0)).mean())
    if y.any():
        assert float(metrics["sign_accuracy_nonzero"]) == pytest.approx(
            ((x > 0) == (y > 0))[y != 0].mean()
        )


def test_agm_on_huge_errors_stays_finite() -> None:
    class Sum(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b = torch.nn.Linear(2, 1), torch.nn.Linear(2, 1)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.a(inputs["a"]) + self.b(inputs["b"])

    net = Sum()
    model = ModulatedModel(net, AGM(("a", "b"), alpha=5.0), task=Regression())
    target = torch.full((4, 1), 1e6)
    for scale in (1.0, 1e4):
        model.task.loss(
            model({"a": torch.randn(4, 2) * scale, "b": torch.randn(4, 2)}, target), target
        ).backward()
        assert all(bool(p.grad.isfinite().all()) for p in net.parameters() if p.grad is not None)
        assert model.last_step is not None
        assert bool((model.last_step.ratios.log().abs() <= 18.43).all())


@pytest.mark.parametrize("task", [MultiLabel(), Regression()])
def test_float_targets_are_checked(task: Task) -> None:
    task.check(torch.zeros(3, 2), torch.zeros(3, 2))
    with pytest.raises(
        ValueError, match=r"target has shape \[3\]; expected \[3, 2\] like the model's output"
    ):
        task.check(torch.zeros(3, 2), torch.zeros(3))
    with pytest.raises(ValueError, match=r"target has dtype torch\.int64; expected floats"):
        task.check(torch.zeros(3, 2), torch.zeros(3, 2, dtype=torch.int64))


def test_which_value_is_better() -> None:
    nan = float("nan")
    assert Classification().improves(0.1, nan)
    assert Classification().improves(0.2, 0.1)
    assert not Classification().improves(0.1, 0.1)
    assert not Classification().improves(nan, 0.1)
    assert Regression().improves(0.1, 0.2)
    assert not Regression().improves(0.2, 0.1)
    with pytest.raises(ValueError, match="error is 'cubic'"):
        Regression("cubic")


TASKS_AND_TARGETS = {
    "classification": (
        Classification(class_axis=-1),
        lambda g: torch.randint(3, (8, 3), generator=g),
    ),
    "multi-label": (MultiLabel(), lambda g: torch.randint(2, (8, 3, 3), generator=g).float()),
    "regression": (Regression(), lambda g: torch.randn(8, 3, 3, generator=g)),
}


@pytest.mark.parametrize("name", TASKS_AND_TARGETS)
def test_terms_of_samples_are_those_of_the_metric(name: str) -> None:
    """The samples have three segments each."""
    task, make = TASKS_AND_TARGETS[name]
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(8, 3, 3, generator=generator), make(generator)
    terms = task.per_sample(logits, target)
    assert terms.shape == (8,)
    assert float(terms.mean()) == pytest.approx(
        float(task.metrics(logits, target)[task.sample_metric])
    )
    one = task.metrics(logits[:1], target[:1])[task.sample_metric]
    assert float(terms[0]) == pytest.approx(float(one))
    assert TASKS[task.name] is type(task)


def test_an_ensemble_is_the_mean_of_the_predictions() -> None:
    logits = torch.randn(3, 7, 2, 4, generator=torch.Generator().manual_seed(1)) * 3
    together = Classification().ensemble(logits)
    torch.testing.assert_close(together.exp().float(), logits.softmax(-1).mean(0))
    together = MultiLabel().ensemble(logits)
    torch.testing.assert_close(together.sigmoid().float(), logits.sigmoid().mean(0))
    torch.testing.assert_close(Regression().ensemble(logits).float(), logits.mean(0))
    extreme = torch.tensor([[[1e4, -1e4]], [[-1e4, 1e4]]])
    torch.testing.assert_close(
        Classification().ensemble(extreme).softmax(-1), torch.full((1, 2), 0.5).double()
    )
    torch.testing.assert_close(MultiLabel().ensemble(extreme), torch.zeros(1, 2).double())


def test_what_is_ranked_is_each_label_and_each_class_against_the_rest() -> None:
    logits = torch.tensor([[0.0, 1.0], [2.0, -1.0], [3.0, 0.5]])
    ranked, there, known = MultiLabel().ranking(
        logits, torch.tensor([[0.0, 1.0], [0.9, torch.nan], [0.2, 0.0]])
    )
    assert torch.equal(ranked, logits)
    assert there[known].tolist() == [False, True, True, False, False]
    assert known.tolist() == [[True, True], [True, False], [True, True]]
    ranked, there, known = Classification(ignore_index=-1).ranking(logits, torch.tensor([1, -1, 0]))
    torch.testing.assert_close(ranked, logits[[0, 2]].softmax(1))
    assert there.tolist() == [[False, True], [True, False]]
    assert known.all()


def test_only_numbers_have_predictions_around_a_constant() -> None:
    responses = torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)).double()
    assert (
        Classification().own_predictions(responses, torch.tensor([0, 1, 2, 0, 1, 0])) is responses
    )
    assert MultiLabel().own_predictions(responses, torch.ones(6, 3).double()) is responses
    target = torch.randn(6, 3, generator=torch.Generator().manual_seed(1)).double() + 5
    # Of two modalities, each has said half of the constant already.
    halfway = responses + target.mean(0) / 2
    torch.testing.assert_close(Regression().own_predictions(responses, target), halfway)
    units = [
        float(task.unit(torch.tensor(4.0)))
        for task in (Classification(), MultiLabel(), Regression())
    ]
    assert [*units, float(Regression("absolute").unit(torch.tensor(4.0)))] == [1.0, 1.0, 4.0, 2.0]


@pytest.mark.parametrize("error", ["squared", "absolute"])
@pytest.mark.parametrize("axis", [1, 2, 3, -2, -3])
def test_numbers_on_any_axis_are_scored_as_on_the_last(axis: int, error: str) -> None:
    generator = torch.Generator().manual_seed(0)
    responses = torch.randn(2, 4, 3, 5, 6, generator=generator).double()
    target = torch.randn(4, 3, 5, 6, generator=generator).double()
    target[0, 1, 2, 3] = torch.nan
    place = axis if axis < 0 else axis + 1
    found = Regression(error, output_axis=axis).scores(responses, target)
    expected = Regression(error).scores(responses.movedim(place, -1), target.movedim(axis, -1))
    torch.testing.assert_close(found, expected)
