"""The cards of the methods: all in one form, their defaults true, their examples run."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
import torch.nn.functional as F

from conftest import ROOT
from gradmod.experiments.methods import METHODS, MethodEntry, method_class
from gradmod.models import MLP, LateFusion

PAGES = ROOT / "docs" / "methods"
HEADINGS = [
    "The idea",
    "The equations",
    "Example",
    "Settings",
    "Cost",
    "What it needs",
    "When to use it, and when not",
    "Figures of others",
    "How ours differs from the published code",
]
COST_TABLE = "[the cost table](../../benchmarks/results/step_cost_methods.md)"


def sections(page: str) -> dict[str, str]:
    """Text of each section of a page, by its heading."""
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    parts = re.split(r"^## (.*)\n", text, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def rows(section: str) -> list[list[str]]:
    """Cells of a table's rows, without the two lines of its head."""
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines[2:]]


def default_of(entry: MethodEntry, setting: str) -> str:
    """A default as cards say it."""
    value = getattr(entry.settings(), setting)
    if value is None or value == "":
        return "none"
    return str(value).lower() if isinstance(value, bool) else str(value)


@pytest.mark.parametrize("name", METHODS)
def test_its_card_has_the_sections_of_all_in_their_order(name: str) -> None:
    found = sections(name)
    assert list(found)[: len(HEADINGS)] == HEADINGS
    assert all(text.strip() for text in found.values())
    assert COST_TABLE in " ".join(found["Cost"].split())


@pytest.mark.parametrize("name", METHODS)
def test_its_card_says_every_default_and_where_it_is_from(name: str) -> None:
    entry = METHODS[name]
    table = rows(sections(name)["Settings"])
    assert sorted(setting.strip("`") for setting, *_ in table) == sorted(entry.setting_names)
    for setting, default, source in table:
        assert default == default_of(entry, setting.strip("`"))
        assert re.search("paper|published|our choice|AGM's code", source), setting


@pytest.mark.parametrize("name", METHODS)
def test_the_example_of_its_card_trains(name: str) -> None:
    torch.manual_seed(0)
    net = LateFusion({"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}, classes=3)
    inputs = {"audio": torch.randn(3, 6), "visual": torch.randn(3, 4)}
    batches = [(inputs, torch.tensor([0, 1, 2]))] * 2
    alone = {"audio": MLP(6, hidden=(8,)), "visual": MLP(4, hidden=(8,))}
    given: dict[str, Any] = {
        "trained_alone": {m: encoder.state_dict() for m, encoder in alone.items()},
        "net": net,
        "loader": batches,
        "validation_loader": batches,
        "part_loader": batches,
        "held_out_loader": batches[:1],
        "epochs": 2,
    }
    before = [parameter.clone() for parameter in net.encoders.parameters()]
    text = (PAGES / f"{name}.md").read_text(encoding="utf-8")
    examples = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert examples
    for example in examples:
        exec(compile(example, f"{name}.md", "exec"), given)
    assert type(given["model"].method) is method_class(name)
    pairs = zip(before, net.encoders.parameters(), strict=True)
    assert any(not torch.equal(old, new) for old, new in pairs)
    assert F.cross_entropy(given["model"].eval()(inputs), batches[0][1]).isfinite()


def test_every_method_stands_at_its_mechanism() -> None:
    table = {
        acts_on: methods for acts_on, methods, _ in rows(sections("which-method")["By mechanism"])
    }
    for name, entry in METHODS.items():
        for mechanism in entry.mechanism.split(", "):
            if mechanism != "-":
                assert f"[{name}]({name}.md)" in table[mechanism].split(", "), (name, mechanism)
