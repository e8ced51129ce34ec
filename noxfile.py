"""The checks of this project.

`python -m nox` runs lint, types and all tests but those against real servers; `python -m nox -s quick` the quick tests;
`python -m nox -t full` everything. `python -m nox --list` names the sessions.

Rule 1: tests meet the built wheel, never the source tree.
Rule 2: what a session needs is a line in pyproject.toml; this file names no version, no index and no path of a machine.
Rule 3: what is missing is an error where `CI` or `REQUIRE_ALL` is set, and a visible skip elsewhere. The exception is
    node in `clients_of_toys`, which `.ci/run` does not install.
"""

from __future__ import annotations

import atexit
import contextlib
import functools
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nox

ROOT = Path(__file__).parent
PROJECT = nox.project.load_toml(ROOT / "pyproject.toml")
STRICT = bool(os.environ.get("CI") or os.environ.get("REQUIRE_ALL"))
CURRENT = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED = nox.project.python_versions(PROJECT)
"""The versions that the classifiers name."""
TESTED_EXTRAS = "a2a,agui,aiohttp,cli,fast,httpx2,mcp,otel,pytest"
"""What the tests of the session `tests` need beside the wheel; a heavy extra gets a session of its own name."""
SMOKE = (
    *("core/test_models", "protocol/test_payload", "protocol/test_sse", "api/test_discovery", "run/test_run"),
    *("agent/test_agent", "agent/test_callbacks"),
    *("transports/test_asgi_transport", "transports/test_cancellation"),
    *("testing/test_check_transport", "testing/test_toy", "cli/test_cli", "edges/test_pytest_plugin"),
    "project/test_public_names",
)
"""The test files that meet what differs between versions of Python: event loops, sockets, JSON, typing, imports."""
UNIT = ("--ignore=tests/interop", "--ignore=tests/clients", "--ignore=tests/recipes", "--ignore=tests/browser")
"""All tests but those with real servers, real clients, other frameworks and a browser."""
UNMEASURED = tuple(
    f"--ignore=tests/{name}.py"
    for name in (
        *("cli/test_demo_pty", "cli/test_doctor_network", "cli/test_page", "cluster/test_proxies", "core/test_linear"),
        *("project/test_docs", "project/test_examples", "project/test_layers", "project/test_project"),
        *("project/test_security_page", "testing/test_faults_loopback"),
    )
)
"""These measure times, read files or start programs: for lines of the package that run, others are needed anyway."""
WORKERS = ("-n", "3", "--dist", "worksteal")
"""Three: a small machine has two processors, and a third of the time is waiting."""

nox.needs_version = ">=2025.2.9"
nox.options.sessions = ["lint", "types", "tests"]
nox.options.error_on_missing_interpreters = STRICT
nox.options.reuse_venv = "yes"
nox.options.report = str(ROOT / ".nox" / "report.json")


def show_pyenv_versions() -> None:
    """Let pyenv's `python3.13` answer: it does so only while PYENV_VERSION lists that version."""
    if "PYENV_VERSION" in os.environ or (pyenv := shutil.which("pyenv")) is None:
        return
    listed = subprocess.run([pyenv, "versions", "--bare"], capture_output=True, text=True, check=False).stdout.split()
    wanted = [version for version in listed if version.rpartition(".")[0] in SUPPORTED]
    wanted.sort(key=lambda version: not version.startswith(f"{CURRENT}."))  # the current one stays what `python` is
    if wanted:
        os.environ["PYENV_VERSION"] = ":".join(wanted)


show_pyenv_versions()


os.environ.setdefault("PIP_COMPILE", "0")  # it takes as long as installing, and most files are never imported
SHARED = ("types", "tests", "test_types", "coverage", "interop", "quick")
"""Sessions that install nearly the same: the first that runs makes the environment, the others use it."""


def share_environment() -> None:
    """Link the environments of SHARED to the one that is there."""
    home = ROOT / ".nox"
    made = [name for name in SHARED if (home / name / "pyvenv.cfg").exists()]
    for name in SHARED if made else ():
        with contextlib.suppress(OSError):  # it has one of its own, or the system has no such links
            (home / name).symlink_to(made[0], target_is_directory=True)


share_environment()


@functools.cache
def built_wheel(cache: Path) -> Path:
    """The wheel of this tree, built once for all sessions of a run; two runs at once build one each."""
    directory = Path(tempfile.mkdtemp(prefix="wheel-", dir=cache.resolve()))
    atexit.register(shutil.rmtree, directory, ignore_errors=True)
    # The interpreter that runs nox has pip: it installed nox.
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(directory), str(ROOT)]
    subprocess.run(command, check=True)
    (wheel,) = directory.glob("*.whl")
    return wheel


def install_wheel(session: nox.Session, *groups: str) -> None:
    """Install the built wheel with its tested extras, and these dependency groups."""
    wheel = built_wheel(session.cache_dir)
    session.install(
        f"oxygent-client[{TESTED_EXTRAS}] @ {wheel.as_uri()}",
        *nox.project.dependency_groups(PROJECT, *groups),
    )
    # An environment that is used again holds an older wheel of the same version.
    session.install("--force-reinstall", "--no-deps", str(wheel))
    share_environment()
    session.env["PYTHONPATH"] = ""  # Rule 1
    # Tests start many processes: what one has compiled, the others need not, whatever a machine prefers.
    session.env["PYTHONDONTWRITEBYTECODE"] = ""
    session.env["OXYGENT_CLIENT_WHEEL"] = str(wheel)  # for the example project's own environment


@nox.session(tags=["full"])
def lint(session: nox.Session) -> None:
    """Format and rules, by ruff."""
    session.install(*nox.project.dependency_groups(PROJECT, "lint"))
    session.run("ruff", "format", "--check", ".")
    session.run("ruff", "check", ".")


@nox.session(tags=["full"])
def types(session: nox.Session) -> None:
    """Both type checkers, strict: mypy over everything, pyright over all but tests; all public names are complete."""
    install_wheel(session, "types")
    stubs = {"PYTHONPATH": str(ROOT / "tests" / "stubs")}
    complete = ("basedpyright", "--verifytypes", "oxygent_client", "--ignoreexternal")
    with ThreadPoolExecutor() as pool:  # each uses one processor
        checks: list[Future[Any]] = [
            pool.submit(session.run, "mypy"),
            pool.submit(session.run, "basedpyright", "--warnings", "src", "docs", "benchmarks", "noxfile.py"),
            pool.submit(session.run, *complete, env=stubs, silent=True),  # shown only if it fails
        ]
    for check in checks:
        check.result()


@nox.session(tags=["full", "rest", "long"])
def test_types(session: nox.Session) -> None:
    """Pyright, strict, over the tests."""
    install_wheel(session, "types")
    session.run("basedpyright", "--warnings", "tests")


@nox.session(tags=["full"])
def tests(session: nox.Session) -> None:
    """All tests but interop and clients, on the Python that runs nox."""
    install_wheel(session, "test")
    session.run("pytest", *UNIT, *(session.posargs or WORKERS))


@nox.session(tags=["full", "rest", "long"])
def coverage(session: nox.Session) -> None:
    """The tests that are not slow, each case on one loop, with full branch coverage, which takes twice the time."""
    install_wheel(session, "test")
    session.run("coverage", "erase")
    measured = {"COVERAGE_PROCESS_START": str(ROOT / "pyproject.toml"), "OXYGENT_CLIENT_SIZE": "smoke"}
    session.run("pytest", *UNIT, *UNMEASURED, "-m", "not slow", "--one-loop", *WORKERS, env=measured)
    session.run("coverage", "combine", "--quiet")
    session.run("coverage", "report")


@nox.session
def quick(session: nox.Session) -> None:
    """The tests that are not marked `slow` or `seconds`, each case on one of its loops in turn, with small numbers."""
    install_wheel(session, "test")
    session.env["OXYGENT_CLIENT_SIZE"] = "smoke"
    chosen = session.posargs or ("--one-loop", *WORKERS)
    session.run("pytest", *UNIT, "-m", "not slow and not seconds", *chosen)


@nox.session(python=[version for version in SUPPORTED if version != CURRENT], tags=["full", "rest", "short"])
def smoke(session: nox.Session) -> None:
    """A part of the tests, and of that the quick ones, on the other supported versions of Python.

    The newest also runs those that take seconds.
    """
    install_wheel(session, "test")
    session.env["OXYGENT_CLIENT_SIZE"] = "smoke"
    left_out = "not slow" if session.python == SUPPORTED[-1] else "not slow and not seconds"
    chosen = session.posargs or [*WORKERS, *(f"tests/{name}.py" for name in SMOKE)]
    session.run("pytest", "-m", left_out, "--one-loop", *chosen)


@nox.session(tags=["full", "rest", "long"])
def interop(session: nox.Session) -> None:
    """The tests against real OxyGent servers, with full branch coverage of the drop-in, which runs inside them.

    tests/interop/environments.py installs the releases.
    """
    install_wheel(session, "test")
    session.run("python", "-m", "tests.interop.environments")
    data, rules = str(session.cache_dir.resolve() / "drop-in.coverage"), "--rcfile=tests/interop/coverage.ini"
    measured = {"COVERAGE_FILE": data}
    session.run("coverage", "erase", rules, env=measured)
    # Each case on one loop, in turn: what a real server does, does not hang on it. `-- tests/interop` runs all.
    run = ("pytest", "tests/interop", *(session.posargs or ("--one-loop", *WORKERS)))
    session.run(*run, env={"OXYGENT_CLIENT_COVERAGE": data})
    if not session.posargs:
        session.run("coverage", "combine", "--quiet", rules, env=measured)
        session.run("coverage", "report", rules, env=measured)


@nox.session(tags=["full"])
def clients(session: nox.Session) -> None:
    """Real clients of the served agents, and other frameworks, each in an environment of its own.

    tests/interop/environments.py installs them, which takes minutes: `.ci/run` has only `clients_of_toys`.
    """
    install_wheel(session, "test")
    names = (
        "a2a",
        "ag-ui",
        "ag-ui-0",
        "openai-clients",
        "mcp-1",
        "mcp-2",
        "mcp-sdk",
        "frameworks",
        "ray",
        "oxygent-1.1.3",
    )
    session.run("python", "-m", "tests.interop.environments", *names)
    session.run("pytest", "tests/clients", *session.posargs)


@nox.session(tags=["rest", "short"])
def clients_of_toys(session: nox.Session) -> None:
    """A part of `clients`: one by one against agents of toys, and one client of each protocol against a real server.

    The latter with 200 calls at once, Google ADK and viewers of the relay.

    Clients on node run where `node` and `npm` are: no package of Python brings them, so their absence is a visible
    skip, also in CI.
    """
    install_wheel(session, "test")
    names = ["a2a", "openai-clients", "mcp-1", "mcp-2", "oxygent-1.1.3"]
    # Without those that look at the clock: a remote must be cancelled in time.
    chosen = "(toy or real_release or google_adk or relay_viewers) and not (many or viewer_leaves or is_stopped)"
    if shutil.which("node") and shutil.which("npm"):
        names += ["ag-ui", "ag-ui-0", "mcp-sdk"]
    else:
        session.warn("SKIPPED: the clients of AG-UI and MCP on node, since node or npm is missing")
        chosen += " and not node and not agui"
    session.run("python", "-m", "tests.interop.environments", *names)
    # By files: the tests of one share a process of clients, which takes longer to start than they do.
    session.run("pytest", "tests/clients", *(session.posargs or ("-k", chosen, *WORKERS[:2], "--dist", "loadfile")))


@nox.session(tags=["full", "rest", "short"])
def recipes(session: nox.Session) -> None:
    """A notebook in a Jupyter kernel, and the programs for Django, Flask and Celery."""
    install_wheel(session, "test", "recipes")
    session.run("pytest", "tests/recipes", *session.posargs)


@nox.session(tags=["full", "rest", "short"])
def fuzz(session: nox.Session) -> None:
    """The decoder on whatever atheris thinks of, after its mutants, for 30 seconds; `-- --seconds 3600` for longer."""
    install_wheel(session, "fuzz")
    if not (STRICT or session.run("python", "-c", HAS_ATHERIS, silent=True)):
        session.skip("atheris has no wheel for this platform")
    session.run("python", "-m", "tests.fuzz.fuzz_decoder", *(session.posargs or ("--seconds", "30")))


HAS_ATHERIS = "import importlib.util; print('yes' if importlib.util.find_spec('atheris') else '', end='')"


@nox.session(tags=["full", "rest", "short"])
def instructions(session: nox.Session) -> None:
    """Instruction counts beside the stored ones, on the Python that runs nox; `-- --record` stores them."""
    if shutil.which("valgrind") is None:
        (session.error if STRICT else session.skip)("needs valgrind")
    session.install(str(built_wheel(session.cache_dir)))
    session.install("--force-reinstall", "--no-deps", str(built_wheel(session.cache_dir)))
    session.run("python", "-m", "benchmarks.instructions", *session.posargs, env={"PYTHONPATH": ""})


@nox.session(tags=["full", "rest", "short"])
def docs(session: nox.Session) -> None:
    """The documentation as pages; a warning is an error. Their programs are run by tests/project/test_docs.py."""
    install_wheel(session, "docs")
    pages = Path(session.create_tmp()).resolve() / "html"
    session.run("sphinx-build", "--fail-on-warning", "--keep-going", "--quiet", "docs", str(pages))
    session.run("python", "-m", "tests.project.site_search", str(pages))
    session.log(f"the pages are in {pages.relative_to(ROOT)}")


@nox.session(tags=["full", "rest", "short"])
def build(session: nox.Session) -> None:
    """Both distributions can be built, and the wheel alone is enough to import the package and to run the command."""
    session.install(*nox.project.dependency_groups(PROJECT, "build"))
    directory = Path(session.create_tmp())
    distributions, environment = directory / "dist", directory / "environment"
    shutil.rmtree(distributions, ignore_errors=True)
    # The wheel is built from the sdist: so the sdist is whole.
    session.run("python", "-m", "build", "--outdir", str(distributions), str(ROOT))
    (wheel,) = distributions.glob("*.whl")
    session.run("python", "-m", "venv", "--clear", str(environment))
    python = str(environment / ("Scripts" if sys.platform == "win32" else "bin") / "python")
    session.run(python, "-m", "pip", "install", "--quiet", str(wheel), external=True)
    session.run(python, "-W", "error", "-c", IMPORT_CHECK, external=True)


IMPORT_CHECK = """
import sys
import oxygent_client
loaded = {"aiohttp", "anyio", "httpcore", "httpx", "httpx_sse"} & set(sys.modules)
assert not loaded, f"import oxygent_client loads {loaded}"
for name in oxygent_client.__all__:
    getattr(oxygent_client, name)
print("oxygent-client", oxygent_client.__version__, "imports with its own dependencies alone")
"""


EXTRAS = {
    # extra: the module that it is for
    "a2a": "oxygent_client.serve.a2a",
    "agui": "oxygent_client.serve.agui",
    "aiohttp": "oxygent_client.transports.aiohttp",
    "cli": "oxygent_client.cli",
    "fast": "oxygent_client._core.json_codec",
    "httpx2": "oxygent_client.transports.httpx2",
    "mcp": "oxygent_client.serve.mcp",
    "openai": "oxygent_client.serve.openai",
    "otel": "oxygent_client.telemetry.otel",
    "oxygent": "oxygent_client.integrations.oxygent",
    "pytest": "oxygent_client.pytest_plugin",
    "ray": "oxygent_client.integrations.ray",
}


def alone(session: nox.Session) -> None:
    """The wheel with this one extra: it brings all that its module imports."""
    session.install(f"oxygent-client[{session.name}] @ {built_wheel(session.cache_dir).as_uri()}")
    session.run("python", "-c", f"import {EXTRAS[session.name]}", env={"PYTHONPATH": ""})


for extra in EXTRAS:
    nox.session(name=extra, default=False)(alone)


@nox.session(default=False)
def browser(session: nox.Session) -> None:
    """The page of a report and that of `serve --ui` in a real Chromium (Debian's package `chromium`)."""
    install_wheel(session, "test")
    session.run("pytest", "tests/browser", *session.posargs)


@nox.session(default=False)
def lowest(session: nox.Session) -> None:
    """The tests that are not slow, on the lower bounds of the dependencies."""
    install_wheel(session, "test")
    table = PROJECT["project"]
    tested = [extra for extra in TESTED_EXTRAS.split(",") if extra != "a2a"]  # a2a-sdk needs a newer httpx than we do
    extras = [table["optional-dependencies"][extra] for extra in tested]
    requirements = [*table["dependencies"], *itertools.chain.from_iterable(extras)]
    # An SDK of OpenTelemetry has an API of its own version.
    session.install(*(requirement.replace(">=", "==") for requirement in requirements), "opentelemetry-sdk")
    session.env["OXYGENT_CLIENT_SIZE"] = "smoke"
    session.run("pytest", *UNIT, "-m", "not slow", *session.posargs)


@nox.session(default=False)
def bench(session: nox.Session) -> None:
    """Measure speed and memory, and write docs/performance.md; `-- --scale 0.05 --no-write` for a quick look."""
    install_wheel(session, "bench")
    session.run("python", "-m", "benchmarks.bench", *session.posargs)


@nox.session(default=False)
def serve_load(session: nox.Session) -> None:
    """Measure a served agent with many streams, and write its part of docs/performance.md; `-- --no-write`: print."""
    install_wheel(session, "bench")
    session.run("python", "-m", "benchmarks.serve_load", *session.posargs)


@nox.session(default=False)
def soak(session: nox.Session) -> None:
    """The same tests with large numbers; `-- tests/run/test_run.py` picks."""
    install_wheel(session, "test")
    session.env["OXYGENT_CLIENT_SIZE"] = "soak"
    session.run("pytest", "--ignore=tests/recipes", *session.posargs)
