"""Pytest fixtures for code that calls a remote agent (extra `[pytest]`).

`oxygent_fake` is a scripted transport, `oxygent_cassette` a recorded one, `toy_remote` a remote on a real port, and
`--oxygent-no-network` keeps every test at home.

Rule 1: pytest loads this in every project that has it installed, so it loads nothing but pytest until a fixture is
    used, and does nothing unless it is asked to.
Rule 2: what a fixture is made of is a fixture too (`oxygent_transport`, `oxygent_scrub`, `oxygent_cassette_path`,
    `oxygent_toy`): a project says what is different by defining its own.
Rule 3: what the process remembers of runs is forgotten before each test, so that the order of tests does not matter.
Rule 4: the guard raises before anything is sent. It sees what this process does; other processes are not its business.
Rule 5: event loops that connect without Python's sockets are wrapped; what cannot be seen there is refused.
"""

from __future__ import annotations

import hashlib
import ipaddress
import re
import socket
import sys
import threading
import time
from collections.abc import AsyncGenerator, Callable, Coroutine, Generator, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass  # not attrs: Rule 1
from functools import cache, wraps
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, TypeAlias, cast

import pytest

if TYPE_CHECKING:
    from oxygent_client import HTTPRequest, HTTPResponse, Transport
    from oxygent_client.testing import FakeTransport, Scrub, Step, ToyRemote

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
    "none": "replay; what was not recorded is refused",
    "once": "record where there is no cassette yet",
    "all": "record anew",
}
NETWORK: Final = {
    "allow": "no guard",
    "forbid": "this machine alone may be reached",
    "strict": "nothing at all, not even this machine",
}
_NO_NETWORK: Final = "oxygent_network"
"""The option and the ini value, by one name."""


# --- options ----------------------------------------------------------------------------------------------------------


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add the options."""
    group = parser.getgroup("oxygent", "remote OxyGent agents")
    group.addoption("--oxygent-record", choices=tuple(RECORD), default="none", help=_told("cassettes", RECORD))
    group.addoption("--oxygent-network", choices=tuple(NETWORK), default=None, help=_told("the guard", NETWORK))
    group.addoption(
        "--oxygent-no-network",
        action="store_const",
        const="forbid",
        dest=_NO_NETWORK,
        help="the same as --oxygent-network=forbid",
    )
    parser.addini(_NO_NETWORK, f"what --oxygent-network says better: {', '.join(NETWORK)}", default="allow")


def _told(what: str, table: dict[str, str]) -> str:
    return f"{what}: " + "; ".join(f"{choice}: {meaning}" for choice, meaning in table.items())


def _network(config: pytest.Config) -> str:
    """How far a test may reach, a key of NETWORK."""
    chosen: str = config.getoption(_NO_NETWORK) or config.getini(_NO_NETWORK)
    if chosen not in NETWORK:
        raise pytest.UsageError(f"{_NO_NETWORK} is {chosen!r}: must be one of {', '.join(NETWORK)}")
    return chosen


def pytest_configure(config: pytest.Config) -> None:
    """Set up the guard, where one is wanted."""
    if (level := _network(config)) != "allow":
        config.pluginmanager.register(_GuardedTests(level), "oxygent_client_guard")


def pytest_report_header(config: pytest.Config) -> list[str]:
    """Say what differs from the defaults."""
    network, record = _network(config), str(config.getoption("--oxygent-record"))
    return [f"oxygent: network {network}, record {record}"] * ((network, record) != ("allow", "none"))


# --- the guard --------------------------------------------------------------------------------------------------------


class NetworkForbiddenError(RuntimeError):
    """A test wanted to reach what it may not. Give it a fake, a cassette or the toy remote.

    No `OSError`, as that is what code under test takes for a bad network, and tries again.
    """


# Audit events, and what the first or second of their arguments is. https://docs.python.org/3/library/audit_events.html
_TO_ADDRESS: Final = frozenset({"socket.connect", "socket.sendto", "socket.sendmsg"})
_TO_HOST: Final = frozenset({"socket.getaddrinfo", "socket.gethostbyname", "socket.gethostbyaddr"})
_TO_NAME: Final = "socket.getnameinfo"

_Event = tuple[str, tuple[Any, ...]]


class _Guard:
    """The audit hook. It can never be removed, so there is one for the process, and it looks at `level`."""

    __cantrace__ = True  # else no debugger and no coverage sees what runs in it

    def __init__(self) -> None:
        self.level = "allow"

    def __call__(self, event: str, args: tuple[Any, ...]) -> None:
        if self.level == "allow":
            return
        if event in _TO_ADDRESS:
            address = args[1]
            here = _leads_here(getattr(args[0], "family", None), address)
        elif event in _TO_HOST:
            address = args[0]
            here = _is_here(address)
        elif event == _TO_NAME:
            address = args[0]
            here = _leads_here(None, address)
        else:
            return
        if address is not None and (self.level == "strict" or not here):
            raise NetworkForbiddenError(
                f"{event}: this test may not reach {_shown(address)} (oxygent_network = {self.level}): "
                "give the agent a fake, a cassette or the toy remote; --oxygent-network=allow lets it pass"
            )

    @contextmanager
    def at(self, level: str) -> Generator[None]:
        """Refuse what `level` does, for as long as the block lasts."""
        before, self.level = self.level, level
        try:
            yield
        finally:
            self.level = before


_guard = _Guard()


# --- event loops that no audit hook sees ---

_HIDDEN: Final = ("anywhere, by datagrams that this event loop does not show; give remote_addr",)


def _is_address(host: Any) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True


def _looked_up(hosts: Iterable[Any]) -> Iterator[_Event]:
    """The names among these; an address, or None, is not looked up."""
    for host in hosts:
        if host is not None and not _is_address(host):
            yield "socket.getaddrinfo", (host,)


_Given = Mapping[str, Any]
"""The arguments of a call, by name."""


def _connection(given: _Given) -> Iterator[_Event]:
    if given.get("host") is not None:
        yield "socket.connect", (None, (given["host"], given.get("port")))
    yield from _looked_up((given.get("local_addr") or (None,))[:1])


def _unix_connection(given: _Given) -> Iterator[_Event]:
    yield "socket.connect", (None, given.get("path"))


def _datagrams(given: _Given) -> Iterator[_Event]:
    yield "socket.sendto", (None, given.get("remote_addr") or _HIDDEN)
    local = given.get("local_addr")
    yield from _looked_up(cast("tuple[Any, ...]", local)[:1] if isinstance(local, tuple) else ())


def _server(given: _Given) -> Iterator[_Event]:
    host = given.get("host")
    yield from _looked_up([host] if isinstance(host, str) or host is None else host)


def _address_of_a_name(given: _Given) -> Iterator[_Event]:
    yield "socket.getaddrinfo", (given["host"],)


def _name_of_an_address(given: _Given) -> Iterator[_Event]:
    yield _TO_NAME, (given["sockaddr"],)


def _connected_socket(given: _Given) -> Iterator[_Event]:
    yield "socket.connect", (given["sock"], given["address"])


def _datagram(given: _Given) -> Iterator[_Event]:
    yield "socket.sendto", (given["sock"], given["address"])


_Events = Callable[[_Given], Iterator[_Event]]

_UNSEEN: Final[Mapping[str, tuple[str, _Events]]] = {
    "create_connection": ("protocol_factory host port", _connection),
    "create_unix_connection": ("protocol_factory path", _unix_connection),
    "create_datagram_endpoint": ("protocol_factory local_addr remote_addr", _datagrams),
    "create_server": ("protocol_factory host port", _server),
    "getaddrinfo": ("host port", _address_of_a_name),
    "getnameinfo": ("sockaddr flags", _name_of_an_address),
    "sock_connect": ("sock address", _connected_socket),
    "sock_sendto": ("sock data address", _datagram),
}
"""Methods of a loop, their positional parameters, and the audit events that asyncio's own loop on Unix would cause."""


def _native_loops() -> Iterator[Any]:
    """The loops that connect by libuv, or by Windows' completion ports, and not by Python's sockets."""
    import asyncio

    yield from filter(None, [getattr(asyncio, "ProactorEventLoop", None)])  # on Windows alone
    with suppress(ImportError):
        import uvloop

        yield uvloop.Loop


def _asked_first(
    method: Callable[..., Coroutine[Any, Any, Any]], parameters: str, events: _Events
) -> Callable[..., Coroutine[Any, Any, Any]]:
    """The method, but the guard is asked before it; not at all while there is nothing to guard."""
    names = parameters.split()

    @wraps(method)
    async def call(self: Any, *args: Any, **kwargs: Any) -> Any:
        if _guard.level != "allow":
            for event, about in events({**dict(zip(names, args, strict=False)), **kwargs}):
                _guard(event, about)
        return await method(self, *args, **kwargs)

    return call


@cache
def _install() -> None:
    """Set up the hook, and its like for the loops that are installed; a loop that exists already is seen, too."""
    sys.addaudithook(_guard)
    for loop in _native_loops():
        for method, (parameters, events) in _UNSEEN.items():
            setattr(loop, method, _asked_first(getattr(loop, method), parameters, events))


_ELSEWHERE: Final = frozenset(
    getattr(socket, family)
    for family in ("AF_VSOCK", "AF_BLUETOOTH", "AF_PACKET", "AF_CAN", "AF_TIPC", "AF_QIPCRTR", "AF_HYPERV")
    if hasattr(socket, family)
)
"""Families that lead to other machines, to the host of this one, or to a device; their addresses look like others."""


def _leads_here(family: int | None, address: Any) -> bool:
    """Whether an address of this family (None: not known) leads to this machine; no tuple is a Unix socket's path."""
    return family not in _ELSEWHERE and (
        not isinstance(address, tuple) or _is_here(cast("tuple[Any, ...]", address)[0])
    )


def _is_here(host: Any) -> bool:
    """Whether this is an address, or the name, of this machine."""
    name = host.decode("utf-8", "replace") if isinstance(host, bytes) else str(host or "localhost")
    try:
        ip = ipaddress.ip_address(name)
    except ValueError:
        return name.lower().removesuffix(".") == "localhost"  # a name below it is asked of DNS by most resolvers
    ip = getattr(ip, "ipv4_mapped", None) or ip
    return ip.is_loopback or ip.is_unspecified  # to connect to 0.0.0.0 is to connect to this machine, or an error


def _shown(address: Any) -> str:
    """The address in a few words, with control characters escaped."""
    parts = cast("tuple[Any, ...]", address) if isinstance(address, tuple) else (address,)
    return repr(":".join(map(str, parts[:2])))[:200]


class _GuardedTests:
    """The guard holds while a test is set up, runs and is torn down; between tests pytest may do as it likes."""

    def __init__(self, level: str) -> None:
        self._level = level
        _install()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_setup(self) -> Generator[None]:
        with _guard.at(self._level):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_call(self) -> Generator[None]:
        with _guard.at(self._level):
            return (yield)

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_runtest_teardown(self) -> Generator[None]:
        with _guard.at(self._level):
            return (yield)


# --- one test after another -------------------------------------------------------------------------------------------


@pytest.hookimpl(wrapper=True, tryfirst=True)  # before the log of the test is captured
def pytest_runtest_setup() -> Generator[None]:
    """Let the test begin as the first one does, whatever runs there were before."""
    if "oxygent_client._run.trace_ids" in sys.modules:  # else there was none
        from oxygent_client.testing import forget_runs

        forget_runs()
    return (yield)


# --- fakes ------------------------------------------------------------------------------------------------------------

FakeFactory: TypeAlias = "Callable[..., FakeTransport]"
"""`oxygent_fake(*steps: Step) -> FakeTransport`."""


@pytest.fixture
def oxygent_fake() -> FakeFactory:
    """Makes scripted transports: `oxygent_fake(tool_call("search"), answer("42"), close())`."""

    def fake(*steps: Step) -> FakeTransport:
        from oxygent_client.testing import FakeTransport

        return FakeTransport.script(*steps)

    return fake


# --- cassettes --------------------------------------------------------------------------------------------------------

_UNSAFE: Final = re.compile(r"[^\w.\[\]=+-]")
"""In a file's name, on some system."""
_LONGEST: Final = 120
"""Characters of a file's name: most systems end at 255 bytes."""


def _file_name(nodeid: str) -> str:
    """A name for the cassette of this test; two tests of a module never share one."""
    name = nodeid.partition("::")[2].replace("::", ".")
    safe = _UNSAFE.sub("_", name)[:_LONGEST]
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
    """Where the cassette of this test is: `cassettes/<module>/<test>.json`, beside the test's file."""
    return request.path.parent / "cassettes" / request.path.stem / f"{_file_name(request.node.nodeid)}.json"


@pytest.fixture
def oxygent_scrub() -> Scrub:
    """Takes away what the rules for secrets leave in a cassette; this one leaves all of it."""
    return lambda entry: entry


@pytest.fixture
def oxygent_transport() -> Transport:
    """What a recording goes through: httpx."""
    return _FreshHTTPX()


@pytest.fixture
def oxygent_cassette(
    request: pytest.FixtureRequest, oxygent_cassette_path: Path, oxygent_scrub: Scrub
) -> Generator[Transport]:
    """A transport that replays the cassette of this test; `--oxygent-record=once` or `all` makes the cassette.

    A recording is kept if the test passes.
    """
    from oxygent_client.testing import Cassette, RecordingTransport, ReplayTransport

    record, path = request.config.getoption("--oxygent-record"), oxygent_cassette_path
    if record == "all" or (record == "once" and not path.exists()):
        cassette = Cassette(scrub=oxygent_scrub)
        # Asked for now: a fixture of the user's may start a server, and a replay needs none.
        yield RecordingTransport(request.getfixturevalue("oxygent_transport"), cassette)
        if request.node.stash.get(_PASSED, False):
            path.parent.mkdir(parents=True, exist_ok=True)
            cassette.save(path)
    else:
        recorded = path.exists()
        cassette = Cassette.load(path, scrub=oxygent_scrub) if recorded else Cassette(scrub=oxygent_scrub)
        where = "the cassette is" if recorded else "there is no cassette"
        how = f"pytest --oxygent-record={'all' if recorded else 'once'} '{request.node.nodeid}'"
        yield _Advised(ReplayTransport(cassette), f"{where} {path}; to record it, with the remote at hand: {how}")


class _Advised:
    """A replay whose refusals say how to record."""

    def __init__(self, inner: Transport, advice: str) -> None:
        self._inner = inner
        self._advice = advice

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        """As `Transport.exchange`."""
        from oxygent_client.testing import CassetteError

        async with AsyncExitStack() as stack:
            try:
                response = await stack.enter_async_context(self._inner.exchange(request))
            except CassetteError as error:
                raise CassetteError(f"{error}\n{self._advice}") from error
            yield response

    async def aclose(self) -> None:
        """As `Transport.aclose`."""
        await self._inner.aclose()

    def __repr__(self) -> str:
        return repr(self._inner)


class _FreshHTTPX:
    """A new connection for each exchange: nobody can close a pool when the event loop of the test is gone."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse]:
        """As `Transport.exchange`."""
        import anyio

        from oxygent_client import HTTPXTransport

        transport = HTTPXTransport()
        try:
            async with transport.exchange(request) as response:
                yield response
        finally:
            with anyio.move_on_after(1, shield=True):
                await transport.aclose()

    async def aclose(self) -> None:
        """As `Transport.aclose`: nothing is kept open."""

    def __repr__(self) -> str:
        return "HTTPXTransport()"


# --- the toy remote ---------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class ServedToy:
    """A toy remote on a port of this machine."""

    url: str
    toy: ToyRemote
    """`toy.runs` is what it was asked, and what became of it so far."""

    def settled(self, seconds: float = 2.0) -> ToyRemote:
        """The toy, once each of its runs is over, or after so many seconds.

        The server is in a thread of its own, and notices the end of a run a moment after its client.
        """
        until = time.monotonic() + seconds
        while any(run.state == "started" for run in self.toy.runs) and time.monotonic() < until:
            time.sleep(0.002)
        return self.toy


@pytest.fixture
def oxygent_toy() -> ToyRemote:
    """The toy remote, in process; it waits for nothing."""
    from oxygent_client.testing import ToyRemote

    return ToyRemote(pace=0)


@pytest.fixture
def toy_remote(oxygent_toy: ToyRemote) -> Generator[ServedToy]:
    """`oxygent_toy` on a port of its own, for one test: no run of another test is in its record."""
    try:
        import uvicorn
    except ImportError:
        pytest.fail("toy_remote needs uvicorn: pip install 'oxygent-client[pytest]'", pytrace=False)
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A second is enough for streams that nobody reads any more.
        config = uvicorn.Config(oxygent_toy, log_config=None, lifespan="off", ws="none", timeout_graceful_shutdown=1)
        server = uvicorn.Server(config)
        thread = threading.Thread(target=server.run, kwargs={"sockets": [listener]}, daemon=True)
        thread.start()
        yield ServedToy(f"http://127.0.0.1:{listener.getsockname()[1]}", oxygent_toy)
        server.should_exit = True
        thread.join(10.0)
