"""The settings of a run: frozen dataclasses, one for each section of config.toml, checked when they are made."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

from gradmod.experiments import checks
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.entry import MethodSettings, table_of
from gradmod.experiments.methods.own import UnreadSettings
from gradmod.experiments.methods.registry import method_entry
from gradmod.experiments.own_code import is_own, short_name

# Every command starts by importing this file, so the choices stand here as plain text and not in the modules that they
# name, some of which import torch; tests/experiments/test_config.py checks that both agree.
PROTOCOLS = ("heldout", "published")
SPEAKERS = ("mixed", "disjoint")
LABELS = ("sentiment-2", "sentiment-7", "sentiment", "emotions")
DATASET_OPTIONS = ("frames", "speakers", "aligned", "labels", "video", "embeddings")
FUSIONS = ("late", "sum", "early")
ENCODERS = ("auto", "small-cnn", "resnet18", "mlp", "transformer")
PADDING = ("masked", "published")
COALITIONS = ("auto", "looped", "batched", "reuse", "additive", "shared")
OPTIMIZERS = ("sgd", "adam", "adamw")
SCHEDULES = ("constant", "step", "cosine", "warmup-cosine")
CLIPPING = ("always", "head")
CONCEPTS = ("logits", "features")
PRECISIONS = ("32-true", "bf16-mixed", "16-mixed")
DEFAULT_CLIP_NORM = 5.0
MAX_TIMEOUT = 525_600.0
"""A year, in minutes; times of centuries overflow in the libraries that wait."""

_DEVICE = re.compile(r"auto|cpu|mps|cuda(:\d{1,4}(,\d{1,4})*)?")


@dataclass(frozen=True)
class DataConfig:
    """What is learnt from."""

    dataset: str = "av-digits"
    """Name of the data set; `gradmod list` shows them."""
    root: str = ""
    """Folder (or file) of the data set; not needed where it is embedded."""
    protocol: str = "heldout"
    """heldout: the epoch is chosen on a validation split, the test split is scored once. published: as in the paper,
    the best epoch on the split that is reported."""
    modality: str = "multimodal"
    """multimodal, or the one modality that a mono-modal model is trained on."""
    split_seed: int = 0
    """Seed of the held-out splits; not that of the run, so that runs are scored on the same samples."""
    frames: int = 1
    """CREMA-D: video frames of each clip."""
    speakers: str = "mixed"
    """CREMA-D: mixed, as its files are; disjoint: no actor in two splits."""
    aligned: bool = True
    """UR-Funny: cut every modality where the text begins; false: each where it begins itself."""
    labels: str = "sentiment-2"
    """CMU-MOSEI: sentiment-2 or sentiment-7 classes, sentiment (the number), or emotions (six, any at once)."""
    video: bool = False
    """CMU-MOSEI: read the visual features as a third modality."""
    embeddings: str = ""
    """CMU-MOSEI: text file of GloVe vectors; empty: words start at random."""

    def __post_init__(self) -> None:
        checks.text("data.dataset", self.dataset)
        checks.text("data.root", self.root)
        checks.one_of("data.protocol", self.protocol, PROTOCOLS)
        checks.text("data.modality", self.modality)
        checks.whole("data.split_seed", self.split_seed, 0)
        checks.whole("data.frames", self.frames, 1)
        checks.one_of("data.speakers", self.speakers, SPEAKERS)
        checks.one_of("data.labels", self.labels, LABELS)
        checks.text("data.embeddings", self.embeddings)
        for name in ("aligned", "video"):
            checks.flag(f"data.{name}", getattr(self, name))

    @property
    def short_name(self) -> str:
        """Name as part of a folder's: of a data set of the user's own, the file's."""
        return Path(self.dataset.rpartition(":")[0]).stem if ":" in self.dataset else self.dataset

    @property
    def options(self) -> dict[str, object]:
        """The settings that only some data sets have, where they are not at their default."""
        return {
            f.name: getattr(self, f.name)
            for f in fields(self)
            if f.name in DATASET_OPTIONS and getattr(self, f.name) != f.default
        }


@dataclass(frozen=True)
class ModelConfig:
    """The network."""

    model: str = ""
    """A network of your own, as folder/file.py:function; empty: encoders and a fusion."""
    encoder: str = "auto"
    """Encoder of each modality: auto (the data set's own), small-cnn, resnet18, mlp or transformer; or one for each,
    as in image=small-cnn,table=mlp."""
    fusion: str = "late"
    """late: concatenation, linear head. sum: a head each, added. early: concatenation, MaxOut network, linear head."""
    width: int | None = None
    """Size of the encoder's first layer; none: its own default."""
    layers: int | None = None
    """Layers of a transformer; none: its own default."""
    padding: str = "masked"
    """masked: attention looks away from padding; published: it does not, as in the published networks."""
    norm: bool = False
    """Batch norm in MLPs, before each ReLU."""

    def __post_init__(self) -> None:
        checks.text("model.model", self.model)
        if self.model and not is_own(self.model):
            raise ConfigError(
                f"model.model is {checks.shown(self.model)}; expected folder/file.py:function, a network of your own. "
                "Those that come with gradmod are chosen by --encoder and --fusion"
            )
        checks.text("model.encoder", self.encoder)
        for kind in self.encoders.values():
            checks.one_of("model.encoder", kind, ENCODERS)
        checks.one_of("model.fusion", self.fusion, FUSIONS)
        if self.width is not None:
            checks.whole("model.width", self.width, 1)
        if self.layers is not None:
            checks.whole("model.layers", self.layers, 1)
        checks.one_of("model.padding", self.padding, PADDING)
        checks.flag("model.norm", self.norm)

    @property
    def label(self) -> str:
        """What the network is called in tables: its fusion, or the function that makes it."""
        return short_name(self.model) if self.model else self.fusion

    @property
    def encoders(self) -> dict[str, str]:
        """Encoder by modality; under the empty name the one of all."""
        return {
            m: kind for m, _, kind in (part.rpartition("=") for part in self.encoder.split(","))
        }


@dataclass(frozen=True)
class MethodChoice:
    """How it is trained."""

    method: str = "agm"
    """Training method; `gradmod list` shows them, `gradmod train --help METHOD` its settings."""
    coalitions: str = "auto"
    """How coalitions are evaluated: auto (the cheapest exact way), looped, batched, reuse, additive, or shared
    (approximate where an encoder has batch norm or dropout)."""

    def __post_init__(self) -> None:
        checks.text("method.method", self.method)
        checks.one_of("method.coalitions", self.coalitions, COALITIONS)


@dataclass(frozen=True)
class MethodConfig(MethodChoice):
    """How it is trained, with the settings of the method, which have a table of their own in a file."""

    settings: MethodSettings = None  # type: ignore[assignment]  # None: the method's defaults
    others: Mapping[str, MethodSettings] = field(default_factory=dict, hash=False)
    """Settings of other methods by table, where they are not the defaults: what a comparison's runs are made of, and
    what a file says in vain."""

    def __post_init__(self) -> None:
        super().__post_init__()
        # Code of the user's own is not run by reading its name: what it makes of its settings is asked for later.
        kind = UnreadSettings if is_own(self.method) else method_entry(self.method).settings
        if self.settings is None:
            object.__setattr__(self, "settings", kind())
        if type(self.settings) is not kind and not (
            is_own(self.method) and isinstance(self.settings, MethodSettings)
        ):
            raise ConfigError(
                f"method.settings is {checks.shown(self.settings)}; expected {kind.__name__}, which --method "
                f"{self.method} has"
            )

    @classmethod
    def from_tables(
        cls, method: str, coalitions: str, tables: Mapping[str, MethodSettings]
    ) -> MethodConfig:
        """Of a method, whose settings are in the tables of several; it has its defaults where they are not."""
        own = table_of(method)
        others = {
            name: settings
            for name, settings in tables.items()
            if name != own and settings != type(settings)()
        }
        return cls(method, coalitions, tables.get(own), others)  # type: ignore[arg-type]

    @property
    def tables(self) -> dict[str, MethodSettings]:
        """Settings by table: of the method, and those of others."""
        return {table_of(self.method): self.settings, **self.others}

    def of(self, method: str) -> MethodSettings:
        """The settings of the method called so."""
        found = self.tables.get(table_of(method))
        if found is None:
            return UnreadSettings() if is_own(method) else method_entry(method).settings()
        return found

    def for_method(self, method: str) -> MethodConfig:
        """The same for another method, with its own settings alone."""
        return MethodConfig(method, self.coalitions, self.of(method))


@dataclass(frozen=True)
class OptimizerConfig:
    """Steps."""

    optimizer: str = "sgd"
    """sgd (with momentum), adam or adamw. The latter cancel a constant factor on a gradient: see the card of AGM."""
    lr: float = 0.01
    """Learning rate."""
    momentum: float = 0.9
    """Momentum of sgd."""
    weight_decay: float = 1e-4
    """Weight decay."""
    schedule: str = "constant"
    """Learning rate over epochs: constant, step, cosine or warmup-cosine."""
    decay_every: int = 70
    """Epochs between the decays of the step schedule."""
    decay_factor: float = 0.1
    """Factor of each decay of the step schedule."""
    warmup_epochs: int = 5
    """Epochs of rising learning rate in warmup-cosine."""
    clip_norm: float | None = DEFAULT_CLIP_NORM
    """Largest norm of all gradients together; none: no clipping."""
    clip_when: str = "always"
    """always, or head: only when an entry of the head's weight gradient exceeds clip_norm in size, as published."""

    def __post_init__(self) -> None:
        checks.one_of("optimizer.optimizer", self.optimizer, OPTIMIZERS)
        checks.number("optimizer.lr", self.lr, 0, above=True)
        checks.number("optimizer.momentum", self.momentum, 0, 1)
        checks.number("optimizer.weight_decay", self.weight_decay, 0)
        checks.one_of("optimizer.schedule", self.schedule, SCHEDULES)
        checks.whole("optimizer.decay_every", self.decay_every, 1)
        checks.number("optimizer.decay_factor", self.decay_factor, 0, 1, above=True)
        checks.whole("optimizer.warmup_epochs", self.warmup_epochs, 0)
        if self.clip_norm is not None:
            checks.number("optimizer.clip_norm", self.clip_norm, 0, above=True)
        checks.one_of("optimizer.clip_when", self.clip_when, CLIPPING)


@dataclass(frozen=True)
class TrainConfig:
    """The run."""

    epochs: int = 30
    """Epochs to train."""
    batch_size: int = 64
    """Samples in a step, all processes together."""
    seed: int = 0
    """Seed of the weights, the order of the samples and dropout."""
    device: str = "auto"
    """auto, cpu, mps, cuda, cuda:0, or several as cuda:0,1."""
    devices: int = 1
    """Processes on this machine, one for each device."""
    nodes: int = 1
    """Machines."""
    strategy: str = "auto"
    """auto, or a strategy of Lightning Fabric that has a whole model in each process, such as ddp."""
    timeout: float = 30.0
    """Minutes that the processes of a run wait for one another before they give it up."""
    sync_batch_norm: bool = False
    """Batch norm over the samples of all processes; needs GPUs."""
    precision: str = "32-true"
    """32-true, bf16-mixed or 16-mixed."""
    workers: int | None = None
    """Processes that read data ahead; 0: none; none: what suits data set and machine."""
    log_every: int = 50
    """Steps between lines of scores, ratios and coefficients in metrics.jsonl."""
    save_every: int = 0
    """Steps between checkpoints inside an epoch; 0: only at the end of each epoch."""
    score_test: bool = True
    """Score the test split at the end; false: only the others, as in a run that a setting is chosen by."""
    out: str = "runs"
    """Folder in which run folders are made."""
    name: str = ""
    """Name of the run's folder; empty: made of data set, fusion, method and seed, and made unique."""

    def __post_init__(self) -> None:
        checks.whole("train.epochs", self.epochs, 1)
        checks.whole("train.batch_size", self.batch_size, 2)
        checks.whole("train.seed", self.seed, 0)
        if not isinstance(self.device, str) or not _DEVICE.fullmatch(self.device):
            raise ConfigError(
                f"train.device is {checks.shown(self.device)}; expected auto, cpu, mps, cuda, cuda:0, or several as "
                "cuda:0,1"
            )
        checks.whole("train.devices", self.devices, 1)
        checks.whole("train.nodes", self.nodes, 1)
        checks.text("train.strategy", self.strategy)
        checks.number("train.timeout", self.timeout, 0, MAX_TIMEOUT, above=True)
        checks.flag("train.sync_batch_norm", self.sync_batch_norm)
        checks.one_of("train.precision", self.precision, PRECISIONS)
        if self.workers is not None:
            checks.whole("train.workers", self.workers, 0)
        checks.whole("train.log_every", self.log_every, 1)
        checks.whole("train.save_every", self.save_every, 0)
        checks.flag("train.score_test", self.score_test)
        checks.path("train.out", self.out)
        checks.path("train.name", self.name)
        if "/" in self.name or "\\" in self.name or self.name in (".", ".."):
            raise ConfigError(
                f"train.name is {checks.shown(self.name)}; expected a plain folder name, --out says where it lies"
            )


@dataclass(frozen=True)
class MonitorConfig:
    """What is measured while a run trains, beside its validation; it changes nothing of the training."""

    shape_every: int = 0
    """Epochs between SHAPE scores on the validation split; 0: never."""
    competition_every: int = 0
    """Epochs between competition strengths on the validation split; 0: never. Mono-modal concepts that are missing are
    trained before."""
    concept: str = "logits"
    """What of a mono-modal model the competition strength looks for in the joint feature: its logits or features."""
    concepts: str = ""
    """Folder of the mono-modal concepts, shared by runs; empty: `concepts` beside the run folders."""

    def __post_init__(self) -> None:
        checks.whole("monitor.shape_every", self.shape_every, 0)
        checks.whole("monitor.competition_every", self.competition_every, 0)
        checks.one_of("monitor.concept", self.concept, CONCEPTS)
        checks.path("monitor.concepts", self.concepts)


@dataclass(frozen=True)
class Config:
    """All settings of a run."""

    data: DataConfig = field(default_factory=DataConfig)
    model: ModelConfig = field(default_factory=ModelConfig)
    method: MethodConfig = field(default_factory=MethodConfig)
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    train: TrainConfig = field(default_factory=TrainConfig)
    monitor: MonitorConfig = field(default_factory=MonitorConfig)

    def tables(self) -> dict[str, MethodSettings]:
        """Settings of the method, under the name of its table."""
        return {table_of(self.method.method): self.method.settings}

    def sections(self) -> dict[str, dict[str, Any]]:
        """What its file holds: the sections, and the tables of methods that have settings."""
        found = {f.name: dict(vars(getattr(self, f.name))) for f in fields(self)}
        found["method"] = {f.name: found["method"][f.name] for f in fields(MethodChoice)}
        tables = {name: settings.as_table() for name, settings in self.tables().items()}
        return {**found, **{name: table for name, table in tables.items() if table}}
