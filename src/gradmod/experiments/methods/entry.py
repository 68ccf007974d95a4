"""What is known of a method before torch is imported: its settings, and what `gradmod list` says of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, fields, replace
from typing import Annotated, Any, ClassVar, NamedTuple

from gradmod.experiments import checks
from gradmod.experiments.errors import ConfigError
from gradmod.experiments.own_code import short_name

LISTED = "parts with commas"
"""Marks a text whose parts may be parted by blanks on the command line."""
PerModality = Annotated[str, LISTED]
"""One number for all modalities, or one for each by name: `audio=1.3,visual=0.7`."""
MULTIMODAL = "multimodal"
TASKS = ("classes", "labels", "numbers")


class RunFacts(NamedTuple):
    """What a method's settings are judged by: how long the run is, its optimizer, and the modality it is trained on."""

    epochs: int
    optimizer: str
    modality: str = MULTIMODAL


@dataclass(frozen=True)
class MethodSettings:
    """Settings of a method: a frozen dataclass, whose docstrings are the help of its flags; this one has none.

    Values are checked in `__post_init__`, which names them as `agm.alpha`.
    """

    def arguments(self) -> dict[str, Any]:
        """What the method's class is given, beside the modalities and, where it takes one, a seed."""
        return {f.name: getattr(self, f.name) for f in fields(self)}

    def as_table(self) -> dict[str, Any]:
        """Name and value of each, as in a file."""
        return dict(vars(self))

    def changed(self, **values: Any) -> MethodSettings:
        """With other values.

        Raises:
            ConfigError: one of them cannot be.
        """
        try:
            return replace(self, **values)
        except ConfigError:
            raise
        except ValueError as error:  # of settings of the user's own
            raise ConfigError(str(error)) from None

    def without_effect(self) -> dict[str, str]:
        """Settings that change nothing beside the others, and why: "to --rule keep"."""
        return {}

    def notes(self, run: RunFacts) -> list[str]:
        """What a user should know before training starts; a line each."""
        return []

    def check_run(self, run: RunFacts) -> None:
        """Refuse a run in which the method would never act.

        Raises:
            ConfigError: says why.
        """


@dataclass(frozen=True, kw_only=True)
class WindowedSettings(MethodSettings):
    """Of a method that acts in a window of epochs; `check_window` belongs into its `__post_init__`.

    Attributes:
        method: its name, for messages; every class says its own.
    """

    method: ClassVar[str] = ""

    starts: int | None = None
    """First epoch that is modulated, counted from 1; none: the first."""
    ends: int | None = None
    """Last epoch that is modulated; none: the last."""

    def check_window(self) -> None:
        """Check both ends.

        Raises:
            ConfigError: the window is empty.
        """
        for name in ("starts", "ends"):
            if getattr(self, name) is not None:
                checks.whole(f"{self.method}.{name}", getattr(self, name), 0)
        if self.ends is not None and self.ends < (self.starts or 1):
            raise ConfigError(
                f"{self.method}.ends is {self.ends}; expected at least {self.starts or 1}, the first epoch that is "
                "modulated (for no modulation at all: --method joint)"
            )

    def arguments(self) -> dict[str, Any]:
        """The window as the one argument `epochs`."""
        given = super().arguments()
        starts, ends = given.pop("starts"), given.pop("ends")
        window = None if starts is None and ends is None else (max(starts or 1, 1), ends)
        return {**given, "epochs": window}

    def check_run(self, run: RunFacts) -> None:
        """Refuse a window that begins after the run.

        Raises:
            ConfigError: it does.
        """
        if (self.starts or 1) > run.epochs:
            raise ConfigError(
                f"{self.method}.starts is {self.starts}, after the last of {run.epochs} epochs: {self.method} would be "
                "joint training. Start earlier, or train longer"
            )

    def notes(self, run: RunFacts) -> list[str]:
        """That the run goes on after the window."""
        if self.ends is None or self.ends >= run.epochs:
            return []
        return [
            f"{self.method.upper()} modulates up to epoch {self.ends} of {run.epochs}; after it training is joint"
        ]


@dataclass(frozen=True)
class MethodEntry:
    """What `gradmod list`, `gradmod train --help METHOD` and the card say of a method.

    Attributes:
        name: on the command line, and of its table of settings in a file.
        factory: "module:Class".
        settings: their type.
        summary: one line.
        paper: where it is from; empty: nowhere.
        cost: what a step costs beside that of joint training.
        mechanism: what it acts on: the loss, gradients, the forward, the optimizer, or the schedule of a run.
        needs: what it cannot do without: values of `gradmod.methods.Need`.
        modalities: the least number of modalities that it does anything with.
        tasks: the targets that it works for.
        search: by setting the values that `--tune METHOD` tries, the default first. Settings of the optimizer may be
            among them.
    """

    name: str
    factory: str
    settings: type[MethodSettings]
    summary: str
    paper: str
    cost: str
    mechanism: str = "not said"
    needs: tuple[str, ...] = ()
    modalities: int = 2
    tasks: tuple[str, ...] = TASKS
    search: Mapping[str, tuple[Any, ...]] = field(default_factory=dict)

    @property
    def table(self) -> str:
        """The table that its settings have in a file."""
        return table_of(self.name)

    @property
    def setting_names(self) -> tuple[str, ...]:
        """Names of its settings."""
        return tuple(f.name for f in fields(self.settings))

    @property
    def flags(self) -> str:
        """Its flags, for messages."""
        names = (f"--{name.replace('_', '-')}" for name in self.setting_names)
        return ", ".join(names) or "no settings"

    def row(self) -> str:
        """Its row of the table of all methods."""
        cells = (
            f"[{self.name}]({self.name}.md)",
            self.mechanism,
            self.summary,
            self.cost,
            ", ".join(self.needs) or "nothing",
            ", ".join(self.tasks),
            f"{self.modalities} or more",
        )
        return f"| {' | '.join(cells)} |"

    def head(self) -> list[str]:
        """The lines that its card begins with."""
        return [
            f"- **What it does:** {self.summary}",
            f"- **From:** {self.paper or 'no single paper'}",
            f"- **Costs:** {self.cost}",
            f"- **Needs:** {', '.join(self.needs) or 'nothing of the network'}",
            f"- **Targets:** {', '.join(self.tasks)}",
            f"- **Modalities:** {self.modalities} or more",
            *(
                f"- **`--tune {self.name}` tries:** `{setting}` {', '.join(map(str, values))}"
                for setting, values in self.search.items()
            ),
        ]


def table_of(method: str) -> str:
    """The table of settings of the method called so: `agm`; of code of the user's, file.py:Class, it is `Class`."""
    return short_name(method)
