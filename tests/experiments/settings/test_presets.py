"""Presets load, say where each value is from, and train."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from ave_files import ave_arrays, write_ave
from avmnist_files import avmnist_arrays, write_avmnist
from cremad_files import write_cremad
from mosei_files import mosei_files, write_mosei
from urfunny_files import urfunny_content, write_urfunny

from gradmod.experiments.cli import main as cli
from gradmod.experiments.cli.paper import PUBLISHED_CAPS
from gradmod.experiments.datasets.registry import DATASETS
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.settings.arguments import parse_config
from gradmod.experiments.settings.presets import preset_path, presets


@pytest.mark.parametrize("name", presets())
def test_every_value_has_its_source(name: str) -> None:
    lines = preset_path(name).read_text(encoding="utf-8").splitlines()
    values = [line for line in lines if "=" in line and not line.startswith("#")]
    assert values
    assert all(re.search(r"# \S", line) for line in values)
    config = parse_config(
        ["--preset", name, "--epochs", "7"] if "quick" in name else [f"--preset={name}"], "x"
    )
    assert config.method.method == "agm"
    if "quick" not in name:
        assert config.data.protocol == "published"
        assert config.method.settings.ends == config.train.epochs


def test_every_data_set_that_is_ready_has_a_published_and_a_quick_one() -> None:
    configs = {name: parse_config(["--preset", name], "x") for name in presets()}
    for info in DATASETS.values():
        own = [name for name, config in configs.items() if config.data.dataset == info.name]
        if info.modalities:  # npz is a form, and no data set
            assert any(name.endswith("-quick") for name in own), info.name
            fusions = {configs[name].model.fusion for name in own if "quick" not in name}
            expected = (
                set()
                if "published" not in info.protocols
                else {"late"}
                if info.network
                else {"late", "early"}
            )
            assert fusions == expected, info.name


def test_caps_are_those_of_the_paper_command_line() -> None:
    for dataset, theirs in (
        ("crema-d", "CREMAD"),
        ("ur-funny", "URFunny"),
        ("av-mnist", "AV-MNIST"),
    ):
        for name in presets():
            config = parse_config(["--preset", name], "x")
            if config.data.dataset == dataset and "quick" not in name:
                assert config.method.settings.cap == PUBLISHED_CAPS.get(theirs)


def test_unknown_presets_and_two_sources() -> None:
    with pytest.raises(
        ConfigError,
        match=r"there is no preset 'cremad-lat'; expected one of .*did you mean cremad-late",
    ):
        parse_config(["--preset", "cremad-lat"], "x")
    with pytest.raises(ConfigError, match=r"--preset needs a name: one of avdigits-quick, ave, "):
        parse_config(["--preset"], "x")
    with pytest.raises(
        ConfigError, match=r"--config and --preset are given more than once together"
    ):
        parse_config(["--preset", "ave", "--config", "x.toml"], "x")


QUICK = [name for name in presets() if name.endswith("-quick")]
LONG = {"avdigits-quick", "cremad-quick"}


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[pytest.mark.slow] if name in LONG else []) for name in QUICK]
)
def test_quick_presets_train(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    root = tmp_path / "data"
    dataset = parse_config(["--preset", name], "x").data.dataset
    if dataset == "av-mnist":
        write_avmnist(root, avmnist_arrays())
    elif dataset == "crema-d":
        write_cremad(root, train=12, test=12)
    elif dataset == "ur-funny":
        write_urfunny(root, urfunny_content())
    elif dataset == "mosei":
        write_mosei(root, mosei_files())
    elif dataset == "ave":
        write_ave(root, ave_arrays(20))
    words = ["train", "--preset", name, "--epochs", "1", "--batch-size", "10", "--device", "cpu"]
    words += ["--root", str(root)] if root.exists() else []
    assert cli.main([*words, "--name", "run"]) == 0
    assert (tmp_path / "runs" / "run" / "result.json").is_file()
