"""Several gloo processes against one on the whole batch; a process that is lost; another number of them afterwards."""

from __future__ import annotations

import json
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from conftest import ROOT
from gradmod.experiments.cli.main import main
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.settings.config import Config, TrainConfig
from gradmod.experiments.training.processes import as_launched
from processes import torchrun
from properties import saved_weights
from runs import log_lines

FLAGS = {
    "--encoder": "mlp",
    "--width": "16",
    "--batch-size": "107",  # of 1152 samples: neither it nor the last batch of 82 is a multiple of 4
    "--epochs": "3",
    "--log-every": "1",
    "--device": "cpu",
    "--lr": "0.05",
}


def command(*words: str) -> list[str]:
    return [sys.executable, "-m", "gradmod", *words]


def train(out: Path, name: str, *more: str) -> list[str]:
    flags = [word for pair in FLAGS.items() for word in pair]
    return command("train", *flags, "--out", str(out), "--name", name, *more)


def finished(words: list[str], timeout: float = 240) -> str:
    done = subprocess.run(words, capture_output=True, text=True, timeout=timeout, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def assert_same_parameters(ours: Path, expected: Path) -> None:
    theirs = saved_weights(expected)
    for key, value in saved_weights(ours).items():
        torch.testing.assert_close(value, theirs[key], rtol=0, atol=1e-6)


@pytest.fixture(scope="module")
def alone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on one process."""
    out = tmp_path_factory.mktemp("alone")
    finished(train(out, "run"))
    return out / "run"


@pytest.mark.parametrize("processes", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_several_processes_equal_one(processes: int, alone: Path, tmp_path: Path) -> None:
    """AGM without batch norm: the same coefficients, parameters and evaluation, uneven batches included."""
    shown = finished(train(tmp_path, "run", "--devices", str(processes), "--strategy", "ddp"))
    assert shown.count("run folder") == 1
    assert_same_parameters(tmp_path / "run", alone)
    theirs, ours = log_lines(alone), log_lines(tmp_path / "run")
    assert theirs[0]["processes"] == 1
    assert ours[0]["processes"] == processes
    assert len(ours) == len(theirs) == 1 + 3 * 11 + 3
    for a, b in zip(ours, theirs, strict=True):
        if a["kind"] == "step":
            assert a["loss"] == pytest.approx(b["loss"], rel=1e-6)
            for figure in ("coefficients", "scores", "ratios", "running_ratios"):
                assert list(a[figure].values()) == pytest.approx(
                    list(b[figure].values()), rel=1e-6, abs=1e-6
                )
        if a["kind"] == "epoch":
            assert a["validation"]["accuracy"] == b["validation"]["accuracy"]
            assert a["train_loss"] == pytest.approx(b["train_loss"], rel=1e-6)


def started(words: list[str], log: Path, lines: int, errors: Path) -> subprocess.Popen[bytes]:
    """A command, once the run's log has so many lines."""
    with errors.open("wb") as file:
        process = subprocess.Popen(words, stdout=subprocess.DEVNULL, stderr=file)
    deadline = time.monotonic() + 120
    while not (log.is_file() and log.read_bytes().count(b"\n") > lines):
        assert process.poll() is None, errors.read_text()
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return process


def ended(process: subprocess.Popen[bytes], timeout: float) -> int:
    """Exit code of a process that ends by itself within `timeout` s, and leaves none of its own."""
    family = psutil.Process(process.pid).children(recursive=True) if process.poll() is None else []
    try:
        return process.wait(timeout)
    finally:
        _, left = psutil.wait_procs(family, timeout=10)
        for child in left:
            child.kill()
        process.kill()
        assert not left


@pytest.mark.slow
@pytest.mark.parametrize("kind", [signal.SIGKILL, signal.SIGSTOP], ids=["killed", "hanging"])
def test_a_lost_process_ends_the_run_and_any_number_goes_on_with_it(
    kind: signal.Signals, alone: Path, tmp_path: Path
) -> None:
    folder, errors = tmp_path / "run", tmp_path / "errors.txt"
    words = train(
        tmp_path,
        "run",
        "--devices",
        "2",
        "--save-every",
        "4",
        "--timeout",
        "0.5",
        "--epochs",
        "200",
    )
    process = started(words, folder / "metrics.jsonl", lines=20, errors=errors)
    (child,) = psutil.Process(process.pid).children()
    child.send_signal(kind)
    # It answers nobody; without --timeout the others would wait for half an hour.
    if kind is signal.SIGSTOP:
        assert process.wait(120) != 0
        child.kill()
    else:
        assert ended(process, 120) != 0
    told = errors.read_text()
    assert "process 0 of 2 lost another one" in told
    assert f"gradmod resume {folder}" in told
    assert "Traceback" not in told
    for processes in (1, 4):
        copy = tmp_path / f"{processes}"
        shutil.copytree(folder, copy)
        config = copy / "config.toml"
        config.write_text(config.read_text().replace("timeout = 0.5", "timeout = 2.0"))
        finished(
            command(
                "resume",
                str(copy),
                "--devices",
                str(processes),
                "--epochs",
                "3",
                "--checkpoint",
                "last",
            )
        )
        assert_same_parameters(copy, alone)
        lines = log_lines(copy)
        assert [line["step"] for line in lines if line["kind"] == "step"] == list(range(1, 34))
        for line, expected in zip(lines, log_lines(alone), strict=True):
            for figure in {"loss", "train_loss"} & set(expected):
                assert line[figure] == pytest.approx(expected[figure], rel=1e-6)


@pytest.mark.slow
def test_the_error_of_the_process_that_failed_is_shown(tmp_path: Path) -> None:
    """One of two processes cannot read a sample: its own error is on the terminal."""
    source = tmp_path / "data.py"
    source.write_text(
        """
import os
from gradmod.experiments.datasets.av_digits import load as whole
from gradmod.experiments.errors import DataError

def load(root="", protocol="heldout", split_seed=0, **options):
    splits = whole(root, protocol, split_seed)
    read = splits.train.read
    def broken(indices, draws=None):
        if os.environ.get("LOCAL_RANK") == "1":
            raise DataError(f"sample {indices[0]} is torn: copy the data again")
        return read(indices, draws)
    object.__setattr__(splits.train, "read", broken)
    return splits
"""
    )
    words = train(tmp_path, "run", "--devices", "2", "--dataset", f"{source}:load")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    told = done.stderr
    assert re.search(r"gradmod: error: sample \d+ is torn: copy the data again", told)
    assert "Traceback" not in told


@pytest.mark.slow
def test_a_name_that_is_taken_is_one_clear_error_for_all(alone: Path) -> None:
    words = train(alone.parent, "run", "--devices", "2")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 2
    assert "exists already" in done.stderr
    assert "Traceback" not in done.stderr


@pytest.mark.slow
def test_torchrun_does_not_train_concepts(tmp_path: Path) -> None:
    words = [*torchrun(), "-m", "gradmod", *train(tmp_path, "run", "--competition-every", "1")[3:]]
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode != 0
    assert "a run of several processes does not train them" in " ".join(done.stderr.split())


@pytest.mark.slow
def test_torchrun_says_how_many_processes_there_are(alone: Path, tmp_path: Path) -> None:
    shown = finished([*torchrun(), "-m", "gradmod", *train(tmp_path, "run")[3:]])
    assert shown.count("run folder") == 1
    assert log_lines(tmp_path / "run")[0]["processes"] == 2
    assert_same_parameters(tmp_path / "run", alone)
    finished(
        [
            *torchrun(),
            "-m",
            "gradmod",
            *command("resume", str(tmp_path / "run"), "--epochs", "4")[3:],
        ]
    )
    assert log_lines(tmp_path / "run")[-1]["epoch"] == 4


def test_other_numbers_than_torchruns_are_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    assert as_launched(Config()) == Config()
    for name, value in {
        "TORCHELASTIC_RUN_ID": "x",
        "LOCAL_WORLD_SIZE": "2",
        "GROUP_WORLD_SIZE": "3",
    }.items():
        monkeypatch.setenv(name, value)
    launched = as_launched(Config()).train
    assert (launched.devices, launched.nodes) == (2, 3)
    with pytest.raises(
        ConfigError, match=r"train.devices is 4 .* torchrun started 2 process\(es\) on each of 3"
    ):
        as_launched(Config(train=TrainConfig(devices=4)))


def test_synchronised_batch_norm_needs_a_gpu(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = [
        "train",
        "--sync-batch-norm",
        "true",
        "--device",
        "cpu",
        "--devices",
        "2",
        "--out",
        str(tmp_path),
    ]
    assert main(words) == 2
    assert "torch synchronises batch norm on GPUs alone" in capsys.readouterr().err


@pytest.mark.skipif(torch.cuda.device_count() < 2, reason="needs two GPUs")
def test_synchronised_batch_norm_equals_one_process(tmp_path: Path) -> None:
    flags = ["--encoder", "small-cnn", "--device", "cuda", "--precision", "32-true"]
    finished(train(tmp_path, "one", *flags))
    finished(train(tmp_path, "two", *flags, "--devices", "2", "--sync-batch-norm", "true"))
    theirs = saved_weights(tmp_path / "one")
    for key, value in saved_weights(tmp_path / "two").items():
        torch.testing.assert_close(value, theirs[key], rtol=1e-4, atol=1e-4)


@pytest.mark.slow
def test_processes_that_do_not_come_are_an_error(tmp_path: Path) -> None:
    words = train(tmp_path, "run", "--devices", "2", "--timeout", "0.001")
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 1
    assert "not all of the 2 processes of the run came together within --timeout" in done.stderr
    assert not (tmp_path / "run").exists()


GAPS = """
import json, os, sys
import torch, torch.distributed as dist
from gradmod import AGM, OGMGE, ModulatedModel
sys.path.insert(0, sys.argv[1])
from networks import NAMES, batch, network

rank, world = int(os.environ.get("RANK", 0)), int(os.environ.get("WORLD_SIZE", 1))
if world > 1:
    dist.init_process_group("gloo")
inputs, target = batch(NAMES[:3], 11, 3)
present = {"audio": torch.arange(11) % 3 > 0, "text": torch.arange(11) < 4}
mine = slice(None) if world == 1 else slice(0, 4) if rank == 0 else slice(4, 11)  # the second has no text at all
found = []
for method in (AGM(NAMES[:3]), OGMGE(NAMES[:3], noise=False)):
    if world > 1:
        method.use_process_group(dist.group.WORLD)  # there is no DDP that would say so
    model = ModulatedModel(network(NAMES[:3], late=True, layer="layer-norm"), method)
    for _ in range(3):
        model(
            {m: x[mine] for m, x in inputs.items()}, target[mine], {m: has[mine] for m, has in present.items()}
        ).sum().backward()
        model.after_backward()
    found.append(model.last_step.by_modality(NAMES[:3]))
if rank == 0:
    print(json.dumps(found))
if world > 1:
    dist.barrier()
    dist.destroy_process_group()
"""


@pytest.mark.slow
def test_scores_over_processes_count_the_samples_that_have_a_modality(tmp_path: Path) -> None:
    script = tmp_path / "gaps.py"
    script.write_text(GAPS)
    tests = str(ROOT / "tests")
    found: list[Any] = [
        json.loads(finished([*words, str(script), tests]).splitlines()[-1])
        for words in ([sys.executable], torchrun())
    ]
    for one, two in zip(*found, strict=True):
        assert one.keys() == two.keys()
        for name, values in one.items():
            assert two[name] == pytest.approx(values, rel=1e-12)
