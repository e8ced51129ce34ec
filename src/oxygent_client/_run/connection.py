"""The connection of one run: open, read, close.

Rule 1: what comes is a stream of events, or an error.
Rule 2: leaving closes the connection at once, which makes the remote stop.
Rule 3: closing takes CLOSE_SECONDS at the most, and goes on when the caller is cancelled.
Rule 4: leaving is final, also while another task waits for the next bytes: its wait ends, and nothing is opened again.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Generator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, contextmanager
from typing import Final

import anyio

from oxygent_client._api.fetch import read_error
from oxygent_client._core.bodies import decompressed, drain
from oxygent_client._core.decompression import content_codings
from oxygent_client._core.errors import ClosedError, NotAnEventStreamError, Outcome, OxyError, RemoteProtocolError
from oxygent_client._core.log import log_event
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import Context, HTTPRequest, Transport
from oxygent_client._protocol.messages import as_text, is_event_stream
from oxygent_client._protocol.responses import error_from_response
from oxygent_client._protocol.router import NameMap

__all__ = ["CLOSE_SECONDS", "RunConnection"]

CLOSE_SECONDS: Final = 2.0
LEFT: Final = "the run was left by another task"


class RunConnection:
    """The connection of one run: several after each other, where one breaks and the run goes on."""

    def __init__(self, context: Context, limits: Limits) -> None:
        self.transport: Transport | None = None
        """Lent, for the time of the run."""
        self.request: HTTPRequest | None = None
        """What is asked for."""
        self.link = NameMap()
        """How its names translate."""
        self.sent: HTTPRequest | None = None
        """The request as it really was, with what the policies added."""
        self.refusal: OxyError | None = None
        """Known from the status; its body is not read yet."""
        self.headers: Mapping[str, str] = {}
        self.chunks: AsyncIterator[bytes] | None = None
        """The bytes of the stream; None until there is one."""
        self.is_left = False
        """Whether another task than the reader's has left the run."""
        self._wait: anyio.CancelScope | None = None  # the outermost
        self._is_closing = False
        self._context = context
        self._limits = limits
        self._lent = AsyncExitStack()
        self._exchange = AsyncExitStack()

    @contextmanager
    def waiting(self, deadline: float = math.inf) -> Generator[anyio.CancelScope]:
        """The scope of one wait, which ends at the deadline, or when another task leaves the run.

        Raises:
            ClosedError: the run was left before, or while the block waited.
        """
        if self.is_left:
            raise ClosedError(LEFT)
        outer = self._wait
        with anyio.CancelScope(deadline=deadline) as scope:
            self._wait = outer or scope
            try:
                yield scope
            finally:
                self._wait = outer
        if scope.cancelled_caught and self.is_left:
            raise ClosedError(LEFT)

    def dismiss(self) -> bool:
        """End the wait of another task, for good; whether one waits, or is closing the connection."""
        self.is_left = True
        if self._wait is not None:
            self._wait.cancel()
        return self._wait is not None or self._is_closing

    async def borrow(self, lease: AbstractAsyncContextManager[Transport]) -> Transport:
        """Have a transport, until the line is closed."""
        self.transport = await self._lent.enter_async_context(lease)
        return self.transport

    async def open(self) -> HTTPRequest:
        """Ask for `request`, of `transport`; the request as it really was, once its stream begins.

        Raises:
            OxyError: there is no stream of events.
        """
        assert self.transport is not None
        assert self.request is not None
        response = await self._exchange.enter_async_context(self.transport.exchange(self.request))
        self.sent = response.request
        if response.status != 200 or not is_event_stream(response.headers.get("content-type", "")):
            self.refusal = error_from_response(response.status, response.headers, b"", self._limits)
            raise await read_error(response, self._limits)
        try:
            content_codings(response.headers)
        except RemoteProtocolError as error:
            raise NotAnEventStreamError(f"{error}; the run has started", outcome=Outcome.STARTED) from error
        self.chunks, self.headers = decompressed(response), response.headers
        return response.request

    def quoted(self, content: object) -> str:
        """The remote's own words, as they may stand in an error: without what it was sent in confidence."""
        return self._context.sent.shown(as_text(content), 500)

    def clean(self, text: str) -> str:
        """`text` without what was sent in confidence, or looks like it."""
        return self._context.sent.clean(text)

    async def drain(self, deadline: float) -> None:
        """Read what little is left, so that the connection can serve again."""
        if self.chunks is None:  # all was received before
            return
        with self.waiting():
            await drain(self.chunks, deadline=deadline)

    async def leave(self) -> None:
        """Let the connection go; the transport stays."""
        self.refusal = None
        await self._leave(self._exchange, None)

    async def close(self, error: BaseException | None) -> None:
        """Let the connection go, and give the transport back."""
        try:
            await self._leave(self._exchange, error)
        finally:  # a native cancellation passes the shield
            await self._leave(self._lent, error)

    async def _leave(self, stack: AsyncExitStack, error: BaseException | None) -> None:
        self._is_closing = True
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + CLOSE_SECONDS):
            try:
                await stack.__aexit__(type(error) if error else None, error, error.__traceback__ if error else None)
            except OxyError as failure:
                log_event("debug", self._context, "closing failed: %s", failure)
            finally:
                self._is_closing = False
