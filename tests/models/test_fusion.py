"""Fusions: what they declare is what they compute, for any number of modalities."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from gradmod import AGM, ModulatedModel
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.training.network import build_model
from gradmod.models.fusion import EarlyFusion, LateFusion, SumFusion
from gradmod.models.masked import MaskedModel
from gradmod.models.mlp import MLP
from gradmod.protocols import Additive, Encodes

FUSIONS = (LateFusion, SumFusion, EarlyFusion)


def make(kind: type, count: int) -> torch.nn.Module:
    torch.manual_seed(count)
    encoders = {f"m{i}": MLP(3 + i, hidden=(2 + i,)) for i in range(count)}
    more = {"hidden": (6, 5)} if kind is EarlyFusion else {}
    return kind(encoders, classes=4, **more).double().eval()


def inputs(count: int, size: int = 5) -> dict[str, torch.Tensor]:
    return {f"m{i}": torch.randn(size, 3 + i, dtype=torch.float64) for i in range(count)}


@pytest.mark.parametrize("kind", FUSIONS)
@given(count=st.integers(1, 5))
def test_forward_is_head_of_fuse_of_encode(kind: type, count: int) -> None:
    net, x = make(kind, count), inputs(count)
    assert isinstance(net, Encodes)
    expected = net.head(net.fuse({m: net.encode(m, x[m]) for m in net.modalities}))
    torch.testing.assert_close(net(x), expected, rtol=0, atol=0)


@given(count=st.integers(1, 5))
def test_logits_of_late_fusion_are_the_contributions_and_the_bias(count: int) -> None:
    net, x = make(LateFusion, count), inputs(count)
    terms = sum(net.contribution(m, net.encode(m, x[m])) for m in net.modalities)
    torch.testing.assert_close(net(x), terms + net.head.bias)


@given(count=st.integers(1, 5))
def test_logits_of_sum_fusion_are_the_sum_of_its_heads(count: int) -> None:
    net, x = make(SumFusion, count), inputs(count)
    torch.testing.assert_close(
        net(x), sum(net.heads[m](net.encoders[m](x[m])) for m in net.modalities)
    )


def test_what_is_additive() -> None:
    assert [isinstance(make(kind, 2), Additive) for kind in FUSIONS] == [True, True, False]
    assert [ModulatedModel(make(kind, 2), AGM(("m0", "m1"))).strategy.name for kind in FUSIONS] == [
        "additive",
        "additive",
        "reuse",
    ]


def test_the_order_of_the_inputs_does_not_matter() -> None:
    for kind in FUSIONS:
        net, x = make(kind, 3), inputs(3)
        assert torch.equal(net(x), net(dict(reversed(x.items()))))


def test_errors() -> None:
    with pytest.raises(ValueError, match="encoders is empty"):
        LateFusion({}, 3)
    with pytest.raises(ValueError, match="classes is 0"):
        LateFusion({"a": MLP(2)}, 0)
    with pytest.raises(ValueError, match=r"inputs lack 'm1'; they hold \['m0'\]"):
        make(LateFusion, 2)({"m0": torch.zeros(1, 3)})


def test_a_masked_model_sees_zeros_in_place_of_the_others() -> None:
    net, x = make(EarlyFusion, 3), inputs(3)
    masked = MaskedModel(net, shown=("m1",), modalities=tuple(x))
    expected = net({m: v if m == "m1" else torch.zeros_like(v) for m, v in x.items()})
    assert torch.equal(masked(x), expected)
    with pytest.raises(ValueError, match="inputs lack 'm0', 'm2'"):
        masked({"m1": x["m1"]})
    with pytest.raises(ValueError, match="shown is"):
        MaskedModel(net, shown=("smell",), modalities=())


@pytest.mark.parametrize("fusion", ["late", "sum", "early"])
@pytest.mark.parametrize("encoder", ["small-cnn", "resnet18", "mlp"])
@pytest.mark.parametrize("count", [1, 2, 3])
def test_build_model_makes_every_combination(fusion: str, encoder: str, count: int) -> None:
    shapes = {"audio": (1, 65, 70), "visual": (3, 9, 9), "touch": (2, 8, 8)}
    shapes = {m: shapes[m] for m in list(shapes)[:count]}
    net = build_model(shapes, 7, encoder, fusion, width=4)
    assert net({m: torch.randn(2, *shape) for m, shape in shapes.items()}).shape == (2, 7)


def test_published_sizes() -> None:
    net = build_model({"audio": (1, 112, 112), "visual": (1, 28, 28)}, 10, "resnet18", "early")
    assert net.joint[1].linear.in_features == 1024
    assert net.head.in_features == 1024
    late = build_model({"audio": (1, 112, 112), "visual": (1, 28, 28)}, 10, "resnet18", "late")
    assert (
        sum(p.numel() for p in late.parameters())
        == 2 * (11_689_512 - 513_000 - 2 * 3136) + 1024 * 10 + 10
    )


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        (({}, 10, "mlp", "late"), "at least one modality"),
        (
            ({"a": (1, 8, 8)}, 10, "vgg", "late"),
            "model.encoder is 'vgg'; expected one of small-cnn, resnet18, transformer, mlp",
        ),
        (({"a": (1, 8, 8)}, 10, "mlp", "middle"), "model.fusion is 'middle'"),
        (
            ({"a": (12,)}, 10, "small-cnn", "late"),
            r"takes images \[C, H, W\] and \[H, W\]; a sample of 'a' is \[12\]: use mlp",
        ),
    ],
)
def test_build_model_errors(arguments: tuple[object, ...], match: str) -> None:
    with pytest.raises(ConfigError, match=match):
        build_model(*arguments)  # type: ignore[arg-type]
