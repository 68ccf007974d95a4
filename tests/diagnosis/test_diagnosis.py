"""Attribution and diagnosis of models whose use of their modalities is known."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

import gradmod
from gradmod import AGM, Joint, ModulatedModel
from gradmod.coalitions.table import coalition_logits
from gradmod.diagnosis import Diagnosis
from gradmod.diagnosis.attribution import (
    Attribution,
    CoalitionPredictions,
    attribute,
    predict_coalitions,
)
from gradmod.diagnosis.diagnosis import add_gaussian_noise
from gradmod.metrics.shape import shape_scores
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


def batches(
    count: int = 400, wrong: dict[str, float] | None = None
) -> list[tuple[dict[str, Tensor], Tensor]]:
    """Inputs are one-hot vectors of the class; of each modality a share is of another class."""
    generator = torch.Generator().manual_seed(0)
    target = torch.randint(4, (count,), generator=generator)
    inputs = {}
    for m, share in (wrong or {"audio": 0.0, "visual": 0.5}).items():
        other = torch.rand(count, generator=generator) < share
        inputs[m] = nn.functional.one_hot((target + other.long()) % 4, 4).float()
    return [
        ({m: x[i : i + 64] for m, x in inputs.items()}, target[i : i + 64])
        for i in range(0, count, 64)
    ]


def test_a_model_that_looks_at_one_modality() -> None:
    found = gradmod.diagnose(
        Reads({"audio": 1.0, "visual": 0.0}), batches(), alone={"audio": 1.0, "visual": 0.62}
    )
    scores, game = found.attribution.scores, found.attribution.game
    assert game["audio+visual"] == game["audio"] == 1.0
    assert game["visual"] == pytest.approx(0.25, abs=0.05)  # all logits 0: the first class
    assert scores.contributions["audio"] > 0.7
    assert scores.values["visual"] == pytest.approx((game["visual"] - game["nothing"]) / 2)
    assert found.is_suppressed("visual")
    assert not found.is_suppressed("audio")
    verdict = found.verdict()
    assert verdict[0].startswith(
        f"audio carries {scores.contributions['audio']:.0%} of the accuracy"
    )
    assert any(
        "visual" in line and "alone it would reach 0.62" in line and "suppressed" in line
        for line in verdict
    )
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
    assert found.attribution.game == {
        "nothing": 0.25,
        "audio": 0.5,
        "visual": 0.5,
        "audio+visual": 1.0,
    }
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
        assert attribute(predictions, task, metric, replicates=50).scores.values.keys() == {
            "a",
            "b",
        }


@pytest.mark.parametrize("metric", ["accuracy", "macro_f1", "loss"])
def test_the_score_of_nothing_is_the_best_constant_answers(metric: str) -> None:
    target = torch.tensor([0, 0, 0, 1, 2])
    predictions = CoalitionPredictions(("a",), torch.randn(2, 5, 4), target)
    expected = {
        "accuracy": 3 / 5,
        "macro_f1": 0.75 / 3,
        "loss": (3 * math.log(0.6) + 2 * math.log(0.2)) / 5,
    }
    assert float(predictions.game(Classification(), metric)[0]) == pytest.approx(
        expected[metric], abs=1e-3
    )
    flat = CoalitionPredictions(
        ("a",), torch.randn(2, 5, 1), torch.tensor([[1.0], [1.0], [1.0], [4.0], [9.0]])
    )
    assert float(flat.game(Regression("absolute"), "mae")[0]) == pytest.approx(-11 / 5)
    labels = CoalitionPredictions(
        ("a",), torch.randn(2, 4, 2), torch.tensor([[1.0, 0], [1, 0], [0, 0], [1, 1]])
    )
    assert float(labels.game(MultiLabel(), "accuracy")[0]) == pytest.approx(6 / 8)
    with pytest.raises(ValueError, match="metric is 'auc'; expected one of accuracy"):
        predictions.game(Classification(), "auc")


def test_it_leaves_the_model_as_it_was_and_takes_a_modulated_one() -> None:
    names = NAMES[:3]
    torch.manual_seed(0)
    network = Network(names, "batch-norm", 3)
    network.encoders["audio"].eval()
    before = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    data = [
        ({m: torch.randn(6, SIZES[m]) for m in names}, torch.randint(3, (6,))) for _ in range(3)
    ]
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

    data = [
        ({"text": target, "audio": torch.zeros(8, 4)}, target) for target in [torch.arange(8) % 4]
    ]
    assert set(gradmod.diagnose(Tokens(), data, replicates=0).robustness) == {"audio"}

    def swap(x: Tensor, level: float, generator: torch.Generator) -> Tensor:
        return torch.where(torch.rand(x.shape, generator=generator) < level, (x + 1) % 4, x)

    found = gradmod.diagnose(
        Tokens(), data, noise={"text": swap}, noise_levels=(0.0, 1.0), replicates=0
    )
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


def diagnosed(game: dict[str, float], **more: Any) -> Diagnosis:
    """A diagnosis with this score by coalition, of two modalities."""
    values = torch.tensor(list(game.values()), dtype=torch.float64)
    return Diagnosis(
        Attribution(("a", "b"), "accuracy", 100, game, shape_scores(values, ("a", "b"))), **more
    )


EVEN = {"nothing": 0.2, "a": 0.7, "b": 0.3, "a+b": 0.8}  # a: 0.5, b: 0.1


@pytest.mark.parametrize(
    ("alone", "suppressed"),
    [
        (
            0.599,
            False,
        ),  # alone it adds 0.399, of two modalities a half is 0.1995, half of that 0.09975 < 0.1
        (0.601, True),
        (0.1, False),  # alone it is worse than a constant answer
        (0.2, False),
    ],
)
def test_suppressed_is_below_half_of_an_even_share(alone: float, suppressed: bool) -> None:
    found = diagnosed(EVEN, alone={"b": alone})
    assert found.is_suppressed("b") is suppressed
    assert any("it is suppressed" in line for line in found.verdict()) is suppressed
    assert not found.is_suppressed("a")


def test_what_does_harm_is_suppressed_only_if_it_knows_something_alone() -> None:
    harm = {"nothing": 0.2, "a": 0.7, "b": 0.1, "a+b": 0.6}
    found = [diagnosed(harm, alone={"b": alone}).is_suppressed("b") for alone in (0.1, 0.2, 0.3)]
    assert found == [False, False, True]


class Words(NamedTuple):
    vectors: Tensor
    lengths: Tensor


@pytest.mark.parametrize("make", [Words, lambda *both: tuple(both), lambda *both: list(both)])
def test_noise_keeps_the_form_of_an_input(make: Callable[..., Any]) -> None:
    x = make(torch.arange(6.0).reshape(3, 2), torch.tensor([2, 1, 2]))
    noisy = add_gaussian_noise(x, 0.5, torch.Generator().manual_seed(0))
    assert type(noisy) is type(x)
    assert not torch.equal(noisy[0], x[0])
    assert noisy[1] is x[1]


def test_suppression_counts_the_modalities() -> None:
    """Of three an even share is a third."""
    names = ("a", "b", "c")
    game = torch.tensor([0.0, 0.5, 0.1, 0.6, 0.1, 0.6, 0.2, 0.7], dtype=torch.float64)
    labels = ("nothing", "a", "b", "a+b", "c", "a+c", "b+c", "a+b+c")
    whole = dict(zip(labels, game.tolist(), strict=True))
    for alone, suppressed in ((0.59, False), (0.61, True)):  # b adds 0.1
        found = Diagnosis(
            Attribution(names, "accuracy", 9, whole, shape_scores(game, names)), alone={"b": alone}
        )
        assert found.is_suppressed("b") is suppressed


def test_an_error_alone_is_given_as_an_error() -> None:
    data = [
        (
            {"audio": torch.tensor([[1.0], [3.0]]), "visual": torch.tensor([[0.5], [0.5]])},
            torch.tensor([[1.0], [4.0]]),
        )
    ]
    model = Reads({"audio": 1.0, "visual": 0.0})
    found = gradmod.diagnose(model, data, task=Regression(), alone={"visual": 0.1}, replicates=0)
    assert found.attribution.whole == pytest.approx(-0.5)
    assert found.alone == {"visual": -0.1}
    assert found.is_suppressed("visual")  # alone an error of 0.1, where a constant answer has 1.5
    far = gradmod.diagnose(model, data, task=Regression(), alone={"visual": 2.0}, replicates=0)
    assert not far.is_suppressed("visual")
    with pytest.raises(
        ValueError, match=r"alone\['visual'\] is -0.1; expected the mae .* a finite number >= 0"
    ):
        gradmod.diagnose(model, data, task=Regression(), alone={"visual": -0.1})


@pytest.mark.parametrize(
    ("levels", "scores", "sentence"),
    [
        (
            (0.0, 0.5, 1.0),
            {"a": (0.8, 0.7, 0.75), "b": (0.8, 0.1, 0.79)},
            "most in a: 0.75 in place of 0.80 at 1 standard deviation of the input",
        ),
        (
            (0.0, 0.8, 2.0),
            {"a": (0.8, 0.7, 0.1), "b": (0.8, 0.6, 0.5)},
            "most in b: 0.60 in place of 0.80 at 0.8 standard deviations of",
        ),
        (
            (1.0,),
            {"a": (0.9,), "b": (0.8,)},
            "in no modality: with 1 standard deviation of the input the score is 0.90 in place of 0.80 in a, 0.80 in "
            "place of 0.80 in b",
        ),
        ((1.0,), {"a": (0.9,), "b": (0.79996,)}, "most in b: 0.79996 in place of 0.80000 at 1"),
        ((0.0,), {"a": (0.8,), "b": (0.8,)}, ""),
        (
            (0.0, 3.0),
            {"a": (0.8, 0.2), "b": (0.8, 0.1)},
            "most in b: 0.10 in place of 0.80 at 3 standard deviations",
        ),
    ],
)
def test_noise_hurts_only_where_the_score_fell(
    levels: tuple[float, ...], scores: dict[str, tuple[float, ...]], sentence: str
) -> None:
    lines = diagnosed(EVEN, noise_levels=levels, robustness=scores).verdict()
    about = [line for line in lines if line.startswith("noise")]
    assert len(about) == bool(sentence)
    assert all(f"noise hurts {sentence}" in line for line in about)


@pytest.mark.parametrize(
    ("game", "expected"),
    [
        (
            {"nothing": 0.2, "a": 0.6, "b": 0.3, "a+b": 0.7},
            ["a carries 57% of the accuracy", "b carries 14%", "reach the sum of what each adds"],
        ),
        (
            {"nothing": 0.5, "a": 0.8, "b": 0.3, "a+b": 0.75},
            [
                "a carries",
                "b carries -17% of the accuracy: it does harm (without it: 0.80 in place of 0.75)",
                "complement each other: together 0.15 more",
            ],
        ),
        (
            {"nothing": 0.0, "a": 0.5, "b": 0.5, "a+b": 0.75},
            ["a carries 50%", "b carries 50%", "overlap: together 0.25 less"],
        ),
        (
            {"nothing": -2.0, "a": -1.0, "b": -2.0, "a+b": -1.0},
            ["a adds +1.00 (without it: -2.00 in place of -1.00)", "b adds +0.00", "reach the sum"],
        ),
    ],
)
def test_the_words_of_a_verdict(game: dict[str, float], expected: list[str]) -> None:
    lines = diagnosed(game).verdict()
    assert len(lines) == len(expected)
    assert all(words in line for words, line in zip(expected, lines, strict=True))


def test_intervals_that_hold_nothing_are_said() -> None:
    game = torch.tensor(list(EVEN.values()), dtype=torch.float64)
    intervals = {
        "value_intervals": {"a": (0.4, 0.6), "b": (0.0, 0.2)},
        "cooperation_interval": (-0.1, 0.0),
    }
    found = Attribution(
        ("a", "b"), "macro_f1", 100, EVEN, shape_scores(game, ("a", "b")), **intervals
    )
    lines = Diagnosis(found).verdict()
    assert lines[0].startswith("a carries 62% of the macro f1")
    assert lines[1].startswith("b is not used: what it contributes cannot be told from nothing")
    assert lines[2] == "together the modalities reach about the sum of what each adds"
    sure = replace(found, value_intervals={"b": (0.01, 0.2)}, cooperation_interval=(0.01, 0.2))
    assert "not used" not in Diagnosis(sure).verdict()[1]
    assert "about the sum" not in Diagnosis(sure).verdict()[2]


def test_noise_is_in_standard_deviations_of_the_input() -> None:
    x = 3 + 5 * torch.randn(200, 50, generator=torch.Generator().manual_seed(0))
    added = add_gaussian_noise(x, 0.5, torch.Generator().manual_seed(1)) - x
    assert float(added.std()) == pytest.approx(2.5, rel=0.02)
    assert float(added.mean()) == pytest.approx(0, abs=0.1)
    again = add_gaussian_noise(x, 0.5, torch.Generator().manual_seed(1)) - x
    assert torch.equal(added, again)
    holes = x.clone()
    holes[0] = -math.inf
    noisy = add_gaussian_noise(holes, 0.5, torch.Generator().manual_seed(1))
    assert float((noisy - holes)[1:].std()) == pytest.approx(2.5, rel=0.02)
    one = torch.full((1, 1), 7.0)
    assert add_gaussian_noise(one, 2.0, torch.Generator()) == 7
    half = add_gaussian_noise(x.half(), 0.5, torch.Generator().manual_seed(1))
    assert half.dtype == torch.float16
    torch.testing.assert_close(half.float() - x.half().float(), added, rtol=0, atol=0.05)


def test_token_ids_and_masks_stay_as_they_are_and_it_is_said() -> None:
    ids = torch.arange(8) % 4
    text = {"input_ids": ids, "attention_mask": torch.ones(8, 1)}
    assert add_gaussian_noise(text, 1.0, torch.Generator()) is None
    mixed = {
        "values": torch.randn(8, 2),
        "lengths": ids,
        "nested": [{"padding_mask": torch.randn(8, 1)}, torch.randn(8)],
    }
    noisy = add_gaussian_noise(mixed, 1.0, torch.Generator())
    assert noisy["lengths"] is ids
    assert torch.equal(noisy["nested"][0]["padding_mask"], mixed["nested"][0]["padding_mask"])
    assert not torch.equal(noisy["values"], mixed["values"])
    assert not torch.equal(noisy["nested"][1], mixed["nested"][1])

    class Tokens(nn.Module):
        def mask(self, modality: str, x: Any) -> Any:
            return (
                {k: torch.zeros_like(v) for k, v in x.items()}
                if isinstance(x, dict)
                else torch.zeros_like(x)
            )

        def forward(self, inputs: dict[str, Any]) -> Tensor:
            return (
                nn.functional.one_hot(inputs["text"]["input_ids"], 4).float()
                + 0.1 * inputs["audio"]
            )

    found = gradmod.diagnose(
        Tokens(), [({"text": text, "audio": torch.randn(8, 4)}, ids)] * 2, replicates=0
    )
    assert set(found.robustness) == {"audio"}
    assert found.notes == (
        "no noise was added to text: its input holds whole numbers (token ids, say) alone",
    )
    assert found.verdict()[-1] == found.notes[0]
    assert found.as_record()["notes"] == found.notes


def test_noise_that_the_model_cannot_bear_is_not_measured() -> None:
    class Logarithm(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return (inputs["audio"] + 1).log() + 0 * inputs["visual"]

    data = [({"audio": torch.eye(4), "visual": torch.eye(4)}, torch.arange(4))]
    found = gradmod.diagnose(Logarithm(), data, noise_levels=(0.0, 50.0), replicates=0)
    assert set(found.robustness) == {"visual"}
    assert (
        "how noise in audio hurts was not measured: with 50 standard deviations"
        in found.verdict()[-1]
    )


def test_logits_that_are_not_finite_are_refused_with_their_samples() -> None:
    data = batches(count=130)
    data[1][0]["visual"][3, 1] = torch.nan
    model = Reads({"audio": 1.0, "visual": 1.0})
    message = r"for 1 of 64 samples of a batch, sample 67 the first \(counted from 0\): the input of 'visual' is not"
    with pytest.raises(ValueError, match=message):
        gradmod.diagnose(model, data)
    with pytest.raises(ValueError, match=message):
        predict_coalitions(model, data, ("audio", "visual"))

    class Normalised(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return inputs["audio"] / inputs["audio"].norm(dim=1, keepdim=True) + inputs["visual"]

    with pytest.raises(
        ValueError, match=r"when it is shown visual alone: .*define mask|Define mask"
    ):
        gradmod.diagnose(Normalised(), batches(count=130))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda y: y[:, None], r"target has shape \[64, 1\]"),
        (lambda y: y.int(), "torch.int32"),
        (lambda y: y.float(), "torch.float32"),
        (lambda y: nn.functional.one_hot(y, 4), r"target has shape \[64, 4\]"),
        (lambda y: torch.where(torch.arange(len(y)) < 3, -1, y), "classes from -1 to 3"),
        (lambda y: y + 1, "classes from 1 to 4"),
        (lambda y: y[:-1], r"target has shape \[63\]"),
    ],
)
def test_targets_are_checked_as_in_training(
    change: Callable[[Tensor], Tensor], message: str
) -> None:
    data = [(x, change(y)) for x, y in batches(count=128)]
    with pytest.raises(ValueError, match=message):
        gradmod.diagnose(Reads({"audio": 1.0, "visual": 1.0}), data)
    model = ModulatedModel(Reads({"audio": 1.0, "visual": 1.0}), AGM(("audio", "visual")))
    with pytest.raises(ValueError, match=message):
        model(*data[0])


def test_a_mask_that_hides_nothing_is_refused() -> None:
    class Masked(Reads):
        def mask(self, modality: str, x: Any) -> Any:
            return x if modality == "visual" else torch.zeros_like(x)

    model = Masked({"audio": 0.0, "visual": 1.0})
    with pytest.raises(
        ValueError, match=r"hiding 'visual' changes nothing: .*mask=\.\.\. to gradmod\.adapt"
    ):
        gradmod.diagnose(model, batches())
    with pytest.raises(ValueError, match="hiding 'visual' changes nothing"):
        predict_coalitions(model, batches(), ("audio", "visual"))
    # Only where it hides nothing in any batch, and there was something to hide.
    zeros = [({**x, "visual": torch.zeros_like(x["visual"])}, y) for x, y in batches()]
    plain = Reads({"audio": 1.0, "visual": 1.0})
    assert not gradmod.diagnose(plain, [*zeros[:1], *batches()], replicates=0).notes
    assert (
        "the input of visual is in every sample what stands for it"
        in gradmod.diagnose(plain, zeros).verdict()[-1]
    )


@pytest.mark.parametrize("kind", ["strings", "dataclass", "numpy", "tuple"])
def test_inputs_that_no_zeros_can_hide_get_no_verdict(kind: str) -> None:
    @dataclass
    class Table:
        values: Tensor

    words = ["cat", "dog", "eel"]
    target = torch.arange(30) % 3
    known = nn.functional.one_hot(target, 3).float()
    text: Any = {
        "strings": [words[i] for i in target],
        "tuple": tuple(words[i] for i in target),
        "dataclass": Table(known),
        "numpy": known.numpy(),
    }[kind]

    class Net(nn.Module):
        def forward(self, inputs: dict[str, Any]) -> Tensor:
            x = inputs["text"]
            if isinstance(x, Table):
                return x.values + inputs["image"]
            if isinstance(x, np.ndarray):
                return torch.from_numpy(x) + inputs["image"]
            return (
                nn.functional.one_hot(torch.tensor([words.index(w) for w in x]), 3)
                + inputs["image"]
            )

    data = [({"image": 0.1 * torch.randn(30, 3), "text": text}, target)]
    with pytest.raises((ValueError, TypeError), match="'text'"):
        gradmod.diagnose(Net(), data, noise_levels=(), replicates=0)


def test_methods_that_are_merely_named_encode_fuse_and_head() -> None:
    """The network's own forward is asked, and answers are those of passes through it."""
    names = NAMES[:3]

    class Named(Network):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            features = {m: self.encode(m, inputs[m]) for m in names}
            return self.head(self.fuse(features)) + 2 * features["audio"][:, :3]

    class Gated(Network):
        """The same as its parts while everything is shown, another thing when something is hidden."""

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return super().forward(inputs) * (1.0 if all(inputs[m].any() for m in names) else 0.5)

    class Different(Network):
        def encode(self, modality: str, x: Tensor, scale: float) -> Tensor:  # type: ignore[override]
            return scale * super().encode(modality, x)

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, inputs[m], 2.0) for m in names}))

    inputs = {m: torch.randn(6, SIZES[m]) for m in names}
    for kind in (Named, Gated, Different):
        torch.manual_seed(0)
        net = kind(names, "plain", 3).eval()
        found = coalition_logits(net, inputs, names)
        for code in range(8):
            shown = {
                m: x if code >> bit & 1 else torch.zeros_like(x)
                for bit, (m, x) in enumerate(inputs.items())
            }
            torch.testing.assert_close(found[code], net(shown))


def test_wrappers_are_looked_through() -> None:
    """A mask that the network declares, and the method's modalities and task, are found under any wrapper."""
    torch.manual_seed(0)

    class Masked(Reads):
        def mask(self, modality: str, x: Tensor) -> Tensor:
            return torch.full_like(x, 0.25)

    net = Masked({"audio": 1.0, "visual": 0.5})
    model = ModulatedModel(net, Joint(("visual", "audio")), task=Other())
    expected = gradmod.diagnose(
        net, batches(), task=Other(), modalities=("visual", "audio"), replicates=0
    )
    assert expected.attribution.metric == "hits"
    for wrapped in (
        model,
        nn.DataParallel(model),
        AveragedModel(model),
        torch.compile(model, backend="eager"),
    ):
        assert gradmod.diagnose(wrapped, batches(), replicates=0) == expected
    expected = gradmod.diagnose(net, batches(), replicates=0)
    for wrapped in (nn.DataParallel(net), AveragedModel(net), torch.compile(net, backend="eager")):
        assert gradmod.diagnose(wrapped, batches(), replicates=0) == expected


class Other(Classification):
    headline = sample_metric = "hits"

    def metrics(self, logits: Tensor, target: Tensor) -> dict[str, Tensor]:
        return {"hits": self.per_sample(logits, target).mean()}


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise_levels": (0.5, -1.0)}, r"noise_levels is \(0.5, -1.0\)"),
        ({"noise_levels": (math.nan,)}, "noise_levels is"),
        (
            {"noise": {"smell": add_gaussian_noise}},
            r"noise names \['smell'\]; expected some of the modalities \['audio'",
        ),
        ({"alone": {"smell": 0.5}}, r"alone names \['smell'\]"),
        ({"alone": {"audio": math.nan}}, r"alone\['audio'\] is nan"),
        ({"replicates": -2}, "replicates is -2"),
        ({"noise_levels": 0.5}, r"noise_levels is 0\.5; expected a sequence"),
        ({"modalities": "audio"}, "modalities is 'audio'; expected different names"),
        ({"modalities": ("audio", "audio")}, "expected different names"),
        ({"metric": "auc"}, "expected one of accuracy, macro_f1, loss, auroc, or a function"),
    ],
)
def test_settings_are_checked(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        gradmod.diagnose(Reads({"audio": 1.0, "visual": 0.5}), batches(), **settings)


def test_keys_that_are_no_modality() -> None:
    model = Reads({"audio": 1.0, "visual": 0.5})
    expected = gradmod.diagnose(model, batches(), replicates=0)
    for extra in (torch.arange(64), [f"sample {i}" for i in range(64)]):
        data = [({**x, "id": extra[: len(y)]}, y) for x, y in batches()]
        with pytest.raises(
            ValueError, match=r"'id' holds .* if 'id' is none, .*modalities=\('audio', 'visual'\)"
        ):
            gradmod.diagnose(model, data)
        assert (
            gradmod.diagnose(model, data, modalities=("audio", "visual"), replicates=0) == expected
        )


def test_what_is_no_model_and_no_sample() -> None:
    for model, named in (
        (Reads, "class.*Reads"),
        (lambda inputs: inputs["audio"], "function"),
        ([], "list"),
    ):
        with pytest.raises(
            TypeError, match=f"the model is .*{named}.*; expected a network.*gradmod.adapt"
        ):
            gradmod.diagnose(model, batches())  # type: ignore[arg-type]
    none = [({m: x[:0] for m, x in inputs.items()}, target[:0]) for inputs, target in batches()]
    with pytest.raises(ValueError, match="no sample to score: every batch was empty"):
        gradmod.diagnose(Reads({"audio": 1.0, "visual": 0.5}), none)
    found = gradmod.diagnose(
        Reads({"audio": 1.0, "visual": 0.5}), [*none, *batches()], replicates=0
    )
    assert found == gradmod.diagnose(Reads({"audio": 1.0, "visual": 0.5}), batches(), replicates=0)


def test_any_metric_for_values_noise_and_words() -> None:
    def share_of_zero(logits: Tensor, target: Tensor) -> float:
        return float((logits.argmax(1) == 0).double().mean())

    found = gradmod.diagnose(
        Reads({"audio": 1.0, "visual": 0.0}), batches(), metric=share_of_zero, replicates=20
    )
    assert found.attribution.metric == "share_of_zero"
    assert any("of the share of zero" in line for line in found.verdict())
    areas = gradmod.diagnose(
        Reads({"audio": 1.0, "visual": 0.0}), batches(), metric="auroc", replicates=20
    )
    assert areas.attribution.game["nothing"] == 0.5
    assert areas.attribution.whole == 1.0
    assert 0.5 < areas.robustness["audio"][-1] < 0.95
    assert areas.noise_levels == (0.0, 0.25, 0.5, 1.0, 2.0)
