"""Words of the command line: lists in two spellings, names of settings as flags."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradmod.experiments.cli import data, trained
from gradmod.experiments.cli import main as cli
from gradmod.experiments.cli import prepare as prepare_cli
from gradmod.experiments.errors import ConfigError, SettingsFileError, closest
from gradmod.experiments.settings.arguments import parse, parse_config, parse_settings
from gradmod.experiments.settings.comparison import CompareConfig, Comparison
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.flags import flags_of, in_flags, in_one_spelling


def compared(words: str) -> CompareConfig:
    return parse_settings(words.split(), "gradmod compare", Comparison()).compare


@pytest.mark.parametrize(
    "words",
    [
        "--methods joint,agm --seeds 0,1 --fusions late,sum --alphas 1,2",
        "--methods joint agm --seeds 0 1 --fusions late sum --alphas 1 2",
        "--methods=joint,agm --seeds 0, 1 --fusions late , sum --alphas=1 2",
    ],
)
def test_lists_of_a_comparison(words: str) -> None:
    found = compared(words)
    assert found.method_names == ("joint", "agm")
    assert (found.seed_numbers, found.alpha_numbers) == ([0, 1], [1.0, 2.0])
    assert [word for word in found.fusions.split(",") if word] == ["late", "sum"]


def test_assignments_keep_the_commas_of_their_values() -> None:
    for words in (
        "--set agm.alpha=0.3 joint.lr=0.02 mslr.initial=audio=1,visual=3",
        "--set agm.alpha=0.3,joint.lr=0.02,mslr.initial=audio=1,visual=3",
        "--set agm.alpha=0.3 --set joint.lr=0.02 --set mslr.initial=audio=1,visual=3",
    ):
        assert compared(f"--methods agm,mslr {words}").set == (
            "agm.alpha=0.3",
            "joint.lr=0.02",
            "mslr.initial=audio=1,visual=3",
        )
    found = compared("--methods agm --tune agm.alpha=0.1,0.3,joint.lr=0.01,0.03")
    assert found.tune == ("agm.alpha=0.1,0.3", "joint.lr=0.01,0.03")
    words = "--launcher submitit --launcher-options timeout_min=6,slurm_partition=gpu,long"
    assert compared(words).launcher_options == ("timeout_min=6", "slurm_partition=gpu,long")


def test_lists_of_other_commands() -> None:
    for words in ("--encoder audio=mlp,visual=small-cnn", "--encoder audio=mlp visual=small-cnn"):
        assert parse_config(words.split(), "x").model.encoders == {
            "audio": "mlp",
            "visual": "small-cnn",
        }
    for words in (
        "--method mslr --initial audio=2,visual=1",
        "--method mslr --initial audio=2 visual=1",
    ):
        assert parse_config(words.split(), "x").method.settings.initial == "audio=2,visual=1"
    got: list[tuple[object, ...]] = []

    def attribute(run: Path = Path(), noise_levels: tuple[float, ...] = (), out: str = "") -> None:
        got.append((noise_levels, out))

    for words in (
        "--noise-levels 0,0.5 --out none",
        "--out none --noise-levels 0 0.5",
        "--noise_levels=0,.5 --out=none",
    ):
        parse(attribute, words.split(), "x")
    assert got == [((0.0, 0.5), "none")] * 3
    recipe = in_one_spelling(["--snr-db", "-16,-5", "--seed=-1"], flags_of(prepare_cli.av_mnist))
    assert recipe == ["--seed=-1", "--snr-db", "-16", "-5"]


def test_a_list_swallows_no_argument_without_a_flag() -> None:
    flags = flags_of(trained.attribute)
    assert in_one_spelling(["--noise-levels", "0", "1", "runs/a"], flags) == [
        "runs/a",
        "--noise-levels",
        "0",
        "1",
    ]


def test_none_and_true_are_respelt_where_they_are_no_text() -> None:
    config = parse_config(
        ["--name", "none", "--out", "true", "--cap", "none", "--mo", "x"][:-2], "x"
    )
    assert (config.train.name, config.train.out, config.method.settings.cap) == (
        "none",
        "true",
        None,
    )


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--epoch 3", "--epochs"),
        ("--learning-rate 1", "--lr"),
        ("--Batch_Size 8", "--batch-size"),
        ("--methods agm", "--method"),
        ("--presets x", "--preset"),
        ("--data_root x", "--root"),
    ],
)
def test_an_unknown_flag_says_which_was_meant(words: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=rf"is unknown; did you mean {meant}\?"):
        parse_config(words.split(), "gradmod train")


def test_the_closest_word() -> None:
    names = ("joint", "agm", "ogm-ge", "mslr", "mses")
    assert closest("AGM", names) == "agm"
    assert closest("ogm_ge", names) == closest("OGM", names) == "ogm-ge"
    assert closest("late_fusion", ("late", "sum", "early")) == "late"
    assert closest("AVMNIST", ("av-digits", "av-mnist")) == "av-mnist"
    assert closest("", names) == closest("transformer", names) == ""


def test_settings_are_called_as_the_flags_are() -> None:
    run = flags_of(Config)
    assert in_flags("train.epochs is 0", run) == "--epochs is 0"
    assert in_flags("agm.alpha * agm.cap is 120", run) == "--alpha * --cap is 120"
    assert in_flags("data.root is empty", flags_of(data.check)) == "root is empty"
    assert in_flags("train.device is 'x'", flags_of(trained.evaluate)) == "train.device is 'x'"
    assert in_flags("split is 'exam'", flags_of(trained.evaluate)) == "--split is 'exam'"
    for same in (
        "x/train.epochs is",
        "train.csv is missing",
        "data.root.bak is",
        "run train.epochs.txt",
    ):
        assert in_flags(same, run) == same


def test_what_a_file_says_is_called_as_in_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "c.toml"
    path.write_text("[train]\nepochs = 0\n")
    with pytest.raises(SettingsFileError, match=r"c\.toml: train\.epochs is 0"):
        parse_config(["--config", str(path)], "x")
    assert cli.main(["train", "--config", str(path)]) == 2
    assert "c.toml: train.epochs is 0" in capsys.readouterr().err
    path.write_text("[train]\nepoch = 3\n")
    with pytest.raises(
        SettingsFileError, match=r"train\.epoch is unknown; .*; did you mean epochs\?"
    ):
        parse_config(["--config", str(path)], "x")


def test_a_command_runs_after_it_was_parsed(capsys: pytest.CaptureFixture[str]) -> None:
    import sys

    def command(name: str = "") -> None:
        print("progress", file=sys.stderr)
        raise ConfigError("name is wrong")

    with pytest.raises(ConfigError, match=r"^name is wrong$"):  # not a complaint of the parser
        parse(command, [], "gradmod x")
    assert capsys.readouterr().err == "progress\n"


def test_every_help_has_examples_and_says_where_settings_come_from(
    capsys: pytest.CaptureFixture[str],
) -> None:
    words = [[name] for name in cli.COMMANDS if name != "prepare"]
    words += [["prepare", name] for name in prepare_cli.COMMANDS]
    for command in words:
        with pytest.raises(SystemExit) as stop:
            cli.main([*command, "--help"])
        assert stop.value.code == 0
        text = capsys.readouterr().out
        assert f"gradmod {' '.join(command)}" in text.partition("example")[2], command
        if command[0] in ("train", "compare"):
            assert "--preset NAME" in text
            assert "avmnist-quick" in text
            assert "--config FILE" in text
