"""Which settings change nothing under the others: a flag that sets one is refused, a file that does is told of."""

from __future__ import annotations

import inspect
import os
from collections.abc import Sequence
from dataclasses import fields, replace

from gradmod.experiments.datasets.registry import DATASETS, PUBLISHED, dataset_info
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.import_strings import load_object
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import MULTIMODAL, RunFacts, table_of
from gradmod.experiments.methods.registry import method_entry
from gradmod.experiments.settings.assignments import COALITIONS, names_of
from gradmod.experiments.settings.comparison import Comparison
from gradmod.experiments.settings.config import DATASET_OPTIONS, Config
from gradmod.experiments.settings.flags import Flag

Reasons = dict[str, str]
_OF_SCHEDULES = {"step": ("decay_every", "decay_factor"), "warmup-cosine": ("warmup_epochs",)}
_LAUNCHED = ("TORCHELASTIC_RUN_ID", "WORLD_SIZE", "SLURM_NTASKS")


def refuse_without_effect(config: Config, given: Sequence[Flag]) -> None:
    """Refuse flags that make no difference.

    Args:
        config: the settings, the flags' among them.
        given: the flags that the command line has.

    Raises:
        ConfigError: names each such flag, and why; or the method would not act in a single epoch, whoever says so.
    """
    if isinstance(config, Comparison):
        _refuse_idle_assignments(config)
    else:
        config.method.settings.check_run(run_facts(config))
    reasons = without_effect(config) if given else {}
    refused = [(flag, reasons[flag.field]) for flag in given if flag.field in reasons]
    if refused:
        by_reason: dict[str, list[str]] = {}
        for flag, reason in refused:
            by_reason.setdefault(reason, []).append(flag.shown)
        told = "; ".join(
            f"{', '.join(names)} makes no difference {reason}"
            for reason, names in by_reason.items()
        )
        raise ConfigError(f"{told}. Leave out what changes nothing")


def without_effect(config: Config) -> Reasons:
    """`section.field` of every setting that changes nothing, whatever its value, and why: "to --method joint"."""
    if isinstance(config, Comparison):
        return _of_comparison(config)
    return {
        **_of_data(config),
        **_of_model(config),
        **_of_method(config),
        **_of_optimizer(config),
        **_of_run(config),
    }


def _of_data(config: Config) -> Reasons:
    data, found = config.data, Reasons()
    info = dataset_info(data.dataset)
    if info.name in DATASETS and not info.layout and data.root:
        found["data.root"] = (
            f"to --dataset {info.name}, which is embedded; data of your own: --dataset folder/file.py:function"
        )
    for option in DATASET_OPTIONS:
        if option not in info.options:
            takes = ", ".join(f"--{name}" for name in info.options) or "no such setting"
            found[f"data.{option}"] = f"to --dataset {data.dataset}, which has {takes}"
    if data.protocol == PUBLISHED and info.name in DATASETS:
        found["data.split_seed"] = "to --protocol published, which draws no splits"
        found["train.score_test"] = "to --protocol published, which has no test split"
    return found


def _of_model(config: Config) -> Reasons:
    model, found = config.model, Reasons()
    info = dataset_info(config.data.dataset)
    if model.model:
        reason = f"to --model {model.model}, a network of your own"
        names = (f.name for f in fields(model) if f.name != "model")
        return {f"model.{name}": reason for name in names}
    if info.network is not None:
        reason = f"to --dataset {info.name}, which has one network of its own"
        takes = inspect.signature(load_object(info.network)).parameters
        settings = {
            "encoder": "",
            "fusion": "",
            "width": "width",
            "layers": "layers",
            "padding": "masks_padding",
            "norm": "norm",
        }
        return {
            f"model.{name}": reason for name, argument in settings.items() if argument not in takes
        }
    kinds = {info.encoder if kind == "auto" else kind for kind in model.encoders.values()}
    listed = ", ".join(sorted(kinds))
    if "transformer" not in kinds:
        for name in ("layers", "padding"):
            found[f"model.{name}"] = f"to --encoder {listed}; transformer has it"
    if not kinds & {"mlp", "auto"}:  # what auto is where the data set names none, its samples tell
        found["model.norm"] = f"to --encoder {listed}; mlp has it"
    if model.fusion == "sum":
        found["optimizer.clip_when"] = "to --fusion sum, which has no one head"
    return found


def run_facts(config: Config) -> RunFacts:
    """What a method's settings are judged by."""
    return RunFacts(config.train.epochs, config.optimizer.optimizer, config.data.modality)


def _of_method(config: Config) -> Reasons:
    method, found = config.method, Reasons()
    own = method_entry(method.method)
    for entry in METHODS.values():
        if entry.table != own.table:
            for name in entry.setting_names:
                found[f"{entry.table}.{name}"] = f"to --method {own.name}, which has {own.flags}"
    for name, reason in method.settings.without_effect().items():
        found[f"{own.table}.{name}"] = reason
    if config.data.modality == MULTIMODAL:
        return found
    if own.modalities > 1:
        reason = f"with one modality, {config.data.modality}: nothing is out of balance"
        names = ("method.method", *(f"{own.table}.{name}" for name in own.setting_names))
        found.update(dict.fromkeys((*names, f"method.{COALITIONS}"), reason))
    else:
        found[f"method.{COALITIONS}"] = f"with one modality, {config.data.modality}"
    return found


def _of_optimizer(config: Config) -> Reasons:
    optimizer, found = config.optimizer, Reasons()
    if optimizer.optimizer != "sgd":
        found["optimizer.momentum"] = f"to --optimizer {optimizer.optimizer}"
    for schedule, names in _OF_SCHEDULES.items():
        for name in names:
            if optimizer.schedule != schedule:
                found[f"optimizer.{name}"] = (
                    f"to --schedule {optimizer.schedule}; {schedule} has it"
                )
    if optimizer.schedule == "step" and optimizer.decay_every >= config.train.epochs:
        reason = f"in {config.train.epochs} epochs with --decay-every {optimizer.decay_every}"
        for name in ("schedule", "decay_every", "decay_factor"):
            found[f"optimizer.{name}"] = reason
    if optimizer.clip_norm is None:
        found["optimizer.clip_when"] = "to --clip-norm none"
    return found


def _of_run(config: Config) -> Reasons:
    train, monitor, found = config.train, config.monitor, Reasons()
    named_devices = train.device.count(",") + 1
    if max(named_devices, train.devices) * train.nodes == 1 and not any(
        name in os.environ for name in _LAUNCHED
    ):
        for name in ("timeout", "sync_batch_norm"):
            found[f"train.{name}"] = "to a run of one process; --devices and --nodes say how many"
    if not monitor.competition_every:
        found["monitor.concept"] = "without --competition-every"
    for name in ("shape_every", "competition_every"):
        if getattr(monitor, name) > train.epochs:
            found[f"monitor.{name}"] = f"in {train.epochs} epochs: nothing would be measured"
    if config.data.modality != MULTIMODAL:
        found["monitor.shape_every"] = (
            f"with one modality, {config.data.modality}: there is nothing to divide"
        )
    return found


def _of_comparison(comparison: Comparison) -> Reasons:
    compare, found = comparison.compare, Reasons()
    methods = compare.method_names
    own = {method: _of_compared(comparison, method) for method in methods}
    for name in own[methods[-1]]:
        if all(name in reasons for reasons in own.values()):
            whys = [reasons[name] for reasons in own.values()]
            said = [why for why in whys if why.startswith("beside")]
            found[name] = (
                said[0]
                if said
                else f"to any of --methods {','.join(methods)}"
                if len(set(whys)) > 1
                else whys[0]
            )
    found["method.method"] = "to a comparison; did you mean --methods?"
    found["train.seed"] = "to a comparison; did you mean --seeds?"
    found["data.modality"] = (
        "to a comparison, which is of multimodal models; --mono adds the others"
    )
    if compare.fusions:
        found["model.fusion"] = "beside --fusions"
    if not any(len(compare.grid(method)) > 1 for method in methods):
        found["compare.tune_seeds"] = "without --tune, which chooses among several values"
    if not any("alpha" in method_entry(method).setting_names for method in methods):
        found["compare.alphas"] = f"to --methods {','.join(methods)}, none of which has it"
    return found


def _of_compared(comparison: Comparison, method: str) -> Reasons:
    """What changes nothing in any run of one method of a comparison."""
    compare = comparison.compare
    reasons = [
        without_effect(replace(config, model=replace(config.model, fusion=fusion)))
        for candidate in compare.grid(method)
        for config in [comparison.run_config(method, {**compare.settings_of(method), **candidate})]
        for fusion in comparison.fusion_names
    ]
    found = {
        name: why for name, why in reasons[0].items() if all(name in other for other in reasons)
    }
    said = {*compare.settings_of(method), *compare.grid(method)[0]}
    if compare.alphas and "alpha" in method_entry(method).setting_names:
        said.add("alpha")
    for name in said:
        found.setdefault(
            _field_of(method, name), "beside --set, --tune or --alphas, which say it already"
        )
    return found


def _refuse_idle_assignments(comparison: Comparison) -> None:
    """Refuse what --set and --tune say where another says it, or where it changes nothing in any run.

    Raises:
        ConfigError: names it.
    """
    compare, methods = comparison.compare, comparison.compare.method_names
    seen: dict[tuple[str, str], str] = {}
    for text, owner, name, _ in [*compare.assignments("set"), *compare.assignments("tune")]:
        if (owner, name) in seen:
            raise ConfigError(
                f"{text!r} and {seen[owner, name]!r} of --set and --tune say the same setting; give one"
            )
        seen[owner, name] = text
        meant = [
            method
            for method in methods
            if owner == method or (not owner and name in names_of(method))
        ]
        if compare.alphas and name == "alpha":
            raise ConfigError(
                f"{text!r} sets alpha, and so does --alphas {compare.alphas}; give one of them"
            )
        reasons = []
        for method in meant:
            candidates = [
                {**compare.settings_of(method), **candidate} for candidate in compare.grid(method)
            ]
            for config in (comparison.run_config(method, candidate) for candidate in candidates):
                reasons.append(without_effect(config).get(_field_of(method, name), ""))
        if all(reasons):
            raise ConfigError(
                f"{text!r} makes no difference {reasons[0]}. Leave out what changes nothing"
            )


def _field_of(method: str, name: str) -> str:
    """`section.field` of a setting that is said for one method."""
    if name in method_entry(method).setting_names:
        return f"{table_of(method)}.{name}"
    return f"method.{name}" if name == COALITIONS else f"optimizer.{name}"


def differing(config: Config) -> list[str]:
    """`section.field` of the settings that are not the defaults."""
    parts = {f.name: vars(getattr(config, f.name)) for f in fields(config)}
    defaults = {f.name: vars(getattr(type(config)(), f.name)) for f in fields(config)}
    for name, settings in config.method.tables.items():
        parts[name], defaults[name] = settings.as_table(), type(settings)().as_table()
    return [
        f"{section}.{name}"
        for section, values in parts.items()
        for name, value in values.items()
        if value != defaults[section].get(name) and name not in ("settings", "others")
    ]
