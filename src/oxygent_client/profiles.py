"""Load the settings of an agent from profiles in a TOML file.

Rule 1: sources are a file, then `OXYGENT_*` variables, then arguments: the later wins, key by key. Credentials (`auth`)
    are one value.
Rule 2: keys and their validators are those of the declared settings. An unknown key or an invalid value is an error
    with its place.
Rule 3: a file names the variable or the file that holds a secret, and never holds the secret. No error shows a text of
    a source: no value, no unknown key, and no exception behind it that holds the text.
Rule 4: a file decides where credentials are sent. It is used only if it is named, or is in the user's configuration
    directory, and only if it belongs to this user or to root; the log names it.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import stat
import sys
import tomllib
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from difflib import get_close_matches
from functools import partial
from pathlib import Path
from types import NoneType, UnionType
from typing import Any, ClassVar, Final, Literal, TypeAlias, Union, cast, get_args, get_origin, get_type_hints

import attrs

from oxygent_client import BearerAuth, HTTPRequest, SSEOxyGent, Transport
from oxygent_client.errors import ConfigurationError
from oxygent_client.policies import APIKey, BasicAuth, Policy, PolicyKind
from oxygent_client.sanitize import redact

__all__ = ["Profile", "load_profile"]

_logger: Final = logging.getLogger("oxygent_client.profiles")

# --- the keys ---------------------------------------------------------------------------------------------------------


def _read_flag(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _read_names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _read_choice(choices: Collection[str], text: str) -> str:
    return {choice: choice for choice in choices}[text.lower()]


_READERS: Final[Mapping[Any, Callable[[str], Any]]] = {
    str: str,
    bool: _read_flag,
    int: int,
    float: float,
    Collection[str]: _read_names,
    NoneType: partial(_read_choice, ("off",)),
}
"""How the text of a variable is read, by type; ValueError or KeyError if it cannot be."""


def _reader(hint: Any) -> Callable[[str], Any] | None:
    choices = get_args(hint) if get_origin(hint) is Literal else ()
    return partial(_read_choice, choices) if choices else _READERS.get(hint)


@attrs.frozen
class _Key:
    """A key with one value: a field that a class declares."""

    field: attrs.Attribute[Any]
    readers: tuple[Callable[[str], Any], ...]
    off: str
    """The word for None, after the other values in an error; empty if a file cannot hold None."""

    def read(self, text: str) -> Any:
        """Return the value of a variable's text; an invalid text is returned unchanged, and `refusal` rejects it."""
        for reader in self.readers:
            # The context of an error that is raised here would hold the text.
            with contextlib.suppress(KeyError, ValueError):
                return reader(text)
        return text

    def refusal(self, value: Any) -> str:
        """Why the field rejects a value, without the value; empty if the value is valid."""
        if isinstance(value, Mapping):
            return "must not be a table"
        because = _refusal(lambda: cast("Any", self.field.validator)(None, self.field, value))
        return because.replace("True or False", "true or false").replace(", or None", self.off)


def _declared(cls: type[Any], off: str = "") -> dict[str, _Key]:
    """The fields of a class that a file can hold, by name: text, numbers, flags, choices and names."""
    hints, keys = get_type_hints(cls), dict[str, _Key]()
    for field in attrs.fields(cls):
        hint = hints[field.name]
        members = get_args(hint) if get_origin(hint) in (Union, UnionType) else (hint,)
        readers = [_reader(member) for member in members if off or member is not NoneType]
        if field.init and all(readers):
            keys[field.name] = _Key(field, tuple(filter(None, readers)), off)
    return keys


_TABLES: Final[Mapping[str, type[Any]]] = {
    name: hint for name, hint in get_type_hints(SSEOxyGent).items() if attrs.has(hint) and not name.startswith("_")
}
"""The settings that are tables: those whose type is itself declared by fields."""
_KEYS: Final[Mapping[str, _Key]] = {
    **_declared(SSEOxyGent),
    **{f"{table}.{name}": key for table, cls in _TABLES.items() for name, key in _declared(cls, ', or "off"').items()},
}
"""Every key with one value."""

_AUTH: Final = ("bearer_env", "bearer_file", "basic_username", "basic_env", "basic_file", "api_key_env", "api_key_file")
_WAYS: Final[Mapping[tuple[str, ...], Callable[..., Policy]]] = {
    ("bearer_env",): BearerAuth.from_env,
    ("bearer_file",): BearerAuth.from_file,
    ("basic_username", "basic_env"): BasicAuth.from_env,
    ("basic_username", "basic_file"): BasicAuth.from_file,
    ("api_key_env",): APIKey.from_env,
    ("api_key_file",): APIKey.from_file,
}
"""Makes a policy of `auth`, by its keys: their values are the arguments."""
_REFERENCE: Final = ("env", "file")
"""Where the secret of a header is."""

_VARIABLES: Final[Mapping[str, str]] = {
    f"OXYGENT_{key.upper().replace('.', '_')}": key for key in (*_KEYS, *(f"auth.{name}" for name in _AUTH))
}
"""The key of each variable."""
_BEGINNINGS: Final = tuple(f"OXYGENT_{table.upper()}_" for table in (*_TABLES, "auth", "headers"))
_PROFILE: Final = "OXYGENT_PROFILE"
_PROFILES: Final = "OXYGENT_PROFILES"
_FILE: Final = "oxygent.toml"
_MOST_BYTES: Final = 64 * 1024
_MOST_DOTS: Final = 128
"""Dots in one key: the time of the parser grows with their square."""
_MOST_EXTENDED: Final = 32
_MOST_SHOWN: Final = 10
"""Names in the text of an error."""


def _named(name: str) -> str:
    """The name of a profile as an error shows it."""
    plain = re.fullmatch(r"[\w.-]{1,60}", name) is not None and redact()(name) == name
    return repr(name) if plain else "(name not shown)"


def _listed(names: Iterable[str]) -> str:
    """The names of profiles as an error shows them."""
    all_names = [*names]
    more = f" and {len(all_names) - _MOST_SHOWN} more" if len(all_names) > _MOST_SHOWN else ""
    return ", ".join(map(_named, all_names[:_MOST_SHOWN])) + more or "none"


def _nearest(name: str, names: Iterable[str]) -> str | None:
    """The one of `names` that `name` probably misspells."""
    near = get_close_matches(name, [each for each in names if len(each) <= 60], n=1) if len(name) <= 60 else []
    return near[0] if near else None


def _refusal(make: Callable[[], object]) -> str:
    """The reason of a `ConfigurationError` of `make`, without the value; empty if it raises none."""
    try:
        make()
    except ConfigurationError as error:
        return re.sub(r"^[\w.]+ (?=must be )|; got .*", "", str(error), flags=re.DOTALL)
    return ""


def _reference_refusal(name: str, value: Any) -> str:
    """Why a value is no reference to a secret; empty if it is one."""
    if not isinstance(value, str):
        return "must be a str"
    is_variable = re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII) is not None
    return "" if is_variable or not name.endswith("env") else "must be the name of a variable"


# --- one layer --------------------------------------------------------------------------------------------------------


_Layer: TypeAlias = dict[str, tuple[Any, str]]
"""The values of one source, checked, and the place of each: keys are dotted, `auth` is one value."""


@attrs.frozen
class _Reader:
    """Checks the values of one source. `place` describes the place of a key."""

    place: Callable[[str], str]

    def layer(self, given: Mapping[str, Any]) -> _Layer:
        """Make a layer of a table of a file, or of keyword arguments."""
        return {key: (value, self.place(key)) for key, value in self._values(given)}

    def _values(self, given: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
        for key, value in given.items():
            if key == "auth":
                yield key, self._auth(self._table(key, value))
            elif key == "headers":
                for name, header in self._table(key, value).items():
                    yield f"headers.{name.lower()}", self._header(f"headers.{name}", name, header)
            elif key in _TABLES:
                for name, member in self._table(key, value).items():
                    self._known(name, [field.name for field in attrs.fields(_TABLES[key])], f"{key}.{name}")
                    yield f"{key}.{name}", self._setting(f"{key}.{name}", member)
            else:
                self._known(key, [*(one for one in _KEYS if "." not in one), *_TABLES, "auth", "headers"], key)
                yield key, self._setting(key, value)

    def _known(self, name: str, names: Collection[str], key: str, advice: str = "") -> None:
        """Check that `name` is one of `names`. An unknown name may be a secret, and is not shown."""
        if name not in names:
            near = _nearest(name, names)
            said = f"did you mean {near!r}?" if near else f"known keys: {', '.join(names)}"
            raise self.wrong(key, f"unknown key; {said}{advice}", shown=key.rpartition(".")[0])

    def wrong(self, key: str, because: str, shown: str | None = None) -> ConfigurationError:
        """Return the error of `key`, with its place; `shown` is the part of the key that may be shown."""
        shown = key if shown is None else shown
        return ConfigurationError(": ".join(filter(None, (self.place(key), shown, because))))

    def _judge(self, key: str, make: Callable[[], object]) -> None:
        """Raise an error with a place for a `ConfigurationError` of `make`."""
        if because := _refusal(make):
            raise self.wrong(key, because)

    def _table(self, key: str, value: Any) -> Mapping[str, Any]:
        table = cast("Mapping[Any, Any]", value)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in table):
            raise self.wrong(key, "must be a table")
        return table

    def _setting(self, key: str, value: Any) -> Any:
        value = None if value == "off" and _KEYS[key].off else value
        return self._value(key, _KEYS[key].refusal(value), value)

    def _value(self, key: str, refusal: str, value: Any, shown: str | None = None) -> Any:
        if refusal:
            raise self.wrong(key, refusal, shown)
        kept: Any = tuple(cast("list[str]", value)) if isinstance(value, list) else value
        if isinstance(kept, str | tuple) and redact()(kept) != kept:
            raise self.wrong(key, "holds a secret: name it under `auth` or `headers` instead", shown)
        return cast("Any", kept)

    def _auth(self, given: Mapping[str, Any]) -> Mapping[str, str]:
        for name, value in given.items():
            self._known(name, _AUTH, f"auth.{name}", " (a secret is named here, not written)")
            self._value(f"auth.{name}", _reference_refusal(name, value), value)
        if given and {*given} not in map(set, _WAYS):
            raise self.wrong("auth", f"needs {', or '.join(map(' and '.join, _WAYS))}")
        self._judge("auth", lambda: _credentials(given, {}))
        return dict(given)

    def _header(self, key: str, name: str, value: Any) -> str | Mapping[str, str]:
        shown = "headers"  # a name may be anything
        if isinstance(value, Mapping):
            reference = cast("Mapping[str, str]", value)
            for where, what in reference.items():
                if where not in _REFERENCE:
                    raise self.wrong(key, "unknown key; known keys: env, file", shown)
                self._value(key, _reference_refusal(where, what), what, shown)
            if len(reference) != 1:
                raise self.wrong(key, 'needs { env = "NAME" } or { file = "path" }', shown)
            if _refusal(lambda: _credentials({}, {name: reference})):
                raise self.wrong(key, "HTTP does not allow this name, or the protocol needs it for itself", shown)
            return dict(reference)
        if redact()({name: "of whatever form"}) != {name: "of whatever form"}:
            raise self.wrong(key, 'is a secret by its name: write { env = "NAME" } or { file = "path" }', shown)
        text: str = self._value(key, "" if isinstance(value, str) else "must be a str", value, shown)
        if _refusal(lambda: HTTPRequest("GET", "", "", {name: text})):
            raise self.wrong(key, "the name or the value is not allowed in HTTP", shown)
        return text


# --- the sources ------------------------------------------------------------------------------------------------------


def _of_arguments(given: Mapping[str, Any]) -> _Layer:
    told = {key: value for key, value in given.items() if value is not None}
    ours = {key.partition(".")[0] for key in (*_KEYS, "auth", "headers")}
    return _Reader(
        lambda key: f"argument {argument}" if (argument := key.partition(".")[0]) in ours else "an argument"
    ).layer(told)


def _of_variables(environ: Mapping[str, str]) -> _Layer:
    """The layer of the variables; empty ones are ignored."""
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    reader = _Reader(lambda key: names.get(key, "OXYGENT_AUTH_*"))
    for variable, key in _VARIABLES.items():
        if text := environ.get(variable):
            names[key] = variable
            table, _, name = key.rpartition(".")
            (given.setdefault(table, {}) if table else given)[name] = _KEYS[key].read(text) if key in _KEYS else text
    return reader.layer(given)


def _check_variables(environ: Mapping[str, str], referred: Collection[str]) -> None:
    """Check that no variable looks like a misspelt one of ours, or begins like one of our tables.

    Others are ignored: the framework itself has some (`OXYGENT_URL`, `OXYGENT_ACTOR_LLM_TIMEOUT`).
    """
    suffixes = {ours.removeprefix("OXYGENT_"): ours for ours in (*_VARIABLES, _PROFILE, _PROFILES)}
    for variable, text in environ.items():
        if not text or not variable.startswith("OXYGENT_") or variable in {*suffixes.values(), *referred}:
            continue
        if near := get_close_matches(variable.removeprefix("OXYGENT_"), suffixes, n=1, cutoff=0.8):
            raise ConfigurationError(f"the variable {variable}: unknown; did you mean {suffixes[near[0]]}?")
        for begin in _BEGINNINGS:
            if variable.startswith(begin):
                there = ", ".join(ours for ours in _VARIABLES if ours.startswith(begin)) or f"none like {begin}*"
                raise ConfigurationError(f"the variable {variable}: unknown; known variables: {there}")


def _referred(tables: Mapping[str, Any], depth: int = 4) -> Iterator[str]:
    """The variables that `auth` and `headers` name in these profiles, valid or not."""
    for key, value in tables.items():
        if isinstance(value, str) and key.endswith("env"):
            yield value
        elif isinstance(value, dict) and depth:  # a profile, `headers`, one header: deeper values are rejected anyway
            yield from _referred(cast("dict[str, Any]", value), depth - 1)


def _user_file(environ: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """The user's own file, if it exists: in the platform's directory for configuration.

    https://specifications.freedesktop.org/basedir-spec/latest/: a path that is not absolute is ignored.
    """
    home = environ.get("HOME", "")
    standard = {
        "win32": environ.get("APPDATA", ""),
        "darwin": home and f"{home}/Library/Application Support",
    }.get(platform, home and f"{home}/.config")
    for directory in (environ.get("XDG_CONFIG_HOME", ""), standard):
        if Path(directory).is_absolute():
            path = Path(directory, "oxygent-client", _FILE)
            return path if os.access(path, os.F_OK) else None
    return None


def _distrust(status: os.stat_result, user: int | None) -> str:
    """Why a file is not used: its author decides where credentials are sent. Empty if it may be used.

    `user` is None on platforms without owners of files.
    """
    if user is None:
        return ""
    if status.st_uid not in {0, user}:
        return "belongs to another user"
    return "may be written by every user" if status.st_mode & stat.S_IWOTH and stat.S_ISREG(status.st_mode) else ""


_LINE_OF_ERROR: Final = re.compile(r"\(at (?:line \d+, column \d+|end of document)\)")
_HEADER: Final = re.compile(r"\[([^\[\]]+)\]")


def _load(path: Path) -> tuple[str, dict[str, Any], str]:
    """Text and tables of a file, or the reason why it is not used, without the text."""
    user = os.geteuid() if hasattr(os, "geteuid") else None
    try:
        with path.open("rb") as file:
            because = _distrust(os.fstat(file.fileno()), user)
            data = file.read(_MOST_BYTES + 1)
        if because:
            return "", {}, f"{because}: take it over (chown, chmod o-w), or copy it"
        if len(data) > _MOST_BYTES:
            return "", {}, f"is larger than {_MOST_BYTES} bytes"
        text = data.decode("utf-8-sig")
        if any(part.count(".") > _MOST_DOTS for part in re.split(r"[=,{\[\n]", text)):
            return "", {}, f"has a key of more than {_MOST_DOTS} parts"
        return text, tomllib.loads(text), ""
    except OSError as error:
        return "", {}, f"cannot be read: {type(error).__name__}"
    except UnicodeDecodeError:
        return "", {}, "is not UTF-8"
    except tomllib.TOMLDecodeError as error:
        where = _LINE_OF_ERROR.search(str(error))
        return "", {}, f"is not TOML{f' {where[0]}' if where else ''}"
    except (RecursionError, ValueError):  # of nesting without end; of an integer with more digits than Python reads
        return "", {}, "is nested too deep, or holds a number that is too large"


@attrs.frozen
class _File:
    """A file of profiles."""

    name: str
    lines: Mapping[str, int] = attrs.field(repr=False)
    """The first line of each dotted key and of each `[table]`, as far as can be told without reading TOML."""
    default: str
    profiles: Mapping[str, Any]

    @classmethod
    def read(cls, path: Path) -> _File:
        """The file at `path`."""
        # No error is raised where another is handled: that one would be its context, and holds the text.
        text, document, because = _load(path)
        if because:
            raise ConfigurationError(f"the file {path.name!r} {because}")
        reader = _Reader(lambda _: path.name)
        for key in document:
            if key not in {"default", "profiles"}:
                raise reader.wrong(key, "unknown key; known keys: 'default' and 'profiles'", shown="")
        default, profiles = document.get("default", ""), document.get("profiles", {})
        if not isinstance(default, str):
            raise reader.wrong("default", "must be the name of a profile")
        if not isinstance(profiles, dict):
            raise reader.wrong("profiles", "must be a table of profiles")
        return cls(path.name, _lines(text), default, cast("dict[str, Any]", profiles))

    def layers(self, name: str) -> list[_Layer]:
        """The layers of a profile; those of the profile that it extends come first."""
        layers: list[_Layer] = []
        way: list[str] = []
        reader = _Reader(lambda _: self.name)
        while name:
            if name not in self.profiles:
                near = _nearest(name, self.profiles)
                said = f"did you mean {_named(near)}?" if near else f"known profiles: {_listed(self.profiles)}"
                raise reader.wrong("extends" if way else "", f"unknown profile {_named(name)}; {said}")
            if name in way:
                raise reader.wrong("extends", f"is circular: it leads back to {_named(name)}")
            if len(way) >= _MOST_EXTENDED:
                raise reader.wrong("extends", f"has more than {_MOST_EXTENDED} levels")
            way.append(name)
            table = self.profiles[name]
            reader = _Reader(partial(self._place, name))
            if not isinstance(table, dict):
                raise reader.wrong("", "must be a table")
            told = cast("dict[str, Any]", table)
            above = told.get("extends", "")
            if not isinstance(above, str):
                raise reader.wrong("extends", "must be the name of a profile")
            layers.append(reader.layer({key: value for key, value in told.items() if key != "extends"}))
            name = above
        return layers[::-1]

    def _place(self, profile: str, key: str) -> str:
        wanted = f"profiles.{profile}.{key}".casefold().strip(".").split(".")
        begins = [".".join(wanted[:count]) for count in range(1, min(len(wanted), _MOST_DOTS) + 1)]
        places = (f"[{'.'.join(wanted)}]", *begins)
        line = min((self.lines[place] for place in places if place in self.lines), default=None)
        return f"{self.name}{f', line {line}' if line else ''}, profile {_named(profile)}"


def _lines(text: str) -> dict[str, int]:
    """The first line of each key, and of each table in brackets."""
    lines: dict[str, int] = {}
    table = ""
    for number, line in enumerate(text.split("\n"), 1):
        entry, equals, _ = line.partition("=")
        if header := _HEADER.match(line.strip()):
            table = re.sub(r"[\"' ]", "", header[1]).casefold()
            found = f"[{table}]"
        elif equals:
            found = re.sub(r"[\"' \t]", "", f"{table}.{entry}").lstrip(".").casefold()
        else:
            continue
        lines.setdefault(found, number)
    return lines


# --- the profile ------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Credentials:
    """Several credentials as one: a token, and keys in headers of their own."""

    kind: ClassVar[PolicyKind] = "auth"

    main: Policy
    keys: tuple[Policy, ...]

    def new_state(self) -> Any:
        """As `Policy.new_state`."""
        return self.main.new_state()

    def wrap(self, inner: Transport, state: Any, /) -> Transport:
        """As `Policy.wrap`."""
        for key in self.keys:
            inner = key.wrap(inner, key.new_state())
        return self.main.wrap(inner, state)


def _credentials(auth: Mapping[str, str], headers: Mapping[str, Mapping[str, str]]) -> Policy | None:
    """The policy that sends all credentials; None if there are none."""
    policies = [make(*(auth[key] for key in way)) for way, make in _WAYS.items() if {*way} == {*auth}]
    for name, reference in headers.items():
        policies += [APIKey.from_env(variable, header=name) for key, variable in reference.items() if key == "env"]
        policies += [APIKey.from_file(path, header=name) for key, path in reference.items() if key == "file"]
    return _Credentials(policies[0], tuple(policies[1:])) if len(policies) > 1 else next(iter(policies), None)


@attrs.frozen(repr=False)
class Profile:
    """The settings of an agent in one environment. It holds no secrets, only references to them."""

    name: str
    """Empty if no profile of a file was used."""
    values: Mapping[str, Any]
    """By dotted key (`timeouts.idle`); `auth` is one value."""
    sources: Mapping[str, str]
    """The source of each value: a file, with line and profile; a variable; an argument."""

    def options(self) -> dict[str, Any]:
        """Return the arguments for `SSEOxyGent`, or a subclass: `MyAgent(**profile.options())`."""
        options = {key: value for key, value in self.values.items() if "." not in key and key != "auth"}
        for table, cls in _TABLES.items():
            if fields := self._under(table):
                options[table] = cls(**fields)
        headers = self._under("headers")
        if plain := {name: value for name, value in headers.items() if isinstance(value, str)}:
            options["headers"] = plain
        secret = {name: value for name, value in headers.items() if not isinstance(value, str)}
        if (auth := _credentials(self.values.get("auth", {}), secret)) is not None:
            options["auth"] = auth
        return options

    def agent(self, **more: Any) -> SSEOxyGent:
        """Make an agent; `more` are arguments of `SSEOxyGent` that no profile holds, or that replace the profile's.

        Raises:
            ConfigurationError: `server_url` is missing, or values cannot be combined.
        """
        options = {**self.options(), **more}
        if "server_url" not in options and "transport" not in options:
            raise ConfigurationError(f"{self!r} has no server_url: put it into the profile, or set OXYGENT_SERVER_URL")
        return SSEOxyGent(**options)

    def _under(self, table: str) -> dict[str, Any]:
        begin = f"{table}."
        return {key.removeprefix(begin): value for key, value in self.values.items() if key.startswith(begin)}

    def __repr__(self) -> str:
        return f"<Profile {self.name!r}: {', '.join(sorted(self.values)) or 'nothing'}>"


def load_profile(
    name: str | None = None,
    *,
    path: str | os.PathLike[str] | None = None,
    environ: Mapping[str, str] = os.environ,
    **overrides: Any,
) -> Profile:
    """Load a profile, with variables and arguments over it.

    Args:
        name: one of the file's profiles; by default `OXYGENT_PROFILE`, else the file's `default`.
        path: the file; by default `OXYGENT_PROFILES`, else `oxygent-client/oxygent.toml` in the user's configuration
            directory, else no file. A file in the current directory is used only if it is named.
        environ: the `OXYGENT_*` variables, and those for the configuration directory. Secrets are read from the
            process's own environment when they are used.
        overrides: keys of a profile: `server_url="..."`, `timeouts={"idle": 60}`. None is ignored.

    Raises:
        ConfigurationError: a key or a value is wrong (the text has its place), the profile or the file does not exist,
            or the file belongs to another user or may be written by every user.
    """
    given = path or environ.get(_PROFILES) or _user_file(environ)
    name = name or environ.get(_PROFILE) or ""
    merged: _Layer = {}
    referred: set[str] = set()
    if given is not None:
        file = _File.read(Path(given))
        referred.update(_referred(file.profiles))  # of the others, too: their secrets may be there as well
        name = name or file.default
        if not name:
            raise ConfigurationError(
                f"{file.name}: name a profile, since the file has no `default`; its profiles: {_listed(file.profiles)}"
            )
        for layer in file.layers(name):
            merged |= layer
        _logger.info("using the profile %s of the file %a", _named(name), str(Path(given).absolute()))
    else:
        ignored = (
            f"; the {_FILE} of the current directory is used only if it is named" if os.access(_FILE, os.F_OK) else ""
        )
        if name:
            raise ConfigurationError(
                f"no file with the profile {_named(name)}: give path=, or set {_PROFILES}{ignored}"
            )
        if ignored:
            _logger.warning("no file of profiles is used: give path=, or set %s%s", _PROFILES, ignored)
    merged |= _of_variables(environ) | _of_arguments(overrides)
    values = {key: value for key, (value, _) in merged.items()}
    _check_variables(environ, {*referred, *_referred(values)})
    return Profile(name, values, {key: source for key, (_, source) in merged.items()})
