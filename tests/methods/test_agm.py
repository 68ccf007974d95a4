"""Properties of AGM as a training method."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from gradmod import AGM, Joint, ModulatedModel
from networks import NAMES, batch, network

KINDS = [
    (late, layer) for late in (True, False) for layer in ("batch-norm", "layer-norm", "dropout")
]


def gradients(model: ModulatedModel, inputs: dict[str, Tensor], target: Tensor) -> list[Tensor]:
    torch.manual_seed(0)
    model.zero_grad()
    model.task.loss(model(inputs, target), target).backward()
    return [p.grad.clone() for p in model.model.parameters() if p.grad is not None]


def assert_same(ours: list[Tensor], expected: list[Tensor]) -> None:
    assert len(ours) == len(expected) > 0
    for a, b in zip(ours, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("late", "layer"), KINDS)
@pytest.mark.parametrize("count", [1, 2, 3])
def test_alpha_zero_and_one_modality_are_joint_training(late: bool, layer: str, count: int) -> None:
    modalities = NAMES[:count]
    net = network(modalities, late=late, layer=layer)
    joint = ModulatedModel(copy.deepcopy(net), Joint(modalities))
    for agm in (AGM(modalities, alpha=0.0), *([AGM(modalities, alpha=3.0)] if count == 1 else [])):
        model = ModulatedModel(copy.deepcopy(net), agm)
        reference = copy.deepcopy(joint)
        for step in range(3):
            inputs, target = batch(modalities, 6, 3, seed=step)
            assert_same(gradients(model, inputs, target), gradients(reference, inputs, target))
            assert agm.last_step is not None
            assert (agm.last_step.coefficients == 1).all()


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
def test_equal_scores_now_and_before_are_joint_training(strategy: str) -> None:
    modalities = NAMES[:2]
    net = network(modalities, late=True, layer="layer-norm")
    # All responses are zero: all scores are log K, and gradients still flow.
    for parameter in net.out.parameters():
        nn.init.zeros_(parameter)
    agm = AGM(modalities, alpha=5.0, cap=3.0)
    model = ModulatedModel(copy.deepcopy(net), agm, coalitions=strategy)
    joint = ModulatedModel(net, Joint(modalities))
    inputs, target = batch(modalities, 6, 3)
    for _ in range(2):
        assert_same(gradients(model, inputs, target), gradients(joint, inputs, target))


@pytest.mark.parametrize("late", [True, False])
def test_permuting_the_modalities_changes_nothing_but_the_order(late: bool) -> None:
    results = []
    for modalities in (NAMES[:3], NAMES[2::-1]):
        net = network(NAMES[:3], late=late, layer="batch-norm")
        agm = AGM(modalities, alpha=2.0)
        model = ModulatedModel(net, agm)
        for step in range(3):
            inputs, target = batch(NAMES[:3], 6, 3, seed=step)
            grads = gradients(model, inputs, target)
        assert agm.last_step is not None
        coefficients = dict(zip(modalities, agm.last_step.coefficients.tolist(), strict=True))
        results.append((grads, [torch.tensor(coefficients[m]) for m in NAMES[:3]]))
    for ours, theirs in zip(*results, strict=True):
        assert_same(ours, theirs)


def test_the_gradient_is_what_the_design_says_for_two_modalities() -> None:
    """1/2 (ka + kv) grad v(a,v) + 1/2 (ka - kv) [grad v(a) - grad v(v)], from three separate backwards."""
    modalities = NAMES[:2]
    net = network(modalities, late=False, layer="layer-norm")
    net.fusion[3] = nn.Identity()
    agm = AGM(modalities, alpha=2.0, cap=5.0)
    agm.mean_score.copy_(torch.tensor([0.4, 1.7]))
    agm.steps.fill_(1)
    model = ModulatedModel(copy.deepcopy(net), agm, coalitions="looped")
    inputs, target = batch(modalities, 6, 3)
    ours = gradients(model, inputs, target)
    assert agm.last_step is not None
    ka, kv = agm.last_step.coefficients.tolist()
    assert abs(ka - kv) > 0.1

    full = net(inputs)
    (g,) = torch.autograd.grad(model.task.loss(full, target), full)

    def gradient(hidden: str | None) -> list[Tensor]:
        shown = {m: torch.zeros_like(x) if m == hidden else x for m, x in inputs.items()}
        return list(torch.autograd.grad(net(shown), list(net.parameters()), grad_outputs=g))

    both, audio, visual = gradient(None), gradient("visual"), gradient("audio")
    expected = [
        (ka + kv) / 2 * f + (ka - kv) / 2 * (a - v)
        for f, a, v in zip(both, audio, visual, strict=True)
    ]
    assert_same(ours, expected)


def test_statistics_are_the_mean_over_all_steps_and_tau_uses_the_earlier_ones() -> None:
    agm = AGM(NAMES[:2], alpha=1.0, cap=2.0)
    model = ModulatedModel(network(NAMES[:2], late=True, layer="batch-norm"), agm)
    scores: list[Tensor] = []
    for step in range(5):
        model(*batch(NAMES[:2], 6, 3, seed=step)).sum().backward()
        record = agm.last_step
        assert record is not None
        before = torch.stack(scores).mean(0) if scores else torch.zeros(2, dtype=torch.float64)
        lead = before.flip(0) - before
        torch.testing.assert_close(record.running_ratios, lead.exp(), rtol=1e-12, atol=0)
        torch.testing.assert_close(
            record.ratios, (record.scores.flip(0) - record.scores).exp(), rtol=1e-12, atol=0
        )
        kappa = (1.0 * (record.running_ratios - record.ratios).clamp(max=2.0)).exp()
        torch.testing.assert_close(record.coefficients, kappa, rtol=1e-12, atol=0)
        scores.append(record.scores)
    torch.testing.assert_close(agm.mean_score, torch.stack(scores).mean(0))
    assert agm.steps.tolist() == [5, 5]


def test_outside_its_window_the_coefficients_are_one_and_statistics_are_kept() -> None:
    net = network(NAMES[:2], late=True, layer="batch-norm")
    agm = AGM(NAMES[:2], alpha=4.0, epochs=(2, 3))
    model = ModulatedModel(copy.deepcopy(net), agm)
    joint = ModulatedModel(net, Joint(NAMES[:2]))
    modulated = []
    for epoch in range(1, 6):
        model.before_epoch(epoch)
        inputs, target = batch(NAMES[:2], 6, 3, seed=epoch)
        ours, theirs = gradients(model, inputs, target), gradients(joint, inputs, target)
        assert agm.last_step is not None
        ones = bool((agm.last_step.coefficients == 1).all())
        modulated.append(not ones)
        if ones:
            assert_same(ours, theirs)
        else:
            assert any(
                not torch.allclose(a, b, rtol=1e-6) for a, b in zip(ours, theirs, strict=True)
            )
        assert agm.steps.tolist() == [epoch, epoch]
    assert modulated == [False, True, True, False, False]


@pytest.mark.parametrize("window", [(0, 3), (0, None), (-1, 1), (3, 2), (2, 0)])
def test_an_empty_window_or_one_from_before_the_first_epoch_is_an_error(
    window: tuple[int, int | None],
) -> None:
    with pytest.raises(ValueError, match=r"expected \(first, last\) with 1 <= first <= last"):
        AGM(NAMES[:2], epochs=window)
    assert [AGM(NAMES[:2], epochs=good).epochs for good in ((1, 1), (2, None))] == [
        (1, 1),
        (2, None),
    ]


def test_a_window_without_before_epoch_is_an_error() -> None:
    model = ModulatedModel(
        network(NAMES[:2], late=True, layer="plain"), AGM(NAMES[:2], epochs=(1, None))
    )
    with pytest.raises(RuntimeError, match="before_epoch"):
        model(*batch(NAMES[:2], 6, 3))
    with pytest.raises(ValueError, match="first epoch is 1"):
        model.before_epoch(0)


@settings(max_examples=30)
@given(
    st.lists(
        st.sampled_from([0.0, 1.0, -1.0, 1e-40, 1e30, -1e30, 3e38, -3e38]), min_size=6, max_size=6
    ),
    st.sampled_from(["looped", "batched", "reuse", "additive"]),
    st.sampled_from([torch.float32, torch.float64]),
)
def test_any_finite_logits_give_finite_coefficients_and_gradients(
    values: list[float], strategy: str, dtype: torch.dtype
) -> None:
    class Table(nn.Module):
        """Each modality's term of the logits is its input: late fusion with encoders that do nothing."""

        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({m: nn.Identity() for m in NAMES[:2]})
            self.bias = nn.Parameter(torch.zeros(3, dtype=dtype))

        def encode(self, modality: str, x: Tensor) -> Tensor:
            return x

        def fuse(self, features: dict[str, Tensor]) -> Tensor:
            return features["audio"] / 2 + features["visual"] / 2

        def head(self, joint: Tensor) -> Tensor:
            return joint + self.bias

        def contribution(self, modality: str, feature: Tensor) -> Tensor:
            return feature / 2

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.head(self.fuse(inputs))

    model = ModulatedModel(Table(), AGM(NAMES[:2], alpha=10.0, cap=8.0), coalitions=strategy)
    inputs = {
        "audio": torch.tensor([values[:3]], dtype=dtype, requires_grad=True),
        "visual": torch.tensor([values[3:]], dtype=dtype, requires_grad=True),
    }
    target = torch.tensor([1])
    for _ in range(2):
        model.task.loss(model(inputs, target), target).backward()
        record = model.last_step
        assert record is not None
        assert record.coefficients.isfinite().all()
        assert all(
            x.grad is not None and x.grad.isfinite().all()
            for x in (*inputs.values(), *model.parameters())
        )


def test_a_batch_that_is_not_finite_does_not_poison_the_statistics() -> None:
    agm = AGM(NAMES[:2])
    model = ModulatedModel(network(NAMES[:2], late=True, layer="plain"), agm)
    inputs, target = batch(NAMES[:2], 6, 3)
    model(inputs, target).sum().backward()
    before = agm.mean_score.clone()
    model({**inputs, "audio": inputs["audio"] * math.nan}, target).sum().backward()
    assert torch.equal(agm.mean_score, before)
    assert agm.steps.tolist() == [1, 1]


def test_gradient_accumulation_adds_the_gradients_of_its_parts() -> None:
    model = ModulatedModel(network(NAMES[:2], late=True, layer="layer-norm"), AGM(NAMES[:2]))
    parts = [batch(NAMES[:2], 4, 3, seed=seed) for seed in (1, 2)]
    separate = copy.deepcopy(model)
    expected = [gradients(separate, *part) for part in parts]
    for inputs, target in parts:
        model.task.loss(model(inputs, target), target).backward()
    summed = [a + b for a, b in zip(*expected, strict=True)]
    assert_same([p.grad for p in model.parameters() if p.grad is not None], summed)


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"alpha": -1.0}, "alpha is -1.0; expected a finite number >= 0"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"cap": 0.0}, "cap is 0.0"),
        ({"alpha": 50.0, "cap": 2.0}, r"alpha \* cap is 100 .* less than 88"),
        ({"epochs": (0, 5)}, r"epochs is \(0, 5\)"),
        ({"epochs": (5, 4)}, r"epochs is \(5, 4\)"),
        ({"modalities": ()}, r"modalities is \(\)"),
        ({"modalities": ("a", "a")}, "different names"),
        ({"modalities": "audio"}, "modalities is 'audio'"),
    ],
)
def test_settings_that_cannot_be_are_errors(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        AGM(**{"modalities": NAMES[:2], **settings})  # type: ignore[arg-type]


def test_uncapped_is_as_published() -> None:
    agm = AGM(NAMES[:2], alpha=1.0, cap=None)
    model = ModulatedModel(network(NAMES[:2], late=True, layer="plain"), agm)
    agm.mean_score.copy_(torch.tensor([0.0, 5.0]))
    agm.steps.fill_(1)
    inputs, target = batch(NAMES[:2], 6, 3)
    model(inputs, target)
    assert agm.last_step is not None
    assert agm.last_step.coefficients[0] > 1e60  # exp(e^5 - r)


def test_autocast_keeps_scores_in_float32() -> None:
    agm = AGM(NAMES[:2])
    model = ModulatedModel(network(NAMES[:2], late=False, layer="layer-norm").float(), agm)
    inputs, target = batch(NAMES[:2], 6, 3)
    single = {m: x.float() for m, x in inputs.items()}
    with torch.autocast("cpu", dtype=torch.bfloat16):
        responses = model.responses(single).responses
        assert responses.dtype == torch.float32
        loss = model.task.loss(model(single, target), target)
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert agm.last_step is not None
    assert agm.last_step.scores.dtype == torch.float64
