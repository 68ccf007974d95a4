"""Every flag of every command either changes something or is refused where it cannot."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from gradmod.experiments.cli import data, trained
from gradmod.experiments.cli import main as cli
from gradmod.experiments.cli import paper as paper_cli
from gradmod.experiments.cli import prepare as prepare_cli
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.settings.arguments import parse_config, parse_settings
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.config import Config, DataConfig, MethodConfig
from gradmod.experiments.settings.flags import flags_of
from gradmod.experiments.settings.relevance import without_effect
from gradmod.experiments.settings.warnings import setting_warnings

CREMAD = "--dataset crema-d --root x"
MOSEI = "--dataset mosei --root x"
ALWAYS = {
    "dataset", "protocol", "modality", "width", "optimizer", "lr", "weight-decay", "clip-norm", "epochs", "batch-size",
    "seed", "device", "devices", "nodes", "strategy", "precision", "workers", "log-every", "save-every", "out", "name",
    "concepts", "method", "model",
}  # fmt: skip
"""Flags of `train` that change something beside any others; of `method` see below."""
TRAIN = {
    # flag and value: where it is refused, and where it is taken
    "root data.csv": ("", "--dataset av-mnist"),
    "split-seed 1": ("--dataset av-mnist --protocol published --root x", ""),
    "frames 3": ("", CREMAD),
    "frames 1": ("", CREMAD),
    "speakers disjoint": (MOSEI, CREMAD),
    "aligned true": ("", "--dataset ur-funny --root x"),
    "labels emotions": (CREMAD, MOSEI),
    "video false": ("", MOSEI),
    "embeddings glove.txt": ("", MOSEI),
    "encoder auto": ("--dataset ave --root x", ""),
    "fusion late": (MOSEI, ""),
    "layers 2": ("", "--dataset ur-funny --root x"),
    "padding masked": ("--encoder mlp", "--encoder audio=mlp,visual=transformer"),
    "norm true": ("--encoder small-cnn", "--encoder audio=small-cnn,visual=mlp"),
    "norm false": ("--dataset ave --root x", "--dataset own.py:load --root x"),
    "alpha 0.5": ("--method joint", ""),
    "alpha 1": ("--method mses", "--method ogm-ge"),
    "alpha 2": ("--modality audio", ""),
    "cap 1": ("--method ogm-ge", ""),
    "cap none": ("--alpha 0", ""),
    "starts 2": ("--method mslr", "--method ogm-ge"),
    "ends 3": ("--method joint", "--method agm"),
    "noise true": ("", "--method ogm-ge"),
    "filter all": ("--method joint", "--method ogm-ge"),
    "initial audio=2": ("--method agm", "--method mslr"),
    "rule keep": ("--method mses", "--method mslr --initial audio=2"),
    "window 3": ("--method mslr --rule keep --initial audio=2", "--method mslr"),
    "patience 3": ("--method mslr", "--method mses"),
    "smoothing 0.5": ("", "--method mses"),
    "weight 0.5": ("--method mmpareto", "--method uni-modal-losses"),
    "gamma 1": ("--method uni-modal-losses", "--method mmpareto"),
    "strength 2": ("--method agm", "--method mlb"),
    "fastest 2": ("--method opm", "--method mlb"),
    "permutations 5": ("--method mlb", "--method mcr"),
    "contrastive 0.1": ("--method mlb", "--method mcr"),
    "bottleneck 0.1": ("--method mlb", "--method mcr"),
    "hidden inputs": ("--method mlb", "--method dgl"),
    "gathered true": ("--method dgl", "--method tcmax"),
    "projection true": ("--method dgl", "--method mla"),
    "weighting mean": ("", "--method mla"),
    "p 0.4": ("--method opm", "--method modality-dropout"),
    "by-batch true": ("--method modality-dropout --p 0", "--method modality-dropout"),
    "rescale true": ("--method modality-dropout --p 0", "--method modality-dropout"),
    "q 0.4": ("", "--method opm"),
    "often 0.4": ("", "--method opm"),
    "every 5": ("", "--method diagnosing-relearning"),
    "encoder-lr 0.5": ("--method umt", "--method pretrained"),
    "times 5": ("", "--method diagnosing-relearning"),
    "online true": ("", "--method gblending"),
    "super-epoch 5": ("", "--method gblending"),
    "held-out 0.2": ("", "--method gblending"),
    "coalitions looped": ("--method joint --modality audio", "--method joint"),
    "momentum 0.5": ("--optimizer adam", ""),
    "schedule step": ("--epochs 30", "--epochs 80"),
    "decay-every 5": ("--schedule cosine", "--schedule step"),
    "decay-factor 0.5": ("", "--schedule step --decay-every 5"),
    "warmup-epochs 3": ("--schedule cosine", "--schedule warmup-cosine"),
    "clip-when head": ("--clip-norm none", ""),
    "clip-when always": ("--fusion sum", "--fusion early"),
    "timeout 5": ("", "--devices 2"),
    "sync-batch-norm true": ("", "--device cuda:0,1"),
    "score-test true": ("--dataset av-mnist --protocol published --root x", ""),
    "shape-every 2": ("--epochs 1", ""),
    "shape-every 1": ("--modality audio --method joint", ""),
    "competition-every 40": ("", "--epochs 40"),
    "concept features": ("", "--competition-every 1"),
}
COMPARE = {
    "method joint": ("", None),
    "seed 3": ("", None),
    "modality multimodal": ("", None),
    "fusion sum": ("--fusions late early", ""),
    "agm.alpha 3": ("--methods mses", "--methods mses agm"),
    "agm.alpha 2": ("--alphas 1 2", ""),
    "ogm-ge.alpha 2": ("--methods agm", ""),
    "mses.patience 3": ("--methods mses --set mses.patience=4", "--methods mses"),
    "momentum 0.3": ("--optimizer adam", ""),
    "alphas 1,2": ("--methods mses", ""),
    "tune-seeds 1": ("", "--tune lr=0.1,0.2"),
    "set cap=3": ("--methods mses", ""),
    "set agm.alpha=3": ("--alphas 1 2", ""),
    "set lr=0.1 lr=0.2": ("", None),
    "set agm.alpha=2 agm.momentum=0.1": ("--optimizer adam", "--optimizer sgd"),
    "set lr=1": ("--tune lr=0.1,0.2", "--tune weight-decay=0.1,0.2"),
    "root x": ("", "--dataset av-mnist"),
}


def flag(case: str) -> str:
    return case.split()[0]


def test_every_flag_of_train_is_in_the_table() -> None:
    short = {name for name in flags_of(Config) if "." not in name}
    assert {flag(case) for case in TRAIN} | ALWAYS == short
    full = {f.field.replace("_", "-") for f in flags_of(Config).values() if f.of_method}
    assert full == set(flags_of(Config)) - short


@pytest.mark.parametrize("case", TRAIN)
def test_a_flag_of_train_is_refused_where_it_changes_nothing(
    case: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "SLURM_NTASKS"):
        monkeypatch.delenv(name, raising=False)
    refused, taken = TRAIN[case]
    words = f"--{case}".split()
    with pytest.raises(ConfigError, match=rf"--{flag(case)}.* makes no difference"):
        parse_config([*refused.split(), *words], "gradmod train")
    parse_config([*taken.split(), *words], "gradmod train")


def test_a_method_that_does_not_act_is_refused() -> None:
    for method in ("agm", "ogm-ge", "uni-modal-losses", "mmpareto"):
        words = f"--modality audio --method {method}"
        with pytest.raises(
            ConfigError, match=r"--method makes no difference with one modality, audio"
        ):
            parse_config(words.split(), "gradmod train")
    for words in ("--starts 31", "--method ogm-ge --starts 9 --epochs 8"):
        with pytest.raises(ConfigError, match=r"after the last of .* would be joint training"):
            parse_config(words.split(), "gradmod train")
    words = "--method gblending --online true --epochs 10"
    with pytest.raises(ConfigError, match=r"super_epoch is 10 in a run of 10 .* --super-epoch 2"):
        parse_config(words.split(), "gradmod train")
    assert parse_config(["--modality", "audio"], "gradmod train").data.modality == "audio"


@pytest.mark.parametrize("case", COMPARE)
def test_a_flag_of_compare_is_refused_where_it_changes_nothing(case: str) -> None:
    refused, taken = COMPARE[case]
    words = f"--{case}".split()
    with pytest.raises(ConfigError, match=r"makes no difference|say the same setting|sets alpha"):
        parse_settings([*refused.split(), *words], "gradmod compare", Comparison())
    if taken is not None:
        parse_settings([*taken.split(), *words], "gradmod compare", Comparison())


def test_compare_knows_what_was_meant() -> None:
    for words, meant in (("--method agm,joint", "--methods"), ("--seed 3", "--seeds")):
        with pytest.raises(ConfigError, match=f"did you mean {meant}"):
            parse_settings(words.split(), "gradmod compare", Comparison())


def test_what_a_file_says_in_vain_is_told(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text('[data]\nroot = "x.csv"\n[method]\nmethod = "joint"\n[agm]\nalpha = 3.0\n')
    config = parse_config(["--config", str(path)], "gradmod train")
    notes = setting_warnings(config)
    assert any(
        note.startswith("--root makes no difference to --dataset av-digits") for note in notes
    )
    assert any(note.startswith("agm.alpha makes no difference to --method joint") for note in notes)
    assert setting_warnings(Comparison()) == []


def test_patience_that_never_ends_is_told() -> None:
    def notes(*words: str) -> list[str]:
        return setting_warnings(parse_config(["--method", "mses", *words], "gradmod train"))

    assert "10 epochs without improvement (--patience), which 5 epochs" in notes("--epochs", "5")[0]
    assert notes("--epochs", "5", "--patience", "audio=4,visual=9") == notes("--epochs", "11") == []


def test_an_empty_root_is_none() -> None:
    """As scripts give it, and the published README."""
    assert parse_config(["--root", ""], "gradmod train") == Config()
    assert paper("--dataset AV-Digits --data_root=") == []


def test_settings_of_data_sets_of_ones_own_are_left_to_them() -> None:
    own = Config(
        DataConfig(dataset="own.py:load", protocol="published"), method=MethodConfig(method="joint")
    )
    reasons = without_effect(own)
    assert not {"data.root", "data.split_seed", "train.score_test"} & set(reasons)


FUNCTIONS: dict[str, tuple[Callable[..., Any], set[str]]] = {
    # command: its function, and its flags; each is tried below or in the tests of the command
    "resume": (
        cli.resume,
        {"run", "checkpoint", "epochs", "devices", "nodes", "dataset", "model", "method", "root"},
    ),
    "evaluate": (
        trained.evaluate,
        {"run", "split", "checkpoint", "dataset", "model", "method", "root"},
    ),
    "attribute": (
        trained.attribute,
        {
            "run",
            "split",
            "checkpoint",
            "metric",
            "noise-levels",
            "replicates",
            "dataset",
            "model",
            "method",
            "root",
        },
    ),
    "competition": (
        trained.competition,
        {
            "run",
            "split",
            "checkpoint",
            "concept",
            "penalty",
            "concepts",
            "dataset",
            "model",
            "method",
            "root",
        },
    ),
    "report": (trained.report, {"runs", "out"}),
    "check": (data.check, {"dataset", "root", "labels", "video"}),
    "list": (data.list_everything, {"method"}),
}


def test_a_new_flag_of_another_command_is_seen_here() -> None:
    for name, (function, known) in FUNCTIONS.items():
        assert set(flags_of(function)) == known, name
    assert set(FUNCTIONS) | {"train", "compare", "prepare"} == set(cli.COMMANDS)
    assert set(prepare_cli.COMMANDS) == set(prepare_cli.EXAMPLES)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("check av-digits somewhere", "a root, somewhere, makes no difference to AV-Digits"),
        ("check av-mnist x --labels sentiment-2", "--labels makes no difference to AV-MNIST"),
        ("check ave x --video false", "--video makes no difference to AVE"),
    ],
)
def test_check_refuses_what_changes_nothing(
    words: str, message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(words.split()) == 2
    assert message in capsys.readouterr().err


PAPER = {
    "data_root x": ("--dataset AV-Digits", ""),
    "fusion_type late_fusion": ("--dataset AVE", "--dataset CREMAD"),
    "modulation_starts 1": ("--methods MSES", "--methods AGM"),
    "modulation_ends 9": ("--methods Normal", "--methods OGM-GE"),
    "lr_decay_step 3": ("--lr_scalar cosinestep", "--lr_scalar lrstep"),
    "lr_decay_ratio 0.5": ("--lr_scalar cosinestepwarmup", ""),
    "device cpu": ("--use_mgpu True", "--use_mgpu False"),
    "gpu_ids 0,1": ("--use_mgpu False", "--use_mgpu True"),
    "save_checkpoint False": ("", None),
    "local_rank 1": ("", None),
    "SHAPE_contribution True": ("--modality Audio", ""),
}
PAPER_ALWAYS = {
    "checkpoint_path", "breakpoint_path", "methods", "modality", "random_seed", "expt_dir", "expt_name", "batch_size",
    "EPOCHS", "learning_rate", "dataset", "optim", "lr_scalar", "use_mgpu",
}  # fmt: skip


def paper(words: str) -> list[str]:
    options: argparse.Namespace = paper_cli.parser().parse_args(words.split())
    notes = paper_cli.refuse_without_effect(options, paper_cli.given(words.split()), None)
    if not options.checkpoint_path and not options.breakpoint_path:
        paper_cli.settings(options, cuda=True)
    return notes


def test_every_flag_of_the_paper_is_in_the_table() -> None:
    # --alpha is let through and said: the published README gives it to --methods Normal.
    assert {flag(case) for case in PAPER} | PAPER_ALWAYS | {"alpha"} == set(
        vars(paper_cli.parser().parse_args([]))
    )


@pytest.mark.parametrize("case", PAPER)
def test_a_flag_of_the_paper_is_refused_where_it_changes_nothing(case: str) -> None:
    refused, taken = PAPER[case]
    with pytest.raises(ConfigError, match=f"--{flag(case)}"):
        paper(f"{refused} --{case}")
    if taken is not None:
        assert paper(f"{taken} --{case}") == []


def test_the_papers_alpha_is_told_where_it_changes_nothing() -> None:
    assert paper("--methods Normal --alpha 2.5") == [
        "--alpha makes no difference to --methods Normal"
    ]
    assert paper("--methods AGM --alpha 2.5") == []
    assert paper("--save_checkpoint True") == []


@pytest.mark.parametrize("path", ["checkpoint_path", "breakpoint_path"])
def test_a_run_of_the_papers_command_has_its_own_settings(path: str) -> None:
    used = {
        "checkpoint_path": {path, "data_root"},
        "breakpoint_path": {path, "data_root", "EPOCHS"},
    }[path]
    values = {
        "use_mgpu": "True",
        "save_checkpoint": "True",
        "SHAPE_contribution": "True",
        "local_rank": "-1",
    }
    for action in paper_cli.parser()._actions:
        name = action.dest
        if name in ("help", "checkpoint_path", "breakpoint_path", "local_rank"):
            continue
        value = values.get(name, str(action.default) or "x")
        if name in used:
            assert paper(f"--{path} run --{name} {value}") == []
            continue
        with pytest.raises(ConfigError, match=f"--{name} makes no difference with --{path}"):
            paper(f"--{path} run --{name} {value}")


def test_the_papers_local_rank_is_the_launchers() -> None:
    options = paper_cli.parser().parse_args(["--local_rank", "1"])
    assert paper_cli.refuse_without_effect(options, {"local_rank"}, "1") == []
    with pytest.raises(
        ConfigError, match="--local_rank is 1, but the environment of the launcher says 0"
    ):
        paper_cli.refuse_without_effect(options, {"local_rank"}, "0")


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("--epochs 3", "did you mean --EPOCHS"),
        ("--data-root x", "did you mean --data_root"),
        ("--methods agm", "did you mean AGM"),
        ("--dataset AVMNIST", "did you mean AV-MNIST"),
        ("--fusion_type late", "did you mean late_fusion"),
        ("--nonsense", "unrecognized arguments: --nonsense"),
    ],
)
def test_the_papers_command_says_what_was_meant(words: str, meant: str) -> None:
    with pytest.raises(ConfigError, match=meant):
        paper(words)
