"""What tells one data set from another."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from gradmod.datasets.identity import facts_of, fingerprint_of, input_digests, say_little
from gradmod.datasets.samples import Split
from gradmod.datasets.splits import Splits, heldout


def made(samples: int = 40, *, labels: np.ndarray | None = None, shift: float = 0.0, **more: object) -> Splits:
    values = np.random.default_rng(0).normal(size=(60, 3))[:samples]
    values[samples - 1] += shift
    whole = Split({"x": values}, np.arange(samples) % 3 if labels is None else labels, **more)  # type: ignore[arg-type]
    return Splits(*(whole.subset(rows) for rows in heldout(samples, 0)), None)


def test_the_same_data_are_the_same() -> None:
    assert facts_of(made()) == facts_of(made())
    assert fingerprint_of(made()) == fingerprint_of(made())
    assert fingerprint_of(made(), content=True) == fingerprint_of(made(), content=True)


def test_facts_are_plain() -> None:
    import json

    facts = facts_of(made())
    assert json.loads(json.dumps(facts)) == facts
    assert facts["train"]["samples"] == 32
    assert sum(facts["train"]["class_counts"].values()) == 32


@pytest.mark.parametrize(
    "other",
    [
        {"samples": 50},
        {"labels": (np.arange(40) + 1) % 3},
        {"labels": np.arange(40) % 3 * 1.0},
        {"ids": [f"clip{n}" for n in range(40)]},
    ],
)
def test_other_sizes_labels_and_ids(other: dict[str, object]) -> None:
    assert facts_of(made(**other)) != facts_of(made())  # type: ignore[arg-type]
    assert fingerprint_of(made(**other)) != fingerprint_of(made())  # type: ignore[arg-type]


def test_one_changed_sample_is_seen_in_the_content_alone() -> None:
    assert fingerprint_of(made(shift=1e-3)) == fingerprint_of(made())
    assert fingerprint_of(made(shift=1e-3), content=True) != fingerprint_of(made(), content=True)


def test_padding_does_not_count() -> None:
    x = torch.arange(12.0).reshape(2, 3, 2)
    padded = torch.cat([x, torch.zeros(2, 4, 2)], 1)
    mask = torch.ones(2, 3, dtype=torch.bool)
    longer = torch.cat([mask, torch.zeros(2, 4, dtype=torch.bool)], 1)
    assert input_digests({"x": x, "mask": mask}) == input_digests({"x": padded, "mask": longer})
    assert input_digests(x)[0] != input_digests(x)[1]
    assert input_digests(x.reshape(2, 2, 3)) != input_digests(x)


def test_what_may_be_equal_by_chance() -> None:
    x = torch.zeros(3, 2, 2)
    x[1], x[2, 0, 0] = 7, 1
    assert say_little(x) == [True, True, False]
    assert say_little({"x": x, "mask": torch.tensor([[True, False]] * 3)}) == [True, True, False]
    tokens = torch.zeros(2, 20, dtype=torch.int64)
    tokens[0, :3], tokens[1, :12] = torch.arange(1, 4), torch.arange(1, 13)
    assert say_little({"tokens": tokens, "mask": tokens > 0}) == [True, False]
