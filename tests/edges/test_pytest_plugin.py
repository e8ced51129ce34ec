"""The pytest plugin: fixtures, options and the network guard, each in a small project.

Rule 1: this file's own pytest does not load the plugin (`-p no:oxygent_client`); that of the projects finds it by
    itself.
Rule 2: no network is used: the addresses are those of RFC 5737 and RFC 3849 for documentation.
"""

from __future__ import annotations

import asyncio
import importlib
import importlib.metadata
import re
import socket
import time
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, Final, NamedTuple

import pytest
import uvloop

from oxygent_client import pytest_plugin
from oxygent_client.pytest_plugin import NetworkForbiddenError, ServedToy
from oxygent_client.testing import ToyRemote
from oxygent_client.testing._toy_server import ToyRun
from tests.conftest import LOOPS, ROOT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

pytestmark = pytest.mark.seconds

# pytester removes the modules that a project loads; these are loaded here, so that others do not load them twice.
for _name in ("httpcore", "uvicorn", "uvloop", "oxygent_client.transports.httpx", "oxygent_client.transports.asgi"):
    importlib.import_module(_name)

PUBLIC: Final = "198.51.100.7"

PROJECT: Final = """
    from pathlib import Path

    import pytest

    from oxygent_client.testing import ToyRemote
    from oxygent_client.testing.script import Script

    @pytest.fixture
    def anyio_backend():
        return Path("loop.txt").read_text()

    @pytest.fixture
    def oxygent_toy():
        return ToyRemote(pace=0, default=Script(output=Path("says.txt").read_text()))

    @pytest.fixture
    def url(request):
        if request.config.getoption("--oxygent-record") == "none":
            return "http://198.51.100.7"
        return request.getfixturevalue("toy_remote").url
"""
"""A project whose remote answers with the text of says.txt, or fails without it."""

TALK: Final = """
    from pathlib import Path

    import pytest
    from oxygent_client import SSEOxyGent

    @pytest.mark.anyio
    async def test_talk(oxygent_cassette, url):
        async with SSEOxyGent(server_url=url, transport=oxygent_cassette).stream(Path("asks.txt").read_text()) as run:
            events = [repr(event.message) async for event in run]
        with Path("heard.txt").open("a") as heard:
            print([*events, run.response.output], file=heard)
        assert run.response.output != "wrong"
"""
CASSETTE: Final = "cassettes/test_talk/test_talk.json"


@pytest.fixture(params=LOOPS)
def talk(request: pytest.FixtureRequest, pytester: pytest.Pytester) -> pytest.Pytester:
    """A project with one recorded run on each event loop."""
    pytester.makeconftest(PROJECT)
    pytester.makepyfile(test_talk=TALK)
    for name, text in {"loop": request.param, "says": "one", "asks": "hello"}.items():
        (pytester.path / f"{name}.txt").write_text(text, encoding="utf-8")
    return pytester


def heard(project: pytest.Pytester) -> list[str]:
    """Return the events and answers of each run."""
    return (project.path / "heard.txt").read_text(encoding="utf-8").splitlines()


def run(project: pytest.Pytester, *arguments: str, **outcomes: int) -> pytest.RunResult:
    """Run the tests of the project, and assert their outcomes."""
    result = project.runpytest_inprocess("-p", "no:cacheprovider", *arguments)
    result.assert_outcomes(**outcomes)
    return result


# --------------------------------------------------------------------------------------------------------- Installation


def test_pytest_finds_it() -> None:
    """The distribution has an entry point, so that pytest finds the plugin."""
    (found,) = importlib.metadata.entry_points(group="pytest11", name="oxygent_client")
    assert found.load() is pytest_plugin


def test_without_use(pytester: pytest.Pytester) -> None:
    """A project that does not use it has no guard and no line in its report, and imports nothing for it."""
    pytester.makeconftest(
        """
        import sys

        def pytest_unconfigure(config):
            assert config.pluginmanager.has_plugin("oxygent_client")
            assert not config.pluginmanager.has_plugin("oxygent_client_guard")
            ours = {name for name in sys.modules if name.startswith("oxygent_client")}
            assert ours == {"oxygent_client", "oxygent_client._version", "oxygent_client.pytest_plugin"}, ours
            assert not {"attr", "httpcore", "httpx", "uvicorn"} & set(sys.modules)
            print("INERT")
        """
    )
    pytester.makepyfile("def test_nothing():\n    pass")
    # Other installed plugins may import anything.
    others = [
        argument
        for point in importlib.metadata.entry_points(group="pytest11")
        if point.name != "oxygent_client"
        for argument in ("-p", f"no:{point.name}")
    ]
    result = pytester.runpytest_subprocess("-s", *others)
    result.assert_outcomes(passed=1)
    result.stdout.fnmatch_lines(["*INERT*"])
    result.stdout.no_fnmatch_line("oxygent: *")


def test_the_header(pytester: pytest.Pytester) -> None:
    """Settings other than the defaults are in the header of the report."""
    pytester.makepyfile("def test_nothing():\n    pass")
    result = run(pytester, "--oxygent-no-network", "--oxygent-record=once", passed=1)
    result.stdout.fnmatch_lines(["oxygent: network forbid, record once"])


# --------------------------------------------------------------------------------------------------- Isolation of tests

ORDER: Final = """
    import anyio
    import pytest
    from oxygent_client import SSEOxyGent, errors
    from oxygent_client.testing import answer, close, delta, pause

    pytestmark = pytest.mark.filterwarnings("ignore:Async generator:ResourceWarning")
    KEPT = []

    async def ask(agent, how):
        if how == "answered":
            await agent.ask("x", trace_id="T1")
        elif how == "cut":
            with pytest.raises(errors.IncompleteStreamError):
                await agent.ask("x", trace_id="T1")
        else:
            run = agent.stream("x", trace_id="T1")
            await run.__aenter__()
            await anext(run)
            if how == "kept":
                KEPT.append(run)

    STEPS = {
        "answered": (answer("x"), close()),
        "cut": (delta("x"),),
        "dropped": (delta("x"), pause(3600)),
        "kept": (delta("x"), pause(3600)),
    }

    @pytest.mark.parametrize("how", %r)
    def test_each_alone(how, oxygent_fake, caplog):
        fake = oxygent_fake(*STEPS[how])
        agent = SSEOxyGent(server_url="http://127.0.0.1:1", transport=fake)
        anyio.run(ask, agent, how)
        assert fake.payloads[0]["current_trace_id"] == "T1"
        assert how == "dropped" or "dropped" not in caplog.text
"""


@pytest.mark.parametrize("first", ["answered", "cut", "dropped", "kept"])
def test_isolation_of_tests(pytester: pytest.Pytester, first: str) -> None:
    """A test is independent of the runs of earlier tests with the same trace id."""
    pytester.makepyfile(ORDER % [first, "answered", first, "answered"])
    run(pytester, "-p", "no:randomly", passed=4)


# --------------------------------------------------------------------------------------------------------- Fake and toy


def test_a_fake(pytester: pytest.Pytester) -> None:
    """`oxygent_fake` makes scripted transports."""
    pytester.makepyfile(
        """
        import pytest
        from oxygent_client import SSEOxyGent
        from oxygent_client.testing import answer, close

        @pytest.mark.anyio
        async def test_fakes(oxygent_fake):
            for word in ("one", "two"):
                fake = oxygent_fake(answer(word), close())
                agent = SSEOxyGent(server_url="http://remote", transport=fake)
                assert (await agent.ask("hm?")).output == word
                assert [payload["query"] for payload in fake.payloads] == ["hm?"]
        """
    )
    run(pytester, "--oxygent-network=strict", passed=len(LOOPS))


def test_a_toy_for_each_test(pytester: pytest.Pytester) -> None:
    """`toy_remote` is served on a port, and its record has the runs of one test only."""
    pytester.makepyfile(
        """
        import pytest
        from oxygent_client import SSEOxyGent

        @pytest.mark.anyio
        @pytest.mark.parametrize("word", ["one", "two"])
        async def test_toys(word, toy_remote):
            async with SSEOxyGent(server_url=toy_remote.url) as agent:
                assert (await agent.ask(f"echo {word}")).output == word
            assert [(run.query, run.state) for run in toy_remote.settled().runs] == [(f"echo {word}", "finished")]
        """
    )
    run(pytester, "--oxygent-no-network", passed=2 * len(LOOPS))


def test_settle() -> None:
    """`settle` waits until the runs have ended, up to a time-out."""
    toy = ToyRemote()
    served = ServedToy("http://127.0.0.1:1", toy)
    toy.runs.append(ToyRun(query="hang", trace_id="", callee="", request_id="", payload={}, headers={}))
    before = time.monotonic()
    assert served.settled(0.02) is toy
    assert 0.02 <= time.monotonic() - before
    toy.runs[0].state = "cancelled"
    assert served.settled(60.0).runs[0].state == "cancelled"


def test_a_toy_needs_uvicorn(pytester: pytest.Pytester) -> None:
    """Without uvicorn the error names the extra to install."""
    pytester.makeconftest("import sys\nsys.modules['uvicorn'] = None")
    pytester.makepyfile("def test_toy(toy_remote):\n    pass")
    run(pytester, errors=1).stdout.fnmatch_lines(["*pip install 'oxygent-client?pytest?'*"])


# ----------------------------------------------------------------------------------------------------------- Cassettes


def test_once(talk: pytest.Pytester) -> None:
    """With `once` a run is recorded the first time, and then replayed offline."""
    run(talk, "--oxygent-record=once", passed=1)
    recorded = (talk.path / CASSETTE).read_bytes()
    run(talk, "--oxygent-network=strict", passed=1)
    (talk.path / "says.txt").write_text("two", encoding="utf-8")
    run(talk, "--oxygent-record=once", "--oxygent-network=strict", passed=1)
    first, *again = heard(talk)
    assert "one" in first
    assert again == [first, first]
    assert (talk.path / CASSETTE).read_bytes() == recorded


def test_all(talk: pytest.Pytester) -> None:
    """With `all` each run is recorded again."""
    run(talk, "--oxygent-record=once", passed=1)
    (talk.path / "says.txt").write_text("two", encoding="utf-8")
    run(talk, "--oxygent-record=all", passed=1)
    run(talk, "--oxygent-network=strict", passed=1)
    one, two, replayed = heard(talk)
    assert "one" in one
    assert "two" in two
    assert replayed == two


def test_a_failed_test_stores_no_recording(talk: pytest.Pytester) -> None:
    """A failed test stores no recording, and keeps an existing one."""
    (talk.path / "says.txt").write_text("wrong", encoding="utf-8")
    run(talk, "--oxygent-record=once", failed=1)
    assert not (talk.path / CASSETTE).exists()


@pytest.mark.parametrize(
    ("recorded", "message", "how"),
    [
        (False, "there is no cassette", "once"),
        (True, "the nearest recording differs in 'query'", "all"),
    ],
)
def test_none(talk: pytest.Pytester, recorded: bool, message: str, how: str) -> None:
    """With `none` a request without a recording is refused, with the command to record it."""
    if recorded:
        run(talk, "--oxygent-record=once", passed=1)
        (talk.path / "asks.txt").write_text("something else", encoding="utf-8")
    result = run(talk, failed=1)
    said = result.stdout.str()
    assert message in said
    assert f"pytest --oxygent-record={how} 'test_talk.py::test_talk'" in said
    assert str(talk.path / CASSETTE) in said


def test_project_settings(pytester: pytest.Pytester) -> None:
    """The path, scrubber and transport of a project are used."""
    pytester.makepyfile(
        """
        from pathlib import Path

        import pytest
        from oxygent_client import SSEOxyGent
        from oxygent_client.testing import FakeTransport, answer, close

        @pytest.fixture
        def oxygent_cassette_path(tmp_path):
            return Path("mine.json").resolve()

        @pytest.fixture
        def oxygent_scrub():
            return lambda entry: entry.without("Ada")

        @pytest.fixture
        def oxygent_transport():
            return FakeTransport.script(answer("hello Ada"), close())

        @pytest.fixture
        def anyio_backend():
            return "asyncio"

        @pytest.mark.anyio
        async def test_mine(oxygent_cassette):
            agent = SSEOxyGent(server_url="http://remote", transport=oxygent_cassette)
            assert (await agent.ask("I am Ada")).output.startswith("hello ")
            await oxygent_cassette.aclose()
        """
    )
    run(pytester, "--oxygent-record=all", "--oxygent-network=strict", passed=1)
    assert "Ada" not in (pytester.path / "mine.json").read_text(encoding="utf-8")
    run(pytester, passed=1)


def test_recording_transports(pytester: pytest.Pytester) -> None:
    """The recording and replaying transports have a repr, and can be closed at any time."""
    pytester.makepyfile(
        """
        import pytest

        @pytest.mark.anyio
        async def test_them(oxygent_transport, oxygent_cassette):
            assert repr(oxygent_transport) == "HTTPXTransport()"
            assert repr(oxygent_cassette) == "ReplayTransport(<Cassette 0 exchanges>, pace=0)"
            await oxygent_transport.aclose()
        """
    )
    run(pytester, passed=len(LOOPS))


LONG: Final = "x" * 300


@pytest.mark.parametrize(
    ("name", "nodeid"),
    [
        ("test_a", "tests/test_x.py::test_a"),
        ("TestB.test_a", "test_x.py::TestB::test_a"),
        ("test_a[trio-1.5]", "test_x.py::test_a[trio-1.5]"),
        ("test_a[a_b]-30c131a6", "test_x.py::test_a[a/b]"),
        ("test_a[a_b]-49f3fb6b", "test_x.py::test_a[a b]"),
        (f"test_{LONG[:115]}-4e2b1ef8", f"test_x.py::test_{LONG}"),
    ],
)
def test_the_name_of_a_cassette(name: str, nodeid: str) -> None:
    """The name of a cassette is the test's name in safe characters, with a hash against collisions."""
    assert pytest_plugin._file_name(nodeid) == name


# -------------------------------------------------------------------------------------------------------- Network guard


class Kind(NamedTuple):
    """The attributes of a socket that the guard uses."""

    family: int


HERE: Final[list[tuple[str, tuple[Any, ...]]]] = [
    ("socket.connect", (Kind(socket.AF_INET), ("127.0.0.1", 80))),
    ("socket.connect", (Kind(socket.AF_UNIX), "/run/a.sock")),
    ("socket.connect", (None, ("127.0.0.1", 80))),
    ("socket.connect", (None, ("127.8.9.10", 80))),
    ("socket.connect", (None, ("::1", 80, 0, 0))),
    ("socket.connect", (None, ("::ffff:127.0.0.1", 80, 0, 0))),
    ("socket.connect", (None, ("0.0.0.0", 80))),
    ("socket.connect", (None, ("localhost", 80))),
    ("socket.connect", (None, "/run/a.sock")),
    ("socket.connect", (None, b"\0abstract")),
    ("socket.sendto", (None, ("127.0.0.1", 80))),
    ("socket.getaddrinfo", ("LOCALHOST.", 80, 0, 0, 0)),
    ("socket.getaddrinfo", (b"localhost", 80, 0, 0, 0)),
    ("socket.getnameinfo", (("127.0.0.1", 80),)),
    ("socket.getaddrinfo", ("", 80, 0, 0, 0)),
]
NO_ADDRESS: Final[list[tuple[str, tuple[Any, ...]]]] = [
    ("socket.sendmsg", (None, None)),  # a socket that is connected
    ("socket.getaddrinfo", (None, 80, 0, 0, 0)),  # a listener
    ("socket.bind", (None, (PUBLIC, 80))),
    ("open", (PUBLIC, "r", 0)),
]
AWAY: Final[list[tuple[str, tuple[Any, ...], str]]] = [
    ("socket.connect", (None, (PUBLIC, 443)), f"'{PUBLIC}:443'"),
    ("socket.connect", (None, ("2001:db8::1", 443, 0, 0)), "'2001:db8::1:443'"),
    ("socket.connect", (None, ("10.0.0.1", 443)), "'10.0.0.1:443'"),
    ("socket.connect", (None, ("::ffff:198.51.100.7", 443, 0, 0)), "'::ffff:198.51.100.7:443'"),
    ("socket.connect", (None, (7, 1)), "'7:1'"),
    ("socket.sendto", (None, (PUBLIC, 53)), f"'{PUBLIC}:53'"),
    ("socket.sendmsg", (None, (PUBLIC, 53)), f"'{PUBLIC}:53'"),
    ("socket.getaddrinfo", ("agents.example.com", 443, 0, 0, 0), "'agents.example.com'"),
    ("socket.getaddrinfo", ("localhost.example.com", 443, 0, 0, 0), "'localhost.example.com'"),
    ("socket.getaddrinfo", ("a\x1b[31m", 443, 0, 0, 0), "'a\\x1b[31m'"),
    ("socket.gethostbyname", ("agents.example.com",), "'agents.example.com'"),
    ("socket.gethostbyaddr", (PUBLIC,), f"'{PUBLIC}'"),
    ("socket.getnameinfo", ((PUBLIC, 80),), f"'{PUBLIC}:80'"),
    ("socket.getaddrinfo", ("agent.localhost", 80, 0, 0, 0), "'agent.localhost'"),
    ("socket.connect", (Kind(socket.AF_VSOCK), (0, 80)), "'0:80'"),
]


@pytest.mark.parametrize(("event", "args"), [*HERE, *NO_ADDRESS])
def test_calls_that_the_guard_allows(event: str, args: tuple[Any, ...]) -> None:
    """The guard allows loopback, and calls that reach no other host."""
    guard = pytest_plugin._Guard()
    with guard.at("forbid"):
        guard(event, args)


@pytest.mark.parametrize(("event", "args"), NO_ADDRESS)
def test_calls_that_the_strict_guard_allows(event: str, args: tuple[Any, ...]) -> None:
    """The strict guard allows calls that reach no host."""
    guard = pytest_plugin._Guard()
    with guard.at("strict"):
        guard(event, args)


@pytest.mark.parametrize(("event", "args", "shown"), AWAY)
def test_calls_that_the_guard_refuses(event: str, args: tuple[Any, ...], shown: str) -> None:
    """Other calls are refused with the address; outside of a test they are allowed."""
    guard = pytest_plugin._Guard()
    with guard.at("forbid"), pytest.raises(NetworkForbiddenError, match=re.escape(f"may not reach {shown} (")):
        guard(event, args)
    guard(event, args)


@pytest.mark.parametrize(("event", "args"), [case for case in HERE if case[1][0] != ""])
def test_calls_that_the_strict_guard_refuses(event: str, args: tuple[Any, ...]) -> None:
    """The strict guard refuses loopback."""
    guard = pytest_plugin._Guard()
    with guard.at("strict"), pytest.raises(NetworkForbiddenError, match="oxygent_network = strict"):
        guard(event, args)


CONNECTING: Final = """
    import socket

    import pytest
    from oxygent_client import SSEOxyGent, pytest_plugin

    @pytest.mark.anyio
    async def test_an_agent(anyio_backend):
        await SSEOxyGent(server_url="https://agents.example.com").ask("hello")

    def test_a_socket():
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(pytest_plugin.NetworkForbiddenError):
                client.connect(("198.51.100.7", 443))
            # The system gives a socket its own address when it begins to connect.
            assert client.getsockname() == ("0.0.0.0", 0)

    def test_this_machine():
        with socket.create_server(("127.0.0.1", 0)) as server, socket.create_connection(server.getsockname()):
            server.accept()[0].close()
"""


def test_the_guard_in_a_project(pytester: pytest.Pytester) -> None:
    """A public address is refused before the network is used, and loopback is allowed."""
    pytester.makepyfile(CONNECTING)
    result = run(pytester, "--oxygent-no-network", failed=len(LOOPS), passed=2)
    result.stdout.fnmatch_lines(["E *NetworkForbiddenError: *may not reach 'agents.example.com' (*"])
    assert pytest_plugin._guard.level == "allow"


@pytest.mark.parametrize(
    ("ini", "arguments", "outcomes"),
    [
        ("forbid", (), {"passed": 2}),
        ("strict", (), {"passed": 1, "failed": 1}),
        ("strict", ("--oxygent-network=forbid",), {"passed": 2}),
        ("forbid", ("--oxygent-network=strict",), {"passed": 1, "failed": 1}),
    ],
)
def test_the_levels(pytester: pytest.Pytester, ini: str, arguments: tuple[str, ...], outcomes: dict[str, int]) -> None:
    """The level is set in the ini file, or on the command line, which wins."""
    pytester.makeini(f"[pytest]\noxygent_network = {ini}")
    pytester.makepyfile(CONNECTING)
    run(pytester, "-k", "socket or machine", *arguments, **outcomes, deselected=len(LOOPS))


def test_unknown_levels(pytester: pytest.Pytester) -> None:
    """An unknown level raises an error with the known ones."""
    pytester.makeini("[pytest]\noxygent_network = sometimes")
    result = pytester.runpytest_inprocess()
    assert result.ret == pytest.ExitCode.USAGE_ERROR
    result.stderr.fnmatch_lines(["*oxygent_network is 'sometimes': must be one of allow, forbid, strict"])


def test_disabling_the_guard(pytester: pytest.Pytester) -> None:
    """A project that forbids the network can be recorded with an option."""
    pytester.makeini("[pytest]\noxygent_network = forbid")
    pytester.makepyfile(
        """
        def test_no_guard(request):
            assert not request.config.pluginmanager.has_plugin("oxygent_client_guard")
        """
    )
    run(pytester, "--oxygent-network=allow", passed=1)


def test_when_the_guard_is_on(pytester: pytest.Pytester) -> None:
    """The guard is on during setup, test and teardown, and off otherwise."""
    pytester.makepyfile(
        """
        import pytest
        from oxygent_client.pytest_plugin import _guard

        levels = [_guard.level]

        @pytest.fixture
        def around():
            levels.append(_guard.level)
            yield
            levels.append(_guard.level)

        def test_one(around):
            levels.append(_guard.level)

        def test_two():
            assert levels == ["allow", "forbid", "forbid", "forbid"]
        """
    )
    run(pytester, "--oxygent-no-network", passed=2)


@pytest.fixture
def guarded() -> Iterator[None]:
    """The guard's audit hook, on for one test."""
    pytest_plugin._install()
    with pytest_plugin._guard.at("forbid"):
        yield


@pytest.mark.usefixtures("guarded")
def test_datagrams() -> None:
    """A datagram is refused before it is sent."""
    with socket.socket(type=socket.SOCK_DGRAM) as client:
        with pytest.raises(NetworkForbiddenError):
            client.sendto(b"x", (PUBLIC, 53))
        assert client.getsockname() == ("0.0.0.0", 0)


@pytest.mark.usefixtures("guarded")
def test_reverse_lookups() -> None:
    """A reverse lookup is refused, since it asks a DNS server."""
    with pytest.raises(NetworkForbiddenError):
        socket.getnameinfo((PUBLIC, 80), 0)


LoopCall = Callable[[asyncio.AbstractEventLoop, socket.socket], Coroutine[Any, Any, Any]]

AWAY_BY_LOOP: Final[dict[str, LoopCall]] = {
    "connection": lambda loop, _: loop.create_connection(asyncio.Protocol, PUBLIC, 443),
    "connection by keyword": lambda loop, _: loop.create_connection(
        protocol_factory=asyncio.Protocol, host="a.example", port=443
    ),
    "names below localhost": lambda loop, _: loop.create_connection(asyncio.Protocol, "a.localhost", 443),
    "datagrams": lambda loop, _: loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=(PUBLIC, 53)),
    "datagrams to anyone": lambda loop, _: loop.create_datagram_endpoint(
        asyncio.DatagramProtocol, local_addr=("127.0.0.1", 0)
    ),
    "address of a name": lambda loop, _: loop.getaddrinfo("a.example", 443),
    "name of an address": lambda loop, _: loop.getnameinfo((PUBLIC, 443)),
    "socket": lambda loop, client: loop.sock_connect(client, (PUBLIC, 443)),
    "socket to a name": lambda loop, client: loop.sock_connect(client, ("a.example", 443)),
    "datagram": lambda loop, client: loop.sock_sendto(client, b"x", (PUBLIC, 53)),
}


@pytest.fixture
def fast() -> Iterator[asyncio.Runner]:
    """A runner of uvloop whose loop was made before the guard."""
    with asyncio.Runner(loop_factory=uvloop.new_event_loop) as runner:
        runner.get_loop()
        yield runner


@pytest.mark.parametrize("call", AWAY_BY_LOOP.values(), ids=AWAY_BY_LOOP)
@pytest.mark.usefixtures("guarded")
def test_uvloop_is_guarded(fast: asyncio.Runner, call: LoopCall) -> None:
    """Over uvloop, which raises no audit events, connections and lookups are refused before anything is sent."""

    async def go() -> None:
        with socket.socket() as client:
            client.setblocking(False)
            with pytest.raises(NetworkForbiddenError):
                await call(asyncio.get_running_loop(), client)
            assert client.getsockname() == ("0.0.0.0", 0)

    fast.run(go())


@pytest.mark.usefixtures("guarded")
def test_uvloop_and_loopback(fast: asyncio.Runner) -> None:
    """Over uvloop loopback is allowed, by address, by name and by a socket."""

    async def go() -> int:
        loop = asyncio.get_running_loop()
        server = await loop.create_server(asyncio.Protocol, None, 0, family=socket.AF_INET)
        port = server.sockets[0].getsockname()[1]
        by_address, _ = await loop.create_connection(asyncio.Protocol, "127.0.0.1", port, local_addr=("127.0.0.1", 0))
        client = socket.create_connection(("localhost", port))
        by_socket, _ = await loop.create_connection(asyncio.Protocol, sock=client)
        endpoint, _ = await loop.create_datagram_endpoint(asyncio.DatagramProtocol, remote_addr=("127.0.0.1", port))
        for each in (by_address, by_socket, endpoint):
            each.close()
        server.close()
        await server.wait_closed()
        return len(await loop.getaddrinfo("127.0.0.1", port, type=socket.SOCK_STREAM))

    assert fast.run(go()) == 1


def test_uvloop_is_strict(fast: asyncio.Runner) -> None:
    """`strict` forbids Unix sockets over uvloop, and without a guard everything is allowed."""
    pytest_plugin._install()

    async def go() -> None:
        await asyncio.get_running_loop().create_unix_connection(asyncio.Protocol, "/nowhere/a.sock")

    with pytest_plugin._guard.at("strict"), pytest.raises(NetworkForbiddenError):
        fast.run(go())
    with pytest.raises(FileNotFoundError):
        fast.run(go())


# -------------------------------------------------------------------------------------------------------- Documentation

BLOCK: Final = re.compile(r"^```py\n# (?P<name>[\w./]+)\n(?P<code>.*?)^```$", re.DOTALL | re.MULTILINE)


def test_the_page(pytester: pytest.Pytester) -> None:
    """The tests in docs/howto/pytest-plugin.md pass unchanged."""
    page = (ROOT / "docs" / "howto" / "pytest-plugin.md").read_text(encoding="utf-8")
    files = {match["name"]: match["code"] for match in BLOCK.finditer(page)}
    assert "conftest.py" in files
    for name, code in files.items():
        path: Path = pytester.path / name
        path.write_text(code, encoding="utf-8")
    tests = sum(code.count("def test_") for code in files.values())
    run(pytester, "--oxygent-no-network", "--oxygent-record=all", passed=tests)
    run(pytester, "--oxygent-no-network", passed=tests)
