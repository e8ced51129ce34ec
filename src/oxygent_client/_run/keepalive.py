"""Wait for the events of a run, and report from time to time that nothing was received.

Rule 1: the wait goes on in a task of its own while the program has a `Heartbeat`: a read that was cancelled would have
    lost its connection. Everything else (routing, callbacks, the end) stays in the task of the reader.
Rule 2: the task ends before the connection is closed: when the reader is cancelled, the block is left, or the run is
    dropped. Events that it has found by then are not lost.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Awaitable, Callable
from typing import Generic, Self, TypeVar

import anyio
import attrs

from oxygent_client._core.events import AnyEvent, ServerSentEvent
from oxygent_client._core.per_loop import call_soon, this_loop
from oxygent_client._core.tasks import spawn, wait_until_done
from oxygent_client._run.event_reader import EventReader, StillWaiting

T = TypeVar("T")


@attrs.frozen
class Heartbeat:
    """No event was received for a while: an item of `Run.events(keepalive=...)`."""

    seconds: float
    """How long the program has waited for the next event so far."""
    server_heartbeats: int
    """How many heartbeats the server has sent since the last item. A server that works, or whose task has died, sends
    one every 15 s; none for a longer time is a sign that the server cannot be reached."""


class Background(Generic[T]):
    """A function that runs in a task of its own, outside of all task groups, while its caller does something else."""

    def __init__(self, function: Callable[[], Awaitable[T]]) -> None:
        self._function = function
        self._ended = anyio.Event()
        self._scope = anyio.CancelScope()
        self._loop = this_loop()
        self.results: list[T] = []
        """What the function returned, once it has."""
        self._error: Exception | None = None
        self._task = spawn(self._run)
        if self._task is not None:
            self._task.add_done_callback(lambda _: self._ended.set())  # it may be cancelled before its first step

    async def _run(self) -> None:
        try:
            with self._scope:
                self.results.append(await self._function())
        except Exception as error:  # noqa: BLE001  (raised in the caller's task)
            self._error = error
        finally:
            self._ended.set()

    async def has_ended(self, seconds: float) -> bool:
        """Whether it ends within `seconds`."""
        with anyio.move_on_after(seconds):
            await self._ended.wait()
        return self._ended.is_set()

    def result(self) -> T:
        """What the function returned; or its exception is raised."""
        if self._error is not None:
            raise self._error
        return self.results[0]

    def drop(self) -> None:
        """Cancel it from any thread, without waiting for its end."""
        call_soon(self._loop, self._scope.cancel)

    async def cancel(self) -> None:
        """Cancel it, and wait for its end, also if the caller is cancelled."""
        self._scope.cancel()
        if self._task is None:
            with anyio.CancelScope(shield=True):
                await self._ended.wait()
        elif (cancelled := await wait_until_done(self._task)) is not None:
            raise cancelled


class PatientReader:
    """Waits for the events of one run in the background."""

    def __init__(self, reader: EventReader) -> None:
        self.patience = math.inf
        """How long `next` waits."""
        self._reader = reader
        self._background: Background[list[ServerSentEvent]] | None = None
        self._since = 0.0
        self._heartbeats = 0

    async def next(self) -> list[ServerSentEvent]:
        """As `EventReader.next`.

        Raises:
            StillWaiting: there was no event for `patience` seconds; the next call goes on.
        """
        reader = self._reader
        if self._background is None:
            if reader.left <= 0:
                await reader.breathe()
            now = reader.now()
            events = reader.state.next_events(now, reader.left)
            if events is not None:
                return events
            self._since, self._heartbeats = now, reader.state.buffer.heartbeats
            self._background = Background(reader.next)
        try:
            has_ended = await self._background.has_ended(self.patience)
        except BaseException:
            await self.cancel()
            raise
        if not has_ended:
            raise StillWaiting
        background, self._background = self._background, None
        return background.result()

    def heartbeat(self) -> Heartbeat:
        """Report the wait so far."""
        reader, before = self._reader, self._heartbeats
        self._heartbeats = reader.state.buffer.heartbeats
        # A new connection counts its own.
        count = self._heartbeats - before if self._heartbeats >= before else self._heartbeats
        return Heartbeat(reader.now() - self._since, count)

    def __del__(self) -> None:
        if self._background is not None:  # the run was dropped: nobody else would end the read
            self._background.drop()

    async def cancel(self) -> None:
        """End the wait."""
        if self._background is not None:
            try:
                await self._background.cancel()
            finally:
                self.give_back()

    def give_back(self) -> None:
        """Put the events that the wait has found back into the buffer: it has ended, and nobody takes them."""
        background, self._background = self._background, None
        for events in () if background is None else background.results:
            self._reader.state.buffer.give_back(reversed(events))


class EventsWithHeartbeats:
    """An iterator over the events of a run and the times without any; see `Run.events`."""

    def __init__(self, events: AsyncIterator[AnyEvent], reader: PatientReader, keepalive: float) -> None:
        self._events = events
        self._reader = reader
        self._keepalive = keepalive

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> AnyEvent | Heartbeat:
        """Return the next event, or a `Heartbeat`.

        Raises:
            OxyError: as `Run.__anext__`.
        """
        self._reader.patience = self._keepalive
        try:
            return await anext(self._events)
        except StillWaiting:
            return self._reader.heartbeat()
        finally:
            self._reader.patience = math.inf
