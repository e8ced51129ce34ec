"""Iterators over the answer's text of a run: they read its events, and give the changes of the text.

Rule: an iterator begins with the text so far, and is at its end when the run is.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Protocol, Self

from oxygent_client._core.events import AnyEvent
from oxygent_client._core.requests import OxyResponse
from oxygent_client._run.answer_text import AnswerText, TextCursor, TextUpdate
from oxygent_client._run.received import ReceivedEvents


class Events(Protocol):
    """A run."""

    async def __anext__(self) -> AnyEvent:
        """Return the next event."""
        ...

    @property
    def response(self) -> OxyResponse:
        """The response, once the events are at their end."""
        ...


class TextUpdates:
    """An iterator over the changes of the answer's text; see `Run.text_updates`."""

    def __init__(self, events: Events, received: ReceivedEvents, *, is_live: bool) -> None:
        self._events = events
        self._live_events = received if is_live else None
        self._at_the_end = AnswerText()
        self._cursor = TextCursor()
        self._is_over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> TextUpdate:
        """Return the next change.

        Raises:
            OxyError: the run failed.
        """
        while True:
            if (update := self.take()) is not None:
                return update
            if self._is_over:
                raise StopAsyncIteration
            try:
                await self._events.__anext__()
            except StopAsyncIteration:
                self._is_over = True
                self._answer.finish(str(self._events.response.output))

    def take(self) -> TextUpdate | None:
        """Return the next change that the events so far have made, or None; for programs that read the events."""
        return self._cursor.take(self._answer)

    @property
    def _answer(self) -> AnswerText:
        return self._at_the_end if self._live_events is None else self._live_events.texts.answer


class TextStream:
    """An iterator over the pieces of the answer's text; see `Run.text_stream`."""

    def __init__(self, updates: AsyncIterator[TextUpdate]) -> None:
        self._updates = updates

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> str:
        """Return the next piece.

        Raises:
            OxyError: the run failed.
        """
        update = await anext(self._updates)
        return f"\n\n{update.delta}" if update.is_reset else update.delta
