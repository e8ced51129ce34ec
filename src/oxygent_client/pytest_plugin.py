"""Pytest fixtures for code that calls a remote agent (extra `[pytest]`).

`oxygent_fake` makes scripted transports, `oxygent_cassette` replays recorded runs, `toy_remote` is a server on a local
port, and `--oxygent-no-network` forbids tests to use the network.

Rule 1: pytest loads this module in every project where it is installed, so it imports only pytest until a fixture is
    used, and does nothing without an option or a fixture.
Rule 2: the parts of a fixture are fixtures too (`oxygent_transport`, `oxygent_scrub`, `oxygent_cassette_path`,
    `oxygent_toy`): a project overrides them to change a part.
Rule 3: the runs that the process remembers are forgotten before each test, so that the order of tests does not matter.
Rule 4: the network guard raises before anything is sent, in this process only. It is an audit hook, since a patched
    `socket` module would miss sockets and names imported before.
Rule 5: uvloop and Windows' default event loop connect without audit events; their methods are wrapped. A call whose
    target cannot be known is refused.
"""

from __future__ import annotations

import hashlib
import inspect
import ipaddress
import re
import socket
import sys
import time
from collections.abc import Callable, Coroutine, Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass  # not attrs: Rule 1
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import pytest

if TYPE_CHECKING:
    from oxygent_client import Transport
    from oxygent_client.testing import FakeTransport, Scrub, ToyRemote

__all__ = [
    "FakeFactory",
    "NetworkForbiddenError",
    "ServedToy",
    "oxygent_cassette",
    "oxygent_cassette_path",
    "oxygent_fake",
    "oxygent_scrub",
    "oxygent_toy",
    "oxygent_transport",
    "pytest_addoption",
    "pytest_configure",
    "pytest_report_header",
    "pytest_runtest_makereport",
    "pytest_runtest_setup",
    "toy_remote",
]

RECORD: Final = {
    "none": "replay, and refuse unrecorded requests",
    "once": "record if there is no cassette",
    "all": "record again",
}
NETWORK: Final = {
    "allow": "no restriction",
    "forbid": "only this machine",
    "strict": "no connections, not even to this machine",
}
_NO_NETWORK: Final = "oxygent_network"
"""The name of the option and of the ini value."""


# --- options ----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("oxygent", "remote OxyGent agents")
    group.addoption("--oxygent-record", choices=tuple(RECORD), default="none", help=_choices("cassettes", RECORD))
    group.addoption(
        "--oxygent-network", choices=tuple(NETWORK), default=None, help=_choices("network access of tests", NETWORK)
    )
    group.addoption(
        "--oxygent-no-network",
        action="store_const",
        const="forbid",
        dest=_NO_NETWORK,
        help="same as --oxygent-network=forbid",
    )
    parser.addini(_NO_NETWORK, f"default of --oxygent-network: {', '.join(NETWORK)}", default="allow")


def _choices(title: str, table: dict[str, str]) -> str:
    return f"{title}: " + "; ".join(f"{choice}: {meaning}" for choice, meaning in table.items())


def _network(config: pytest.Config) -> str:
    """Return the network level of the tests, a key of NETWORK."""
    chosen: str = config.getoption(_NO_NETWORK) or config.getini(_NO_NETWORK)
    if chosen not in NETWORK:
        raise pytest.UsageError(f"{_NO_NETWORK} is {chosen!r}: must be one of {', '.join(NETWORK)}")
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    """Set up the network guard, if an option or the ini file asks for it."""
    if (level := _network(config)) != "allow":
        config.pluginmanager.register(_GuardedTests(level), "oxygent_client_guard")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Report options that differ from their defaults."""
    network, record = _network(config), str(config.getoption("--oxygent-record"))
    return [f"oxygent: network {network}, record {record}"] * ((network, record) != ("allow", "none"))


# --- the guard --------------------------------------------------------------------------------------------------------


class NetworkForbiddenError(RuntimeError):
    """A test tried to use the network. Give it a fake, a cassette or the toy remote.

    Not an `OSError`, which code under test may retry as a network failure.
    """


# https://docs.python.org/3/library/audit_events.html
_TO_ADDRESS: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
"""Audit events with a socket and an address."""
_TO_HOST: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
"""Audit events with a host name."""


class _Guard:
    """The audit hook. Hooks cannot be removed, so the process has one, which checks `level`."""

    __cantrace__ = True  # otherwise debuggers and coverage do not see what runs in it

    def __init__(self) -> None:
        self.level = "allow"

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if event in _TO_ADDRESS:
            self.check(event, args[1], args[0])
        elif event in _TO_HOST and args[0] is not None:
            self.check(event, (args[0],))
        elif event == "socket.getnameinfo":
            self.check(event, args[0])

    def check(self, event: str, address: Any, sock: Any = None) -> None:
        """Raise unless this address may be reached."""
        is_allowed = self.level == "allow" or (
            self.level == "forbid" and _is_local(getattr(sock, "family", None), address)
        )
        if address is not None and not is_allowed:
            raise NetworkForbiddenError(
                f"{event}: this test may not reach {_shown(address)} (oxygent_network = {self.level}): "
                "use a fake, a cassette or the toy remote, or pass --oxygent-network=allow"
            )

    @contextmanager
    def at(self, level: str) -> Generator[None]:
        """Forbid what `level` forbids, for the length of the block."""
        before, self.level = self.level, level
        try:
            yield
        finally:
            self.level = before


_guard = _Guard()


# --- event loops without audit events ---

_NATIVE: Final = {
    "create_connection": "host",
    "create_unix_connection": "path",
    "create_datagram_endpoint": "remote_addr",
    "getaddrinfo": "host",
    "getnameinfo": "sockaddr",
    "sock_connect": "address",
    "sock_sendto": "address",
}
"""Methods of a loop, and the argument of each that is an address or the name of a host."""


def _guarded(method: Callable[..., Coroutine[Any, Any, Any]], name: str) -> Callable[..., Coroutine[Any, Any, Any]]:
    """Return the method of a loop with the guard applied first."""
    import asyncio

    parameters = [*inspect.signature(getattr(asyncio.AbstractEventLoop, name)).parameters]

    @wraps(method)
    async def call(*args: Any, **kwargs: Any) -> Any:
        given = {**dict(zip(parameters, args, strict=False)), **kwargs}
        address = given.get(_NATIVE[name])
        if name == "create_datagram_endpoint" and address is None:
            address = ("any address; pass remote_addr",)  # its datagrams cannot be checked later
        is_host = _NATIVE[name] == "host" and address is not None
        _guard.check(name, (address,) if is_host else address, given.get("sock"))
        return await method(*args, **kwargs)

    return call


@cache
def _install() -> None:
    """Install the hook, and wrap the loop classes that do not connect by Python's sockets; existing loops, too."""
    import asyncio

    sys.addaudithook(_guard)
    loops: list[Any] = [getattr(asyncio, "ProactorEventLoop", None)]  # on Windows only
    with suppress(ImportError):
        import uvloop

        loops.append(uvloop.Loop)
    for loop in filter(None, loops):
        for name in _NATIVE:
            setattr(loop, name, _guarded(getattr(loop, name), name))


_REMOTE_FAMILIES: Final = frozenset(
    getattr(socket, family)
    for family in ("AF_VSOCK", "AF_BLUETOOTH", "AF_PACKET", "AF_CAN", "AF_TIPC", "AF_QIPCRTR", "AF_HYPERV")
    if hasattr(socket, family)
)
"""Socket families that reach other machines, the host of a virtual machine, or a device."""


def _is_local(family: int | None, address: Any) -> bool:
    """Return whether an address is on this machine; what is not a tuple is the path of a Unix socket."""
    if family in _REMOTE_FAMILIES:
        return False
    if not isinstance(address, tuple):
        return True
    host = cast("tuple[Any, ...]", address)[0]
    name = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host or "localhost")
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return name.lower().removesuffix(".") == "localhost"  # most resolvers ask DNS for names below it
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified  # connecting to 0.0.0.0 reaches this machine, or fails


def _shown(address: Any) -> str:
    """Return a short form of the address, with control characters escaped."""
    parts = cast("tuple[Any, ...]", address) if isinstance(address, tuple) else (address,)
    return repr(":".join(map(str, parts[:2])))[:200]


class _GuardedTests:
    """Applies the guard to the setup, the call and the teardown of tests, not to pytest itself."""

    def __init__(self, level: str) -> None:
        self._level = level
        _install()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None]:
        with _guard.at(self._level):
            return (yield)

    pytest_runtest_call = pytest_runtest_teardown = pytest_runtest_setup


# --- test isolation ---------------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the log of the test is captured
def pytest_runtest_setup() -> Generator[None]:
    """Forget the runs of earlier tests."""
    if "oxygent_client._run.trace_ids" in sys.modules:  # pragma: no branch (without it there were no runs)
        from oxygent_client.testing import forget_runs

        forget_runs()
    return (yield)


# --- fakes ------------------------------------------------------------------------------------------------------------

FakeFactory: TypeAlias = "Callable[..., FakeTransport]"
"""`oxygent_fake(*steps: Step) -> FakeTransport`."""


@pytest.fixture
def oxygent_fake() -> FakeFactory:
    """Return a function that makes scripted transports: `oxygent_fake(tool_call("search"), answer("42"), close())`."""
    from oxygent_client.testing import FakeTransport

    return FakeTransport.script


# --- cassettes --------------------------------------------------------------------------------------------------------

_UNSAFE: Final = re.compile(r"[^\w.\[\]=+-]")
"""Characters that some systems do not allow in file names."""
_MAX_LENGTH: Final = 120
"""Characters of a file name; most systems allow 255 bytes."""


def _file_name(nodeid: str) -> str:
    """Return the name of a test's cassette, unique within its module."""
    name = nodeid.partition("::")[2].replace("::", ".")
    safe = _UNSAFE.sub("_", name)[:_MAX_LENGTH]
    return safe if safe == name else f"{safe}-{hashlib.sha256(name.encode()).hexdigest()[:8]}"


_PASSED: Final = pytest.StashKey[bool]()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    """Remember whether the test passed."""
    report = yield
    if call.when == "call":
        item.stash[_PASSED] = report.passed
    return report


@pytest.fixture
def oxygent_cassette_path(request: pytest.FixtureRequest) -> Path:
    """Return the path of the test's cassette: `cassettes/<module>/<test>.json`, beside the test's file."""
    return request.path.parent / "cassettes" / request.path.stem / f"{_file_name(request.node.nodeid)}.json"


@pytest.fixture
def oxygent_scrub() -> Scrub:
    """Return the function that cleans a cassette beyond the redaction rules; by default it changes nothing."""
    return lambda entry: entry


@pytest.fixture
def oxygent_transport() -> Transport:
    """Return the transport to record; by default over httpx."""
    from oxygent_client import HTTPXTransport

    return HTTPXTransport()


@pytest.fixture
def oxygent_cassette(
    request: pytest.FixtureRequest, oxygent_cassette_path: Path, oxygent_scrub: Scrub
) -> Generator[Transport]:
    """Return a transport that replays the test's cassette, or records it with `--oxygent-record=once` or `all`.

    A recording is saved if the test passes.
    """
    from oxygent_client.testing import Cassette, RecordingTransport, ReplayTransport

    record, path = request.config.getoption("--oxygent-record"), oxygent_cassette_path
    if record == "all" or (record == "once" and not path.exists()):
        cassette = Cassette(scrub=oxygent_scrub)
        # Requested only now: a user's fixture may start a server, which a replay does not need.
        yield RecordingTransport(request.getfixturevalue("oxygent_transport"), cassette)
        if request.node.stash.get(_PASSED, False):
            path.parent.mkdir(parents=True, exist_ok=True)
            cassette.save(path)
    else:
        recorded = path.exists()
        cassette = Cassette.load(path, scrub=oxygent_scrub) if recorded else Cassette(scrub=oxygent_scrub)
        where = "the cassette is" if recorded else "there is no cassette at"
        how = f"pytest --oxygent-record={'all' if recorded else 'once'} '{request.node.nodeid}'"
        yield ReplayTransport(cassette, advice=f"{where} {path}; to record it, start the remote and run: {how}")


# --- the toy remote ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServedToy:
    """A toy remote on a local port."""

    url: str
    toy: ToyRemote
    """`toy.runs` lists its runs and their state."""

    def settled(self, seconds: float = 2.0) -> ToyRemote:
        """Wait until all runs are over, for so many seconds at most, and return the toy.

        The server runs in a thread of its own, and notices the end of a run slightly later than its client.
        """
        until = time.monotonic() + seconds
        while any(run.state == "started" for run in self.toy.runs) and time.monotonic() < until:
            time.sleep(0.002)
        return self.toy


@pytest.fixture
def oxygent_toy() -> ToyRemote:
    """Return a toy remote in process, without pauses."""
    from oxygent_client.testing import ToyRemote

    return ToyRemote(pace=0)


@pytest.fixture
def toy_remote(oxygent_toy: ToyRemote) -> Generator[ServedToy]:
    """Serve `oxygent_toy` on a local port, for one test."""
    from oxygent_client.errors import ConfigurationError
    from oxygent_client.testing import serve

    with ExitStack() as stack:
        try:
            url = stack.enter_context(serve(oxygent_toy))
        except ConfigurationError as error:
            pytest.fail(f"toy_remote: {error}", pytrace=False)
        yield ServedToy(url, oxygent_toy)
