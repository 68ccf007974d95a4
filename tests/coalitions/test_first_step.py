"""The check of the first step: masks that hide nothing, declarations that are none, many modalities."""

from __future__ import annotations

import gc
import math
import warnings
import weakref
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils.rnn import PackedSequence, pack_sequence, pad_packed_sequence

from gradmod import AGM, ModulatedModel, adapt
from gradmod.coalitions.first_step import _is_close, _tolerance
from gradmod.coalitions.masking import map_tensors, mask
from gradmod.coalitions.strategy import Evaluation
from gradmod.protocols import declared_mask, declared_modules, declares_encoding
from networks import NAMES, batch, network

TWO = ("a", "v")


class Net(nn.Module):
    def __init__(self, read: Callable[[Any], Tensor] = lambda x: x) -> None:
        super().__init__()
        self.a, self.v, self.out, self.read = (
            nn.Linear(3, 6),
            nn.Linear(4, 6),
            nn.Linear(12, 3),
            read,
        )

    def forward(self, x: dict[str, Any]) -> Tensor:
        return self.out(torch.cat([self.a(self.read(x["a"])).tanh(), self.v(x["v"]).tanh()], 1))


@dataclass
class Table:
    values: Tensor


WORDS = ["cat", "dog", "eel", "cat", "dog"]
UNHIDEABLE: dict[str, tuple[Any, Callable[[Any], Tensor]]] = {
    "str": (
        WORDS,
        lambda words: F.one_hot(
            torch.tensor([["cat", "dog", "eel"].index(w) for w in words])
        ).float(),
    ),
    "numpy.ndarray": (np.ones((5, 3), dtype=np.float32), torch.from_numpy),
    "Table": (Table(torch.randn(5, 3)), lambda table: table.values),
    "int": (
        [1, 2, 3, 4, 5],
        lambda numbers: torch.tensor(numbers).unsqueeze(1).expand(-1, 3).float(),
    ),
    "torch.int64": (torch.ones(5, 3, dtype=torch.long), lambda ids: ids.float()),
}


@pytest.mark.parametrize("coalitions", ["auto", "looped"])
@pytest.mark.parametrize("kind", UNHIDEABLE)
def test_what_zeros_cannot_hide_is_refused(kind: str, coalitions: str) -> None:
    value, read = UNHIDEABLE[kind]
    model = ModulatedModel(Net(read), AGM(TWO), coalitions=coalitions)
    inputs, target = {"a": value, "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    with pytest.raises(ValueError, match=rf"the input of 'a' holds .*{kind}.*define mask"):
        model(inputs, target)


@pytest.mark.parametrize(
    "hide",
    [lambda m, x: x, lambda m, x: x.clone(), lambda m, x: x * 0 if m == "v" else x],
    ids=["is", "equal", "one"],
)
def test_a_mask_that_hides_nothing_is_refused(hide: Callable[[str, Any], Any]) -> None:
    model = ModulatedModel(adapt(Net(), lambda net, x: net(x), mask=hide), AGM(TWO))
    inputs, target = {"a": torch.randn(5, 3), "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    with pytest.raises(
        ValueError, match=r"mask of 'a' returns the input as it is .* hides nothing"
    ):
        model(inputs, target)


def test_a_batch_that_happens_to_be_silent_is_no_error() -> None:
    model = ModulatedModel(Net(), AGM(TWO))
    inputs, target = {"a": torch.zeros(5, 3), "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    model(inputs, target).sum().backward()


def test_a_mask_method_that_means_something_else_is_named() -> None:
    class Other(Net):
        def mask(self, lengths: Tensor, size: int) -> Tensor:
            return torch.arange(size) < lengths.unsqueeze(1)

    inputs, target = {"a": torch.randn(5, 3), "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    with pytest.raises(ValueError, match=r"mask\('a', x\) of Other raised .* pass mask=lambda"):
        ModulatedModel(Other(), AGM(TWO))(inputs, target)
    model = ModulatedModel(adapt(Other(), lambda net, x: net(x)), AGM(TWO))
    model(inputs, target).sum().backward()


@pytest.mark.parametrize("coalitions", ["auto", "looped"])
def test_packed_sequences_hide_their_contents_and_keep_their_lengths(coalitions: str) -> None:
    def read(x: PackedSequence) -> Tensor:
        padded, lengths = pad_packed_sequence(x, batch_first=True)
        return padded.sum(1) / lengths.unsqueeze(1)

    packed = pack_sequence([torch.randn(n, 3) for n in (4, 3, 3, 2, 1)])
    hidden = mask(Net(), "a", packed)
    assert not hidden.data.any()
    assert torch.equal(hidden.batch_sizes, packed.batch_sizes)
    inputs, target = {"a": packed, "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    model = ModulatedModel(Net(read), AGM(TWO), coalitions=coalitions)
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        for _ in range(2):
            model(inputs, target).sum().backward()
    assert [("PackedSequence" in str(w.message)) for w in said] == [True] * (coalitions == "auto")
    looped = ModulatedModel(model.model, AGM(TWO), coalitions="looped").responses(inputs).responses
    torch.testing.assert_close(model.responses(inputs).responses, looped)


@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("layout", [torch.strided, torch.jagged])
def test_nested_tensors_are_looped_over(layout: torch.layout) -> None:
    def read(x: Tensor) -> Tensor:
        return torch.stack([rows.mean(0) for rows in x.unbind()])

    rows = [torch.randn(n, 3) for n in (2, 3, 4)]
    inputs = {"a": torch.nested.nested_tensor(rows, layout=layout), "v": torch.randn(3, 4)}
    model = ModulatedModel(Net(read), AGM(TWO))
    with pytest.warns(UserWarning, match="the input of 'a' holds a tensor that is nested"):
        model(inputs, torch.tensor([0, 1, 2])).sum().backward()
    means = {"a": torch.stack([r.mean(0) for r in rows]), "v": inputs["v"]}
    plain = ModulatedModel(model.model, AGM(TWO), coalitions="looped")
    model.model.read = lambda x: x
    expected = plain.responses(means).responses
    model.model.read = read
    torch.testing.assert_close(model.responses(inputs).responses, expected)


def test_objects_are_handed_over_as_copies() -> None:
    """A batch of graphs: an object whose attributes the forward replaces."""

    class Graphs:
        def __init__(self, x: Tensor) -> None:
            self.x = x

    def read(graphs: Graphs) -> Tensor:
        graphs.x = graphs.x * 2
        return graphs.x

    def hide(modality: str, x: Any) -> Any:
        return Graphs(x.x * 0) if isinstance(x, Graphs) else x * 0

    graphs = Graphs(torch.randn(5, 3))
    inputs, before = {"a": graphs, "v": torch.randn(5, 4)}, graphs.x
    model = ModulatedModel(adapt(Net(read), lambda net, x: net(x), mask=hide), AGM(TWO))
    with pytest.warns(UserWarning, match="'a' holds Graphs, which differs between coalitions"):
        model(inputs, torch.randint(3, (5,))).sum().backward()
    assert graphs.x is before
    plain = ModulatedModel(adapt(Net(), lambda net, x: net(x)), AGM(TWO), coalitions="looped")
    plain.model.net.load_state_dict(model.model.net.state_dict())
    expected = plain.responses({"a": before * 2, "v": inputs["v"]}).responses
    torch.testing.assert_close(model.responses(inputs).responses, expected)


def test_containers_keep_their_type() -> None:
    class Encoding(dict):  # as transformers' BatchEncoding: a mapping with attributes
        def __getattr__(self, name: str) -> Any:
            try:
                return self[name]
            except KeyError:  # Python 3.10 asks for __getstate__ when it copies
                raise AttributeError(name) from None

    x = Encoding(values=torch.ones(2), more=[torch.ones(1), None])
    found = map_tensors(lambda leaf: leaf * 2, x)
    assert type(found) is Encoding
    assert found.values is not x.values
    assert found["more"][0].item() == 2
    assert x["more"][0].item() == 1


def test_an_input_that_is_none_is_absent_from_the_batch() -> None:
    class Reads(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.v = nn.Linear(3, 3), nn.Linear(4, 3)

        def forward(self, x: dict[str, Any]) -> Tensor:
            return sum(getattr(self, m)(x[m]) for m in TWO if x[m] is not None)  # type: ignore[return-value]

    torch.manual_seed(0)
    model = ModulatedModel(Reads(), AGM(TWO))
    target = torch.randint(3, (5,))
    model({"a": None, "v": torch.randn(5, 4)}, target).sum().backward()
    assert model.last_step is not None
    assert model.last_step.scores is not None
    assert model.last_step.scores[0].isnan()
    assert model.last_step.coefficients.tolist() == [1, 1]
    assert model.method.get_buffer("steps").tolist() == [0, 1]
    with pytest.raises(ValueError, match="None for all modalities"):
        model({"a": None, "v": None}, target)


def test_attributes_of_the_same_name_that_mean_something_else_declare_nothing() -> None:
    class Other(nn.Module):
        encoders = 6
        heads = 8
        mask = None

    net = Other()
    assert declared_modules(net, "encoders", TWO) is None
    assert declared_modules(net, "heads", TWO) is None
    assert declared_mask(net) is None
    blocks = nn.Module()
    blocks.encoders = nn.ModuleDict({"block1": nn.Linear(1, 1)})
    assert declared_modules(blocks, "encoders", TWO) is None
    blocks.encoders = nn.ModuleDict({"a": nn.Linear(1, 1), "v": nn.Linear(1, 1)})
    assert set(declared_modules(blocks, "encoders", TWO) or ()) == {"a", "v"}
    blocks.encode, blocks.fuse, blocks.head = (lambda x: x), (lambda f: f), nn.Linear(1, 1)
    assert not declares_encoding(blocks, TWO)  # encode takes no modality
    blocks.encode = lambda m, x: x
    assert declares_encoding(blocks, TWO)


def test_what_is_named_mask_is_one_only_if_it_takes_a_modality_and_an_input() -> None:
    class Masks(nn.Identity):
        def mask(self, modality: str, x: Any, value: float = 0.0) -> Any:
            return value

    assert declared_mask(nn.Identity()) is None
    assert declared_mask(Masks()) is not None
    net = nn.Module()
    others: list[Any] = [
        3,
        nn.Linear(2, 2),
        torch.ones(2, 2),
        lambda x: x,
        lambda m, x, lengths: x,
        lambda m, *, x: x,
    ]
    for other in others:
        net.__dict__["mask"] = other
        assert declared_mask(net) is None, other
    for own in (
        lambda m, x: x,
        lambda *both: both,
        lambda m, x, **more: x,
        min,
    ):  # `min` tells no signature
        net.__dict__["mask"] = own
        assert declared_mask(net) is own


@pytest.mark.parametrize("sign", [1, -1])
def test_results_are_close_within_the_tolerance_of_each_entry_in_either_direction(
    sign: int,
) -> None:
    logits = torch.tensor([[1.0, -1e9]], dtype=torch.float64)
    evaluation = Evaluation(None, logits, torch.stack([logits / 2, logits / 2]))
    sizes = evaluation.responses.abs().amax(0)
    for off, close in ((1e-9, True), (1e6, False)):
        assert (
            _is_close(logits, logits + sign * torch.tensor([[0.0, off]]), sizes, evaluation)
            is close
        )
    for same in (math.nan, math.inf, -math.inf):
        one = torch.full_like(logits, same)
        assert _is_close(one, one.clone(), sizes, evaluation)
        assert not _is_close(one, logits, sizes, evaluation)
        assert not _is_close(logits, one, sizes, evaluation)


def test_the_tolerance_is_that_of_the_dtype() -> None:
    expected = {torch.float64: 1e-8, torch.float32: 1e-4, torch.bfloat16: 0.1, torch.float16: 0.1}
    for dtype, tolerance in expected.items():
        logits = torch.ones(2, 3, dtype=dtype)
        for wide in (False, True):
            assert _tolerance(Evaluation(None, logits, logits.unsqueeze(0)), wide) == tolerance
    with torch.autocast("cpu", torch.bfloat16):
        for wide, tolerance in ((False, 0.1), (True, 1e-4)):
            assert (
                _tolerance(Evaluation(None, torch.ones(2, 3), torch.ones(1, 2, 3)), wide)
                == tolerance
            )


class Sensors(nn.Module):
    """Declares terms; the forward may or may not be their sum."""

    def __init__(self, count: int, honest: bool) -> None:
        super().__init__()
        self.names = [f"s{i}" for i in range(count)]
        self.encoders = nn.ModuleDict({m: nn.Linear(2, 3) for m in self.names})
        self.honest = honest

    def encode(self, modality: str, x: Tensor) -> Tensor:
        return self.encoders[modality](x)

    def fuse(self, features: Mapping[str, Tensor]) -> Tensor:
        return torch.stack([features[m] for m in self.names]).sum(0)

    def head(self, joint: Tensor) -> Tensor:
        return joint if self.honest else joint.square()

    def contribution(self, modality: str, feature: Tensor) -> Tensor:
        return feature

    def forward(self, x: Mapping[str, Tensor]) -> Tensor:
        return self.head(self.fuse({m: self.encode(m, x[m]) for m in self.names}))


@pytest.mark.parametrize("count", [3, 7, 40])
def test_terms_that_are_not_what_the_forward_adds_up_are_found_for_any_number(count: int) -> None:
    torch.manual_seed(0)
    names = [f"s{i}" for i in range(count)]
    inputs, target = {m: torch.randn(4, 2).double() for m in names}, torch.randint(3, (4,))
    honest = ModulatedModel(Sensors(count, True).double(), AGM(names, alpha=0.5))
    honest(inputs, target).sum().backward()
    assert honest.strategy.name == "additive"
    lying = ModulatedModel(Sensors(count, False).double(), AGM(names, alpha=0.5))
    if count == 40:
        with pytest.raises(ValueError, match="coalitions='additive' differs from showing"):
            lying(inputs, target)
        return
    with pytest.warns(UserWarning, match="evaluated by 'reuse'.*'additive' differs"):
        lying(inputs, target).sum().backward()
    looped = (
        ModulatedModel(lying.model, AGM(names), coalitions="looped").responses(inputs).responses
    )
    torch.testing.assert_close(lying.responses(inputs).responses, looped, rtol=1e-9, atol=1e-9)


def test_a_network_that_draws_in_eval_mode_is_looped_over_and_named() -> None:
    class Drawing(Net):
        def forward(self, x: dict[str, Any]) -> Tensor:
            # training=True by default.
            a, v = (F.dropout(net(x[m]), 0.5) for m, net in (("a", self.a), ("v", self.v)))
            return self.out(torch.cat([a, v], 1))

    torch.manual_seed(0)
    model = ModulatedModel(Drawing(), AGM(TWO))
    inputs, target = {"a": torch.randn(5, 3), "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    with pytest.warns(
        UserWarning, match=r"draws random numbers \(dropout without training=self.training"
    ):
        model(inputs, target)
    assert model.strategy.name == "looped"


def test_a_network_whose_loop_raises_says_its_own_error() -> None:
    class Fails(Net):
        def forward(self, x: dict[str, Any]) -> Tensor:
            if not x["a"].any():
                raise ZeroDivisionError("no sound")
            return super().forward(x)

    inputs, target = {"a": torch.randn(5, 3), "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    with pytest.raises(ZeroDivisionError, match="no sound"):
        ModulatedModel(Fails(), AGM(TWO))(inputs, target)


def test_lazy_layers_are_made_by_the_step_itself() -> None:
    class Lazy(Net):
        def __init__(self) -> None:
            super().__init__()
            self.a = nn.LazyLinear(6)

    inputs, target = {"a": torch.randn(5, 3), "v": torch.randn(5, 4)}, torch.randint(3, (5,))
    torch.manual_seed(0)
    model = ModulatedModel(Lazy(), AGM(TWO))
    model(inputs, target).sum().backward()
    assert not model.strategy.is_checked
    model(inputs, target).sum().backward()
    assert model.strategy.is_checked


def test_a_checked_step_is_an_unchecked_one() -> None:
    results = []
    for check in (True, False):
        model = ModulatedModel(
            network(NAMES[:3], late=False, layer="dropout"),
            AGM(NAMES[:3]),
            coalitions="reuse",
            check=check,
        )
        torch.manual_seed(5)
        model(*batch(NAMES[:3], 7, 3)).sum().backward()
        results.append([p.grad for p in model.parameters()] + list(model.buffers()))
    for ours, expected in zip(*results, strict=True):
        assert torch.equal(ours, expected)


OUTPUTS: list[weakref.ref[torch.Tensor]] = []


class SeenTanh(nn.Tanh):
    """Its outputs are known, and not kept."""

    def forward(self, x: Tensor) -> Tensor:
        output = super().forward(x)
        OUTPUTS.append(weakref.ref(output))
        return output


def test_the_check_lets_go_of_every_graph() -> None:
    """What an operation saves of its own output must not keep that output: it is gigabytes for a large network."""
    net = network(NAMES[:2], late=False, layer="plain")
    net.encoders["audio"][2] = SeenTanh()  # type: ignore[index, operator]
    OUTPUTS.clear()
    ModulatedModel(net, AGM(NAMES[:2])).check_network(batch(NAMES[:2], 6, 3)[0])
    assert len(OUTPUTS) > 3
    gc.collect()
    assert [output for output in OUTPUTS if output() is not None] == []
