"""Networks with a signature of their own: what is told, and that the line to paste works."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import gradmod
from gradmod.signatures import adapt_line, takes_inputs_apart

NAMES = ("audio", "visual")


class Base(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.v = nn.Linear(4, 3), nn.Linear(5, 3)


class Apart(Base):
    def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
        return self.a(audio) + self.v(visual)


class Optional(Base):
    """As a network of Hugging Face: every argument has a default."""

    def forward(
        self, audio: Tensor | None = None, visual: Tensor | None = None, labels: Any = None
    ) -> Tensor:
        return self.a(audio) + self.v(visual)


class Keywords(Base):
    def forward(self, **batch: Tensor) -> Tensor:
        return self.a(batch["audio"]) + self.v(batch["visual"])


class OtherNames(Base):
    def forward(self, sound: Tensor, picture: Tensor, scale: float = 1.0) -> Tensor:
        return scale * (self.a(sound) + self.v(picture))


class Positional(Base):
    def forward(self, audio: Tensor, visual: Tensor, /) -> Tensor:
        return self.a(audio) + self.v(visual)


class Several(Base):
    def forward(self, *inputs: Tensor) -> Tensor:
        return self.a(inputs[0]) + self.v(inputs[1])


def inputs_and_target() -> tuple[dict[str, Tensor], Tensor]:
    return {"audio": torch.randn(6, 4), "visual": torch.randn(6, 5)}, torch.arange(6) % 3


@pytest.mark.parametrize(
    ("kind", "taken", "call"),
    [
        (Apart, "(audio, visual)", 'net(audio=inputs["audio"], visual=inputs["visual"])'),
        (
            Optional,
            "(audio=None, visual=None, labels=None)",
            'net(audio=inputs["audio"], visual=inputs["visual"])',
        ),
        (Keywords, "(**batch)", 'net(audio=inputs["audio"], visual=inputs["visual"])'),
        (
            OtherNames,
            "(sound, picture, scale=1.0)",
            'net(sound=inputs["audio"], picture=inputs["visual"])',
        ),
        (Positional, "(audio, visual)", 'net(inputs["audio"], inputs["visual"])'),
        (Several, "(*inputs)", 'net(inputs["audio"], inputs["visual"])'),
    ],
)
def test_the_line_of_the_message_is_ready_to_paste(kind: type[Base], taken: str, call: str) -> None:
    """And the pasted line gives what the network itself gives."""
    net, batch = kind(), inputs_and_target()
    with pytest.raises(TypeError) as caught:
        gradmod.diagnose(net, [batch], replicates=0)
    message = str(caught.value)
    assert f"the forward of {kind.__name__} takes {taken}" in message
    line = message.splitlines()[-1].strip()
    assert line == f"model = gradmod.adapt(net, call=lambda net, inputs: {call})"
    room: dict[str, Any] = {"gradmod": gradmod, "net": net}
    exec(line, room)
    expected = net.a(batch[0]["audio"]) + net.v(batch[0]["visual"])
    torch.testing.assert_close(room["model"](batch[0]), expected)
    assert gradmod.diagnose(room["model"], [batch], replicates=0).attribution.modalities == NAMES


def test_a_call_that_fails_for_another_reason_keeps_its_cause() -> None:
    class Asks(Base):
        def forward(self, x: dict[str, Tensor]) -> Tensor:
            return self.a(x["sound"])

    with pytest.raises(
        TypeError, match=r"failed on the dict of inputs \(KeyError: 'sound'\).*'audio', 'visual'"
    ) as e:
        gradmod.diagnose(Asks(), [inputs_and_target()], replicates=0)
    assert isinstance(e.value.__cause__, KeyError)
    plain = nn.Sequential(nn.Linear(9, 3))
    with pytest.raises(TypeError, match=r"(?s)Sequential takes \(input\).*net\(\.\.\.\)\)") as e:
        gradmod.diagnose(plain, [inputs_and_target()], replicates=0)

    class Crashes(Base):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return self.a(inputs["visual"])

    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        gradmod.diagnose(Crashes(), [inputs_and_target()], replicates=0)


def test_networks_that_take_a_dict_are_not_taken_for_foreign() -> None:
    class WithOptions(Base):
        def forward(self, inputs: dict[str, Tensor], return_features: bool = False) -> Tensor:
            return self.a(inputs["audio"]) + self.v(inputs["visual"])

    class DefaultFirst(Base):
        def forward(self, batch: Any = None, *args: Any, **kwargs: Any) -> Tensor:
            return self.a(batch["audio"]) + self.v(batch["visual"])

    for net in (WithOptions(), DefaultFirst(), nn.DataParallel(WithOptions())):
        assert not takes_inputs_apart(net, NAMES)
        gradmod.diagnose(net, [inputs_and_target()], replicates=0, noise_levels=())
    assert not takes_inputs_apart(torch.compile(WithOptions()), NAMES)
    assert takes_inputs_apart(nn.DataParallel(Apart()), NAMES)
    assert takes_inputs_apart(torch.compile(Apart()), NAMES)


@pytest.mark.parametrize(
    ("names", "call"),
    [
        (("text",), 'net(sound=inputs["text"], picture=...)'),
        (("picture", "other"), 'net(sound=inputs["other"], picture=inputs["picture"])'),
        (("a b", "c", "d"), 'net(sound=inputs["a b"], picture=inputs["c"])'),
    ],
)
def test_arguments_without_an_input_of_their_name(names: Sequence[str], call: str) -> None:
    assert adapt_line(OtherNames(), names).endswith(f"inputs: {call})")
