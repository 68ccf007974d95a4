"""The command line: gradmod COMMAND, and what each command does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence

from gradmod import __version__
from gradmod.experiments.cli.data import check, list_everything
from gradmod.experiments.cli.examples import examples
from gradmod.experiments.cli.guard import guarded
from gradmod.experiments.cli.train import resume, train
from gradmod.experiments.cli.trained import attribute, competition, evaluate, report
from gradmod.experiments.errors import ConfigError, did_you_mean

USAGE = """\
usage: gradmod COMMAND ...

Train multi-modal classifiers, balance their modalities, see how they compete.

  train      train a model; leaves a run folder           gradmod train --dataset av-digits --method agm
  resume     go on with a run                             gradmod resume RUN
  evaluate   score a checkpoint of a run on a split       gradmod evaluate RUN --split test
  compare    methods x fusions x seeds: one table         gradmod compare --methods joint,agm,ogm-ge --seeds 0,1,2
  attribute  what each modality gives a model: SHAPE      gradmod attribute RUN
  competition    how strongly each was suppressed by training together      gradmod competition RUN
  report     one HTML page of a run, of several, or of a comparison      gradmod report RUN...
  check      say whether a data set is what its loader needs      gradmod check av-mnist FOLDER
  prepare    make a data set from its sources, or decode one once     gradmod prepare crema-d --root FOLDER --out FAST
  list       methods, data sets and models, and what each needs

train and compare take settings from flags and from a file: --preset NAME (in the package) or --config FILE.
gradmod COMMAND --help shows a command's flags and examples; gradmod --version its version.
"""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    return guarded(lambda: _run(words), lambda message: _in_flags(message, words))


def _run(words: Sequence[str]) -> int:
    if not words or words[0] in ("-h", "--help", "help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"gradmod {__version__}")
        return 0
    name = words[0]
    command = COMMANDS.get(name)
    if command is None:
        raise ConfigError(
            f"unknown command {name!r}; expected one of {', '.join(COMMANDS)}{did_you_mean(name, COMMANDS)} (see "
            "gradmod --help)"
        )
    command(words[1:])
    return 0


def _in_flags(message: str, words: Sequence[str]) -> str:
    """An error, in which settings are called as the flags of the command that was run."""
    kind = _flagged(words)
    if kind is None:
        return message
    from gradmod.experiments.settings.flags import flags_of, in_flags

    return in_flags(message, flags_of(kind))


def _flagged(words: Sequence[str]) -> Callable[..., object] | None:
    """What the flags of the command are made of; None: it has none."""
    name = words[0] if words else ""
    if name == "train":
        from gradmod.experiments.settings.config import Config

        return Config
    if name == "compare":
        from gradmod.experiments.settings.comparison import Comparison

        return Comparison
    if name == "prepare":
        from gradmod.experiments.cli.prepare import command_of

        return command_of(words[1:])
    return _FUNCTIONS.get(name)


def prepare(words: Sequence[str]) -> None:
    """Make a data set from its sources."""
    from gradmod.experiments.cli.prepare import run

    run(words)


def compare(words: Sequence[str]) -> None:
    """Run methods beside each other."""
    from gradmod.experiments.cli.compare import run

    run(words, examples("compare"))


def _parsed(name: str, function: Callable[..., None]) -> Callable[[Sequence[str]], None]:
    """A command whose flags are the arguments of a function."""

    def command(words: Sequence[str]) -> None:
        from gradmod.experiments.settings.arguments import parse

        parse(function, words, f"gradmod {name}", more_help=examples(name))

    return command


_FUNCTIONS: dict[str, Callable[..., None]] = {
    "resume": resume,
    "evaluate": evaluate,
    "attribute": attribute,
    "competition": competition,
    "report": report,
    "check": check,
    "list": list_everything,
}
COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "resume": _parsed("resume", resume),
    "evaluate": _parsed("evaluate", evaluate),
    "compare": compare,
    "attribute": _parsed("attribute", attribute),
    "competition": _parsed("competition", competition),
    "report": _parsed("report", report),
    "check": _parsed("check", check),
    "prepare": prepare,
    "list": _parsed("list", list_everything),
}


if __name__ == "__main__":
    sys.exit(main())
