"""The layers: the table of allowed imports, and the check that the source keeps to it.

Rule 1: each module is in one room. A new module gets its line in ROOMS, or goes where a line has it already.
Rule 2: an import counts wherever it is: in a function, under TYPE_CHECKING, or as `import_module("...")`.
Rule 3: imports that are allowed for type checkers only are in FOR_TYPES, with the reason.
"""

from __future__ import annotations

import ast
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import pytest

from tests.conftest import ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PACKAGE: Final = "oxygent_client"
SOURCE: Final = ROOT / "src" / PACKAGE


@dataclass(frozen=True)
class Room:
    """Modules that may import the same things; `x.*` is `x` and all below it."""

    modules: tuple[str, ...]
    rooms: frozenset[str]
    libraries: frozenset[str]
    pure: bool
    edge: bool


def room(modules: str, rooms: str = "", libraries: str = "", *, pure: bool = False, edge: bool = False) -> Room:
    """Return a line of ROOMS; the modules of a room may import each other."""
    return Room(tuple(modules.split()), frozenset(rooms.split()), frozenset(libraries.split()), pure, edge)


SIBLINGS = (
    "policies cluster telemetry telemetry.otel transports transports.aiohttp transports.asgi transports.httpx"
    " transports.httpx2"
)
PUBLIC = f"__init__ errors routing sanitize registry testing {SIBLINGS}"
"""Modules with public names."""

GROUND = "_core _core.bodies _core.ids _core.per_loop _core.tasks"

ROOMS: Final[dict[str, Room]] = {
    # The ground: values and pure helpers. It never connects, draws random numbers or reads a clock.
    "_core": room("_core _core.* _version", "", "attrs msgspec", pure=True),
    # One exception for each of these.
    "_core.ids": room("_core.ids"),
    "_core.bodies": room("_core.bodies", "_core", "anyio"),
    # It starts tasks outside of all task groups: with trio where trio runs already.
    "_core.tasks": room("_core.tasks", "", "anyio trio"),
    # Where trio is imported already, it keeps live objects in a variable of trio's.
    "_core.per_loop": room("_core.per_loop", "_core", "anyio trio"),
    # Pieces 2 and 3: payload, events, router. Pure, too.
    "_protocol": room("_protocol _protocol.*", "_core", "attrs", pure=True),
    # Piece 1: moves bytes. No transport imports another.
    "transports": room("transports transports.*", "_core _core.per_loop _core.tasks", "anyio attrs"),
    "transports.asgi": room("transports.asgi", "_core _core.per_loop _core.tasks transports", "anyio"),
    "transports.httpx": room("transports.httpx", "_core transports", "httpx httpx_sse anyio attrs"),
    "transports.httpx2": room("transports.httpx2", "_core transports", "httpx2 anyio attrs"),
    # A URL of aiohttp's is one of yarl, and a name of a header one of multidict.
    "transports.aiohttp": room(
        "transports.aiohttp", "_core _core.per_loop transports", "aiohttp anyio attrs multidict yarl"
    ),
    "telemetry": room("telemetry telemetry.*", "_core _protocol", "attrs"),
    "telemetry.otel": room("telemetry.otel", "_core telemetry", "attrs opentelemetry"),
    # Transports that wrap transports. A cluster balances `HTTPXTransport`, unless it is given another.
    "policies": room("policies policies.*", f"{GROUND} _protocol", "anyio attrs"),
    "cluster": room("cluster cluster.*", f"{GROUND} _protocol transports.httpx", "anyio attrs"),
    # One function an endpoint; it uses a transport, and no agent.
    "_api": room("_api _api.*", f"{GROUND} _protocol cluster", "anyio attrs"),
    # One run. It uses a transport, and no agent.
    "_run": room("_run _run.*", f"{GROUND} _protocol telemetry policies cluster _api _run.notebook", "anyio attrs"),
    # IPython is loaded already in a notebook.
    "_run.notebook": room("_run.notebook", "_core _protocol telemetry", "attrs IPython"),
    "_agent": room("_agent _agent.*", f"{GROUND} _protocol {SIBLINGS} _api _run", "anyio attrs"),
    "testing": room("testing testing.*", f"{GROUND} _protocol _run", "anyio attrs uvicorn"),
    "errors": room("errors", "_core"),
    "routing": room("routing", "_core _protocol"),
    "sanitize": room("sanitize", "_core", "attrs"),
    "registry": room("registry registry.*", f"{GROUND} _protocol", "anyio attrs"),
    # Public names, each loaded on first use.
    "__init__": room("__init__", f"_core _protocol {SIBLINGS} testing errors registry _run _agent"),
    # Edges: users of the package like any other, so they import only its public names and modules.
    # The served side: what all protocols share, and a room for each protocol.
    "serve": room("serve serve._core serve._core.*", PUBLIC, "anyio attrs uvicorn uvloop", edge=True),
    "serve.openai": room("serve.openai serve._openai serve._openai.*", f"{PUBLIC} serve", "attrs", edge=True),
    "serve.mcp": room(
        "serve.mcp serve._mcp serve._mcp.*", f"{PUBLIC} serve", "anyio attrs mcp mcp_types sse_starlette", edge=True
    ),
    "serve.a2a": room("serve.a2a serve._a2a serve._a2a.*", f"{PUBLIC} serve", "anyio attrs a2a google", edge=True),
    "serve.relay": room("serve.relay serve._relay serve._relay.*", f"{PUBLIC} serve", "anyio attrs", edge=True),
    "serve.agui": room(
        "serve.agui serve._agui serve._agui.*", f"{PUBLIC} serve", "anyio attrs ag_ui pydantic", edge=True
    ),
    "cli": room(
        "cli cli.* __main__",
        f"{PUBLIC} profiles serve serve.openai serve.mcp serve.a2a serve.agui serve.relay",
        "anyio attrs rich typer",
        edge=True,
    ),
    "profiles": room("profiles profiles.*", PUBLIC, "attrs", edge=True),
    "pytest_plugin": room("pytest_plugin", PUBLIC, "anyio attrs pytest uvloop", edge=True),
    "sync": room("sync sync.*", PUBLIC, "anyio attrs", edge=True),
    "integrations": room("integrations", PUBLIC, edge=True),
    "integrations.ray": room("integrations.ray", f"{PUBLIC} sync", "anyio", edge=True),
    "integrations.oxygent": room("integrations.oxygent", PUBLIC, "attrs oxygent pydantic", edge=True),
}

FOR_TYPES: Final[dict[tuple[str, str], str]] = {
    # (importing module, imported module or library): why the type checker needs it
}

# Modules that connect, wait, draw random numbers or read a clock, or look at the machine.
IMPURE_MODULES: Final = frozenset(
    """
    asyncio concurrent http.client http.server multiprocessing os queue random sched secrets select selectors signal
    socket socketserver ssl subprocess tempfile threading time urllib.request uuid
    """.split()
)
IMPURE_CALLS: Final = frozenset({"now", "utcnow", "today"})
"""Methods of `datetime` and `date`."""


# ------------------------------------------------------------------------------------------------------ Reading imports


@dataclass(frozen=True)
class Import:
    """One import: a full dotted name, as far as it may be a module."""

    target: str
    line: int
    for_types: bool


def module_name(path: Path) -> str:
    """Return `transports.httpx` for src/oxygent_client/transports/httpx.py; a package has the name of its directory."""
    parts = path.relative_to(SOURCE).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" and len(parts) > 1 else parts)


MODULES: Final = {module_name(path): path for path in sorted(SOURCE.rglob("*.py"))}


def is_type_checking(test: ast.expr) -> bool:
    """Return whether this condition is `TYPE_CHECKING`."""
    return ast.unparse(test) in {"TYPE_CHECKING", "typing.TYPE_CHECKING"}


def imports_of(module: str, tree: ast.AST, *, for_types: bool = False) -> Iterator[Import]:
    """Return each import in the tree, wherever it is."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and is_type_checking(node.test):
            for part in node.body:
                yield from imports_of(module, ast.Module([part], []), for_types=True)
            for part in node.orelse:
                yield from imports_of(module, ast.Module([part], []), for_types=for_types)
            continue
        for target in targets_of(module, node):
            yield Import(target, getattr(node, "lineno", 0), for_types)
        yield from imports_of(module, node, for_types=for_types)


def targets_of(module: str, node: ast.AST) -> list[str]:
    """Return the imports of this one statement or call."""
    match node:
        case ast.Import(names=names):
            return [alias.name for alias in names]
        case ast.ImportFrom(module=source, names=names, level=level):
            base = source or ""
            if level:
                is_package = module == "__init__" or MODULES.get(module, SOURCE).name == "__init__.py"
                above = [PACKAGE, *([] if module == "__init__" else module.split("."))]
                above = above[: len(above) - level + is_package]
                base = ".".join([*above, *([source] if source else [])])
            return [f"{base}.{alias.name}" for alias in names]
        case ast.Call(func=ast.Name(id=name) | ast.Attribute(attr=name), args=[first, *_]) if name in {
            "__import__",
            "import_module",
        }:
            return [str(first.value) if isinstance(first, ast.Constant) else "(computed)"]
        case _:
            return []


# ----------------------------------------------------------------------------------------------------- Checking imports


def room_of(module: str) -> str | None:
    """Return the room of this module: the line with its name, else the one with its package and `.*`."""
    for name, described in ROOMS.items():
        if module in described.modules:
            return name
    for name, described in ROOMS.items():
        if any(line.endswith(".*") and module.startswith(line[:-1]) for line in described.modules):
            return name
    return None


def own_module(target: str) -> str | None:
    """Return the last module of this package that an import loads, or None."""
    parts = target.split(".")
    if parts[0] != PACKAGE:
        return None
    below = parts[1:]
    named = {module for described in ROOMS.values() for module in described.modules}
    while below and not {".".join(below)} & (MODULES.keys() | named):
        below.pop()  # the last part was a name in a module
    return ".".join(below) or "__init__"


def complaint(module: str, home: Room, found: Import) -> str | None:
    """Return a description of what is wrong with this import, or None."""
    target = own_module(found.target)
    imported = target or found.target.split(".")[0]
    if found.for_types and (module, imported) in FOR_TYPES:
        return None
    if target is None:
        if found.target == "(computed)":
            return (
                None
                if module in {"__init__", "_core.deprecation", "_core.lazy_names"}
                else "imports a computed name: nobody can see which"
            )
        if imported in sys.stdlib_module_names:
            impure = home.pure and any(f"{found.target}.".startswith(f"{name}.") for name in IMPURE_MODULES)
            return f"imports {imported}, and its room is pure" if impure else None
        return None if imported in home.libraries else f"imports the library {imported}, which its room may not"
    there = room_of(target)
    if there is not None and ROOMS[there] is home:
        return None
    if home.edge and any(part.startswith("_") and part != "__version__" for part in found.target.split(".")):
        return f"imports {found.target}, and an edge imports public names only"
    return None if there in home.rooms else f"imports {target} (room: {there}), which its room may not"


def findings(module: str, source: str) -> list[str]:
    """Return all violations of this module."""
    name = room_of(module)
    if name is None:
        return [f"{module} stands in no room: give it a line in ROOMS of tests/project/test_layers.py"]
    tree = ast.parse(source)
    home = ROOMS[name]
    said = [
        f"{module}:{found.line} {text}"
        for found in imports_of(module, tree)
        if (text := complaint(module, home, found)) is not None
    ]
    if home.pure:
        said += [
            f"{module}:{node.lineno} reads the clock: {ast.unparse(node)}"
            for node in ast.walk(tree)
            if isinstance(node, ast.Attribute)
            and node.attr in IMPURE_CALLS
            and ast.unparse(node.value) in {"datetime", "date", "datetime.datetime", "datetime.date"}
        ]
    return said


# --------------------------------------------------------------------------------------------------------------- Tests


@pytest.mark.parametrize("module", MODULES)
def test_the_source(module: str) -> None:
    """Each module keeps to its room's line."""
    assert findings(module, MODULES[module].read_text(encoding="utf-8")) == []


REFUSED: Final = [
    ("_nowhere", "x = 1", "stands in no room"),
    ("_protocol.payload", "import time", "pure"),
    ("_protocol.payload", "def build():\n    import secrets", "pure"),
    ("_core.requests", "from uuid import uuid4", "pure"),
    ("_protocol.sse", "from datetime import datetime\nnow = datetime.now()", "reads the clock"),
    ("_protocol.sse", "import datetime\nday = datetime.date.today()", "reads the clock"),
    ("_protocol.responses", "from urllib.request import urlopen", "pure"),
    ("_protocol.responses", "import httpx", "library httpx"),
    ("_protocol.responses", "if TYPE_CHECKING:\n    import httpx", "library httpx"),
    ("_protocol.responses", "if TYPE_CHECKING:\n    pass\nelse:\n    import httpx", "library httpx"),
    ("_protocol.router", "from oxygent_client import _run", "imports _run"),
    ("_protocol.router", "from .._run.run import Run", "imports _run"),
    ("_protocol.router", "import oxygent_client", "imports __init__"),
    ("_core.ids", "from oxygent_client._core.requests import OxyRequest", "imports _core.requests"),
    ("transports.asgi", "import httpx", "library httpx"),
    ("transports.httpx", "from oxygent_client.transports.asgi import ASGITransport", "imports transports.asgi"),
    ("transports.httpx", "from oxygent_client.policies import Retry", "imports policies"),
    ("transports._http_base", "import httpx", "library httpx"),
    ("transports.httpx2", "import httpx", "library httpx"),
    ("policies", "from oxygent_client.transports.httpx import HTTPXTransport", "imports transports.httpx"),
    ("cluster", "from oxygent_client._run.run import Run", "imports _run"),
    ("testing._fake_transport", "import pytest", "library pytest"),
    ("testing", "def check():\n    import hypothesis", "library hypothesis"),
    ("_agent.agent", "import httpx", "library httpx"),
    ("_agent.agent", 'from importlib import import_module\nimport_module("oxygent_client.cli")', "imports cli"),
    ("_agent.agent", "import importlib\nimportlib.import_module(name)", "computed"),
    ("_agent.agent", "from oxygent_client.testing import FakeTransport", "imports testing"),
    ("__init__", "import anyio", "library anyio"),
    ("__init__", "from oxygent_client import cli", "imports cli"),
    ("cli", "from oxygent_client import _protocol", "public names only"),
    ("cli", "from oxygent_client._agent.agent import SSEOxyGent", "public names only"),
    ("cli._view", "from oxygent_client.testing._fake_transport import FakeTransport", "public names only"),
    ("cli", "from oxygent_client.pytest_plugin import agent", "imports pytest_plugin"),
    ("serve._core.runs", "from oxygent_client._run.run import Run", "public names only"),
    ("serve.openai", "from oxygent_client.serve._core.runs import Runs", "public names only"),
    ("profiles", "import httpx", "library httpx"),
    ("sync._run", "from oxygent_client._run.run import Run", "public names only"),
]

ACCEPTED: Final = [
    ("_protocol.payload", "from oxygent_client._core.requests import OxyRequest"),
    ("_protocol.payload", "from oxygent_client import _core"),
    ("_protocol.responses", "from datetime import datetime\nfrom email.utils import parsedate_to_datetime"),
    ("_core.transport", "from urllib.parse import urlsplit"),
    ("_core.errors", "if TYPE_CHECKING:\n    from oxygent_client._core.events import Partial"),
    ("_agent.agent", "from oxygent_client.transports.httpx import HTTPXTransport"),
    ("_run.run", "import anyio\nfrom oxygent_client._api.fetch import ask"),
    ("transports.httpx", "import httpx\nfrom httpx_sse import aconnect_sse"),
    ("testing._fake_transport", "from oxygent_client.testing._toy_server import ToyRemote"),
    ("__init__", "import importlib\nimportlib.import_module(name)"),
    ("cli", "from oxygent_client import SSEOxyGent, __version__, errors\nimport typer"),
    ("cli", "from oxygent_client.testing import ToyRemote\nfrom oxygent_client.cli._view import View"),
]


@pytest.mark.parametrize(("module", "source", "because"), REFUSED)
def test_violations_are_found(module: str, source: str, because: str) -> None:
    """The check finds an import wherever it is."""
    assert because in "\n".join(findings(module, source))


@pytest.mark.parametrize(("module", "source"), ACCEPTED)
def test_allowed_imports(module: str, source: str) -> None:
    """The check accepts the imports that the table allows."""
    assert findings(module, source) == []


@pytest.mark.seconds
def test_there_are_no_cycles() -> None:
    """No module imports itself by way of others; imports for type checkers count."""
    graph = {
        module: {
            own_module(found.target) or "" for found in imports_of(module, ast.parse(path.read_text(encoding="utf-8")))
        }
        - {module, "", "__init__"}
        for module, path in MODULES.items()
    }
    assert cycle_in(graph) == []


def cycle_in(graph: dict[str, set[str]]) -> list[str]:
    """Return the names of one cycle, or an empty list."""
    done: set[str] = set()
    for start, imported in graph.items():
        trail: list[tuple[str, Iterator[str]]] = [(start, iter(sorted(imported)))]
        while trail:
            name, following = trail[-1]
            for other in following:
                names = [each for each, _ in trail]
                if other in names:
                    return names[names.index(other) :]
                if other not in done and other in graph:
                    trail.append((other, iter(sorted(graph[other]))))
                    break
            else:
                done.add(name)
                trail.pop()
    return []


def test_a_cycle_is_found() -> None:
    """The check finds a cycle."""
    assert cycle_in({"a": {"b"}, "b": {"c", "d"}, "c": set(), "d": {"a"}}) == ["a", "b", "d"]


@pytest.mark.seconds
def test_imports_for_types_are_needed() -> None:
    """Each line of FOR_TYPES is still needed."""
    used = {
        (module, own_module(found.target) or found.target.split(".")[0])
        for module, path in MODULES.items()
        for found in imports_of(module, ast.parse(path.read_text(encoding="utf-8")))
        if found.for_types
    }
    assert FOR_TYPES.keys() <= used


def test_the_rooms_that_are_named_exist() -> None:
    """A room's line names rooms, not modules."""
    assert {name for described in ROOMS.values() for name in described.rooms} <= ROOMS.keys()
