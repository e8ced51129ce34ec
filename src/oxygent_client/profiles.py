"""Load the settings of an agent from profiles in a TOML file.

Rule 1: a file, then `OXYGENT_*` variables, then arguments: the later wins, key by key. Credentials (`auth`) go as one.
Rule 2: every key stands in a table here. What is unknown, or of another type, is an error that says where it stands.
Rule 3: a secret is named, never written: the variable or the file that holds it. No error shows a text that was given:
    no value, no key that is not one of ours, and no exception behind it that holds the text.
Rule 4: a file decides where credentials go. It is taken only if it is named, or lies in the user's own configuration
    directory, and only if it belongs to this user or to root; the log says which one was taken.
"""

from __future__ import annotations

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
from typing import Any, ClassVar, Final, cast, get_type_hints

import attrs

from oxygent_client import BearerAuth, HTTPRequest, Limits, RemoteAgent, Retry, SSEOxyGent, Timeouts, Transport
from oxygent_client.errors import ConfigurationError
from oxygent_client.policies import APIKey, BasicAuth, HTTPSOnly, Policy, PolicyKind
from oxygent_client.sanitize import redact

__all__ = ["Profile", "load_profile"]

_logger: Final = logging.getLogger("oxygent_client.profiles")

# --- what a value may be ----------------------------------------------------------------------------------------------


@attrs.frozen
class _Shape:
    """What the values of a key are: how to say it, how to know it, and how to read it from a variable's text."""

    words: str
    known: Callable[[Any], bool]
    read: Callable[[str], Any]
    """Raises ValueError where the text is none."""


_LARGEST: Final = 2**63 - 1
"""What TOML promises of integers. Python reads larger ones, and then cannot always print them or make them floats."""


def _is_number(value: Any) -> bool:
    return isinstance(value, float) or _is_count(value)


def _is_count(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and -_LARGEST <= value <= _LARGEST


def _are_names(value: Any) -> bool:
    return isinstance(value, list | tuple) and all(isinstance(name, str) for name in cast("list[Any]", value))


def _read_flag(text: str) -> bool:
    return {"true": True, "1": True, "false": False, "0": False}[text.lower()]


def _read_names(text: str) -> list[str]:
    return [name for part in text.split(",") if (name := part.strip())]


def _read_flag_or_names(text: str) -> bool | list[str]:
    return _read_flag(text) if text.lower() in {"true", "1", "false", "0"} else _read_names(text)


def _read_flag_or_auto(text: str) -> bool | str:
    return "auto" if text.lower() == "auto" else _read_flag(text)


def _or_off(shape: _Shape) -> _Shape:
    """Likewise, or the word that switches a clock or a limit off."""
    return _Shape(
        f'{shape.words}, or "off"',
        lambda value: value == "off" or shape.known(value),
        lambda text: text if text == "off" else shape.read(text),
    )


_STRATEGIES: Final = ("full", "partial", "none")

_TEXT: Final = _Shape("a text", lambda value: isinstance(value, str), str)
_FLAG: Final = _Shape("true or false", lambda value: isinstance(value, bool), _read_flag)
_FLAG_OR_AUTO: Final = _Shape(
    'true, false or "auto"', lambda value: isinstance(value, bool) or value == "auto", _read_flag_or_auto
)
_NUMBER: Final = _Shape("a number", _is_number, float)
_COUNT: Final = _Shape("a whole number", _is_count, int)
_NAMES: Final = _Shape("a list of texts", _are_names, _read_names)
_SHARES: Final = _Shape(
    "true, false or a list of texts", lambda value: isinstance(value, bool) or _are_names(value), _read_flag_or_names
)
_STRATEGY: Final = _Shape(f"one of {', '.join(_STRATEGIES)}", lambda value: value in _STRATEGIES, str)
_VARIABLE: Final = _Shape(
    "the name of a variable",
    lambda value: isinstance(value, str) and re.fullmatch(r"[A-Za-z_]\w*", value, re.ASCII) is not None,
    str,
)

_OF_HINT: Final[Mapping[Any, _Shape]] = {
    int: _COUNT,
    float: _NUMBER,
    int | None: _or_off(_COUNT),
    float | None: _or_off(_NUMBER),
}

# --- the keys ---------------------------------------------------------------------------------------------------------

_TABLES: Final[Mapping[str, type[Any]]] = {"timeouts": Timeouts, "limits": Limits, "retry": Retry}

_KEYS: Final[Mapping[str, _Shape]] = {
    **dict.fromkeys(("server_url", "name", "desc", "callee"), _TEXT),
    **dict.fromkeys(("is_share_call_stack", "check_callee", "https_only", "strict"), _FLAG),
    "confirm_state": _FLAG_OR_AUTO,
    **dict.fromkeys(("plaintext_hosts", "forward_headers", "argument_overrides"), _NAMES),
    "call_stack_strategy": _STRATEGY,
    "share_data": _SHARES,
    **{
        f"{table}.{field.name}": _OF_HINT[get_type_hints(cls)[field.name]]
        for table, cls in _TABLES.items()
        for field in attrs.fields(cls)
    },
}
"""Every key with one value, and what it may be."""

_AUTH: Final[Mapping[str, _Shape]] = {
    "bearer_env": _VARIABLE,
    "bearer_file": _TEXT,
    "basic_username": _TEXT,
    "basic_env": _VARIABLE,
    "basic_file": _TEXT,
    "api_key_env": _VARIABLE,
    "api_key_file": _TEXT,
}
_WAYS: Final[Mapping[tuple[str, ...], Callable[..., Policy]]] = {
    ("bearer_env",): BearerAuth.from_env,
    ("bearer_file",): BearerAuth.from_file,
    ("basic_username", "basic_env"): BasicAuth.from_env,
    ("basic_username", "basic_file"): BasicAuth.from_file,
    ("api_key_env",): APIKey.from_env,
    ("api_key_file",): APIKey.from_file,
}
"""What `auth` becomes, by the keys it has: their values are the arguments."""
_REFERENCE: Final[Mapping[str, _Shape]] = {"env": _VARIABLE, "file": _TEXT}
"""Where a header's secret is."""

_VARIABLES: Final[Mapping[str, tuple[str, _Shape]]] = {
    f"OXYGENT_{key.upper().replace('.', '_')}": (key, shape)
    for key, shape in {**_KEYS, **{f"auth.{key}": shape for key, shape in _AUTH.items()}}.items()
}
_BEGINNINGS: Final = tuple(f"OXYGENT_{table.upper()}_" for table in (*_TABLES, "auth", "headers"))
_PROFILE: Final = "OXYGENT_PROFILE"
_PROFILES: Final = "OXYGENT_PROFILES"
_FILE: Final = "oxygent.toml"
_MOST_BYTES: Final = 64 * 1024
_MOST_DOTS: Final = 128
"""Dots in one key: the parser takes time in proportion to their square."""
_MOST_EXTENDED: Final = 32
_MOST_SHOWN: Final = 10
"""Names that an error lists."""


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
    """That of `names` for which this may be a slip."""
    near = get_close_matches(name, [each for each in names if len(each) <= 60], n=1) if len(name) <= 60 else []
    return near[0] if near else None


def _refusal(make: Callable[[], object]) -> str:
    """Why the class that takes a value refuses it, without the value; empty if it does not."""
    try:
        make()
    except ConfigurationError as error:
        return re.sub(r"^\w+\.\w+ ", "", str(error))
    return ""


# --- one layer --------------------------------------------------------------------------------------------------------


@attrs.frozen
class _Layer:
    """The values of one source, checked: keys are dotted, `auth` is one value."""

    values: Mapping[str, Any]
    sources: Mapping[str, str]


@attrs.frozen
class _Reader:
    """Checks what one source says. `place` gives the words for where a key stands."""

    place: Callable[[str], str]

    def layer(self, given: Mapping[str, Any]) -> _Layer:
        """The layer that `given` is: a table of a file, or keyword arguments."""
        values = dict(self._values(given))
        return _Layer(values, {key: self.place(key) for key in values})

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
                    yield f"{key}.{name}", self._value(f"{key}.{name}", _KEYS[f"{key}.{name}"], member)
            else:
                self._known(key, [*(one for one in _KEYS if "." not in one), *_TABLES, "auth", "headers"], key)
                yield key, self._value(key, _KEYS[key], value)

    def _known(self, name: str, names: Collection[str], key: str, advice: str = "") -> None:
        """Nothing, if `name` is one of `names`. If not, it may be anything, a secret too, and is not shown."""
        if name not in names:
            near = _nearest(name, names)
            said = f"did you mean {near!r}?" if near else f"there are {', '.join(names)}"
            raise self.wrong(key, f"unknown key; {said}{advice}", shown=key.rpartition(".")[0])

    def wrong(self, key: str, because: str, shown: str | None = None) -> ConfigurationError:
        """The error that `key` is, where it stands; `shown` is as much of the key as may be shown."""
        shown = key if shown is None else shown
        return ConfigurationError(": ".join(filter(None, (self.place(key), shown, because))))

    def _judge(self, key: str, make: Callable[[], object]) -> None:
        """Raise what is wrong with a value by the rules of the class that takes it."""
        if because := _refusal(make):
            raise self.wrong(key, because)

    def _table(self, key: str, value: Any) -> Mapping[str, Any]:
        table = cast("Mapping[Any, Any]", value)
        if not isinstance(value, Mapping) or not all(isinstance(name, str) for name in table):
            raise self.wrong(key, "must be a table")
        return table

    def _value(self, key: str, shape: _Shape, value: Any, shown: str | None = None) -> Any:
        if not shape.known(value):
            raise self.wrong(key, f"must be {shape.words}", shown)
        if isinstance(value, list | tuple):
            value = tuple(cast("list[str]", value))
        if not _is_number(value) and redact()(value) != value:  # a number holds none, and NaN is not even itself
            raise self.wrong(key, "holds a secret: name it under `auth` or `headers` instead", shown)
        table, _, name = key.partition(".")
        value = None if table in _TABLES and value == "off" else value
        if table in _TABLES:
            self._judge(key, lambda: _TABLES[table](**{name: value}))
        elif key == "server_url":
            self._judge(key, lambda: RemoteAgent(server_url=value))
        elif key == "plaintext_hosts":
            self._judge(key, lambda: HTTPSOnly(plaintext_hosts=value))
        return value

    def _auth(self, given: Mapping[str, Any]) -> Mapping[str, str]:
        for name, value in given.items():
            self._known(name, _AUTH, f"auth.{name}", " (a secret is named here, not written)")
            self._value(f"auth.{name}", _AUTH[name], value)
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
                    raise self.wrong(key, "unknown key; there are env, file", shown)
                self._value(key, _REFERENCE[where], what, shown)
            if len(reference) != 1:
                raise self.wrong(key, 'needs { env = "NAME" } or { file = "path" }', shown)
            if _refusal(lambda: _credentials({}, {name: reference})):
                raise self.wrong(key, "HTTP does not allow this name, or the protocol needs it for itself", shown)
            return dict(reference)
        if redact()({name: "of whatever form"}) != {name: "of whatever form"}:
            raise self.wrong(key, 'is a secret by its name: write { env = "NAME" } or { file = "path" }', shown)
        text: str = self._value(key, _TEXT, value, shown)
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


def _read(shape: _Shape, text: str) -> Any:
    """The value of this text; None if it is none: the context of an error that is raised here would hold the text."""
    try:
        return shape.read(text)
    except (KeyError, ValueError):
        return None


def _of_variables(environ: Mapping[str, str]) -> _Layer:
    """What the variables say; an empty one says nothing."""
    given: dict[str, Any] = {}
    names: dict[str, str] = {}
    reader = _Reader(lambda key: names.get(key, "OXYGENT_AUTH_*"))
    for variable, (key, shape) in _VARIABLES.items():
        if text := environ.get(variable):
            names[key] = variable
            value = _read(shape, text)
            if value is None:
                raise reader.wrong(key, f"must be {shape.words}")
            table, _, name = key.rpartition(".")
            (given.setdefault(table, {}) if table else given)[name] = value
    return reader.layer(given)


def _check_variables(environ: Mapping[str, str], referred: Collection[str]) -> None:
    """Nothing, if no variable looks like a misspelt one of ours, or begins like one of our tables.

    Not every other one is wrong: the framework itself has some (`OXYGENT_URL`, `OXYGENT_ACTOR_LLM_TIMEOUT`).
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
                raise ConfigurationError(f"the variable {variable}: unknown; there are {there}")


def _referred(values: Iterable[Any]) -> Iterator[str]:
    """The variables that are named in these, checked or not: in `auth`, in `headers`, and in what is in those."""
    level: list[tuple[str, Any]] = [("", value) for value in values]
    for _ in range(4):  # a profile, `headers`, one header, `env`: what is nested deeper is refused anyway
        members = [
            member for _, value in level if isinstance(value, dict) for member in cast("dict[str, Any]", value).items()
        ]
        yield from (value for key, value in members if isinstance(value, str) and key.endswith("env"))
        level = members


def _user_file(environ: Mapping[str, str], platform: str = sys.platform) -> Path | None:
    """Where the user's own file is, if there is one: in the directory that the platform has for configuration.

    https://specifications.freedesktop.org/basedir-spec/latest/: what is no absolute path is ignored.
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
    """Why a file is not taken, for whoever writes it decides where credentials go; empty if it may be.

    `user` is None where files have no owners.
    """
    if user is None:
        return ""
    if status.st_uid not in {0, user}:
        return "belongs to another user"
    return "may be written by every user" if status.st_mode & stat.S_IWOTH and stat.S_ISREG(status.st_mode) else ""


_LINE_OF_ERROR: Final = re.compile(r"\(at (?:line \d+, column \d+|end of document)\)")
_HEADER: Final = re.compile(r"\[([^\[\]]+)\]")


def _content(path: Path) -> tuple[bytes, str]:
    """What is in the file; or why it is not taken."""
    try:
        with path.open("rb") as file:
            status = os.fstat(file.fileno())
            data = file.read(_MOST_BYTES + 1)
    except OSError as error:
        return b"", f"cannot be read: {type(error).__name__}"
    user = os.geteuid() if hasattr(os, "geteuid") else None
    if because := _distrust(status, user):
        return b"", f"{because}: take it over (chown, chmod o-w), or copy it"
    return data, f"is larger than {_MOST_BYTES} bytes" if len(data) > _MOST_BYTES else ""


def _document(data: bytes) -> tuple[str, dict[str, Any], str]:
    """Text and tables of a file; or why they are none, by no word of the text."""
    try:
        text = data.decode("utf-8-sig")
        if any(part.count(".") > _MOST_DOTS for part in re.split(r"[=,{\[\n]", text)):
            return "", {}, f"has a key of more than {_MOST_DOTS} parts"
        return text, tomllib.loads(text), ""
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
        data, because = _content(path)
        text, document, because = _document(data) if not because else ("", {}, because)
        if because:
            raise ConfigurationError(f"the file {path.name!r} {because}")
        reader = _Reader(lambda _: path.name)
        for key in document:
            if key not in {"default", "profiles"}:
                raise reader.wrong(key, "unknown key; there are 'default' and 'profiles'", shown="")
        default, profiles = document.get("default", ""), document.get("profiles", {})
        if not isinstance(default, str):
            raise reader.wrong("default", "must be the name of a profile")
        if not isinstance(profiles, dict):
            raise reader.wrong("profiles", "must be a table of profiles")
        return cls(path.name, _lines(text), default, cast("dict[str, Any]", profiles))

    def layers(self, name: str) -> list[_Layer]:
        """The profile's layers: what it extends comes first."""
        layers: list[_Layer] = []
        way: list[str] = []
        reader = _Reader(lambda _: self.name)
        while name:
            if name not in self.profiles:
                near = _nearest(name, self.profiles)
                said = f"did you mean {_named(near)}?" if near else f"there are {_listed(self.profiles)}"
                raise reader.wrong("extends" if way else "", f"unknown profile {_named(name)}; {said}")
            if name in way:
                raise reader.wrong("extends", f"goes round in a circle, and comes back to {_named(name)}")
            if len(way) >= _MOST_EXTENDED:
                raise reader.wrong("extends", f"goes over more than {_MOST_EXTENDED} profiles")
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


# --- what comes of it -------------------------------------------------------------------------------------------------


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
    """The policy that sends them all; None where there are none."""
    policies = [make(*(auth[key] for key in way)) for way, make in _WAYS.items() if {*way} == {*auth}]
    for name, reference in headers.items():
        policies += [APIKey.from_env(variable, header=name) for key, variable in reference.items() if key == "env"]
        policies += [APIKey.from_file(path, header=name) for key, path in reference.items() if key == "file"]
    return _Credentials(policies[0], tuple(policies[1:])) if len(policies) > 1 else next(iter(policies), None)


@attrs.frozen(repr=False)
class Profile:
    """What an agent is made with in one environment. It holds no secret, only where the secrets are."""

    name: str
    """Empty where no profile of a file was asked for."""
    values: Mapping[str, Any]
    """By dotted key (`timeouts.idle`); `auth` is one value."""
    sources: Mapping[str, str]
    """Where each value comes from: a file, with line and profile; a variable; an argument."""

    def options(self) -> dict[str, Any]:
        """The arguments for `SSEOxyGent`, or a subclass: `MyAgent(**profile.options())`."""
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
        """A new agent; `more` are arguments of `SSEOxyGent` that no profile holds, or that replace the profile's.

        Raises:
            ConfigurationError: there is no `server_url`, or the values do not go together.
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
    """The profile of that name, with what variables and arguments say over it.

    Args:
        name: which of the file's profiles; None takes that of `OXYGENT_PROFILE`, else the file's `default`.
        path: the file; None takes that of `OXYGENT_PROFILES`, else `oxygent-client/oxygent.toml` in the user's
            configuration directory, else none. One in the current directory is taken only if it is named.
        environ: where the `OXYGENT_*` variables are, and those that say where the configuration directory is. Secrets
            are read from the process's own when they are used.
        overrides: keys of a profile: `server_url="..."`, `timeouts={"idle": 60}`. None says nothing.

    Raises:
        ConfigurationError: a key or a value is wrong, and the text says where; or there is no such profile or
            file; or the file belongs to another user, or may be written by every user.
    """
    given = path or environ.get(_PROFILES) or _user_file(environ)
    name = name or environ.get(_PROFILE) or ""
    layers: list[_Layer] = []
    referred: set[str] = set()
    if given is not None:
        file = _File.read(Path(given))
        referred.update(_referred(file.profiles.values()))  # of the others, too: their secrets may be there as well
        name = name or file.default
        if not name:
            raise ConfigurationError(
                f"{file.name}: no profile was asked for, and it has no `default`; it has {_listed(file.profiles)}"
            )
        layers += file.layers(name)
        _logger.info("the profile %s is taken from the file %a", _named(name), str(Path(given).absolute()))
    else:
        ignored = (
            f"; the {_FILE} of the current directory is taken only if it is named" if os.access(_FILE, os.F_OK) else ""
        )
        if name:
            raise ConfigurationError(
                f"there is no file with the profile {_named(name)}: give path=, or set {_PROFILES}{ignored}"
            )
        if ignored:
            _logger.warning("no file of profiles is taken: give path=, or set %s%s", _PROFILES, ignored)
    layers += [_of_variables(environ), _of_arguments(overrides)]
    values: dict[str, Any] = {}
    sources: dict[str, str] = {}
    for layer in layers:
        values |= layer.values
        sources |= layer.sources
    _check_variables(environ, {*referred, *_referred([values])})
    return Profile(name, values, sources)
