"""A script's `Config` dataclass becomes its command line; presets are TOML files in configs/.

Precedence, lowest first: the dataclass's defaults, `--preset NAME` (configs/NAME.toml), `--config FILE`,
flags. A TOML file has a table `[system]` that all scripts share and one table a script, named after it.
"""

import argparse
import contextlib
import dataclasses
import difflib
import re
import sys
import tomllib
import types
import typing
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NoReturn, TypeVar

from gpuion.errors import CODES, ConfigError, GpuionError, fail

C = TypeVar("C")

_LARGEST = 2**13  # bytes of a file: keys of many dots take memory by the square of their number
_TABLES = ("system", "simulate", "train", "anneal")
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}
_SYSTEM = ("particles", "box", "volume_fraction", "sites_per_voxel", "seed", "device")


def option(default: Any, text: str, **metadata: Any) -> Any:
    """Declare a configuration field: its default, its help text, and what `parse` should know of it.

    Metadata: `identity=False` if the value does not change the result; `file_only=True` if there is no flag;
    `flags={"--flag": value}` for flags that set the field to a constant; `choices=(…)`; `words=(…)` that a number's
    field takes, too; `aliases=(…)`, other names of the flag; `metavar="PATH"`, what its value is called; `group="…"`,
    the heading in `--help` of this field and of those after it.
    """
    return dataclasses.field(default=default, metadata={"help": text, **metadata})


class Help(argparse.RawDescriptionHelpFormatter):
    """Help with the default of each flag that has one and does not speak of it."""

    def _get_help_string(self, action: argparse.Action) -> str:
        text = action.help or ""
        if not action.option_strings or "default" in text or not _is_told(action.default):
            return text
        return f"{text} (default: {_shown(action.default)})".strip()

    def _get_default_metavar_for_optional(self, action: argparse.Action) -> str:
        return _METAVARS.get(action.type or str, super()._get_default_metavar_for_optional(action))


class Parser(argparse.ArgumentParser):
    """An argument parser whose errors are one line that names the nearest flag or choice, and exit code 2."""

    def __init__(self, **options: Any) -> None:
        plain: dict[str, Any] = {"formatter_class": Help, "allow_abbrev": False, "epilog": CODES}
        super().__init__(**(plain | options))

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Remember the arguments too, for errors to look at."""
        self._given = list(sys.argv[1:] if args is None else args)
        return super().parse_known_args(args, namespace)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and exit."""
        unknown = message.split(": ", 1)[1].split() if "unrecognized arguments:" in message else []
        if "arguments are required:" in message:  # perhaps there, but misspelt
            unknown = [word for word in self._given if word.startswith("--") and word.split("=")[0] not in _flags(self)]
        if unknown:
            flag = next((word for word in unknown if word.startswith("-")), "").split("=")[0]
            names = [name.lstrip("-") for name in _flags(self)]
            near = _nearest(flag.lstrip("-"), names, "--")
            message = f"unknown flag {flag}{near}" if flag else f"no use for {' '.join(unknown)}"
        chosen = re.search(r"invalid choice: '?(.*?)'? \(choose from (.*)\)", message)
        if chosen:
            message += _nearest(chosen[1], re.findall(r"[^\s,']+", chosen[2]))
        fail(f"{message} (see {self.prog} --help)", 2)


def parse(
    cls: type[C], root: Path, doc: str, argv: list[str] | None = None, prog: str | None = None, ends: str = CODES
) -> C:  # fmt: skip
    """Return a `cls` filled from defaults, preset, config file and flags, in that order; `prog` is for messages.

    `ends` tells the exit codes in --help.

    Raises
    ------
    ConfigError
        For an unknown preset, an unreadable file, an unknown key or a value of the wrong type.
    """
    called = Path(sys.argv[0])
    parser = Parser(prog=prog or called.name, description=doc, epilog=ends)
    files = parser.add_argument_group("settings from files, which flags go before")
    known = ", ".join(sorted(path.stem for path in (root / "configs").glob("*.toml")))
    files.add_argument("--preset", metavar="NAME", help=f"a file of configs/ without its ending: {known}")
    files.add_argument("--config", metavar="PATH", type=Path, help="a TOML file like those, read after the preset")
    home, homes = typing.cast(Any, parser), dict[str, Any]()
    for field, kind in _fields(cls):
        title = field.metadata.get("group")
        if title and title not in homes:
            homes[title] = parser.add_argument_group(title)
        home = homes.get(title, home)
        _add_flag(home, field, kind)
    given = vars(parser.parse_args(argv))
    preset, file = given.pop("preset"), given.pop("config")
    values: dict[str, Any] = {}
    if preset is not None:
        values |= read_preset(root, preset, called.stem, cls)
    if file is not None:
        values |= _read(file, called.stem, cls)
    config = cls(**{**values, **given})
    if not 0 <= getattr(config, "seed", 0) < 2**63:
        raise ConfigError(f"seed must lie in [0, 2⁶³), got {getattr(config, 'seed', 0)}")
    return config


@contextlib.contextmanager
def settings() -> Iterator[None]:
    """Take a ValueError for one of what was asked for: bad use, as a ConfigError is."""
    try:
        yield
    except GpuionError:
        raise
    except ValueError as error:
        raise ConfigError(str(error)) from None


def check_least(config: Any, **least: int) -> None:
    """Refuse a configuration in which a number that was given is below the least it may be."""
    for name, low in least.items():
        if getattr(config, name) is not None and getattr(config, name) < low:
            raise ConfigError(f"{name} must be at least {low}, got {getattr(config, name)}")


def read_preset(root: Path, preset: str, script: str, cls: type) -> dict[str, Any]:
    """Return the values that configs/<preset>.toml holds for a script."""
    known = sorted(path.stem for path in (root / "configs").glob("*.toml"))
    if preset not in known:
        near = _nearest(preset, known)
        raise ConfigError(f"preset {preset!r} is unknown; there are {', '.join(known) or 'none'}{near}")
    return _read(root / "configs" / f"{preset}.toml", script, cls)


def _flags(parser: argparse.ArgumentParser) -> list[str]:
    """Return the flags of a parser and of its commands."""
    own = list(vars(parser)["_option_string_actions"])
    commands = [action.choices for action in vars(parser)["_actions"] if isinstance(action.choices, dict)]
    return [*own, *(flag for names in commands for command in names.values() for flag in _flags(command))]


def _fields(cls: type) -> list[tuple[Any, Any]]:
    hints = typing.get_type_hints(cls)
    return [(field, hints[field.name]) for field in dataclasses.fields(cls)]


def _plain(kind: Any) -> Any:
    """Strip `| None` from a type."""
    if isinstance(kind, types.UnionType):
        kind = next(arg for arg in typing.get_args(kind) if arg is not type(None))
    return kind


def _add_flag(parser: Any, field: Any, kind: Any) -> None:
    if "flags" in field.metadata:
        for flag, value in field.metadata["flags"].items():
            parser.add_argument(
                flag, dest=field.name, action="store_const", const=value, default=argparse.SUPPRESS,
                help=field.metadata["help"],
            )  # fmt: skip
        return
    if field.metadata.get("file_only"):
        return
    kind = _plain(kind)
    options: dict[str, Any] = {"default": argparse.SUPPRESS, "dest": field.name}
    told = f" (default: {_shown(field.default)})" if _is_told(field.default) else ""
    options["help"] = (field.metadata["help"] + told).replace("%", "%%")
    first = typing.get_args(kind)[0] if typing.get_origin(kind) in {tuple, types.UnionType} else kind
    metavar = field.metadata.get("metavar") or _METAVARS.get(first)
    if kind is bool:
        options["action"] = argparse.BooleanOptionalAction
    elif typing.get_origin(kind) is tuple:
        options |= {
            "nargs": "+",
            "type": first,
            "action": _Tuple,
            "metavar": field.metadata.get("metavar") or _METAVARS.get(first),
        }
    else:
        if not field.metadata.get("choices"):
            options["metavar"] = metavar
        options |= {"type": _reader(kind, field.metadata.get("words")), "choices": field.metadata.get("choices")}
    names = (field.name, *field.metadata.get("aliases", ()))
    parser.add_argument(*("--" + name.replace("_", "-") for name in names), **options)


def _is_told(value: Any) -> bool:
    """Return whether help names a default: not if a flag is off, or nothing is given."""
    return not (value is None or value is False or value in ("", [], (), argparse.SUPPRESS))


def _shown(value: Any) -> str:
    """Return a default as one would give it."""
    if isinstance(value, list | tuple):
        return " ".join(map(_shown, value))
    return f"{value:g}" if isinstance(value, float) and value.is_integer() else str(value)


def _reader(kind: Any, words: tuple[str, ...] | None) -> Any:
    """Return what makes a value of an argument's text; argparse calls it by its name in errors."""
    if not words:
        return kind

    def read(text: str) -> Any:
        return text if text in words else kind(text)

    read.__name__ = " or ".join([kind.__name__, *words])
    return read


class _Tuple(argparse.Action):
    """Store a list of arguments as a tuple."""

    def __call__(self, _parser: Any, namespace: Any, values: Any, _flag: str | None = None) -> None:
        setattr(namespace, self.dest, tuple(values))


def _read(path: Path, script: str, cls: type) -> dict[str, Any]:
    try:
        with path.open("rb") as file:
            text = file.read(_LARGEST + 1)
        tables = tomllib.loads(text.decode("utf8")) if len(text) <= _LARGEST else None
    except OSError as error:
        raise ConfigError(f"cannot read {path}: {error.strerror}") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} is not valid TOML: {error}") from None
    if tables is None:
        raise ConfigError(f"{path} has more than the {_LARGEST} bytes that a configuration may have")
    for name, table in tables.items():
        _known(name, _TABLES, f"{path}: the table")
        if not isinstance(table, dict):
            raise ConfigError(f"{path}: {name} should be a table, [{name}], found {table!r}")
    fields = {field.name: (field, kind) for field, kind in _fields(cls)}
    shared, own = tables.get("system", {}), tables.get(script, {})
    for name in shared:
        _known(name, _SYSTEM, f"{path}: [system]: the key")
    for name in own:
        _known(name, fields, f"{path}: [{script}]: the key")
    values = {**{name: value for name, value in shared.items() if name in fields}, **own}
    return {name: _checked(value, *fields[name], f"{path}: {name}") for name, value in values.items()}


def _known(name: str, names: Iterable[str], what: str) -> None:
    names = list(names)
    if name not in names:
        raise ConfigError(f"{what} {name!r} is unknown{_nearest(name, names) or '; there are ' + ', '.join(names)}")


def _nearest(name: str, names: Iterable[str], prefix: str = "") -> str:
    names = list(names)
    near = [one for one in names if len(name) > 1 and one.startswith(name)] or difflib.get_close_matches(name, names)
    return f"; did you mean {prefix}{near[0]}?" if near else ""


def _checked(value: Any, field: Any, kind: Any, where: str) -> Any:
    words = field.metadata.get("words", ())
    if words and isinstance(value, str):
        if value not in words:
            raise ConfigError(f"{where} should be {' or '.join([_plain(kind).__name__, *words])}, found {value!r}")
        return value
    value = _cast(value, _plain(kind), where)
    choices = field.metadata.get("choices")
    if choices and value not in choices:
        raise ConfigError(f"{where} should be one of {', '.join(map(str, choices))}, found {value!r}")
    return value


def _cast(value: Any, kind: Any, where: str) -> Any:
    """Return a TOML value as what its field holds; lists become tuples."""
    if kind is Any:
        return tuple(_cast(item, Any, where) for item in value) if isinstance(value, list) else value
    if typing.get_origin(kind) is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} should be a list, found {value!r}")
        return tuple(_cast(item, typing.get_args(kind)[0], where) for item in value)
    if kind is float and type(value) is int:
        return float(value)
    if kind is Path and isinstance(value, str):
        return Path(value)
    if type(value) is not kind:  # not isinstance: true is no integer here
        raise ConfigError(f"{where} should be {kind.__name__}, found {value!r}")
    return value
