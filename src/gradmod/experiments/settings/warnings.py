"""Settings that are allowed but seldom meant."""

from __future__ import annotations

from gradmod.experiments.settings import checks
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.relevance import differing, without_effect


def setting_warnings(config: Config) -> list[str]:
    """What a user should know of the settings before training starts; one line each."""
    notes: list[str] = []
    reasons, by_reason = without_effect(config), dict[str, list[str]]()
    for name in differing(config, type(config)()):
        if name in reasons:
            flag = "--" + name.partition(".")[2].replace("_", "-")
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
    notes: list[str] = []
    method, optimizer, epochs = config.method, config.optimizer, config.train.epochs
    if method.method == "ogm-ge" and optimizer.optimizer in ("adam", "adamw"):
        notes.append(
            f"{optimizer.optimizer} divides each gradient by its own running size, which cancels much of what OGM-GE "
            "multiplies it by; sgd does not. See docs/methods/ogm-ge.md"
        )
    if method.method == "mses":
        shortest = min(checks.by_name("method.patience", method.patience, int).values(), default=0)
        if shortest >= epochs:
            notes.append(
                f"MSES stops a modality after {shortest} epochs without improvement (--patience), which {epochs} "
                "epochs have no room for: this is joint training"
            )
    if method.method != "agm":
        return notes
    if optimizer.optimizer in ("adam", "adamw"):
        notes.append(
            f"{optimizer.optimizer} divides each gradient by its own running size, which cancels much of what AGM "
            "multiplies it by; sgd does not. See docs/methods/agm.md, Adaptive optimizers"
        )
    if method.modulation_ends is not None and method.modulation_ends < epochs:
        notes.append(
            f"AGM modulates up to epoch {method.modulation_ends} of {epochs}; after it training is joint"
        )
    if config.data.modality != "multimodal":
        notes.append(f"with the one modality {config.data.modality!r}, AGM is joint training")
    return notes
