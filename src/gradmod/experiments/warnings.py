"""Settings that are allowed but seldom meant."""

from __future__ import annotations

from dataclasses import fields

from gradmod.datasets.registry import DATASETS
from gradmod.experiments.config import Config, MethodConfig, MonitorConfig
from gradmod.methods.registry import METHODS, flags_of


def setting_warnings(config: Config) -> list[str]:
    """What a user should know of the settings before training starts; one line each."""
    notes: list[str] = []
    info = DATASETS.get(config.data.dataset)
    if (
        info is not None
        and info.network is not None
        and (config.model.fusion, config.model.encoder) != ("late", "auto")
    ):
        notes.append(f"{info.title} has one network of its own; --fusion and --encoder make no difference")
    method, optimizer, epochs = config.method, config.optimizer, config.train.epochs
    known = flags_of(method.method) if method.method in METHODS else ()
    unused = [f.name for f in fields(method) if f.name not in ("method", "coalitions", *known)]
    unused = [name for name in unused if getattr(method, name) != getattr(MethodConfig(), name)]
    if unused:
        flags = ", ".join(f"--{name.replace('_', '-')}" for name in unused)
        notes.append(f"{flags} makes no difference to --method {method.method}")
    monitor, without = config.monitor, MonitorConfig()
    if not monitor.competition_every and (monitor.concept, monitor.concepts) != (without.concept, without.concepts):
        notes.append("--concept and --concepts make no difference without --competition-every")
    if method.method == "ogm-ge" and optimizer.optimizer in ("adam", "adamw"):
        notes.append(
            f"{optimizer.optimizer} divides each gradient by its own running size, which cancels much of what OGM-GE "
            "multiplies it by; sgd does not. See docs/methods/ogm-ge.md"
        )
    if method.method != "agm":
        return notes
    if optimizer.optimizer in ("adam", "adamw"):
        notes.append(
            f"{optimizer.optimizer} divides each gradient by its own running size, which cancels much of what AGM "
            "multiplies it by; sgd does not. See docs/methods/agm.md, Adaptive optimizers"
        )
    if method.modulation_ends is not None and method.modulation_ends < epochs:
        notes.append(f"AGM modulates up to epoch {method.modulation_ends} of {epochs}; after it training is joint")
    if config.data.modality != "multimodal":
        notes.append(f"with the one modality {config.data.modality!r}, AGM is joint training")
    return notes
