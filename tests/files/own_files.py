"""Files of a user's data set, for tests: what a function in one returns, or does."""

from __future__ import annotations

from pathlib import Path

HEAD = """\
import numpy as np

from gradmod.data import ArraySource, Split, Splits
from gradmod.tasks import Classification, MultiLabel, Regression

rng = np.random.default_rng(0)
y = np.arange(120) % 3
a, b = rng.normal(size=(120, 6)) + y[:, None], rng.normal(size=(120, 4)) + y[:, None]


def parts(targets, left=None, **more):
    sources = {"left": ArraySource(a if left is None else left, (6,)), "right": ArraySource(b, (4,))}
    whole = Split(sources, targets)
    return Splits(*(whole.subset(np.arange(n, n + 30)) for n in (0, 30, 60, 90)), **more)


def load(root, protocol, split_seed):
"""


def write_loader(folder: Path, body: str, name: str = "data.py") -> str:
    """A file whose function `load` has this body; how it is named on the command line."""
    path = folder / name
    path.write_text(HEAD + "".join(f"    {line}\n" for line in body.splitlines()))
    return f"{path}:load"
