"""The runs of mono-modal concepts that another run begins with, or is measured against: trained where they lack."""

from __future__ import annotations

import sys

from torch import Tensor

from gradmod.experiments.datasets.registry import dataset_info
from gradmod.experiments.datasets.splits import Splits
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.own_code import is_own
from gradmod.experiments.runs.names import CONFIG
from gradmod.experiments.settings.config import Config
from gradmod.experiments.training.concepts import Concept, concepts_of
from gradmod.experiments.training.conduct import begin, go_on
from gradmod.experiments.training.opening import open_run
from gradmod.experiments.training.parts import Parts, read_data
from gradmod.experiments.training.processes import as_launched
from gradmod.methods.base import Need
from gradmod.models.masked import MaskedModel
from gradmod.protocols import declared_modules


def train_concepts_first(config: Config, parts: Parts) -> None:
    """Train the concepts that a run begins with or is measured against, and give its method their encoders.

    Args:
        config: the run's settings.
        parts: its data and its model, untrained.

    Raises:
        ConfigError: see `ensure_concepts`.
    """
    has_teachers = Need.TEACHERS in parts.model.method.needs
    if not (has_teachers or config.monitor.competition_every):
        return
    found = ensure_concepts(config, parts.data)
    if has_teachers:
        parts.model.take_teachers({m: encoder_of(one, parts.data) for m, one in found.items()})


def encoder_of(concept: Concept, data: Splits) -> dict[str, Tensor]:
    """State of a concept's encoder, at its best epoch."""
    network = open_run(concept.folder, "best", data).model.model
    if isinstance(network, MaskedModel):
        network = network.model
    encoders = declared_modules(network, "encoders", (concept.modality,))
    if encoders is None:
        raise ConfigError(
            f"{type(network).__name__} does not say which module encodes {concept.modality!r}: give it `encoders`"
        )
    state: dict[str, Tensor] = encoders[concept.modality].state_dict()
    return state


def _nothing_first(config: Config, parts: Parts) -> None:
    """A concept is joint training of one modality, which needs nothing before it."""


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
                go_on(
                    one.folder,
                    prepare=_nothing_first,
                    dataset=own,
                    model=config.model.model,
                    root=root,
                )
            else:
                begin(one.config, prepare=_nothing_first)
    return found
