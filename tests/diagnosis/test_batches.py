"""Loaders of every form: read as what they mean, or refused in words."""

from __future__ import annotations

import itertools
from collections import namedtuple
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset, IterableDataset, TensorDataset

import gradmod
from gradmod import Joint, ModulatedModel
from gradmod.diagnosis.batches import open_batches

NAMES = ("audio", "visual")
COUNT = 150


class Net(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.a, self.v = nn.Linear(4, 3), nn.Linear(5, 3)

    def forward(self, inputs: dict[str, Tensor]) -> Tensor:
        return self.a(inputs["audio"]) + self.v(inputs["visual"])


def data() -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    audio, visual = (
        torch.randn(COUNT, 4, generator=generator),
        torch.randn(COUNT, 5, generator=generator),
    )
    return audio, visual, torch.randint(3, (COUNT,), generator=generator)


class Samples(Dataset[Any]):
    def __init__(self, form: str) -> None:
        self.form, self.columns = form, data()

    def __len__(self) -> int:
        return COUNT

    def __getitem__(self, i: int) -> Any:
        audio, visual, target = (column[i] for column in self.columns)
        return {
            "dict": {"audio": audio, "visual": visual, "labels": target},
            "pair": ({"audio": audio, "visual": visual}, int(target)),
            "triple": (audio, visual, target),
        }[self.form]


class Stream(IterableDataset[Any]):
    def __iter__(self) -> Iterator[Any]:
        return (Samples("pair")[i] for i in range(COUNT))


@dataclass
class Record:
    audio: Tensor
    visual: Tensor
    target: Tensor


Named = namedtuple("Named", ["audio", "visual", "label"])
Whole = namedtuple("Whole", ["inputs", "target", "present", "index"])


def parts() -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    return zip(*(column.split(64) for column in data()), strict=True)


def loaders() -> dict[str, Any]:
    by_name = [({"audio": a, "visual": v}, y) for a, v, y in parts()]
    return {
        "list": by_name,
        "lists": [list(batch) for batch in by_name],
        "iterator": iter(by_name),
        "generator": (batch for batch in by_name),
        "with more": [(x, y, torch.arange(len(y)), ["id"] * len(y)) for x, y in by_name],
        "dicts": [{**x, "labels": y} for x, y in by_name],
        "dicts of label": [{**x, "label": y} for x, y in by_name],
        "dicts, nested": [{"inputs": x, "target": y} for x, y in by_name],
        "triples": list(parts()),
        "pairs in pairs": [((a, v), y) for a, v, y in parts()],
        "pairs in triples": [([a, v], y, 0, 0) for a, v, y in parts()],
        "dataclasses": [Record(*batch) for batch in parts()],
        "named tuples": [Named(*batch) for batch in parts()],
        "dicts with none present": [{**x, "labels": y, "present": None} for x, y in by_name],
        "named whole": [Whole(x, y, None, None) for x, y in by_name],
        "DataLoader": DataLoader(Samples("dict"), batch_size=40),
        "bare data set, dicts": Samples("dict"),
        "bare data set, pairs": Samples("pair"),
        "bare data set, triples": Samples("triple"),
        "tensor data set": TensorDataset(*data()),
        "stream": Stream(),
        "list of samples": [Samples("pair")[i] for i in range(COUNT)],
        "list of dict samples": [Samples("dict")[i] for i in range(COUNT)],
        "one batch": ({"audio": data()[0], "visual": data()[1]}, data()[2]),
        "one dict": {"audio": data()[0], "visual": data()[1], "y": data()[2]},
        "one triple": data(),
        "targets of NumPy": [(x, y.numpy()) for x, y in by_name],
        "targets in lists": [(x, y.tolist()) for x, y in by_name],
    }


@pytest.mark.parametrize("form", loaders())
def test_every_form_gives_the_same_diagnosis(form: str) -> None:
    expected = gradmod.diagnose(Net(), loaders()["list"], replicates=0, noise_levels=())
    found = gradmod.diagnose(
        Net(), loaders()[form], modalities=NAMES, replicates=0, noise_levels=()
    )
    assert found == expected
    assert found.attribution.samples == COUNT


@pytest.mark.parametrize(
    "form",
    [
        "dicts",
        "dicts with none present",
        "bare data set, dicts",
        "named tuples",
        "dataclasses",
        "one dict",
    ],
)
def test_names_are_the_keys_but_the_target(form: str) -> None:
    assert (
        gradmod.diagnose(
            Net(), loaders()[form], replicates=0, noise_levels=()
        ).attribution.modalities
        == NAMES
    )


def test_the_target_may_have_any_key() -> None:
    batches = [
        {"audio": a, "visual": v, "emotion": y, "index": torch.arange(len(y))}
        for a, v, y in parts()
    ]
    found = gradmod.diagnose(
        Net(), batches, target="emotion", modalities=NAMES, replicates=0, noise_levels=()
    )
    assert found == gradmod.diagnose(Net(), loaders()["list"], replicates=0, noise_levels=())
    with pytest.raises(
        ValueError,
        match=r"not found: it holds \['audio', 'emotion', 'index', 'visual'\].*target=\.\.\.",
    ):
        gradmod.diagnose(Net(), batches)
    with pytest.raises(ValueError, match="not found: it holds"):
        gradmod.diagnose(Net(), batches, target="smile")
    twice = [{**batch, "label": batch["emotion"], "y": batch["emotion"]} for batch in batches]
    with pytest.raises(ValueError, match="'label' and 'y' could be it"):
        gradmod.diagnose(Net(), twice)


def test_samples_that_lack_a_modality_are_hidden_there() -> None:
    (audio, visual, target), has = data(), torch.arange(COUNT) % 3 > 0
    rubbish = torch.where(has[:, None], audio, 1e4)
    expected = gradmod.diagnose(
        Net(),
        [({"audio": audio * has[:, None], "visual": visual}, target)],
        replicates=0,
        noise_levels=(),
        metric="loss",
    )
    inputs = {"audio": rubbish, "visual": visual}
    for batch in (
        (inputs, target, {"audio": has}),
        (inputs, target, torch.arange(COUNT), {"audio": has}),
        {**inputs, "labels": target, "present": {"audio": has}},
        Whole(inputs, target, {"audio": has}, None),
    ):
        assert (
            gradmod.diagnose(Net(), [batch], replicates=0, noise_levels=(), metric="loss")
            == expected
        )
    for more in (({"audio": has},), (torch.arange(COUNT), {"audio": has}), ({"audio": has}, 0, 0)):
        nested = [((rubbish, visual), target, *more)]
        assert (
            gradmod.diagnose(
                Net(), nested, modalities=NAMES, replicates=0, noise_levels=(), metric="loss"
            )
            == expected
        )


def test_inputs_without_names_are_never_guessed() -> None:
    with pytest.raises(
        ValueError, match=r"2 inputs without names and a target.*takes \(inputs\).*gradmod\.adapt"
    ):
        gradmod.diagnose(Net(), list(parts()))
    # The method's order need not be the batch's.
    model = ModulatedModel(Net(), Joint(("visual", "audio")))
    with pytest.raises(ValueError, match=r"in their order: .*modalities=\('visual', 'audio'\)"):
        gradmod.diagnose(model, list(parts()))
    found = gradmod.diagnose(model, list(parts()), modalities=NAMES, replicates=0, noise_levels=())
    assert found == gradmod.diagnose(Net(), loaders()["list"], replicates=0, noise_levels=())

    class Apart(Net):
        def forward(self, audio: Tensor, visual: Tensor) -> Tensor:
            return super().forward({"audio": audio, "visual": visual})

    with pytest.raises(
        ValueError, match=r"takes \('audio', 'visual'\):\n.*net\(audio=inputs\[\"audio\"\], visual"
    ) as e:
        gradmod.diagnose(Apart(), list(parts()))
    adapt, call = (line.strip() for line in str(e.value).splitlines()[1:])
    room: dict[str, Any] = {"gradmod": gradmod, "net": Apart(), "loader": list(parts())}
    exec(adapt, room)
    exec(f"found = {call}", room)
    assert room["found"].attribution.game == found.attribution.game


@pytest.mark.parametrize(
    ("loader", "error", "message"),
    [
        (3, TypeError, "the loader is int"),
        ("run", TypeError, "the loader is str"),
        (["ab"], TypeError, "the loader gave str; expected"),
        ([([1, 2], "x")], TypeError, "target of a batch is str"),
        ([({"audio": torch.zeros(4)}, torch.tensor(1))] * 2, ValueError, "expected|lack"),
        (
            iter([({"audio": torch.zeros(4)}, 1)]),
            ValueError,
            "gave a sample with target 1, not a batch.*DataLoader",
        ),
        (
            iter([({"audio": torch.zeros(4)}, torch.tensor(1))]),
            ValueError,
            "gave a sample with target tensor",
        ),
        (
            [({"audio": torch.zeros(2, 4)}, (torch.zeros(2), torch.zeros(2)))],
            TypeError,
            "is tuple of .Tensor, Tensor",
        ),
        ([({}, torch.zeros(2))], ValueError, "holds no input"),
        (
            [([torch.zeros(2, 4)] * 2, torch.zeros(2, 5), torch.zeros(2))],
            ValueError,
            "can be read in two ways",
        ),
        (
            [(torch.zeros(2, 4), torch.zeros(2))],
            ValueError,
            "1 inputs and a target, but modalities are",
        ),
    ],
)
def test_what_is_no_batch_is_refused(loader: Any, error: type[Exception], message: str) -> None:
    names = None if "holds no input" in message else NAMES
    with pytest.raises(error, match=message):
        gradmod.diagnose(Net(), loader, modalities=names, replicates=0)


def test_samples_that_cannot_be_stacked_ask_for_a_collate_fn() -> None:
    uneven = [({"audio": torch.zeros(i + 1), "visual": torch.zeros(5)}, 0) for i in range(4)]
    with pytest.raises(TypeError, match=r"samples of list cannot be put into batches.*collate_fn"):
        gradmod.diagnose(Net(), uneven)


def test_the_data_are_read_once_and_none_is_lost() -> None:
    read = itertools.count()

    def stream() -> Iterator[Any]:
        for a, v, y in parts():
            next(read)
            yield {"audio": a, "visual": v}, y

    found = gradmod.diagnose(Net(), stream(), replicates=0)
    assert found.attribution.samples == COUNT
    assert next(read) == 3
    assert found == gradmod.diagnose(Net(), loaders()["list"], replicates=0)


def test_a_loader_that_fills_the_same_tensors_again() -> None:
    def stream() -> Iterator[Any]:
        room = {m: torch.empty_like(x[:50]) for m, x in zip(NAMES, data()[:2], strict=True)}
        target = torch.empty_like(data()[2][:50])
        for i in range(0, COUNT, 50):
            for m, x in zip(NAMES, data()[:2], strict=True):
                room[m].copy_(x[i : i + 50])
            yield room, target.copy_(data()[2][i : i + 50])

    found = gradmod.diagnose(Net(), stream(), replicates=0, noise_levels=())
    assert found == gradmod.diagnose(Net(), loaders()["list"], replicates=0, noise_levels=())


def test_a_modality_may_be_called_like_a_target() -> None:
    names, batches = open_batches(
        [{"label": torch.zeros(2, 3), "y": torch.zeros(2)}], ("label",), Net()
    )
    (batch,) = batches
    assert names == ("label",)
    assert batch.target.shape == (2,)
    assert np.array_equal(batch.inputs["label"], torch.zeros(2, 3))
