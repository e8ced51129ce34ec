"""Shared by all tests: event loops, the check for leaks, fixtures on disk, and the report of skipped tests.

Rule 1: an async test runs on asyncio and on trio; ONE_LOOP lists the exceptions with reasons. The files in ON_UVLOOP
    run on uvloop too, which is asyncio with transports and sockets of its own.
Rule 2: an async test leaves no task, no open file and no socket behind.
Rule 3: a test does not depend on the tests before it.
Rule 4: what is missing on a machine is a skip that is counted in the last line; with `REQUIRE_ALL=1` it is a failure.
Rule 5: numbers that may be larger go through `scaled`; `OXYGENT_CLIENT_SIZE` (smoke, normal, soak) sets them.
"""

from __future__ import annotations

import asyncio
import collections
import functools
import gc
import inspect
import os
import shutil
import signal
import time
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import anyio.lowlevel
import pytest
import trio
from hypothesis import settings

from oxygent_client.testing import forget_runs
from tests.support.machine import NETWORK
from tests.support.soak import Tables

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Generator, Iterator

ROOT: Final = Path(__file__).parent.parent
FIXTURES: Final = ROOT / "tests" / "fixtures"
WIRE: Final = FIXTURES / "wire"
"""Recordings of real servers and a real client; INDEX.md there describes them."""
CONFORMANCE: Final = FIXTURES / "conformance" / "cases.json"
"""Event streams in chunks, with the events that the standard has for them."""

LOOPS: Final = ("asyncio", "trio")
UVLOOP: Final = "uvloop"
"""A loop of asyncio: tests that are limited to asyncio run on it too."""
ON_UVLOOP: Final = frozenset(
    f"tests/{name}.py"
    for name in (
        "agent/test_documentation_sockets",
        "cluster/test_proxies",
        "transports/test_error_map",
        "run/test_storms",
        "testing/test_check_transport",
        "testing/test_faults_loopback",
        "testing/test_toy",
        "transports/test_closing",
        "transports/test_fault_server",
        "transports/test_httpx_secrets",
        "transports/test_network_transports",
        "transports/test_surplus",
        "transports/test_tls",
    )
)
"""The files that use sockets. Tests in memory do not depend on the kind of asyncio loop."""
ONE_LOOP: Final[dict[str, tuple[str, str]]] = {
    # "tests/test_x.py", "tests/test_x.py::test_y", or "tests/test_x.py[z]" for one value of a parameter: (the only
    # loop, why); "asyncio" includes uvloop
    "tests/interop/test_drop_in.py": (
        "asyncio",
        "the framework knows asyncio alone, and the client here is a plain one",
    ),
    "tests/interop/test_examples.py::test_the_agents_of_the_documentation": ("asyncio", "some of them name it"),
    "tests/interop/test_examples.py[init]": ("asyncio", "aiohttp does"),
    "tests/interop/test_examples.py[execute]": ("asyncio", "aiohttp does"),
    "tests/interop/test_resilient.py": ("asyncio", "the documentation's own lines name asyncio"),
    "tests/agent/test_documentation.py[resilient_short]": ("asyncio", "the documentation's own lines name asyncio"),
    "tests/agent/test_documentation.py[resilient_long]": ("asyncio", "the documentation's own lines name asyncio"),
    "tests/agent/test_documentation.py::test_mutants": ("asyncio", "some of the blocks that it runs name asyncio"),
    "tests/agent/test_documentation_sockets.py::test_error_recovery": ("asyncio", "its block uses aiohttp"),
    "tests/agent/test_documentation_sockets.py::test_the_documented_execute_with_aiohttp": ("asyncio", "aiohttp does"),
    "tests/run/test_keepalive.py::test_a_second_cancellation": ("asyncio", "trio cancels by scopes alone"),
    "tests/transports/test_closing.py::test_a_transport_that_is_closed_before_a_request_is_sent": (
        "asyncio",
        "there a task of its own sends it",
    ),
    "tests/serve/test_a2a.py": ("asyncio", "the package a2a-sdk knows asyncio alone"),
    "tests/serve/test_bridges.py": ("asyncio", "likewise"),
    "tests/testing/test_check_transport.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_error_map.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_fault_server.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_fault_server.py::test_memory_in_a_flood_of_headers": (
        "asyncio",
        "what a library keeps of headers does not hang on the loop",
    ),
    "tests/testing/test_faults_loopback.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_network_transports.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_closing.py::test_two_time_outs_at_once": ("asyncio", "they are its own"),
    "tests/transports/test_library_log.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_closing.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_surplus.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/run/test_storms.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
    "tests/transports/test_transport_differences.py": (
        "asyncio",
        "what a parser makes of bytes does not hang on the loop",
    ),
    "tests/transports/test_tls.py[aiohttp]": ("asyncio", "aiohttp knows asyncio alone"),
}

BY_LOOP: Final = frozenset(
    {
        "tests/run/test_reads.py",
        "tests/run/test_waits.py",
        "tests/transports/test_cancellation.py",
        "tests/testing/test_check_transport_finds.py::test_a_transport_that_breaks_its_tasks",
    }
)
"""The files and tests whose subject has code of its own for each loop: `--one-loop` leaves them whole."""

NORMALLY_ON: Final[dict[str, tuple[str, ...]]] = {
    # "tests/test_x.py::test_y": its loops unless the size is soak; each takes long on every loop
    "tests/testing/test_check_transport.py::test_a_broken_transport": ("asyncio",),
    "tests/testing/test_faults_loopback.py::test_the_wrappers_keep_the_promises": ("trio",),
    "tests/transports/test_fault_server.py::test_memory_in_a_flood_of_headers": ("uvloop",),
    "tests/transports/test_fault_server.py::test_a_transport_that_buffers_a_flood_is_found": ("asyncio",),
}

IN_TURN: Final[dict[str, str]] = {
    # "tests/test_x.py" or "tests/test_x.py::test_y": the subject of its long table, which does not depend on the loop.
    # Each case runs on one of its loops, in turn, so that each loop is used; in a soak on all of them.
    "tests/agent/test_callbacks.py::test_mutants": "faulty base classes",
    "tests/agent/test_detached.py::test_a_cut_at_every_byte": "recordings, cut",
    "tests/agent/test_remote_text.py::test_no_credential_is_shown": "texts",
    "tests/cluster/test_cluster.py::test_balance_after_recovery": "the arithmetic of strategies",
    "tests/cluster/test_cluster_promises.py::test_a_cluster_keeps_the_promises": "as those of its transport",
    "tests/cluster/test_cluster_storms.py": "processes that are killed",
    "tests/cluster/test_cluster_simulation.py::test_a_cluster_follows_the_model": "the arithmetic of strategies",
    "tests/policies/test_policies.py::test_each_keeps_the_promises_of_a_transport": "as those of its transport",
    "tests/protocol/test_hostile_documents.py": "documents",
    "tests/run/test_floods.py": "the memory of a process; loops are compared by its soak",
    "tests/run/test_run.py::test_byte_by_byte": "recordings, cut",
    "tests/run/test_run.py::test_chunk_boundaries": "recordings, cut",
    "tests/run/test_run.py::test_terminal_contract": "recordings",
    "tests/run/test_storms.py": "how servers end a stream, and numbers of calls",
    "tests/run/test_texts.py::test_large_members_are_not_kept": "memory",
    "tests/telemetry/test_otel.py::test_many_names": "memory",
    "tests/testing/test_check_transport_finds.py::test_a_broken_transport": "faulty transports",
    "tests/testing/test_faults.py::test_each_fault": "faults in memory, made by our own code",
    "tests/testing/test_faults_loopback.py::test_each_fault": "the same faults over a socket",
    "tests/transports/test_error_map.py::test_each_exception": "classes of exceptions",
    "tests/transports/test_error_map.py::test_unknown_exceptions": "classes of exceptions",
    "tests/transports/test_network_transports.py::test_a_redirect_to_an_invalid_url": "what libraries read in a URL",
    "tests/transports/test_network_transports.py::test_broken_servers": "what libraries read in a response",
    "tests/transports/test_network_transports.py::test_credentials_over_a_proxy": "settings",
    "tests/transports/test_network_transports.py::test_statuses": "what libraries read in a response",
    "tests/transports/test_surplus.py::test_behind_a_document": "what libraries read in a response",
}

REQUIRE_ALL: Final = os.environ.get("REQUIRE_ALL", "") not in {"", "0"}

_SIZES: Final = {"smoke": 0.1, "normal": 1.0, "soak": 50.0}
SIZE: Final = os.environ.get("OXYGENT_CLIENT_SIZE", "normal")


def scaled(number: int) -> int:
    """Return `number` for a normal run, less for smoke, more for soak; at least one."""
    return max(1, round(number * _SIZES[SIZE]))


if "PYTEST_XDIST_WORKER" in os.environ:
    # This worker is measured; processes that its tests start are not: they would be slow, and are here to be timed.
    os.environ.pop("COVERAGE_PROCESS_START", None)

TABLES: Final = pytest.StashKey[Tables]()


def pytest_configure(config: pytest.Config) -> None:
    """Prepare the tables of results and the process: its signals, and the variables for proxies and certificates."""
    config.stash[TABLES] = Tables()
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:  # in the background of a shell; programs of tests get Ctrl-C
        signal.signal(signal.SIGINT, signal.default_int_handler)
    for name in NETWORK:  # the servers of tests are on this machine, for processes that tests start too
        os.environ.pop(name, None)


@pytest.fixture
def row(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Add a row to the table of docs/soak.md that the test's mark names."""
    tables, test = request.config.stash[TABLES], request.node.nodeid
    tables.begun(test, request.node.get_closest_marker("table").args[0])
    return functools.partial(tables.add, test)


# The normal run is the same every time; a soak searches for new failures.
settings.register_profile("sized", max_examples=scaled(100), deadline=None, derandomize=SIZE != "soak", database=None)
settings.load_profile("sized")


# -------------------------------------------------------------------------------------------------------- Event loops


def _loops(nodeid: str) -> tuple[str, ...]:
    """Return the loops of this test."""
    file, test = nodeid.partition("::")[0], nodeid.partition("[")[0]
    loops: tuple[str, ...] = (*LOOPS, UVLOOP) if file in ON_UVLOOP else LOOPS
    if SIZE != "soak":
        loops = NORMALLY_ON.get(test, loops)
    exempt = ONE_LOOP.get(test) or ONE_LOOP.get(file)
    return loops if exempt is None else tuple(loop for loop in loops if _library(loop) == exempt[0])


def _library(loop: str) -> str:
    """Return the library of a loop, asyncio or trio; other names are returned unchanged."""
    return "asyncio" if loop == UVLOOP else loop


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    """Parametrize each test that uses an event loop with its loops."""
    if "anyio_backend" in metafunc.fixturenames:
        metafunc.parametrize("anyio_backend", _loops(metafunc.definition.nodeid), indirect=True, scope="module")


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the option with which coverage is measured: measured code takes twice the time."""
    parser.addoption("--one-loop", action="store_true", help="run each case on one of its event loops, in turn")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Deselect the tests with a parameter that, by ONE_LOOP, has another loop; keep one loop a case where it is enough.

    It is enough for the tests in IN_TURN, and with `--one-loop` for all.
    """
    items[:] = [item for item in items if not _on_another_loop(item.nodeid)]
    _keep_one_loop(items, of_all=bool(config.getoption("one_loop")))


def _is_in_turn(item: pytest.Item) -> bool:
    """Return whether a case of this test runs on one of its loops."""
    test = item.nodeid.partition("[")[0]
    return SIZE != "soak" and not {test, test.partition("::")[0]}.isdisjoint(IN_TURN)


def _keep_one_loop(items: list[pytest.Item], *, of_all: bool) -> None:
    """Keep one loop of each case, chosen by the name of the case, so that each loop is used."""
    cases: dict[str, list[pytest.Item]] = {}
    for item in items:
        cases.setdefault(_case(item) if of_all or _is_in_turn(item) else item.nodeid, []).append(item)
    chosen = {id(case[zlib.crc32(name.encode()) % len(case)]) for name, case in cases.items()}
    items[:] = [item for item in items if id(item) in chosen]


def _case(item: pytest.Item) -> str:
    """Return the name of a test and its parameters, without its loop."""
    test, _, values = item.nodeid.partition("[")
    parameters = item.callspec.params if isinstance(item, pytest.Function) and values else {}
    loop = str(parameters.get("anyio_backend", parameters.get("loop", "")))
    parts = values.removesuffix("]").split("-") if loop else []
    if loop not in parts or not {test, test.partition("::")[0]}.isdisjoint(BY_LOOP):
        return item.nodeid
    parts[parts.index(loop)] = ""
    return f"{test}[{'-'.join(parts)}]"


def _on_another_loop(nodeid: str) -> bool:
    """Return whether a parameter of this test has one loop only, and it is not the test's."""
    file, _, test = nodeid.partition("::")
    values = test.partition("[")[2].removesuffix("]").split("-")
    only = {ONE_LOOP[key][0] for value in values if (key := f"{file}[{value}]") in ONE_LOOP}
    return bool(only and {*LOOPS} & {*map(_library, values)} - only)


@pytest.fixture(scope="module")
def anyio_backend(request: pytest.FixtureRequest) -> tuple[str, dict[str, object]]:
    """The event loop of an async test: asyncio, then trio, then uvloop for files in ON_UVLOOP."""
    loop: str = request.param
    return _library(loop), {"use_uvloop": True} if loop == UVLOOP else {}


@pytest.fixture
def loop(anyio_backend: tuple[str, dict[str, object]]) -> str:
    """The name of the test's event loop."""
    return UVLOOP if anyio_backend[1] else anyio_backend[0]


# -------------------------------------------------------------------------------------------------------------- Leaks

_KEPT_BY_OTHERS: Final = ("anon_inode:", "pipe:", "/dev/")
"""Descriptors that may outlive a test: an event loop that several tests share, the pipe to a server they share."""
_CLOSING_SECONDS: Final = 20.0
"""Seconds that the other end of a closed connection, a server in a thread of ours, may need to notice."""


def _open_descriptors() -> frozenset[str]:
    """Return the names of all open descriptors: `socket:[inode]` or a path, since numbers are reused.

    It runs twice for each async test; pathlib would take a millisecond more.
    """
    held: set[str] = set()
    try:
        numbers = os.listdir("/proc/self/fd")  # noqa: PTH208  (see above)
    except OSError:  # not Linux: tasks are still checked
        return frozenset()
    for number in numbers:
        try:
            name = os.readlink(f"/proc/self/fd/{number}")  # noqa: PTH115  (see above)
        except OSError:  # closed meanwhile: it was the one that listed the directory
            continue
        if not name.startswith(_KEPT_BY_OTHERS):
            held.add(name)
    return frozenset(held)


@pytest.fixture
def no_leaked_descriptors() -> Iterator[None]:
    """Fail a test that leaves a file or a socket open; it is set up before the event loop, and checks after it."""
    before = _open_descriptors()
    yield
    # Garbage warns now, in the test that made it; pytest makes an error of it.
    gc.collect()
    until = time.monotonic() + _CLOSING_SECONDS
    while (left := _open_descriptors() - before) and time.monotonic() < until:
        if not any(name.startswith("socket:") for name in left):
            break
        time.sleep(0.01)
    assert not left, f"left open: {sorted(left)}"


_RUNNER: Final = "TestRunner."
"""The prefix of anyio's own tasks: its asyncio runner makes one for each step of a test."""


def _asyncio_tasks() -> set[object]:
    return {
        task for task in asyncio.all_tasks() if not getattr(task.get_coro(), "__qualname__", "").startswith(_RUNNER)
    }


def _trio_tasks() -> set[object]:
    root = trio.lowlevel.current_root_task()
    waiting = [] if root is None else [root]
    found: set[object] = set()
    while waiting:
        task = waiting.pop()
        found.add(task)
        waiting += [child for nursery in task.child_nurseries for child in nursery.child_tasks]
    return found


_TASKS: Final = {"asyncio": _asyncio_tasks, "trio": _trio_tasks}


def _without_leaks(
    test: Callable[..., Awaitable[None]], tasks: Callable[[], set[object]]
) -> Callable[..., Awaitable[None]]:
    """Wrap an async test: it fails if it leaves a task running."""

    @functools.wraps(test)
    async def checked(**arguments: object) -> None:
        __tracebackhide__ = True
        before = tasks()
        await test(**arguments)
        for _ in range(10):  # a task that was cancelled gets its turn
            if tasks() <= before:
                break
            await anyio.lowlevel.checkpoint()
        left = tasks() - before
        assert not left, f"left running: {left}"

    return checked


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_pyfunc_call(pyfuncitem: pytest.Function) -> Generator[None, object, object]:
    """Check each async test for tasks that it leaves.

    Not with hypothesis: each example has its own loop, since hypothesis may end one by a BaseException, which breaks
    anyio's runner on asyncio.
    """
    if inspect.iscoroutinefunction(pyfuncitem.obj):
        backend: Any = pyfuncitem.funcargs["anyio_backend"]
        pyfuncitem.obj = _without_leaks(pyfuncitem.obj, _TASKS[backend[0]])
    return (yield)


def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str, obj: object) -> None:
    """Give each async test an event loop, and count the descriptors after it is closed."""
    hypothesis = getattr(obj, "hypothesis", None)
    if collector.istestfunction(obj, name) and inspect.iscoroutinefunction(getattr(hypothesis, "inner_test", obj)):
        pytest.mark.usefixtures("anyio_backend", "no_leaked_descriptors")(obj)


def pytest_collection_finish() -> None:
    """Hide all imported objects from the garbage collector, which runs after every async test."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_teardown(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None]:
    """Hide, after each module, what its tests leave behind in caches and reports: a collection stays short."""
    yield
    gc.freeze()


# -------------------------------------------------------------------------------------------------------------- Skips


def pytest_runtest_setup(item: pytest.Item) -> None:
    """Forget the runs of other tests; skip, by name, what needs a program that is not installed."""
    forget_runs()
    for mark in item.iter_markers("needs"):
        for program in mark.args:
            if shutil.which(str(program)) is None:
                pytest.skip(f"needs {program}")


def _reason(report: pytest.TestReport | pytest.CollectReport) -> str:
    """Return the reason of a skip."""
    text = report.longrepr[2] if isinstance(report.longrepr, tuple) else str(report.longrepr)
    return text.removeprefix("Skipped: ")


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Turn a skip into a failure with REQUIRE_ALL, and record the outcome."""
    report = yield
    if REQUIRE_ALL and report.skipped and not hasattr(report, "wasxfail"):
        report.outcome, report.longrepr = "failed", f"skipped, though REQUIRE_ALL is set: {_reason(report)}"
    if report.when == "call":
        item.config.stash[TABLES].ended(item.nodeid, report.outcome, report.duration)
    return report


@pytest.hookimpl(wrapper=True)
def pytest_report_to_serializable(report: object) -> Generator[None, dict[str, Any] | None, dict[str, Any] | None]:
    """Shorten what pytest-xdist sends of a passed test: to pack and unpack the rest takes half a millisecond."""
    data = yield
    if data is not None and isinstance(report, pytest.TestReport) and report.passed:
        data |= {"keywords": {}, "sections": []}
    return data


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report() -> Generator[None, pytest.CollectReport, pytest.CollectReport]:
    """Turn the skip of a file into a failure with REQUIRE_ALL."""
    report = yield
    if REQUIRE_ALL and report.skipped:
        report.outcome, report.longrepr = "failed", f"skipped, though REQUIRE_ALL is set: {_reason(report)}"
    return report


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Generator[None]:
    """Report the skipped tests in the last line; a soak writes its tables."""
    yield
    if SIZE == "soak":
        session.config.stash[TABLES].write()
    reporter = session.config.pluginmanager.get_plugin("terminalreporter")
    if reporter is not None:
        reasons = collections.Counter(map(_reason, reporter.stats.get("skipped", [])))
        listed = ", ".join(f"{reason}: {count}" for reason, count in sorted(reasons.items()))
        reporter.write_line(f"skipped for want of something: {reasons.total()}" + (f" ({listed})" if listed else ""))
