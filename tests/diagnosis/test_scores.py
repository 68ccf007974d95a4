"""Metrics by name and functions of one's own as scores."""

from __future__ import annotations

import inspect
from functools import partial
from typing import Any

import pytest
import torch
from sklearn.metrics import roc_auc_score
from torch import Tensor

from gradmod import diagnose
from gradmod.diagnosis.attribution import CoalitionPredictions, attribute
from gradmod.diagnosis.scores import score_of
from gradmod.tasks import Classification, MultiLabel, Regression


def logits_and_target(classes: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    return torch.randn(40, classes, generator=generator), torch.arange(40) % classes


def predictions() -> CoalitionPredictions:
    logits, target = logits_and_target()
    known = torch.nn.functional.one_hot(target, 3).float()
    return CoalitionPredictions(
        ("a", "b"), torch.stack([logits, logits + known, logits, logits + 3 * known]), target
    )


def hits(logits: Tensor, target: Tensor) -> Tensor:
    return (logits.argmax(-1) == target).double().mean()


def test_a_function_is_as_good_as_the_name() -> None:
    by_name = attribute(predictions(), Classification(), "accuracy", replicates=20)
    own = attribute(predictions(), Classification(), hits, replicates=20)
    assert own.metric == "hits"
    assert own.game == by_name.game
    assert own.scores == by_name.scores
    for m in ("a", "b"):
        assert own.value_intervals[m] == pytest.approx(by_name.value_intervals[m])


def test_the_defaults_are_those_of_a_diagnosis() -> None:
    ours, theirs = (inspect.signature(function).parameters for function in (attribute, diagnose))
    assert ours["replicates"].default == theirs["replicates"].default == 1000
    assert ours["seed"].default == theirs["seed"].default == 0


def test_which_way_is_better() -> None:
    def error(logits: Tensor, target: Tensor) -> float:
        return 1 - float(hits(logits, target))

    class Declared:
        higher_is_better = False

        def __call__(self, logits: Tensor, target: Tensor) -> float:
            return error(logits, target)

    accuracy = attribute(predictions(), Classification(), replicates=0)
    wrong_way = attribute(predictions(), Classification(), error, replicates=0)
    assert wrong_way.scores.values["a"] == pytest.approx(-accuracy.scores.values["a"])
    for found in (
        attribute(predictions(), Classification(), error, lower_is_better=True, replicates=0),
        attribute(predictions(), Classification(), Declared(), replicates=0),
    ):
        assert found.scores.values["a"] == pytest.approx(accuracy.scores.values["a"])
        assert found.whole == pytest.approx(accuracy.whole - 1)
    assert attribute(predictions(), Classification(), Declared(), replicates=0).metric == "Declared"
    assert score_of(Classification(), "loss").lower_is_better
    assert score_of(Regression(), "mae").lower_is_better
    assert not score_of(Regression(), "correlation").lower_is_better
    assert not score_of(Classification(), "accuracy").lower_is_better


def test_the_headline_of_a_task_of_ones_own_says_which_way() -> None:
    class Ranked(Classification):
        headline = sample_metric = "rank"
        lower_is_better = True

        def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
            return {"rank": self.per_sample(logits, target).mean()}

        def per_sample(self, logits: Tensor, target: Tensor) -> Tensor:
            return (logits > logits.gather(1, target[:, None])).double().sum(1)

    found = attribute(predictions(), Ranked(), replicates=50)
    assert found.metric == "rank"
    assert -0.2 < found.whole <= 0
    assert found.scores.values["a"] > 0
    low, high = found.value_intervals["a"]
    assert low < found.scores.values["a"] < high


def test_auroc_of_classes_and_of_labels() -> None:
    logits, target = logits_and_target()
    expected = roc_auc_score(target.numpy(), logits.softmax(-1).numpy(), multi_class="ovr")
    assert score_of(Classification(), "auroc")(logits, target) == pytest.approx(expected)
    two, half = logits_and_target(2)
    expected = roc_auc_score(half.numpy(), (two[:, 1] - two[:, 0]).numpy())
    assert score_of(Classification(), "auroc")(two, half) == pytest.approx(expected)
    segments = score_of(Classification(), "auroc")(logits.reshape(20, 2, 3), target.reshape(20, 2))
    assert segments == score_of(Classification(), "auroc")(logits, target)
    labels = (torch.rand(40, 3, generator=torch.Generator().manual_seed(1)) < 0.5).float()
    expected = roc_auc_score(labels.numpy(), logits.numpy())
    assert score_of(MultiLabel(), "auroc")(logits, labels) == pytest.approx(expected)
    found = attribute(predictions(), Classification(), "auroc", replicates=20)
    assert found.game["nothing"] == 0.5
    assert found.metric == "auroc"
    with pytest.raises(
        ValueError, match=r"metric is 'auroc'; expected one of mae, .*, or a function"
    ):
        score_of(Regression(), "auroc")(logits[:, :1], torch.zeros(40, 1))
    with pytest.raises(
        ValueError, match="expected one of accuracy, macro_f1, loss, auroc, or a function"
    ):
        score_of(Classification(), "auc")(logits, target)


def test_draws_without_a_score_are_left_out() -> None:
    """Two positives among 40: every seventh draw has none, and so no AUROC."""
    logits, _ = logits_and_target(2)
    target = (torch.arange(40) < 2).long()
    found = attribute(
        CoalitionPredictions(("a",), torch.stack([logits, logits]), target),
        Classification(),
        "auroc",
        replicates=60,
    )
    assert all(-1 <= end <= 1 for end in found.value_intervals["a"])
    never = attribute(
        CoalitionPredictions(("a",), torch.stack([logits, logits]), target),
        Classification(),
        lambda x, y: float("nan") if len(y.unique()) and not torch.equal(y, target) else 1.0,
        replicates=5,
    )
    assert never.metric == "metric"
    assert str(never.value_intervals["a"]) == "(nan, nan)"


@pytest.mark.parametrize(
    ("metric", "error", "message"),
    [
        (3, TypeError, "metric is 3; expected a name, or a function"),
        (
            lambda x, y: x,
            TypeError,
            r"'metric' gave Tensor of shape \[40, 3\]; expected one number",
        ),
        (partial(hits), None, ""),
        (lambda x, y: None, TypeError, "gave NoneType; expected one number"),
        (
            lambda x, y: float("nan"),
            ValueError,
            "metric is nan over the 40 samples when the model is shown nothing",
        ),
        (
            lambda x, y: float("inf") if float(hits(x, y)) > 0.7 else 0,
            ValueError,
            r"metric is inf .* shown a\+b",
        ),
    ],
)
def test_what_is_no_metric(metric: Any, error: type[Exception] | None, message: str) -> None:
    if error is None:
        assert attribute(predictions(), Classification(), metric, replicates=0).metric == "hits"
        return
    with pytest.raises(error, match=message):
        attribute(predictions(), Classification(), metric, replicates=0)


def test_attribute_checks_what_training_checks() -> None:
    good = predictions()
    names, logits, target = good.modalities, good.logits, good.target
    broken = logits.clone()
    broken[3, 5] = torch.nan
    cases: list[tuple[Tensor, Tensor, str]] = [
        (broken, target, r"not finite for 1 of 40 samples, sample 5 the first \(counted from 0\)$"),
        (
            broken[[0, 3, 2, 1]],
            target,
            r"sample 5 the first .*, when it is shown a alone: .*mask=\.\.\. to gradmod",
        ),
        (logits, target[:, None], r"target has shape \[40, 1\]; expected \[40\]"),
        (logits, target.int(), "dtype torch.int32"),
        (logits, target + 1, "classes from 1 to 3; expected 0 to 2"),
    ]
    for values, answers, message in cases:
        with pytest.raises(ValueError, match=message):
            attribute(CoalitionPredictions(names, values, answers), Classification(), replicates=0)
    empty = logits.clone()
    empty[0] = torch.nan  # read by nobody: the score of nothing is the best constant answer's
    assert (
        attribute(CoalitionPredictions(names, empty, target), Classification(), replicates=0).whole
        > 0.5
    )
    with pytest.raises(ValueError, match="replicates is -1"):
        attribute(good, Classification(), replicates=-1)
