"""Competition strength of a trained run, its mono-modal concepts included."""

from __future__ import annotations

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradmod.experiments.errors import damage_in
from gradmod.experiments.files import write_arrays, write_json
from gradmod.experiments.training.concept_runs import ensure_concepts
from gradmod.experiments.training.concepts import concept_outputs, predictor_split
from gradmod.experiments.training.evaluation import predict_features
from gradmod.experiments.training.opening import open_run
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
