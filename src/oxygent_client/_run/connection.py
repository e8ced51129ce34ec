"""The connection of one run: open, read, close.

Rule 1: the response is an event stream, or an error is raised.
Rule 2: disconnecting closes the connection at once, which makes the remote stop.
Rule 3: closing takes at most CLOSE_SECONDS, and goes on when the caller is cancelled.
Rule 4: closing is final, also while another task waits for bytes: its wait ends, and nothing is opened again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import suppress
from types import TracebackType
from typing import Final

import anyio
from anyio.lowlevel import checkpoint

from oxygent_client._api.fetch import read_error
from oxygent_client._core.bodies import DRAIN_BYTES, DRAIN_SECONDS, decompressed
from oxygent_client._core.decompression import content_codings
from oxygent_client._core.errors import ClosedError, NotAnEventStreamError, Outcome, OxyError, RemoteProtocolError
from oxygent_client._core.log import log_event
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import Context, HTTPRequest, OpenExchange, Transport
from oxygent_client._protocol.messages import as_text, is_event_stream
from oxygent_client._protocol.responses import error_from_response
from oxygent_client._protocol.router import NameMap
from oxygent_client._run.config import Lease
from oxygent_client._run.reads import Expired, Reads, new_reads
from oxygent_client._run.waits import Scope, Timer, new_scope, new_timer
from oxygent_client.policies._base import Layer

CLOSE_SECONDS: Final = 2.0
NO_NAMES: Final = NameMap()
LEFT: Final = "the run was left by another task"


class RunConnection:
    """The connection of one run: one after the other, if one breaks and the run goes on."""

    __slots__ = (
        *("_exchange", "_is_closing", "_lease", "_limits", "_now", "_reads", "_timer", "answered_by", "attempt"),
        *("chunks", "context", "is_left", "names", "node_id", "refusal", "request", "sent_to", "sent_trace_id"),
        *("transport", "wait"),
    )

    def __init__(self, context: Context, limits: Limits) -> None:
        self.transport: Transport | None = None
        """Acquired for the time of the run."""
        self.request: HTTPRequest | None = None
        """The request for the stream. That of a run is dropped when it is sent, since its body may be large."""
        self.node_id = ""
        """The node id that the payload of that request names."""
        self.names = NO_NAMES
        """How names of the remote translate."""
        self.attempt = 1
        """The number of the attempt that was sent, of those that the policies made."""
        self.sent_trace_id = ""
        """The trace id at the server, as it was sent."""
        self.sent_to = ""
        """The URL of the server that it was sent to."""
        self.refusal: OxyError | None = None
        """The error that the status tells of, while its body is not read yet."""
        self.answered_by = ""
        """The proxy or the server that the response names."""
        self.chunks: AsyncIterator[bytes] | None = None
        """The bytes of the stream; None before it is open."""
        self.is_left = False
        """Whether another task than the reader's has left the run."""
        self.wait: Scope | None = None
        """The outermost scope of a wait."""
        self._timer: Timer | None = None
        self._reads: Reads | None = None
        self._is_closing = False
        self.context: Final = context
        self._limits = limits
        self._lease: Lease | None = None  # if leaving it closes the transport
        self._exchange: OpenExchange | None = None  # while the connection is open
        self._now: Callable[[], float] = anyio.current_time

    @property
    def is_reading(self) -> bool:
        """Whether a read was begun that gave no bytes: the connection may be lost by that."""
        return self._reads is not None and self._reads.is_pending

    @property
    def was_interrupted(self) -> bool:
        """Whether a read before the last one had given no bytes."""
        return self._reads is not None and self._reads.was_pending

    def check_left(self) -> None:
        """Refuse to go on if another task has left the run.

        Raises:
            ClosedError: one has.
        """
        if self.is_left:
            raise ClosedError(LEFT)

    def waiting(self, deadline: float = math.inf, *, soonest: float = math.inf) -> _Waiting:
        """The scope of one wait, which ends at the deadline, or when another task leaves the run.

        If deadlines within it will be earlier, `soonest` is the first of them: then the timer is armed only once.

        Raises:
            ClosedError: the run was left before, or while the block waited.
        """
        self.check_left()
        if self._timer is not None and soonest < self._timer.at:
            self._timer.arm(soonest)
        return _Waiting(self, new_scope(self._timer, deadline))

    def part(self) -> Scope:
        """The scope of a part of a wait, which ends when its deadline, which is to be set, has passed.

        Raises:
            ClosedError: the run was left before.
        """
        self.check_left()
        return new_scope(self._timer, math.inf)

    def dismiss(self) -> bool:
        """End the wait of another task, for good; returns whether one waits, or is closing the connection."""
        self.is_left = True
        is_reading = self._reads is not None and self._reads.interrupt()
        if self.wait is not None:
            self.wait.cancel()
        return is_reading or self.wait is not None or self._is_closing

    def begin(self, loop: object, now: Callable[[], float]) -> None:
        """The run begins in this event loop, whose clock is `now`."""
        self._timer, self._now = new_timer(loop), now

    def acquire(self, lease: Lease) -> Transport:
        """Have this transport until `close`."""
        self.transport = lease.transport
        if lease.temporary is not None:
            self._lease = lease
        return self.transport

    async def open(self) -> HTTPRequest:
        """Send `request` and wait for the stream; returns the request as it was sent.

        Raises:
            OxyError: the response is not an event stream.
        """
        assert self.transport is not None
        request = self.request
        assert request is not None
        if self.context.purpose == "run":
            self.request = None
        if self._reads is not None:
            self._reads.is_pending = False
        exchange = self._exchange = OpenExchange()
        try:
            response = await Layer.respond(self.transport, exchange, request)
        except BaseException as error:
            self._exchange = None
            await exchange.__aexit__(type(error), error, error.__traceback__)
            raise
        sent, self.sent_to = response.request.context, response.request.base_url
        self.attempt, self.sent_trace_id = sent.attempt, sent.remote_trace_id
        if response.status != 200 or not is_event_stream(response.headers.get("content-type", "")):
            self.refusal = error_from_response(response.status, response.headers, b"", self._limits)
            raise await read_error(response, self._limits)
        try:
            content_codings(response.headers)
        except RemoteProtocolError as error:
            raise NotAnEventStreamError(f"{error}; the run has started", outcome=Outcome.STARTED) from error
        self.chunks = decompressed(response)
        self.answered_by = response.headers.get("via") or response.headers.get("server", "unknown server")
        return response.request

    def read(self, deadline: float, expired: Expired | None = None) -> Awaitable[bytes | None]:
        """Await the next bytes; None if the read was interrupted, by the deadline or by another task that left the run.

        With `expired` the read goes on at the deadline, and `expired` gives the next one.

        Raises:
            StopAsyncIteration: the stream has ended.
            OxyError: the connection was lost, or (`ClosedError`) another task had left the run.
        """
        if self.is_left:
            self.check_left()
        assert self.chunks is not None
        if self._reads is None:
            self._reads = new_reads(self._timer)
        return self._reads.read(self.chunks, deadline, expired)

    def quoted(self, content: object) -> str:
        """A text of the remote's for an error: redacted and escaped."""
        return self.context.sent.shown(as_text(content), 500)

    def clean(self, text: str) -> str:
        """`text` without secrets: those that were sent, and what looks like one."""
        return self.context.sent.clean(text)

    async def drain(self, deadline: float) -> None:
        """Read what little is left, so that the connection can serve again."""
        if self.chunks is None or getattr(self.chunks, "is_over", False) is True:  # all was received before
            self.check_left()
            return
        until, left = min(self._now() + DRAIN_SECONDS, deadline), DRAIN_BYTES
        with suppress(OxyError, StopAsyncIteration):
            # The clock is looked at, too: pieces that need no waiting meet no deadline.
            while left > 0 and self._now() < until and (piece := await self.read(until)) is not None:
                left -= len(piece)
                await checkpoint()
        self.check_left()

    async def disconnect(self) -> None:
        """Close the connection; the transport stays."""
        self.refusal = None
        exchange, self._exchange = self._exchange, None
        if exchange is not None:
            await self._close(exchange, None)

    async def close(self, error: BaseException | None) -> None:
        """Close the connection, and give the transport back."""
        if self._reads is not None:
            self._reads.close()
        elif self._timer is not None:
            self._timer.disarm()
        self._reads, self._timer, self._now = None, None, anyio.current_time  # they refer to the event loop
        exchange, self._exchange = self._exchange, None
        lease, self._lease = self._lease, None
        try:
            if exchange is not None:
                await self._close(exchange, error)
        finally:  # a native cancellation passes the shield
            if lease is not None:
                await self._close(lease, error)

    async def _close(self, block: OpenExchange | Lease, error: BaseException | None) -> None:
        self._is_closing = True
        leaving = block.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
        try:
            if isinstance(block, OpenExchange) and block.closes_safely:
                await leaving
            else:
                with anyio.CancelScope(shield=True, deadline=self._now() + CLOSE_SECONDS):
                    await leaving
        except OxyError as failure:
            log_event("debug", self.context, "closing the connection failed: %s", failure)
        finally:
            self._is_closing = False


class _Waiting:
    """A scope that another task can cancel by leaving the run."""

    __slots__ = ("_connection", "_outer", "_scope")

    def __init__(self, connection: RunConnection, scope: Scope) -> None:
        self._connection = connection
        self._outer = connection.wait
        self._scope = scope

    def __enter__(self) -> Scope:
        scope = self._scope.__enter__()
        self._connection.wait = self._outer or scope
        return scope

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> bool:
        connection = self._connection
        connection.wait = self._outer
        is_ended = bool(self._scope.__exit__(kind, error, traceback))
        if connection.is_left and self._scope.cancelled_caught:
            raise ClosedError(LEFT)
        return is_ended
