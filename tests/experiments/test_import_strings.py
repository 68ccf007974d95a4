"""Code of the user's: found, with its neighbours, in every process; and one line where it fails."""

from __future__ import annotations

import multiprocessing
import pickle
import sys
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from own_files import write_loader

from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.split import Split
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.import_strings import load_object

NEIGHBOUR = """\
import numpy as np


class Steps:
    shape = (2,)

    def __len__(self):
        return 120

    def read(self, rows, draws):
        import late_neighbour

        return late_neighbour.times(np.stack([rows, rows], 1).astype(np.float64))
"""


@pytest.fixture(autouse=True)
def _as_before(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setattr(sys, "path", sys.path.copy())
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if not (getattr(sys.modules[name], "__file__", None) or "").startswith(sys.prefix):
            del sys.modules[name]


def with_neighbours(folder: Path) -> str:
    folder.mkdir(exist_ok=True)
    (folder / "my_steps.py").write_text(NEIGHBOUR)
    (folder / "late_neighbour.py").write_text("def times(x):\n    return 3 * x\n")
    return write_loader(
        folder,
        "import my_steps\nwhole = Split({'left': my_steps.Steps(), 'right': b}, y)\n"
        "return Splits(*(whole.subset(np.arange(n, n + 30)) for n in (0, 30, 60, 90)))",
    )


def read_elsewhere(pickled: bytes) -> Any:
    return pickle.loads(pickled).read([0, 4])[0]["left"].tolist()


def test_neighbours_are_found_at_every_time(tmp_path: Path) -> None:
    data = load_dataset(with_neighbours(tmp_path / "own"), "", "heldout")
    assert data.validation.read([0, 4])[0]["left"].tolist() == [[90, 90], [102, 102]]
    assert str(data.validation.read([0])[0]["left"].dtype) == "torch.float32"
    assert sys.path[0] != str(tmp_path / "own")  # nothing that is installed is hidden from others


def test_the_file_itself_is_known_to_a_new_process(tmp_path: Path) -> None:
    name = write_loader(
        tmp_path,
        "class Own:\n    shape = (1,)\n    __len__ = lambda self: 120\n"
        "    def read(self, rows, draws):\n        import beside\n        return beside.column(rows)\n"
        "return parts(y)",
    )
    path = Path(name.removesuffix(":load"))
    (tmp_path / "beside.py").write_text("def column(rows):\n    return rows[:, None] / 2\n")
    text = path.read_text()
    head, body = text.split("def load(")
    own, rest = (
        body.split("    class Own:\n")[1].split("    return parts(y)")[0],
        "def load(root, protocol, split_seed):\n",
    )
    own = "class Own:\n" + "".join(line[4:] + "\n" for line in own.splitlines())
    path.write_text(
        head + own + "\n\n" + rest + "    whole = Split({'left': Own(), 'right': b}, y)\n"
        "    return Splits(*(whole.subset(np.arange(n, n + 30)) for n in (0, 30, 60, 90)))\n"
    )
    data = load_dataset(name, "", "heldout")
    (tmp_path / "other.py").write_text(
        "from pathlib import Path\nPath(__file__).with_suffix('.ran').touch()\nx = 1\n"
    )
    load_object(f"{tmp_path}/other.py:x")
    (tmp_path / "other.ran").unlink()
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        read = pool.submit(read_elsewhere, pickle.dumps(data.validation)).result(timeout=120)
    assert read == [[15.0], [17.0]]
    assert not (tmp_path / "other.ran").exists()  # a file that it does not need is not run there


def test_neighbours_of_the_same_name_in_two_folders(tmp_path: Path) -> None:
    found = []
    for number in (1, 2):
        folder = tmp_path / str(number)
        folder.mkdir()
        (folder / "my_helper.py").write_text(f"NUMBER = {number}\n")
        (folder / "mine.py").write_text("import my_helper\nnumber = my_helper.NUMBER\n")
        found.append(load_object(f"{folder}/mine.py:number"))
    assert found == [1, 2]


def test_two_paths_that_read_alike(tmp_path: Path) -> None:
    for folder, name in (("a_b", "c"), ("a", "b_c")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / f"{name}.py").write_text(f"which = {folder!r}\n")
    assert load_object(f"{tmp_path}/a_b/c.py:which") == "a_b"
    assert load_object(f"{tmp_path}/a/b_c.py:which") == "a"


def test_a_file_that_was_edited_is_read_again(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("number = 1\n")
    assert load_object(f"{path}:number") == 1
    path.write_text("number = 2\n")
    assert load_object(f"{path}:number") == 2
    path.write_text("number = 3\nraise ValueError('half')\n")
    for _ in range(2):  # what has run half is not kept
        with pytest.raises(DataError, match=r"mine\.py, line 2: ValueError: half"):
            load_object(f"{path}:number")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("def load(root:\n", r"mine\.py, line 1: it is no Python: "),
        (
            "x = 1\nimport no_such_neighbour\n",
            r"mine\.py, line 2: there is no module 'no_such_neighbour' .*beside the",
        ),
        (
            "import sys\n\nsys.exit(3)\n",
            r"mine\.py, line 3: it ended the program \(exit 3\).*__main__",
        ),
        (
            "def f():\n    return 1 / 0\n\n\nf()\n",
            r"mine\.py, line 2: ZeroDivisionError: division by zero",
        ),
        ("load = 3\n", r"mine\.py:load is int, no function"),
        ("def lod(a, b, c): ...\n", r"mine\.py has no 'load'; did you mean lod\?"),
        ("def make(a, b, c): ...\n", r"mine\.py has no 'load'; it has make"),
        ("\0", r"mine\.py.*(null bytes|no Python)"),
    ],
)
def test_a_file_that_cannot_be_run(content: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(content)
    with pytest.raises((ConfigError, DataError), match=message) as caught:
        load_dataset(f"{tmp_path}/mine.py:load", "", "heldout")
    assert "\n" not in str(caught.value)


def test_names_that_lead_nowhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nowhere_else.py").write_text("def load(a, b, c): ...\n")
    monkeypatch.chdir(tmp_path)
    for name, message in (
        (
            "nowhere_else:load",
            r"there is no module 'nowhere_else' to import; did you mean nowhere_else\.py:load\?",
        ),
        ("nowhere_els.py:load", r"els\.py does not exist; did you mean nowhere_else\.py\?"),
        (":load", "names no module; write folder/file.py:function"),
        ("..mine:load", "names no module"),
        ("nowhere_else.py:", r"nowhere_else\.py has no ''"),
        ("no.such.package:load", "there is no module 'no.such.package'"),
    ):
        with pytest.raises(ConfigError, match=message):
            load_dataset(name, "", "heldout")


def test_an_error_of_a_neighbour_names_its_line(tmp_path: Path) -> None:
    (tmp_path / "deep.py").write_text("def fail():\n\n    raise KeyError('key')\n")
    (tmp_path / "mine.py").write_text("import deep\n\n\ndef load(a, b, c):\n    deep.fail()\n")
    with pytest.raises(DataError, match=r"deep\.py, line 3: KeyError: 'key'"):
        load_dataset(f"{tmp_path}/mine.py:load", "", "heldout")


def test_splits_are_copied_and_pickled() -> None:
    split = Split({"x": np.arange(6.0).reshape(3, 2)}, np.arange(3), ids=["a", "b", "c"]).subset(
        np.array([2, 0])
    )
    again = pickle.loads(pickle.dumps(split))
    assert again.ids.tolist() == ["c", "a"]
    assert again.read([0])[0]["x"].tolist() == [[4, 5]]
