"""The walk-through of CONTRIBUTING.md: its file and its block make a method."""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

import pytest
import torch

from gradmod import Classification, ModulatedModel
from gradmod.experiments import checks
from gradmod.experiments.methods import METHODS, own_losses
from gradmod.experiments.runs.checkpoints import read_checkpoint
from gradmod.experiments.training.run import resume, train
from networks import Network
from runs import log_lines, short

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def blending(monkeypatch: pytest.MonkeyPatch) -> type:
    """The example, registered by the words of the walk-through."""
    monkeypatch.syspath_prepend(str(ROOT / "examples"))
    import blending

    monkeypatch.setitem(sys.modules, "gradmod.methods.blending", blending)
    (block,) = re.findall(
        r"```python\n(@dataclass.*?\n\))\n```", (ROOT / "CONTRIBUTING.md").read_text(), re.DOTALL
    )
    namespace = {**vars(own_losses), "checks": checks}
    exec(compile(block, "CONTRIBUTING.md", "exec", dont_inherit=True), namespace)
    monkeypatch.setitem(METHODS, "blending", namespace["BLENDING"])
    return blending.Blending  # type: ignore[no-any-return]


def test_the_loss_is_the_sum_that_it_says(blending: type) -> None:
    torch.manual_seed(0)
    names = ("audio", "visual")
    model = ModulatedModel(
        Network(names, "plain", 3).eval(), blending(names, {"audio": 0.5, "visual": 2.0})
    )
    inputs = {"audio": torch.randn(4, 5), "visual": torch.randn(4, 4)}
    target = torch.tensor([0, 1, 2, 1])
    model.train()
    model.model.eval()  # no dropout: the responses can be asked for again
    with model.in_training_step():
        logits, losses = model(inputs, target)
    audio, visual = model.responses(inputs).responses
    loss = Classification().loss
    torch.testing.assert_close(
        losses["blended"], 0.5 * loss(audio, target) + 2 * loss(visual, target)
    )
    torch.testing.assert_close(logits, audio + visual)
    with pytest.raises(ValueError, match="smell"):
        blending(names, {"smell": 1.0})


def test_it_trains_resumes_and_differs_from_joint(blending: type, tmp_path: Path) -> None:
    assert METHODS["blending"].paper == "Wang et al., CVPR 2020"
    ends = {}
    for name, method, epochs in (
        ("joint", "joint", 2),
        ("whole", "blending", 2),
        ("cut", "blending", 1),
    ):
        weights = {"weights": "audio=0.5,visual=2"} if method == "blending" else {}
        config = short(tmp_path, name=name, method=method, epochs=epochs, **weights)
        summary = train(config)
        assert summary is not None
    assert 'weights = "audio=0.5,visual=2"' in (tmp_path / "cut" / "config.toml").read_text()
    resume(tmp_path / "cut", epochs=2)
    for name in ("joint", "whole", "cut"):
        ends[name] = read_checkpoint(tmp_path / name / "checkpoints" / "last.pt")["model"]
    model = [key for key in ends["joint"] if key.startswith("model.")]
    assert any(not torch.equal(ends["joint"][key], ends["whole"][key]) for key in model)
    assert all(torch.equal(ends["cut"][key], ends["whole"][key]) for key in model)
    assert [line["kind"] for line in log_lines(tmp_path / "cut")].count("epoch") == 2


def test_weights_from_runs_by_hand(blending: type, tmp_path: Path) -> None:
    """Audio: the validation loss falls by 1, its gap grows by 0.5: 4. Visual: by 0.5 and 0.25: 8."""
    import blending as example  # type: ignore[import-not-found]

    figures = {"audio": ((2.0, 2.0), (1.0, 0.5)), "visual": ((1.0, 0.75), (0.5, 0.0))}
    for name, epochs in figures.items():
        (tmp_path / name).mkdir()
        lines = [
            {"kind": "epoch", "validation": {"loss": loss}, "train_loss": trained}
            for loss, trained in epochs
        ]
        (tmp_path / name / "metrics.jsonl").write_text(
            "".join(json.dumps(line) + "\n" for line in lines)
        )
    weights = example.offline_weights({name: tmp_path / name for name in figures})
    assert weights == pytest.approx({"audio": 4 / 12, "visual": 8 / 12})
