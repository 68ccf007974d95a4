"""Command-line arguments to typed values: tyro parses, its boxed errors become one line."""

from __future__ import annotations

import contextlib
import functools
import io
import re
from collections.abc import Callable, Sequence
from dataclasses import is_dataclass
from pathlib import Path
from typing import Any, TypeVar, cast

import tyro

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.settings.config import Config
from gradmod.experiments.settings.flags import flags_of, given_flags, in_one_spelling
from gradmod.experiments.settings.presets import preset_names, preset_path, presets
from gradmod.experiments.settings.relevance import refuse_without_effect
from gradmod.experiments.settings.toml import Settings, load_settings, refuse_unnamed_code

T = TypeVar("T")
_BOX = "╭╮╰╯│─├┤-"
SETTINGS_FILES = """
settings from a file, which flags win over:
  --preset NAME   settings that come with the package: {}
  --config FILE   a TOML file, such as the config.toml of a run
"""
_STYLE = (tyro.conf.OmitArgPrefixes, tyro.conf.FlagConversionOff)


def parse(
    kind: Callable[..., T],
    arguments: Sequence[str],
    prog: str,
    default: Any = tyro.MISSING_NONPROP,
    *,
    more_help: str = "",
) -> T:
    """Parse `arguments` into what `kind` (a dataclass or a function) takes, and call it.

    A function is called when everything is parsed: what it prints is not the parser's.

    Args:
        kind: what takes them.
        arguments: the words.
        prog: the command, for messages.
        default: of a dataclass, what the words leave out.
        more_help: what --help says below the flags.

    Raises:
        ConfigError: an argument is unknown, missing or of the wrong type; one line.
        SystemExit: after --help.
    """
    flags = flags_of(kind)
    made: Callable[..., Any] = kind if is_dataclass(kind) else _deferred(kind)
    complaint = io.StringIO()
    try:
        words = in_one_spelling(arguments, flags)
        with contextlib.redirect_stderr(complaint):
            parsed = tyro.cli(made, args=words, prog=prog, default=default, config=_STYLE)
    except SystemExit as stop:
        if stop.code in (0, None):
            print(more_help, end="")
            raise
        raise ConfigError(one_line(complaint.getvalue()) + f" (see {prog} --help)") from None
    except ConfigError as error:
        raise ConfigError(f"{error} (see {prog} --help)") from None
    return cast(T, parsed if is_dataclass(kind) else parsed())


def _deferred(function: Callable[..., T]) -> Callable[..., Callable[[], T]]:
    """A function with the same arguments that gives back the call in place of making it."""

    @functools.wraps(function)
    def call_of(*args: Any, **kwargs: Any) -> Callable[[], T]:
        return functools.partial(function, *args, **kwargs)

    return call_of


def parse_config(arguments: Sequence[str], prog: str, more_help: str = "") -> Config:
    """Settings of a run; see `parse_settings`."""
    return parse_settings(arguments, prog, Config(), more_help)


def parse_settings(
    arguments: Sequence[str], prog: str, default: Settings, more_help: str = ""
) -> Settings:
    """Settings from `--config FILE.toml` or `--preset NAME`, if given, and the flags, which win over the file.

    Args:
        arguments: the words.
        prog: the command, for messages.
        default: what neither names is as in this.
        more_help: examples, below the flags of --help.

    Raises:
        ConfigError: see `parse`, `load_settings` and `preset_path`; or both are given; or a flag makes no difference.
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
            raise ConfigError(
                "--config needs the name of a TOML file" if flag == "--config" else preset_names()
            )
        paths.append(Path(name) if flag == "--config" else preset_path(name))
    if len(paths) > 1:
        raise ConfigError(
            "--config and --preset are given more than once together; give one, and flags for what differs"
        )
    if paths:
        default = load_settings(paths[0], default)
    config = parse(
        type(default),
        rest,
        prog,
        default,
        more_help=SETTINGS_FILES.format(", ".join(presets())) + more_help,
    )
    if paths:
        refuse_unnamed_code(config, paths[0], _dataset_in(rest))
    refuse_without_effect(config, given_flags(rest, flags_of(type(default))))
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
    message = (
        re.sub(r"^Error parsing (--[\w-]+):", r"\1:", message).split(" Got errors:")[0].rstrip(".")
    )
    for paragraph in paragraphs[1:]:
        if paragraph and paragraph[0].startswith("Perhaps you meant"):
            flag = next(
                (word for line in paragraph for word in line.split() if word.startswith("--")), ""
            )
            message += f"; did you mean {flag}?" if flag else ""
    return message or "the arguments cannot be understood"
