"""The flags of a command: their names and types, which of them were given, and lists that may be spelt in two ways."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from typing import Any, get_args, get_origin, get_type_hints

from gradmod.experiments.errors import ConfigError, closest
from gradmod.experiments.settings.assignments import OF_METHOD, OF_OPTIMIZER

COMMA_LISTS = frozenset(
    {
        "methods",
        "seeds",
        "fusions",
        "alphas",
        "tune_seeds",
        "encoder",
        "lr_factors",
        "patience",
        "uni_modal_weight",
    }
)
"""Settings that are texts and hold several words parted by commas; on the command line, by blanks too."""
ASSIGNMENTS = frozenset({"set", "tune", "launcher_options"})
"""Lists whose items are name=value, where a value may hold commas itself."""
_MEANT = {
    "learning-rate": "lr",
    "gpu": "device",
    "gpus": "devices",
    "output": "out",
    "out-dir": "out",
    "data-root": "root",
    "data": "dataset",
    "random-seed": "seed",
    "ckpt": "checkpoint",
    "wd": "weight-decay",
    "num-workers": "workers",
}
"""What others call some of our flags, where the words are too far apart to be guessed from."""
_SPELT = {"none": "None", "true": "True", "false": "False"}
_NUMBER = re.compile(r"-?\.?\d.*|-?inf|nan")
_SECTIONS = "data|model|method|optimizer|train|monitor|compare"
_SETTING = re.compile(rf"(?<![\w./\\:-])({_SECTIONS})\.([a-z_]+)\b(?!\.\w)")


@dataclass(frozen=True)
class Flag:
    """A flag of a command, or a positional argument.

    Attributes:
        name: without the two hyphens.
        field: `section.field` of the settings that it sets; of a function its parameter.
        kind: its type.
        positional: whether it has a place and no name.
    """

    name: str
    field: str
    kind: Any
    positional: bool = False

    @property
    def shown(self) -> str:
        """What it is called in a message."""
        return self.field if self.positional else f"--{self.name}"

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is tuple


def flags_of(kind: Callable[..., Any]) -> dict[str, Flag]:
    """The flags of a command, which is a dataclass of sections or a function, by name."""
    found: list[Flag] = []
    if is_dataclass(kind):
        for section, section_kind in get_type_hints(kind).items():
            hints = get_type_hints(section_kind)
            for f in fields(section_kind):
                found.append(Flag(_hyphened(f.name), f"{section}.{f.name}", hints[f.name]))
    else:
        hints = get_type_hints(kind, include_extras=True)
        for name in inspect.signature(kind).parameters:
            marks = getattr(hints[name], "__metadata__", ())
            positional = any("positional" in str(mark).lower() for mark in marks)
            plain = get_args(hints[name])[0] if marks else hints[name]
            found.append(Flag(_hyphened(name), name, plain, positional))
    return {flag.name: flag for flag in found}


def given_flags(words: Sequence[str], flags: Mapping[str, Flag]) -> list[Flag]:
    """Those of the flags that the words name, each once."""
    names = dict.fromkeys(name for name, _ in _named(words))
    return [flags[name] for name in names if name in flags]


def in_one_spelling(words: Sequence[str], flags: Mapping[str, Flag]) -> list[str]:
    """The words as the parser wants them: lists spelt in one way, and none, true and false as Python spells them.

    A list is `a,b` or `a b`; the same list flag given twice holds what both say. Lists stand at the end, where they
    cannot swallow an argument that has no flag.

    Raises:
        ConfigError: a flag that there is not; says which was meant.
    """
    rest: list[str] = []
    lists: dict[str, list[str]] = {}
    remaining = list(words)
    while remaining:
        word = remaining.pop(0)
        if not word.startswith("--") or word in ("--", "--help"):
            rest.append(word)
            continue
        written, equals, value = word.partition("=")
        flag = flags.get(_hyphened(written[2:]))
        if flag is None or flag.positional:
            raise ConfigError(f"{written} is unknown{_meant(written[2:], flags)}")
        if not flag.is_list and flag.field.rpartition(".")[2] not in COMMA_LISTS:
            rest += [f"--{flag.name}={_spelt(value, flag)}"] if equals else [f"--{flag.name}"]
            if not equals and remaining and not remaining[0].startswith("--"):
                rest.append(_spelt(remaining.pop(0), flag))
            continue
        values = [value] if equals else []
        numbers = flag.is_list and float in get_args(flag.kind)
        while remaining and not remaining[0].startswith("--"):
            if numbers and not _NUMBER.fullmatch(remaining[0]):
                break
            values.append(remaining.pop(0))
        if flag.is_list:
            lists.setdefault(flag.name, []).extend(
                part for item in values for part in _parts(item, flag)
            )
        elif values:
            rest.append(f"--{flag.name}={','.join(item.strip(',') for item in values)}")
        else:
            rest.append(f"--{flag.name}")
    for name, items in lists.items():
        rest += [f"--{name}", *items]
    return rest


def in_flags(message: str, flags: Mapping[str, Flag]) -> str:
    """A message in which settings are called as the flags that set them: --epochs, not train.epochs."""
    by_field = {flag.field: flag.shown for flag in flags.values()}

    def shown(match: re.Match[str]) -> str:
        return by_field.get(match[0]) or by_field.get(match[2]) or match[0]

    message = _SETTING.sub(shown, message)
    arguments = "|".join(flag.field for flag in flags.values() if "." not in flag.field)
    if not arguments:
        return message
    return re.sub(
        rf"(?:^|(?<= and ))({arguments})(?= is )", lambda match: by_field[match[1]], message
    )


def _named(words: Sequence[str]) -> Iterator[tuple[str, str]]:
    for word in words:
        if word.startswith("--") and len(word) > 2:
            name, _, value = word[2:].partition("=")
            yield _hyphened(name), value


def _meant(name: str, flags: Mapping[str, Flag]) -> str:
    known = [flag.name for flag in flags.values() if not flag.positional]
    if any("." in flag.field for flag in flags.values()):
        known += ["preset", "config"]
    meant = _MEANT.get(_hyphened(name), "")
    meant = meant if meant in known else closest(name, known)
    return f"; did you mean --{meant}?" if meant else ""


def _parts(item: str, flag: Flag) -> list[str]:
    """The items of a list that stand in one word."""
    if flag.field.rpartition(".")[2] not in ASSIGNMENTS:
        return [part for part in item.split(",") if part]
    if flag.name == "launcher-options":
        return re.split(r",(?=\w+=)", item)
    settings = "|".join(sorted(OF_METHOD | OF_OPTIMIZER)).replace("_", "[_-]")
    return re.split(rf",\s*(?=(?:[\w-]+\.)?(?:{settings})=)", item)


def _spelt(word: str, flag: Flag) -> str:
    return word if flag.kind is str else _SPELT.get(word.lower(), word)


def _hyphened(name: str) -> str:
    return name.replace("_", "-")
