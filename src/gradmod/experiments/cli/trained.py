"""What is asked of a run that was trained: evaluate, attribute, competition, report."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

from gradmod.experiments.cli.named_runs import finished, positional
from gradmod.experiments.runs.names import METRICS


def evaluate(
    run: Annotated[Path | None, positional()] = None,
    split: str = "test",
    checkpoint: str = "best",
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> None:
    """Score a checkpoint of a run on one split.

    Args:
        run: The run's folder; none: the newest finished one below runs/.
        split: train, validation, test or predictor.
        checkpoint: best, last, previous, or the path of a checkpoint.
        dataset: The run's data set again, where it is code of your own: folder/file.py:function.
        model: Its network again, where it is code of your own.
        method: Its method again, where it is code of your own.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.reporting.tables import figures_table, show_table
    from gradmod.experiments.training.run import evaluate as evaluate_run

    folder = finished(run)
    figures = evaluate_run(
        folder,
        split=split,
        checkpoint=checkpoint,
        dataset=dataset,
        model=model,
        method=method,
        root=root,
    )
    show_table(figures_table({split: figures}, title=f"{folder}, checkpoint {checkpoint}"))


def attribute(
    run: Annotated[Path | None, positional()] = None,
    split: str = "test",
    checkpoint: str = "best",
    metric: str = "",
    noise_levels: tuple[float, ...] = (0.0, 0.25, 0.5, 1.0, 2.0),
    replicates: int = 1000,
    dataset: str = "",
    model: str = "",
    method: str = "",
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
        model: Its network again, where it is code of your own.
        method: Its method again, where it is code of your own.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments.analysis.diagnosis import attribute_run
    from gradmod.experiments.reporting.tables import show_attribution

    folder = attribute_run(
        finished(run),
        split=split,
        checkpoint=checkpoint,
        metric=metric,
        noise_levels=noise_levels,
        replicates=replicates,
        dataset=dataset,
        model=model,
        method=method,
        root=root,
    )
    show_attribution(folder)


def competition(
    run: Annotated[Path | None, positional()] = None,
    split: str = "test",
    checkpoint: str = "best",
    concept: str = "logits",
    penalty: float = 120.0,
    concepts: str = "",
    dataset: str = "",
    model: str = "",
    method: str = "",
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
        model: Its network again, where it is code of your own.
        method: Its method again, where it is code of your own.
        root: Where the run's data lie now, if they were moved.
    """
    from gradmod.experiments import checks
    from gradmod.experiments.analysis.competition import measure_competition
    from gradmod.experiments.reporting.tables import show_competition
    from gradmod.experiments.settings.config import CONCEPTS

    checks.one_of("--concept", concept, CONCEPTS)
    checks.number("--penalty", penalty, 0)
    folder = finished(run)
    record = measure_competition(
        folder,
        split=split,
        checkpoint=checkpoint,
        concept=concept,
        penalty=penalty,
        concepts=concepts,
        dataset=dataset,
        model=model,
        method=method,
        root=root,
    )
    show_competition(folder, record)


def report(runs: Annotated[tuple[Path, ...], positional()] = (), out: str = "") -> None:
    """Write one self-contained HTML page, and the plots of each run as SVG and PNG into its plots/.

    Args:
        runs: Folders of finished runs, or of a comparison; none: the newest finished run below runs/.
        out: The page; empty: report.html in the run's folder, or of several here.
    """
    from gradmod.experiments.reporting.plots.of_run import write_plots
    from gradmod.experiments.reporting.report import write_report

    folders = runs or (finished(None),)
    path = Path(out) if out else (folders[0] if len(folders) == 1 else Path()) / "report.html"
    print(f"report: {write_report(folders, path)}")
    for folder in folders:
        if (folder / METRICS).is_file():
            print(f"plots: {write_plots(folder)}")
