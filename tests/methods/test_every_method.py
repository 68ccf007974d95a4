"""Every registered method: one to come is held to all of this as soon as it is in the registry."""

from __future__ import annotations

import copy
import itertools
import os
import signal
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from ave_files import ave_arrays, write_ave
from avmnist_files import avmnist_arrays, write_avmnist
from cremad_files import write_cremad
from mosei_files import mosei_files, write_mosei
from torch import Tensor, nn
from urfunny_files import urfunny_content, write_urfunny

from conftest import ROOT
from gradmod.experiments.errors import ConfigError, InterruptedRunError
from gradmod.experiments.methods import METHODS, build_method, method_class
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training import loop
from gradmod.experiments.training.optimization import build_optimizer
from gradmod.experiments.training.parts import build_parts
from gradmod.experiments.training.run import resume, train
from gradmod.methods.base import Need
from gradmod.methods.record import ValidationFigures
from gradmod.protocols import declared_modules
from gradmod.wrapper import ModulatedModel
from processes import as_torchrun
from runs import log_lines, short

OTHERS = [name for name in METHODS if name != "joint"]
SETTINGS: dict[str, dict[str, Any]] = {
    "mses": {"patience": "1", "smoothing": 0.0},
    "agm": {"alpha": 2.0},
    "diagnosing-relearning": {"every": 1},
    "opm": {"often": 1.0},
    "gblending": {"online": True, "super_epoch": 1},
    "tcmax": {"gathered": True},  # so that two processes are one
    "mcr": {"bottleneck": 1.0},  # whose decoder's parameters are the method's own
}
"""What makes a method act in a run of a few epochs, where its defaults are made for long ones."""
REFUSED = dict.fromkeys(
    itertools.product(("mla", "opm", "tcmax", "mcr"), ("ave", "mosei")),
    "does not say how it encodes",
)
"""In their networks modalities look at each other before the fusion: there is no feature of one alone to act on."""
DRAW_BY_PROCESS = {"modality-dropout", "opm", "mcr"}
"""Their draws are those of each process' samples, so that two processes are not one to the bit."""
PAIRS_ALONE = {"tcmax": r"32\^3 combinations"}
"""Where the fusion is no sum, these methods take two modalities."""
OWN = f"{ROOT / 'tests' / 'many_modalities.py'}:load"


def settings(method: str) -> dict[str, Any]:
    return {"method": method, **SETTINGS.get(method, {})}


def own(out: Path, method: str, modalities: int, **changes: Any) -> Config:
    """A run on the data set of this test: noisy enough that a modality's validation loss rises again."""
    more = {
        "dataset": OWN,
        "root": str(modalities),
        "encoder": "mlp",
        "batch_size": 32,
        "lr": 0.1,
        "save_every": 3,
    }
    return short(out, **{"epochs": 5, **settings(method), **more, **changes})


def parameters(folder: Path) -> dict[str, Tensor]:
    model = read_checkpoint(folder / "checkpoints" / "last.pt")["model"]
    return {name: value for name, value in model.items() if name.startswith("model.")}


def of_the_network(weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """The parameters by the names that they have in the user's network, which MLA puts into one of its own."""
    return {name.replace("model.network.", "model."): weight for name, weight in weights.items()}


@pytest.mark.parametrize(
    ("modalities", "fusion"),
    [
        (2, "late"),
        pytest.param(2, "sum", marks=pytest.mark.slow),
        pytest.param(2, "early", marks=pytest.mark.slow),
        pytest.param(3, "early", marks=pytest.mark.slow),
        pytest.param(6, "late", marks=pytest.mark.slow),
    ],
)
def test_it_trains_and_is_not_joint_training(modalities: int, fusion: str, tmp_path: Path) -> None:
    folders: dict[str, Path] = {}
    for name in METHODS:
        config = own(tmp_path, name, modalities, fusion=fusion, name=name, epochs=9)
        if name in PAIRS_ALONE and (modalities > 2 and fusion == "early"):
            with pytest.raises(ConfigError, match=PAIRS_ALONE[name]):
                train(config)
            continue
        summary = train(config)
        assert summary is not None
        assert summary.result["splits"]["test"]["accuracy"] > 0.4
        folders[name] = summary.folder
    joint = parameters(folders["joint"])
    for name in folders.keys() - {"joint"}:
        ours = of_the_network(parameters(folders[name]))
        assert ours.keys() >= joint.keys()
        assert any(not torch.equal(ours[key], joint[key]) for key in joint), name
        epochs = [
            line["coefficients"] for line in log_lines(folders[name]) if line["kind"] == "epoch"
        ]
        acted = method_class(name).needs_training_step  # which has no coefficient on one gradient
        acted |= "teachers" in METHODS[name].needs  # which stand in its first weights
        acted |= any("diagnosis" in line for line in log_lines(folders[name]))
        acted |= any(
            figures["min"] != 1 or figures["max"] != 1
            for epoch in epochs
            for figures in epoch.values()
        )
        assert acted or len(epochs) < 5, name  # MSES may stop all at once, and end the run


@pytest.mark.parametrize("method", METHODS)
def test_it_resumes_exactly(method: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fusion, count = "early", 2 if method in PAIRS_ALONE else 3
    train(own(tmp_path, method, count, fusion=fusion, name="whole"))
    original, calls = loop.Loop._step, []

    def interrupting(self: loop.Loop, batch: object) -> object:
        calls.append(1)
        if len(calls) in (6, 15):
            os.kill(os.getpid(), signal.SIGINT)
        return original(self, batch)  # type: ignore[arg-type]

    monkeypatch.setattr(loop.Loop, "_step", interrupting)
    settings = own(tmp_path, method, count, fusion=fusion, name="cut")
    with pytest.raises(InterruptedRunError):
        train(settings)
    with pytest.raises(InterruptedRunError):
        resume(tmp_path / "cut", dataset=settings.data.dataset)
    monkeypatch.undo()
    resume(tmp_path / "cut", dataset=settings.data.dataset)
    whole, cut = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["model"]
        for name in ("whole", "cut")
    )
    assert whole.keys() == cut.keys()
    assert all(torch.equal(whole[name], cut[name]) for name in whole)
    assert log_lines(tmp_path / "cut") == log_lines(tmp_path / "whole")


@pytest.mark.slow  # of every method; without a trainer, `check_method` does it
@pytest.mark.parametrize("method", METHODS)
def test_it_trains_under_bf16(method: str, tmp_path: Path) -> None:
    summary = train(own(tmp_path, method, 2, precision="bf16-mixed"))
    assert summary is not None
    assert summary.result["splits"]["test"]["accuracy"] > 0.4
    assert all(value.isfinite().all() for value in parameters(summary.folder).values())


@pytest.mark.slow
@pytest.mark.parametrize("method", [m for m in METHODS if m not in DRAW_BY_PROCESS])
def test_two_processes_equal_one(method: str, tmp_path: Path) -> None:
    """Without batch norm and dropout two processes see what one does; OGM-GE's noise is the same on both."""
    one, two = (
        short(
            tmp_path,
            name=name,
            encoder="mlp",
            batch_size=160,
            epochs=4,
            lr=0.05,
            log_every=1,
            **settings(method),
        )
        for name in ("one", "two")
    )
    train(one)
    as_torchrun(partial(train_on, config=two), 2)
    expected, found = (
        read_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["model"]
        for name in ("one", "two")
    )
    for name in (key for key in expected if not key.endswith("_extra_state")):
        torch.testing.assert_close(found[name], expected[name], rtol=0, atol=1e-5)


def train_on(rank: int, config: Config) -> None:
    train(config)


def test_it_says_what_it_is() -> None:
    docs = ROOT / "docs" / "methods"
    for name, info in METHODS.items():
        assert info.summary
        assert info.cost
        card = (docs / f"{name}.md").read_text(encoding="utf-8")
        assert f"--method {name}" in card
        assert build_method(name, ("a", "b")).modalities == ("a", "b")
        assert method_class(name).__doc__


@pytest.fixture(scope="module")
def roots(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    folder = tmp_path_factory.mktemp("data")
    found = {
        "av-digits": "",
        "av-mnist": write_avmnist(folder / "av-mnist", avmnist_arrays()),
        "crema-d": write_cremad(folder / "crema-d"),
        "ur-funny": write_urfunny(folder / "humor.pkl", urfunny_content()),
        "ave": write_ave(folder / "ave", ave_arrays()),
        "mosei": write_mosei(folder / "mosei", mosei_files()),
    }
    return {name: str(root) for name, root in found.items()}


SMALL: dict[str, dict[str, Any]] = {
    "crema-d": {"encoder": "small-cnn"},
    "av-mnist": {"encoder": "small-cnn", "width": 4},
    "ur-funny": {"width": 16, "layers": 1},
}
CASES = [
    ("av-digits", "late"),
    ("av-digits", "sum"),
    ("av-digits", "early"),
    ("av-mnist", "late"),
    ("av-mnist", "early"),
    ("crema-d", "late"),
    ("crema-d", "early"),
    ("ur-funny", "late"),
    ("ur-funny", "early"),
    ("ave", "late"),
    pytest.param("mosei", "late", marks=pytest.mark.slow),
]


def others(model: ModulatedModel) -> dict[str, nn.Module]:
    """Encoders of the same form with other weights."""
    encoders = declared_modules(model.model, "encoders", model.method.modalities)
    assert encoders is not None
    found = copy.deepcopy(dict(encoders))
    with torch.no_grad():
        for encoder in found.values():
            for parameter in encoder.parameters():
                parameter.add_(0.01 * torch.randn_like(parameter))
    return found


@pytest.mark.parametrize(("dataset", "fusion"), CASES)
def test_a_step_differs_from_joint_on_every_data_set(
    dataset: str, fusion: str, roots: dict[str, str], tmp_path: Path
) -> None:
    """From the same weights on the same batches, after two epochs in which the first modality gets worse."""
    after: dict[str, dict[str, Tensor]] = {}
    for method in METHODS:
        small = {"width": None, **SMALL.get(dataset, {})}
        config = short(
            tmp_path,
            dataset=dataset,
            root=roots[dataset],
            fusion=fusion,
            **small,
            **settings(method),
        )
        reason = REFUSED.get((method, dataset))
        if (dataset, fusion) == ("ur-funny", "early"):  # three modalities
            reason = PAIRS_ALONE.get(method)
        if reason is not None:
            with pytest.raises(ConfigError, match=reason):
                build_parts(config)
            continue
        parts = build_parts(config)
        model = parts.model
        is_taught = Need.TEACHERS in model.method.needs  # by whole encoders
        if dataset == "mosei" and not is_taught:  # six blocks of width 512 are slow, one is enough
            model.model.blocks = model.model.blocks[:1]  # type: ignore[index]
        if is_taught:
            model.take_teachers(others(model))
        optimizer = build_optimizer(model.parameter_groups(), config.optimizer)
        for worse in (0.0, 1.0):
            model.after_epoch({m: ValidationFigures(1 + worse * (n == 0), 0.5 - 0.2 * worse * (n == 0))
                               for n, m in enumerate(model.method.modalities)})  # fmt: skip
        model.set_learning_rate(optimizer, 0.1)
        model.train()
        one = [parts.data.train.read([0])]  # its features are one pure cluster
        if Need.TRIALS in model.method.needs:  # which trains on them
            one = [parts.data.train.read(range(6))]
        twice, target = parts.data.train.read([0, 0])
        target[0], target[1] = 0, 1
        impure = [(twice, target)]  # two classes in one place
        for seed in range(2):
            model.before_epoch(
                3 + seed, train=one, validation=impure, held_out=impure, optimizer=optimizer
            )
            torch.manual_seed(seed)
            model.training_step(*parts.data.train.read(range(6)), optimizer)
        weights = {f"model.{name}": p.detach() for name, p in model.model.named_parameters()}
        after[method] = of_the_network(weights)
    for method in after.keys() - {"joint"}:
        different = [
            name
            for name in after["joint"]
            if not torch.equal(after[method][name], after["joint"][name])
        ]
        assert different, f"{method} on {dataset}, {fusion} fusion, is joint training"
