"""Settings: checked, complete in TOML, and naming only what there is."""

from __future__ import annotations

import io
import sys
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gradmod import functional
from gradmod.coalitions import choice
from gradmod.experiments import models
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.modulating import AGMSettings
from gradmod.experiments.settings import config as settings
from gradmod.experiments.settings.arguments import parse_config
from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
    TrainConfig,
)
from gradmod.experiments.settings.toml import load_config, save_config, settings_from_sections
from gradmod.experiments.settings.warnings import setting_warnings

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def test_the_choices_are_those_of_the_modules_that_they_name() -> None:
    assert set(models.ENCODERS) | {"auto"} == set(settings.ENCODERS)
    assert set(models.FUSIONS) == set(settings.FUSIONS)
    assert set(choice.STRATEGIES) | {"auto"} == set(settings.COALITIONS)
    assert functional.MAX_ENUMERATED_MODALITIES == 10


configs = st.builds(
    Config,
    st.builds(DataConfig, root=st.text(max_size=20), split_seed=st.integers(0, 2**40)),
    st.builds(
        ModelConfig, fusion=st.sampled_from(settings.FUSIONS), width=st.none() | st.integers(1, 999)
    ),
    st.builds(
        MethodConfig,
        settings=st.builds(AGMSettings, alpha=st.floats(0, 40), cap=st.none() | st.floats(1e-3, 2)),
    ),
    st.builds(
        OptimizerConfig, lr=st.floats(1e-12, 1e3), clip_norm=st.none() | st.floats(1e-3, 1e9)
    ),
    st.builds(
        TrainConfig,
        epochs=st.integers(1, 10**6),
        device=st.sampled_from(["auto", "cpu", "cuda:0,3"]),
    ),
)


@given(configs)
def test_a_saved_file_is_complete_and_reads_back(
    tmp_path_factory: pytest.TempPathFactory, config: Config
) -> None:
    path = tmp_path_factory.mktemp("config") / "config.toml"
    save_config(config, path)
    assert load_config(path) == config
    written = tomllib.loads(path.read_text(encoding="utf-8"))
    assert {name: set(section) for name, section in written.items()} == {
        name: set(section) for name, section in Config().sections().items()
    }


def test_flags_win_over_the_file(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[agm]\nalpha = 3\ncap = "none"\n[train]\nepochs = 7\n')
    for words in (["--config", str(path)], [f"--config={path}"]):
        config = parse_config([*words, "--alpha", "0.5", "--ends=none"], "gradmod train")
        agm = config.method.settings
        assert (agm.alpha, agm.cap, config.train.epochs) == (0.5, None, 7)
    assert parse_config([], "gradmod train") == Config()
    for words in (["--noise", "false"], ["--noise=FALSE"], ["--noise", "False"]):
        assert (
            parse_config(["--method", "ogm-ge", *words], "gradmod train").method.settings.noise
            is False
        )


@pytest.mark.parametrize(
    ("section", "key", "value", "message"),
    [
        (
            "data",
            "protocol",
            "holdout",
            r"data\.protocol is 'holdout'; expected one of heldout, published; did you mean h",
        ),
        ("data", "split_seed", -1, r"data\.split_seed is -1; expected a whole number >= 0"),
        (
            "model",
            "encoder",
            "resnet",
            r"model\.encoder is 'resnet'; expected .*did you mean resnet18",
        ),
        ("model", "fusion", "middle", r"model\.fusion is 'middle'"),
        ("model", "width", 0, r"model\.width is 0"),
        ("method", "coalitions", "loop", r"method\.coalitions is 'loop'; .*did you mean looped"),
        ("optimizer", "optimizer", "sdg", r"optimizer\.optimizer is 'sdg'; .*did you mean sgd"),
        ("optimizer", "lr", 0.0, r"optimizer\.lr is 0\.0; expected a number > 0"),
        (
            "optimizer",
            "momentum",
            1.5,
            r"optimizer\.momentum is 1\.5; expected a number >= 0 and <= 1",
        ),
        ("optimizer", "clip_norm", float("inf"), r"optimizer\.clip_norm is inf"),
        ("optimizer", "decay_factor", 0.0, r"optimizer\.decay_factor is 0\.0"),
        ("train", "epochs", 0, r"train\.epochs is 0; expected a whole number >= 1"),
        ("train", "batch_size", 1, r"train\.batch_size is 1; expected a whole number >= 2"),
        ("train", "device", "gpu", r"train\.device is 'gpu'; expected auto, cpu"),
        ("train", "precision", "fp16", r"train\.precision is 'fp16'"),
        ("train", "name", "a/b", r"train\.name is 'a/b'; expected a plain folder name"),
        ("train", "seed", True, r"train\.seed is True"),
    ],
)
def test_wrong_values_are_named(section: str, key: str, value: Any, message: str) -> None:
    part = getattr(Config(), section)
    with pytest.raises(ConfigError, match=message):
        replace(part, **{key: value})


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "[trian]\nepochs = 3\n",
            r"c\.toml: unknown section \[trian\]; expected \[data\], \[model\]",
        ),
        ("epochs = 3\n", r"unknown section \[epochs\]"),
        ("[train]\nepoch = 3\n", r"train\.epoch is unknown; expected one of epochs"),
        ("[train]\nepochs = 3.5\n", r"train\.epochs is 3\.5; expected int"),
        ('[train]\nepochs = "none"\n', r"train\.epochs is 'none'; expected int"),
        ("[agm]\nalpha = true\n", r"agm\.alpha is True; expected float"),
        ("[agm]\ncap = [1]\n", r"agm\.cap is \[1\]; expected float or none"),
        ("[train\n", r"cannot be read as TOML"),
        ("[train]\nepochs = 0\n", r"train\.epochs is 0"),
    ],
)
def test_wrong_files_are_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError, match=message):
        load_config(path)


def test_missing_and_binary_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"nowhere\.toml does not exist"):
        load_config(tmp_path / "nowhere.toml")
    (tmp_path / "b.toml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(tmp_path / "b.toml")
    with pytest.raises(ConfigError, match="cannot be read as TOML"):
        load_config(tmp_path)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
        lambda inner: (
            st.lists(inner, max_size=2) | st.dictionaries(st.text(max_size=5), inner, max_size=2)
        ),
    ),
    st.sampled_from(
        [(s.name, f.name) for s in fields(Config) for f in fields(getattr(Config(), s.name))]
    ),
)
def test_no_value_ends_in_anything_but_settings_or_a_clear_error(
    value: Any, where: tuple[str, str]
) -> None:
    section, key = where
    try:
        config = settings_from_sections({section: {key: value}}, "here", Config())
    except ConfigError as error:
        named = key in str(error)
    else:
        named = isinstance(config, Config)
    assert named


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (
            ["--epoch", "3"],
            r"--epoch is unknown; did you mean --epochs\? \(see gradmod train --help\)",
        ),
        (["--epochs", "three"], r"--epochs.*three"),
        (["--alpha"], r"--alpha"),
        (["--fusion", "middle"], r"model\.fusion is 'middle'"),
        (["extra"], r"extra"),
        (["--config"], r"--config needs the name of a TOML file"),
        (["--config", "/nowhere.toml"], r"/nowhere\.toml does not exist"),
    ],
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_wrong_arguments_are_one_line(
    words: list[str], message: str, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sys, "stdout", io.TextIOWrapper(io.BytesIO(), encoding=encoding))
    with pytest.raises(ConfigError, match=message) as caught:
        parse_config(words, "gradmod train")
    assert "\n" not in str(caught.value)
    assert "--- " not in str(caught.value)


def test_warnings_where_agm_does_less_than_it_seems() -> None:
    def notes(**changes: Any) -> list[str]:
        return setting_warnings(Config(**changes))

    assert notes() == []
    for name in ("adam", "adamw"):
        (note,) = notes(optimizer=OptimizerConfig(optimizer=name))
        assert note.startswith(name)
        assert (
            notes(optimizer=OptimizerConfig(optimizer=name), method=MethodConfig(method="joint"))
            == []
        )
    (note,) = notes(method=MethodConfig(settings=AGMSettings(ends=20)))
    assert "up to epoch 20 of 30" in note
    (note,) = notes(data=DataConfig(modality="audio"))
    assert "AGM is joint training" in note
    (note,) = notes(monitor=MonitorConfig(concept="features"))
    assert "no difference without --competition-every" in note
    assert notes(monitor=MonitorConfig(concept="features", competition_every=2)) == []
