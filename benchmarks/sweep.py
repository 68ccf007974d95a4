"""Many runs, a few at a time: what the scripts beside this one share. A run that is finished is not repeated."""

from __future__ import annotations

import contextlib
import json
import multiprocessing
import shutil
from collections.abc import Mapping
from concurrent.futures import ProcessPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

from gradmod.experiments.runs.names import RESULT
from gradmod.experiments.settings.config import Config


def run_all(configs: Mapping[str, Config], out: Path, jobs: int) -> dict[str, dict[str, Any]]:
    """Train every configuration, each in one thread, `jobs` at a time.

    Args:
        configs: by run name.
        out: folder of the run folders.
        jobs: processes.

    Returns:
        By run name the result.json; for a run that stopped by an error, {"error": its message}.
    """
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(jobs, mp_context=context, initializer=_one_thread) as pool:
        futures = {name: pool.submit(_run, name, config, out) for name, config in configs.items()}
        return {name: future.result() for name, future in futures.items()}


def _one_thread() -> None:
    import torch

    torch.set_num_threads(1)


def _run(name: str, config: Config, out: Path) -> dict[str, Any]:
    from gradmod.experiments.errors import TrainingError
    from gradmod.experiments.training.run import train

    folder = out / name
    if (folder / RESULT).is_file():
        result: dict[str, Any] = json.loads((folder / RESULT).read_text())
        return result
    shutil.rmtree(folder, ignore_errors=True)
    out.mkdir(parents=True, exist_ok=True)
    with (out / f"{name}.log").open("w") as log, contextlib.redirect_stderr(log):
        try:
            summary = train(replace(config, train=replace(config.train, out=str(out), name=name)))
        except TrainingError as error:
            return {"error": str(error)}
    if summary is None:
        raise RuntimeError(f"run {name} was not the first process of its run")
    return summary.result
