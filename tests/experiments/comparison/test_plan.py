"""What a comparison runs."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gradmod.experiments.comparison.plan import planned_runs, trials
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.modulating import AGMSettings, MSESSettings, MSLRSettings
from gradmod.experiments.settings.arguments import parse_settings
from gradmod.experiments.settings.comparison import CHEAP, CompareConfig, Comparison
from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    MonitorConfig,
    OptimizerConfig,
)
from gradmod.experiments.settings.toml import load_settings, save_config

MODALITIES = ("audio", "visual")


def comparison(**changes: Any) -> Comparison:
    return Comparison(compare=CompareConfig(**changes))


def test_methods_by_fusions_by_seeds_and_the_modalities_alone() -> None:
    runs = planned_runs(
        comparison(methods="agm,mslr", seeds="4,7", fusions="late,early"), MODALITIES, {}
    )
    assert len(runs) == 2 * (3 + 2) * 2
    assert len({run.name for run in runs}) == len(runs)
    assert [run.row for run in runs[:2]] == [
        "joint",
        "joint",
    ]  # it is among them though it was not named
    for run in runs:
        assert (run.config.model.fusion, run.config.train.seed) == (run.fusion, run.seed)
        assert run.config.data.modality == (run.modality or "multimodal")
        assert run.config.method.method == ("joint" if run.modality else run.row)
        assert type(run.config) is Config
    assert {run.modality for run in runs} == {"", *MODALITIES}
    assert not any(run.modality for run in planned_runs(comparison(mono=False), MODALITIES, {}))


def test_what_runs_share_is_equal_but_for_the_method() -> None:
    settings = Comparison(
        DataConfig(root="x"),
        ModelConfig(width=16),
        optimizer=OptimizerConfig(lr=0.3, clip_norm=2.0),
    )
    for run in planned_runs(settings, MODALITIES, {}):
        expected = settings.run_config("joint", {})
        same = replace(run.config, method=expected.method, train=expected.train, data=expected.data)
        assert same == expected


def test_settings_of_methods_and_what_was_chosen() -> None:
    settings = comparison(
        methods="agm,mses,mslr",
        seeds="0",
        set=(
            "agm.alpha=0.25",
            "mses.patience=audio=3,visual=5",
            "weight-decay=0.5",
            "mslr.rule=keep",
        ),
    )
    by_row = {
        run.row: run.config
        for run in planned_runs(settings, MODALITIES, {("agm", "late"): {"cap": None}})
    }
    assert by_row["agm"].method.settings == AGMSettings(alpha=0.25, cap=None)
    assert by_row["mses"].method.settings == MSESSettings(patience="audio=3,visual=5")
    assert by_row["mslr"].method.settings == MSLRSettings(rule="keep")
    assert {config.optimizer.weight_decay for config in by_row.values()} == {0.5}


def test_alone_models_have_what_was_chosen_for_joint_training() -> None:
    chosen = {("joint", "late"): {"lr": 0.7}}
    runs = planned_runs(comparison(methods="agm", seeds="0"), MODALITIES, chosen)
    assert {run.row: run.config.optimizer.lr for run in runs} == {
        "joint": 0.7, "agm": OptimizerConfig().lr, "audio alone": 0.7, "visual alone": 0.7,
    }  # fmt: skip


def test_only_what_the_table_compares_is_monitored() -> None:
    """A single modality has nothing to compete with, and of a trial only its validation is looked at."""
    settings = replace(
        comparison(methods="agm", seeds="0", tune=("agm.alpha=1,2", "joint.lr=1,2")),
        monitor=MonitorConfig(shape_every=1, competition_every=2),
    )
    for run in planned_runs(settings, MODALITIES, {}):
        assert run.config.monitor == (MonitorConfig() if run.modality else settings.monitor)
    for candidates in trials(settings).values():
        assert all(run.config.monitor == MonitorConfig() for _, runs in candidates for run in runs)


def test_a_row_for_each_alpha() -> None:
    runs = planned_runs(comparison(methods="agm,mslr", seeds="0", alphas="0.1,2"), MODALITIES, {})
    assert {run.row: run.config.method.settings.alpha for run in runs if run.row.startswith("agm")} == {
        "agm, alpha 0.1": 0.1, "agm, alpha 2": 2.0,
    }  # fmt: skip
    assert len({run.name for run in runs}) == len(runs)
    assert sum(run.row == "mslr" for run in runs) == 1


def test_trials_are_every_combination_and_never_see_the_test_split() -> None:
    settings = comparison(
        methods="agm", seeds="3,4", fusions="late,early", tune_seeds="8,9",
        tune=("agm.alpha=0.1,1", "agm.lr=0.1,0.2", "joint.lr=0.1,0.2,0.3,0.4"),
    )  # fmt: skip
    planned = trials(settings)
    assert set(planned) == {
        (method, fusion) for method in ("joint", "agm") for fusion in ("late", "early")
    }
    names = set()
    for (method, fusion), candidates in planned.items():
        assert len(candidates) == 4
        for candidate, runs in candidates:
            assert [run.seed for run in runs] == [8, 9]
            for run in runs:
                names.add(run.name)
                assert not run.config.train.score_test
                assert (run.config.method.method, run.config.model.fusion) == (method, fusion)
                assert run.config.optimizer.lr == candidate["lr"]
                assert run.config.method == MethodConfig(
                    method, settings=AGMSettings(candidate["alpha"]) if method == "agm" else None
                )
    assert len(names) == 4 * 4 * 2
    assert trials(comparison()) == {}
    assert all(run.config.train.score_test for run in planned_runs(settings, MODALITIES, {}))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"methods": "agm,sgd"}, "compare.methods is 'sgd'"),
        ({"methods": ""}, "compare.methods is ''; expected at least one"),
        ({"methods": "agm,agm"}, "each once"),
        ({"seeds": "0,x"}, "compare.seeds is '0,x'; expected numbers, as in 0,1,2"),
        ({"seeds": "0,0"}, "each once"),
        ({"tune_seeds": ""}, "compare.tune_seeds is ''; expected at least one"),
        ({"tune_seeds": "1,1"}, "each once"),
        ({"tune_seeds": "one"}, "compare.tune_seeds is 'one'; expected numbers"),
        ({"fusions": "late,middle"}, "compare.fusions is 'middle'"),
        ({"alphas": "strong"}, "compare.alphas"),
        ({"jobs": 0}, "compare.jobs is 0"),
        ({"launcher": "slurm"}, "compare.launcher is 'slurm'"),
        ({"launcher_options": ("timeout_min=5",)}, "goes with --launcher submitit"),
        ({"launcher": "submitit", "launcher_options": ("timeout",)}, "expected name=value"),
        ({"set": ("agm.alpa=1",)}, "'agm.alpa=1'; alpa makes no .*; did you mean agm.alpha"),
        ({"set": ("alpa=1",)}, "'alpa=1'; expected METHOD.setting=value"),
        ({"set": ("agm.alpha",)}, "'agm.alpha'; expected METHOD.setting=value"),
        ({"set": ("agm",)}, "'agm'; expected METHOD.setting=value"),
        ({"set": ("agm.starts=2.5",)}, "'2.5' is no number"),
        (
            {"set": ("strength=2",)},
            "strength makes no difference to joint, .*: it is a setting of",
        ),
        ({"tune": ("agm.cap",)}, "'agm.cap' without values, and it is registered for alpha"),
        ({"tune": ("mslr",)}, "'mslr'; expected METHOD.setting=value, of a method joint"),
        ({"set": ("agm.alpha=1,2",)}, "compare.set holds"),
        ({"set": ("agm.alpha=much",)}, "'much' is no number"),
        ({"set": ("ogm.alpha=1",)}, "of a method joint, uni-modal-losses"),
        ({"set": ("ogm-ge.noise=1",)}, "expected true or false"),
        ({"set": ("agm.alpha=-1",)}, "agm.alpha is -1"),
        (
            {"methods": "mses", "set": ("mses.alpha=1",)},
            "alpha makes no difference to mses, which has .*patience",
        ),
        ({"tune": ("joint.cap=1,2",)}, "cap makes no difference to joint"),
        (
            {"methods": "agm,ogm-ge", "tune": ("agm.alpha=1,2",)},
            r"different numbers of trials \(joint 1, agm 2, ogm-ge 1\)",
        ),
        ({"tune": ("lr=1,-2",)}, "optimizer.lr is -2"),
        ({"tune": ("alpha=1,2",), "alphas": "1,2"}, "give one of them"),
    ],
)
def test_what_is_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        comparison(**changes)


def test_a_single_modality_cannot_be_compared() -> None:
    with pytest.raises(ConfigError, match="a comparison is of multimodal models"):
        Comparison(DataConfig(modality="audio"))


def test_one_file_and_flags(tmp_path: Path) -> None:
    path = tmp_path / "comparison.toml"
    path.write_text(
        '[train]\nepochs = 3\n[compare]\nmethods = "agm"\nseeds = "5,6"\ntune = ["agm.alpha=1,2", "joint.lr=1,2"]\n'
    )
    words = [
        "--config",
        str(path),
        "--seeds",
        "7",
        "--fusions",
        "late,early",
        "--set",
        "agm.cap=1",
        "mses.patience=4",
    ]
    with pytest.raises(ConfigError, match="of a method joint, agm"):  # MSES is not compared
        parse_settings(words, "gradmod compare", Comparison())
    read = parse_settings(words[:-1], "gradmod compare", Comparison())
    assert read.train.epochs == 3
    assert read.compare.seed_numbers == [7]
    assert read.fusion_names == ["late", "early"]
    assert read.compare.tune == ("agm.alpha=1,2", "joint.lr=1,2")
    save_config(read, path)
    assert load_settings(path, Comparison()) == read


def test_the_fusion_is_the_models_unless_it_is_named() -> None:
    assert Comparison(model=ModelConfig(fusion="early")).fusion_names == ["early"]


def test_the_default_comparison_has_the_cheap_methods() -> None:
    """A method that loses to them must be seen to: with the ensemble, which the mono-modal runs make."""
    default = CompareConfig()
    assert default.method_names[:4] == ("joint", *CHEAP)
    assert "pretrained" in CHEAP
    assert default.mono
