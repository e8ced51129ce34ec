"""The pool of connections below httpx and httpx2: which connection a request gets, and what becomes of it."""

from __future__ import annotations

import asyncio
import functools
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import httpcore
import httpcore2
import pytest

from oxygent_client.transports._connection_pool import LOOK_SECONDS, ConnectionPool
from oxygent_client.transports._plain_connection import plain_connection
from oxygent_client.transports._plain_stream import plain_backend
from tests.support.servers import Conversation, play, serving

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine

    from tests.support.servers import Server

    Get = Callable[[], Coroutine[Any, Any, Any]]

CORES: Final = pytest.mark.parametrize("core", [httpcore, httpcore2], ids=["httpcore", "httpcore2"])
MOST_IDLE: Final = 3


@attrs.define(eq=False)
class Connection:
    """A connection that answers at once, and counts how often it was looked at."""

    origin: str
    answers: bool = True
    is_kept: bool = True
    expired: bool = False
    state: str = "new"
    looked_at: int = 0
    requests: int = 0
    pause: anyio.Event | None = None

    async def handle_async_request(self, request: Any) -> Any:
        """Answer, or fail, perhaps later."""
        self.requests += 1
        self.state = "used"
        if self.pause is not None:
            await self.pause.wait()
        if not self.answers:
            raise ConnectionError(request)
        return Response(self)

    def can_handle_request(self, origin: str) -> bool:
        """Whether it leads there."""
        self.looked_at += 1
        return origin == self.origin

    def has_expired(self) -> bool:
        """Whether it is too old."""
        self.looked_at += 1
        return self.expired

    def is_idle(self) -> bool:
        """Whether it can be used again."""
        return self.state == "idle"

    def is_closed(self) -> bool:
        """Whether it was closed."""
        return self.state == "closed"

    async def aclose(self) -> None:
        """Close it."""
        self.state = "closed"


@attrs.define
class Response:
    """A response and its body."""

    connection: Connection
    stream: Any = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.stream = self

    def __aiter__(self) -> AsyncIterator[bytes]:
        raise NotImplementedError

    async def aclose(self) -> None:
        """As a connection does at the end of a response."""
        if self.connection.state == "used":
            self.connection.state = "idle" if self.connection.is_kept else "closed"


@attrs.define
class Pooled:
    """A pool, and the connections that it made."""

    pool: ConnectionPool = attrs.field(init=False)
    made: list[Connection] = attrs.field(factory=list[Connection])
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """Of the connections to be made."""
    kind: type[Connection] = Connection
    """Their class."""
    now: float = 0
    """What the clock says."""

    def __attrs_post_init__(self) -> None:
        self.pool = ConnectionPool(self._create, MOST_IDLE, lambda: self.now)

    def _create(self, origin: str) -> Connection:
        self.made.append(self.kind(origin, **self.options))
        return self.made[-1]

    async def get(self, origin: str = "here") -> Any:
        """Send a request; return the body of its response, which is open."""
        request = SimpleNamespace(url=SimpleNamespace(origin=origin))
        return (await self.pool.handle_async_request(request)).stream

    async def wave(self, number: int, origin: str = "here") -> list[int]:
        """Send so many requests at one time, and close the bodies in turn; return which connections they had."""
        bodies = [await self.get(origin) for _ in range(number)]
        for body in bodies:
            await body.aclose()
        return [self.made.index(body._stream.connection) for body in bodies]

    def states(self) -> list[str]:
        """The states of the connections made."""
        return [each.state for each in self.made]


@pytest.mark.parametrize(
    ("waves", "used"),
    [
        ([1, 1, 1], [[0], [0], [0]]),
        ([2, 1, 2], [[0, 1], [1], [1, 0]]),
        ([1, 3], [[0], [0, 1, 2]]),
        ([5, 5], [[0, 1, 2, 3, 4], [4, 3, 2, 5, 6]]),
    ],
    ids=["one by one", "that used last comes first", "as many as there are requests", "few stay idle"],
)
async def test_which_connection_is_used(waves: list[int], used: list[list[int]]) -> None:
    """An idle one, that used last; else a new one."""
    pooled = Pooled()
    assert [await pooled.wave(number) for number in waves] == used
    assert len(pooled.pool.connections) == min(max(waves), MOST_IDLE)
    assert all(each.is_idle() for each in pooled.pool.connections)


async def test_origins() -> None:
    """A request has a connection to its own origin; idle ones count together."""
    pooled = Pooled()
    for origin in ("here", "there", "here", "elsewhere", "there"):
        await pooled.wave(1, origin)
    assert [(each.origin, each.requests) for each in pooled.made] == [("here", 2), ("there", 2), ("elsewhere", 1)]
    await pooled.wave(2, "here")
    assert pooled.states() == ["idle", "idle", "closed", "idle"]


async def test_expired_connections() -> None:
    """Those for which a request looks are closed."""
    pooled = Pooled()
    await pooled.wave(3)
    for each in pooled.made:
        each.expired = True
    assert await pooled.wave(1) == [3]
    assert pooled.states() == ["closed", "closed", "closed", "idle"]


@pytest.mark.parametrize(("seconds", "state"), [(LOOK_SECONDS - 0.1, "idle"), (LOOK_SECONDS, "closed")])
async def test_connections_that_nobody_uses(seconds: float, state: str) -> None:
    """They are looked at once in a while, when another is given back."""
    pooled = Pooled()
    await pooled.wave(2)
    pooled.made[0].expired = True
    pooled.now += seconds
    await pooled.wave(1, "there")
    assert pooled.states() == [state, "idle", "idle"]
    pooled.made[1].expired = True
    await pooled.wave(1, "there")
    assert pooled.states() == [state, "idle", "idle"]
    pooled.now += LOOK_SECONDS
    await pooled.wave(1, "there")
    assert pooled.states() == ["closed", "closed", "idle"]


async def test_too_many_idle_connections() -> None:
    """Those that cannot be used again go first, then the oldest."""
    pooled = Pooled()
    await pooled.wave(1, "here")
    await pooled.wave(2, "there")
    pooled.made[1].expired = True
    await pooled.wave(1, "elsewhere")
    assert pooled.states() == ["idle", "closed", "idle", "idle"]
    await pooled.wave(1, "nowhere")
    assert pooled.states() == ["closed", "closed", "idle", "idle", "idle"]


async def test_a_connection_that_is_closed_while_it_is_idle() -> None:
    """It is not used."""
    pooled = Pooled()
    await pooled.wave(2)
    await pooled.made[1].aclose()
    assert await pooled.wave(2) == [0, 2]


@pytest.mark.parametrize("is_kept", [True, False])
async def test_a_body_that_is_closed_twice(is_kept: bool) -> None:
    """The second time does nothing, even if its connection is used again."""
    pooled = Pooled(options={"is_kept": is_kept})
    body = await pooled.get()
    await body.aclose()
    again = await pooled.get()
    await body.aclose()
    assert len(pooled.made) == (1 if is_kept else 2)
    assert pooled.made[-1].state == "used"
    await again.aclose()
    assert len(pooled.pool.connections) == is_kept


@attrs.define(eq=False)
class ClosesItself(Connection):
    """As a connection over HTTP/1.1 does, after a request that fails."""

    async def handle_async_request(self, request: Any) -> Any:
        """Answer, or fail."""
        try:
            return await Connection.handle_async_request(self, request)
        finally:
            self.state = "closed"


@pytest.mark.parametrize("kind", [Connection, ClosesItself])
async def test_a_request_that_fails(kind: type[Connection]) -> None:
    """Nothing is left of its connection."""
    pooled = Pooled(options={"answers": False}, kind=kind)
    with pytest.raises(ConnectionError):
        await pooled.get()
    assert pooled.states() == ["closed"]
    assert pooled.pool.connections == []


async def test_a_request_that_is_cancelled() -> None:
    """Its connection is closed, and nothing is left of it."""
    pooled = Pooled(options={"pause": anyio.Event()})
    with anyio.move_on_after(0):
        await pooled.get()
    assert pooled.states() == ["closed"]
    assert pooled.pool.connections == []


async def test_closing_the_pool() -> None:
    """All connections are closed; the body of a response that is still open can be closed afterwards."""
    pooled = Pooled()
    await pooled.wave(2)
    body = await pooled.get()
    assert len(pooled.pool.connections) == 2
    await pooled.pool.aclose()
    assert pooled.states() == ["closed", "closed"]
    await body.aclose()
    assert pooled.pool.connections == []


@pytest.mark.parametrize("streams", [10, 1_000])
async def test_many_streams(streams: int) -> None:
    """A request looks at a few connections, however many are in use."""
    pooled = Pooled()
    bodies = [await pooled.get() for _ in range(streams)]
    for _ in range(10):
        await (await pooled.get()).aclose()
    for body in bodies:
        await body.aclose()
    assert sum(each.looked_at for each in pooled.made) <= (2 * MOST_IDLE + 3) * (streams + 10)


# Real connections.

DOCUMENT: Final = play(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")


async def finish(response: Any) -> Any:
    """Read and close a response; return its network stream."""
    assert b"".join([chunk async for chunk in response.stream]) == b"{}"
    await response.stream.aclose()
    return response.extensions["network_stream"]


def real(
    core: Any,
    play: Callable[[Get, Server], Coroutine[Any, Any, None]],
    *,
    handle: Callable[[Conversation], Awaitable[None]] = DOCUMENT,
    expiry: float = 20,
) -> None:
    """Play with a pool of plain connections and a server; `play` gets a function that sends a request."""

    async def main() -> None:
        options = {"network_backend": plain_backend(core)(), "keepalive_expiry": expiry}
        pool = ConnectionPool(functools.partial(plain_connection(core), **options), MOST_IDLE)
        async with serving(handle) as server:

            def get() -> Coroutine[Any, Any, Any]:
                return pool.handle_async_request(core.Request("GET", server.url, headers={"host": "here"}))

            await play(get, server)
            await pool.aclose()

    asyncio.run(main())


@CORES
def test_a_connection_that_is_used_again(core: Any) -> None:
    """A request over it is sent in the first turn of the event loop: it takes no lock and no task."""

    async def play_again(get: Get, server: Server) -> None:
        stream = await finish(await get())
        again = asyncio.create_task(get())
        await asyncio.sleep(0)
        assert stream._protocol._reader is not None  # it waits for the response
        assert await finish(await again) is stream
        assert server.connections == 1

    real(core, play_again)


@CORES
def test_requests_at_one_time(core: Any) -> None:
    """Each has a connection of its own, and one of them that which was idle."""

    async def play_three(get: Get, _: Server) -> None:
        idle = await finish(await get())
        streams = {await finish(response) for response in await asyncio.gather(get(), get(), get())}
        assert len(streams) == 3
        assert idle in streams

    real(core, play_three)


@CORES
def test_an_expired_connection(core: Any) -> None:
    """The next request closes it, and has a new one."""

    async def play_late(get: Get, server: Server) -> None:
        before = await finish(await get())
        assert await finish(await get()) is not before
        await asyncio.sleep(0)
        assert before._protocol.is_lost
        assert server.connections == 2

    real(core, play_late, expiry=0)


@pytest.mark.parametrize("turns", range(1, 7))
@pytest.mark.parametrize("is_made", [False, True], ids=["a new connection", "a connection that was made"])
@CORES
def test_a_request_that_is_cancelled_twice(core: Any, is_made: bool, turns: int) -> None:
    """Its connection is closed, wherever the cancellations reach it."""
    closed = asyncio.Queue[None]()

    async def handle(conversation: Conversation) -> None:
        if is_made:
            await conversation.request()
            await conversation.send(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}")
        await conversation.request()
        await conversation.client_left()
        await closed.put(None)

    async def play_cancelled(get: Get, server: Server) -> None:
        if is_made:
            await finish(await get())
        sending = asyncio.ensure_future(get())
        for _ in range(turns):
            await asyncio.sleep(0)
        for _ in range(2):
            sending.cancel()
            await asyncio.sleep(0)
        with pytest.raises(asyncio.CancelledError):
            await sending
        async with asyncio.timeout(20):
            for _ in range(server.connections):
                await closed.get()

    real(core, play_cancelled, handle=handle)
