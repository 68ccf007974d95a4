"""Networks and methods of the user's own, through the example, and what is told where they are wrong."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from conftest import ROOT
from gradmod.experiments.cli import main as cli
from gradmod.experiments.comparison.plan import trials
from gradmod.experiments.errors import ConfigError, DataError, SettingsFileError
from gradmod.experiments.methods import build_method, method_entry
from gradmod.experiments.methods.own import SECTIONS, UnreadSettings
from gradmod.experiments.settings.arguments import parse_config, parse_settings
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.config import Config, MethodConfig, ModelConfig
from gradmod.experiments.settings.flags import section_kinds
from gradmod.experiments.settings.toml import load_config, load_settings
from gradmod.experiments.training.parts import build_parts
from gradmod.testing import check_method

FAST = ["--epochs", "1", "--batch-size", "128", "--device", "cpu"]
METHOD, MODEL = "mine.py:WorstFirst", "mine.py:make"
CODE = ["--method", METHOD, "--model", MODEL]


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with the example, which is the current one."""
    shutil.copy(ROOT / "examples" / "own_code.py", tmp_path / "mine.py")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def errors(capsys: pytest.CaptureFixture[str], *words: str) -> str:
    """What a command that fails with a wrong setting says."""
    capsys.readouterr()
    assert cli.main(list(words)) == 2
    told = capsys.readouterr().err
    assert told.count("gradmod: error: ") == 1
    return told


def test_a_run_of_both_with_every_command(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["train", *CODE, "--weight", "0.5", *FAST]) == 0
    run = "runs/av-digits-make-WorstFirst-seed0"
    config = load_config(Path(run) / "config.toml")
    assert (config.method.method, config.model.model) == (METHOD, MODEL)
    assert config.method.settings == UnreadSettings({"weight": 0.5})  # reading runs nothing
    result = json.loads((here / run / "result.json").read_text())
    assert (result["method"], result["fusion"]) == ("WorstFirst", "make")
    assert result["strategy"] == "batched"
    for command in ("evaluate", "attribute", "competition", "resume"):
        told = errors(capsys, command, run)
        assert "names code as its network, 'mine.py:make' and as its method" in told
        assert "say so: --model mine.py:make --method mine.py:WorstFirst" in told
        assert "--method mine.py:WorstFirst" in errors(capsys, command, run, "--model", MODEL)
    assert cli.main(["evaluate", run, *CODE]) == 0
    assert cli.main(["attribute", run, *CODE, "--replicates", "9"]) == 0
    assert cli.main(["competition", run, *CODE]) == 0
    assert cli.main(["report", run]) == 0
    assert (
        "WorstFirst on av-digits, network make, seed 0" in (here / run / "report.html").read_text()
    )
    # The code may lie elsewhere now; settings stay.
    (here / "moved").mkdir()
    (here / "mine.py").rename(here / "moved" / "mine.py")
    moved = ["--method", f"moved/{METHOD}", "--model", f"moved/{MODEL}"]
    assert cli.main(["resume", run, "--epochs", "2", *moved]) == 0
    saved = (here / run / "config.toml").read_text()
    assert 'method = "moved/mine.py:WorstFirst"' in saved
    assert saved.endswith("[WorstFirst]\nweight = 0.5\n")


def test_the_method_of_the_example_is_right(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    from own_code import WorstFirst

    assert any("is not joint training" in line for line in check_method(WorstFirst, counts=(2,)))


@pytest.mark.slow
def test_a_comparison_of_both(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "--methods",
        METHOD,
        "--model",
        MODEL,
        "--seeds",
        "0",
        "--name",
        "c",
        "--mono",
        "false",
    ]
    assert cli.main(["compare", *words, "--set", "WorstFirst.weight=2", *FAST]) == 0
    runs = here / "runs" / "c"
    assert sorted(path.name for path in (runs / "runs").iterdir() if path.is_dir()) == [
        "make-WorstFirst-seed0",
        "make-joint-seed0",
    ]
    config = load_config(runs / "runs" / "make-WorstFirst-seed0" / "config.toml")
    assert config.method.settings == UnreadSettings({"weight": 2.0})
    assert "| make | WorstFirst |" in (runs / "table.md").read_text()
    told = errors(capsys, "compare", "--config", "runs/c/comparison.toml")
    assert "say so: --model mine.py:make --methods mine.py:WorstFirst" in told
    again = ["compare", "--config", "runs/c/comparison.toml", "--methods", METHOD, "--model", MODEL]
    assert cli.main(again) == 0
    told = errors(capsys, "compare", *words, "--fusions", "late,early")
    assert "--model mine.py:make is one network, whatever the fusion" in told
    told = errors(capsys, "compare", "--methods", f"{METHOD},./{METHOD}")
    assert "two have the name that their settings and rows are called by" in told


def test_trials_of_an_own_method(here: Path) -> None:
    words = ["--methods", METHOD, "--model", MODEL, "--tune", "WorstFirst.weight=2,1", "lr=0.1"]
    read = parse_settings([*words, "joint.momentum=0,0.9"], "gradmod compare", Comparison())
    (_, own) = trials(read).values()
    runs = [run for _, runs in own for run in runs][::3]
    assert [run.name for run in runs] == [
        "make-WorstFirst-trial1-seed0",
        "make-WorstFirst-trial2-seed0",
    ]
    assert [run.config.method.settings.as_table() for run in runs] == [
        {"weight": 2.0},
        {"weight": 1.0},
    ]
    assert {(run.row, run.fusion, run.config.optimizer.lr) for run in runs} == {
        ("WorstFirst", "make", 0.1)
    }


def test_what_a_file_names_does_not_run(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (here / "evil.py").write_text("open('ran', 'w').close()\nraise ValueError\n")
    files = {
        "--dataset": '[data]\ndataset = "evil.py:X"\n',
        "--model": '[model]\nmodel = "evil.py:X"\n',
        "--method": '[method]\nmethod = "evil.py:X"\n[X]\nalpha = 1\n',
    }
    for flag, text in files.items():
        (here / "c.toml").write_text(text)
        assert isinstance(load_config(here / "c.toml"), Config)
        told = errors(capsys, "train", "--config", "c.toml")
        assert (
            f"c.toml names code as its {told.split('as its ')[1].split(',')[0]}, 'evil.py:X'"
            in told
        )
        assert f"say so: {flag} evil.py:X" in told
    # Named in its place is something else, which is taken.
    words = ["train", "--config", "c.toml", "--method", "joint", *FAST, "--width", "8"]
    assert cli.main(words) == 0
    (here / "c.toml").write_text('[compare]\nmethods = "evil.py:X"\n')
    assert "--methods evil.py:X" in errors(capsys, "compare", "--config", "c.toml")
    with pytest.raises(ConfigError, match="names code as its methods"):
        load_settings("c.toml", Comparison())
    words = ["--config", "c.toml", "--methods", "joint,mses"]
    read = parse_settings(words, "gradmod compare", Comparison())
    assert read.compare.method_names == ("joint", "mses")
    assert not (here / "ran").exists()
    assert "ValueError" in errors(capsys, "train", "--method", "evil.py:X")
    assert (here / "ran").exists()


def test_settings_of_an_own_method_reach_it(here: Path) -> None:
    """Every way in, for settings that are a dataclass and for arguments with defaults."""
    (here / "two.py").write_text(ARGUMENTS)
    for name, values, attributes in (
        (METHOD, {"weight": 0.25}, {"weight": 0.25}),
        (
            "two.py:Many",
            {"scale": 3.0, "count": 2, "kind": "b", "on": False, "limit": None},
            {"scale": 3.0, "count": 2, "kind": "b", "on": False, "limit": None, "seed": 7},
        ),
    ):
        table = name.split(":")[1]
        spelt = {key: {None: "none", False: "false"}.get(v, str(v)) for key, v in values.items()}
        short = [word for key, v in spelt.items() for word in (f"--{key}", v)]
        full = [word for key, v in spelt.items() for word in (f"--{table}.{key}", v)]
        lines = [
            f"{key} = {json.dumps(spelt[key] if v is None else v)}" for key, v in values.items()
        ]
        (here / "c.toml").write_text(
            "\n".join(["[method]", f'method = "{name}"', f"[{table}]", *lines])
        )
        given = [f"{table}.{key}={v}" for key, v in spelt.items()]
        compared = parse_settings(
            ["--methods", name, "--set", *given], "gradmod compare", Comparison()
        )
        configs = [
            parse_config(["--method", name, *short], "gradmod train"),
            parse_config(["--method", name, *full], "gradmod train"),
            parse_config(["--config", "c.toml", "--method", name], "gradmod train"),
            load_config("c.toml"),
            Config(method=MethodConfig(name, settings=UnreadSettings(values))),
            compared.run_config(name, compared.compare.settings_of(name)),
        ]
        for config in configs:
            method = build_method(name, ("a", "b"), config.method.settings, seed=7)
            assert {key: getattr(method, key) for key in attributes} == attributes
    assert build_method("two.py:Many", ("a", "b")).other == ()


ARGUMENTS = """
from gradmod.methods import Method

class Many(Method):
    def __init__(self, modalities, scale: float = 1, *, count=1, kind="a", on=True,
                 limit: "int | None" = 4, other=(), seed=0):
        super().__init__(modalities)
        self.scale, self.count, self.kind, self.on = scale, count, kind, on
        self.limit, self.other, self.seed = limit, other, seed
        if count > 9:
            raise ValueError("count is too large")
"""


def test_what_is_known_of_an_own_method(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    entry = method_entry(METHOD)
    assert entry.needs == ("features", "heads")
    assert entry.search == {"weight": (1.0, 0.3, 3.0)}
    read = parse_settings(["--methods", METHOD, "--tune", "WorstFirst", "joint"], "x", Comparison())
    assert read.compare.grid(METHOD) == [{"weight": 1.0}, {"weight": 0.3}, {"weight": 3.0}]
    assert cli.main(["train", "--help", METHOD]) == 0
    told = capsys.readouterr().out
    assert "Adds the loss of the modality that is worst in this batch" in told
    assert "Weight of the loss that is added, above 0." in told
    assert set(section_kinds(Comparison)) == set(SECTIONS)


HEAD = "from dataclasses import dataclass\nfrom gradmod.methods import Method\n"
WRONG_METHODS = {
    # what stands in the file, the name behind the colon: what is said
    ("class A: ...", "A"): "is no method; expected a class that is derived from gradmod.methods",
    ("A = 3", "A"): "x.py:A is no method",
    ("class B(Method): ...", "A"): "x.py has no 'A'; it has B",
    ("class data(Method): ...", "data"): "the class is called data, as a table of settings",
    ("class A(Method):\n    Settings = 3", "A"): "A.Settings is no frozen dataclass; write @data",
    ("class A(Method):\n    @dataclass\n    class Settings: ...", "A"): "is no frozen dataclass",
    (
        "class A(Method):\n    @dataclass(frozen=True)\n    class Settings:\n        x: int",
        "A",
    ): "A.Settings has x without a default",
    (
        "class A(Method):\n    @dataclass(frozen=True)\n    class Settings:\n        x: list = ()",
        "A",
    ): "the setting x of A is of the type <class 'list'>; expected int, float, bool, str",
    (
        "class A(Method):\n    def __init__(self, modalities, x): ...",
        "A",
    ): "the constructor of A has x without a default",
    (
        "class A(Method):\n    def __init__(self, modalities, lr=0.1): ...",
        "A",
    ): "the setting lr of x.py:A is called as the flag --lr of every run; give it another name",
    ("1 / 0", "A"): "line 3: ZeroDivisionError: division by zero",
    (
        "class A(Method):\n    def __init__(self, modalities):\n        raise KeyError('what')",
        "A",
    ): "x.py, line 5: KeyError: 'what'",
}


@pytest.mark.parametrize("case", WRONG_METHODS)
def test_wrong_methods(
    case: tuple[str, str], here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (here / "x.py").write_text(HEAD + case[0])
    told = errors(capsys, "train", "--method", f"x.py:{case[1]}", *FAST)
    assert WRONG_METHODS[case] in told
    assert not (here / "runs").exists()


def test_wrong_settings_of_an_own_method(here: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "weight is -1.0; expected" in errors(capsys, "train", *CODE, "--weight", "-1")
    assert "--weight: could not convert" in errors(capsys, "train", *CODE, "--weight", "x")
    assert "--gamma makes no difference" in errors(capsys, "train", *CODE, "--gamma", "2")
    (here / "c.toml").write_text(f'[method]\nmethod = "{METHOD}"\n[WorstFirst]\nwieght = 1.0\n')
    for text, message in (
        ("wieght = 1.0", "c.toml: WorstFirst.wieght is unknown; .*did you mean weight"),
        ('weight = "x"', "c.toml: WorstFirst.weight is 'x'; expected float"),
        ("weight = 0.0", "c.toml: weight is 0.0; expected a number > 0"),
    ):
        (here / "c.toml").write_text(f'[method]\nmethod = "{METHOD}"\n[WorstFirst]\n{text}\n')
        with pytest.raises(SettingsFileError, match=message):
            parse_config(["--config", "c.toml", "--method", METHOD], "gradmod train")
    with pytest.raises(ConfigError, match=r"WorstFirst\.x is unknown; WorstFirst has --weight"):
        build_method(METHOD, ("a", "b"), UnreadSettings({"x": 1}))


WRONG_NETWORKS = {
    # what stands in the file: what is said
    "def make(shapes, outputs): ...": "returned NoneType; .*does it lack its return",
    "def make(shapes, outputs): return 3": "returned int; expected a torch.nn.Module that takes",
    "def make(shapes): ...": "takes .*; gradmod calls it as make.shapes, outputs.: write it so",
    "def make(shapes, classes=3): ...": "whose 'classes' would be the outputs",
    "make = 3": "x.py:make is int, no function; expected def make.shapes, outputs. there",
    "def make(shapes, outputs):\n    return nn.Linear(3, 4)": "x.py: TypeError|line .*TypeError",
    "def make(shapes, outputs): return Net(lambda x: x['audio'].mean((1, 2, 3)) @ x['visual'])":
        "x.py, line 6: .*Error",
    "def make(shapes, outputs): return Net(lambda x: x['audio'].flatten(1)[:, :3])":
        r"answers 2 samples with logits of the shape \[2, 3\]; expected \[2, 10\]",
    "def make(shapes, outputs): return Net(lambda x: {'logits': 3})":
        "returned dict; expected a logits tensor",
}  # fmt: skip
NET = """
from torch import nn
class Net(nn.Module):
    def __init__(self, f): super().__init__(); self.f = f; self.w = nn.Linear(1, 1)
    def forward(self, inputs): return self.f(inputs)
"""


@pytest.mark.parametrize("text", WRONG_NETWORKS)
def test_wrong_networks(text: str, here: Path) -> None:
    (here / "x.py").write_text(NET + text)
    config = Config(model=ModelConfig(model="x.py:make"), method=MethodConfig("joint"))
    with pytest.raises((ConfigError, DataError), match=WRONG_NETWORKS[text]):
        build_parts(config)


def test_a_network_is_tried_and_left_as_it_was(here: Path) -> None:
    """Lazy layers have their sizes, statistics did not move, the mode is that of training, random numbers are kept."""
    (here / "x.py").write_text(
        "import torch\nfrom torch import nn\n"
        "class Net(nn.Module):\n"
        "    def __init__(self, n):\n"
        "        super().__init__()\n"
        "        self.encoders = nn.ModuleDict({m: nn.LazyLinear(4) for m in ('audio', 'visual')})\n"
        "        self.norm, self.head = nn.BatchNorm1d(8), nn.Linear(8, n)\n"
        "    def forward(self, x):\n"
        "        torch.rand(1)\n"
        "        found = [net(x.pop(m).flatten(1)) for m, net in self.encoders.items()]\n"
        "        return self.head(self.norm(torch.cat(found, 1)))\n"
        "def make(outputs, shapes):\n"
        "    assert shapes == {'audio': (1, 33, 20), 'visual': (1, 8, 8)} or len(shapes) == 2\n"
        "    return Net(outputs)\n"
    )
    config = Config(model=ModelConfig(model="x.py:make"), method=MethodConfig("joint"))
    network = build_parts(config).model.model
    assert isinstance(network, nn.Module)
    assert network.training
    assert all(not isinstance(p, nn.UninitializedParameter) for p in network.parameters())
    assert not network.norm.running_mean.any()  # type: ignore[union-attr, operator]
    after: Any = torch.rand(1)
    again: Any = build_parts(config) and torch.rand(1)
    assert torch.equal(after, again)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --model make", "--model is 'make'; expected folder/file.py:function"),
        ("train --model mine.py:make --fusion late", "--fusion makes no difference to --model"),
        ("train --model mine.py:make --width 8", "--width makes no difference to --model mine.py"),
        ("train --model mine.py:make --encoder mlp", "--encoder makes no difference to --model"),
        ("train --model mine.py:mak", "mine.py has no 'mak'; did you mean make?"),
        ("train --model nowhere.py:make", "nowhere.py does not exist"),
        ("evaluate runs/agm --method mine.py:WorstFirst", "--method makes no difference: the run"),
        ("evaluate runs/agm --model mine.py:make", "is of a network of gradmod"),
    ],
)
def test_wrong_words(
    words: str, message: str, here: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    if "runs/agm" in words:
        assert cli.main(["train", "--width", "8", "--name", "agm", *FAST]) == 0
    assert message in errors(capsys, *words.split())
