"""The flags of the paper's published command line, with their defaults there."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import NoReturn

from gradmod.experiments.errors import ConfigError, closest, did_you_mean

METHODS = {"Normal": "joint", "OGM-GE": "ogm-ge", "AGM": "agm", "MSLR": "mslr", "MSES": "mses"}
DATASETS = {
    "AV-MNIST": "av-mnist",
    "CREMAD": "crema-d",
    "URFunny": "ur-funny",
    "AVE": "ave",
    "MOSEI": "mosei",
    "AV-Digits": "av-digits",
}
MODALITIES = {"Multimodal": "multimodal", "Audio": "audio", "Visual": "visual", "Text": "text"}
FUSIONS = {"late_fusion": "late", "early_fusion": "early"}
SCHEDULES = {"lrstep": "step", "cosinestep": "cosine", "cosinestepwarmup": "warmup-cosine"}


class _Parser(argparse.ArgumentParser):
    """argparse whose complaint is one of our errors."""

    def error(self, message: str) -> NoReturn:
        raise ConfigError(f"{message}{self._meant(message)} (see python main.py --help)")

    def _meant(self, message: str) -> str:
        """What was meant by a wrong flag, or a wrong choice for one."""
        flag, _, rest = message.partition(": invalid choice: ")
        for action in self._actions:
            if (
                rest
                and action.option_strings == [flag.removeprefix("argument ")]
                and action.choices is not None
            ):
                return did_you_mean(rest.split("'")[1], map(str, action.choices))
        word = message.removeprefix("unrecognized arguments: ").split()[0]
        if not message.startswith("unrecognized arguments: --"):
            return ""
        meant = closest(
            word.partition("=")[0].lstrip("-"), [action.dest for action in self._actions]
        )
        return f"; did you mean --{meant}?" if meant else ""


def given(arguments: Sequence[str]) -> set[str]:
    """Names of the flags that the words give."""
    bare = parser()
    for action in bare._actions:
        action.default = argparse.SUPPRESS
    return set(vars(bare.parse_args(arguments)))


def parser() -> argparse.ArgumentParser:
    """Parser of the paper's flags."""
    parse = _Parser(
        prog="main.py",
        description="The command line of the paper's code (ICCV 2023, arXiv 2308.07686), run by gradmod. Our own, with "
        "more to choose from: gradmod train --help.",
        allow_abbrev=False,
        epilog="Example: python main.py --dataset AV-Digits --methods AGM --alpha 0.3 --EPOCHS 20 --learning_rate 0.01 "
        "--batch_size 64",
    )
    add = parse.add_argument
    add("--data_root", default="", help="folder of the data set (UR-Funny: a file)")
    add(
        "--checkpoint_path",
        default="",
        help="evaluate this run folder, or checkpoint in one, and stop",
    )
    add(
        "--breakpoint_path",
        default="",
        help="go on with this run folder, or from this checkpoint in one",
    )
    add(
        "--device",
        default="cuda:0",
        help="cpu, cuda:0 ... cuda:7; cpu where there is no CUDA, which is said",
    )
    add("--methods", default="Normal", choices=list(METHODS))
    add("--modality", default="Multimodal", choices=list(MODALITIES))
    add("--fusion_type", default="late_fusion", choices=list(FUSIONS))
    add("--random_seed", type=int, default=999)
    add("--expt_dir", default="checkpoint", help="folder in which run folders are made")
    add(
        "--expt_name",
        default="test_experiment",
        help="name of the run's folder; a number is added where it is taken",
    )
    add("--batch_size", type=int, default=16, help="samples in a step, all GPUs together")
    add("--EPOCHS", type=int, default=10)
    add("--learning_rate", type=float, default=1e-5)
    add("--dataset", default="AV-MNIST", choices=list(DATASETS))
    add(
        "--modulation_starts",
        type=int,
        default=0,
        help="first epoch that AGM modulates, counted from 1; 0 is the first too",
    )
    add("--modulation_ends", type=int, default=20, help="last epoch that AGM modulates")
    add("--alpha", type=float, default=1.0)
    add("--lr_decay_ratio", type=float, default=0.1)
    add("--lr_decay_step", type=int, default=70)
    add("--optim", default="sgd", choices=["sgd", "adam", "adamw"])
    add("--lr_scalar", default="lrstep", choices=list(SCHEDULES))
    add("--use_mgpu", type=_boolean, default=False, metavar="BOOL")
    add("--gpu_ids", default="0,1,2", help="as in 0,1,2, with --use_mgpu True")
    add(
        "--save_checkpoint",
        type=_boolean,
        default=False,
        metavar="BOOL",
        help="checkpoints are always written",
    )
    add(
        "--local_rank",
        type=int,
        default=-1,
        help="accepted; the launcher's own environment says the rank",
    )
    add(
        "--SHAPE_contribution",
        type=_boolean,
        default=False,
        metavar="BOOL",
        help="SHAPE scores on the evaluation split after every epoch",
    )
    return parse


def _boolean(word: str) -> bool:
    if word in ("True", "1"):
        return True
    if word in ("False", "0"):
        return False
    raise argparse.ArgumentTypeError(f"{word!r} is not a boolean; expected True, False, 0 or 1")
