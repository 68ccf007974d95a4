"""The command line: gradmod COMMAND, and what each command does."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gradmod import __version__
from gradmod.experiments.cli.streams import lasting_streams
from gradmod.experiments.errors import (
    OF_WRITING,
    ConfigError,
    GradmodError,
    InterruptedRunError,
    SettingsFileError,
    UnusableDataError,
    WriteError,
    did_you_mean,
    system_refusal,
)
from gradmod.experiments.runs.names import METRICS

if TYPE_CHECKING:
    from gradmod.experiments.training.run import RunSummary

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

INTERRUPTED = (
    "interrupted; what was saved before is whole. A run whose folder is there already goes on with: gradmod resume "
    "FOLDER; anything else with the same command again"
)


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


def guarded(command: Callable[[], int | None], spelt: Callable[[str], str] = str) -> int:
    """Run a command; gradmod's own errors and the system's become one line and an exit code.

    Other exceptions are bugs and show. A reader of what is printed may leave (`| head`): the rest goes nowhere.

    Args:
        command: what is run; it may return an exit code.
        spelt: puts the names of settings in an error of ours as the user gave them.
    """
    threading.excepthook = _hook_of_threads
    try:
        with lasting_streams():
            return _guarded(command, spelt)
    except OSError as error:  # what was printed cannot be written
        return fail(system_refusal(error)[0], 1)


def _hook_of_threads(arguments: threading.ExceptHookArgs) -> None:
    """Say nothing of a file that a thread could not write (TensorBoard's does): the command says so itself."""
    if not isinstance(arguments.exc_value, OSError):
        threading.__excepthook__(arguments)


def _guarded(command: Callable[[], int | None], spelt: Callable[[str], str]) -> int:
    try:
        return command() or 0
    except SettingsFileError as error:
        return fail(str(error), error.exit_code)
    except GradmodError as error:
        return fail(spelt(str(error)), error.exit_code)
    except ModuleNotFoundError as error:
        if error.name is None or error.name.partition(".")[0] == "gradmod":
            raise
        return fail(
            f"the module {error.name!r} is not installed; what the command line needs comes with: "
            "pip install 'gradmod[train]'",
            1,
        )
    except KeyboardInterrupt:
        return fail(INTERRUPTED, InterruptedRunError.exit_code)
    except OSError as error:
        if error.errno not in OF_WRITING:
            return fail(*system_refusal(error))
        from gradmod.experiments.files import cannot_write

        return fail(cannot_write(error), WriteError.exit_code)


def fail(message: str, code: int) -> int:
    """Print an error as one line; return `code`."""
    print(f"gradmod: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def _positional() -> object:
    import tyro

    return tyro.conf.Positional


def train(words: Sequence[str]) -> None:
    """Train a new run."""
    from gradmod.experiments.settings.arguments import parse_config
    from gradmod.experiments.settings.warnings import setting_warnings

    config = parse_config(words, "gradmod train", examples("train"))
    for warning in setting_warnings(config):
        print(f"gradmod: note: {warning}", file=sys.stderr)
    if config.monitor.competition_every:
        from gradmod.experiments.analysis.competition import ensure_concepts

        ensure_concepts(config)
    from gradmod.experiments.training.run import train as train_run

    show(train_run(config))


def resume(
    run: Annotated[Path | None, _positional()] = None,
    checkpoint: str = "last",
    epochs: int | None = None,
    devices: int | None = None,
    nodes: int | None = None,
    dataset: str = "",
    root: str = "",
) -> None:
    """Go on with a run where its last checkpoint was written.

    Args:
        run: The run's folder; none: the newest below runs/, finished or not.
        checkpoint: last, previous, best, or the path of a checkpoint.
        epochs: Train to this epoch, in place of the run's own.
        devices: Processes on this machine, in place of the run's own number.
        nodes: Machines, in place of the run's own number.
        dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.runs.records import newest_started
    from gradmod.experiments.training.run import resume as resume_run

    changed = {"epochs": epochs, "devices": devices, "nodes": nodes}
    folder = run or _told(newest_started(Path("runs")))
    show(resume_run(folder, checkpoint=checkpoint, dataset=dataset, root=root, **changed))


def evaluate(
    run: Annotated[Path | None, _positional()] = None,
    split: str = "test",
    checkpoint: str = "best",
    dataset: str = "",
    root: str = "",
) -> None:
    """Score a checkpoint of a run on one split.

    Args:
        run: The run's folder; none: the newest finished one below runs/.
        split: train, validation, test or predictor.
        checkpoint: best, last, previous, or the path of a checkpoint.
        dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.reporting.tables import figures_table, show_table
    from gradmod.experiments.training.run import evaluate as evaluate_run

    folder = _finished(run)
    figures = evaluate_run(folder, split=split, checkpoint=checkpoint, dataset=dataset, root=root)
    show_table(figures_table({split: figures}, title=f"{folder}, checkpoint {checkpoint}"))


def attribute(
    run: Annotated[Path | None, _positional()] = None,
    split: str = "test",
    checkpoint: str = "best",
    metric: str = "",
    noise_levels: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0),
    replicates: int = 1000,
    dataset: str = "",
    root: str = "",
) -> None:
    """Say what each modality gives a trained model: SHAPE scores, missing modalities, noise, and a verdict.

    Args:
        run: The run's folder; none: the newest finished one below runs/.
        split: train, validation, test or predictor.
        checkpoint: best, last, previous, or the path of a checkpoint.
        metric: What is divided among the modalities: a metric of the task, or auroc (classes, labels); empty: accuracy
            (of numbers: negative mean absolute error).
        noise_levels: Standard deviations of the noise, in those of the input.
        replicates: Of the bootstrap over samples.
        dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.analysis.diagnosis import attribute_run
    from gradmod.experiments.reporting.tables import show_attribution

    folder = attribute_run(
        _finished(run),
        split=split,
        checkpoint=checkpoint,
        metric=metric,
        noise_levels=noise_levels,
        replicates=replicates,
        dataset=dataset,
        root=root,
    )
    show_attribution(folder)


def competition(
    run: Annotated[Path | None, _positional()] = None,
    split: str = "test",
    checkpoint: str = "best",
    concept: str = "logits",
    penalty: float = 120.0,
    concepts: str = "",
    dataset: str = "",
    root: str = "",
) -> None:
    """Say how strongly each modality was suppressed; trains the mono-modal concepts that are missing.

    Args:
        run: The run's folder; none: the newest finished one below runs/.
        split: Where it is measured: test, validation or train.
        checkpoint: best, last, previous, or the path of a checkpoint.
        concept: What of the mono-modal models is looked for in the joint feature: logits or features.
        penalty: Of the ridge regression.
        concepts: Folder of the mono-modal models; empty: `concepts` beside the run.
        dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.analysis.competition import measure_competition
    from gradmod.experiments.reporting.tables import show_competition
    from gradmod.experiments.settings import checks
    from gradmod.experiments.settings.config import CONCEPTS

    checks.one_of("--concept", concept, CONCEPTS)
    checks.number("--penalty", penalty, 0)
    folder = _finished(run)
    record = measure_competition(
        folder,
        split=split,
        checkpoint=checkpoint,
        concept=concept,
        penalty=penalty,
        concepts=concepts,
        dataset=dataset,
        root=root,
    )
    show_competition(folder, record)


def report(runs: Annotated[tuple[Path, ...], _positional()] = (), out: str = "") -> None:
    """Write one self-contained HTML page, and the plots of each run as SVG and PNG into its plots/.

    Args:
        runs: Folders of finished runs, or of a comparison; none: the newest finished run below runs/.
        out: The page; empty: report.html in the run's folder, or of several here.
    """
    from gradmod.experiments.reporting.plots.of_run import write_plots
    from gradmod.experiments.reporting.report import write_report

    folders = runs or (_finished(None),)
    path = Path(out) if out else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    print(f"report: {write_report(folders, path)}")
    for folder in folders:
        if (folder / METRICS).is_file():
            print(f"plots: {write_plots(folder)}")


def check(
    dataset: Annotated[str, _positional()],
    root: Annotated[str, _positional()] = "",
    labels: str = "",
    video: bool | None = None,
) -> None:
    """Read a whole data set and say whether it is what the loader needs; exit code 0 if it is, else 1.

    Args:
        dataset: Its name.
        root: Its folder or file.
        labels: CMU-MOSEI: which targets; empty: sentiment-2.
        video: CMU-MOSEI: read the visual features too.
    """
    from gradmod.experiments.datasets.check import inspect
    from gradmod.experiments.datasets.registry import DATASETS, dataset_info
    from gradmod.experiments.reporting.check import show_inspection

    info = dataset_info(dataset)
    if root and info.name in DATASETS and not info.layout:
        raise ConfigError(
            f"a root, {root}, makes no difference to {info.title}, which is embedded. Leave it out"
        )
    chosen = {
        name: value
        for name, value in {"labels": labels or None, "video": video}.items()
        if value is not None
    }
    for name in chosen:
        if name not in info.options:
            raise ConfigError(f"--{name} makes no difference to {info.title}. Leave it out")
    facts = inspect(dataset, root, chosen)
    show_inspection(facts, root)
    if facts.problems:
        raise UnusableDataError(
            f"{facts.info.title} at {root or 'an empty root'}: {facts.problems[0]}"
        )


def list_everything() -> None:
    """Show methods, data sets and models, and what each needs."""
    from gradmod.experiments.reporting.catalogue import show_catalogue

    show_catalogue()


def prepare(words: Sequence[str]) -> None:
    """Make a data set from its sources."""
    from gradmod.experiments.cli.prepare import run

    run(words)


def compare(words: Sequence[str]) -> None:
    """Run methods beside each other."""
    from gradmod.experiments.cli.compare import run

    run(words, examples("compare"))


def show(summary: RunSummary | None) -> None:
    """Print a finished run; None on processes other than the first."""
    if summary is not None:
        from gradmod.experiments.reporting.tables import show_run

        show_run(summary.folder, summary.result)


def _finished(run: Path | None) -> Path:
    """The run that was named; else the newest finished one, which is said."""
    from gradmod.experiments.runs.records import newest_run

    return run or _told(newest_run(Path("runs")))


def _told(folder: Path) -> Path:
    print(f"gradmod: note: no run was named, so this is of the newest: {folder}", file=sys.stderr)
    return folder


def _parsed(name: str, function: Callable[..., None]) -> Callable[[Sequence[str]], None]:
    """A command whose flags are the arguments of a function."""

    def command(words: Sequence[str]) -> None:
        from gradmod.experiments.settings.arguments import parse

        parse(function, words, f"gradmod {name}", more_help=examples(name))

    return command


def examples(name: str) -> str:
    """What --help of a command says last."""
    return "".join(
        [
            "\nexamples:\n",
            *(f"  gradmod {name} {words}".rstrip() + "\n" for words in EXAMPLES[name]),
        ]
    )


EXAMPLES: dict[str, tuple[str, ...]] = {
    "train": (
        "--dataset av-digits --method agm --alpha 0.3",
        "--preset avmnist-quick --root FOLDER",
        "--config runs/RUN/config.toml --seed 1 --name again",
    ),
    "resume": ("", "runs/RUN --epochs 60", "runs/RUN --root FOLDER"),
    "evaluate": ("", "runs/RUN --split validation --checkpoint last"),
    "compare": (
        "--methods joint,agm,ogm-ge --seeds 0,1,2",
        "--preset avmnist-quick --root FOLDER --methods joint agm --seeds 0 1 2",
        "--methods agm --tune agm.alpha=0.1,0.3,1 joint.lr=0.003,0.01,0.03",
    ),
    "attribute": ("", "runs/RUN --split validation --noise-levels 0,1"),
    "competition": ("", "runs/RUN --concept features"),
    "report": ("", "runs/ONE runs/OTHER --out page.html"),
    "check": ("av-mnist FOLDER", "mosei FOLDER --labels emotions"),
    "list": ("",),
}
"""Of each command; the words behind its name."""

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
