"""Samples that lack a modality: what they are worth, against one game a sample, played by the book."""

from __future__ import annotations

import copy
import itertools
import math

import pytest
import torch
from torch import Tensor, nn

from gradmod import AGM, MSES, MSLR, OGMGE, Joint, Method, ModulatedModel, adapt, functional
from networks import NAMES, batch, network

STRATEGIES = ("looped", "batched", "reuse", "additive", "shared")


def with_gaps(
    count: int, size: int = 9, seed: int = 0
) -> tuple[dict[str, Tensor], Tensor, dict[str, Tensor]]:
    """A batch in which every pattern of presence occurs that leaves a sample something."""
    inputs, target = batch(NAMES[:count], size, 3, seed=seed)
    patterns = [p for p in itertools.product((True, False), repeat=count) if any(p)]
    table = torch.tensor([patterns[i % len(patterns)] for i in range(size)])
    return inputs, target, {m: table[:, i] for i, m in enumerate(NAMES[:count])}


def by_the_book(
    net: nn.Module, full: Tensor, inputs: dict[str, Tensor], present: dict[str, Tensor]
) -> Tensor:
    """[M, B, K] Shapley values by the definition, each sample's players being what it has."""
    names = tuple(inputs)
    responses = torch.zeros(len(names), *full.shape, dtype=full.dtype)
    net.eval()
    for i in range(len(full)):
        players = [m for m in names if present[m][i]]

        def value(shown: tuple[str, ...], i: int = i, players: list[str] = players) -> Tensor:
            if not shown:
                return torch.zeros_like(full[i])
            if len(shown) == len(players):
                return full[i]
            row = {
                m: x[i : i + 1] if m in shown else torch.zeros_like(x[i : i + 1])
                for m, x in inputs.items()
            }
            return net(row)[0]

        for m in players:
            others = [j for j in players if j != m]
            for size in range(len(others) + 1):
                weight = (
                    math.factorial(size)
                    * math.factorial(len(others) - size)
                    / math.factorial(len(players))
                )
                for coalition in itertools.combinations(others, size):
                    gain = value((*coalition, m)) - value(coalition)
                    responses[names.index(m), i] += weight * gain
    return responses


@pytest.mark.parametrize("layer", ["layer-norm", "batch-norm"])
@pytest.mark.parametrize("count", [1, 2, 3])
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
@torch.no_grad()
def test_responses_are_the_shares_among_what_a_sample_has(
    late: bool, count: int, layer: str
) -> None:
    net = network(NAMES[:count], late=late, layer=layer)
    inputs, _, present = with_gaps(count)
    for strategy in STRATEGIES[: 4 if late else 3]:
        model = ModulatedModel(copy.deepcopy(net), AGM(NAMES[:count]), coalitions=strategy)
        torch.manual_seed(1)  # the fusion's dropout
        evaluation = model.responses(inputs, present)
        assert isinstance(evaluation.output, Tensor)
        oracle = by_the_book(model.model, evaluation.output, inputs, present)
        torch.testing.assert_close(evaluation.responses, oracle, rtol=1e-10, atol=1e-12)
        torch.testing.assert_close(
            evaluation.responses.sum(0), evaluation.output, rtol=1e-12, atol=1e-12
        )
        for response, m in zip(evaluation.responses, NAMES, strict=False):
            assert (response[~present[m]] == 0).all()


def step(
    model: ModulatedModel, inputs: dict[str, Tensor], target: Tensor, **present: object
) -> list[Tensor]:
    """Gradients of a step."""
    model.zero_grad()
    torch.manual_seed(0)
    model.task.loss(model(inputs, target, **present), target).backward()  # type: ignore[arg-type]
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_where_nothing_is_missing_nothing_changes(strategy: str) -> None:
    inputs, target = batch(NAMES[:3], 6, 3)
    here = {m: torch.ones(6, dtype=torch.bool) for m in NAMES[:3]}
    models = [
        ModulatedModel(
            network(NAMES[:3], late=True, layer="batch-norm"), AGM(NAMES[:3]), coalitions=strategy
        )
        for _ in range(2)
    ]
    for _ in range(3):
        for ours, expected in zip(
            step(models[0], inputs, target, present=here),
            step(models[1], inputs, target),
            strict=True,
        ):
            torch.testing.assert_close(ours, expected, rtol=1e-10, atol=1e-12)
    steps = [model.last_step for model in models]
    torch.testing.assert_close(steps[0].coefficients, steps[1].coefficients, rtol=1e-12, atol=0)  # type: ignore[union-attr]


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_what_stands_in_the_place_of_an_absent_input_is_not_read(strategy: str) -> None:
    inputs, target, present = with_gaps(2)
    found = []
    for rubbish in (0.0, math.nan, 1e30):
        dirty = {m: torch.where(present[m].unsqueeze(1), x, rubbish) for m, x in inputs.items()}
        model = ModulatedModel(
            network(NAMES[:2], late=True, layer="batch-norm"), AGM(NAMES[:2]), coalitions=strategy
        )
        found.append(
            [
                *step(model, dirty, target, present=present),
                model.eval()(dirty, present=present).detach(),
            ]
        )
    for other in found[1:]:
        for ours, expected in zip(other, found[0], strict=True):
            assert torch.equal(ours, expected)


def test_a_score_is_the_mean_over_the_samples_that_have_the_modality() -> None:
    inputs, target, present = with_gaps(3)
    agm = AGM(NAMES[:3], alpha=1.5, cap=3.0)
    model = ModulatedModel(network(NAMES[:3], late=True, layer="layer-norm"), agm)
    means = torch.zeros(3, dtype=torch.float64)
    for number in range(3):
        responses = model.responses(inputs, present).responses
        step(model, inputs, target, present=present)
        record = agm.last_step
        assert record is not None
        assert record.headlines is None
        assert record.scores is not None
        for i, m in enumerate(NAMES[:3]):
            rows = present[m]
            expected = (
                functional.floored_cross_entropy(responses[i, rows], target[rows]).double().mean()
            )
            torch.testing.assert_close(record.scores[i], expected)
        kappa = functional.modulation_coefficients(
            functional.discrepancy_ratio(record.scores),
            functional.discrepancy_ratio(means),
            1.5,
            3.0,
        )
        torch.testing.assert_close(record.coefficients, kappa)
        means = functional.cumulative_mean(means, torch.tensor(number), record.scores)
    torch.testing.assert_close(agm.mean_score, means)


def test_a_modality_that_no_sample_of_a_batch_has_is_not_compared() -> None:
    inputs, target = batch(NAMES[:3], 6, 3)
    gone = {"text": torch.zeros(6, dtype=torch.bool)}
    agm = AGM(NAMES[:3], alpha=1.0, cap=5.0)
    model = ModulatedModel(network(NAMES[:3], late=True, layer="layer-norm"), agm)
    seen = []
    for present in (gone, gone, None):
        step(model, inputs, target, present=present)
        seen.append(agm.last_step)
    first, second, third = seen
    for record in (first, second):
        assert record is not None
        assert record.scores is not None
        assert record.scores[2].isnan()
        assert record.coefficients[2] == 1
        gap = record.scores[1] - record.scores[0]
        torch.testing.assert_close(record.ratios[:2], torch.stack([gap, -gap]).exp())  # type: ignore[index]
    assert first is not None
    assert second is not None
    assert third is not None
    assert first.coefficients[:2].tolist() != [1, 1]
    assert agm.steps.tolist() == [3, 3, 1]
    # Its first step with a score: behind it are none, so its running ratio is 1, and the others' is without it.
    assert third.running_ratios[2] == 1  # type: ignore[index]
    torch.testing.assert_close(
        third.running_ratios[:2], second.running_ratios[:2], rtol=0.2, atol=0
    )  # type: ignore[index]
    assert third.coefficients.isfinite().all()


def test_gaps_are_remembered_in_the_state() -> None:
    inputs, target = batch(NAMES[:3], 6, 3)
    gone = {"text": torch.zeros(6, dtype=torch.bool)}
    models = [
        ModulatedModel(network(NAMES[:3], late=True, layer="layer-norm"), AGM(NAMES[:3]))
        for _ in range(2)
    ]
    step(models[0], inputs, target, present=gone)
    models[1].load_state_dict(models[0].state_dict())
    for model in models:
        step(model, inputs, target)
    assert models[0].last_step is not None
    assert models[1].last_step is not None
    assert torch.equal(models[0].last_step.coefficients, models[1].last_step.coefficients)


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_a_sample_that_has_nothing_teaches_nothing(strategy: str) -> None:
    inputs, target = batch(NAMES[:2], 6, 3)
    first = {m: torch.tensor([False] + [True] * 5) for m in NAMES[:2]}
    model = ModulatedModel(
        network(NAMES[:2], late=True, layer="layer-norm"), AGM(NAMES[:2]), coalitions=strategy
    )
    without = copy.deepcopy(model)
    ours = step(model, inputs, target, present=first)
    expected = step(without, {m: x[1:] for m, x in inputs.items()}, target[1:])
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b * 5 / 6, rtol=1e-10, atol=1e-12)
    nothing = {m: torch.zeros(6, dtype=torch.bool) for m in NAMES[:2]}
    assert all((gradient == 0).all() for gradient in step(model, inputs, target, present=nothing))
    assert model.last_step is not None
    assert model.last_step.coefficients.tolist() == [1, 1]


@pytest.mark.parametrize(
    "method", [Joint, AGM, OGMGE, MSES, lambda names: MSLR(names, {"audio": 2.0})]
)
def test_every_method_trains_with_gaps(method: type[Method]) -> None:
    torch.manual_seed(0)
    model = ModulatedModel(network(NAMES[:3], late=True, layer="batch-norm"), method(NAMES[:3]))
    optimizer = torch.optim.SGD(model.parameter_groups(), lr=0.1)
    model.set_learning_rate(optimizer, 0.1)
    losses = []
    for _ in range(30):
        inputs, target, present = with_gaps(3, size=14)
        inputs["text"][~present["text"]] = math.nan
        optimizer.zero_grad()
        loss = model.task.loss(model(inputs, target, present), target)
        loss.backward()
        model.after_backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]


def test_ogm_ge_compares_over_the_samples_that_have_a_modality() -> None:
    inputs, target, present = with_gaps(2)
    method = OGMGE(NAMES[:2], noise=False)
    model = ModulatedModel(network(NAMES[:2], late=True, layer="layer-norm"), method)
    responses = model.responses(inputs, present).responses
    step(model, inputs, target, present=present)
    sure = [
        responses[i, present[m]]
        .softmax(-1)
        .gather(1, target[present[m]].unsqueeze(1))
        .double()
        .mean()
        for i, m in enumerate(NAMES[:2])
    ]
    assert method.last_step is not None
    torch.testing.assert_close(
        method.last_step.ratios, torch.stack([sure[0] / sure[1], sure[1] / sure[0]])
    )
    model.zero_grad()
    model(inputs, target, {"visual": torch.zeros(9, dtype=torch.bool)})
    assert method.last_step.coefficients.tolist() == [1, 1]


def test_nested_inputs_and_a_mask_of_ones_own() -> None:
    class Text(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.words, self.image = nn.Embedding(5, 3), nn.Linear(2, 3)

        def forward(self, ids: Tensor, attention: Tensor, image: Tensor) -> Tensor:
            assert (attention.sum(1) > 0).all()
            mean = (self.words(ids) * attention.unsqueeze(-1)).sum(1) / attention.sum(
                1, keepdim=True
            )
            return mean + self.image(image)

    def hide(modality: str, x: object) -> object:
        if modality == "image":
            return torch.zeros_like(x)  # type: ignore[arg-type]
        ids, attention = torch.zeros_like(x["ids"]), torch.zeros_like(x["attention"])  # type: ignore[index]
        attention[:, 0] = 1
        return {"ids": ids, "attention": attention}

    net = adapt(
        Text(), lambda net, x: net(x["text"]["ids"], x["text"]["attention"], x["image"]), mask=hide
    )
    model = ModulatedModel(net, AGM(("text", "image")))
    text = {"ids": torch.randint(5, (4, 6)), "attention": torch.ones(4, 6, dtype=torch.int64)}
    text["attention"][2] = 0  # no text at all: alone it would be 0 / 0
    present = {"text": torch.tensor([True, True, False, True])}
    target = torch.zeros(4, dtype=torch.int64)
    loss = model.task.loss(
        model({"text": text, "image": torch.randn(4, 2)}, target, present), target
    )
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


@pytest.mark.parametrize(
    ("present", "match"),
    [
        ({"image": torch.ones(6, dtype=torch.bool)}, r"present names \['image'\]"),
        ({}, r"present names \[\]"),
        (
            {"audio": torch.ones(6)},
            r"present\['audio'\] is torch.float32 \[6\]; expected a bool tensor",
        ),
        ({"audio": [True] * 6}, r"present\['audio'\] is list"),
        ({"audio": torch.ones(6, 1, dtype=torch.bool)}, r"bool \[6, 1\]"),
        (
            {"audio": torch.ones(5, dtype=torch.bool)},
            r"for 5 samples, but the input of 'audio' .* \[6, 5\]",
        ),
        ({"audio": torch.ones(5).bool(), "visual": torch.ones(6).bool()}, "different lengths"),
    ],
)
def test_a_presence_that_cannot_be_is_an_error(present: dict[str, Tensor], match: str) -> None:
    model = ModulatedModel(network(NAMES[:2], late=True, layer="plain"), AGM(NAMES[:2]))
    inputs, target = batch(NAMES[:2], 6, 3)
    for model_in_mode in (model, model.eval()):
        with pytest.raises(ValueError, match=match):
            model_in_mode(inputs, target, present)


def test_a_mask_of_another_shape_is_an_error_where_single_samples_lack_the_modality() -> None:
    net = adapt(
        nn.Linear(5, 3),
        lambda net, x: net(x["audio"]) + x["visual"].sum(1, keepdim=True),
        mask=lambda m, x: x[:, :1],
    )
    model = ModulatedModel(net, AGM(NAMES[:2]))
    inputs, target = (
        {"audio": torch.randn(6, 5), "visual": torch.randn(6, 4)},
        torch.zeros(6).long(),
    )
    with pytest.raises(ValueError, match=r"mask\('visual', x\) gives another form"):
        model(inputs, target, {"visual": torch.ones(6, dtype=torch.bool)})
