"""Every exact strategy against the slow one that loops over coalitions: the same numbers, the same gradients."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel, Output, functional
from gradmod.coalitions import choose_strategy
from networks import LAYERS, NAMES, Network, batch, network, train_steps


@pytest.mark.parametrize("layer", LAYERS)
@pytest.mark.parametrize("count", [1, 2, 3, 4])
@pytest.mark.parametrize("segments", [0, 5])
@pytest.mark.parametrize("late", [True, False], ids=["late", "early"])
def test_exact_strategies_agree(late: bool, segments: int, count: int, layer: str) -> None:
    modalities = NAMES[:count]
    net = network(modalities, late=late, layer=layer, segments=segments)
    oracle = train_steps(net, "looped", modalities, segments)
    for strategy in ("batched", "reuse", "auto", *(("additive",) if late else ())):
        ours = train_steps(net, strategy, modalities, segments)
        assert ours.keys() == oracle.keys()
        for name, expected in oracle.items():
            torch.testing.assert_close(
                ours[name],
                expected,
                rtol=1e-11,
                atol=1e-12,
                msg=lambda text, n=name, s=strategy: f"{s}, {n}: {text}",
            )


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
def test_responses_beyond_the_largest_number_are_that_number(strategy: str) -> None:
    """Logits at the limit of 32 bits, hidden at minus as much: what a modality brings is twice that."""

    class Terms(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({m: nn.Identity() for m in NAMES[:2]})

        def mask(self, modality: str, x: Tensor) -> Tensor:
            return -x

        def encode(self, modality: str, x: Tensor) -> Tensor:
            return x

        def fuse(self, features: dict[str, Tensor]) -> Tensor:
            return features["audio"] + features["visual"]

        def head(self, joint: Tensor) -> Tensor:
            return joint

        def contribution(self, modality: str, feature: Tensor) -> Tensor:
            return feature

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.fuse(inputs)

    inputs = {"audio": torch.tensor([[3e38, 1.0]]), "visual": torch.tensor([[-3e38, 2.0]])}
    found = ModulatedModel(Terms(), AGM(NAMES[:2]), coalitions=strategy).responses(inputs).responses
    largest = torch.finfo(torch.float32).max
    torch.testing.assert_close(found, torch.tensor([[[largest, 0.5]], [[-largest, 2.5]]]))


@pytest.mark.parametrize("late", [True, False])
def test_shared_is_exact_without_batch_norm_and_differs_with_it(late: bool) -> None:
    for layer, same in (("layer-norm", True), ("batch-norm", False), ("dropout", False)):
        net = network(NAMES[:2], late=late, layer=layer)
        exact, shared = (train_steps(net, name, NAMES[:2], 0) for name in ("looped", "shared"))
        equal = all(
            torch.allclose(shared[name], exact[name], rtol=1e-11, atol=1e-12) for name in exact
        )
        assert equal is same, layer


def test_shared_says_that_it_is_approximate() -> None:
    net = network(NAMES[:2], late=True, layer="batch-norm")
    assert not choose_strategy(net, NAMES[:2], "shared").exact
    assert all(
        choose_strategy(net, NAMES[:2], name).exact
        for name in ("looped", "batched", "reuse", "additive", "auto")
    )


def test_the_closed_form_takes_more_modalities_than_can_be_enumerated() -> None:
    modalities = tuple(f"sensor{i}" for i in range(40))

    class Sensors(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.encoders = nn.ModuleDict({m: nn.Linear(2, 3) for m in modalities})

        def encode(self, modality: str, x: Tensor) -> Tensor:
            return self.encoders[modality](x)

        def fuse(self, features: dict[str, Tensor]) -> Tensor:
            return torch.stack([features[m] for m in modalities]).sum(0)

        def head(self, joint: Tensor) -> Tensor:
            return joint + 1

        def contribution(self, modality: str, feature: Tensor) -> Tensor:
            return feature

        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.head(self.fuse({m: self.encode(m, inputs[m]) for m in modalities}))

    net = Sensors().double()
    inputs = {m: torch.randn(4, 2, dtype=torch.float64) for m in modalities}
    evaluation = choose_strategy(net, modalities).evaluate(net, inputs, modalities)
    torch.testing.assert_close(evaluation.responses.sum(0), net(inputs))
    with pytest.raises(ValueError, match="40 modalities"):
        choose_strategy(net, modalities, "batched")


def test_the_choice_is_the_cheapest_exact_way() -> None:
    assert (
        choose_strategy(network(NAMES[:2], late=True, layer="plain"), NAMES[:2]).name == "additive"
    )
    assert choose_strategy(network(NAMES[:2], late=False, layer="plain"), NAMES[:2]).name == "reuse"
    assert choose_strategy(nn.Identity(), NAMES[:2]).name == "batched"


@pytest.mark.parametrize(
    ("name", "match"),
    [("reuse", "does not declare"), ("shared", "does not declare"), ("fast", "expected one of")],
)
def test_a_strategy_that_does_not_go_with_the_model_is_an_error(name: str, match: str) -> None:
    with pytest.raises(ValueError, match=match):
        choose_strategy(nn.Identity(), NAMES[:2], name)
    with pytest.raises(ValueError, match="contribution"):
        choose_strategy(network(NAMES[:2], late=False, layer="plain"), NAMES[:2], "additive")


@pytest.mark.parametrize("strategy", ["looped", "batched", "reuse", "additive"])
def test_the_masked_passes_see_the_running_statistics_after_the_full_pass(strategy: str) -> None:
    net = network(NAMES[:2], late=True, layer="batch-norm").train()
    inputs, _ = batch(NAMES[:2], 6, 3)
    reference = copy.deepcopy(net)
    full = reference(inputs)
    reference.eval()
    with torch.no_grad():
        masked = [
            reference({**inputs, hidden: torch.zeros_like(inputs[hidden])})
            for hidden in ("visual", "audio")
        ]
    expected = functional.shapley_values(torch.stack([torch.zeros_like(full), *masked, full]))
    evaluation = choose_strategy(net, NAMES[:2], strategy).evaluate(net, inputs, NAMES[:2])
    torch.testing.assert_close(evaluation.responses, expected, rtol=1e-12, atol=1e-12)
    for name, value in reference.state_dict().items():
        assert torch.equal(net.state_dict()[name], value), name


@pytest.mark.parametrize("strategy", ["looped", "batched"])
def test_a_loss_of_the_networks_is_that_of_the_full_pass_and_is_not_modulated(
    strategy: str,
) -> None:
    class WithExtraLoss(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.net = network(NAMES[:2], late=True, layer="plain")
            self.calls = 0
            self.scale = nn.Parameter(torch.tensor(2.0, dtype=torch.float64))

        def forward(self, inputs: dict[str, Tensor]) -> Output:
            self.calls += 1
            return Output(self.net(inputs), {"calls": self.scale * self.calls})

    model = ModulatedModel(WithExtraLoss(), AGM(NAMES[:2], alpha=3.0, cap=4.0), coalitions=strategy)
    inputs, target = batch(NAMES[:2], 6, 3)
    output = model(inputs, target)
    assert isinstance(output, Output)
    assert output.losses["calls"].item() == 2.0  # the first call
    output.losses["calls"].backward()
    assert float(model.model.scale.grad) == 1.0


def test_a_model_that_changes_its_output_shape_between_coalitions_is_an_error() -> None:
    class Shapeshifter(nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return inputs["audio"] if inputs["visual"].any() else inputs["audio"][:, :2]

    inputs, _ = batch(NAMES[:2], 6, 3)
    with pytest.raises(
        ValueError, match=r"shape \[6, 2\] with modalities hidden and \[6, 5\] on all"
    ):
        choose_strategy(Shapeshifter(), NAMES[:2], "looped").evaluate(
            Shapeshifter(), inputs, NAMES[:2]
        )


def test_without_gradient_the_masked_passes_build_no_graph() -> None:
    net = network(NAMES[:2], late=False, layer="batch-norm")
    inputs, _ = batch(NAMES[:2], 6, 3)
    for strategy in ("looped", "batched", "reuse"):
        evaluation = choose_strategy(net, NAMES[:2], strategy).evaluate(
            net, inputs, NAMES[:2], masked_gradient=False
        )
        assert not evaluation.responses.requires_grad
        assert evaluation.output.requires_grad


def test_encoders_run_once_each_mode_and_once_where_both_are_the_same() -> None:
    rows: list[int] = []

    class Counting(nn.Sequential):
        def forward(self, x: Tensor) -> Tensor:
            rows.append(len(x))
            return super().forward(x)

    Counting.forward_ignores_mode = True  # type: ignore[attr-defined]
    inputs, _ = batch(NAMES[:2], 6, 3)
    for layer, expected in (("batch-norm", [6, 6, 6, 1, 6, 1]), ("layer-norm", [7, 7])):
        net: Network = network(NAMES[:2], late=True, layer=layer)
        for m in NAMES[:2]:
            net.encoders[m] = Counting(*net.encoders[m])
        rows.clear()
        choose_strategy(net, NAMES[:2]).evaluate(net, inputs, NAMES[:2])
        assert sorted(rows) == sorted(expected), layer


@pytest.mark.parametrize("mixing", [nn.Softmax(dim=0), "frozen, of an unknown type"])
def test_a_masked_row_joins_no_batch_whose_samples_may_mix(mixing: object) -> None:
    class MinusBatchMean(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return x - x.mean(0)

    torch.manual_seed(0)
    net: Network = network(NAMES[:2], late=True, layer="layer-norm")
    for m in NAMES[:2]:
        last = mixing if isinstance(mixing, nn.Module) else MinusBatchMean().eval()
        net.encoders[m] = nn.Sequential(*net.encoders[m], last)
    inputs, _ = batch(NAMES[:2], 6, 3)
    evaluations = [
        choose_strategy(net, NAMES[:2], s).evaluate(net, inputs, NAMES[:2])
        for s in ("looped", "reuse")
    ]
    torch.testing.assert_close(evaluations[0].output, evaluations[1].output, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(evaluations[1].output, net(inputs), rtol=1e-12, atol=1e-12)
