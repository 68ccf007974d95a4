"""Attribution and diagnosis of models whose use of their modalities is known."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradmod
from gradmod import Joint, ModulatedModel
from gradmod.attribution import CoalitionPredictions, attribute, predict_coalitions
from gradmod.tasks import Classification, MultiLabel, Regression
from networks import NAMES, SIZES, Network


class Reads(nn.Module):
    """Logits are the sum of what it reads: each modality is a one-hot of the class, or wrong."""

    def __init__(self, weights: dict[str, float]) -> None:
        super().__init__()
        self.weights = weights
        self.scale = nn.Parameter(torch.ones(()))

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.scale * sum(weight * inputs[m] for m, weight in self.weights.items())


def batches(count: int = 400, wrong: dict[str, float] | None = None) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Inputs are one-hot vectors of the class; of each modality a share is of another class."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (count,), generator=generator)
    inputs = {}
    for m, share in (wrong or {"audio": 0.0, "visual": 0.5}).items():
        other = torch.rand(count, generator=generator) < share
        inputs[m] = nn.functional.one_hot((target + other.long()) % 4, 4).float()
    return [({m: x[i : i + 64] for m, x in inputs.items()}, target[i : i + 64]) for i in range(0, count, 64)]


def test_a_model_that_looks_at_one_modality() -> None:
    found = gradmod.diagnose(Reads({"audio": 1.0, "visual": 0.0}), batches(), alone={"audio": 1.0, "visual": 0.62})
    scores, game = found.attribution.scores, found.attribution.game
    assert game["audio+visual"] == game["audio"] == 1.0
    assert game["visual"] == pytest.approx(0.25, abs=0.05)  # all logits 0: the first class
    assert scores.contributions["audio"] > 0.7
    assert scores.values["visual"] == pytest.approx((game["visual"] - game["nothing"]) / 2)
    assert found.is_suppressed("visual")
    assert not found.is_suppressed("audio")
    verdict = found.verdict()
    assert verdict[0].startswith(f"audio carries {scores.contributions['audio']:.0%} of the accuracy")
    assert any("visual" in line and "alone it would reach 0.62" in line and "suppressed" in line for line in verdict)
    assert "noise hurts most in audio" in verdict[-1]
    assert found.robustness["visual"] == (1.0,) * 5
    assert found.robustness["audio"][0] == 1.0
    assert found.robustness["audio"][-1] < 0.9
    json.dumps(found.as_record())


def test_modalities_that_complete_each_other_cooperate() -> None:
    """One tells the class from 0 and 1, the other between 2 and 3: neither is enough."""
    target = torch.arange(4).repeat(50)
    audio = torch.stack([target >= 2, target >= 2], 1).float() * 2 - 1
    visual = torch.stack([target % 2 == 0, target % 2 == 1], 1).float() * 2 - 1

    class Both(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            high, even = inputs["audio"][:, 0], inputs["visual"][:, 0]
            return torch.stack([-high + even, -high - even, high + even, high - even], 1)

    found = gradmod.diagnose(Both(), [({"audio": audio, "visual": visual}, target)])
    assert found.attribution.game == {"nothing": 0.25, "audio": 0.5, "visual": 0.5, "audio+visual": 1.0}
    assert found.attribution.scores.cooperation == 0.25
    assert any("complement each other: together 0.25 more" in line for line in found.verdict())


def test_the_fast_resampling_is_the_slow_one() -> None:
    generator = torch.Generator().manual_seed(1)
    cases: list[tuple[Any, Tensor]] = [
        (Classification(), torch.randint(3, (40,), generator=generator)),
        (MultiLabel(), torch.randint(2, (40, 3), generator=generator).float()),
        (Regression(), torch.randn(40, 3, generator=generator)),
    ]
    for task, target in cases:
        logits = torch.randn(4, 40, 3, generator=generator)
        predictions = CoalitionPredictions(("a", "b"), logits, target)
        metric = task.sample_metric
        fast = predictions.resampled_games(task, metric, 20, seed=3)
        task.sample_metric = "none"
        slow = predictions.resampled_games(task, metric, 20, seed=3)
        torch.testing.assert_close(fast, slow)
        assert attribute(predictions, task, metric, replicates=50).scores.values.keys() == {"a", "b"}


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_the_score_of_nothing_is_the_best_constant_answers(metric: str) -> None:
    target = torch.tensor([0, 0, 0, 1, 2])
    predictions = CoalitionPredictions(("a",), torch.randn(2, 5, 4), target)
    expected = {"accuracy": 3 / 5, "macro_f1": 0.75 / 3, "loss": (3 * math.log(0.6) + 2 * math.log(0.2)) / 5}
    assert float(predictions.game(Classification(), metric)[0]) == pytest.approx(expected[metric], abs=1e-3)
    flat = CoalitionPredictions(("a",), torch.randn(2, 5, 1), torch.tensor([[1.0], [1.0], [1.0], [4.0], [9.0]]))
    assert float(flat.game(Regression("absolute"), "mae")[0]) == pytest.approx(-11 / 5)
    labels = CoalitionPredictions(("a",), torch.randn(2, 4, 2), torch.tensor([[1.0, 0], [1, 0], [0, 0], [1, 1]]))
    assert float(labels.game(MultiLabel(), "accuracy")[0]) == pytest.approx(6 / 8)
    with pytest.raises(ValueError, match="metric is 'auc'; expected one of accuracy"):
        predictions.game(Classification(), "auc")


def test_it_leaves_the_model_as_it_was_and_takes_a_modulated_one() -> None:
    names = NAMES[:3]
    network = Network(names, "batch-norm", 3)
    network.encoders["audio"].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    data = [({m: torch.randn(6, SIZES[m]) for m in names}, torch.randint(3, (6,))) for _ in range(3)]
    wrapped = gradmod.diagnose(ModulatedModel(network, Joint(names)), data, replicates=20)
    plain = gradmod.diagnose(network, data, replicates=20)
    assert wrapped == plain
    assert [module.training for module in network.modules()] == modes
    assert all(torch.equal(value, before[key]) for key, value in network.state_dict().items())
    game = predict_coalitions(network, data, names).game(Classification(), "accuracy")
    assert list(plain.attribution.game.values()) == game.tolist()
    assert len(plain.attribution.pair_intervals) == 3


def test_inputs_without_floats_and_noise_of_ones_own() -> None:
    class Tokens(nn.Module):
        def mask(self, modality: str, x: Tensor) -> Tensor:
            return torch.zeros_like(x)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return nn.functional.one_hot(inputs["text"], 4).float() + inputs["audio"]

    data = [({"text": target, "audio": torch.zeros(8, 4)}, target) for target in [torch.arange(8) % 4]]
    assert set(gradmod.diagnose(Tokens(), data, replicates=0).robustness) == {"audio"}

    def swap(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return torch.where(torch.rand(x.shape, generator=generator) < level, (x + 1) % 4, x)

    found = gradmod.diagnose(Tokens(), data, noise={"text": swap}, noise_levels=(0.0, 1.0), replicates=0)
    assert found.robustness["text"] == (1.0, 0.0)


def test_what_is_refused() -> None:
    model = Reads({"audio": 1.0})
    with pytest.raises(ValueError, match="the loader gave no batch"):
        gradmod.diagnose(model, [])
    with pytest.raises(ValueError, match="inputs lack 'smell'"):
        gradmod.diagnose(model, batches(), modalities=("audio", "smell"))


def test_one_modality_has_nothing_to_divide() -> None:
    found = gradmod.diagnose(Reads({"audio": 1.0}), batches(wrong={"audio": 0.2}), replicates=10)
    assert found.verdict() == ["the model has one modality, audio: there is nothing to divide"]
