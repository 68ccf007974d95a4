"""Classification: loss, scores, metrics."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor

from gradmod import Classification


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
    assert float(Classification().metrics(logits, target)["macro_f1"]) == pytest.approx(float(expected), rel=1e-6)


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
