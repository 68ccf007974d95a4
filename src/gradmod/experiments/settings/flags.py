"""The flags of a command: their names and types, which of them were given, and lists that may be spelt in two ways."""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any, get_args, get_origin, get_type_hints

from gradmod.experiments.errors import ConfigError, closest
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.entry import LISTED, MethodEntry
from gradmod.experiments.methods.own import SECTIONS
from gradmod.experiments.methods.registry import method_entry, owners_of
from gradmod.experiments.own_code import is_own
from gradmod.experiments.settings.assignments import names_of
from gradmod.experiments.settings.config import MethodChoice

COMMA_LISTS = frozenset({"methods", "seeds", "fusions", "alphas", "tune_seeds", "encoder"})
"""Settings that are texts and hold several words parted by commas; on the command line, by blanks too. Those of methods
are marked as `PerModality`."""
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


@dataclass(frozen=True)
class Flag:
    """A flag of a command, or a positional argument.

    Attributes:
        name: without the two hyphens.
        field: `section.field` of the settings that it sets, of a method's `table.field`; of a function its parameter.
        kind: its type.
        positional: whether it has a place and no name.
        of_method: whether it is a setting of one method.
    """

    name: str
    field: str
    kind: Any
    positional: bool = False
    of_method: bool = False

    @property
    def shown(self) -> str:
        """What it is called in a message."""
        return self.field if self.positional else f"--{self.name}"

    @property
    def is_list(self) -> bool:
        """Whether it takes several values."""
        return get_origin(self.kind) is tuple

    @property
    def holds_commas(self) -> bool:
        """Whether it is one text of several words."""
        marks = getattr(self.kind, "__metadata__", ())
        return LISTED in marks or self.field.rpartition(".")[2] in COMMA_LISTS

    @property
    def parsed(self) -> str:
        """Its name for the parser, to which a method's settings have the method's name before theirs."""
        return _hyphened(self.field) if self.of_method else self.name


def flags_of(kind: Callable[..., Any], methods: Sequence[str] = ()) -> dict[str, Flag]:
    """The flags of a command by name.

    Args:
        kind: a dataclass of sections (see `Config`), or a function.
        methods: the methods that are trained; of a setting's name that several methods have, theirs is meant.
    """
    if is_dataclass(kind):
        return _of_sections(kind, methods)
    hints = get_type_hints(kind, include_extras=True)
    found = {}
    for name in inspect.signature(kind).parameters:
        marks = getattr(hints[name], "__metadata__", ())
        positional = any("positional" in str(mark).lower() for mark in marks)
        plain = get_args(hints[name])[0] if marks else hints[name]
        found[_hyphened(name)] = Flag(_hyphened(name), name, plain, positional)
    return found


def section_kinds(kind: Callable[..., Any]) -> dict[str, type[Any]]:
    """The sections of settings by name; that of the method without what stands in tables of methods."""
    return {**get_type_hints(kind), "method": MethodChoice}


def shown_methods(methods: Sequence[str]) -> list[MethodEntry]:
    """The methods whose flags a command has: those that are trained first, then all others."""
    entries = map(method_entry, dict.fromkeys((*methods, *METHODS)))
    by_table: dict[str, MethodEntry] = {}
    for entry in entries:
        by_table.setdefault(entry.table, entry)
    return list(by_table.values())


def _of_sections(kind: Callable[..., Any], methods: Sequence[str]) -> dict[str, Flag]:
    """Those of sections, `--lr`, and of methods: `--agm.alpha`, and where one run is of one method `--alpha`."""
    found = {
        flag.name: flag
        for section, section_kind in section_kinds(kind).items()
        for flag in _of_section(section, section_kind)
    }
    several, of_every_run = "compare" in section_kinds(kind), set(found)
    for entry in shown_methods(methods):
        for flag in _of_section(entry.table, entry.settings):
            if is_own(entry.name) and flag.name in of_every_run:
                raise ConfigError(
                    f"the setting {flag.name} of {entry.name} is called as the flag --{flag.name} of every run; give "
                    "it another name"
                )
            full = replace(flag, name=_hyphened(flag.field), of_method=True)
            found[full.name] = full
            if not several:
                found.setdefault(flag.name, replace(full, name=flag.name))
    return found


def _of_section(section: str, kind: type[Any]) -> Iterator[Flag]:
    hints = get_type_hints(kind, include_extras=True)
    for f in fields(kind):
        yield Flag(_hyphened(f.name), f"{section}.{f.name}", hints[f.name])


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
        if not flag.is_list and not flag.holds_commas:
            rest += [f"--{flag.parsed}={_spelt(value, flag)}"] if equals else [f"--{flag.parsed}"]
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
            lists.setdefault(flag.parsed, []).extend(
                part for item in values for part in _parts(item, flag, flags)
            )
        elif values:
            rest.append(f"--{flag.parsed}={','.join(item.strip(',') for item in values)}")
        else:
            rest.append(f"--{flag.parsed}")
    for name, items in lists.items():
        rest += [f"--{name}", *items]
    return rest


def in_flags(message: str, flags: Mapping[str, Flag]) -> str:
    """A message in which settings are called as the flags that set them: --epochs, not train.epochs."""
    by_field = {flag.field: flag.shown for flag in flags.values() if not flag.of_method}
    for flag in flags.values():
        short = _hyphened(flag.field.rpartition(".")[2])
        if flag.of_method and short in flags and flags[short].of_method:
            by_field[flag.field] = f"--{short}"
    tables = {flag.field.rpartition(".")[0] for flag in flags.values() if flag.of_method}
    sections = "|".join((*SECTIONS, *sorted(tables)))

    def shown(match: re.Match[str]) -> str:
        return by_field.get(match[0]) or by_field.get(match[2]) or match[0]

    message = re.sub(rf"(?<![\w./\\:-])({sections})\.([a-z_]+)\b(?!\.\w)", shown, message)
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
    owners = owners_of(name.replace("-", "_"))
    if owners and "set" in flags:
        assignments = " or ".join(f"--set {owner}.{name}=VALUE" for owner in owners)
        return f": it is a setting of single methods, {assignments}"
    known = [flag.name for flag in flags.values() if not flag.positional]
    if any("." in flag.field for flag in flags.values()):
        known += ["preset", "config"]
    meant = _MEANT.get(_hyphened(name), "")
    meant = meant if meant in known else closest(name, known)
    return f"; did you mean --{meant}?" if meant else ""


def _parts(item: str, flag: Flag, flags: Mapping[str, Flag]) -> list[str]:
    """The items of a list that stand in one word."""
    if flag.field.rpartition(".")[2] not in ASSIGNMENTS:
        return [part for part in item.split(",") if part]
    if flag.name == "launcher-options":
        return re.split(r",(?=\w+=)", item)
    parts = [other.field.rpartition(".")[::2] for other in flags.values() if other.of_method]
    names = {*(name for _, name in parts), *names_of("joint")}
    settings = "|".join(sorted(names)).replace("_", "[_-]")
    tables = "|".join(sorted({*METHODS, *(table for table, _ in parts)}))
    alone = rf"(?:{tables})(?:\.(?:{settings}))?\s*(?:,|$)"
    return re.split(rf",\s*(?=(?:[\w-]+\.)?(?:{settings})=|{alone})", item)


def _spelt(word: str, flag: Flag) -> str:
    return word if flag.kind is str else _SPELT.get(word.lower(), word)


def _hyphened(name: str) -> str:
    return name.replace("_", "-")
