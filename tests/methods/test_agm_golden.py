"""Our AGM against training recorded from the published implementation."""

from __future__ import annotations

import pytest
import torch

from golden_networks import RECORDINGS, Recording, replay

CASES = [
    (name, strategy)
    for name in RECORDINGS
    for strategy in ("looped", "batched", "reuse", "additive", "auto")
    if not (strategy == "additive" and "early" in name)
]


def test_there_are_five_recordings() -> None:
    assert len(RECORDINGS) == 5


@pytest.mark.parametrize(("name", "strategy"), CASES)
def test_reproduces_the_recorded_training(name: str, strategy: str) -> None:
    recording = Recording.load(name)
    ours = replay(recording, strategy)
    torch.testing.assert_close(ours.coefficients, recording["kappa"], rtol=1e-9, atol=0)
    torch.testing.assert_close(ours.responses, recording["mono_logits"], rtol=1e-9, atol=1e-12)
    torch.testing.assert_close(ours.mean_scores, recording["mean_score"], rtol=1e-9, atol=0)
    assert ours.clip_calls == int(recording["clip_calls"])
    final = recording.state("final")
    assert ours.state.keys() == final.keys()
    for key, value in final.items():
        torch.testing.assert_close(
            ours.state[key],
            value,
            rtol=1e-9,
            atol=1e-12,
            msg=lambda text, key=key: f"{key}: {text}",
        )
