"""What a comparison runs: methods x fusions x seeds (x alphas) on one data set, and the mono-modal models."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from gradmod.experiments.methods.entry import table_of
from gradmod.experiments.methods.registry import method_entry
from gradmod.experiments.settings.comparison import BASELINE, Comparison, Overrides
from gradmod.experiments.settings.config import Config, MonitorConfig


@dataclass(frozen=True)
class PlannedRun:
    """One run of a comparison.

    Attributes:
        name: of its folder.
        row: label of its row in the table.
        fusion: its fusion, or what a network of the user's own is called.
        seed: its seed.
        modality: the one that it is trained on; empty: all.
        config: its settings, but for where it lies.
    """

    name: str
    row: str
    fusion: str
    seed: int
    modality: str
    config: Config


def trials(
    comparison: Comparison,
) -> dict[tuple[str, str], list[tuple[dict[str, Any], list[PlannedRun]]]]:
    """Runs that settings are chosen by: by (method, fusion) the candidates, each with a run for every tuning seed.

    Empty where there is nothing to choose.
    """
    compare = comparison.compare
    found: dict[tuple[str, str], list[tuple[dict[str, Any], list[PlannedRun]]]] = {}
    for fusion, method in itertools.product(comparison.fusion_names, compare.method_names):
        grid = compare.grid(method)
        if len(grid) < 2:
            continue
        found[method, fusion] = []
        for number, candidate in enumerate(grid, 1):
            runs = []
            for seed in compare.tune_seed_numbers:
                overrides = {**compare.settings_of(method), **candidate}
                config = _placed(comparison.run_config(method, overrides), fusion, seed)
                config = replace(
                    config, train=replace(config.train, score_test=False), monitor=MonitorConfig()
                )
                label, row = config.model.label, table_of(method)
                name = f"{label}-{row}-trial{number}-seed{seed}"
                runs.append(PlannedRun(name, row, label, seed, "", config))
            found[method, fusion].append((candidate, runs))
    return found


def trial_runs(comparison: Comparison) -> list[PlannedRun]:
    """All runs of `trials`."""
    return [
        run
        for candidates in trials(comparison).values()
        for _, members in candidates
        for run in members
    ]


def planned_runs(
    comparison: Comparison, modalities: Sequence[str], chosen: Mapping[tuple[str, str], Overrides]
) -> list[PlannedRun]:
    """Every run whose figures are in the table.

    Args:
        comparison: its settings.
        modalities: of the data set.
        chosen: by (method, fusion) what was chosen on the validation split.
    """
    compare = comparison.compare
    runs: list[PlannedRun] = []
    for fusion, method in itertools.product(comparison.fusion_names, compare.method_names):
        overrides = {**compare.settings_of(method), **chosen.get((method, fusion), {})}
        has_alpha = "alpha" in method_entry(method).setting_names
        alphas: list[float | None] = [*compare.alpha_numbers] if has_alpha else []
        for alpha, seed in itertools.product(alphas or [None], compare.seed_numbers):
            more = {} if alpha is None else {"alpha": alpha}
            suffix = "" if alpha is None else f"-alpha{alpha:g}"
            row = table_of(method) if alpha is None else f"{table_of(method)}, alpha {alpha:g}"
            config = _placed(comparison.run_config(method, {**overrides, **more}), fusion, seed)
            label = config.model.label
            name = f"{label}-{table_of(method)}{suffix}-seed{seed}"
            runs.append(PlannedRun(name, row, label, seed, "", config))
    for fusion, modality in itertools.product(
        comparison.fusion_names, modalities if compare.mono else ()
    ):
        overrides = {**compare.settings_of(BASELINE), **chosen.get((BASELINE, fusion), {})}
        for seed in compare.seed_numbers:
            config = _placed(comparison.run_config(BASELINE, overrides), fusion, seed)
            # Nothing competes with one modality, nor is anything divided: it is not monitored.
            config = replace(
                config, data=replace(config.data, modality=modality), monitor=MonitorConfig()
            )
            label = config.model.label
            name = f"{label}-only-{modality}-seed{seed}"
            runs.append(PlannedRun(name, f"{modality} alone", label, seed, modality, config))
    return runs


def _placed(config: Config, fusion: str, seed: int) -> Config:
    return replace(
        config, model=replace(config.model, fusion=fusion), train=replace(config.train, seed=seed)
    )
