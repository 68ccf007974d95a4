"""What tells one sample's input from another's."""

from __future__ import annotations

import torch

from gradmod.experiments.datasets.identity import input_digests, say_little


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
