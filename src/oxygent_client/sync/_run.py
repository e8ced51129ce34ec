"""`SyncRun`: an iterator over the events of one run."""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AbstractAsyncContextManager
from typing import Any, Final, TypeVar, cast, overload

from oxygent_client import (
    AgentText,
    AnyEvent,
    Event,
    Heartbeat,
    Outcome,
    OxyResponse,
    Run,
    TextUpdate,
    Trace,
    TraceCall,
)
from oxygent_client.errors import ClosedError, Partial
from oxygent_client.sanitize import SentSecrets
from oxygent_client.sync._mirror import converting
from oxygent_client.sync._portal import BlockOwner, Portal

T = TypeVar("T")

_END: Final = object()


class SyncRun(BlockOwner[Run]):
    """One run of a remote agent: `for event in agent.stream(query): ...`, perhaps in `with agent.stream(query) as run`.

    Leaving the `for`, at any time, ends the run and closes its connection, which makes the remote stop: by `break`, by
    an exception, or when the loop's generator is closed or garbage. Leaving the block does so, too, and waits for it.
    Ctrl-C ends the run. `next(run)` returns a single event and leaves the run open.
    """

    def __init__(self, manager: Run | AbstractAsyncContextManager[Run], portal: Callable[[], Portal]) -> None:
        super().__init__(manager, portal)
        self._known = manager if isinstance(manager, Run) else None

    @property
    def _run(self) -> Run:
        """The asynchronous run. A turn of a conversation has none before it is entered."""
        if self._known is None:
            raise ClosedError("the run has not begun: iterate over it, or enter its block")
        return self._known

    # --- what a reader may ask ---

    @property
    def trace_id(self) -> str:
        """As `Run.trace_id`: your id of this run."""
        return self._run.trace_id

    @property
    def remote_trace_id(self) -> str:
        """As `Run.remote_trace_id`: the remote's id of this run."""
        return self._run.remote_trace_id

    @property
    def outcome(self) -> Outcome:
        """What is known of the run so far."""
        return self._run.outcome

    @property
    def text(self) -> str:
        """As `Run.text`."""
        return self._run.text

    @property
    def texts(self) -> tuple[AgentText, ...]:
        """All text that agents have written so far, by call and agent, in the order in which the texts began."""
        return self._run.texts

    @property
    def text_stream(self) -> Iterator[str]:
        """The answer's text in pieces, while it is written: `for text in run.text_stream: ...`; see `Run.text_stream`.

        Leaving the `for` ends the run.
        """
        return self._iterate(lambda run: run.text_stream)

    @converting(Run.text_updates)
    def text_updates(self, *args: Any, **options: Any) -> Iterator[TextUpdate]:
        """The changes of the answer's text, while it is written: `for update in run.text_updates(): ...`.

        Leaving the `for` ends the run.
        """
        return self._iterate(lambda run: run.text_updates(*args, **options))

    @property
    def sent(self) -> SentSecrets:
        """The credentials that the run has sent, for `sanitize.without_credentials`."""
        return self._run.sent

    @property
    def partial(self) -> Partial:
        """What has been received so far, within `Limits.partial_events` and `Limits.partial_bytes`."""
        return self._run.partial

    @property
    def response(self) -> OxyResponse:
        """The response, once the events have come to their end.

        Raises:
            OxyError: the run failed; it is that error.
            ClosedError: the run has not come to its end. Read all events first, or call `final_response()`.
        """
        return self._run.response

    def trace(self) -> Trace:
        """Return the calls of the run so far as a value, with times, arguments, outputs and errors."""
        return self._run.trace()

    def call_of(self, event: Event) -> TraceCall | None:
        """Return the call that an event of this run is about, as `trace()` has it; None if it is not known."""
        return self._run.call_of(event)

    def report(self) -> str:
        """Return a page of HTML for people, with the calls of the run so far; see `Trace.report`."""
        return self._run.report()

    def final_response(self) -> OxyResponse:
        """Read all events that are still to come, end the run and return its response.

        Raises:
            OxyError: the run failed; it is that error.
            ClosedError: the run was left, or cancelled, before its end.
        """
        try:
            return cast("OxyResponse", self._do(lambda run: run.final_response()))
        finally:
            self.close()

    # --- the block ---

    def _entered_twice(self) -> ClosedError:
        return ClosedError("a run is entered once; ask the agent for another", outcome=self.outcome)

    def _on_enter(self, value: Run, /) -> None:
        self._known = value

    # --- the events ---

    def __iter__(self) -> Iterator[AnyEvent]:
        return self._iterate(lambda run: run)

    @overload
    def events(self, *, keepalive: None = None) -> Iterator[AnyEvent]: ...
    @overload
    def events(self, *, keepalive: float) -> Iterator[AnyEvent | Heartbeat]: ...
    def events(self, *, keepalive: float | None = None) -> Iterator[AnyEvent | Heartbeat]:
        """The events, and with `keepalive` a `Heartbeat` whenever none was received for so many seconds.

        Leaving the `for` ends the run.

        Raises:
            ConfigurationError: `keepalive` is no number of seconds.
            OxyError: the run failed.
        """
        # The overloads of `Run.events` have no form that takes both.
        return self._iterate(lambda run: run if keepalive is None else run.events(keepalive=keepalive))

    def __next__(self) -> AnyEvent:
        """Return the next event, without ending the run if it is not the last.

        Raises:
            StopIteration: the run has come to its end, and has a response.
            OxyError: the run failed.
            ClosedError: the run was left before.
        """
        event = self._do(lambda run: anext(run, _END))
        if event is _END:
            raise StopIteration
        return cast("AnyEvent", event)

    def _iterate(self, source: Callable[[Run], AsyncIterator[T]]) -> Iterator[T]:
        """Iterate over what `source` makes of the run, in the run's task; leaving the iteration ends the run."""
        self._enter()
        iterator = source(self._run)
        yield from self._each(lambda: self._do(lambda _: anext(iterator, _END)), _END)

    def _do(self, function: Callable[[Run], Awaitable[Any]]) -> Any:
        """Run an async function of the run in the run's task, and wait for its result."""
        block = self._enter()
        if block.portal.is_over:  # perhaps in a parent process, whose connection must not be touched
            raise block.portal.closed_error()
        if block.is_over:  # the run knows how it ended
            return self._portal().run(function, self._run)
        return block.do(function, self._run)

    def __repr__(self) -> str:
        return repr(self._known).replace("<Run", "<SyncRun") if self._known is not None else "<SyncRun>"

    def _repr_mimebundle_(self, include: object = None, exclude: object = None) -> dict[str, str]:
        """Return the run as text and HTML, for notebooks."""
        return self._run._repr_mimebundle_(include, exclude)  # pyright: ignore[reportPrivateUsage]  (IPython's)

    def _ipython_display_(self) -> None:
        """Show the run in a notebook, and update the display until the run has ended."""
        self._run._ipython_display_()  # pyright: ignore[reportPrivateUsage]  (IPython's)
