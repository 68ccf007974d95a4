"""`check_method`: every method here passes it, and methods that are wrong do not."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
import torch

from gradmod.experiments.methods import METHODS, MethodSettings, build_method
from gradmod.experiments.methods.between_epochs import (
    DiagnosingRelearningSettings,
    GBlendingSettings,
)
from gradmod.experiments.methods.modulating import MSESSettings, MSLRSettings
from gradmod.methods import Batch, ChangesGradients, Epoch, Method, Need, View
from gradmod.testing import check_method

SETTINGS: dict[str, MethodSettings] = {
    "mslr": MSLRSettings(initial="audio=0.3"),
    "mses": MSESSettings(patience="2"),
    "diagnosing-relearning": DiagnosingRelearningSettings(every=2),
    "gblending": GBlendingSettings(super_epoch=2),
}


@pytest.mark.parametrize("counts", [(2,), pytest.param((1, 3, 6), marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_passes(name: str, counts: tuple[int, ...]) -> None:
    def make(names: Sequence[str]) -> Method:
        return build_method(name, names, SETTINGS.get(name))

    checked = check_method(make, counts=counts)
    assert f"{counts[-1]} modalities, late fusion: resumes exactly" in checked
    assert ("2 modalities, early fusion: trains" in checked) == (2 in counts)
    acts = any("is not joint training" in line for line in checked)
    assert acts == (name != "joint")


class Idle(Method):
    """Plain joint training under another name."""


class Forgetful(Method):
    """Its steps grow with a count that is not saved."""

    def __init__(self, names: Sequence[str]) -> None:
        super().__init__(names)
        self.count = 0

    def forward(self, view: View, batch: Batch) -> Any:
        self.count += 1
        return view.output(batch) * (1 + 0.1 * self.count)


class FirstFirst(ChangesGradients):
    """Trains the modality that is named first twice as fast."""

    def forward(self, view: View, batch: Batch) -> Any:
        output = view.output(batch)
        self._expect_backward(output)
        return output

    def change_gradients(self) -> None:
        for parameter in self.parameters_of(self.modalities[0]):
            if parameter.grad is not None:
                parameter.grad *= 2


class Trying(Method):
    """Trains the model on trial, as it says, and does not put it back."""

    needs = frozenset({Need.TRIALS})

    def before_epoch(self, epoch: Epoch) -> bool:
        assert epoch.trials is not None
        epoch.trials.train(1)
        return False


class Infinite(Method):
    """Divides by the samples that have the last modality."""

    needs = frozenset({Need.FEATURES, Need.HEADS})
    needs_training_step = True

    def forward(self, view: View, batch: Batch) -> Any:
        output, logits = view.uni_modal(batch)
        rows = (
            torch.ones(len(batch.target)) if batch.present is None else batch.present[:, -1].float()
        )
        own = (logits[-1].logsumexp(-1) * rows).sum() / rows.sum()
        return view.with_losses(output, {"own": own})


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        (Idle, "is not joint training: does not hold: .*the method did nothing"),
        (Forgetful, "resumes exactly: does not hold: .*away: what the method remembers belongs"),
        (FirstFirst, "does not care for the order of modalities: does not hold"),
        (
            Trying,
            r"changes the model between epochs only .*: does not hold: before_epoch returned False, and changed",
        ),
        (Infinite, "bears missing modalities: does not hold: weights are not finite"),
    ],
)
def test_a_method_that_is_wrong_does_not_pass(kind: type[Method], message: str) -> None:
    with pytest.raises(AssertionError, match=f"2 modalities, late fusion: {message}"):
        check_method(kind, counts=(2,))


def test_a_method_that_takes_no_count_is_named() -> None:
    def make(names: Sequence[str]) -> Method:
        raise ValueError("no")

    with pytest.raises(
        ValueError, match=r"takes none of \[1, 2\] modalities: 1 modalities: refused \(no\)"
    ):
        check_method(make, counts=(1, 2))
