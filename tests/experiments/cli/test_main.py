"""The command line as a user meets it: real processes, exit codes, one line for every error, no traceback."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from avmnist_files import avmnist_arrays, write_avmnist

from conftest import ROOT
from gradmod import __version__
from gradmod.experiments.cli import main as cli
from gradmod.experiments.training.run import train
from processes import run_gradmod, run_script
from runs import short

FAST = ["--device", "cpu", "--width", "8", "--epochs", "2", "--batch-size", "256"]


def gradmod(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_gradmod(*words, cwd=cwd)


def paper(*words: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    return run_script(ROOT / "main.py", *words, cwd=cwd)


def error_of(done: subprocess.CompletedProcess[str], code: int) -> str:
    """The error of a command: its last line; what stands before it is notes."""
    assert done.returncode == code, done.stderr
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    *notes, last = done.stderr.splitlines()
    assert all("note: " in line for line in notes), done.stderr
    assert last.startswith("gradmod: error: ")
    return last


def test_train_evaluate_resume_and_again_from_the_written_config(tmp_path: Path) -> None:
    done = gradmod("train", *FAST, "--alpha", "0.5", "--name", "first", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    for part in (
        "audio response",
        "visual response",
        "model",
        "smallest",
        "largest",
        "run folder: runs/first",
    ):
        assert part in done.stdout
    assert "epoch 2/2" in done.stderr
    folder = tmp_path / "runs" / "first"
    result = json.loads((folder / "result.json").read_text())

    done = gradmod("evaluate", "runs/first", "--split", "test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{result['splits']['test']['accuracy']:.3f}" in done.stdout
    message = error_of(gradmod("evaluate", "runs/first", "--split", "exam", cwd=tmp_path), 2)
    assert (
        "split is 'exam'; the run's protocol 'heldout' has train, validation, test, predictor"
        in message
    )

    done = gradmod("train", "--config", "runs/first/config.toml", "--name", "second", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    again = json.loads((tmp_path / "runs" / "second" / "result.json").read_text())
    assert again["splits"] == result["splits"]

    done = gradmod("resume", "runs/first", "--epochs", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert json.loads((folder / "result.json").read_text())["epochs"] == 3

    assert "runs/first" in error_of(gradmod("train", *FAST, "--name", "first", cwd=tmp_path), 2)
    # Nothing that was written is lost.
    assert json.loads((folder / "result.json").read_text())["epochs"] == 3


def test_the_paper_command_line_trains_evaluates_and_goes_on(tmp_path: Path) -> None:
    root = write_avmnist(tmp_path / "data", avmnist_arrays())
    words = f"--data_root {root} --device cuda:0 --methods Normal --modality Audio --fusion_type late_fusion "
    words += "--random_seed 999 --expt_dir checkpoint --expt_name test --batch_size 32 --EPOCHS 1 "
    words += "--learning_rate 0.0001 --dataset AV-MNIST --alpha 2.5 --SHAPE_contribution False"
    done = paper(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert "run folder: checkpoint/test" in done.stdout
    result = json.loads((tmp_path / "checkpoint" / "test" / "result.json").read_text())
    assert result["modality"] == "audio"
    assert result["protocol"] == "published"
    done = paper("--checkpoint_path", "checkpoint/test", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    assert f"{result['splits']['validation']['accuracy']:.3f}" in done.stdout


@pytest.mark.slow
def test_the_paper_command_line_on_the_embedded_data(tmp_path: Path) -> None:
    words = "--dataset AV-Digits --methods AGM --EPOCHS 2 --batch_size 256 --learning_rate 0.01 --device cpu"
    done = paper(*words.split(), cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    done = paper("--breakpoint_path", "checkpoint/test_experiment", "--EPOCHS", "3", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = tmp_path / "checkpoint" / "test_experiment"
    assert json.loads((folder / "result.json").read_text())["epochs"] == 3
    done = paper(*words.split(), cwd=tmp_path)  # a taken name gets a number: nothing is overwritten
    assert done.returncode == 0, done.stderr
    assert len(list((tmp_path / "checkpoint").iterdir())) == 2


def test_damaged_data_from_the_command_line(tmp_path: Path) -> None:
    root = write_avmnist(tmp_path / "data", avmnist_arrays())
    path = root / "image" / "train_data.npy"
    path.write_bytes(path.read_bytes()[:500])
    done = gradmod("train", "--dataset", "av-mnist", "--root", str(root), *FAST, cwd=tmp_path)
    assert "image/train_data.npy cannot be read" in error_of(done, 2)
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (
            ["trian"],
            2,
            "unknown command 'trian'; expected one of train, resume, evaluate, compare, attribute, competition, "
            "report, check, prepare, list; did you mean train?",
        ),
        (["train", "--epoch", "3"], 2, "did you mean --epochs"),
        (["train", "--epochs", "0"], 2, "error: --epochs is 0"),
        (["train", "--dataset", "mnist"], 2, "--dataset is 'mnist'"),
        (["train", "--dataset", "AVMNIST"], 2, "did you mean av-mnist?"),
        (["train", "--root", "data.csv"], 2, "--root makes no difference to --dataset av-digits"),
        (["train", "--dataset", "av-mnist"], 2, "--root is empty"),
        (["train", "--method", "AGM"], 2, "did you mean agm?"),
        (["train", "--preset", "avdigit"], 2, "did you mean avdigits-quick?"),
        (["train", "--dataset", "mosei"], 2, "Looked for <root>/{train,valid,test}_sentences.p"),
        (["train", "--dataset", "av-mnist"], 2, "Looked for"),
        (
            ["train", "--method", "mslr", "--rule", "keep"],
            2,
            "this is joint training. Give a factor",
        ),
        (["train", "--method", "sgd"], 2, "--method is 'sgd'; expected one of joint, agm"),
        (["train", "--modality", "smell", "--method", "joint"], 2, "'smell'"),
        (["train", "--protocol", "published"], 2, "AV-Digits has heldout"),
        (["train", "--device", "cuda:9"], 2, "cuda:9"),
        (["train", "--strategy", "ddpp"], 2, "'ddpp'"),
        (
            ["train", "--encoder", "resnet18", "--width", "none", "--alpha", "60"],
            2,
            "--alpha * --cap is 120",
        ),
        (["resume", "nowhere"], 2, "nowhere"),
        (["resume"], 2, "there is no run in runs/; name a run's folder"),
        (["evaluate"], 2, "there is no finished run in runs/; name a run's folder"),
        (["evaluate", "nowhere"], 2, "nowhere"),
        (["list", "everything"], 2, "everything"),
    ],
)
def test_errors_are_one_line_with_their_exit_code(
    words: list[str],
    code: int,
    message: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(words) == code
    printed = capsys.readouterr()
    assert printed.out == ""
    assert message in printed.err
    assert printed.err.startswith("gradmod: error: ")
    assert printed.err.count("\n") == 1
    assert list(tmp_path.iterdir()) == []


def test_without_a_name_it_is_the_newest_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("old", "new"):
        train(short(Path("runs"), name=name, epochs=1))
    (tmp_path / "runs" / "begun").mkdir()
    settings = (tmp_path / "runs" / "new" / "config.toml").read_text()
    (tmp_path / "runs" / "begun" / "config.toml").write_text(settings)
    written = time.time()
    for age, name in ((30, "old"), (20, "new"), (10, "begun")):
        for path in (tmp_path / "runs" / name).glob("*.*"):
            os.utime(path, (written - age, written - age))
    capsys.readouterr()
    assert cli.main(["evaluate"]) == 0
    printed = capsys.readouterr()
    assert "so this is of the newest: runs/new" in printed.err
    assert "runs/new, checkpoint best" in printed.out
    assert cli.main(["resume"]) == 0  # finished or not
    printed = capsys.readouterr()
    assert "so this is of the newest: runs/begun" in printed.err
    assert "epoch 1/1" in printed.err  # what it prints while it runs is seen
    assert "run folder: runs/begun" in printed.out


def test_a_run_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "runs").write_text("a file")
    assert "runs" in error_of(gradmod("train", *FAST, cwd=tmp_path), 2)


def test_ctrl_c_saves_and_says_how_to_go_on(tmp_path: Path) -> None:
    command = [
        sys.executable,
        "-m",
        "gradmod",
        "train",
        "--epochs",
        "500",
        "--device",
        "cpu",
        "--name",
        "long",
    ]
    with subprocess.Popen(
        command, cwd=tmp_path, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        metrics = tmp_path / "runs" / "long" / "metrics.jsonl"
        while process.poll() is None and not (
            metrics.is_file() and '"kind": "epoch"' in metrics.read_text()
        ):
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=120)
    assert process.returncode == 130, err
    assert "Traceback" not in err
    assert "gradmod resume runs/long" in err
    assert out == ""
    assert (tmp_path / "runs" / "long" / "checkpoints" / "last.pt").is_file()
    done = gradmod("evaluate", "runs/long", "--checkpoint", "last", cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_help_and_list_import_no_torch(tmp_path: Path) -> None:
    """What keeps --help under a second; benchmarks/ measures it."""
    for words in (["--help"], ["train", "--help"], ["resume", "--help"], ["list"]):
        script = f"""
import sys
from gradmod.experiments.cli import main as cli
try:
    code = cli.main({words!r})
except SystemExit as stop:
    code = stop.code or 0
heavy = [name for name in ("torch", "numpy", "matplotlib", "sklearn", "lightning_fabric") if name in sys.modules]
assert code == 0 and not heavy, (code, heavy)
"""
        done = subprocess.run(
            [sys.executable, "-c", script],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.strip()


def test_help_names_every_setting(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as stop:
        cli.main(["train", "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    for flag in (
        "--dataset",
        "--agm.alpha",
        "--agm.cap",
        "--coalitions",
        "--clip-norm",
        "--devices",
        "--precision",
        "--save-every",
    ):
        assert flag in text


def test_list_names_everything(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    text = capsys.readouterr().out
    for name in (
        "joint",
        "agm",
        "av-digits",
        "av-mnist",
        "crema-d",
        "small-cnn",
        "resnet18",
        "late",
        "early",
    ):
        assert name in text


def test_usage_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main([]) == 2
    assert cli.main(["--help"]) == 0
    assert cli.main(["--version"]) == 0
    assert capsys.readouterr().out.splitlines()[-1] == f"gradmod {__version__}"
