"""Foreign networks: signatures of their own, explicit parameter groups."""

from __future__ import annotations

import copy
import io
import pickle
from collections.abc import Mapping
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradmod import AGM, ModulatedModel, Output, adapt


class Foreign(nn.Module):
    """`net(audio, image)` returning a dict."""

    def __init__(self) -> None:
        super().__init__()
        self.ears = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.eyes = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.ReLU())
        self.tied = self.ears
        self.classifier = nn.Linear(12, 3)

    def forward(self, audio: Tensor, image: Tensor) -> dict[str, Tensor]:
        logits = self.classifier(torch.cat([self.ears(audio), self.eyes(image)], 1))
        return {"logits": logits, "regulariser": logits.square().mean()}


def call(net: Foreign, inputs: Mapping[str, Tensor]) -> Output:
    out = net(inputs["audio"], inputs["image"])
    return Output(out["logits"], {"regulariser": out["regulariser"]})


def make_batch() -> tuple[dict[str, Tensor], Tensor]:
    return {"audio": torch.randn(8, 5), "image": torch.randn(8, 4)}, torch.randint(3, (8,))


def test_a_signature_of_its_own() -> None:
    net = Foreign()
    model = ModulatedModel(adapt(net, call), AGM(("audio", "image")))
    assert model.strategy.name == "batched"
    inputs, target = make_batch()
    output = model(inputs, target)
    assert isinstance(output, Output)
    (model.task.loss(output.logits, target) + output.losses["regulariser"]).backward()
    assert all(p.grad is not None for p in net.parameters())


def test_encoders_fuse_and_head_allow_reuse_with_the_same_numbers() -> None:
    torch.manual_seed(0)
    net = Foreign().double()
    reusing = adapt(
        net,
        encoders={"audio": net.ears, "image": net.eyes},
        fuse=lambda net, features: torch.cat([features["audio"], features["image"]], 1),
        head=lambda net, joint: net.classifier(joint),
    )
    merely_callable = adapt(copy.deepcopy(net), lambda net, inputs: call(net, inputs).logits)
    inputs, target = make_batch()
    inputs = {m: x.double() for m, x in inputs.items()}
    gradients = []
    for model in (
        ModulatedModel(reusing, AGM(("audio", "image"))),
        ModulatedModel(merely_callable, AGM(("audio", "image"))),
    ):
        model.task.loss(model(inputs, target), target).backward()
        gradients.append([p.grad for p in model.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-12, atol=1e-12)


def test_a_copy_trains_its_own_network() -> None:
    net = Foreign()
    model = adapt(
        net,
        encoders={"audio": net.ears, "image": net.eyes},
        fuse=lambda n, f: torch.cat([f["audio"], f["image"]], 1),
        head=lambda n, j: n.classifier(j),
    )
    twin = copy.deepcopy(model)
    inputs, _ = make_batch()
    twin(inputs).sum().backward()
    assert all(p.grad is None for p in net.parameters())
    assert all(p.grad is not None for p in twin.net.parameters())
    assert twin.encoders is not None
    assert twin.encoders["audio"] is twin.net.ears


def test_encoders_may_be_several_modules() -> None:
    net = Foreign()
    model = adapt(net, call, encoders={"audio": [net.ears[0], net.ears[1]], "image": net.eyes})
    assert model.encoders is not None
    assert len(list(model.encoders["audio"].parameters())) == 4


@pytest.mark.parametrize(
    ("encoders", "match"),
    [
        (
            lambda net: {"audio": net.ears, "image": [net.eyes, net.ears[0]]},
            "also belongs to the encoder of 'audio'",
        ),
        (
            lambda net: {"audio": net.ears, "image": nn.Linear(4, 6)},
            r"encoder of 'image' \(Linear\) is not a module of the adapted Foreign",
        ),
    ],
)
def test_groups_that_overlap_or_lie_elsewhere_are_errors(encoders: object, match: str) -> None:
    net = Foreign()
    with pytest.raises(ValueError, match=match):
        adapt(net, call, encoders=encoders(net))  # type: ignore[operator]


def test_a_head_that_is_also_an_encoder_is_an_error() -> None:
    net = Foreign()
    with pytest.raises(ValueError, match="head of 'audio' also belongs to the encoder of 'audio'"):
        adapt(
            net, call, encoders={"audio": net.ears, "image": net.eyes}, heads={"audio": net.ears[0]}
        )
    with pytest.raises(ValueError, match="heads name 'smell'"):
        adapt(
            net,
            call,
            encoders={"audio": net.ears, "image": net.eyes},
            heads={"smell": net.classifier},
        )


def test_a_modality_without_encoder_is_an_error() -> None:
    net = Foreign()
    with pytest.raises(ValueError, match="no encoder for 'image'"):
        ModulatedModel(adapt(net, call, encoders={"audio": net.ears}), AGM(("audio", "image")))


def test_what_is_missing_is_named() -> None:
    net = Foreign()
    with pytest.raises(ValueError, match=r"either call= .* or fuse= and head="):
        adapt(net)
    with pytest.raises(ValueError, match="no encoders="):
        adapt(net, fuse=lambda n, f: f["audio"], head=lambda n, j: j)
    with pytest.raises(ValueError, match="are lists"):
        adapt(
            net,
            encoders={"audio": [net.ears[0]]},
            fuse=lambda n, f: f["audio"],
            head=lambda n, j: j,
        )


def test_a_model_that_returns_something_else_is_an_error() -> None:
    model = ModulatedModel(
        adapt(Foreign(), lambda net, inputs: net(inputs["audio"], inputs["image"])),
        AGM(("audio", "image")),
    )
    with pytest.raises(TypeError, match="the model returned dict"):
        model(*make_batch())


class Frames(nn.Module):
    """[B, T, 4] -> [B * T, 8], as encoders of frames do that fold them into the batch."""

    def __init__(self) -> None:
        super().__init__()
        self.f = nn.Linear(4, 8)

    def forward(self, x: Tensor) -> object:
        return self.f(x.flatten(0, 1))


class Tower(Frames):
    def forward(self, x: Tensor) -> object:
        return {"pooled": self.f(x.mean(1)), "hidden": self.f(x)}


class Pair(Frames):
    def forward(self, x: Tensor) -> object:
        return self.f(x), x.abs().sum(-1) > 0


class Keywords(Frames):
    def forward(self, input_ids: Tensor, attention_mask: Tensor | None = None) -> object:
        return self.f(nn.functional.one_hot(input_ids % 4, 4).double().mean(1))


class Whole(Frames):
    """Takes the dict itself, by a name that is one of its keys."""

    def forward(self, tokens: Mapping[str, Tensor]) -> object:
        return self.f(nn.functional.one_hot(tokens["tokens"] % 4, 4).double().mean(1))


TAKE = {
    Frames: lambda f, b: f.reshape(b, -1, 8).mean(1),
    Tower: lambda f, b: f["pooled"],
    Pair: lambda f, b: (f[0] * f[1].unsqueeze(-1)).mean(1),
    Keywords: lambda f, b: f,
    Whole: lambda f, b: f,
}


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("with_encode", [False, True])
@pytest.mark.parametrize("kind", TAKE)
def test_encoders_of_others_return_what_they_return(
    kind: type[Frames], with_encode: bool, norm: bool
) -> None:
    gradients = []
    for coalitions in ("auto", "looped"):
        torch.manual_seed(0)
        net: Any = nn.Module()
        net.v, net.a, net.out = kind(), nn.Linear(5, 8), nn.Linear(16, 3)
        if norm:
            net.v.f = nn.Sequential(
                nn.Linear(4, 8), nn.Unflatten(-1, (8, 1)), nn.Flatten(-2), nn.LayerNorm(8)
            )
            net.a = nn.Sequential(net.a, nn.BatchNorm1d(8))

        def encode(net: Any, m: str, x: Any) -> Any:
            return (
                net.get_submodule(m)(**x)
                if kind is Keywords and m == "v"
                else net.get_submodule(m)(x)
            )

        model = ModulatedModel(
            adapt(
                net.double(),
                encoders={"a": net.a, "v": net.v},
                encode=encode if with_encode else None,
                fuse=lambda n, f: torch.cat([f["a"], TAKE[kind](f["v"], len(f["a"]))], 1),
                head=lambda n, j: n.out(j),
                mask=lambda m, x: (
                    {k: q * 0 for k, q in x.items()} if isinstance(x, dict) else x * 0
                ),
                mask_is_constant=True,
            ),
            AGM(("a", "v"), alpha=2.0),
            coalitions=coalitions,
        )
        assert model.strategy.name == ("reuse" if coalitions == "auto" else "looped")
        x: dict[str, Any] = {"a": torch.randn(4, 5).double(), "v": torch.randn(4, 3, 4).double()}
        if kind is Keywords:
            x["v"] = {"input_ids": torch.randint(1, 9, (4, 3)), "attention_mask": torch.ones(4, 3)}
        elif kind is Whole:
            x["v"] = {"tokens": torch.randint(1, 9, (4, 3)), "lengths": torch.ones(4)}
        y = torch.randint(3, (4,))
        nn.functional.cross_entropy(model(x, y), y).backward()
        assert model.strategy.name == ("reuse" if coalitions == "auto" else "looped")
        gradients.append([p.grad for p in net.parameters()])
    for ours, expected in zip(*gradients, strict=True):
        torch.testing.assert_close(ours, expected, rtol=1e-11, atol=1e-13)


def test_a_whole_model_is_saved_where_its_functions_can_be_found_again() -> None:
    model = ModulatedModel(adapt(Foreign(), call), AGM(("audio", "image")))
    inputs, target = make_batch()
    model(inputs, target).logits.sum().backward()
    buffer = io.BytesIO()
    torch.save(model, buffer)
    buffer.seek(0)
    again = torch.load(buffer, weights_only=False)
    assert torch.equal(again.eval()(inputs).logits, model.eval()(inputs).logits)
    shown = adapt(Foreign(), lambda net, inputs: call(net, inputs))
    with pytest.raises(
        pickle.PicklingError, match=r"call= of gradmod.adapt is .*<lambda>.*Define it with `def`"
    ):
        torch.save(ModulatedModel(shown, AGM(("audio", "image"))), io.BytesIO())
    by_value = pytest.importorskip("joblib.externals.cloudpickle", reason="joblib is not installed")
    again = pickle.loads(by_value.dumps(shown))
    assert isinstance(again(inputs), Output)
