"""The settings of a comparison: what is compared, and what its runs share."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from gradmod.experiments import checks
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import MethodSettings, table_of
from gradmod.experiments.methods.registry import method_entry, read_settings
from gradmod.experiments.settings.assignments import (
    COALITIONS,
    assignment,
    names_of,
    numbers,
    words,
)
from gradmod.experiments.settings.config import FUSIONS, Config, MethodConfig

LAUNCHERS = ("local", "submitit")
BASELINE = "joint"
CHEAP = ("uni-modal-losses", "modality-dropout", "pretrained")
"""The methods that anyone can have for next to nothing; beside them the ensemble of the mono-modal models."""
ALL = "all"
Overrides = Mapping[str, Any]


@dataclass(frozen=True)
class CompareConfig:
    """What is compared."""

    methods: str = "joint,uni-modal-losses,modality-dropout,pretrained,agm,ogm-ge,mmpareto"
    """Methods, or all; joint training is always among them. The default has the cheap ones, which a costly method must
    beat."""
    seeds: str = "0,1,2"
    """Seeds of the runs."""
    fusions: str = ""
    """late, sum, early; several as in late,early; empty: model.fusion."""
    alphas: str = ""
    """AGM and OGM-GE with each of these, a row for each; empty: their own, or what set and tune say."""
    mono: bool = True
    """Train each modality alone too, and evaluate their ensemble."""
    set: tuple[str, ...] = ()
    """Settings of single methods, as in agm.alpha=0.3 mses.patience=5 joint.lr=0.02."""
    tune: tuple[str, ...] = ()
    """Settings to choose on the validation split, as in agm.alpha=0.1,0.3,1; without a method, as in lr=0.01,0.03, for
    each that has it; without values, as in agm or agm.alpha, from those that gradmod list METHOD shows. Values that
    hold commas are parted by |, as in "mslr.initial=audio=3|audio=1,visual=3"."""
    tune_seeds: str = "0,1,2"
    """Seeds of the trials: the candidate with the best mean over them is taken, at a tie the one named first."""
    jobs: int = 1
    """Runs at a time."""
    launcher: str = "local"
    """local: processes here. submitit: jobs of a SLURM cluster."""
    launcher_options: tuple[str, ...] = ()
    """Of submitit, as in timeout_min=600 slurm_partition=gpu; cluster=local runs its jobs here."""

    def __post_init__(self) -> None:
        for method in self.method_names:
            method_entry(method, "compare.methods")
        for fusion in words(self.fusions):
            checks.one_of("compare.fusions", fusion, FUSIONS)
        for name in ("methods", "seeds", "fusions", "alphas", "tune_seeds"):
            listed = words(getattr(self, name))
            if len(set(listed)) < len(listed) or (
                not listed and name in ("methods", "seeds", "tune_seeds")
            ):
                raise ConfigError(
                    f"compare.{name} is {getattr(self, name)!r}; expected at least one, each once"
                )
        tables = [table_of(method) for method in self.method_names]
        if len(set(tables)) < len(tables):
            raise ConfigError(
                f"compare.methods is {self.methods!r}, in which two have the name that their settings and rows are "
                f"called by: {', '.join(tables)}; rename a class"
            )
        numbers("compare.seeds", self.seeds, int)
        numbers("compare.tune_seeds", self.tune_seeds, int)
        numbers("compare.alphas", self.alphas, float)
        checks.flag("compare.mono", self.mono)
        checks.whole("compare.jobs", self.jobs, 1)
        checks.one_of("compare.launcher", self.launcher, LAUNCHERS)
        for where in ("set", "tune"):
            self.assignments(where)
        if self.launcher == "local" and self.launcher_options:
            raise ConfigError(
                "compare.launcher_options goes with --launcher submitit; found --launcher local"
            )
        for option in self.launcher_options:
            if "=" not in option:
                raise ConfigError(f"compare.launcher_options holds {option!r}; expected name=value")
        if self.alphas and any(name == "alpha" for _, _, name, _ in self.assignments("tune")):
            raise ConfigError(
                "compare.alphas makes a row of each alpha and compare.tune chooses one: give one of them"
            )
        trials = {method: len(self.grid(method)) for method in self.method_names}
        if len(set(trials.values())) > 1:
            counts = ", ".join(f"{method} {count}" for method, count in trials.items())
            raise ConfigError(
                f"compare.tune gives the methods different numbers of trials ({counts}); expected the same for each, "
                "so that none is chosen from more: give the others something to choose, as in joint.lr=0.003,0.01,0.03"
            )

    @property
    def method_names(self) -> tuple[str, ...]:
        """The methods, joint training first."""
        named = list(METHODS) if words(self.methods) == [ALL] else words(self.methods)
        return (BASELINE, *(name for name in named if name != BASELINE))

    @property
    def seed_numbers(self) -> list[int]:
        """The seeds."""
        return numbers("compare.seeds", self.seeds, int)

    @property
    def tune_seed_numbers(self) -> list[int]:
        """Seeds of the trials."""
        return numbers("compare.tune_seeds", self.tune_seeds, int)

    @property
    def alpha_numbers(self) -> list[float]:
        """The alphas, each a row; none: one row with the alpha of the settings."""
        return numbers("compare.alphas", self.alphas, float)

    def assignments(self, where: str) -> list[tuple[str, str, str, list[Any]]]:
        """What `set` or `tune` says, as text, method (empty: each that has it), setting and values.

        Raises:
            ConfigError: a word cannot be understood.
        """
        texts = getattr(self, where)
        return [
            (text, *found)
            for text in texts
            for found in assignment(f"compare.{where}", text, self.method_names)
        ]

    def settings_of(self, method: str) -> dict[str, Any]:
        """What `set` says for a method."""
        return {name: values[0] for name, values in self._said("set", method)}

    def grid(self, method: str) -> list[dict[str, Any]]:
        """The trials of a method: every combination of what `tune` says for it; [{}] where it says nothing."""
        axes = dict(self._said("tune", method))
        return [
            dict(zip(axes, combination, strict=True))
            for combination in itertools.product(*axes.values())
        ]

    def _said(self, where: str, method: str) -> Iterator[tuple[str, list[Any]]]:
        for _, owner, name, values in self.assignments(where):
            if owner == method or (not owner and name in names_of(method)):
                yield name, values


@dataclass(frozen=True)
class Comparison(Config):
    """All settings of a comparison: what is compared, and the settings that its runs share."""

    compare: CompareConfig = field(default_factory=CompareConfig)

    def __post_init__(self) -> None:
        if self.data.modality != "multimodal":
            raise ConfigError(
                f"data.modality is {self.data.modality!r}; a comparison is of multimodal models, and --mono adds the "
                "others"
            )
        for method in self.compare.method_names:
            for overrides in (self.compare.settings_of(method), *self.compare.grid(method)):
                self.run_config(method, overrides)

    @property
    def fusion_names(self) -> list[str]:
        """The fusions."""
        return words(self.compare.fusions) or [self.model.fusion]

    def tables(self) -> dict[str, MethodSettings]:
        """Settings of all methods that are compared."""
        return {
            table_of(name): read_settings(name, self.method.of(name))
            for name in self.compare.method_names
        }

    def run_config(self, method: str, overrides: Overrides) -> Config:
        """Settings of a run of a method, `overrides` of its own settings and of the optimizer on top."""
        settings, coalitions = read_settings(method, self.method.of(method)), self.method.coalitions
        optimizer = self.optimizer
        for name, value in overrides.items():
            if name in method_entry(method).setting_names:
                settings = settings.changed(**{name: value})
            elif name == COALITIONS:
                coalitions = value
            else:
                optimizer = replace(optimizer, **{name: value})
        chosen = MethodConfig(method, coalitions, settings)
        return Config(self.data, self.model, chosen, optimizer, self.train, self.monitor)
