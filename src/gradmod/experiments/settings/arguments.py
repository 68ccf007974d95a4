"""Command-line arguments to typed values: tyro parses, its boxed errors become one line."""

from __future__ import annotations

import contextlib
import functools
import io
import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import field, fields, make_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, TypeVar, cast

import tyro

from gradmod.experiments.errors import ConfigError
from gradmod.experiments.methods.catalogue import METHODS
from gradmod.experiments.methods.registry import method_entry, read_settings
from gradmod.experiments.own_code import is_own
from gradmod.experiments.settings.assignments import words as words_of
from gradmod.experiments.settings.boxed_errors import one_line
from gradmod.experiments.settings.comparison import ALL, Comparison
from gradmod.experiments.settings.config import Config, MethodChoice, MethodConfig
from gradmod.experiments.settings.flags import (
    Flag,
    flags_of,
    given_flags,
    in_one_spelling,
    section_kinds,
    shown_methods,
)
from gradmod.experiments.settings.presets import preset_names, preset_path, presets
from gradmod.experiments.settings.relevance import refuse_without_effect
from gradmod.experiments.settings.toml import (
    Settings,
    read_sections,
    refuse_unnamed_code,
    settings_from_sections,
)

T = TypeVar("T")
OF_METHODS = """
settings of a method, without its name where it is the one that is trained: --method agm --alpha 0.3
  gradmod train --help METHOD shows one method
"""
SETTINGS_FILES = """
settings from a file, which flags win over:
  --preset NAME   settings that come with the package: {}
  --config FILE   a TOML file, such as the config.toml of a run
"""
_STYLE = (tyro.conf.FlagConversionOff,)


def parse(
    function: Callable[..., T], arguments: Sequence[str], prog: str, *, more_help: str = ""
) -> T:
    """Parse `arguments` into what a function takes, and call it.

    It is called when everything is parsed: what it prints is not the parser's.

    Args:
        function: what takes them.
        arguments: the words.
        prog: the command, for messages.
        more_help: what --help says below the flags.

    Raises:
        ConfigError: an argument is unknown, missing or of the wrong type; one line.
        SystemExit: after --help.
    """
    flags = flags_of(function)
    call = _parsed(_deferred(function), arguments, flags, prog, more_help=more_help)
    return cast(T, call())


def _parsed(
    kind: Callable[..., Any],
    arguments: Sequence[str],
    flags: Mapping[str, Flag],
    prog: str,
    *,
    default: Any = tyro.MISSING_NONPROP,
    more_help: str = "",
) -> Any:
    complaint = io.StringIO()
    try:
        words = in_one_spelling(arguments, flags)
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, args=words, prog=prog, default=default, config=_STYLE)
    except SystemExit as stop:
        if stop.code in (0, None):
            print(more_help, end="")
            raise
        message = one_line(complaint.getvalue())
        for flag in given_flags(arguments, flags):
            message = message.replace(f"--{flag.parsed}", flag.shown)
        raise ConfigError(f"{message} (see {prog} --help)") from None
    except ConfigError as error:
        raise ConfigError(f"{error} (see {prog} --help)") from None


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

    The flags are those of the sections and of all methods (`--agm.alpha`); the settings of the method that is trained
    are flags without its name, too (`--alpha`).

    Args:
        arguments: the words.
        prog: the command, for messages.
        default: what neither names is as in this.
        more_help: examples, below the flags of --help.

    Raises:
        ConfigError: see `parse`, `load_settings` and `preset_path`; or both are given; or a flag makes no difference.
    """
    rest, path = _without_file(arguments)
    # A comparison is of --methods, and says so of --method below.
    method = "" if isinstance(default, Comparison) else value_of("method", rest)
    if method:
        method_entry(method)
    if path is not None:
        default = _from_file(path, default, rest, method)
    elif method:
        choice = default.method
        chosen = MethodConfig.from_tables(method, choice.coalitions, choice.tables)
        default = replace(default, method=chosen)
    methods = [default.method.method]
    if isinstance(default, Comparison):
        said = [*METHODS] if (named := values_of("methods", rest)) == [ALL] else named
        compared = [name for name in said if is_own(name) or name in METHODS]
        methods = compared or [*default.compare.method_names]
    flags = flags_of(type(default), methods)
    of_methods = "" if isinstance(default, Comparison) else OF_METHODS
    more_help = of_methods + SETTINGS_FILES.format(", ".join(presets())) + more_help
    kind = _parsed_kind(default, methods)
    parsed = _parsed(kind, rest, flags, prog, default=kind(), more_help=more_help)
    config = _config_of(parsed, default, methods)
    refuse_without_effect(config, given_flags(rest, flags))
    return config


def _from_file(path: Path, default: Settings, words: Sequence[str], method: str) -> Settings:
    """Settings of a file, whose code is run where the words name it again, or something in its place.

    Raises:
        ConfigError: the file names code that they do not; see `settings_from_sections`.
    """
    sections = read_sections(path)
    named = {name for name in ("dataset", "model", "method") if value_of(name, words)}
    compared = values_of("methods", words)
    if isinstance(default, Comparison):
        named.add("method")  # which a comparison does not train
    if compared:
        named.add("methods")
        in_file = sections.get("compare")
        if isinstance(in_file, dict) and any(map(is_own, words_of(str(in_file.get("methods"))))):
            sections["compare"] = {**in_file, "methods": ",".join(compared)}
    refuse_unnamed_code(sections, path, named)
    return settings_from_sections(sections, str(path), default, method, code=True)


def method_help(name: str) -> str:
    """What is known of a method, and its flags, as --help shows them.

    Raises:
        ConfigError: there is none of that name.
    """
    entry = method_entry(name, "the method")
    head = "\n".join(
        [entry.name, *(line.replace("**", "").replace("`", "") for line in entry.head())]
    )
    if not entry.setting_names:
        return f"{head}\n\nIt has no settings of its own.\n"
    told = io.StringIO()
    with contextlib.suppress(SystemExit), contextlib.redirect_stdout(told):
        tyro.cli(
            entry.settings, args=["--help"], prog=f"gradmod train --method {name}", config=_STYLE
        )
    return f"{head}\n\n{told.getvalue()}"


def _without_file(arguments: Sequence[str]) -> tuple[list[str], Path | None]:
    """The words without `--config FILE` and `--preset NAME`, and the file.

    Raises:
        ConfigError: there are two; or no name, or one of no preset.
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
    return rest, paths[0] if paths else None


def value_of(name: str, words: Sequence[str]) -> str:
    """The value that the words give a flag, the last one; empty: none."""
    found = ""
    for flag, following in zip(words, [*words[1:], ""], strict=False):
        if flag == f"--{name}" and not following.startswith("--"):
            found = following
        elif flag.startswith(f"--{name}="):
            found = flag.partition("=")[2]
    return found


def values_of(name: str, words: Sequence[str]) -> list[str]:
    """The values that the words give a flag that holds a list, parted by commas or blanks; the last such flag's."""
    found: list[str] = []
    for position, word in enumerate(words):
        flag, equals, value = word.partition("=")
        if flag == f"--{name}":
            behind = itertools.takewhile(
                lambda other: not other.startswith("--"), words[position + 1 :]
            )
            found = words_of(",".join([value] if equals else behind))
    return found


def _parsed_kind(default: Config, methods: Sequence[str]) -> type[Any]:
    """What tyro parses: the sections without their names, and a table for each method, under its name."""
    parts: list[Any] = []
    for section, kind in section_kinds(type(default)).items():
        value = getattr(default, section)
        if section == "method":
            value = MethodChoice(value.method, value.coalitions)
        unprefixed: Any = Annotated[kind, tyro.conf.OmitArgPrefixes]
        parts.append((section, unprefixed, field(default=value)))
    for entry in shown_methods(methods):
        value = read_settings(entry.name, default.method.of(entry.name))
        # A name with a dot is the parser's for what lies in a part, so a part is called as Python calls it.
        parts.append((_identifier(entry.table), entry.settings, field(default=value)))
    return make_dataclass(type(default).__name__, parts, frozen=True)


def _config_of(parsed: Any, default: Settings, methods: Sequence[str]) -> Settings:
    """The settings from what tyro parsed, see `_parsed_kind`."""
    sections = {f.name: getattr(parsed, f.name) for f in fields(default)}
    choice = sections["method"]
    tables = {
        entry.table: getattr(parsed, _identifier(entry.table)) for entry in shown_methods(methods)
    }
    method = default.method.method
    sections["method"] = MethodConfig.from_tables(method, choice.coalitions, tables)
    return replace(default, **sections)


def _identifier(table: str) -> str:
    return table.replace("-", "_")
