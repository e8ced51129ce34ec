"""Profiles: keys, sources and their precedence, error messages, and the agents they make.

Rule 1: files are written for each case; variables are a dict, except for secrets, which are read from the environment.
Rule 2: the requests of an agent are checked at its scripted transport.
"""

from __future__ import annotations

import inspect
import json
import os
import pickle
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, cast

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import BearerAuth, Limits, Retry, SSEOxyGent, Timeouts, errors, profiles
from oxygent_client.policies import APIKey, BasicAuth
from oxygent_client.profiles import Profile, load_profile
from oxygent_client.testing import FakeTransport, Reply, answer, close
from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Mapping

URL: Final = "https://remote.test"
TOKEN: Final = "t0p-secret-4711"

THREE: Final = """
default = "dev"

[profiles.base]
is_share_call_stack = true
timeouts = { idle = 300 }
headers = { X-Tenant = "acme" }

[profiles.dev]
extends = "base"
server_url = "http://localhost:8082"

[profiles.staging]
extends = "base"
server_url = "https://staging.example"
auth = { bearer_env = "STAGING_TOKEN" }

[profiles.prod]
extends = "staging"
server_url = "https://oxygent.example"
is_share_call_stack = false
https_only = true
auth = { bearer_file = "/run/secrets/prod" }

[profiles.prod.timeouts]
total = "off"

[profiles.prod.headers]
x-api-key = { env = "PROD_KEY" }
"""


def loaded(
    text: str | None = None, name: str | None = None, environ: Mapping[str, str] | None = None, **more: Any
) -> Profile:
    """Return the profile of a file with this text."""
    if text is None:
        return load_profile(name, environ=environ or {}, **more)
    with tempfile.TemporaryDirectory() as directory:
        path = Path(directory) / "oxygent.toml"
        path.write_text(text, encoding="utf-8")
        return load_profile(name, path=path, environ=environ or {}, **more)


def one(lines: str) -> str:
    """Return a file with one profile of these lines; the first of them is line 3."""
    return f'default = "p"\n[profiles.p]\n{lines}\n'


# -------------------------------------------------------------------------------------------------------------- Options


@pytest.mark.parametrize(
    ("expected", "name"),
    [
        (
            {
                "is_share_call_stack": True,
                "timeouts": Timeouts(idle=300),
                "headers": {"x-tenant": "acme"},
                "server_url": "http://localhost:8082",
            },
            None,
        ),
        (
            {
                "is_share_call_stack": True,
                "timeouts": Timeouts(idle=300),
                "headers": {"x-tenant": "acme"},
                "server_url": "https://staging.example",
                "auth": BearerAuth.from_env("STAGING_TOKEN"),
            },
            "staging",
        ),
    ],
    ids=["default", "named"],
)
def test_extends(expected: dict[str, Any], name: str | None) -> None:
    """A profile has all options of the one that it extends, replaced by its own."""
    assert loaded(THREE, name).options() == expected


def test_a_chain_of_profiles() -> None:
    """Tables are merged by key along the chain; credentials are replaced as a whole."""
    profile = loaded(THREE, "prod")
    options = profile.options()
    assert options["is_share_call_stack"] is False
    assert options["https_only"] is True
    assert options["server_url"] == "https://oxygent.example"
    assert options["timeouts"] == Timeouts(idle=300, total=None)
    assert options["headers"] == {"x-tenant": "acme"}
    assert profile.values["auth"] == {"bearer_file": "/run/secrets/prod"}
    assert profile.values["headers.x-api-key"] == {"env": "PROD_KEY"}
    assert profile.sources["https_only"] == "oxygent.toml, line 22, profile 'prod'"
    assert profile.sources["timeouts.idle"] == "oxygent.toml, line 6, profile 'base'"


@pytest.mark.parametrize(
    ("expected", "lines"),
    [
        ({}, ""),
        ({"callee": "planner", "name": "trips", "desc": "d"}, 'callee = "planner"\nname = "trips"\ndesc = "d"'),
        (
            {"check_callee": False, "strict": True, "confirm_state": True},
            "check_callee=false\nstrict=true\nconfirm_state=true",
        ),
        ({"confirm_state": "auto"}, 'confirm_state = "auto"'),
        ({"call_stack_strategy": "none"}, 'call_stack_strategy = "none"'),
        ({"share_data": False}, "share_data = false"),
        ({"share_data": ("a", "b")}, 'share_data = ["a", "b"]'),
        ({"plaintext_hosts": ("agents.internal",)}, 'plaintext_hosts = ["agents.internal"]'),
        ({"forward_headers": ("x-a",), "argument_overrides": ()}, 'forward_headers = ["x-a"]\nargument_overrides = []'),
        (
            {"timeouts": Timeouts(connect=1, silence=None, lookup=0.5)},
            'timeouts.connect = 1\ntimeouts.silence = "off"\ntimeouts.lookup = 0.5',
        ),
        ({"limits": Limits(depth=9, line_bytes=None)}, 'limits = { depth = 9, line_bytes = "off" }'),
        ({"retry": Retry(attempts=1, base=0)}, "retry = { attempts = 1, base = 0 }"),
        ({"auth": BearerAuth.from_env("T")}, 'auth = { bearer_env = "T" }'),
        ({"auth": BearerAuth.from_file("/t")}, 'auth = { bearer_file = "/t" }'),
        ({"auth": BasicAuth.from_env("me", "P")}, 'auth = { basic_username = "me", basic_env = "P" }'),
        ({"auth": BasicAuth.from_file("me", "/p")}, 'auth = { basic_username = "me", basic_file = "/p" }'),
        ({"auth": APIKey.from_env("K")}, 'auth = { api_key_env = "K" }'),
        ({"auth": APIKey.from_file("/k")}, 'auth = { api_key_file = "/k" }'),
        ({}, "auth = {}"),
        ({"auth": APIKey.from_env("K", header="x-key")}, 'headers = { X-Key = { env = "K" } }'),
        ({"auth": APIKey.from_file("/k", header="x-key")}, 'headers = { x-key = { file = "/k" } }'),
        ({"headers": {"x-tenant": "acme"}}, 'headers = { x-tenant = "acme" }'),
    ],
)
def test_keys_of_a_file(expected: dict[str, Any], lines: str) -> None:
    """Each key becomes the argument of its name, as `SSEOxyGent` takes it."""
    assert loaded(one(lines)).options() == expected


@pytest.mark.parametrize(
    ("expected", "environ"),
    [
        ({"server_url": URL}, {"OXYGENT_SERVER_URL": URL}),
        ({"callee": "planner"}, {"OXYGENT_CALLEE": "planner", "OXYGENT_NAME": "", "OXYGENT_TOKEN": TOKEN}),
        ({"strict": True, "https_only": False}, {"OXYGENT_STRICT": "1", "OXYGENT_HTTPS_ONLY": "False"}),
        ({"confirm_state": "auto"}, {"OXYGENT_CONFIRM_STATE": "AUTO"}),
        ({"confirm_state": True}, {"OXYGENT_CONFIRM_STATE": "true"}),
        ({"timeouts": Timeouts(idle=60, total=None)}, {"OXYGENT_TIMEOUTS_IDLE": "60", "OXYGENT_TIMEOUTS_TOTAL": "off"}),
        ({"limits": Limits(depth=9)}, {"OXYGENT_LIMITS_DEPTH": "9"}),
        ({"retry": Retry(attempts=1)}, {"OXYGENT_RETRY_ATTEMPTS": "1"}),
        ({"plaintext_hosts": ("a.internal", "b.internal")}, {"OXYGENT_PLAINTEXT_HOSTS": "a.internal, b.internal,"}),
        ({"share_data": False}, {"OXYGENT_SHARE_DATA": "false"}),
        ({"share_data": ("a", "b")}, {"OXYGENT_SHARE_DATA": "a,b"}),
        ({"call_stack_strategy": "full"}, {"OXYGENT_CALL_STACK_STRATEGY": "full"}),
        (
            {"auth": BearerAuth.from_env("OXYGENT_SERVER_URI")},
            {"OXYGENT_AUTH_BEARER_ENV": "OXYGENT_SERVER_URI", "OXYGENT_SERVER_URI": TOKEN},
        ),
        (
            {"auth": BasicAuth.from_env("me", "P")},
            {"OXYGENT_AUTH_BASIC_USERNAME": "me", "OXYGENT_AUTH_BASIC_ENV": "P"},
        ),
        ({}, {"OTHER": "x", "OXYGENT_URL": URL, "OXYGENT_SERVR_URL": "", "OXYGENT_HEADERS_X": ""}),
    ],
)
def test_variables(expected: dict[str, Any], environ: dict[str, str]) -> None:
    """A variable is `OXYGENT_` and the key; an empty one is ignored, and so are other names with the prefix."""
    assert loaded(environ=environ).options() == expected


@pytest.mark.parametrize("asked_for", ["p", "other"])
@pytest.mark.parametrize("reference", ['auth.bearer_env = "{}"', 'headers.x-key.env = "{}"'])
def test_variables_named_in_other_profiles(asked_for: str, reference: str) -> None:
    """A variable named in any profile is accepted; otherwise it is taken for a misspelled one."""
    text = one(reference.format("OXYGENT_AUTH_BEARER") + "\n[profiles.other]")
    environ = {"OXYGENT_AUTH_BEARER": TOKEN}
    assert loaded(text, asked_for, environ).name == asked_for
    with pytest.raises(errors.ConfigurationError, match="did you mean OXYGENT_AUTH_BEARER_ENV"):
        loaded(one("[profiles.other]"), asked_for, environ)


def test_arguments() -> None:
    """Keyword arguments are the keys of a profile; None is ignored."""
    profile = loaded(
        THREE, "staging", callee=None, server_url=URL, timeouts={"connect": 2}, auth={}, headers={"X-Tenant": "globex"}
    )
    assert profile.options() == {
        "is_share_call_stack": True,
        "timeouts": Timeouts(idle=300, connect=2),
        "headers": {"x-tenant": "globex"},
        "server_url": URL,
    }
    assert profile.sources["server_url"] == "argument server_url"
    assert profile.sources["timeouts.connect"] == "argument timeouts"


LIVE: Final = frozenset(
    """
    transport router event_handlers event_filter progress_callback policies sanitize schema failure_detector observers
    """.split()
)
"""Arguments that are code or live objects, which a file cannot hold."""


def test_each_data_argument_has_a_key() -> None:
    """Each data argument of `SSEOxyGent` has a key; the others are in LIVE."""
    keys = {*profiles._VARIABLES.values()}
    assert (
        inspect.signature(SSEOxyGent).parameters.keys() == {key.partition(".")[0] for key in keys} | {"headers"} | LIVE
    )


@pytest.mark.parametrize(("table", "cls"), [("timeouts", Timeouts), ("limits", Limits), ("retry", Retry)])
def test_each_field_of_a_table_has_a_key(table: str, cls: type[Any]) -> None:
    """Each time-out, limit and setting of retries has a key."""
    assert {f"{table}.{field.name}" for field in attrs.fields(cls)} <= {*profiles._VARIABLES.values()}


PAGE: Final = (ROOT / "docs" / "howto" / "profiles.md").read_text(encoding="utf-8")


def first_cells(head: str) -> str:
    """Return the first column of the first table below a heading of the docs."""
    rows = re.findall(r"^\|([^|]*)\|", PAGE.partition(f"\n## {head}\n")[2].partition("\n## ")[0], re.MULTILINE)
    return "\n".join(rows)


def test_the_page_has_each_key() -> None:
    """The page has exactly the keys, and the ways to refer to a secret."""
    tables = {*profiles._TABLES, "auth", "headers"}
    assert {key for key in profiles._KEYS if "." not in key} | tables == {*re.findall(r"`(\w+)`", first_cells("Keys"))}
    said = {*re.findall(r"\b\w+_(?:env|file|username)\b", first_cells("Secrets"))}
    assert {*profiles._AUTH} == said


@pytest.mark.parametrize("name", ["base", "dev", "prod"])
def test_the_example_file_of_the_page(name: str) -> None:
    """The example file of the page is valid, with the stated profiles."""
    (text,) = re.findall(r"^```toml\n(.*?)^```", PAGE, re.DOTALL | re.MULTILINE)
    assert loaded(text, name).options()["timeouts"] == Timeouts(idle=300, total=None)


# ----------------------------------------------------------------------------------------------------------- Precedence

VALUES: Final[dict[str, st.SearchStrategy[Any]]] = {
    "name": st.sampled_from(["a", "b", "c", "d"]),
    "strict": st.booleans(),
    "share_data": st.booleans() | st.lists(st.sampled_from("abc"), min_size=1, max_size=2),
    "timeouts.idle": st.floats(1, 99) | st.just("off"),
    "timeouts.connect": st.floats(1, 99),
    "limits.depth": st.integers(1, 99),
    "auth": st.sampled_from("ABC").map(lambda name: {"bearer_env": name}),
}
SOURCE: Final = st.fixed_dictionaries({}, optional=VALUES)


def toml(values: Mapping[str, Any]) -> str:
    """Return TOML lines for `values`; texts, numbers, lists and booleans are written as in JSON."""
    flat = {f"auth.{key}": name for key, name in values.get("auth", {}).items()}
    flat |= {key: value for key, value in values.items() if key != "auth"}
    return "\n".join(f"{key} = {json.dumps(value)}" for key, value in flat.items())


def variables(values: Mapping[str, Any]) -> dict[str, str]:
    """Return the variables for `values`."""
    said: dict[str, str] = {}
    for key, value in values.items():
        name = f"OXYGENT_{key.upper().replace('.', '_')}"
        if key == "auth":
            said["OXYGENT_AUTH_BEARER_ENV"] = value["bearer_env"]
        else:
            said[name] = ",".join(cast("list[str]", value)) if isinstance(value, list) else str(value)
    return said


def keywords(values: Mapping[str, Any]) -> dict[str, Any]:
    """Return the keyword arguments for `values`."""
    said: dict[str, Any] = {}
    for key, value in values.items():
        table, _, name = key.rpartition(".")
        (said.setdefault(table, {}) if table else said)[name] = value
    return said


@given(base=SOURCE, own=SOURCE, environ=SOURCE, arguments=SOURCE)
def test_precedence(
    base: dict[str, Any], own: dict[str, Any], environ: dict[str, Any], arguments: dict[str, Any]
) -> None:
    """For each key the last of base, profile, variables and arguments is used, and named in errors."""
    text = f'[profiles.base]\n{toml(base)}\n[profiles.own]\nextends = "base"\n{toml(own)}\n'
    more = keywords(arguments)
    agents_name = more.pop("name", None)  # as an argument of `load_profile` it is the profile's
    profile = loaded(text, "own", variables(environ), **more)
    arguments = {key: value for key, value in arguments.items() if key != "name"}
    expected = base | own | environ | arguments
    plain = {key: None if value == "off" else value for key, value in expected.items()}
    assert {
        key: tuple(cast("list[str]", value)) if isinstance(value, list) else value for key, value in plain.items()
    } == profile.values
    said = {"'base'": base, "'own'": own, "OXYGENT_": environ, "argument": arguments}
    for key, source in profile.sources.items():
        winner = [mark for mark, values in said.items() if key in values][-1]
        assert winner in source
    assert (agents_name or plain.get("name", "remote")) == profile.agent(
        server_url=URL, **({"name": agents_name} if agents_name else {})
    ).name


@pytest.mark.parametrize(
    ("expected", "name", "environ"),
    [
        ("dev", None, {}),
        ("prod", None, {"OXYGENT_PROFILE": "prod"}),
        ("staging", "staging", {"OXYGENT_PROFILE": "prod"}),
    ],
)
def test_which_profile(expected: str, name: str | None, environ: dict[str, str]) -> None:
    """The profile is the named one, or the variable's, or the file's default."""
    assert loaded(THREE, name, environ).name == expected


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory with files of profiles, and two configuration directories with one each."""
    places = [f"{name}.toml" for name in ("oxygent", "team", "mine")]
    places += [f"{directory}/oxygent-client/oxygent.toml" for directory in ("xdg", ".config")]
    for place in places:
        (tmp_path / place).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / place).write_text(one(f'name = "{place}"'), encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.parametrize(
    ("path", "variables", "taken"),
    [
        ("mine.toml", {"OXYGENT_PROFILES": "team.toml", "HOME": "."}, "mine.toml"),
        (None, {"OXYGENT_PROFILES": "team.toml", "XDG_CONFIG_HOME": "xdg"}, "team.toml"),
        (None, {"XDG_CONFIG_HOME": "xdg", "HOME": "."}, "xdg/oxygent-client/oxygent.toml"),
        (None, {"HOME": "."}, ".config/oxygent-client/oxygent.toml"),
        ("oxygent.toml", {}, "oxygent.toml"),
        (None, {"OXYGENT_PROFILES": "oxygent.toml"}, "oxygent.toml"),
        (None, {"HOME": "elsewhere"}, None),
        (None, {}, None),
    ],
    ids=["argument", "variable", "xdg", "home", "named here", "variable here", "home without", "unnamed here"],
)
def test_which_file(folder: Path, path: str | None, variables: dict[str, str], taken: str | None) -> None:
    """The file is the named one, or the variable's, or the user's; never one in the current directory."""
    environ = {name: str(folder / value) for name, value in variables.items()}
    assert load_profile(path=path, environ=environ).values.get("name") == taken


@pytest.mark.parametrize("name", ["HOME", "XDG_CONFIG_HOME"])
@pytest.mark.usefixtures("folder")
def test_a_relative_configuration_directory_is_ignored(name: str) -> None:
    """A relative configuration directory is ignored: it would be in the current directory."""
    assert load_profile(environ={name: "xdg" if name == "XDG_CONFIG_HOME" else "."}).values == {}


@pytest.mark.parametrize(
    ("platform", "variable", "below"),
    [
        ("linux", "HOME", ".config"),
        ("darwin", "HOME", "Library/Application Support"),
        ("win32", "APPDATA", "."),
        ("win32", "XDG_CONFIG_HOME", "."),
    ],
)
def test_the_configuration_directory_of_each_platform(tmp_path: Path, platform: str, variable: str, below: str) -> None:
    """Each platform has its own directory; `XDG_CONFIG_HOME` is used on all."""
    path = tmp_path / below / "oxygent-client" / "oxygent.toml"
    path.parent.mkdir(parents=True)
    path.touch()
    assert profiles._user_file({variable: str(tmp_path)}, platform) == path


def test_the_used_file_is_logged(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The path of the used file is logged at INFO, with line breaks escaped."""
    caplog.set_level("INFO", "oxygent_client")
    path = (folder / "mine.toml").rename(folder / "mi\nne.toml")
    load_profile(path=path, environ={})
    assert [(each.levelname, str(folder) in each.getMessage()) for each in caplog.records] == [("INFO", True)]
    assert "mi\\nne.toml" in caplog.text


@pytest.mark.usefixtures("folder")
def test_a_file_in_the_current_directory(caplog: pytest.LogCaptureFixture) -> None:
    """An unnamed file in the current directory is ignored, with a warning or a hint in the error."""
    load_profile(environ={})
    assert [(each.levelname, "oxygent.toml" in each.getMessage()) for each in caplog.records] == [("WARNING", True)]
    with pytest.raises(errors.ConfigurationError, match=r"oxygent\.toml"):
        load_profile("p", environ={})


def status(user: int, mode: int) -> os.stat_result:
    """Return the stat result of a file of this user."""
    return os.stat_result((mode, 0, 0, 1, user, 0, 0, 0, 0, 0))


@pytest.mark.parametrize(
    ("owner", "mode", "user", "refused"),
    [
        (1000, 0o100664, 1000, False),
        (0, 0o100644, 1000, False),
        (1001, 0o100644, 1000, True),
        (1001, 0o100644, 0, True),
        (1000, 0o100666, 1000, True),
        (0, 0o100646, 1000, True),
        (1000, 0o010666, 1000, False),
        (0, 0o100666, None, False),
    ],
    ids=["own", "of root", "foreign", "foreign to root", "for all", "of root for all", "pipe", "no owners"],
)
def test_file_owners(owner: int, mode: int, user: int | None, refused: bool) -> None:
    """A file is used if only this user, root or this user's group can write it."""
    assert bool(profiles._distrust(status(owner, mode), user)) is refused


def test_world_writable_files(folder: Path) -> None:
    """A file that is world-writable is refused, even if it is named."""
    (folder / "mine.toml").chmod(0o666)
    with pytest.raises(errors.ConfigurationError, match="chmod"):
        load_profile(path="mine.toml", environ={})


# --------------------------------------------------------------------------------------------------------------- Errors


@pytest.mark.parametrize(
    ("said", "lines"),
    [
        ("line 3, profile 'p': unknown key; did you mean 'server_url'?", 'servr_url = "x"'),
        ("line 4, profile 'p': timeouts: unknown key; did you mean 'idle'?", "\ntimeouts.idel = 3"),
        (
            "line 3, profile 'p': timeouts: unknown key; known keys: connect, silence, idle, total, lookup, confirm",
            "timeouts = { zzz = 3 }",
        ),
        ("line 3, profile 'p': unknown key; did you mean 'timeouts'?", "[profiles.p.timeout]\nidle = 3"),
        ("line 3, profile 'p': server_url: must be ", "server_url = 5"),
        ("line 3, profile 'p': server_url: must be an http:// or https:// URL", 'server_url = "ftp://x"'),
        ("line 3, profile 'p': strict: must be ", "strict = 1"),
        ("line 3, profile 'p': confirm_state: must be ", 'confirm_state = "yes"'),
        ("line 4, profile 'p': timeouts.idle: must be ", "[profiles.p.timeouts]\nidle = true"),
        ("line 4, profile 'p': limits.depth: must be ", "[profiles.p.limits]\n'depth' = 1.5"),
        ("line 3, profile 'p': limits.depth: must be ", 'limits.depth = "off"'),
        ("line 3, profile 'p': limits.nodes: must be", "limits.nodes = 0"),
        ("line 3, profile 'p': retry.attempts: ", "retry.attempts = 0"),
        ("line 3, profile 'p': timeouts: must be a table", "timeouts = 3"),
        ("line 3, profile 'p': plaintext_hosts: must be ", 'plaintext_hosts = "x"'),
        ("line 3, profile 'p': plaintext_hosts: must be ", "plaintext_hosts = [1]"),
        (
            "line 3, profile 'p': plaintext_hosts: must be ",
            'plaintext_hosts = ["http://x"]',
        ),
        ("line 3, profile 'p': share_data: must be ", 'share_data = "x"'),
        ("line 3, profile 'p': call_stack_strategy: must be ", 'call_stack_strategy = "ful"'),
        ("line 3, profile 'p': unknown key; ", 'transport = "x"'),
        ("line 3, profile 'p': strict: must not be a table", "strict = { a = 1 }"),
        ("line 3, profile 'p': auth.bearer_env: must be a str", "auth.bearer_env = 5"),
        # secrets
        ("line 3, profile 'p': server_url: holds a secret", f'server_url = "https://me:{TOKEN}@remote.test"'),
        ("line 3, profile 'p': server_url: holds a secret", f'server_url = "https://remote.test?api_key={TOKEN}"'),
        ("line 3, profile 'p': desc: holds a secret", f'desc = "use Bearer {TOKEN}"'),
        ("line 3, profile 'p': headers: is a secret by its name", f'headers = {{ x-api-key = "{TOKEN}" }}'),
        ("line 3, profile 'p': headers: is a secret", f'headers.Authorization = "{TOKEN}"'),
        ("line 3, profile 'p': headers: holds a secret", f'headers = {{ x-a = "Bearer {TOKEN}" }}'),
        (
            "line 3, profile 'p': auth: unknown key; did you mean 'bearer_env'? (a secret is named",
            f'auth.bearer = "{TOKEN}"',
        ),
        ("line 3, profile 'p': auth: unknown key; known keys: bearer_env, bearer_file", f'auth.token = "{TOKEN}"'),
        (
            "line 3, profile 'p': auth.bearer_env: must be the name of a variable",
            f'auth = {{ bearer_env = "{TOKEN}" }}',
        ),
        ("line 3, profile 'p': auth: must be a table", f'auth = "{TOKEN}"'),
        (
            "line 3, profile 'p': auth: needs bearer_env, or bearer_file, or basic_username and basic_env",
            'auth = { basic_username = "me" }',
        ),
        ("line 3, profile 'p': auth: needs ", 'auth = { bearer_env = "A", bearer_file = "b" }'),
        (
            "line 3, profile 'p': auth: BasicAuth: ",
            'auth = { basic_username = "a:b", basic_env = "A" }',
        ),
        # headers
        ("line 3, profile 'p': headers: must be a table", 'headers = "x"'),
        ("line 3, profile 'p': headers: must be a str", "headers = { x-a = 1 }"),
        ("line 3, profile 'p': headers: the name or the value is not allowed", 'headers = { x-a = "a\\nb" }'),
        ("line 3, profile 'p': headers: unknown key; known keys: env, file", 'headers = { x-a = { evn = "A" } }'),
        ("line 3, profile 'p': headers: must be the name of a variable", 'headers = { x-a = { env = "a b" } }'),
        ("line 3, profile 'p': headers: needs { env", "headers = { x-a = {} }"),
        ("line 3, profile 'p': headers: HTTP does not allow this name", 'headers = { host = { env = "A" } }'),
        # profiles
        ("line 3, profile 'p': extends: must be the name of a profile", "extends = 5"),
        ("line 3, profile 'p': extends: is circular: it leads back to 'p'", 'extends = "p"'),
        (
            "line 7, profile 'r': extends: is circular: it leads back to 'q'",
            'extends = "q"\n[profiles.q]\nextends = "r"\n[profiles.r]\nextends = "q"',
        ),
        (", profile 'p': extends: unknown profile 'qq'; did you mean 'q'?", 'extends = "qq"\n[profiles.q]'),
        (": unknown profile 'p'; known profiles: 'q'", "[profiles.q]"),
    ],
)
def test_invalid_keys_and_values(said: str, lines: str) -> None:
    """The error has file, line, profile and key, and the expected type, and never a given text."""
    text = one(lines) if not said.startswith(": unknown profile") else f'default = "p"\n{lines}\n'
    with pytest.raises(errors.ConfigurationError) as caught:
        loaded(text)
    assert str(caught.value).startswith("oxygent.toml")
    assert said in str(caught.value)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "text", "name"),
    [
        ("'oxygent.toml' is not TOML (at end of document)", "x = ", None),
        ("'oxygent.toml' is not TOML (at line 2", 'default = "a"\ndefault = "b"\n', None),
        ("oxygent.toml: unknown key; known keys: 'default' and 'profiles'", 'defautl = "x"', None),
        ("oxygent.toml: default: must be the name of a profile", "default = 1", None),
        ("oxygent.toml: profiles: must be a table of profiles", "profiles = 1", None),
        ("oxygent.toml, line 1, profile 'p': must be a table", "profiles.p = 1", "p"),
        (
            "oxygent.toml: name a profile, since the file has no `default`; its profiles: 'a', 'b'",
            "[profiles.a]\n[profiles.b]",
            None,
        ),
        ("oxygent.toml: name a profile, since the file has no `default`; its profiles: none", "", None),
        ("oxygent.toml: unknown profile 'prd'; did you mean 'prod'?", THREE, "prd"),
        ("no file with the profile 'prod': give path=, or set OXYGENT_PROFILES", None, "prod"),
    ],
)
def test_invalid_files(said: str, text: str | None, name: str | None) -> None:
    """An invalid file, or one without the requested profile, raises an error."""
    with pytest.raises(errors.ConfigurationError) as caught:
        loaded(text, name)
    assert said in str(caught.value)


CANARY: Final = "canary-4711-of-a-secret"
DEEP: Final = 5000


@pytest.mark.parametrize(
    "text",
    [
        one(f'desc = "{CANARY}"\nstrict = {"[" * DEEP}{"]" * DEEP}'),
        one(f'desc = "{CANARY}"\nstrict = {"{a=" * DEEP}1{"}" * DEEP}'),
        one(f'desc = "{CANARY}"\n{".".join("a" * DEEP)} = 1'),
        one(f"desc = '{CANARY}'\n[{'.'.join('a' * 100)}]\n{'.'.join('b' * 100)} = 1"),
        one(f'desc = "{CANARY}"\ntimeouts.idle = {"4711" * 1250}'),
        one(f'desc = "{CANARY}"\ntimeouts.idle = 0x{"4711" * 1250}'),
        one(f'desc = "{CANARY}"\ntimeouts.idle = {"4711" * 1000}'),
        one(f'desc = "{CANARY}"\nlimits.depth = -{"4711" * 5}'),
        one(f'desc = "{CANARY}'),
        one(f'"{CANARY}" = 1\n"{CANARY}" = 2'),
        one(f'"{CANARY}" = 1'),
        one(f'timeouts."{CANARY}" = 1'),
        one(f'auth."{CANARY}" = "A"'),
        one(f'auth.bearer_env = "{CANARY}"'),
        one(f'headers."{CANARY} " = "a"'),
        one(f'headers."{CANARY}" = 1'),
        one(f'headers."{CANARY}" = {{ env = "A", file = "b" }}'),
        one(f'headers.x-a = {{ "{CANARY}" = "A" }}'),
        one(f'headers."{CANARY} " = {{ env = "A" }}'),
        one(f'server_url = "ftp://{CANARY}"'),
        one(f'extends = "Bearer {CANARY}"'),
        one(f'desc = "{CANARY}"\nextends = "{"x" * DEEP}"'),
        f'"{CANARY}" = 1',
        f'default = "Bearer {CANARY}"\n[profiles."Bearer {CANARY}"]\nstrict = 5',
        f'[profiles."\\u001b{CANARY}"]',
        f'# {CANARY}\n{"#" * (64 * 1024)}',
        f"default = 'p0' # {CANARY}\n" + "".join(f"[profiles.p{i}]\nextends='p{i + 1}'\n" for i in range(40)),
        f"# {CANARY}\n" + "\n".join(f"[profiles.p{i}]" for i in range(40)),
    ],
    ids=[
        "deep list", "deep table", "long key", "long keys", "5000 digits", "hexadecimal", "4000 digits", "20 digits",
        "no end of a text", "key twice", "key", "key of a table", "key of auth", "variable", "header", "header's value",
        "two references", "key of a header", "secret header", "url", "extends", "long extends", "key of the file",
        "name", "control character", "too large", "long chain", "many names",
    ],
)  # fmt: skip
def test_hostile_files(text: str) -> None:
    """For any file the error is short, shows no value and no key, and has no cause."""
    with pytest.raises(errors.ConfigurationError) as caught:
        loaded(text)
    behind: list[BaseException | None] = [caught.value, caught.value.__cause__, caught.value.__context__]
    assert behind[1:] == [None, None]
    assert CANARY not in str(caught.value)
    assert "4711" not in str(caught.value)
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize(
    ("variable", "value"),
    [
        ("OXYGENT_TIMEOUTS_IDLE", CANARY),
        ("OXYGENT_LIMITS_DEPTH", CANARY),
        ("OXYGENT_LIMITS_DEPTH", "4711" * 1250),
        ("OXYGENT_STRICT", CANARY),
        ("OXYGENT_CONFIRM_STATE", CANARY),
    ],
    ids=["number", "whole number", "5000 digits", "flag", "flag or auto"],
)
def test_the_error_for_a_variable_keeps_no_value(variable: str, value: str) -> None:
    """Neither the error's text nor its cause shows the value of a variable."""
    with pytest.raises(errors.ConfigurationError) as caught:
        loaded(environ={variable: value})
    assert "4711" not in str(caught.value)
    assert caught.value.__context__ is None


def test_many_headers_take_linear_time() -> None:
    """Headers are mapped to their lines in linear time."""
    names = [f"x-{number}" for number in range(2000)]
    profile = loaded(one("[profiles.p.headers]\n" + "\n".join(f"{name} = 'a'" for name in names)))
    assert profile.sources["headers.x-1999"] == "oxygent.toml, line 2003, profile 'p'"


def test_unreadable_files(tmp_path: Path) -> None:
    """An unreadable or binary file is named without its directory, and none of its bytes is shown."""
    with pytest.raises(errors.ConfigurationError, match=r"^the file 'none.toml' cannot be read: FileNotFoundError$"):
        load_profile(path=tmp_path / "none.toml", environ={})
    (tmp_path / "bytes.toml").write_bytes(b"\xff")
    with pytest.raises(errors.ConfigurationError, match=r"^the file 'bytes.toml' is not UTF-8$"):
        load_profile(path=tmp_path / "bytes.toml", environ={})


@pytest.mark.parametrize(
    ("said", "environ"),
    [
        ("the variable OXYGENT_SERVR_URL: unknown; did you mean OXYGENT_SERVER_URL?", {"OXYGENT_SERVR_URL": URL}),
        ("the variable OXYGENT_PROFIL: unknown; did you mean OXYGENT_PROFILE?", {"OXYGENT_PROFIL": "dev"}),
        (
            "the variable OXYGENT_RETRY_OFTEN: unknown; known variables: OXYGENT_RETRY_ATTEMPTS, OXYGENT_RETRY_BASE, ",
            {"OXYGENT_RETRY_OFTEN": "1"},
        ),
        (
            "the variable OXYGENT_AUTH_TOKEN: unknown; known variables: OXYGENT_AUTH_BEARER_ENV, ",
            {"OXYGENT_AUTH_TOKEN": TOKEN},
        ),
        (
            "the variable OXYGENT_HEADERS_X_TENANT: unknown; known variables: none like OXYGENT_HEADERS_*",
            {"OXYGENT_HEADERS_X_TENANT": "acme"},
        ),
        ("OXYGENT_STRICT: strict: must be ", {"OXYGENT_STRICT": "maybe"}),
        ("OXYGENT_CONFIRM_STATE: confirm_state: must be ", {"OXYGENT_CONFIRM_STATE": "maybe"}),
        ("OXYGENT_TIMEOUTS_IDLE: timeouts.idle: must be ", {"OXYGENT_TIMEOUTS_IDLE": "1s"}),
        ("OXYGENT_TIMEOUTS_IDLE: timeouts.idle: must be", {"OXYGENT_TIMEOUTS_IDLE": "0"}),
        ("OXYGENT_TIMEOUTS_IDLE: timeouts.idle: must be", {"OXYGENT_TIMEOUTS_IDLE": "nan"}),
        ("OXYGENT_LIMITS_DEPTH: limits.depth: must be ", {"OXYGENT_LIMITS_DEPTH": "off"}),
        ("OXYGENT_AUTH_BEARER_ENV: auth.bearer_env: must be the name", {"OXYGENT_AUTH_BEARER_ENV": TOKEN}),
        ("OXYGENT_AUTH_*: auth: needs ", {"OXYGENT_AUTH_BASIC_ENV": "P"}),
        ("OXYGENT_SERVER_URL: server_url: holds a secret", {"OXYGENT_SERVER_URL": f"https://a:{TOKEN}@remote.test"}),
    ],
)
def test_invalid_variables(said: str, environ: dict[str, str]) -> None:
    """The error names the variable, never its value."""
    with pytest.raises(errors.ConfigurationError) as caught:
        loaded(environ=environ)
    assert str(caught.value).startswith(said)
    assert TOKEN not in str(caught.value)


@pytest.mark.parametrize(
    ("said", "arguments"),
    [
        ("an argument: unknown key; did you mean 'callee'?", {"calee": "x"}),
        ("an argument: unknown key; ", {"extends": "x"}),
        ("argument timeouts: timeouts: must be a table", {"timeouts": Timeouts()}),
        ("argument timeouts: timeouts.idle: must be ", {"timeouts": {"idle": "1"}}),
        ("argument timeouts: timeouts: must be a table", {"timeouts": {1: 1}}),
        ("argument headers: headers: must be a table", {"headers": {1: "x"}}),
        ("argument headers: headers: is a secret by its name", {"headers": {"cookie": TOKEN}}),
    ],
)
def test_invalid_arguments(said: str, arguments: dict[str, Any]) -> None:
    """The error names the argument, never its value."""
    with pytest.raises(errors.ConfigurationError) as caught:
        loaded(**arguments)
    assert str(caught.value).startswith(said)
    assert TOKEN not in str(caught.value)


# --------------------------------------------------------------------------------------------------------------- Agents


async def test_an_agent_with_secrets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Secrets are read for each request from the source in the profile, and are not shown."""
    (tmp_path / "key").write_text("first-key", encoding="utf-8")
    monkeypatch.setenv("TRIPS_TOKEN", TOKEN)
    monkeypatch.setenv("TRIPS_ID", "id-7")
    profile = loaded(
        one(
            f'server_url = "{URL}"\nauth.bearer_env = "TRIPS_TOKEN"\ncallee = "trips"\ncheck_callee = false\n'
            f'headers = {{ x-tenant = "acme", x-id = {{ env = "TRIPS_ID" }}, x-key = {{ file = "{tmp_path}/key" }} }}'
        )
    )
    transport = FakeTransport({"/sse/chat": Reply((answer("42"), close()))})
    agent = profile.agent(transport=transport, name="mine")
    assert agent.name == "mine"
    assert (await agent.ask("hi")).output == "42"
    (tmp_path / "key").write_text("next-key", encoding="utf-8")
    await agent.ask("hi")
    first, second = transport.requests
    assert [first.headers[name] for name in ("authorization", "x-id", "x-key", "x-tenant")] == [
        f"Bearer {TOKEN}",
        "id-7",
        "first-key",
        "acme",
    ]
    assert second.headers["x-key"] == "next-key"
    assert {"authorization", "x-id", "x-key"} <= first.context.secret_headers
    assert transport.payloads[0]["callee"] == "trips"
    shown = repr((profile, profile.values, profile.options(), agent))
    assert not [secret for secret in (TOKEN, "id-7", "first-key") if secret in shown]
    assert (
        repr(profile)
        == "<Profile 'p': auth, callee, check_callee, headers.x-id, headers.x-key, headers.x-tenant, server_url>"
    )


async def test_several_headers_without_a_token(monkeypatch: pytest.MonkeyPatch) -> None:
    """Several headers by reference can be used without a token."""
    monkeypatch.setenv("A", "first")
    monkeypatch.setenv("B", "second")
    transport = FakeTransport({"/sse/chat": Reply((answer("42"), close()))})
    profile = loaded(one('headers = { x-a = { env = "A" }, x-b = { env = "B" } }'), server_url=URL)
    await profile.agent(transport=transport).ask("hi")
    assert [transport.requests[0].headers[name] for name in ("x-a", "x-b")] == ["first", "second"]


def test_copies() -> None:
    """Profiles and agents pickle with the source of a secret, without the secret."""
    profile = loaded(THREE, "prod")
    assert pickle.loads(pickle.dumps(profile)) == profile
    assert profile.options() == pickle.loads(pickle.dumps(profile)).options()
    assert pickle.loads(pickle.dumps(profile.agent())).server_url == "https://oxygent.example"


def test_an_agent_without_a_url() -> None:
    """Without `server_url` the error has the places where it can be set."""
    with pytest.raises(errors.ConfigurationError, match=r"<Profile '': nothing> has no server_url"):
        loaded().agent()


def test_a_subclass() -> None:
    """The options are accepted by any subclass."""

    class Agent(SSEOxyGent):
        pass

    agent = Agent(**loaded(THREE).options(), name="dev_remote")
    assert agent.name == "dev_remote"
    assert agent.server_url == "http://localhost:8082"
    assert agent.timeouts.idle == 300
