"""OGM-GE against numbers worked out by hand."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from gradmod import OGMGE, ModulatedModel, Regression
from gradmod.models.fusion import LateFusion, SumFusion
from networks import batch, network

TWO = ("audio", "visual")


class Scalar(nn.Linear):
    """x [B, 1] to a feature [B, 1]: x times the weight."""

    out_features = 1

    def __init__(self) -> None:
        super().__init__(1, 1, bias=False)
        self.weight.data.fill_(1.0)


def by_hand(alpha: float, modalities: tuple[str, ...] = TWO, **settings: object) -> ModulatedModel:
    """Each modality's logits are (x * head, 0): heads are (ln 3, 0) and encoders 1, so x = 1 gives (ln 3, 0)."""
    model = SumFusion({m: Scalar() for m in modalities}, 2).double()
    for head in model.heads.values():
        head.weight.data.copy_(torch.tensor([[math.log(3)], [0.0]]))
        head.bias.data.zero_()
    return ModulatedModel(model, OGMGE(modalities, alpha, noise=False, **settings))  # type: ignore[arg-type]


def gradients(
    model: ModulatedModel, inputs: dict[str, Tensor], target: Tensor
) -> dict[str, Tensor]:
    model.zero_grad()
    F.cross_entropy(model(inputs, target), target).backward()
    plain = {
        name: p.grad.clone() for name, p in model.model.named_parameters() if p.grad is not None
    }
    model.after_backward()
    return plain


def test_two_modalities() -> None:
    """Audio (ln 3, 0): 3/4 sure. Visual (0, 0): 1/2 sure. rho 3/2 and 2/3, so audio's gradient times 1 - tanh(3/2)."""
    model = by_hand(1.0)
    inputs = {"audio": torch.ones(1, 1).double(), "visual": torch.zeros(1, 1).double()}
    plain = gradients(model, inputs, torch.tensor([0]))
    record = model.last_step
    assert record is not None
    assert record.ratios is not None
    torch.testing.assert_close(record.ratios, torch.tensor([1.5, 2 / 3]).double())
    k = 1 - (math.exp(3) - 1) / (math.exp(3) + 1)  # 1 - tanh(3/2) = 0.0948...
    assert k == pytest.approx(0.09485174635513)
    torch.testing.assert_close(record.coefficients, torch.tensor([k, 1.0]).double())
    # The logits are (ln 3, 0), softmax (3/4, 1/4); d loss/d logit = (-1/4, 1/4); the encoder's gradient -ln 3 / 4.
    assert float(plain["encoders.audio.weight"]) == pytest.approx(-math.log(3) / 4)
    for name, parameter in model.model.named_parameters():
        factor = k if ".audio." in name else 1.0
        torch.testing.assert_close(parameter.grad, plain[name] * factor)


def test_three_modalities_are_compared_with_the_mean_of_the_others() -> None:
    """Sureness 3/4, 1/2 and 1/4: rho 3/4 / (3/8) = 2, 1/2 / (1/2) = 1, 1/4 / (5/8) = 0.4."""
    names = ("audio", "visual", "text")
    model = by_hand(0.5, names)
    inputs = {
        m: torch.full((1, 1), x).double() for m, x in zip(names, (1.0, 0.0, -1.0), strict=True)
    }
    gradients(model, inputs, torch.tensor([0]))
    record = model.last_step
    assert record is not None
    assert record.ratios is not None
    torch.testing.assert_close(record.ratios, torch.tensor([2.0, 1.0, 0.4]).double())
    torch.testing.assert_close(
        record.coefficients, torch.tensor([1 - math.tanh(1.0), 1.0, 1.0]).double()
    )


def test_without_heads_it_looks_at_the_responses() -> None:
    inputs, target = batch(TWO, 12, 3)
    for late in (True, False):
        model = ModulatedModel(
            network(TWO, late=late, layer="layer-norm"), OGMGE(TWO, 0.7, noise=False)
        )
        plain = gradients(model, inputs, target)
        model.model.train()
        responses = model.responses(inputs).responses if late else None
        record = model.last_step
        assert record is not None
        assert record.ratios is not None
        if responses is not None:
            sure = responses.softmax(-1)[:, torch.arange(12), target].mean(1)
            torch.testing.assert_close(
                record.ratios, torch.stack([sure[0] / sure[1], sure[1] / sure[0]])
            )
        leader = TWO[int(record.ratios.argmax())]
        for name, parameter in model.model.named_parameters():
            scaled = name.startswith(f"encoders.{leader}.")
            factor = 1 - math.tanh(0.7 * float(record.ratios.max())) if scaled else 1.0
            torch.testing.assert_close(parameter.grad, plain[name] * factor)


def test_the_noise_has_the_gradients_own_deviation_and_comes_from_seed_and_step() -> None:
    inputs, target = batch(TWO, 16, 3)

    def noise(seed: int, steps: int) -> dict[str, Tensor]:
        net = network(TWO, late=True, layer="plain")
        net.encoders["audio"][0] = nn.Linear(5, 6).double()
        model = ModulatedModel(net, OGMGE(TWO, 0.3, seed=seed))
        for _ in range(steps):
            plain = gradients(model, inputs, target)
        assert model.last_step is not None
        factors = dict(zip(TWO, model.last_step.coefficients.tolist(), strict=True))
        return {
            name: p.grad - plain[name] * factors[name.split(".")[1]]
            for name, p in net.named_parameters()
            if name.startswith("encoders") and p.grad is not None
        }

    torch.manual_seed(5)
    first = noise(0, 1)
    torch.manual_seed(5)
    assert all(torch.equal(first[name], value) for name, value in noise(0, 1).items())
    torch.manual_seed(5)
    assert not any(torch.equal(first[name], value) for name, value in noise(1, 1).items())
    torch.manual_seed(5)
    assert not any(torch.equal(first[name], value) for name, value in noise(0, 2).items())
    # Many numbers: the deviation is the gradient's, for the modality that is behind as well.
    wide = SumFusion(
        {m: nn.Linear(size, 400) for m, size in (("audio", 5), ("visual", 4))}, 3
    ).double()
    model = ModulatedModel(wide, OGMGE(TWO, 1.0))
    plain = gradients(model, inputs, target)
    assert model.last_step is not None
    for m, factor in zip(TWO, model.last_step.coefficients.tolist(), strict=True):
        weight = wide.encoders[m].weight
        added = weight.grad - plain[f"encoders.{m}.weight"] * factor
        assert float(added.std() / plain[f"encoders.{m}.weight"].std()) == pytest.approx(1, rel=0.1)
        assert abs(float(added.mean() / added.std())) < 0.1


def test_the_published_filter_is_convolutions_alone() -> None:
    class Convolution(nn.Sequential):
        out_features = 2

        def __init__(self) -> None:
            super().__init__(nn.Conv2d(1, 2, 2), nn.Flatten())

    model = LateFusion({"audio": Convolution(), "visual": Convolution()}, 2).double()
    method = OGMGE(TWO, 1.0, noise=False, filter="published")
    wrapped = ModulatedModel(model, method)
    inputs = {"audio": torch.randn(4, 1, 2, 2).double(), "visual": torch.randn(4, 1, 2, 2).double()}
    plain = gradients(wrapped, inputs, torch.tensor([0, 1, 0, 1]))
    changed = {n for n, p in model.named_parameters() if not torch.equal(p.grad, plain[n])}  # type: ignore[arg-type]
    assert len(changed) == 1
    assert changed <= {"encoders.audio.0.weight", "encoders.visual.0.weight"}
    with pytest.raises(ValueError, match="would change no parameter of 'audio', 'visual'"):
        ModulatedModel(network(TWO, late=True, layer="plain"), OGMGE(TWO, filter="published"))


def test_outside_its_window_it_is_joint_training() -> None:
    inputs, target = batch(TWO, 8, 3)
    model = ModulatedModel(network(TWO, late=True, layer="plain"), OGMGE(TWO, 2.0, epochs=(2, 2)))
    for epoch, changes in ((1, False), (2, True), (3, False)):
        model.before_epoch(epoch)
        plain = gradients(model, inputs, target)
        same = all(torch.equal(p.grad, plain[n]) for n, p in model.model.named_parameters())  # type: ignore[arg-type]
        assert same != changes


def test_other_targets_use_the_exponential_of_the_score() -> None:
    inputs, _ = batch(TWO, 8, 1)
    model = ModulatedModel(
        network(TWO, late=True, layer="plain", classes=1), OGMGE(TWO), task=Regression()
    )
    target = torch.randn(8, 1, dtype=torch.float64)
    F.mse_loss(model(inputs, target), target).backward()
    model.after_backward()
    responses = model.responses(inputs).responses
    alone = responses + target.mean() / 2  # phi + c - c/2, with c the mean of the targets seen
    sure = (-(alone - target).square().mean(-1) / target.var(correction=0)).exp().mean(1)
    assert model.last_step is not None
    assert model.last_step.ratios is not None
    torch.testing.assert_close(model.last_step.ratios[0], sure[0] / sure[1])


def test_a_step_without_after_backward_is_noticed() -> None:
    inputs, target = batch(TWO, 8, 3)
    model = ModulatedModel(network(TWO, late=True, layer="plain"), OGMGE(TWO))
    optimizer = torch.optim.SGD(model.parameters(), 0.1)
    for _ in range(2):  # gradient accumulation: two backward passes, one call
        F.cross_entropy(model(inputs, target), target).backward()
    model.after_backward()
    optimizer.step()
    F.cross_entropy(model(inputs, target), target).backward()
    optimizer.step()
    with pytest.raises(
        RuntimeError, match=r"call model\.after_backward\(\) between loss\.backward\(\) and"
    ):
        model(inputs, target)


@pytest.mark.parametrize("kind", [torch.optim.SGD, torch.optim.AdamW])
def test_a_fused_optimizers_step_without_after_backward_is_noticed(
    kind: type[torch.optim.Optimizer],
) -> None:
    """It changes the parameters without a new version of them; the Hugging Face Trainer's default is one."""
    inputs, target = batch(TWO, 8, 3)
    model = ModulatedModel(network(TWO, late=True, layer="plain"), OGMGE(TWO))
    optimizer = kind(model.parameters(), lr=0.1, fused=True)  # type: ignore[call-arg]
    other = kind([torch.nn.Parameter(torch.ones(2))], lr=0.1, fused=True)  # type: ignore[call-arg]
    for step in range(3):
        F.cross_entropy(model(inputs, target), target).backward()
        if step < 2:
            model.after_backward()
        optimizer.step()
        other.step()
    with pytest.raises(
        RuntimeError, match=r"call model\.after_backward\(\) between loss\.backward\(\) and"
    ):
        model(inputs, target)
    model.after_backward()
    for skipped in (False, True):  # a batch may be left out, and another optimizer may step
        F.cross_entropy(model(inputs, target), target).backward()
        other.step()
        if skipped:
            optimizer.zero_grad()


@pytest.mark.parametrize(
    ("settings", "match"),
    [
        ({"modalities": ("audio",)}, "there is one, 'audio'"),
        ({"alpha": 0.0}, "alpha is 0"),
        ({"alpha": math.inf}, "alpha is inf"),
        ({"filter": "some"}, "filter is 'some'"),
        ({"epochs": (3, 1)}, "epochs is"),
    ],
)
def test_settings_that_cannot_be(settings: dict[str, object], match: str) -> None:
    with pytest.raises(ValueError, match=match):
        OGMGE(**{"modalities": TWO, **settings})  # type: ignore[arg-type]


def test_a_model_without_named_encoders_is_refused() -> None:
    with pytest.raises(ValueError, match="the model does not say which they are"):
        ModulatedModel(nn.Linear(3, 2), OGMGE(TWO))


def test_a_modality_that_the_forward_encodes_in_its_own_way_is_encoded_for_its_head_in_eval_mode() -> (
    None
):
    class PastEncode(SumFusion):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            audio = self.encoders["audio"](inputs["audio"])
            return self.head(
                self.fuse({"audio": audio, "visual": self.encode("visual", inputs["visual"])})
            )

    inputs, target = {m: torch.randn(6, 1).double() for m in TWO}, torch.tensor([0, 1, 0, 1, 0, 1])
    records = []
    for kind in (SumFusion, PastEncode):
        torch.manual_seed(0)
        net = kind({m: Scalar() for m in TWO}, 2).double()
        if kind is PastEncode:
            net.encoders["audio"].register_forward_hook(
                lambda m, _, out: out * 7 if m.training else None
            )
        model = ModulatedModel(net, OGMGE(TWO, 1.0, noise=False))
        gradients(model, inputs, target)
        assert all(module.training for module in net.modules())
        assert model.last_step is not None
        records.append(model.last_step)
    torch.testing.assert_close(records[1].ratios, records[0].ratios)
    torch.testing.assert_close(records[1].coefficients, records[0].coefficients)
