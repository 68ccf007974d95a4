"""AGM in 16 bits against AGM in 32: the figures of a step, and what a training ends with."""

from __future__ import annotations

import copy
import math
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import AGM, OGMGE, Method, ModulatedModel, Regression
from gradmod.coalitions.table import coalition_logits
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.training.run import train
from gradmod.methods.scores import sums_and_counts
from gradmod.models.fusion import EarlyFusion, LateFusion
from gradmod.models.mlp import MLP
from networks import NAMES, batch, network
from runs import short

TWO = NAMES[:2]
DEVICES = [
    "cpu",
    pytest.param(
        "cuda", marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
    ),
]
HALF = {"bf16": torch.bfloat16, "fp16": torch.float16}
EPSILON = {"bf16": 2.0**-8, "fp16": 2.0**-11}


@pytest.mark.parametrize("device", DEVICES)
@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
@pytest.mark.parametrize("precision", list(HALF))
def test_the_figures_of_a_step_are_those_of_32_bits_but_for_rounding(
    precision: str, strategy: str, device: str
) -> None:
    single = ModulatedModel(
        network(TWO, late=True, layer="layer-norm").float(), AGM(TWO), coalitions=strategy
    )
    half = copy.deepcopy(single).to(device)
    for seed in range(5):
        inputs, target = batch(TWO, 32, 3, seed=seed)
        inputs = {m: x.float() for m, x in inputs.items()}
        F.cross_entropy(single(inputs, target), target).backward()
        on_device = {m: x.to(device) for m, x in inputs.items()}, target.to(device)
        with torch.autocast(device, HALF[precision]):
            loss = F.cross_entropy(half(*on_device).float(), on_device[1])
        loss.backward()
    assert single.last_step is not None
    assert half.last_step is not None
    for ours, theirs in zip(
        half.last_step.by_modality(TWO).items(),
        single.last_step.by_modality(TWO).items(),
        strict=True,
    ):
        if ours[0] != "headlines":  # counted, not rounded
            assert list(ours[1].values()) == pytest.approx(
                list(theirs[1].values()), rel=30 * EPSILON[precision]
            )
    for (name, a), (_, b) in zip(half.named_parameters(), single.named_parameters(), strict=True):
        assert a.grad is not None
        assert b.grad is not None
        assert float((a.grad.cpu() - b.grad).norm() / b.grad.norm()) < 30 * EPSILON[precision], name


def test_scores_are_summed_in_64_bits() -> None:
    """2^24 + 1 is 2^24 in 32 bits."""
    scores = torch.tensor([[2.0**24, 1.0, 5.0]])
    assert sums_and_counts(scores[:, :2]).tolist() == [[2.0**24 + 1], [2.0]]
    present = torch.tensor([[True], [True], [False]])
    assert sums_and_counts(scores, present).tolist() == [[2.0**24 + 1], [2.0]]


@pytest.mark.parametrize(("error", "expected"), [("squared", 300.0**2), ("absolute", 300.0)])
@pytest.mark.parametrize("precision", list(HALF))
def test_a_regression_is_scored_in_32_bits(precision: str, error: str, expected: float) -> None:
    """The square of 300 is infinite in float16; 300 + 1/8 is 300 in bfloat16."""
    responses = torch.full((2, 1, 1), 300.0, dtype=HALF[precision])
    scores = Regression(error).scores(responses, torch.zeros(1, 1))
    assert scores.dtype == torch.float32
    assert scores.tolist() == [[expected], [expected]]
    near = Regression(error).scores(responses, torch.full((1, 1), 300.125))
    assert near.flatten().tolist() == pytest.approx([0.125**2 if error == "squared" else 0.125] * 2)


class Large(nn.Module):
    """Additive, each modality's term as large as float32 holds; hidden, of the other sign."""

    def __init__(self) -> None:
        super().__init__()
        self.encoders = nn.ModuleDict({m: nn.Identity() for m in TWO})

    def mask(self, modality: str, x: Tensor) -> Tensor:
        return -x

    def encode(self, modality: str, x: Tensor) -> Tensor:
        encoded: Tensor = self.encoders[modality](x)
        return encoded * 3e38

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        return feature

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([features[m] for m in TWO])

    def head(self, joint: Tensor) -> Tensor:
        return joint.sum(0)

    def forward(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in TWO}))


def test_responses_beyond_what_32_bits_hold_are_the_largest_number() -> None:
    """phi^audio is 3e38 - (-3e38), phi^visual its negative."""
    inputs = {"audio": torch.ones(2, 1), "visual": -torch.ones(2, 1)}
    largest = torch.finfo(torch.float32).max
    for strategy in ("additive", "looped"):
        model = ModulatedModel(Large(), AGM(TWO), coalitions=strategy)
        responses = model.responses(inputs).responses
        assert responses[:, :, 0].tolist() == [[largest] * 2, [-largest] * 2]


def test_passes_without_gradient_leave_no_cast_behind() -> None:
    """In torch 2.6 a weight that autocast has cast without gradient gets none in a later pass either."""
    kept: list[bool] = []
    net = network(TWO, late=True, layer="plain").float()
    net.out.register_forward_pre_hook(lambda *_: kept.append(torch.is_autocast_cache_enabled()))
    model = ModulatedModel(net, AGM(TWO), coalitions="looped")
    inputs, target = batch(TWO, 6, 3)
    inputs = {m: x.float() for m, x in inputs.items()}
    with torch.autocast("cpu", torch.bfloat16):
        model.responses(inputs)
        model.own_predictions(inputs)
        coalition_logits(net, inputs, TWO)
        assert kept == [False] * len(kept)
        kept.clear()
        loss = F.cross_entropy(model(inputs, target).float(), target)
        assert kept == [True] * len(kept)
    loss.backward()
    assert all(
        parameter.grad is not None and parameter.grad.any() for parameter in net.parameters()
    )


class Digits:
    """AV-Digits, in a loop of one's own."""

    def __init__(self) -> None:
        data = load_dataset("av-digits", "", "heldout", 0, {})
        self.sizes = {m: math.prod(shape) for m, shape in data.train.shapes.items()}
        self.train, self.test = (split.read(range(len(split))) for split in (data.train, data.test))

    def accuracy(
        self,
        method: Method,
        early: bool,
        cast: Callable[[], AbstractContextManager[object]],
        scaled: bool,
    ) -> float:
        """Test accuracy after 12 epochs, `scaled`: with a gradient scaler, as float16 needs it."""
        torch.manual_seed(0)
        fusion = partial(EarlyFusion, hidden=(64, 32)) if early else LateFusion
        net = fusion({m: MLP(size, hidden=(64,)) for m, size in self.sizes.items()}, classes=10)
        model = ModulatedModel(net, method)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.03, momentum=0.9)
        scaler = torch.amp.GradScaler("cpu", enabled=scaled)
        inputs, target = self.train
        for _ in range(12):
            for rows in torch.randperm(len(target)).split(64):
                chosen = {m: x[rows] for m, x in inputs.items()}, target[rows]
                with cast():
                    loss = F.cross_entropy(model(*chosen).float(), chosen[1])
                optimizer.zero_grad()
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                model.after_backward()
                torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
                scaler.step(optimizer)
                scaler.update()
        with torch.no_grad():
            predicted: Tensor = model.eval()(self.test[0]).argmax(1)
        return float((predicted == self.test[1]).double().mean())


@pytest.mark.slow
@pytest.mark.parametrize("early", [False, True], ids=["late", "early"])
@pytest.mark.parametrize("method", [AGM, OGMGE])
def test_training_in_16_bits_ends_as_accurate_as_in_32(method: type[Method], early: bool) -> None:
    """On 359 samples; runs in 32 bits whose batches come in another order differ by up to 0.02."""
    digits = Digits()
    single = digits.accuracy(method(TWO), early, nullcontext, scaled=False)
    assert single > 0.85
    for precision, dtype in HALF.items():
        cast = partial(torch.autocast, "cpu", dtype)
        assert (
            digits.accuracy(method(TWO), early, cast, scaled=precision == "fp16") > single - 0.03
        ), precision


@pytest.mark.slow
@pytest.mark.parametrize("method", ["agm", "ogm-ge", "mslr", "mses"])
@pytest.mark.parametrize(
    "precision",
    [
        "bf16-mixed",
        pytest.param(
            "16-mixed",
            marks=pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU"),
        ),
    ],
)
def test_the_trainer_in_16_bits_ends_as_accurate_as_in_32(
    precision: str, method: str, tmp_path: Path
) -> None:
    accuracies = []
    for name in ("32-true", precision):
        device = "cuda" if precision == "16-mixed" else "cpu"
        config = short(
            tmp_path,
            epochs=10,
            name=name,
            precision=name,
            method=method,
            encoder="mlp",
            lr=0.03,
            device=device,
        )
        summary = train(config)
        assert summary is not None
        accuracies.append(summary.result["splits"]["test"]["accuracy"])
    assert accuracies[0] > 0.6
    assert accuracies[1] > accuracies[0] - 0.04
