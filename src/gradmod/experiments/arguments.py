"""Command-line arguments to typed values: tyro parses, its boxed errors become one line."""

from __future__ import annotations

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from gradmod.errors import ConfigError
from gradmod.experiments.config import Config
from gradmod.experiments.presets import preset_names, preset_path
from gradmod.experiments.toml import NONE, Settings, load_settings, refuse_unnamed_code

T = TypeVar("T")
_BOX = "╭╮╰╯│─├┤-"
_WORDS = {NONE: "None", "true": "True", "false": "False"}
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)


def parse(kind: Callable[..., T], arguments: Sequence[str], prog: str, default: Any = tyro.MISSING_NONPROP) -> T:
    """Parse `arguments` into what `kind` (a dataclass or a function) takes, and call it.

    Raises:
        ConfigError: an argument is unknown, missing or of the wrong type; one line.
        SystemExit: after --help.
    """
    words = [_spelt(argument) for argument in arguments]
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, prog=prog, default=default, config=_STYLE)
    except SystemExit as stop:
        if stop.code in (0, None):
            raise
        raise ConfigError(one_line(complaint.getvalue()) + f" (see {prog} --help)") from None


def parse_config(arguments: Sequence[str], prog: str) -> Config:
    """Settings of a run; see `parse_settings`."""
    return parse_settings(arguments, prog, Config())


def parse_settings(arguments: Sequence[str], prog: str, default: Settings) -> Settings:
    """Settings from `--config FILE.toml` or `--preset NAME`, if given, and the flags, which win over the file.

    Args:
        arguments: the words.
        prog: the command, for messages.
        default: what neither names is as in this.

    Raises:
        ConfigError: see `parse`, `load_settings` and `preset_path`; or both are given.
    """
    rest: list[str] = []
    paths: list[Path] = []
    words = iter(arguments)
    for word in words:
        flag, equals, value = word.partition("=")
        if flag not in ("--config", "--preset"):
            rest.append(word)
            continue
        name = value if equals else next(words, None)
        if not name:
            raise ConfigError("--config needs the name of a TOML file" if flag == "--config" else preset_names())
        paths.append(Path(name) if flag == "--config" else preset_path(name))
    if len(paths) > 1:
        raise ConfigError(
            "--config and --preset are given more than once together; give one, and flags for what differs"
        )
    if paths:
        default = load_settings(paths[0], default)
    config = parse(type(default), rest, prog, default)
    if paths:
        refuse_unnamed_code(config, paths[0], _dataset_in(rest))
    return config


def _dataset_in(words: Sequence[str]) -> str:
    """The data set that the words name; empty: none."""
    for flag, following in zip(words, [*words[1:], ""], strict=False):
        if flag == "--dataset":
            return following
        if flag.startswith("--dataset="):
            return flag.partition("=")[2]
    return ""


def one_line(boxed: str) -> str:
    """The message of a boxed error of tyro's: its first paragraph, and what it thinks was meant.

    On a terminal of UTF-8 the box's upper edge holds the title; elsewhere the title is a paragraph of its own.
    """
    text = re.sub(r"\x1b\[[0-9;]*m", "", boxed)
    paragraphs: list[list[str]] = [[]]
    for line in text.splitlines():
        content = line.strip().strip("│").strip()
        if line.lstrip()[:1] in "╭╰" and line.strip():
            continue
        if content and set(content) <= set(_BOX):
            paragraphs.append([])
        elif content:
            paragraphs[-1].append(content)
    if "╭" not in text and len(paragraphs) > 1:
        del paragraphs[0]
    message = " ".join(paragraphs[0])
    message = re.sub(r"^Error parsing \w+: (?=\w+\.\w+)", "", message)
    message = re.sub(r"^Error parsing (--[\w-]+):", r"\1:", message).split(" Got errors:")[0].rstrip(".")
    for paragraph in paragraphs[1:]:
        if paragraph and paragraph[0].startswith("Perhaps you meant"):
            flag = next((word for line in paragraph for word in line.split() if word.startswith("--")), "")
            message += f"; did you mean {flag}?" if flag else ""
    return message or "the arguments cannot be understood"


def _spelt(argument: str) -> str:
    """Spell none, true and false the way tyro wants them: they are the same words in files and on the command line."""
    flag, equals, value = argument.partition("=")
    if equals and flag.startswith("--"):
        return f"{flag}={_WORDS.get(value.lower(), value)}"
    return _WORDS.get(argument.lower(), argument)
