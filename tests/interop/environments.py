"""An environment for each OxyGent release, and for each group of other clients, built once and kept.

Rule 1: an environment is valid only with its marker, which is written last and atomically; an interrupted one is
        removed and built again.
Rule 2: one process builds a release, the others wait for its lock, which the system releases with its holder.
Rule 3: nothing here imports OxyGent or our own package: a release is in its environment only.
Rule 4: `pip` and `npm` find packages by their own configuration; this file names no index.

Usage: python -m tests.interop.environments [NAME ...] (builds missing ones, all at once; by default all releases)
"""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from tests.support.machine import AS_FOUND

if TYPE_CHECKING:
    from collections.abc import Generator

__all__ = [
    "CLIENTS",
    "NODE_CLIENTS",
    "RELEASES",
    "EnvironmentUnavailableError",
    "built_python",
    "node_home_with",
    "python_for",
    "python_with",
]

# Newest of the 1.1 line, last of the 1.0 line, and the last release that spoke the legacy dialect (only `data:` lines).
RELEASES = ("1.1.3", "1.0.13", "1.0.8")

# None of these releases declares `dotenv`, and none works with mcp 2: it has no `streamablehttp_client`.
_COMPANIONS = ("python-dotenv", "mcp<2")

# What needs no framework, and so shares no environment with one.
CLIENTS = {
    # name: (what is installed, what must import then)
    "a2a": (("google-adk[a2a]",), "a2a.client, google.adk.agents.remote_a2a_agent"),
    "openai-clients": (("openai", "litellm", "langchain-openai"), "openai, litellm, langchain_openai"),
    # The two lines of releases of the package `mcp`.
    "mcp-1": (("mcp<2",), "mcp.client.streamable_http"),
    "mcp-2": (("mcp>=2.3",), "mcp.client.client"),
    "ray": (("ray[data]", "anyio", "attrs", "httpx", "httpx-sse"), "ray.data, pyarrow, httpx_sse"),
    "frameworks": (
        # the frameworks, and what our own package needs
        ("langgraph", "pydantic-ai-slim", "openai-agents", "anyio", "attrs", "httpx", "httpx-sse"),
        "langgraph, pydantic_ai, agents, httpx_sse",
    ),
}

NODE_CLIENTS = {
    # name: (what is installed, what must load then)
    "ag-ui": (("@ag-ui/client@1",), "@ag-ui/client"),
    "ag-ui-0": (("@ag-ui/client@0.0.42",), "@ag-ui/client"),  # before AG-UI 1.0: unknown events are errors
    "mcp-sdk": (("@modelcontextprotocol/sdk@1",), "@modelcontextprotocol/sdk/client/index.js"),
}

_MARKER = "ready"


class EnvironmentUnavailableError(RuntimeError):
    """The environment could not be built: see the log it names; most often the package index was out of reach."""


def python_for(version: str) -> Path:
    """Return the interpreter of an environment with `oxygent==version`; built first if it is missing (minutes)."""
    # A release that does not import is not ready.
    return _python_of(f"oxygent-{version}", (f"oxygent=={version}", *_COMPANIONS), "oxygent")


def python_with(name: str) -> Path:
    """Return the interpreter of an environment in `CLIENTS`; built first if it is missing (minutes)."""
    return _python_of(name, *CLIENTS[name])


def node_home_with(name: str) -> Path:
    """Return the directory of an environment of node in `NODE_CLIENTS`; built first if it is missing."""
    packages, loaded = NODE_CLIENTS[name]
    home = _cache() / f"{name}-node"
    load = f"require(require.resolve({json.dumps(loaded)}, {{paths: [{json.dumps(str(home))}]}}))"
    install = ("npm", "install", "--no-audit", "--no-fund", "--prefix", str(home), *packages)
    _ensure(home, (install, ("node", "-e", load)), packages)
    return home


def built_python(version: str) -> Path | None:
    """The interpreter of the environment of this release; None if it was not built."""
    home = _home(f"oxygent-{version}")
    return home / "bin" / "python" if (home / _MARKER).exists() else None


def _home(name: str) -> Path:
    return _cache() / f"{name}-cp{sys.version_info.major}{sys.version_info.minor}"


def _python_of(name: str, requirements: tuple[str, ...], imported: str) -> Path:
    home = _home(name)
    python = home / "bin" / "python"
    steps = (
        (sys.executable, "-m", "venv", str(home)),
        # Compiling all files takes as long as installing them, and most are never imported.
        (str(python), "-m", "pip", "install", "--disable-pip-version-check", "--no-compile", *requirements),
        (str(python), "-c", f"import {imported}"),
    )
    _ensure(home, steps, requirements)
    return python


def _ensure(home: Path, steps: tuple[tuple[str, ...], ...], requirements: tuple[str, ...]) -> None:
    """Build an environment, unless it is there."""
    if not (home / _MARKER).exists():
        with _lock(home.with_name(home.name + ".lock")):
            if not (home / _MARKER).exists():  # another process built it meanwhile
                _build(home, steps, requirements)


def _cache() -> Path:
    """Return the directory of environments: `OXYGENT_CLIENT_CACHE`, or the user's cache directory."""
    if chosen := os.environ.get("OXYGENT_CLIENT_CACHE"):
        return Path(chosen) / "oxygent-client" / "interop"
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "oxygent-client" / "interop"


@contextmanager
def _lock(path: Path) -> Generator[None]:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _build(home: Path, steps: tuple[tuple[str, ...], ...], requirements: tuple[str, ...]) -> None:
    shutil.rmtree(home, ignore_errors=True)
    log = home.with_name(home.name + ".log")
    with log.open("w", encoding="utf-8") as out:
        for step in steps:
            print("$", *step, file=out, flush=True)
            done = subprocess.run(
                step,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=subprocess.STDOUT,
                cwd=home.parent,
                env=AS_FOUND,
                check=False,
            )
            if done.returncode:
                raise EnvironmentUnavailableError(f"no environment {home.name}: see {log}")
    unfinished = home / f"{_MARKER}.tmp"
    unfinished.write_text(json.dumps({"requirements": requirements, "python": sys.version}) + "\n", encoding="utf-8")
    unfinished.replace(home / _MARKER)


def _build_named(name: str) -> Path:
    if name in NODE_CLIENTS:
        return node_home_with(name)
    return python_with(name) if name in CLIENTS else python_for(name.removeprefix("oxygent-"))


if __name__ == "__main__":
    with ThreadPoolExecutor() as pool:
        list(pool.map(_build_named, sys.argv[1:] or RELEASES))
