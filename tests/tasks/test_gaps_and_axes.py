"""Targets with gaps, soft targets, the class axis: scores, loss, metrics and gradients against brute force."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from sklearn.metrics import accuracy_score, f1_score
from torch import Tensor, nn

from gradmod import AGM, OGMGE, Classification, ModulatedModel, MultiLabel, Regression, Task, adapt

TWO = ("audio", "visual")
ALPHA = 1.5


class Dense(nn.Module):
    """[B, C, ...] in, [B, K, ...] out: a class axis where convolutions have it; not additive."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.audio, self.visual = nn.Conv2d(3, 5, 3, padding=1), nn.Conv2d(2, 5, 3, padding=1)
        self.out = nn.Conv2d(10, outputs, 1)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        result: Tensor = self.out(
            torch.cat([self.audio(inputs["audio"]).tanh(), self.visual(inputs["visual"]).relu()], 1)
        )
        return result


def dense(outputs: int, seed: int = 0) -> tuple[Dense, dict[str, Tensor]]:
    torch.manual_seed(seed)
    net = Dense(outputs).double()
    size = (2, 4, 4)
    inputs = {
        "audio": torch.randn(size[0], 3, *size[1:]),
        "visual": torch.randn(size[0], 2, *size[1:]),
    }
    return net, {m: x.double() for m, x in inputs.items()}


Scores = Callable[[Tensor], Tensor]
"""Mean score of one response, from scratch."""


def brute_force(net: nn.Module, inputs: dict[str, Tensor], loss: Scores, score: Scores) -> Any:
    """A first step of AGM by its equations: a loop over coalitions, autograd; scores, coefficients and gradients."""
    net.zero_grad()
    values = {}
    for shown in itertools.product((False, True), repeat=2):
        hidden = {
            m: x if on else torch.zeros_like(x)
            for (m, x), on in zip(inputs.items(), shown, strict=True)
        }
        values[shown] = net(hidden) if any(shown) else torch.zeros(())
    both, a, v = values[True, True], values[True, False], values[False, True]
    phi = ((both - v + a) / 2, (both - a + v) / 2)
    scores = torch.stack([score(one.detach()) for one in phi])
    kappa = (ALPHA * (1 - (scores.flip(0) - scores).exp()).clamp(max=2.0)).exp()
    logits = both.detach().requires_grad_()
    (upstream,) = torch.autograd.grad(loss(logits), logits)
    sum(
        (k * (one * upstream).sum() for k, one in zip(kappa, phi, strict=True)), torch.zeros(())
    ).backward()
    return scores, kappa, [parameter.grad.clone() for parameter in net.parameters()]


def assert_equals_brute_force(
    net: nn.Module,
    inputs: dict[str, Tensor],
    target: Tensor,
    task: Task,
    loss: Scores,
    score: Scores,
) -> None:
    expected = brute_force(net, inputs, loss, score)
    model = ModulatedModel(net, AGM(TWO, alpha=ALPHA), task=task)
    net.zero_grad()
    logits = model(inputs, target)
    torch.testing.assert_close(logits, net(inputs), rtol=0, atol=1e-12)
    own = task.loss(logits, target)
    torch.testing.assert_close(own, loss(logits))
    own.backward()
    record = model.last_step
    assert record is not None
    assert record.scores is not None
    torch.testing.assert_close(record.scores, expected[0], rtol=1e-9, atol=0)
    torch.testing.assert_close(record.coefficients, expected[1], rtol=1e-9, atol=0)
    assert (record.coefficients - 1).abs().max() > 1e-4
    for parameter, gradient in zip(net.parameters(), expected[2], strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("axis", [1, -3])
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("classes", [3, 4])
def test_pixels_with_the_class_axis_of_cross_entropy_and_gaps(
    axis: int, smoothing: float, classes: int
) -> None:
    """With 4 classes K = H = W, and the shapes alone do not say where the classes are."""
    net, inputs = dense(classes)
    target = torch.randint(classes, (2, 4, 4), generator=torch.Generator().manual_seed(1))
    target[0, :2] = -100

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.cross_entropy(logits, target, label_smoothing=smoothing)

    task = Classification(class_axis=axis, label_smoothing=smoothing)
    assert_equals_brute_force(net, inputs, target, task, cross_entropy, cross_entropy)


def test_soft_pixels_and_soft_samples() -> None:
    net, inputs = dense(4)
    target = torch.rand(2, 4, 4, 4, dtype=torch.float64).softmax(1)
    target[1, :, 2] = torch.nan
    scored = ~target.isnan().any(1)

    def cross_entropy(logits: Tensor) -> Tensor:
        terms = -(target.nan_to_num() * logits.log_softmax(1)).sum(1)
        return terms[scored].mean()

    assert_equals_brute_force(
        net, inputs, target, Classification(class_axis=1), cross_entropy, cross_entropy
    )


def test_labels_of_pixels_soft_and_with_gaps() -> None:
    net, inputs = dense(4)
    target = torch.rand(2, 4, 4, 4, dtype=torch.float64)
    target[0, 1:3] = -1
    target[1, 0, 0] = torch.nan
    known = (target >= 0) & ~target.isnan()

    def cross_entropy(logits: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits[known], target[known])

    task = MultiLabel(missing=-1, class_axis=1)
    assert_equals_brute_force(net, inputs, target, task, cross_entropy, cross_entropy)


@pytest.mark.parametrize(
    ("logits", "target"),
    [((2, 8, 8, 8), (2, 8, 8)), ((4, 5, 5), (4, 5))],
)
def test_two_possible_class_axes_are_refused_until_one_is_said(
    logits: tuple[int, ...], target: tuple[int, ...]
) -> None:
    scores, classes = torch.randn(logits), torch.randint(logits[1], target)
    with pytest.raises(
        ValueError, match=r"could have their classes on axis 1.*Classification\(class_axis=1\)"
    ):
        Classification().check(scores, classes)
    for task in (Classification(class_axis=1), Classification(class_axis=-1)):
        task.check(scores, classes)
    at_one, at_last = (
        Classification(class_axis=axis).scores(scores[None], classes) for axis in (1, -1)
    )
    assert not torch.allclose(at_one, at_last)
    torch.testing.assert_close(at_one[0], F.cross_entropy(scores, classes, reduction="none"))
    with pytest.raises(
        ValueError, match=r"soft targets of shape .* could have their classes on axis 1"
    ):
        Classification().check(scores, scores.softmax(-1))


def test_the_default_axis_is_the_last_and_a_message_names_the_other() -> None:
    Classification().check(torch.zeros(2, 7, 3), torch.zeros(2, 7, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"expected \[2, 4, 8\].*task=Classification\(class_axis=1\)"
    ):
        Classification().check(torch.zeros(2, 4, 8, 8), torch.zeros(2, 8, 8, dtype=torch.long))
    with pytest.raises(
        ValueError,
        match=r"expected \[2, 8, 8\], the logits \[2, 4, 8, 8\] without their class axis 1",
    ):
        Classification(class_axis=1).check(
            torch.zeros(2, 4, 8, 8), torch.zeros(2, 4, 8, dtype=torch.long)
        )
    for axis in (0, True, 1.0):
        with pytest.raises(
            ValueError, match=r"class_axis is .*; expected an axis behind the batch"
        ):
            Classification(class_axis=axis)  # type: ignore[arg-type]
    for axis in (3, -3):
        with pytest.raises(
            ValueError, match=rf"class_axis is {axis} and the logits have shape \[2, 4, 8\]"
        ):
            Classification(class_axis=axis).check(
                torch.zeros(2, 4, 8), torch.zeros(2, 8, dtype=torch.long)
            )
    with pytest.raises(ValueError, match=r"expected \[6\].*: target\.squeeze\(-1\)"):
        Classification().check(torch.zeros(6, 3), torch.zeros(6, 1, dtype=torch.long))
    with pytest.raises(
        ValueError, match=r"expected \[6\].*One-hot or soft targets are floats: target\.float\(\)"
    ):
        Classification().check(torch.zeros(6, 3), torch.zeros(6, 3, dtype=torch.long))
    with pytest.raises(ValueError, match=r"call target\.long\(\)"):
        Classification().check(torch.zeros(6, 3), torch.zeros(6))


def test_a_target_without_a_class_is_in_no_figure() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = (
        torch.randn(6, 5, 3, generator=generator),
        torch.randint(3, (6, 5), generator=generator),
    )
    target[torch.rand(6, 5, generator=generator) < 0.4] = 7
    target[2] = 7
    task, kept = Classification(ignore_index=7), target != 7
    metrics = task.metrics(logits, target)
    predicted = logits[kept].argmax(-1)
    assert float(metrics["accuracy"]) == pytest.approx(accuracy_score(target[kept], predicted))
    assert float(metrics["macro_f1"]) == pytest.approx(
        f1_score(target[kept], predicted, average="macro")
    )
    torch.testing.assert_close(metrics["loss"], F.cross_entropy(logits[kept], target[kept]))
    assert float(task.headlines(logits[None], target)[0]) == pytest.approx(
        float(metrics["accuracy"])
    )
    torch.testing.assert_close(task.mean_scores(logits[None], target)[0].float(), metrics["loss"])
    assert float(task.per_sample(logits, target).mean()) == pytest.approx(
        float(metrics["accuracy"])
    )
    frequencies = torch.bincount(target[kept]) / kept.sum()
    torch.testing.assert_close(task.constant(target, 3).softmax(-1).float(), frequencies)
    assert int(task.left_out(target)) == int((~kept).sum())
    assert not task.scores(logits[None], target)[0][~kept].any()
    nothing = torch.full_like(target, 7)
    assert float(task.loss(logits, nothing)) == 0
    with pytest.raises(
        ValueError, match=r"target holds classes from 0 to 7; expected 0 to 2.*is marked by -100"
    ):
        Classification().scores(logits[None], target)


def test_mixed_targets_score_as_cross_entropy_and_are_right_by_their_largest_class() -> None:
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(8, 3, generator=generator)
    one, other = (
        F.one_hot(torch.randint(3, (8,), generator=generator), 3).float() for _ in range(2)
    )
    target = 0.7 * one + 0.3 * other
    task = Classification()
    torch.testing.assert_close(task.loss(logits, target), F.cross_entropy(logits, target))
    torch.testing.assert_close(
        task.scores(logits[None], target)[0], F.cross_entropy(logits, target, reduction="none")
    )
    assert float(task.metrics(logits, target)["accuracy"]) == pytest.approx(
        float((logits.argmax(-1) == target.argmax(-1)).double().mean())
    )
    torch.testing.assert_close(task.constant(target, 3).softmax(-1), target.double().mean(0))
    hard = one.argmax(-1)
    torch.testing.assert_close(
        task.scores(logits[None], one), task.scores(logits[None], hard), rtol=0, atol=0
    )
    sure = torch.tensor([[[1e4, 0.0, 0.0]]])
    assert float(task.scores(sure, torch.tensor([[0.0, 1.0, 0.0]]))) == pytest.approx(
        18.42068, abs=1e-4
    )
    for wrong in ([1.0, 1.0, 0.0], [0.0, 0.0, 0.0], [1.5, -0.5, 0.0]):
        with pytest.raises(
            ValueError, match=r"a soft target is \[.*expected probabilities.*MultiLabel\(\)"
        ):
            task.scores(logits[None, :1], torch.tensor([wrong]))


@pytest.mark.parametrize("wrong", [-0.1, 1.0, True])
def test_a_label_smoothing_out_of_range(wrong: float) -> None:
    with pytest.raises(
        ValueError, match=r"label_smoothing is .*; expected a number from 0 on and below 1"
    ):
        Classification(label_smoothing=wrong)


def test_soft_labels_are_not_cut_and_gaps_do_not_count() -> None:
    generator = torch.Generator().manual_seed(0)
    logits, target = torch.randn(9, 4, generator=generator), torch.rand(9, 4, generator=generator)
    task = MultiLabel()
    terms = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
    torch.testing.assert_close(task.scores(logits[None], target)[0], terms.mean(-1))
    gaps = torch.rand(9, 4, generator=generator) < 0.4
    gaps[3] = True
    for value, masked in ((torch.nan, MultiLabel()), (-1.0, MultiLabel(missing=-1))):
        with_gaps = target.masked_fill(gaps, value)
        torch.testing.assert_close(masked.loss(logits, with_gaps), terms[~gaps].mean())
        torch.testing.assert_close(
            masked.mean_scores(logits[None], with_gaps)[0].float(), terms[~gaps].mean()
        )
        metrics = masked.metrics(logits, with_gaps)
        right = ((logits > 0) == (target > 0.5))[~gaps].double().mean()
        assert float(metrics["accuracy"]) == pytest.approx(float(right))
        assert float(masked.per_sample(logits, with_gaps).mean()) == pytest.approx(float(right))
        each = [
            f1_score((target > 0.5)[~gaps[:, k], k], (logits > 0)[~gaps[:, k], k], zero_division=0)
            for k in range(4)
        ]
        assert float(metrics["macro_f1"]) == pytest.approx(sum(each) / 4)
        assert float(masked.headlines(logits[None], with_gaps)[0]) == pytest.approx(sum(each) / 4)
        frequency = torch.stack([target[~gaps[:, k], k].mean() for k in range(4)])
        torch.testing.assert_close(masked.constant(with_gaps, 4).sigmoid().float(), frequency)
    with pytest.raises(
        ValueError, match=r"target holds the label -1; .*If -1 says that: MultiLabel\(missing=-1\)"
    ):
        MultiLabel().scores(logits[None], target.masked_fill(gaps, -1.0))
    with pytest.raises(ValueError, match="missing is 1, which is a label"):
        MultiLabel(missing=1)


@pytest.mark.parametrize("error", ["squared", "absolute"])
def test_numbers_that_are_not_there_do_not_count(error: str) -> None:
    generator = torch.Generator().manual_seed(0)
    prediction, target = (
        torch.randn(9, 2, generator=generator),
        torch.randn(9, 2, generator=generator) + 3,
    )
    gaps = torch.rand(9, 2, generator=generator) < 0.3
    gaps[4] = True
    with_gaps, task = target.masked_fill(gaps, torch.nan), Regression(error)
    difference = (prediction - target)[~gaps]
    expected = difference.square().mean() if error == "squared" else difference.abs().mean()
    torch.testing.assert_close(task.loss(prediction, with_gaps), expected)
    torch.testing.assert_close(task.mean_scores(prediction[None], with_gaps)[0].float(), expected)
    metrics = task.metrics(prediction, with_gaps)
    torch.testing.assert_close(metrics["mae"].float(), difference.abs().mean())
    torch.testing.assert_close(task.per_sample(prediction, with_gaps).mean(), metrics["mae"])
    torch.testing.assert_close(
        metrics["correlation"],
        torch.corrcoef(torch.stack([prediction[~gaps], target[~gaps]]))[0, 1].double(),
    )
    columns = [target[~gaps[:, k], k].double() for k in range(2)]
    best = torch.stack([c.mean() if error == "squared" else c.quantile(0.5) for c in columns])
    torch.testing.assert_close(task.constant(with_gaps, 2), best)
    assert float(task.loss(prediction, torch.full_like(target, torch.nan))) == 0


@pytest.mark.parametrize("task", [Regression(), Regression("absolute"), MultiLabel()])
@pytest.mark.parametrize(
    ("of_model", "of_target"), [((6, 1), (6,)), ((6, 1), (6, 6)), ((6, 2), (6, 1))]
)
def test_a_target_is_never_broadcast(
    task: Task, of_model: tuple[int, ...], of_target: tuple[int, ...]
) -> None:
    logits, target = torch.zeros(of_model), torch.zeros(of_target)
    for use in (task.check, task.loss, task.metrics, task.per_sample):
        with pytest.raises(ValueError, match="target has shape"):
            use(logits, target)
    for use in (task.scores, task.headlines):
        with pytest.raises(ValueError, match="target has shape"):
            use(logits[None], target)


def test_a_class_target_is_never_broadcast() -> None:
    logits, target = torch.zeros(6, 3), torch.zeros(6, 1, dtype=torch.long)
    task = Classification()
    for use in (task.check, task.loss, task.metrics, task.per_sample):
        with pytest.raises(ValueError, match=r"target has shape \[6, 1\]; expected \[6\]"):
            use(logits, target)
    for use in (task.scores, task.headlines):
        with pytest.raises(ValueError, match=r"target has shape \[6, 1\]; expected \[6\]"):
            use(logits[None], target)


class Segments(nn.Module):
    """[B, T, D] in, [B, T, K] out."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.audio, self.visual, self.out = nn.Linear(5, 8), nn.Linear(4, 8), nn.Linear(16, outputs)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        logits: Tensor = self.out(
            torch.cat(
                [self.audio(inputs["audio"]).tanh(), self.visual(inputs["visual"]).tanh()], -1
            )
        )
        return logits


def test_padded_segments_teach_what_they_teach_alone() -> None:
    """AGM on padded tokens gives the scores and gradients of the tokens that are there; the padding is counted."""
    torch.manual_seed(0)
    net = Segments(3).double()
    inputs = {"audio": torch.randn(4, 7, 5).double(), "visual": torch.randn(4, 7, 4).double()}
    target = torch.randint(3, (4, 7))
    target[:, 5:] = -100
    short = {m: x[:, :5] for m, x in inputs.items()}
    found = []
    for x, y in ((inputs, target), (short, target[:, :5])):
        net.zero_grad()
        model = ModulatedModel(net, AGM(TWO, alpha=3.0))
        F.cross_entropy(model(x, y).flatten(0, 1), y.flatten()).backward()
        assert model.last_step is not None
        assert model.last_step.of_the_step() == {
            "counted": True,
            "left_out_targets": int((y < 0).sum()),
        }
        found.append((model.last_step.scores, [p.grad.clone() for p in net.parameters()]))
    torch.testing.assert_close(found[0], found[1], rtol=1e-12, atol=1e-14)


@pytest.mark.parametrize("method", [AGM(TWO), OGMGE(TWO, noise=False)])
def test_regression_with_gaps_is_modulated_as_without_those_samples(method: Any) -> None:
    torch.manual_seed(0)
    net = Segments(1).double()
    adapted = adapt(net, lambda net, x: net(x), encoders={"audio": net.audio, "visual": net.visual})
    inputs = {"audio": torch.randn(12, 5).double(), "visual": torch.randn(12, 4).double()}
    target = torch.randn(12, 1).double() + 20
    kept = torch.arange(12) % 3 > 0
    records = []
    for rows in (torch.ones(12, dtype=torch.bool), kept):
        model = ModulatedModel(adapted, type(method)(TWO), task=Regression())
        y = target.masked_fill(~kept[:, None], torch.nan)[rows]
        model.task.loss(model({m: x[rows] for m, x in inputs.items()}, y), y).backward()
        assert model.last_step is not None
        records.append(model.last_step)
    for name in ("scores", "ratios", "coefficients"):
        torch.testing.assert_close(
            getattr(records[0], name), getattr(records[1], name), rtol=1e-12, atol=0
        )
    assert records[0].of_the_step()["left_out_targets"] == 4
    assert bool(records[0].scores.isfinite().all())
