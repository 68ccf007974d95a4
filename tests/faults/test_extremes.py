"""Numbers at their extremes: finite coefficients, or a clear stop."""

from __future__ import annotations

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmod import AGM, OGMGE, Classification, Method, ModulatedModel, MultiLabel, Regression, Task
from gradmod.experiments.cli.main import main
from networks import NAMES, batch, network

EXTREMES = (0.0, 1.0, -1.0, 1e30, -1e30, 3e38, -3e38, 1e-40, -1e-40)
TWO = NAMES[:2]


class Scale(nn.Module):
    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.full((), 0.5, dtype=dtype))

    def forward(self, x: Tensor) -> Tensor:
        return x * self.scale


class Sum(nn.Module):
    """The logits are the sum of the inputs, scaled: every extreme of the inputs reaches them."""

    def __init__(self, dtype: torch.dtype) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: Scale(dtype) for m in TWO})

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.encoders["audio"](inputs["audio"]) + self.encoders["visual"](inputs["visual"])


def target_for(task: Task, target: list[float], dtype: torch.dtype) -> Tensor:
    values = torch.tensor(target, dtype=dtype).reshape(2, 2)
    if isinstance(task, Classification):
        return (values > 0).long()[:, 0]
    return (values > 0).to(dtype) if isinstance(task, MultiLabel) else values


@settings(max_examples=150)
@given(
    st.lists(st.sampled_from(EXTREMES), min_size=8, max_size=8),
    st.lists(st.sampled_from(EXTREMES), min_size=4, max_size=4),
    st.sampled_from([Classification(), MultiLabel(), Regression(), Regression("absolute")]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([AGM, OGMGE]),
)
def test_coefficients_are_finite_whatever_the_inputs_and_targets(
    values: list[float], target: list[float], task: Task, dtype: torch.dtype, method: type[Method]
) -> None:
    model = ModulatedModel(Sum(dtype), method(TWO), task=task)
    inputs = {
        m: torch.tensor(values[4 * i : 4 * i + 4], dtype=dtype).reshape(2, 2)
        for i, m in enumerate(TWO)
    }
    wanted = target_for(task, target, dtype)
    for _ in range(3):
        loss = task.loss(model(inputs, wanted), wanted)
        loss.backward()
        assert model.last_step is not None
        assert model.last_step.coefficients.isfinite().all()
        # Where the loss is finite in itself AGM adds no infinity; an infinite loss is the trainer's to stop at.
        joint = torch.autograd.grad(
            task.loss(model.model(inputs), wanted), list(model.model.parameters())
        )
        for parameter, expected in zip(model.model.parameters(), joint, strict=True):
            assert parameter.grad is not None
            assert parameter.grad.isfinite() or not expected.abs() < 1e30
        model.zero_grad()
    if isinstance(model.method, AGM):
        assert model.method.mean_score.isfinite().all()


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
@pytest.mark.parametrize("task", [Classification(), Regression()])
def test_a_step_that_is_not_finite_is_neither_counted_nor_modulated(
    strategy: str, task: Task
) -> None:
    agm = AGM(TWO)
    model = ModulatedModel(
        network(TWO, late=True, layer="plain"), agm, coalitions=strategy, task=task
    )
    inputs, target = batch(TWO, 6, 3)
    if isinstance(task, Regression):
        target = torch.randn(6, 3, dtype=torch.float64)
    model(inputs, target).sum().backward()
    before = agm.mean_score.clone()
    if isinstance(task, Regression):
        target[2, 1] = 1e200  # its square is infinite
    else:
        inputs["visual"][3, 1] = math.nan
    model(inputs, target)
    assert agm.last_step is not None
    assert agm.last_step.scores is not None
    assert not agm.last_step.scores.isfinite().all()
    assert torch.equal(agm.mean_score, before)
    assert agm.steps.tolist() == [1, 1]
    assert agm.last_step.coefficients.tolist() == [1, 1]


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
@pytest.mark.parametrize("layer", ["layer-norm", "batch-norm"])
@pytest.mark.parametrize("size", [1, 2])
def test_a_batch_of_one_and_of_one_class(strategy: str, layer: str, size: int) -> None:
    model = ModulatedModel(network(TWO, late=True, layer=layer), AGM(TWO), coalitions=strategy)
    inputs, target = batch(TWO, size, 3)
    target[:] = 1
    if layer == "batch-norm" and size == 1:
        with pytest.raises(
            ValueError, match="Expected more than 1 value per channel when training"
        ):
            model(inputs, target)
        return
    model.task.loss(model(inputs, target), target).backward()
    assert model.last_step is not None
    assert model.last_step.coefficients.isfinite().all()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_every_input_hidden() -> None:
    model = ModulatedModel(network(TWO, late=False, layer="batch-norm"), AGM(TWO))
    inputs, target = batch(TWO, 6, 3)
    zeros = {m: torch.zeros_like(x) for m, x in inputs.items()}
    for _ in range(3):
        model.task.loss(model(zeros, target), target).backward()
        assert model.last_step is not None
        assert model.last_step.coefficients.isfinite().all()


def test_the_trainer_refuses_batches_of_one_under_batch_norm(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    flags = [
        "--batch-size",
        "1",
        "--epochs",
        "1",
        "--width",
        "8",
        "--device",
        "cpu",
        "--out",
        str(tmp_path),
    ]
    assert main(["train", "--dataset", "av-digits", *flags]) == 2
    assert "--batch-size is 1" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
