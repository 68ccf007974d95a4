"""What is chosen for each method: on the validation split, over several seeds, the best."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from gradmod.experiments.comparison import scheduling
from gradmod.experiments.comparison.run import choose
from gradmod.experiments.errors import TrainingError
from gradmod.experiments.settings.comparison import CompareConfig, Comparison
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.toml import load_config


class Told:
    """A launcher whose runs end at once with the figures that a test tells."""

    def __init__(
        self, validation: Callable[[Config], float | None], task: str = "classification"
    ) -> None:
        self.validation, self.task = validation, task
        self.configs: list[Config] = []

    def start(self, words: Sequence[str], log: Path, slot: int) -> Told:
        config = load_config(words[words.index("--config") + 1])
        self.configs.append(config)
        value = self.validation(config)
        if value is not None:
            headline = {"classification": "accuracy", "regression": "mae"}[self.task]
            # The other splits would choose otherwise.
            splits = {
                "validation": {headline: value},
                "train": {headline: -value},
                "test": {headline: -value},
            }
            folder = Path(config.train.out) / config.train.name
            folder.mkdir()
            (folder / "result.json").write_text(json.dumps({"task": self.task, "splits": splits}))
        return self

    def poll(self) -> int:
        return 0

    def interrupt(self) -> None:
        pass


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduling, "PAUSE", 0)


def untold(title: str, states: object) -> None:
    """Nobody follows."""


def comparison(*tune: str, **changes: Any) -> Comparison:
    return Comparison(compare=CompareConfig(methods="agm", tune=tune, **changes))


def alpha_of(config: Config) -> float:
    """Of AGM; of joint training, which has none, 1."""
    return float(vars(config.method.settings).get("alpha", 1.0))


TUNE = ("agm.alpha=0.1,0.3,1", "joint.lr=0.01,0.03,0.1")


def test_the_best_mean_over_three_seeds_is_taken(tmp_path: Path) -> None:
    """As on AV-MNIST: one candidate is lucky with one seed, by a single sample."""
    of_lr = {0.01: (0.70, 0.70, 0.70), 0.03: (0.745, 0.74, 0.74), 0.1: (0.747, 0.68, 0.70)}
    of_alpha = {0.1: (0.6, 0.6, 0.6), 0.3: (0.5, 0.9, 0.5), 1.0: (0.61, 0.6, 0.6)}

    def validation(config: Config) -> float:
        of = (
            of_alpha[alpha_of(config)]
            if config.method.method == "agm"
            else of_lr[config.optimizer.lr]
        )
        return of[config.train.seed]

    launcher = Told(validation)
    chosen = choose(comparison(*TUNE, seeds="0"), tmp_path, launcher, untold)
    assert chosen == {("joint", "late"): {"lr": 0.03}, ("agm", "late"): {"alpha": 0.3}}
    assert len(launcher.configs) == 2 * 3 * 3
    assert {config.train.seed for config in launcher.configs} == {0, 1, 2}
    assert not any(config.train.score_test for config in launcher.configs)
    trials = json.loads((tmp_path / "trials.json").read_text())
    assert [trial["validation"] for trial in trials[:3]] == pytest.approx(
        [0.7, (0.745 + 0.74 * 2) / 3, 2.127 / 3]
    )
    assert trials[2]["by_seed"] == {"0": 0.747, "1": 0.68, "2": 0.70}
    one_seed = choose(comparison(*TUNE, tune_seeds="0"), tmp_path / "one", Told(validation), untold)
    assert one_seed["joint", "late"] == {"lr": 0.1}


def test_where_less_is_better_the_least_is_taken(tmp_path: Path) -> None:
    launcher = Told(lambda config: config.optimizer.lr + alpha_of(config), "regression")
    chosen = choose(
        comparison("agm.alpha=1,0.1,0.3", "joint.lr=0.03,0.1,0.01"), tmp_path, launcher, untold
    )
    assert chosen == {("joint", "late"): {"lr": 0.01}, ("agm", "late"): {"alpha": 0.1}}


@pytest.mark.parametrize("order", ["0.3,0.1,1", "1,0.3,0.1"])
def test_at_a_tie_the_first_is_taken(order: str, tmp_path: Path) -> None:
    """Equal is what has as many right answers, however the seeds share them and whatever a sum of floats says."""
    spread = {0.1: (0.70, 0.71, 0.72), 0.3: (0.72, 0.70, 0.71), 1.0: (0.71, 0.71, 0.71)}
    settings = comparison(f"agm.alpha={order}", TUNE[1])
    launcher = Told(
        lambda config: spread[alpha_of(config) if config.method.method == "agm" else 1.0][
            config.train.seed
        ]
    )
    chosen = choose(settings, tmp_path, launcher, untold)
    assert chosen == {
        ("joint", "late"): {"lr": 0.01},
        ("agm", "late"): {"alpha": float(order.split(",")[0])},
    }


def test_each_fusion_chooses_for_itself(tmp_path: Path) -> None:
    def validation(config: Config) -> float:
        late = config.model.fusion == "late"
        return config.optimizer.lr * (1 if late else -1) + alpha_of(config) * (1 if late else -1)

    chosen = choose(
        comparison(*TUNE, fusions="late,early", tune_seeds="5"), tmp_path, Told(validation), untold
    )
    assert chosen == {
        ("joint", "late"): {"lr": 0.1}, ("joint", "early"): {"lr": 0.01},
        ("agm", "late"): {"alpha": 1.0}, ("agm", "early"): {"alpha": 0.1},
    }  # fmt: skip


def test_a_candidate_of_which_a_trial_failed_is_not_taken(tmp_path: Path) -> None:
    def validation(config: Config) -> float | None:
        failed = config.optimizer.lr == 0.1 and config.train.seed == 2
        return None if failed else config.optimizer.lr

    chosen = choose(comparison(*TUNE), tmp_path, Told(validation), untold)
    assert chosen["joint", "late"] == {"lr": 0.03}
    trials = json.loads((tmp_path / "trials.json").read_text())
    assert [trial["validation"] for trial in trials[:3]] == [0.01, 0.03, None]
    with pytest.raises(TrainingError, match="every trial of joint with late fusion failed"):
        choose(comparison(*TUNE), tmp_path / "none", Told(lambda config: None), untold)


def test_nothing_to_choose(tmp_path: Path) -> None:
    launcher = Told(lambda config: 1.0)
    assert choose(comparison(), tmp_path, launcher, untold) == {}
    assert launcher.configs == []
    assert not (tmp_path / "trials.json").exists()


def test_three_seeds_unless_others_are_named() -> None:
    assert CompareConfig().tune_seed_numbers == [0, 1, 2]
    assert CompareConfig(tune_seeds="7").tune_seed_numbers == [7]
    assert CompareConfig().jobs == 1
