"""SIGKILL at random moments and before every change of a file, and what is lost by it.

    python benchmarks/fault_kills.py                                # 100 kills of train, 20 each of compare and prepare
    python benchmarks/fault_kills.py --what train --kills 10 --seed 7 --out RESULT.md

Each trial starts a command, kills it (with all that it started) and then does what its user would: `gradmod resume`, or
the same command again. What it leaves must be what an uninterrupted one leaves: parameters to the bit, every line of
metrics.jsonl once, the same result, table or files. A killed `train` is forked from a process that has imported
everything, so that nearly all of its time is its own; `compare` and `prepare` are processes of the command line.

Random moments are uniform over the time that an uninterrupted command takes. `--what events` kills `train` before every
single opening, renaming, linking and removing of a file below its run folder, one trial each.
"""

from __future__ import annotations

import argparse
import importlib
import json
import os
import platform
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread, so that forking is sound

import torch

from gradmod.experiments.cli.main import main as gradmod
from gradmod.experiments.runs.checkpoints import read_checkpoint

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "files"))  # where what writes small data sets stands
TRAIN = [
    "--encoder",
    "mlp",
    "--width",
    "16",
    "--batch-size",
    "128",
    "--log-every",
    "1",
    "--save-every",
    "2",
]
NEVER_THE_SAME = ("seconds", "command", "train_seconds", "peak_memory_mib", "git")
IMPORTED = [
    "gradmod.experiments.training.run",
    "gradmod.experiments.settings.arguments",
    "gradmod.experiments.settings.warnings",
    "gradmod.experiments.reporting.tables",
    "gradmod.experiments.reporting.plots.curves",
    "gradmod.experiments.datasets.av_digits",
    "gradmod.experiments.cli.prepare",
    "lightning_fabric",
    "lightning_fabric.strategies.ddp",
    "torch.utils.tensorboard",
    "soundfile",
    "PIL.JpegImagePlugin",
    "matplotlib.figure",
    "matplotlib.backends.backend_svg",
    "sklearn.datasets",
    "tyro",
]
EVENTS = ("open", "os.rename", "os.link", "os.remove", "os.mkdir", "os.truncate")


class LostRunError(Exception):
    """Something that an uninterrupted command leaves is missing or different."""


def warm_up() -> None:
    """Import what the commands import, so that forks need not."""
    for module in IMPORTED:
        importlib.import_module(module)


def forked(words: Sequence[str], log: Path, folder: Path, before_event: int = 0) -> int:
    """Start a command in a fork of this process; return its process number.

    Args:
        words: of the command line.
        log: what it prints, and how often it touched a file below `folder`.
        folder: see there.
        before_event: kill it before it does so for the so-many-th time; 0: do not.
    """
    child = os.fork()
    if child:
        return child
    with log.open("ab") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    seen = 0

    def look(event: str, arguments: tuple[object, ...]) -> None:
        nonlocal seen
        if event in EVENTS and str(arguments[0]).startswith(str(folder)):
            seen += 1
            if seen == before_event:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(look)
    code = 70
    try:
        code = gradmod(words)
    finally:
        print(f"\nevents {seen}", flush=True)
        sys.stderr.flush()
        os._exit(code)


def wait(child: int) -> int:
    """Exit code of a fork; negative: the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def finish(words: Sequence[str], log: Path, folder: Path) -> None:
    """Run a command to its end."""
    code = wait(forked(words, log, folder))
    if code:
        raise LostRunError(
            f"`gradmod {' '.join(words)}` ended with {code}: {log.read_text()[-400:]}"
        )


def without_times(record: dict[str, object]) -> dict[str, object]:
    return {key: value for key, value in record.items() if key not in NEVER_THE_SAME}


def left_by_run(folder: Path) -> dict[str, object]:
    """What a finished run has left, but for times."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    checkpoints = {
        name: read_checkpoint(folder / "checkpoints" / f"{name}.pt")["model"]
        for name in ("last", "best")
    }
    return {
        "metrics": [without_times(json.loads(line)) for line in lines],
        "result": without_times(json.loads((folder / "result.json").read_text())),
        "parameters": {
            f"{name} {key}": value.tolist()
            for name, state in checkpoints.items()
            for key, value in state.items()
        },
        "files": sorted(
            p.relative_to(folder).as_posix()
            for p in folder.rglob("*")
            if "tensorboard" not in p.parts
        ),
        "predictions": [
            (p.name, p.read_bytes()) for p in sorted((folder / "predictions").iterdir())
        ],
    }


def expect_same(found: dict[str, object], expected: dict[str, object]) -> None:
    if found.keys() != expected.keys():
        raise LostRunError(
            f"there are {sorted(found)}, and {sorted(expected)} after an uninterrupted command"
        )
    for name, value in expected.items():
        if str(found[name]) != str(value):
            raise LostRunError(
                f"{name} differ from those of an uninterrupted command: {str(found[name])[:300]}"
            )


def phase_of_run(folder: Path, epochs: int) -> str:
    """What a killed run was doing, read from what it has left."""
    if not folder.is_dir():
        return "before its folder"
    if (folder / "result.json").is_file():
        return "after its result"
    temporary = [path.name for path in folder.rglob(".*.tmp")]
    if any(".pt." in name for name in temporary):
        return "writing a checkpoint"
    log = folder / "metrics.jsonl"
    lines = (
        [line for line in log.read_text().splitlines() if line.endswith("}")]
        if log.is_file()
        else []
    )
    last = json.loads(lines[-1]) if lines else {}
    if temporary or (last.get("kind") == "epoch" and last["epoch"] == epochs):
        return "writing its result"
    if last.get("kind") == "step":
        # 1152 samples in batches of 128.
        return "evaluating" if last["step"] % 9 == 0 else "stepping"
    return "beginning an epoch" if last else "before its first step"


class Train:
    """Kills `gradmod train`."""

    def __init__(self, folder: Path, epochs: int) -> None:
        self.folder, self.epochs = folder, epochs
        folder.mkdir()
        finish(self._words("whole"), folder / "whole.txt", folder / "whole")
        shutil.rmtree(folder / "whole")
        started = time.monotonic()  # the first one found cold caches
        finish(self._words("whole"), folder / "whole.txt", folder / "whole")
        self.seconds = time.monotonic() - started
        self.events = int((folder / "whole.txt").read_text().split()[-1])
        self.expected = left_by_run(folder / "whole")

    def _words(self, name: str) -> list[str]:
        where = ["--out", str(self.folder), "--name", name, "--device", "cpu"]
        return ["train", *TRAIN, "--shape-every", "1", "--epochs", str(self.epochs), *where]

    def trial(self, number: int, after: float | None = None, before_event: int = 0) -> str | None:
        """Kill a run and go on with it; what it was doing, or None: it was finished before."""
        name = f"trial-{number}"
        run, log = self.folder / name, self.folder / f"{name}.txt"
        child = forked(self._words(name), log, run, before_event)
        if after is not None:
            time.sleep(after)
            os.kill(child, signal.SIGKILL)
        if wait(child) != -signal.SIGKILL:
            return None
        phase = phase_of_run(run, self.epochs)
        if not (run / "result.json").is_file():
            finish(["resume", str(run)] if run.is_dir() else self._words(name), log, run)
        expect_same(left_by_run(run), self.expected)
        shutil.rmtree(run)
        return phase


class Compare:
    """Kills `gradmod compare`, every second time without the runs that it has started, which go on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir()
        started = time.monotonic()
        self._run("whole").wait()
        self.seconds = time.monotonic() - started
        self.expected = self._left("whole")

    def _run(self, name: str) -> subprocess.Popen[bytes]:
        words = [
            "--methods",
            "agm",
            "--seeds",
            "0,1",
            "--mono",
            "False",
            "--jobs",
            "2",
            "--epochs",
            "3",
            *TRAIN,
        ]
        command = [
            sys.executable,
            "-m",
            "gradmod",
            "compare",
            *words,
            "--out",
            str(self.folder),
            "--name",
            name,
        ]
        with (self.folder / f"{name}.txt").open("ab") as log:
            return subprocess.Popen(
                [*command, "--device", "cpu"], stdout=log, stderr=log, start_new_session=True
            )

    def _left(self, name: str) -> dict[str, object]:
        folder = self.folder / name
        return {
            "table": [
                line.rsplit(",", 2)[0] for line in (folder / "table.csv").read_text().splitlines()
            ],  # no times
            "runs": {
                run.name: left_by_run(run)
                for run in sorted((folder / "runs").iterdir())
                if run.is_dir()
            },
        }

    def trial(self, number: int, after: float) -> str | None:
        name = f"trial-{number}"
        process = self._run(name)
        time.sleep(after)
        if process.poll() is not None:
            return None
        alone = number % 2 == 0
        os.kill(process.pid, signal.SIGKILL) if alone else os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        results = {
            path: path.stat().st_mtime_ns
            for path in (self.folder / name).glob("runs/*/result.json")
        }
        again = self._run(name)
        if again.wait():
            raise LostRunError((self.folder / f"{name}.txt").read_text()[-400:])
        if any(path.stat().st_mtime_ns != when for path, when in results.items()):
            raise LostRunError("a run that was finished was trained again")
        expect_same(self._left(name), self.expected)
        shutil.rmtree(self.folder / name)
        return f"{len(results)} of 4 runs finished, {'the others go on' if alone else 'all are killed'}"


class Prepare:
    """Kills `gradmod prepare crema-d`."""

    def __init__(self, folder: Path) -> None:
        from cremad_files import write_cremad

        self.folder = folder
        folder.mkdir()
        self.source = write_cremad(folder / "source", train=240, test=120, actors=12)
        for _ in range(2):  # the first one finds cold caches
            shutil.rmtree(folder / "whole", ignore_errors=True)
            started = time.monotonic()
            finish(self._words("whole"), folder / "whole.txt", folder / "whole")
            self.seconds = time.monotonic() - started
        self.expected = self._left("whole")

    def _words(self, name: str) -> list[str]:
        return ["prepare", "crema-d", "--root", str(self.source), "--out", str(self.folder / name)]

    def _left(self, name: str) -> dict[str, object]:
        folder = self.folder / name
        return {
            p.relative_to(folder).as_posix(): p.read_bytes()
            for p in sorted(folder.rglob("*"))
            if p.is_file()
        }

    def trial(self, number: int, after: float) -> str | None:
        name = f"trial-{number}"
        log, half, out = (
            self.folder / f"{name}.txt",
            self.folder / f".{name}.making",
            self.folder / name,
        )
        child = forked(self._words(name), log, out)
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
        killed = wait(child) == -signal.SIGKILL
        phase = (
            "decoding"
            if half.exists()
            else "whole already"
            if out.exists()
            else "before its folder"
        )
        if not out.exists():
            finish(self._words(name), log, out)
        if half.exists():
            raise LostRunError(f"{half} was left behind")
        expect_same(self._left(name), self.expected)
        shutil.rmtree(out)
        return phase if killed else None


KILLED = {"compare": Compare, "prepare": Prepare}


def campaign(
    title: str, trials: Iterable[Callable[[int], str | None]], kills: int
) -> tuple[str, Counter[str], list[str]]:
    """Make trials until so many were killed; title, how many in which phase, and what was lost."""
    phases: Counter[str] = Counter()
    lost: list[str] = []
    for number, trial in enumerate(trials):
        try:
            phase = trial(number)
        except LostRunError as error:
            phase = "lost"
            lost.append(f"trial {number}: {error}")
        if phase is not None:  # else the command was finished before the kill
            phases[phase] += 1
            print(f"{title}: {phases.total()}/{kills}, lost {len(lost)}", file=sys.stderr)
        if phases.total() == kills:
            break
    return title, phases, lost


def at_random_moments(killed: Any, draws: random.Random) -> Iterator[Callable[[int], str | None]]:
    """Trials without end, each killed at a moment of its own."""
    while True:
        yield partial(killed.trial, after=draws.uniform(0, killed.seconds))


def report(campaigns: Sequence[tuple[str, Counter[str], list[str]]], command: str) -> str:
    lines = [
        "# Killed at random moments",
        "",
        f"`{command}`, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}.",
        "What was killed is gone on with, and compared with an uninterrupted command: parameters to the bit, each line",
        "of metrics.jsonl, result, predictions, table, files. Phases are read from what the killed command had left.",
        "",
        "| what | killed | lost | in which phase |",
        "|---|---|---|---|",
    ]
    for title, phases, lost in campaigns:
        by_phase = "; ".join(
            f"{phase} {n}" for phase, n in sorted(phases.items(), key=lambda pair: -pair[1])
        )
        lines.append(f"| {title} | {phases.total()} | {len(lost)} | {by_phase} |")
    lines += [
        f"- LOST, {title}: {' '.join(one.split())}" for title, _, lost in campaigns for one in lost
    ]
    return "\n".join(lines) + "\n"


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--what", default="train,events,compare,prepare", help="of train, events, compare, prepare"
    )
    parser.add_argument(
        "--kills", type=int, default=100, help="of train; a fifth of it of compare and prepare each"
    )
    parser.add_argument("--epochs", type=int, default=20)
    parser.add_argument(
        "--events", type=int, default=10_000, help="of those of a run, at most about so many"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "fault_kills.md"
    )
    options = parser.parse_args()
    draws = random.Random(options.seed)
    found = []
    torch.set_num_threads(1)
    warm_up()
    with tempfile.TemporaryDirectory() as folder:
        for what in options.what.split(","):
            place = Path(folder) / what
            trials: Iterable[Callable[[int], str | None]]
            if what == "events":
                train = Train(place, epochs=2)
                numbers = range(1, train.events + 1, max(1, round(train.events / options.events)))
                trials, count = (
                    [partial(train.trial, before_event=number) for number in numbers],
                    len(numbers),
                )
            else:
                killed = Train(place, options.epochs) if what == "train" else KILLED[what](place)
                count = options.kills if what == "train" else max(1, options.kills // 5)
                trials = at_random_moments(killed, draws)
            found.append(
                campaign(
                    "train, before a change of a file" if what == "events" else what, trials, count
                )
            )
    text = report(found, "python " + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    options.out.write_text(text)
    print(text, end="")
    return int(any(lost for _, _, lost in found))


if __name__ == "__main__":
    sys.exit(main())
