"""Answer a request that is sent again by the response to the first one, so that its agent does not run twice.

Rule 1: a request was sent before if an earlier one had the same key. It gets the response of that one from its
    beginning, also while it is being made. If it is another request under the same key, it is refused.
Rule 2: a response is made by a task of its own. It goes on while it has readers, and for a short time without one, in
    which a client whose connection broke can come back; then the run is stopped.
Rule 3: a request whose agent surely did not run is forgotten: it may be sent again.
Rule 4: a request with the header `x-attach-only` runs nothing, if there was no earlier one.
Rule 5: bounded: the last finished responses are kept for some minutes. The first pieces of a long response are dropped;
    then it cannot be repeated. A response waits for its quickest reader; a slower one is cut off if it is too slow.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Hashable
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

import anyio
import attrs

from oxygent_client import Outcome, OxyError
from oxygent_client.serve._core.audience import Audience
from oxygent_client.serve._core.exchange import Exchange, Message
from oxygent_client.serve._core.failures import MAY_HAVE_RUN, Refused
from oxygent_client.serve._core.hosted_tasks import HostedTasks
from oxygent_client.serve._core.piece_log import PieceLog
from oxygent_client.serve._core.run_table import RunTable

ATTACH: Final = "x-attach-only"
"""The header of a request that gets the response to an earlier one, or an error, and never runs an agent."""
RESPONSES: Final = 100
"""The finished responses that are kept."""
SECONDS: Final = 300.0
"""How long they are kept."""
PIECES: Final = 20_000
"""The pieces of a response that are kept."""
BYTES: Final = 1024 * 1024
"""The bytes of these pieces."""
CLOSE_SECONDS: Final = 1.0
"""How long the last responses get to be sent when the service ends."""


def _refuse(code: str, message: str, status: int = 409) -> Refused:
    """A refusal of a request whose agent may have run."""
    refused = Refused(status, code, message)
    refused.failure = attrs.evolve(refused.failure, outcome=Outcome.UNKNOWN)
    return refused


class SharedResponses:
    """The responses of one protocol to requests that have keys."""

    def __init__(self, return_seconds: float, responses: int = RESPONSES, seconds: float = SECONDS) -> None:
        self._return_seconds = return_seconds
        self._known = RunTable[_Shared](responses, seconds)
        self._tasks = HostedTasks(CLOSE_SECONDS)

    @property
    def is_running(self) -> bool:
        """Whether the block of `running` has begun: responses are made by its tasks."""
        return self._tasks.is_running

    def running(self) -> AbstractAsyncContextManager[None]:
        """Return a block that hosts the responses."""
        return self._tasks.running()

    async def respond(
        self, exchange: Exchange, key: Hashable, content: Hashable, handler: Callable[[Exchange], Awaitable[None]]
    ) -> None:
        """Respond by `handler`, or by the response to an earlier request with this key.

        Args:
            exchange: the request.
            key: the key.
            content: what is asked; the same for a request that is sent again.
            handler: makes the response, in a task of its own.

        Raises:
            OxyError: the run failed before the response had begun.
            Refused: likewise, or the response cannot be repeated.
        """
        self._tasks.check_running()
        shared = self._known.find(key, anyio.current_time())
        if shared is None:
            if ATTACH in exchange.headers:
                raise _refuse("not_known", "there is no such run: it is over, and no longer kept", 404)
            shared = _Shared(content, self._return_seconds)
            self._known.add(key, shared)
            self._tasks.start(self._make, key, shared, exchange.recorded(shared.take), handler)
        elif shared.content != content:
            raise _refuse("id_in_use", "another request has this id: give each one an id of its own")
        await shared.send_to(exchange)

    async def _make(
        self, key: Hashable, shared: _Shared, exchange: Exchange, handler: Callable[[Exchange], Awaitable[None]]
    ) -> None:
        try:
            await shared.make(exchange, handler)
        finally:
            if shared.is_forgettable:
                self._known.remove(key)
            else:
                self._known.finish(key, anyio.current_time())


class _Shared:
    """One response, for one or more readers."""

    def __init__(self, content: Hashable, return_seconds: float) -> None:
        self.content = content
        self._audience = Audience(PieceLog(PIECES, BYTES), return_seconds)
        self._opened = anyio.Event()
        """Set once the response has begun, or cannot begin."""
        self._taken = anyio.Event()
        """Set when a reader has taken pieces, and then made anew."""
        self._head: Message | None = None
        self._error: Exception | None = _refuse("stopping", "the server is stopping", MAY_HAVE_RUN)
        """Why there is no complete response."""

    @property
    def is_forgettable(self) -> bool:
        """Whether the agent surely did not run."""
        error = self._error
        if self._head is not None or not isinstance(error, OxyError | Refused):
            return False
        known = error.failure if isinstance(error, Refused) else error
        return not known.outcome.may_have_run

    async def make(self, exchange: Exchange, handler: Callable[[Exchange], Awaitable[None]]) -> None:
        """Make the response."""
        scope = self._audience.scope
        try:
            with scope:
                try:
                    await handler(exchange)
                    self._error = None
                except Exception as error:  # noqa: BLE001  (each reader gets it)
                    self._error = error
            if scope.cancelled_caught:
                self._error = _refuse("left", "the run was stopped, since its client had left", MAY_HAVE_RUN)
        finally:
            self._audience.log.is_ended = True
            self._audience.notify()
            self._opened.set()

    async def take(self, message: Message) -> None:
        """Take a part of the response, as the `send` of the exchange for which the handler makes it."""
        if message["type"] == "http.response.start":
            self._head = message
            self._opened.set()
            return
        piece: bytes = message["body"]
        log = self._audience.log
        while not log.fits(len(piece)) and log.viewers and all(each.seen <= log.dropped for each in log.viewers):
            self._taken = anyio.Event()
            await self._taken.wait()
        if piece:
            log.append(piece)
            self._audience.notify()

    async def send_to(self, exchange: Exchange) -> None:
        """Send the response, from its beginning, to one reader."""
        viewer = self._audience.join()
        try:
            await self._opened.wait()
            log = self._audience.log
            if self._head is None or (log.is_ended and self._error is not None):
                raise self._take_error()  # a handler responds, or raises
            if log.dropped:
                raise _refuse("not_kept", "the response has begun, and is too long to be repeated")
            await exchange.start_recorded(self._head)
            await self._send_pieces(exchange, viewer)
            if self._error is not None:
                raise self._take_error()
            await exchange.end_stream()
        finally:
            self._audience.leave(viewer)
            self._taken.set()

    def _take_error(self) -> Exception:
        """Return the error for one reader, and keep a copy without its traceback, whose frames hold the request."""
        error = self._error
        assert error is not None
        self._error = kept = type(error).__new__(type(error), *error.args)
        kept.args = error.args  # `OSError.__new__` leaves them to `__init__`
        kept.__dict__.update(error.__dict__)
        return error

    async def _send_pieces(self, exchange: Exchange, viewer: Any) -> None:
        while not viewer.is_over:
            if piece := viewer.take():
                self._taken.set()
                await exchange.send_piece(piece)
            elif not viewer.is_over:
                await self._audience.wait()
        if viewer.is_dropped:
            exchange.is_left = True  # the service counts it as a client that has left
            raise BrokenPipeError
