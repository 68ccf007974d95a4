"""A task of one's own says what its loss and its scores are; everything else works with it."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

import gradmod
from gradmod import AGM, MSES, MSLR, OGMGE, Joint, MMPareto, ModulatedModel, Task, UniModalLosses
from gradmod.experiments.analysis.diagnosis import attribute_run
from gradmod.experiments.reporting.comparison import RunRecord, compare
from gradmod.experiments.reporting.formats import markdown
from gradmod.experiments.training.run import evaluate, resume, train
from gradmod.tasks import Classification, MultiLabel, RecordedTask, Regression, task_of_record
from networks import NAMES, batch, network
from runs import log_lines, short

TWO = NAMES[:2]


class Huber(Task):
    """Two methods and nothing else."""

    def loss(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(logits, target)

    def scores(self, responses: Tensor, target: Tensor) -> Tensor:
        return F.smooth_l1_loss(responses, target.expand_as(responses), reduction="none").mean(-1)


def test_the_defaults() -> None:
    task = Huber()
    assert (task.name, task.headline, task.sample_metric, task.lower_is_better) == (
        "Huber",
        "score",
        "score",
        True,
    )
    logits, target = torch.randn(6, 2), torch.randn(6, 2)
    metrics = task.metrics(logits, target)
    assert metrics.keys() == {"score", "loss"}
    torch.testing.assert_close(metrics["score"].float(), metrics["loss"])
    torch.testing.assert_close(task.per_sample(logits, target).mean(), metrics["score"])
    torch.testing.assert_close(task.headlines(logits[None], target)[0], metrics["score"])
    torch.testing.assert_close(
        task.ensemble(torch.stack([logits, -logits])).float(), torch.zeros(6, 2)
    )
    best = task.constant_logits(logits, target)
    for wrong in (best + 0.05, best - 0.05):
        assert task.loss(best, target) < task.loss(wrong, target)
    torch.testing.assert_close(best[0], task.constant(target, 2), rtol=0, atol=1e-3)
    with pytest.raises(
        ValueError,
        match=r"target has shape \[5, 2\]; expected \[6, ...\], a target for each sample",
    ):
        task.check(logits, target[:5])
    assert task.improves(0.1, 0.2)


def test_the_headline_says_which_way_is_better_unless_the_task_does() -> None:
    class Accurate(Huber):
        headline = "accuracy"

    class Off(Huber):
        headline = "mae"

    class Rare(Huber):
        headline = "perplexity"
        lower_is_better = True

    assert [kind().lower_is_better for kind in (Accurate, Off, Rare)] == [False, True, True]
    with pytest.raises(
        ValueError, match=r"the task 'Accurate' has headline = 'accuracy'.*one of 'score', 'loss'"
    ):
        Accurate().figures(torch.zeros(3, 1), torch.zeros(3, 1))


@pytest.mark.parametrize(
    "method",
    [AGM(TWO), OGMGE(TWO), MSES(TWO), MSLR(TWO), Joint(TWO), UniModalLosses(TWO), MMPareto(TWO)],
)
def test_every_method_trains_with_it(method: Any) -> None:
    model = ModulatedModel(network(TWO, late=True, layer="plain", classes=1), method, task=Huber())
    optimizer = torch.optim.SGD(model.parameter_groups(), 0.05)
    model.set_learning_rate(optimizer, 0.05)
    inputs, _ = batch(TWO, 16, 1)
    target = torch.randn(16, 1, dtype=torch.float64)
    losses = []
    for _ in range(20):
        losses.append(float(model.training_step(inputs, target, optimizer)))
    assert losses[-1] < losses[0]


def test_scores_of_another_form_are_named() -> None:
    class Means(Huber):
        def scores(self, responses: Tensor, target: Tensor) -> Tensor:
            return super().scores(responses, target).mean(1)

    model = ModulatedModel(
        network(TWO, late=True, layer="plain", classes=1), AGM(TWO), task=Means()
    )
    inputs, _ = batch(TWO, 6, 1)
    with pytest.raises(
        ValueError,
        match=r"scores of the task 'Means' have shape \[2\].*expected \[2, 6\].*not their mean",
    ):
        model(inputs, torch.zeros(6, 1, dtype=torch.float64))


def test_a_diagnosis_with_it() -> None:
    generator = torch.Generator().manual_seed(0)
    x = {m: torch.randn(40, 3, generator=generator) for m in TWO}
    target = x["audio"].sum(1, keepdim=True) + 5

    class Net(torch.nn.Module):
        def forward(self, inputs: dict[str, Tensor]) -> Tensor:
            return (
                inputs["audio"].sum(1, keepdim=True) + 0 * inputs["visual"].sum(1, keepdim=True) + 5
            )

    found = gradmod.diagnose(Net(), [(x, target)], task=Huber(), replicates=20)
    assert found.attribution.metric == "score"
    assert found.attribution.whole == pytest.approx(0, abs=1e-6)
    assert found.attribution.score(()) < -0.3  # the best constant, found by the loss
    assert found.attribution.scores.values["audio"] > 10 * abs(
        found.attribution.scores.values["visual"]
    )


MODULE = """
import numpy as np, torch
import torch.nn.functional as F
import gradmod
from gradmod.experiments.datasets.split import ArraySource, Split
from gradmod.experiments.datasets.splits import Splits

class Huber(gradmod.Task):
    def loss(self, logits, target):
        return F.smooth_l1_loss(logits, target)
    def scores(self, responses, target):
        return F.smooth_l1_loss(responses, target.expand_as(responses), reduction="none").mean(-1)

def splits(targets, **settings):
    rng = np.random.default_rng(0)
    x = {m: rng.normal(size=(160, 5)).astype(np.float32) for m in ("a", "b")}
    whole = Split({m: ArraySource(v, (5,)) for m, v in x.items()}, targets(rng, x))
    parts = [whole.subset(rows) for rows in np.split(np.arange(160), [100, 120, 140])]
    return Splits(*parts, **settings)

def own(root, protocol, split_seed):
    return splits(lambda rng, x: (x["a"].sum(1) + x["b"].sum(1))[:, None], task=Huber(), outputs=1)

def gaps(root, protocol, split_seed):
    def targets(rng, x):
        y = 50 + 10 * (x["a"].sum(1) + 0.5 * x["b"].sum(1))[:, None]
        y[rng.random(160) < 0.2] = np.nan
        return y
    return splits(targets, task=gradmod.Regression("absolute"), outputs=1)
"""


def trained(tmp_path: Path, function: str) -> Path:
    (tmp_path / "mine.py").write_text(MODULE)
    config = short(
        tmp_path,
        dataset=f"{tmp_path}/mine.py:{function}",
        encoder="mlp",
        method="agm",
        batch_size=20,
        lr=0.001,
    )
    summary = train(config)
    assert summary is not None
    return summary.folder


def test_a_run_with_it(tmp_path: Path) -> None:
    folder = trained(tmp_path, "own")
    result = json.loads((folder / "result.json").read_text())
    assert (result["task"], result["headline"]) == ("Huber", "score")
    test = result["splits"]["test"]
    assert test.keys() == {"score", "loss", "responses"}
    scores = [line["validation"]["score"] for line in log_lines(folder) if line["kind"] == "epoch"]
    assert result["best_epoch"] == 1 + int(np.argmin(scores))
    data = f"{tmp_path}/mine.py:own"
    assert evaluate(folder, split="test", checkpoint="best", dataset=data) == test
    assert resume(folder, epochs=3, dataset=data) is not None
    record = json.loads(attribute_run(folder, replicates=10, dataset=data).read_text())
    assert record["metric"] == "score"
    result = json.loads((folder / "result.json").read_text())
    known = task_of_record(result)
    assert (known.name, known.headline, known.lower_is_better, known.sample_metric) == (
        "Huber",
        "score",
        True,
        "score",
    )
    with pytest.raises(NotImplementedError, match="the task 'Huber' is code of its user's own"):
        known.scores(torch.zeros(2, 3, 1), torch.zeros(3, 1))
    runs = [RunRecord(row, "late", 0, "", folder) for row in ("joint", "agm")]
    table = compare(runs)
    assert table.metrics == ["score"]
    assert [row.metrics["score"].mean for row in table.rows] == [
        pytest.approx(result["splits"]["test"]["score"])
    ] * 2
    assert "is code of your own, which the records do not hold" in table.notes[-1]
    assert "score" in markdown(table)


def test_a_run_with_gaps_counts_and_logs_them_and_resumes_exactly(tmp_path: Path) -> None:
    folder = trained(tmp_path, "gaps")
    lines = log_lines(folder)
    steps, epochs = ([line for line in lines if line["kind"] == kind] for kind in ("step", "epoch"))
    assert all(line["counted"] for line in steps)
    assert {line["left_out_targets"] for line in steps} <= set(range(21))
    missing = epochs[0]["left_out_targets"]
    assert 5 < missing < 40
    assert epochs[1]["left_out_targets"] == missing  # the same samples, in another order
    assert "steps_not_counted" not in epochs[0]
    for epoch in epochs:
        assert epoch["coefficients"]["a"]["min"] > 0.05
    result = json.loads((folder / "result.json").read_text())
    assert result["task_settings"] == {"error": "absolute", "output_axis": -1}
    assert result["splits"]["test"]["mae"] < 60


@pytest.mark.parametrize(
    "task",
    [
        Classification(ignore_index=-1, class_axis=1, label_smoothing=0.1),
        MultiLabel(missing=-1, class_axis=1),
        Regression("absolute", output_axis=1),
    ],
)
def test_a_task_is_made_again_from_a_record(task: Task) -> None:
    record = json.loads(json.dumps({"task": task.name, "task_settings": task.settings()}))
    again = task_of_record(record)
    assert type(again) is type(task)
    assert vars(again) == vars(task)
    assert vars(task_of_record({"task": task.name})) == vars(type(task)())  # of an older run


def test_a_subclass_is_not_taken_for_what_it_comes_from() -> None:
    class Weighted(Classification):
        pass

    record = {
        "task": Weighted().name,
        "task_settings": Weighted().settings(),
        "headline": "accuracy",
    }
    known = task_of_record(record)
    assert type(known) is RecordedTask
    assert not known.lower_is_better
