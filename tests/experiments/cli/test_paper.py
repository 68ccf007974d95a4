"""The paper's command line: every flag, mapped; what cannot be done, said."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from gradmod.experiments.cli import paper as paper_cli
from gradmod.experiments.datasets.registry import DATASETS as OURS
from gradmod.experiments.errors import ConfigError, DataError
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.flags import flags_of

README_COMMAND = (
    "--data_root DATA --device cuda:0 --methods Normal --modality Multimodal --fusion_type late_fusion "
    "--random_seed 999 --expt_dir checkpoint --expt_name test --batch_size 64 --EPOCHS 100 --learning_rate 0.0001 "
    "--dataset AV-MNIST --alpha 2.5 --SHAPE_contribution False"
)
FLAGS = """
    data_root checkpoint_path breakpoint_path device methods modality fusion_type random_seed expt_dir expt_name
    batch_size EPOCHS learning_rate dataset modulation_starts modulation_ends alpha lr_decay_ratio lr_decay_step optim
    lr_scalar use_mgpu gpu_ids save_checkpoint local_rank SHAPE_contribution
"""


def mapped(words: str, *, cuda: bool = True) -> tuple[Config, list[str]]:
    return paper_cli.settings(paper_cli.parser().parse_args(words.split()), cuda=cuda)


def test_every_published_flag_is_there_with_its_default() -> None:
    options = vars(paper_cli.parser().parse_args([]))
    assert set(options) == set(FLAGS.split())
    assert {
        key: options[key]
        for key in ("random_seed", "expt_dir", "expt_name", "batch_size", "EPOCHS")
    } == {
        "random_seed": 999,
        "expt_dir": "checkpoint",
        "expt_name": "test_experiment",
        "batch_size": 16,
        "EPOCHS": 10,
    }
    assert (options["learning_rate"], options["alpha"]) == (1e-5, 1.0)
    assert (options["modulation_starts"], options["modulation_ends"]) == (0, 20)
    assert (options["lr_decay_ratio"], options["lr_decay_step"], options["optim"]) == (
        0.1,
        70,
        "sgd",
    )
    assert (options["lr_scalar"], options["gpu_ids"], options["local_rank"]) == (
        "lrstep",
        "0,1,2",
        -1,
    )


def test_the_readme_command() -> None:
    config, notes = mapped(README_COMMAND)
    assert notes == []
    assert (config.data.dataset, config.data.root, config.data.protocol) == (
        "av-mnist",
        "DATA",
        "published",
    )
    assert (config.data.modality, config.model.fusion, config.method.method) == (
        "multimodal",
        "late",
        "joint",
    )
    assert (config.train.epochs, config.train.batch_size, config.train.seed) == (100, 64, 999)
    assert (config.train.device, config.train.out, config.train.name) == (
        "cuda:0",
        "checkpoint",
        "test",
    )
    assert (config.optimizer.optimizer, config.optimizer.lr) == ("sgd", 1e-4)
    assert (config.optimizer.momentum, config.optimizer.weight_decay) == (0.9, 1e-4)
    assert (config.optimizer.schedule, config.optimizer.decay_every) == ("step", 70)
    _, notes = mapped(README_COMMAND, cuda=False)
    assert notes == ["--device cuda:0: torch sees no CUDA device here, so this runs on the cpu"]


@pytest.mark.parametrize(
    ("words", "section", "key", "value"),
    [
        ("--methods AGM --alpha 2.5", "agm", "alpha", 2.5),
        ("--methods AGM", "method", "method", "agm"),
        ("--methods AGM", "agm", "cap", None),
        ("--methods AGM --dataset CREMAD", "agm", "cap", 10.0),
        ("--methods AGM --dataset URFunny", "agm", "cap", 7.0),
        (
            "--methods AGM --modulation_starts 3 --modulation_ends 8",
            "agm",
            "starts",
            3,
        ),
        ("--methods AGM --modulation_starts 3 --modulation_ends 8", "agm", "ends", 8),
        ("--methods OGM-GE", "ogm-ge", "ends", 20),
        ("--methods OGM-GE --alpha 0.5", "ogm-ge", "alpha", 0.5),
        ("--methods OGM-GE --dataset CREMAD", "ogm-ge", "filter", "published"),
        ("--methods OGM-GE --dataset MOSEI", "ogm-ge", "filter", "all"),
        ("--methods MSLR --dataset CREMAD", "mslr", "initial", "audio=0.9,visual=1.1"),
        ("--methods MSES --dataset URFunny", "mses", "patience", "30"),
        ("--methods OGM-GE", "method", "method", "ogm-ge"),
        ("--methods MSLR", "method", "method", "mslr"),
        ("--methods MSES", "method", "method", "mses"),
        ("--modality Audio", "data", "modality", "audio"),
        ("--modality Visual", "data", "modality", "visual"),
        ("--modality Text --dataset MOSEI", "data", "modality", "text"),
        ("--fusion_type early_fusion", "model", "fusion", "early"),
        ("--optim adam", "optimizer", "optimizer", "adam"),
        ("--optim adam", "optimizer", "weight_decay", 0.0),
        ("--optim adamw", "optimizer", "weight_decay", 1e-4),
        ("--lr_scalar cosinestep", "optimizer", "schedule", "cosine"),
        ("--lr_scalar cosinestepwarmup", "optimizer", "schedule", "warmup-cosine"),
        ("--lr_decay_ratio 0.5 --lr_decay_step 9", "optimizer", "decay_factor", 0.5),
        ("--lr_decay_ratio 0.5 --lr_decay_step 9", "optimizer", "decay_every", 9),
        ("--device cpu", "train", "device", "cpu"),
        ("--device cuda:7", "train", "device", "cuda:7"),
        ("--use_mgpu True --gpu_ids 0,3", "train", "device", "cuda:0,3"),
        ("--use_mgpu 1 --gpu_ids 0,3", "train", "devices", 2),
        ("--use_mgpu 0 --gpu_ids 0,3", "train", "devices", 1),
        ("--save_checkpoint True --local_rank 0", "train", "epochs", 10),
        ("--SHAPE_contribution True", "monitor", "shape_every", 1),
        ("--SHAPE_contribution False", "monitor", "shape_every", 0),
        ("--dataset AV-Digits", "data", "protocol", "heldout"),
        *(
            (f"--dataset {theirs}", "data", "dataset", ours)
            for theirs, ours in paper_cli.DATASETS.items()
        ),
    ],
)
def test_flags_are_mapped(words: str, section: str, key: str, value: Any) -> None:
    config, _ = mapped(words)
    assert config.sections()[section][key] == value


def test_every_data_set_has_a_paper_name() -> None:
    assert set(paper_cli.DATASETS.values()) == set(OURS) - {"npz"}  # a form, and no data set


def test_shape_of_one_modality_is_refused() -> None:
    with pytest.raises(
        ConfigError, match="--SHAPE_contribution: with --modality Audio there is nothing to divide"
    ):
        mapped("--SHAPE_contribution True --modality Audio")


def test_settings_are_called_as_the_papers_flags() -> None:
    assert paper_cli.in_flags("train.batch_size is 0") == "--batch_size is 0"
    assert paper_cli.in_flags("AV-MNIST: data.root is empty") == "AV-MNIST: --data_root is empty"
    assert (
        paper_cli.in_flags("model.encoder is 'x', in a/train.epochs")
        == "model.encoder is 'x', in a/train.epochs"
    )
    known = {flag.field for flag in flags_of(Config).values()}
    assert set(paper_cli.FIELDS) <= known
    assert set(paper_cli.FIELDS.values()) <= set(FLAGS.split())


def test_a_window_that_ends_before_the_run_is_said_aloud() -> None:
    _, notes = mapped("--methods AGM --EPOCHS 100")
    assert len(notes) == 1
    assert re.search(
        r"up to epoch 20 of 100 and is joint training after it.*--modulation_ends 100", notes[0]
    )
    assert mapped("--methods AGM --EPOCHS 20")[1] == []
    assert mapped("--methods Normal --EPOCHS 100")[1] == []


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("--dataset AVMNIST", r"argument --dataset: invalid choice: 'AVMNIST'.*AV-MNIST"),
        ("--methods agm", r"argument --methods: invalid choice: 'agm'"),
        ("--EPOCHS many", r"argument --EPOCHS: invalid int value: 'many'"),
        (
            "--use_mgpu yes",
            r"argument --use_mgpu: 'yes' is not a boolean; expected True, False, 0 or 1",
        ),
        ("--epochs 3", r"unrecognized arguments: --epochs 3"),
        ("--alp 3", r"unrecognized arguments: --alp 3"),
        (
            "--SHAPE_contribution perhaps",
            r"argument --SHAPE_contribution: 'perhaps' is not a boolean",
        ),
        (
            "--methods AGM --modality Audio",
            r"--methods AGM needs several modalities; --modality Audio goes with",
        ),
        ("--methods AGM --modulation_ends 0", r"agm\.ends is 0"),
        ("--methods AGM --alpha -1", r"agm\.alpha is -1"),
        ("--device tpu", r"train\.device is 'tpu'"),
        ("--batch_size 0", r"train\.batch_size is 0"),
    ],
)
def test_wrong_flags_are_errors(words: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        mapped(words)
    assert "\n" not in str(caught.value)


def test_several_gpus_need_gpus() -> None:
    with pytest.raises(
        ConfigError, match="--use_mgpu True with --gpu_ids 0,1,2, but torch sees no CUDA device"
    ):
        mapped("--use_mgpu True", cuda=False)


def test_an_empty_root_tells_the_layout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    words = [word if word != "DATA" else "" for word in README_COMMAND.split()]
    with pytest.raises(
        DataError, match=r"data\.root is empty.*image/train_data\.npy.*AV-Digits|av-digits"
    ):
        paper_cli.run(words)
    assert not (tmp_path / "checkpoint").exists()


@pytest.mark.parametrize("dataset", ["MOSEI", "AVE", "URFunny", "CREMAD", "AV-MNIST"])
def test_every_data_set_tells_its_layout(
    dataset: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(DataError, match=r"data\.root is empty\. Looked for <root>.*docs/datasets/"):
        paper_cli.run(["--dataset", dataset, "--data_root", "", "--device", "cpu"])


def test_one_of_both_paths() -> None:
    with pytest.raises(ConfigError, match="give one of them"):
        paper_cli.run(["--checkpoint_path", "a", "--breakpoint_path", "b"])
