"""Public names: `__all__` is complete, names are loaded lazily, and each has a docstring.

Rule 1: a public module lists its names in `__all__`; its other definitions begin with an underscore.
Rule 2: `import oxygent_client` imports no network library.
"""

from __future__ import annotations

import ast
import importlib
import inspect
import json
import pkgutil
import subprocess
import sys
import warnings
from typing import TYPE_CHECKING, Final

import pytest

import oxygent_client
from tests.conftest import ROOT

if TYPE_CHECKING:
    from types import ModuleType

# Names in the design and the documentation: removing one needs a major release.
PROMISED: Final = """
    AgentRegistry Answer BearerAuth Cluster Custom Decoder Event EventRouter HTTPRequest HTTPResponse HTTPXTransport
    Limits Observation OxyError OxyRequest OxyResponse OxyState Progress RemoteAgent RemoteErrorEvent Retry SSEOxyGent
    ServerSentEvent Text TextDelta Timeouts ToolCall Transport __version__ build_payload errors
""".split()
LATER: Final[frozenset[str]] = frozenset()
"""Promised names that do not exist yet."""

NETWORK_LIBRARIES: Final = ("aiohttp", "anyio", "h11", "httpcore", "httpx", "httpx2", "httpx_sse", "trio", "uvicorn")


def is_public(name: str) -> bool:
    """Return whether no part of it begins with an underscore."""
    return not any(part.startswith("_") for part in name.split("."))


def public_modules() -> list[str]:
    """Return the public modules of the package, itself first."""
    below = pkgutil.walk_packages(oxygent_client.__path__, "oxygent_client.")
    names = ["oxygent_client", *(module.name for module in below if is_public(module.name))]
    return [name for name in names if name not in ELSEWHERE]


ELSEWHERE: Final = {"oxygent_client.integrations.oxygent"}
"""Needs a heavy framework; tests/interop/test_drop_in.py imports it where the framework is."""

MODULES: Final = public_modules()


def load(name: str) -> tuple[ModuleType, list[str]]:
    """Return the module and the names it lists."""
    module = importlib.import_module(name)
    names: list[str] = getattr(module, "__all__", [])
    return module, names


LAZY: Final = {
    # a package that loads its names when they are first used: names that it loads at once
    "oxygent_client": {"__version__"},
    "oxygent_client.cluster": set[str](),
    "oxygent_client.policies": {"check_secure"},
    "oxygent_client.telemetry": set[str](),
}


@pytest.mark.parametrize("name", LAZY)
def test_dir(name: str) -> None:
    """`dir()` is `__all__` and the usual attributes of a module."""
    module, names = load(name)
    shown = {each for each in dir(module) if not each.startswith("_")}
    assert shown == {each for each in names if not each.startswith("_")}


def test_the_promised_names() -> None:
    """Each promised name exists, or is listed as missing."""
    assert sorted(set(PROMISED) - set(oxygent_client.__all__)) == sorted(LATER)


@pytest.mark.parametrize("name", oxygent_client.__all__)
def test_each_name_can_be_imported(name: str) -> None:
    """A listed name can be imported, and is the same object each time."""
    assert getattr(oxygent_client, name) is getattr(oxygent_client, name)


@pytest.mark.parametrize(("name", "at_once"), LAZY.items(), ids=LAZY)
def test_names_for_type_checkers(name: str, at_once: set[str]) -> None:
    """Each lazily loaded name is imported for type checkers, and no other."""
    module, names = load(name)
    tree = ast.parse(inspect.getsource(module))
    imported = {
        alias.asname or alias.name
        for block in tree.body
        if isinstance(block, ast.If) and ast.unparse(block.test) == "TYPE_CHECKING"
        for node in ast.walk(block)
        if isinstance(node, ast.ImportFrom) and node.module != "typing"
        for alias in node.names
    }
    assert imported == set(names) - at_once


def test_an_unknown_name() -> None:
    """An unknown name raises AttributeError with the name."""
    with pytest.raises(AttributeError, match=r"oxygent_client.*no_such_name"):
        getattr(oxygent_client, "no_such_name")  # noqa: B009  (a type checker would see the attribute)


def test_star_import() -> None:
    """`from oxygent_client import *` imports exactly the listed names."""
    namespace: dict[str, object] = {}
    exec("from oxygent_client import *", namespace)
    assert namespace.keys() - {"__builtins__"} == set(oxygent_client.__all__)


def test_import_without_network_libraries() -> None:
    """Importing the package, and its `dir()`, imports no network library in a new interpreter."""
    program = f"import sys, oxygent_client; dir(oxygent_client); print(*set({NETWORK_LIBRARIES}) & set(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


AGENT: Final = "from oxygent_client import SSEOxyGent"
NEEDLESS: Final = {
    *("cluster._cluster", "policies._auth", "policies._limits", "policies._tokens", "transports", "testing"),
    *("_core.report", "_run.notebook", "profiles", "registry", "sync", "serve", "cli"),
    # Conversations, detached runs, `map`, `restart`, tools, and all endpoints but that of runs.
    *("_agent.conversation", "_agent.detached", "_agent.query_map", "_agent.restart", "_agent.tokens", "_agent.tool"),
    *("concurrent.futures.thread", "_api.discovery", "_api.records", "_api.services", "_core.spellings"),
    *("_protocol.documents", "_protocol.run_record", "cluster._run_locations"),
    # What a run keeps for those who look at it.
    *("_core.call_tree", "_core.open_calls", "_core.trace", "_run.answer_text", "_run.keepalive", "_run.prose"),
    *("_run.text_updates", "_run.texts", "_run.traced_calls", "_run.unread_events", "telemetry._stats"),
}
"""Modules that an agent does not need for a plain run."""
NOT_LOADED: Final = {
    # a program: modules that it does not load; those of this package without its name
    "import oxygent_client": {"_core", "typing", "anyio", "attr", "asyncio", "httpx", "json", "logging", "ssl"},
    "from oxygent_client import errors, OxyResponse": {"_agent", "anyio", "asyncio", "httpx", "ssl"},
    AGENT: NEEDLESS,
    f"{AGENT}, HTTPXTransport": NEEDLESS - {"transports"},
    f"{AGENT}, Cluster, Retry, BearerAuth": {"httpx", "httpcore", "httpx_sse", "aiohttp"},
    f"{AGENT}; SSEOxyGent(server_url='http://127.0.0.1')": {"cluster._cluster", "policies._auth", "policies._tokens"},
    "from oxygent_client.transports.aiohttp import AiohttpTransport": {"httpx", "httpcore", "httpx_sse"},
}


@pytest.mark.parametrize(("program", "unwanted"), NOT_LOADED.items(), ids=NOT_LOADED)
def test_what_an_import_loads(program: str, unwanted: set[str]) -> None:
    """What a program does not use, an import does not load: that is most of the time of an import."""
    names = unwanted | {f"oxygent_client.{name}" for name in unwanted}
    shown = f"import sys; before = {{*sys.modules}}; {program}; print(*{names} & set(sys.modules) - before)"
    done = subprocess.run([sys.executable, "-c", shown], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


@pytest.mark.parametrize("name", MODULES)
def test_all_is_valid(name: str) -> None:
    """A public module has a docstring and an `__all__` of existing names without duplicates."""
    module, names = load(name)
    assert module.__doc__
    assert len(names) == len(set(names))
    assert [missing for missing in names if not hasattr(module, missing)] == []


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete(name: str) -> None:
    """A class or function defined in a public module is in its `__all__`, or begins with an underscore."""
    module, names = load(name)
    own = {
        shown
        for shown, value in vars(module).items()
        if not shown.startswith("_")
        and (inspect.isclass(value) or inspect.isfunction(value))
        and value.__module__ == module.__name__
    }
    assert own - set(names) == set()


@pytest.mark.parametrize("name", MODULES)
def test_docstrings(name: str) -> None:
    """Each public class and function has a docstring; the one that dataclasses generate does not count."""
    module, names = load(name)
    values = {shown: getattr(module, shown) for shown in names}
    silent = [
        shown
        for shown, value in values.items()
        if (inspect.isclass(value) or inspect.isfunction(value))
        and (not value.__doc__ or value.__doc__.startswith(f"{value.__name__}("))
    ]
    assert silent == []


BEFORE: Final[dict[str, list[str]]] = json.loads((ROOT / "tests" / "project" / "public_names.json").read_text("utf-8"))
"""The public names of each module before the modules were moved into folders."""
MOVED: Final = {
    "oxygent_client": {"Answered", "Context", "Drop", "Forward", "Host", "Link", "Partial"},
    "oxygent_client.cluster": {"Home"},
    "oxygent_client.policies": {"Kind"},
    "oxygent_client.telemetry": {"Happening", "Observed", "Pool"},
    "oxygent_client.testing.script": {"Step"},
}


@pytest.mark.parametrize("name", BEFORE)
def test_old_names(name: str) -> None:
    """Each old public name still imports; a moved one warns at the caller's line."""
    module = importlib.import_module(name)
    warned: set[str] = set()
    for shown in BEFORE[name]:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always", DeprecationWarning)
            assert hasattr(module, shown)
        warned |= {shown for each in caught if each.filename == __file__}
    assert MOVED.get(name, set()) == warned
