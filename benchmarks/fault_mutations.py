"""Damaged files, and what the commands say of them.

    python benchmarks/fault_mutations.py                               # 1,000 mutations, about 20 minutes on one core
    python benchmarks/fault_mutations.py --mutations 40 --seed 7 --formats run,config --out RESULT.md

Each mutation damages one file of a small whole set (bytes: cut, flipped, zeroed, emptied, lengthened, removed, a folder
in its place, another file's content; content: other types, shapes and dtypes, NaN, labels that there are not, keys that
are missing), runs the commands that read it, and looks at how they end. A fault is a traceback, a command that does not
end in time, and data that `gradmod check` refuses and `gradmod train` takes. (A data set whose files are decoded when
they are drawn may train for an epoch without the damaged one; whether it was opened is watched.)

Every command runs in a fork of this process, with a limit of time and of memory.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import platform
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")  # one thread, so that forking is sound

import numpy as np
import torch

from gradmod.experiments.cli.main import main as gradmod

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests" / "files"))  # where what writes small data sets stands
SECONDS, MEMORY = 90, 12 << 30
NOT_READ = {
    ".svg",
    ".png",
    ".md",
    ".tex",
    ".log",
    ".lock",
    ".html",
    "tensorboard",
}  # what no command looks at
SMALL = ["--epochs", "1", "--batch-size", "8", "--width", "8", "--device", "cpu"]
OF_RUNS = [*SMALL, "--encoder", "mlp", "--batch-size", "256"]
READ = "[the damaged file was opened]"
SCALARS = (
    None,
    True,
    -1,
    0,
    7,
    1e30,
    float("nan"),
    "text",
    "",
    [],
    {},
    [1, "a"],
    "../../etc/passwd",
    "é\x00",
)


def damage_bytes(path: Path, draw: random.Random, others: Sequence[Path]) -> str:
    """Damage a file whatever is in it; say how."""
    content = bytearray(path.read_bytes())
    kind = draw.choice(
        ("cut", "flip", "flip", "zero", "empty", "append", "remove", "folder", "swap")
    )
    if kind == "cut":
        del content[draw.randrange(len(content) + 1) :]
    elif kind == "flip" and content:
        # Headers are at the beginning.
        where = min(len(content), draw.choice((64, 1024, len(content))))
        for _ in range(draw.choice((1, 1, 4, 16))):
            content[draw.randrange(where)] ^= 1 << draw.randrange(8)
    elif kind == "zero":
        start = draw.randrange(len(content) + 1)
        content[start : start + 64] = bytes(len(content[start : start + 64]))
    elif kind == "empty":
        content.clear()
    elif kind == "append":
        content += bytes(draw.randrange(256) for _ in range(draw.choice((1, 64, 4096))))
    elif kind == "swap":
        content = bytearray(draw.choice(others).read_bytes())
    path.unlink()
    if kind == "folder":
        path.mkdir()
    elif kind != "remove":
        path.write_bytes(content)
    return kind


def damage_array(array: Any, draw: random.Random) -> tuple[Any, str]:
    """An array with another shape, dtype or values."""
    values = np.array(array)
    kind = draw.choice(("shape", "dtype", "short", "nan", "range", "empty", "object", "axis"))
    if kind == "shape":
        values = values.reshape(-1)
    elif kind == "dtype":
        values = values.astype(
            draw.choice(("float16", "float64", "int8", "int32", "complex64", "bool", "U4"))
        )
    elif kind == "short":
        values = values[: draw.randrange(len(values))] if values.ndim and len(values) else values
    elif kind == "nan":
        values = values.astype(np.float32)
        values.flat[draw.randrange(values.size + 1) :: 7] = draw.choice((np.nan, np.inf, -np.inf))
    elif kind == "range":
        values = values.copy()
        values.flat[: max(1, values.size // 9)] = np.asarray(draw.choice((-1, 99, 127))).astype(
            values.dtype
        )
    elif kind == "empty":
        values = values[:0] if values.ndim else values
    elif kind == "object":
        values = np.array([{}] * max(1, len(values) if values.ndim else 1), dtype=object)
    else:
        values = values[..., None]
    return values, f"array: {kind}"


def damage_tree(tree: Any, draw: random.Random) -> tuple[Any, str]:
    """Nested containers with one place of them damaged: gone, of another type, or another array."""
    if isinstance(tree, torch.Tensor):
        values, how = damage_array(tree.numpy(), draw)
        return (torch.from_numpy(values) if values.dtype.kind in "fiub" else values.tolist()), how
    if isinstance(tree, np.ndarray):
        return damage_array(tree, draw)
    if isinstance(tree, (dict, list, tuple)) and tree and draw.random() < 0.9:
        keys = list(tree) if isinstance(tree, dict) else list(range(len(tree)))
        key = draw.choice(keys)
        changed = dict(tree) if isinstance(tree, dict) else list(tree)
        if draw.random() < 0.2:
            del changed[key]
            return changed, "removed"
        changed[key], how = damage_tree(tree[key], draw)
        return (tuple(changed) if isinstance(tree, tuple) else changed), how
    return draw.choice(SCALARS), "another type"


def damage_content(path: Path, draw: random.Random) -> str | None:
    """Damage what a file says, in its own format; None: there is no such way for this format."""
    if path.suffix == ".npy":
        values, how = damage_array(np.load(path), draw)
        np.save(path, values, allow_pickle=True)
        return how
    if path.suffix == ".npz":
        with np.load(path) as file:
            arrays = dict(file)
        name = draw.choice(sorted(arrays))
        arrays[name], how = damage_array(arrays[name], draw)
        np.savez(path, **arrays)
        return how
    if path.suffix == ".pt":
        state, how = damage_tree(torch.load(path, weights_only=True), draw)
        torch.save(state, path)
        return how
    if path.suffix in (".p", ".pkl", ".pickle"):
        tree, how = damage_tree(pickle.loads(path.read_bytes()), draw)
        path.write_bytes(pickle.dumps(tree))
        return how
    if path.suffix == ".h5":
        import h5py

        with h5py.File(path, "r") as file:
            ((key, array),) = ((key, file[key][()]) for key in file)
        values, how = damage_array(array, draw)
        with h5py.File(path, "w") as file:
            file[draw.choice((key, key, key, "other"))] = (
                values if values.dtype.kind in "fiubc" else values.astype("S4")
            )
        return how
    if path.suffix in (".json", ".jsonl"):
        lines = path.read_text().splitlines() if path.suffix == ".jsonl" else [path.read_text()]
        at = draw.randrange(len(lines))
        tree, how = damage_tree(json.loads(lines[at]), draw)
        lines[at] = json.dumps(tree)
        path.write_text("\n".join(lines) + "\n")
        return how
    if path.suffix in (".csv", ".txt", ".toml"):
        lines = path.read_text(encoding="utf-8").splitlines()
        at = draw.randrange(len(lines))
        kind = draw.choice(("lost line", "twice", "other value", "joined", "latin-1"))
        if kind == "lost line":
            del lines[at]
        elif kind == "twice":
            lines.insert(at, lines[at])
        elif kind == "other value":
            head, sign, _ = lines[at].partition("=" if path.suffix == ".toml" else ",")
            lines[at] = (
                head
                + sign
                + draw.choice(
                    (" -1", " 1e999", ' "text"', " []", "", " nan", ' "é"', " {}", " true")
                )
            )
        elif kind == "joined":
            lines[at] = lines[at].replace(",", ";").replace("=", " ")
        text = "\n".join(lines) + "\n"
        path.write_bytes(
            (text + "é").encode("latin-1", "replace") if kind == "latin-1" else text.encode()
        )
        return kind
    return None


@dataclass
class Ended:
    """How a command ended."""

    code: int
    seconds: float
    output: str

    @property
    def read(self) -> bool:
        """Whether it opened the damaged file."""
        return READ in self.output

    @property
    def fault(self) -> str | None:
        if self.code == -signal.SIGKILL:
            return "does not end"
        if "Traceback (most recent call last)" in self.output or self.code < 0 or self.code == 70:
            return "traceback"
        if self.code != 0 and "error:" not in self.output:
            return "no message"
        return None


def run(words: Sequence[str], watched: Path | None = None) -> Ended:
    """Run a command in a fork; `watched` is the file whose opening is told in its output."""

    def watch(event: str, arguments: tuple[object, ...]) -> None:
        if event == "open" and str(arguments[0]) == str(watched):
            os.write(1, READ.encode())

    with tempfile.TemporaryFile() as output:
        started = time.monotonic()
        child = os.fork()
        if not child:
            os.dup2(output.fileno(), 1)
            os.dup2(output.fileno(), 2)
            sys.addaudithook(watch)
            resource.setrlimit(resource.RLIMIT_AS, (MEMORY, MEMORY))
            code = 70
            try:
                code = gradmod(words)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        while True:
            ended, status = os.waitpid(child, os.WNOHANG)
            if ended:
                break
            if time.monotonic() - started > SECONDS:
                os.kill(child, signal.SIGKILL)
            time.sleep(0.01)
        output.seek(0)
        text = output.read().decode(errors="replace")
        return Ended(os.waitstatus_to_exitcode(status), time.monotonic() - started, text)


@dataclass
class Format:
    """A kind of files: how they are made whole, which of them are damaged, and what reads them.

    Attributes:
        make: writes a whole set into a folder.
        commands: from that folder the commands that read it, in their order.
        files: pattern of the files that are damaged.
        check_first: whether the first command is `gradmod check`, which the second must not be laxer than.
    """

    make: Callable[[Path], object]
    commands: Callable[[Path], list[list[str]]]
    files: str = "**/*"
    check_first: bool = True
    place: Path = field(default_factory=Path)


def of_dataset(
    dataset: str, make: Callable[[Path], object], root: str = "", more: Sequence[str] = ()
) -> Format:
    def commands(folder: Path) -> list[list[str]]:
        where = str(folder / root)
        return [
            ["check", dataset, where],
            [
                "train",
                "--dataset",
                dataset,
                "--root",
                where,
                *SMALL,
                *more,
                "--out",
                str(folder) + "-runs",
            ],
        ]

    return Format(make, commands)


def prepared(
    dataset: str, make: Callable[[Path], object], root: str = ""
) -> Callable[[Path], None]:
    def write(folder: Path) -> None:
        source = folder.with_name(folder.name + "-source")
        make(source)
        ended = run(["prepare", dataset, "--root", str(source / root), "--out", str(folder)])
        assert ended.code == 0, ended.output
        shutil.rmtree(source)

    return write


def write_run(folder: Path) -> None:
    """A finished run with everything beside it, and one that is not finished."""
    flags = ["--out", str(folder), *OF_RUNS, "--shape-every", "1", "--competition-every", "1"]
    for name, epochs in (("done", "2"), ("half", "1")):
        ended = run(["train", *flags, "--epochs", epochs, "--name", name])
        assert ended.code == 0, ended.output
    assert run(["attribute", str(folder / "done"), "--replicates", "20"]).code == 0
    (folder / "half" / "result.json").unlink()
    shutil.rmtree(folder / "half" / "tensorboard")
    shutil.rmtree(folder / "done" / "tensorboard")


def read_run(folder: Path) -> list[list[str]]:
    done, half = str(folder / "done"), str(folder / "half")
    return [
        ["resume", half, "--epochs", "2"],
        ["evaluate", done],
        ["attribute", done, "--replicates", "20"],
        ["competition", done],
        ["report", done],
    ]


def write_comparison(folder: Path) -> None:
    ended = run(_compare(folder))
    assert ended.code == 0, ended.output


def _compare(folder: Path) -> list[str]:
    flags = [
        "--methods",
        "agm",
        "--seeds",
        "0",
        "--mono",
        "False",
        "--name",
        "c",
        "--out",
        str(folder),
    ]
    return ["compare", *flags, *OF_RUNS]


def write_config(folder: Path) -> None:
    write_run(folder)
    for path in sorted(folder.iterdir()):
        if path.name != "half":
            shutil.rmtree(path)


def formats() -> dict[str, Format]:
    from ave_files import ave_arrays, write_ave
    from avmnist_files import avmnist_arrays, write_avmnist
    from cremad_files import write_cremad
    from mosei_files import mosei_files, write_mosei
    from sources_files import write_sources
    from urfunny_files import urfunny_content, write_urfunny

    def ave(folder: Path) -> None:
        write_ave(folder, ave_arrays(20))

    def funny(folder: Path) -> None:
        folder.mkdir()
        write_urfunny(folder / "humor.pkl", urfunny_content())

    def mosei(folder: Path) -> None:
        write_mosei(folder, mosei_files())

    def sources(folder: Path) -> list[list[str]]:
        named = [
            word
            for name in ("mnist", "speech", "noise")
            for word in (f"--{name}", str(folder / name))
        ]
        return [
            [
                "prepare",
                "av-mnist",
                *named,
                "--train",
                "60",
                "--test",
                "30",
                "--out",
                str(folder) + "-made",
            ]
        ]

    return {
        "av-mnist": of_dataset("av-mnist", lambda folder: write_avmnist(folder, avmnist_arrays())),
        "crema-d": of_dataset("crema-d", write_cremad),
        "ur-funny": of_dataset("ur-funny", funny, "humor.pkl", ("--layers", "1")),
        "ave": of_dataset("ave", ave),
        "mosei": of_dataset("mosei", mosei),
        "crema-d prepared": of_dataset("crema-d", prepared("crema-d", write_cremad)),
        "ur-funny prepared": of_dataset(
            "ur-funny", prepared("ur-funny", funny, "humor.pkl"), more=("--layers", "1")
        ),
        "mosei prepared": of_dataset("mosei", prepared("mosei", mosei)),
        "sources of av-mnist": Format(write_sources, sources, check_first=False),
        "run": Format(write_run, read_run, check_first=False),
        "config": Format(
            write_config,
            lambda folder: [
                [
                    "train",
                    "--config",
                    str(folder / "half" / "config.toml"),
                    "--out",
                    str(folder),
                    "--name",
                    "new",
                ]
            ],
            files="half/config.toml",
            check_first=False,
        ),
        "comparison": Format(
            write_comparison,
            lambda folder: [["report", str(folder / "c")], _compare(folder)],
            "c/**/*",
            check_first=False,
        ),
    }


def outcome(kind: Format, ended: Sequence[Ended]) -> str:
    """How the commands took a damaged file, in a word or two."""
    for one in ended:
        if one.fault is not None:
            return f"FAULT: {one.fault}"
    refused = [one.code != 0 for one in ended]
    if kind.check_first:
        if refused[0] and not refused[1]:
            return (
                "FAULT: check refuses, train takes it"
                if ended[1].read
                else "check refuses, train did not read it"
            )
        if refused[1] and not refused[0]:
            return "check takes it, train refuses"
    if not any(refused):
        return "taken by all"
    return "refused by all" if all(refused) else "refused by some"


def mutate(name: str, kind: Format, number: int, seed: int, folder: Path) -> tuple[str, str]:
    """Damage one file, run the commands; the outcome, and what was done."""
    draw = random.Random(f"{seed} {name} {number}")
    place = folder / f"{name.replace(' ', '-')}-{number}"
    shutil.copytree(kind.place, place)
    files = sorted(
        path
        for path in place.glob(kind.files)
        if path.is_file() and not NOT_READ & {path.suffix, *path.parts}
    )
    path = draw.choice(files)
    how = damage_content(path, draw) if draw.random() < 0.5 else None
    if how is None:
        how = damage_bytes(path, draw, files)
    ended = [run(words, path) for words in kind.commands(place)]
    result = outcome(kind, ended)
    what = f"{name} {number}: {path.relative_to(place)}, {how}"
    if result.startswith("FAULT") or result.startswith("check takes"):
        said = [" ".join(one.output.split())[-300:] for one in ended if one.fault or one.code]
        what += f": {said[:1]}"
    for left in folder.glob(f"{place.name}*"):
        shutil.rmtree(left)
    return result, what


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--mutations", type=int, default=1000)
    parser.add_argument("--formats", default="", help="some of them, parted by commas; default all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument(
        "--details", type=Path, help="file for what was done in each mutation, and how it ended"
    )
    parser.add_argument(
        "--out", type=Path, default=ROOT / "benchmarks" / "results" / "fault_mutations.md"
    )
    options = parser.parse_args()
    torch.set_num_threads(1)
    chosen: Mapping[str, Format] = {
        name: kind
        for name, kind in formats().items()
        if not options.formats or name in options.formats.split(",")
    }
    import fault_kills

    fault_kills.warm_up()
    found: dict[str, Counter[str]] = {name: Counter() for name in chosen}
    details = []
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        for name, kind in chosen.items():
            kind.place = folder / f"whole-{name.replace(' ', '-')}"
            kind.make(kind.place)
        for number in range(options.mutations):
            name = list(chosen)[number % len(chosen)]
            result, what = mutate(name, chosen[name], number, options.seed, folder)
            found[name][result] += 1
            details.append(f"{result} | {what}")
            if options.details is not None:
                options.details.write_text("\n".join(details) + "\n")
            print(f"{number + 1}/{options.mutations} {details[-1][:150]}", file=sys.stderr)
    text = report(found, details, "python " + " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]))
    options.out.write_text(text)
    print(text, end="")
    return int(any(result.startswith("FAULT") for results in found.values() for result in results))


def report(found: Mapping[str, Counter[str]], details: Sequence[str], command: str) -> str:
    results = sorted({result for counts in found.values() for result in counts})
    lines = [
        "# Damaged files",
        "",
        f"`{command}`, {platform.machine()}, {os.cpu_count()} cores, torch {torch.__version__}.",
        f"A command that takes more than {SECONDS} s counts as one that does not end. A mutation that leaves a file",
        "valid (a flipped bit of a pixel) is taken by all, as it should be.",
        "",
        "| files | mutations | " + " | ".join(results) + " |",
        "|---|---|" + "---|" * len(results),
    ]
    for name, counts in found.items():
        lines.append(
            f"| {name} | {counts.total()} | "
            + " | ".join(str(counts[result]) for result in results)
            + " |"
        )
    lines += [f"- {line}" for line in details if line.startswith("FAULT")]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
