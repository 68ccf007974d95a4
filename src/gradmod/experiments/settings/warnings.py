"""Settings that are allowed but seldom meant."""

from __future__ import annotations

from dataclasses import fields

from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.relevance import differing, run_facts, without_effect


def setting_warnings(config: Config) -> list[str]:
    """What a user should know of the settings before training starts; one line each."""
    notes: list[str] = []
    reasons, by_reason = without_effect(config), dict[str, list[str]]()
    sections = {f.name for f in fields(config)}
    for name in differing(config):
        if name in reasons:
            # What stands in the table of a method is called as in the file, where nobody takes it for another's.
            in_section = name.partition(".")[0] in sections
            flag = "--" + name.partition(".")[2].replace("_", "-") if in_section else name
            by_reason.setdefault(reasons[name], []).append(flag)
    notes += [
        f"{', '.join(names)} makes no difference {reason}" for reason, names in by_reason.items()
    ]
    if isinstance(config, Comparison):
        runs = [
            config.run_config(name, config.compare.settings_of(name))
            for name in config.compare.method_names
        ]
    else:
        runs = [config]
    return list(dict.fromkeys([*notes, *(note for run in runs for note in _of_method(run))]))


def _of_method(config: Config) -> list[str]:
    return config.method.settings.notes(run_facts(config))
