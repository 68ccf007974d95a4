"""The examples in the docstrings of the library wing run, and print what they say."""

from __future__ import annotations

import doctest
import importlib
import pkgutil

import pytest

import gradmod

MODULES = [
    module.name
    for module in pkgutil.walk_packages(gradmod.__path__, "gradmod.")
    if not module.name.startswith(("gradmod.experiments", "gradmod.__main__"))
]


@pytest.mark.parametrize("name", MODULES)
def test_the_examples_of(name: str) -> None:
    found = doctest.testmod(importlib.import_module(name))
    assert found.failed == 0


def test_there_are_examples() -> None:
    finder = doctest.DocTestFinder()
    counts = [
        len(test.examples)
        for name in MODULES
        for test in finder.find(importlib.import_module(name))
    ]
    assert sum(counts) >= 20
