"""A function of the user's: what it takes, what it returns, what is in it; one line before a run folder exists."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from own_files import HEAD, write_loader

from gradmod.experiments.cli import main as cli
from gradmod.experiments.datasets.load import load_dataset
from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.training.loading import Request, batches

BODY = "    return parts(y)\n"


def with_signature(folder: Path, signature: str, body: str = BODY) -> str:
    path = folder / "data.py"
    path.write_text(
        HEAD.replace("def load(root, protocol, split_seed):\n", f"def load{signature}:\n{body}")
    )
    return f"{path}:load"


@pytest.mark.parametrize(
    "signature", ["()", "(root)", "(root, *, other, **more)", "(root, batch_size=32, shuffle=True)"]
)
def test_functions_of_other_arguments(
    signature: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    name = with_signature(tmp_path, signature)
    for words in (
        ["check", name],
        ["train", "--dataset", name, "--device", "cpu", "--out", "runs"],
    ):
        assert cli.main(words) == 2
        error = capsys.readouterr().err
        assert error.count("\n") == 1
        assert "data.py, line 17: " in error
        assert "gradmod calls it as load(root, protocol, split_seed): write it so" in error
    assert not Path("runs").exists()


@pytest.mark.parametrize(
    "signature",
    [
        "(root, protocol, split_seed)",
        "(split_seed, root, protocol)",
        "(*, protocol, root, split_seed=0)",
        "(path, _, __)",
        "(*arguments)",
        "(root, protocol='heldout', split_seed=0, *, extra=1)",
    ],
)
def test_functions_that_take_the_three(signature: str, tmp_path: Path) -> None:
    body = BODY
    if "split_seed, root" in signature or "*, protocol" in signature:
        body = "    assert (root, protocol, split_seed) == ('here', 'heldout', 5)\n" + BODY
    data = load_dataset(with_signature(tmp_path, signature, body), "here", "heldout", 5)
    assert len(data.train) == 30


RETURNED = {
    "nothing": ("", "returned NoneType; expected .*Splits: does it lack its return"),
    "a sequence": (
        "s = parts(y)\nreturn s.train, s.test",
        "returned tuple; .*in place of a sequence of Split",
    ),
    "a dict": (
        "return {'test': 1, 'trian': 2}",
        "its keys are 'test', 'trian'; .*train and validation must be there",
    ),
    "a number": ("return 3", r"returned int; .*write return Splits\(train"),
}
FAILS = {
    "an error": ("raise RuntimeError('no luck')", r"data\.py, line 18: RuntimeError: no luck"),
    "a missing file": (
        "np.load('no_such.npy')",
        r"data\.py, line 18: FileNotFoundError: .*no_such\.npy",
    ),
    "a data error": (
        "Split({'x': a}, y[:3])",
        r"data\.py, line 18: sources have \{'x': 120\} samples and targets 3",
    ),
    "an argument": ("return Splits(parts(y).train)", r"data\.py, line 18: TypeError: .*missing"),
    "the end": ("raise SystemExit", r"data\.py, line 18: it ended the program"),
}
WRONG = {
    "a part": (
        "s = parts(y)\nreturn Splits(s.train, None, s.test, None)",
        "validation is None; expected a Split$",
    ),
    "no sample": (
        "s = parts(y)\nreturn Splits(s.train, s.validation.subset([]), None, None)",
        "validation has no sample",
    ),
    "an array as a part": (
        "s = parts(y)\nreturn Splits(s.train, s.validation, a, None)",
        "test is ndarray; .*or None",
    ),
    "a task's class": (
        "return parts(y, task=Regression)",
        r"task is the class Regression; write Regression\(\)",
    ),
    "another task": (
        "return parts(y, task='regression')",
        r"task is str; expected one of gradmod\.tasks",
    ),
    "outputs": ("return parts(y, outputs='3')", "outputs is '3'; expected a whole number"),
    "a note": (
        "return parts(y, notes='mind')",
        r"notes is 'mind'; expected a tuple of texts: \('mind',\)",
    ),
    "modalities": (
        "return parts(y, modalities=('lift', 'right'))",
        "names 'lift'; .*did you mean left",
    ),
    "a name with a dot": (
        "s = Split({'a.b': a}, y)\nreturn Splits(s, s, None, None)",
        "called 'a.b'; .*a_b_input",
    ),
    "a name of modules": (
        "s = Split({'type': a}, y)\nreturn Splits(s, s, None, None)",
        "called 'type'",
    ),
    "no input": ("s = Split({}, y)\nreturn Splits(s, s, None, None)", "train has no input"),
    "inputs": (
        "s, t = Split({'x': a}, y), Split({'y': a}, y)\nreturn Splits(s, t, None, None)",
        "validation has the inputs y and train x",
    ),
    "shapes": (
        "s, t = Split({'x': a}, y), Split({'x': b}, y)\nreturn Splits(s, t, None, None)",
        r"the input 'x' has the shape \[4\] in validation and \[6\] in train",
    ),
    "an array's shape": ("ArraySource(a, (7,))", r"shape \[7\] and its array samples of \[6\]"),
    "objects": (
        "Split({'x': np.array([[1], [1, 2]], dtype=object)}, y[:2])",
        "'x' holds object; .*pad or cut them",
    ),
    "texts": ("Split({'x': np.array(['a', 'b'])}, y[:2])", "'x' holds <U1; .*encode the text"),
    "complex": ("Split({'x': a + 1j}, y)", "'x' holds complex128; .*real and imaginary"),
    "a source": ("Split({'x': 'a.npy'}, y)", "'x' is str; .*lacks shape, read"),
    "no dict": ("Split(a, y)", "sources are ndarray; expected a dict"),
    "rows": (
        "Split({'x': a}, y, rows=[119, 120])",
        "rows go from 119 to 120; there are 120 samples",
    ),
    "rows of floats": ("Split({'x': a}, y, rows=[0.5])", "rows are float64"),
    "a mask": (
        "Split({'x': a}, y, rows=y[:5] == 0)",
        r"a mask of the shape \[5\]; expected \[120\]",
    ),
    "not finite": (
        "a[65, 2] = np.nan\na[67, 1] = np.inf\nreturn parts(y)",
        "'left' holds values that are not finite .* in 2 of 30 samples of test: sample 5, 7;",
    ),
    "beyond float32": (
        "a[3] = 1e300\nreturn parts(y)",
        "'left' holds values .*beyond float32.* 1 of 30 samples of train",
    ),
}


@pytest.mark.parametrize("case", [*RETURNED, *FAILS, *WRONG])
def test_what_cannot_be_trained_on(case: str, tmp_path: Path) -> None:
    body, message = (RETURNED | FAILS | WRONG)[case]
    kind = ConfigError if case in RETURNED else DataError
    with pytest.raises(kind, match=message) as caught:
        load_dataset(write_loader(tmp_path, body or "pass"), "", "heldout")
    assert "data.py, line 1" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("read", "message"),
    [
        ("return torch.zeros(1, 2)", r"shape \[1, 2\] for 2 rows"),
        (
            "return torch.zeros(len(rows), 3)",
            r"read with the shape \[3\], and its source says \[2\]",
        ),
        ("return torch.zeros(len(rows), 2).long()", "read as torch.int64; expected float32"),
        ("return [1, 2]", "it returned list; expected a tensor"),
        ("return {'x': torch.zeros(len(rows), 5, 2)}", r"lacks its \"mask\""),
        ("return rows.no_such", r"data\.py, line 24: AttributeError"),
    ],
)
def test_sources_of_the_users(read: str, message: str, tmp_path: Path) -> None:
    name = write_loader(
        tmp_path,
        "import torch\nclass Own:\n    shape = (2,)\n    def __len__(self): return 120\n\n"
        f"    def read(self, rows, draws):\n        {read}\n\n"
        "s = Split({'own': Own()}, y)\nreturn Splits(s, s, None, None)",
    )
    with pytest.raises(DataError, match=message):
        load_dataset(name, "", "heldout")


class Failing:
    shape = (2,)

    def __len__(self) -> int:
        return 6

    def read(self, rows: Any, draws: Any) -> Any:
        if 4 in rows:
            raise KeyError("four")
        return np.zeros((len(rows), 2))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_fails_later_is_a_data_error(workers: int) -> None:
    from gradmod.experiments.settings.config import TrainConfig
    from gradmod.experiments.training.devices import make_fabric

    split = Split({"x": Failing()}, np.zeros(6))
    requests = [Request(np.arange(3)), Request(np.arange(3, 6))]
    found = batches(make_fabric(TrainConfig(device="cpu")), split, requests, workers)
    assert next(found)[0]["x"].dtype == torch.float32
    with pytest.raises(DataError, match=r"test_own\.py, line \d+: KeyError: 'four'"):
        next(found)


def test_arrays_and_tensors_stand_for_sources() -> None:
    split = Split(
        {"a": np.arange(6).reshape(3, 2), "b": torch.ones(3, 4), "c": [[1], [2], [3]]}, [0, 1, 0]
    )
    assert split.shapes == {"a": (2,), "b": (4,), "c": (1,)}
    inputs, target = split.read([2])
    assert inputs["a"].tolist() == [[4, 5]]
    assert target.tolist() == [0]


def test_a_mask_chooses_rows() -> None:
    split = Split(
        {"a": np.arange(4.0)[:, None]}, np.arange(4), rows=np.array([False, True, False, True])
    )
    assert split.targets.tolist() == [1, 3]
    assert split.subset(np.array([False, True])).targets.tolist() == [3]
    assert split.subset(np.array([-1])).targets.tolist() == [3]


def test_memory_mapped_arrays_stay_on_disk(tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.zeros((4, 2)))
    source = Split({"a": np.load(tmp_path / "a.npy", mmap_mode="r")}, np.zeros(4)).sources["a"]
    assert isinstance(source, ArraySource)
    assert isinstance(source.array, np.memmap)
