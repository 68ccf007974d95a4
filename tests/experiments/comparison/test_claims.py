"""What a comparison may write over."""

from __future__ import annotations

from pathlib import Path

import pytest

from gradmod.experiments.cli import main as cli
from gradmod.experiments.comparison.claims import refuse_foreign_comparison
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.toml import save_config


@pytest.mark.parametrize(
    "name",
    [
        "table.md",
        "table.csv",
        "table.tex",
        "curves.svg",
        "methods.png",
        "trials.json",
        "comparison.json",
    ],
)
def test_a_table_of_the_users_own_is_not_written_over(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text("mine")
    with pytest.raises(
        ConfigError, match=f"holds {name}, which no comparison wrote.*another --name"
    ):
        refuse_foreign_comparison(tmp_path)
    save_config(Comparison(), tmp_path / "comparison.toml")
    refuse_foreign_comparison(tmp_path)  # an earlier comparison's


@pytest.mark.parametrize("content", ["mine", "[train]\nepochs = 3\n", "\udcff"])
def test_settings_of_the_users_own_are_not_written_over(content: str, tmp_path: Path) -> None:
    (tmp_path / "comparison.toml").write_bytes(content.encode(errors="surrogateescape"))
    with pytest.raises(ConfigError, match=r"holds comparison\.toml"):
        refuse_foreign_comparison(tmp_path)


def test_other_files_disturb_nobody(tmp_path: Path) -> None:
    refuse_foreign_comparison(tmp_path / "nothing")
    (tmp_path / "notes.txt").write_text("mine")
    refuse_foreign_comparison(tmp_path)


def test_a_folder_under_runs_that_is_no_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "mine" / "runs" / "late-joint-seed0"
    folder.mkdir(parents=True)
    (folder / "my_notes.txt").write_text("three days of work")
    words = [
        "--methods",
        "joint",
        "--seeds",
        "0",
        "--mono",
        "false",
        "--epochs",
        "1",
        "--device",
        "cpu",
    ]
    assert cli.main(["compare", *words, "--out", str(tmp_path), "--name", "mine"]) == 2
    assert "is no run's folder" in capsys.readouterr().err.splitlines()[-1]
    assert (folder / "my_notes.txt").read_text() == "three days of work"
    assert not (folder / "config.toml").exists()


def test_a_runs_folder_is_no_comparisons(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("config.toml", "curves.svg"):
        (tmp_path / "mine" / name).write_text("of a run")
    words = ["--methods", "joint", "--seeds", "0", "--mono", "false", "--device", "cpu"]
    assert cli.main(["compare", *words, "--out", str(tmp_path), "--name", "mine"]) == 2
    assert "holds curves.svg" in capsys.readouterr().err.splitlines()[-1]
    assert sorted(path.name for path in (tmp_path / "mine").iterdir()) == [
        "config.toml",
        "curves.svg",
    ]
