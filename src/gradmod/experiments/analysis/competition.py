"""Competition strength of a trained run, its mono-modal concepts included."""

from __future__ import annotations

import os
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradmod.experiments.datasets.registry import dataset_info
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError, damage_in
from gradmod.experiments.files import write_arrays, write_json
from gradmod.experiments.own_code import is_own
from gradmod.experiments.runs.names import CONFIG
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training.concepts import (
    Concept,
    concept_outputs,
    concepts_of,
    predictor_split,
)
from gradmod.experiments.training.evaluation import predict_features
from gradmod.experiments.training.opening import open_run
from gradmod.experiments.training.parts import read_data
from gradmod.experiments.training.processes import as_launched
from gradmod.experiments.training.run import resume, train
from gradmod.metrics.competition import DEFAULT_PENALTY, competition_strength


def measure_competition(
    folder: Path | str,
    *,
    split: str = "test",
    checkpoint: str = "best",
    concept: str = "logits",
    penalty: float = DEFAULT_PENALTY,
    concepts: str = "",
    dataset: str = "",
    model: str = "",
    method: str = "",
    root: str = "",
) -> dict[str, Any]:
    """Competition strength of each modality in a trained run.

    Trains the mono-modal concepts that are missing, exports the joint feature and the concepts' outputs, fits the ridge
    regression on the predictor split, and writes `competition/<split>.json` into the run's folder.

    Args:
        folder: the run's folder.
        split: the evaluation split.
        checkpoint: `best`, `last`, `previous`, or a path.
        concept: `logits` or `features` of the mono-modal model.
        penalty: of the ridge regression.
        concepts: folder of the concepts; empty: the run's setting, else `concepts` beside the run.
        dataset: the run's data set again, where it is code of the user's own.
        model: the same for its network.
        method: the same for its method.
        root: where the run's data lie now; empty: where its settings say.

    Returns:
        What was written: `strength` d^m by modality, and how it was measured.

    Raises:
        ConfigError: no such split, a run of one modality, or a protocol without a predictor split.
        CheckpointError: no run there, or the checkpoint is damaged.
    """
    run = open_run(folder, checkpoint, dataset=dataset, model=model, method=method, root=root)
    evaluated, data = run.split(split), run.parts.data
    predictor = predictor_split(run.config, data)
    place = concepts or run.config.monitor.concepts or str(_beside(run.folder) / "concepts")
    alone = replace(run.config.train, devices=1, nodes=1)  # however many processes trained the run
    config = replace(run.config, monitor=replace(run.config.monitor, concepts=place), train=alone)
    found = ensure_concepts(config, data)
    reading = {"batch_size": run.config.train.batch_size, "workers": run.parts.workers}
    assert data.predictor is not None
    fit, _ = predict_features(run.fabric, run.model, predictor, **reading)
    on_split, _ = predict_features(run.fabric, run.model, evaluated, **reading)
    strengths = {}
    for m, one in found.items():
        outputs = [concept_outputs(one, name, data, concept) for name in ("predictor", split)]
        with damage_in(one.folder / "outputs"):
            strengths[m] = competition_strength(
                fit.numpy(), outputs[0], on_split.numpy(), outputs[1], penalty
            )
    target = run.folder / "competition"
    target.mkdir(exist_ok=True)
    write_arrays(
        target / f"{split}_features.npz", {"predictor": fit.numpy(), "evaluated": on_split.numpy()}
    )
    record: dict[str, Any] = {
        "strength": strengths,
        "split": split,
        "checkpoint": checkpoint,
        "concept": concept,
        "penalty": penalty,
        "concepts": {
            m: Path(os.path.relpath(one.folder, run.folder)).as_posix() for m, one in found.items()
        },
    }
    write_json(target / f"{split}.json", record)
    return record


def _beside(folder: Path) -> Path:
    """The folder that a run lies in, as the user would name it."""
    return (
        folder.parent
        if folder.name not in ("", "..")
        else Path(os.path.relpath(folder.absolute().resolve().parent))
    )


def ensure_concepts(config: Config, data: Splits | None = None) -> dict[str, Concept]:
    """Train the mono-modal concepts of a run that are missing; another process that trains one is waited for.

    Args:
        config: the run's settings.
        data: its data, where they are read already.

    Raises:
        ConfigError: see `concepts_of`; or a concept is missing and the run has several processes.
    """
    config = as_launched(config)
    found = concepts_of(config, data if data is not None else read_data(config))
    missing = {m: one for m, one in found.items() if not one.is_trained}
    if missing and config.train.devices * config.train.nodes > 1:
        raise ConfigError(
            f"the mono-modal concepts of {', '.join(missing)} are not trained, and a run of several processes does not "
            "train them: run it once with --devices 1 --epochs as many, or `gradmod competition` on a finished run"
        )
    for modality, one in missing.items():
        with one.lock():
            if one.is_trained:
                continue
            print(
                f"gradmod: note: training the mono-modal concept of {modality}: {one.folder}",
                file=sys.stderr,
            )
            if (one.folder / CONFIG).is_file():  # begun, by a process that was killed
                own = config.data.dataset if is_own(config.data.dataset) else ""
                embedded = not dataset_info(config.data.dataset).layout and not own
                root = "" if embedded else config.data.root
                resume(one.folder, dataset=own, model=config.model.model, root=root)
            else:
                train(one.config)
    return found
