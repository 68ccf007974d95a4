"""The command line: gradmod COMMAND, and what each command does."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from gradmod import __version__
from gradmod.errors import OF_WRITING, GradmodError, InterruptedRunError, UnusableDataError, WriteError, system_refusal

if TYPE_CHECKING:
    from gradmod.training.run import RunSummary

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

gradmod COMMAND --help shows a command's flags; gradmod --version its version.
"""

INTERRUPTED = (
    "interrupted; what was saved before is whole. A run whose folder is there already goes on with: gradmod resume "
    "FOLDER; anything else with the same command again"
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line; return its exit code."""
    words = list(sys.argv[1:] if arguments is None else arguments)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE, end="")
        return 0 if words else 2
    if words[0] == "--version":
        print(f"gradmod {__version__}")
        return 0
    command = COMMANDS.get(words[0])
    if command is None:
        return fail(f"unknown command {words[0]!r}; expected one of {', '.join(COMMANDS)} (see gradmod --help)", 2)
    return guarded(lambda: command(words[1:]))


def guarded(command: Callable[[], None]) -> int:
    """Run a command; gradmod's own errors and the system's become one line and an exit code.

    Other exceptions are bugs and show.
    """
    try:
        command()
    except GradmodError as error:
        return fail(str(error), error.exit_code)
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
    except BrokenPipeError:
        sys.stderr.close()  # `gradmod list | head`: what was asked for was shown
        return 0
    except OSError as error:
        if error.errno not in OF_WRITING:
            return fail(*system_refusal(error))
        from gradmod.files import cannot_write

        return fail(cannot_write(error), WriteError.exit_code)
    return 0


def fail(message: str, code: int) -> int:
    """Print an error as one line; return `code`."""
    print(f"gradmod: error: {' '.join(message.split())}", file=sys.stderr)
    return code


def train(words: Sequence[str]) -> None:
    """Train a new run."""
    from gradmod.experiments.arguments import parse_config
    from gradmod.experiments.warnings import setting_warnings

    config = parse_config(words, "gradmod train")
    for warning in setting_warnings(config):
        print(f"gradmod: note: {warning}", file=sys.stderr)
    if config.monitor.competition_every:
        from gradmod.training.competition import ensure_concepts

        ensure_concepts(config)
    from gradmod.training.run import train as train_run

    show(train_run(config))


def resume(words: Sequence[str]) -> None:
    """Go on with a run."""
    from gradmod.experiments.arguments import parse

    def command(
        run: Annotated[Path, _positional()],
        checkpoint: str = "last",
        epochs: int | None = None,
        devices: int | None = None,
        nodes: int | None = None,
        dataset: str = "",
    ) -> None:
        """Go on with a run where its last checkpoint was written.

        Args:
            run: The run's folder.
            checkpoint: last, previous, best, or the path of a checkpoint.
            epochs: Train to this epoch, in place of the run's own.
            devices: Processes on this machine, in place of the run's own number.
            nodes: Machines, in place of the run's own number.
            dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        """
        from gradmod.training.run import resume as resume_run

        changed = {"epochs": epochs, "devices": devices, "nodes": nodes}
        show(resume_run(run, checkpoint=checkpoint, dataset=dataset, **changed))

    parse(command, words, "gradmod resume")


def evaluate(words: Sequence[str]) -> None:
    """Score a checkpoint."""
    from gradmod.experiments.arguments import parse

    def command(
        run: Annotated[Path, _positional()], split: str = "test", checkpoint: str = "best", dataset: str = ""
    ) -> None:
        """Score a checkpoint of a run on one split.

        Args:
            run: The run's folder.
            split: train, validation, test or predictor.
            checkpoint: best, last, previous, or the path of a checkpoint.
            dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        """
        from gradmod.reporting.tables import figures_table, show_table
        from gradmod.training.run import evaluate as evaluate_run

        figures = evaluate_run(run, split=split, checkpoint=checkpoint, dataset=dataset)
        show_table(figures_table({split: figures}, title=f"{run}, checkpoint {checkpoint}"))

    parse(command, words, "gradmod evaluate")


def attribute(words: Sequence[str]) -> None:
    """Diagnose a run."""
    from gradmod.experiments.arguments import parse

    def command(
        run: Annotated[Path | None, _positional()] = None,
        split: str = "test",
        checkpoint: str = "best",
        metric: str = "",
        noise_levels: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0),
        replicates: int = 1000,
        dataset: str = "",
    ) -> None:
        """Say what each modality gives a trained model: SHAPE scores, missing modalities, noise, and a verdict.

        Args:
            run: The run's folder; none: the newest below runs/.
            split: train, validation, test or predictor.
            checkpoint: best, last, previous, or the path of a checkpoint.
            metric: What is divided among the modalities; empty: accuracy (of numbers: negative mean absolute error).
            noise_levels: Standard deviations of the noise, in those of the input.
            replicates: Of the bootstrap over samples.
            dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        """
        from gradmod.reporting.records import newest_run
        from gradmod.reporting.tables import show_attribution
        from gradmod.training.attribution import attribute_run

        folder = attribute_run(
            run or newest_run(Path("runs")),
            split=split,
            checkpoint=checkpoint,
            metric=metric,
            noise_levels=noise_levels,
            replicates=replicates,
            dataset=dataset,
        )
        show_attribution(folder)

    parse(command, words, "gradmod attribute")


def competition(words: Sequence[str]) -> None:
    """Measure the competition strength of a run."""
    from gradmod.experiments.arguments import parse

    def command(
        run: Annotated[Path | None, _positional()] = None,
        split: str = "test",
        checkpoint: str = "best",
        concept: str = "logits",
        penalty: float = 120.0,
        concepts: str = "",
        dataset: str = "",
    ) -> None:
        """Say how strongly each modality was suppressed; trains the mono-modal concepts that are missing.

        Args:
            run: The run's folder; none: the newest below runs/.
            split: Where it is measured: test, validation or train.
            checkpoint: best, last, previous, or the path of a checkpoint.
            concept: What of the mono-modal models is looked for in the joint feature: logits or features.
            penalty: Of the ridge regression.
            concepts: Folder of the mono-modal models; empty: `concepts` beside the run.
            dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        """
        from gradmod.experiments import checks
        from gradmod.experiments.config import CONCEPTS
        from gradmod.reporting.records import newest_run
        from gradmod.reporting.tables import show_competition
        from gradmod.training.competition import measure_competition

        checks.one_of("concept", concept, CONCEPTS)
        checks.number("penalty", penalty, 0)
        folder = run or newest_run(Path("runs"))
        record = measure_competition(
            folder,
            split=split,
            checkpoint=checkpoint,
            concept=concept,
            penalty=penalty,
            concepts=concepts,
            dataset=dataset,
        )
        show_competition(folder, record)

    parse(command, words, "gradmod competition")


def report(words: Sequence[str]) -> None:
    """Write a page."""
    from gradmod.experiments.arguments import parse

    def command(runs: Annotated[tuple[Path, ...], _positional()] = (), out: str = "") -> None:
        """Write one self-contained HTML page, and the plots of each run as SVG and PNG into its plots/.

        Args:
            runs: Folders of finished runs, or of a comparison; none: the newest run below runs/.
            out: The page; empty: report.html in the run's folder, or of several here.
        """
        from gradmod.reporting.plots.of_run import write_plots
        from gradmod.reporting.records import newest_run
        from gradmod.reporting.report import write_report

        folders = runs or (newest_run(Path("runs")),)
        path = Path(out) if out else (folders[0] if len(folders) == 1 else Path()) / "report.html"
        print(f"report: {write_report(folders, path)}")
        for folder in folders:
            if (folder / "metrics.jsonl").is_file():
                print(f"plots: {write_plots(folder)}")

    parse(command, words, "gradmod report")


def check(words: Sequence[str]) -> None:
    """Inspect a data set."""
    from gradmod.experiments.arguments import parse

    def command(
        dataset: Annotated[str, _positional()],
        root: Annotated[str, _positional()] = "",
        labels: str = "sentiment-2",
        video: Annotated[bool, _flag()] = False,
    ) -> None:
        """Read a whole data set and say whether it is what the loader needs; exit code 0 if it is, else 1.

        Args:
            dataset: Its name.
            root: Its folder or file.
            labels: CMU-MOSEI: which targets.
            video: CMU-MOSEI: read the visual features too.
        """
        from gradmod.datasets.inspection import inspect
        from gradmod.reporting.inspection import show_inspection

        chosen = {"labels": labels} if labels != "sentiment-2" else {}
        facts = inspect(dataset, root, chosen | ({"video": True} if video else {}))
        show_inspection(facts, root)
        if facts.problems:
            raise UnusableDataError(f"{facts.info.title} at {root or 'an empty root'}: {facts.problems[0]}")

    parse(command, words, "gradmod check")


def prepare(words: Sequence[str]) -> None:
    """Make a data set from its sources."""
    from gradmod.prepare_cli import run

    run(words)


def compare(words: Sequence[str]) -> None:
    """Run methods beside each other."""
    from gradmod.compare_cli import run

    run(words)


def list_everything(words: Sequence[str]) -> None:
    """Print methods, data sets and models."""
    from gradmod.experiments.arguments import parse

    def command() -> None:
        """Show methods, data sets and models, and what each needs."""
        from gradmod.reporting.catalogue import show_catalogue

        show_catalogue()

    parse(command, words, "gradmod list")


def show(summary: RunSummary | None) -> None:
    """Print a finished run; None on processes other than the first."""
    if summary is not None:
        from gradmod.reporting.tables import show_run

        show_run(summary.folder, summary.result)


def _flag() -> object:
    import tyro

    return tyro.conf.FlagConversionOff


def _positional() -> object:
    import tyro

    return tyro.conf.Positional


COMMANDS: dict[str, Callable[[Sequence[str]], None]] = {
    "train": train,
    "resume": resume,
    "evaluate": evaluate,
    "compare": compare,
    "attribute": attribute,
    "competition": competition,
    "report": report,
    "check": check,
    "prepare": prepare,
    "list": list_everything,
}


if __name__ == "__main__":
    sys.exit(main())
