"""The examples run, and show what they say."""

from __future__ import annotations

import pytest

from conftest import ROOT


def test_diagnosis_of_a_network_of_ones_own(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import diagnose

    found = diagnose.main(epochs=5)
    assert found.attribution.game["audio+visual"] > 0.5
    printed = capsys.readouterr().out
    assert printed.count("carries") == 2
    assert printed.count("with noise") == 2


def test_samples_without_sound(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import missing_modality

    accuracies = missing_modality.main(epochs=8)
    assert accuracies["with sound"] > accuracies["without sound"] > 0.5
