"""The block of every method: its settings reach the method from every place, and what it says of it is true."""

from __future__ import annotations

import inspect
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from conftest import ROOT
from gradmod.experiments.cli import main as cli
from gradmod.experiments.errors import ConfigError, SettingsFileError
from gradmod.experiments.methods import METHODS, build_method, method_class, modulating, own_losses
from gradmod.experiments.settings.arguments import parse_config, parse_settings
from gradmod.experiments.settings.comparison import CompareConfig, Comparison
from gradmod.experiments.settings.config import Config, MethodConfig, OptimizerConfig
from gradmod.experiments.settings.flags import section_kinds
from gradmod.experiments.settings.toml import load_config, load_settings, save_config
from gradmod.methods import agm, mslr, ogm_ge, shared_head

NAMES = ("audio", "visual")
OTHER: dict[str, dict[str, tuple[Any, str, Any]]] = {
    # of every setting a value that is not the default, the attribute of the method, and what it then is
    "joint": {},
    "agm": {
        "alpha": (2.5, "alpha", 2.5),
        "cap": (None, "cap", None),
        "starts": (2, "epochs", (2, 3)),
        "ends": (3, "epochs", (2, 3)),
    },
    "ogm-ge": {
        "alpha": (0.25, "alpha", 0.25),
        "noise": (False, "noise", False),
        "filter": ("published", "filter", "published"),
        "starts": (2, "epochs", (2, 3)),
        "ends": (3, "epochs", (2, 3)),
    },
    "mslr": {
        "initial": ("audio=2", "initial", {"audio": 2.0, "visual": 1.0}),
        "rule": ("smooth", "rule", "smooth"),
        "window": (7, "window", 7),
    },
    "mses": {
        "patience": ("audio=3,visual=4", "patience", {"audio": 3, "visual": 4}),
        "smoothing": (0.25, "smoothing", 0.25),
    },
    "uni-modal-losses": {
        "weight": ("audio=2,visual=0.5", "weights", {"audio": 2.0, "visual": 0.5})
    },
    "mmpareto": {"gamma": (1.25, "gamma", 1.25)},
    "pretrained": {"encoder_lr": (0.25, "encoder_lr", 0.25)},
    "umt": {"weight": (5.0, "weight", 5.0)},
    "ogm": {
        "alpha": (0.25, "alpha", 0.25),
        "filter": ("published", "filter", "published"),
        "starts": (2, "epochs", (2, 3)),
        "ends": (3, "epochs", (2, 3)),
    },
    "opm": {
        "q": (0.25, "q", 0.25),
        "strength": (0.75, "strength", 0.75),
        "often": (1.0, "often", 1.0),
        "starts": (2, "epochs", (2, 3)),
        "ends": (3, "epochs", (2, 3)),
    },
    "dgl": {
        "weight": ("audio=2,visual=0.5", "weights", {"audio": 2.0, "visual": 0.5}),
        "hidden": ("inputs", "hidden", "inputs"),
    },
    "mlb": {"strength": (2.0, "strength", 2.0), "fastest": (1.0, "fastest", 1.0)},
    "mcr": {
        "strength": (0.5, "strength", 0.5),
        "weight": ("audio=2,visual=0.5", "weights", {"audio": 2.0, "visual": 0.5}),
        "contrastive": (0.5, "contrastive", 0.5),
        "bottleneck": (0.5, "bottleneck", 0.5),
        "permutations": (7, "permutations", 7),
    },
    "tcmax": {"gathered": (True, "gathered", True)},
    "modality-dropout": {
        "p": ("audio=0.5", "p", {"audio": 0.5, "visual": 0.0}),
        "by_batch": (True, "by_batch", True),
        "rescale": (True, "rescale", True),
    },
    "mla": {
        "projection": (True, "projection", True),
        "weighting": ("mean", "weighting", "mean"),
    },
    "diagnosing-relearning": {
        "every": (7, "every", 7),
        "times": (2, "times", 2),
        "strength": (0.5, "strength", 0.5),
    },
    "gblending": {
        "online": (True, "online", True),
        "super_epoch": (7, "super_epoch", 7),
        "held_out": (0.2, "held_out", 0.2),
    },
}


def written(value: Any) -> str:
    return str(value).lower() if value is None or isinstance(value, bool) else str(value)


def expect_other(config: Config, name: str) -> None:
    """The method that the settings make has every value of the table above."""
    assert config.method.method == name
    method = build_method(name, NAMES, config.method.settings)
    for setting, (value, attribute, expected) in OTHER[name].items():
        assert getattr(config.method.settings, setting) == value
        assert getattr(method, attribute) == expected, setting


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_file_reaches_the_method(name: str, tmp_path: Path) -> None:
    assert set(OTHER[name]) == set(METHODS[name].setting_names)
    default = METHODS[name].settings()
    values = {setting: value for setting, (value, _, _) in OTHER[name].items()}
    assert all(getattr(default, setting) != value for setting, value in values.items())
    path = tmp_path / "config.toml"
    config = Config(method=MethodConfig(name, settings=replace(default, **values)))
    save_config(config, path)
    text = path.read_text(encoding="utf-8")
    assert [other for other in METHODS if f"[{other}]" in text] == ([name] if values else [])
    assert load_config(path) == config
    expect_other(load_config(path), name)
    expect_other(parse_config(["--config", str(path)], "gradmod train"), name)


@pytest.mark.parametrize("spelt", ["--{setting}", "--{name}.{setting}"])
@pytest.mark.parametrize("name", METHODS)
def test_every_flag_reaches_the_method(name: str, spelt: str) -> None:
    words = ["--method", name]
    for setting, (value, _, _) in OTHER[name].items():
        words += [spelt.format(name=name, setting=setting), written(value)]
    expect_other(parse_config(words, "gradmod train"), name)


@pytest.mark.parametrize("name", METHODS)
def test_every_setting_of_a_comparison_reaches_the_method(name: str, tmp_path: Path) -> None:
    words = [f"{name}.{setting}={written(value)}" for setting, (value, *_) in OTHER[name].items()]
    said = ["--set", *words] if words else []
    comparison = parse_settings(["--methods", name, *said], "gradmod compare", Comparison())
    expect_other(comparison.run_config(name, comparison.compare.settings_of(name)), name)
    assert comparison.run_config("joint", {}).method == MethodConfig("joint")
    flags = [word for text in words for word in (f"--{text.split('=')[0]}", text.split("=", 1)[1])]
    by_flags = parse_settings(["--methods", name, *flags], "gradmod compare", Comparison())
    expect_other(by_flags.run_config(name, {}), name)
    save_config(by_flags, tmp_path / "c.toml")
    assert load_settings(tmp_path / "c.toml", Comparison()) == by_flags


def test_a_comparison_has_a_table_for_each_method(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(
        '[agm]\nalpha = 3.0\n[ogm-ge]\nalpha = 0.5\nnoise = false\n[compare]\nmethods = "agm,ogm-ge"\n'
    )
    read = parse_settings(["--config", str(path)], "gradmod compare", Comparison())
    assert read.run_config("agm", {}).method.settings == modulating.AGMSettings(3.0)
    assert read.run_config("ogm-ge", {}).method.settings == modulating.OGMGESettings(0.5, False)
    assert read.run_config("ogm-ge", {}).method.others == {}
    both = path.read_text().partition("[compare]")[0]
    path.write_text(both)
    one = parse_config(["--config", str(path), "--method", "ogm-ge"], "gradmod train")
    assert one.method.settings == modulating.OGMGESettings(0.5, False)
    assert parse_config(["--config", str(path)], "x").method.settings == modulating.AGMSettings(3.0)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[agm]\nalhpa = 3.0\n", r"agm\.alhpa is unknown; expected one of .*; did you mean alpha"),
        ("[agm]\npatience = 3\n", r"patience is a setting of mses: write it in \[mses\]"),
        ("[method]\nalpha = 3.0\n", r"setting of agm, ogm-ge, ogm: write it in \[agm\] or"),
        ("[joint]\nalpha = 3.0\n", r"joint\.alpha is unknown; it has no settings; alpha is a"),
        ("[ogm_ge]\nalpha = 3.0\n", r"unknown section \[ogm_ge\]; .*; did you mean ogm-ge"),
        ("[agm]\nalpha = true\n", r"agm\.alpha is True; expected float"),
        ("[ogm-ge]\nalpha = 0\n", r"ogm-ge\.alpha is 0\.0; expected a number > 0"),
        ('[method]\nmethod = "agn"\n', r"method\.method is 'agn'; .*did you mean agm"),
    ],
)
def test_what_a_file_says_wrong_is_told_its_place(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(SettingsFileError, match=rf"c\.toml: .*{message}"):
        load_config(path)


@pytest.mark.parametrize(
    ("name", "setting", "value", "message"),
    [
        ("agm", "alpha", -1.0, r"agm\.alpha is -1\.0; expected a number >= 0"),
        ("agm", "alpha", float("nan"), r"agm\.alpha is nan"),
        ("agm", "cap", 0.0, r"agm\.cap is 0\.0; expected a number > 0"),
        ("agm", "alpha", 44.0, r"agm\.alpha \* agm\.cap is 88; expected less than 88"),
        ("agm", "ends", 0, r"agm\.ends is 0; expected at least 1"),
        ("ogm-ge", "ends", 0, r"ogm-ge\.ends is 0; expected at least 1"),
        ("ogm-ge", "starts", 1.5, r"ogm-ge\.starts is 1\.5; expected a whole number"),
        ("ogm-ge", "filter", "al", r"ogm-ge\.filter is 'al'; expected one of all, published"),
        ("ogm-ge", "noise", 1, r"ogm-ge\.noise is 1; expected true or false"),
        ("mslr", "initial", "2", r"mslr\.initial is '2'; expected a modality's name before"),
        ("mslr", "rule", "smoth", r"mslr\.rule is 'smoth'; .*did you mean smooth"),
        ("mslr", "window", 0, r"mslr\.window is 0"),
        ("mses", "patience", "a=x", r"mses\.patience is 'a=x'; expected a number for each"),
        ("mses", "smoothing", 1.5, r"mses\.smoothing is 1\.5; expected a number >= 0 and <= 1"),
        ("uni-modal-losses", "weight", "1,a=2", r"uni-modal-losses\.weight is '1,a=2'; expected"),
        ("mmpareto", "gamma", 0.0, r"mmpareto\.gamma is 0\.0; expected a number > 0"),
    ],
)
def test_wrong_values_are_named(name: str, setting: str, value: Any, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(METHODS[name].settings(), **{setting: value})


def test_settings_of_another_method_are_refused() -> None:
    with pytest.raises(ConfigError, match="expected OGMGESettings, which --method ogm-ge has"):
        MethodConfig("ogm-ge", settings=modulating.AGMSettings())
    changed = MethodConfig(settings=modulating.AGMSettings(2.0)).for_method("ogm-ge")
    assert changed == MethodConfig("ogm-ge")


@pytest.mark.parametrize("name", METHODS)
def test_a_block_says_what_is_true_of_the_class(name: str) -> None:
    entry, kind = METHODS[name], method_class(name)
    assert entry.name == name
    assert entry.summary
    assert entry.cost
    assert set(entry.needs) == {need.value for need in kind.needs}
    given = set(entry.settings().arguments())
    takes = set(inspect.signature(kind).parameters) - {"modalities", "seed"}
    assert given == takes
    # What the class does by itself is what the defaults of the block make it do.
    assert repr(build_method(name, NAMES)) == repr(kind(NAMES))


@pytest.mark.parametrize("name", METHODS)
def test_its_card_begins_with_its_head(name: str) -> None:
    card = (ROOT / "docs" / "methods" / f"{name}.md").read_text(encoding="utf-8")
    assert card.split("\n\n")[1].splitlines() == METHODS[name].head()


def test_the_choices_are_those_of_the_modules() -> None:
    assert modulating.FILTERS == ogm_ge.FILTERS
    assert modulating.RULES == mslr.RULES
    assert own_losses.WEIGHTINGS == shared_head.WEIGHTINGS
    assert modulating.DEFAULT_CAP == agm.DEFAULT_CAP
    assert modulating.MAX_EXPONENT == agm.MAX_EXPONENT


def test_no_setting_is_called_as_one_of_every_run() -> None:
    sections = {f.name for kind in section_kinds(Comparison).values() for f in fields(kind)}
    for entry in METHODS.values():
        assert not sections & set(entry.setting_names), entry.name
    assert not set(METHODS) & set(section_kinds(Comparison))


@pytest.mark.parametrize("name", METHODS)
def test_its_search_space_begins_with_the_default(name: str) -> None:
    entry = METHODS[name]
    assert len(entry.search) == 1
    for setting, values in entry.search.items():
        owner = entry.settings() if setting in entry.setting_names else OptimizerConfig()
        assert values[0] == getattr(owner, setting)
        assert len(set(values)) == len(values) == 3
        for value in values:
            replace(owner, **{setting: value})


def test_tuning_over_what_is_registered() -> None:
    for words in ("joint agm ogm-ge", "joint,agm.alpha,ogm-ge", "joint.lr agm.alpha ogm-ge.alpha"):
        read = parse_settings(
            ["--methods", "agm,ogm-ge", "--tune", *words.split()], "gradmod compare", Comparison()
        )
        assert read.compare.grid("agm") == [{"alpha": 1.0}, {"alpha": 0.3}, {"alpha": 3.0}]
        assert read.compare.grid("ogm-ge") == [{"alpha": 1.0}, {"alpha": 0.1}, {"alpha": 0.3}]
        assert [trial["lr"] for trial in read.compare.grid("joint")] == [0.01, 0.003, 0.03]
    mixed = CompareConfig("agm", tune=("agm.alpha=1,2,4", "joint"))
    assert [trial["alpha"] for trial in mixed.grid("agm")] == [1.0, 2.0, 4.0]
    # Without a method, a setting is of each that has it.
    assert CompareConfig("agm,mses", set=("cap=1",)).settings_of("agm") == {"cap": 1.0}
    assert CompareConfig("agm,mses", set=("cap=1",)).settings_of("mses") == {}


def test_help_of_one_method(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["train", "--help", "agm"], ["list", "agm"]):
        assert cli.main(words) == 0
        told = " ".join(capsys.readouterr().out.split())
        for part in ("Li et al., ICCV 2023", "Needs: coalitions", "alpha 1.0, 0.3, 3.0", "--alpha"):
            assert part in told
        assert "Strength of the modulation; 0 is joint training. (default: 1.0)" in told
        assert "--batch-size" not in told
    assert cli.main(["train", "--help", "joint"]) == 0
    assert "It has no settings of its own." in capsys.readouterr().out
    assert cli.main(["train", "--help", "agn"]) == 2
    assert "did you mean agm?" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        cli.main(["train", "--help"])
    told = capsys.readouterr().out
    for name, entry in METHODS.items():
        flags = [f"--{name}.{setting.replace('_', '-')}" for setting in entry.setting_names]
        assert all(flag in told for flag in flags)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("train --method joint --alpha 3", "--alpha makes no difference to --method joint, which has no settings"),
        ("train --patience 3", "--patience makes no difference to --method agm, which has --starts,"),
        ("train --agm.cap 1 --method mses", "--agm.cap makes no difference to --method mses"),
        ("train --method ogm-ge --alpha 0", "error: --alpha is 0.0; expected a number > 0"),
        ("train --alpha x", "error: --alpha: could not convert string to float: 'x'"),
        ("train --alhpa 3", "--alhpa is unknown; did you mean --alpha?"),
        ("compare --alpha 3", "setting of single methods, --set agm.alpha=VALUE or --set ogm-ge"),
    ],
)  # fmt: skip
def test_a_flag_of_another_method_is_refused(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_all_methods_can_be_compared_and_tuned_over_as_many_trials_each() -> None:
    everything = CompareConfig(methods="all", tune=tuple(METHODS))
    assert everything.method_names == tuple(METHODS)
    assert {len(everything.grid(name)) for name in METHODS} == {3}


def test_the_overview_has_a_row_of_every_method() -> None:
    page = (ROOT / "docs" / "methods" / "which-method.md").read_text(encoding="utf-8")
    rows = [line for line in page.splitlines() if line.startswith("| [")]
    assert rows == [entry.row() for entry in METHODS.values()]
    assert all(entry.mechanism != "not said" for entry in METHODS.values())
