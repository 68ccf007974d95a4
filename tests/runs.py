"""Short runs on the embedded data set, for tests of everything around training."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradmod.experiments.settings.config import (
    Config,
    DataConfig,
    MethodConfig,
    ModelConfig,
    OptimizerConfig,
    TrainConfig,
)


def short(out: Path, *, name: str = "run", epochs: int = 2, **changes: Any) -> Config:
    """Settings of a run of a few seconds; `changes` go to the method, or to whatever section has the field."""
    config = Config(
        DataConfig(),
        ModelConfig(width=16),
        MethodConfig(),
        OptimizerConfig(),
        TrainConfig(
            epochs=epochs, batch_size=128, device="cpu", log_every=3, out=str(out), name=name
        ),
    )
    if "method" in changes:
        config = replace(config, method=config.method.for_method(changes.pop("method")))
    for key, value in changes.items():
        if key in vars(config.method.settings):
            own = replace(config.method.settings, **{key: value})
            config = replace(config, method=replace(config.method, settings=own))
            continue
        (section,) = (
            s
            for s in ("data", "model", "method", "optimizer", "train")
            if hasattr(getattr(config, s), key)
        )
        config = replace(config, **{section: replace(getattr(config, section), **{key: value})})
    return config


def log_lines(
    folder: Path, *, drop: tuple[str, ...] = ("seconds", "command")
) -> list[dict[str, Any]]:
    """Lines of a run's metrics.jsonl, without what may differ from run to run."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key not in drop} for line in lines]
