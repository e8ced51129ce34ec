"""Output formats: live view, plain lines, the answer alone, JSON lines.

Rule 1: a Display receives events and their times; it never waits.
Rule 2: a Display is a context manager: however its block ends, the terminal is restored, and the output stays.
Rule 3: a stdout that is no terminal gets the answer alone, and stderr the rest.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from attrs import define, field, frozen
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text as RichText

from oxygent_client import Event, Observation, OxyResponse, Text, TextDelta, ToolCall, Trace, TraceCall
from oxygent_client.cli import _render
from oxygent_client.cli._options import write, write_error
from oxygent_client.cli._terminal_text import as_json, brief, escaped, line
from oxygent_client.cli._view import View


@frozen
class RunSummary:
    """The result of a run: the response, and the trace ids of both sides."""

    response: OxyResponse
    trace_id: str
    remote_trace_id: str


class Display(Protocol):
    """Shows a run. Times are seconds since the query was sent."""

    interval: ClassVar[float | None]
    """Seconds between calls of `tick`; None for no calls."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        """Show an event, which is about this call of the run's trace."""
        ...

    def show_text(self, text: str) -> None:
        """Take the answer's text so far."""
        ...

    def show_trace(self, trace: Trace) -> None:
        """Take the calls so far."""
        ...

    def tick(self, at: float) -> None:
        """Update the display to the present time."""
        ...

    def finish(self, summary: RunSummary, at: float) -> None:
        """Show the result of a completed run."""
        ...


@define
class LiveDisplay:
    """A live tree of the calls with the text below it; the final state stays on the terminal.

    With `write_answer`, the final answer goes there instead. Of a turn of a chat the answer alone stays.
    """

    console: Console
    query: str
    write_answer: Callable[[str], object] | None = None
    is_turn: bool = False
    interval: ClassVar[float | None] = 1 / 12
    view: View = field(factory=View, init=False)
    closing: RenderableType = field(init=False, default="")
    _live: Live = field(init=False)
    _at: float = field(init=False, default=0.0)
    _summary: RunSummary | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._live = self._new_live()

    def _new_live(self) -> Live:
        # No automatic refresh: rich's thread would read the view while an event changes it.
        # An answer that goes elsewhere must not be redirected into the view.
        return Live(
            console=self.console,
            auto_refresh=False,
            transient=True,
            redirect_stdout=self.write_answer is None,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._live.stop()
        self.closing = self._picture()
        self.console.print(self.closing, crop=False)  # the terminal breaks long lines

    @contextmanager
    def paused(self) -> Generator[None]:
        """A block in which the view is off the terminal, so that a line can be read."""
        self._live.stop()
        try:
            yield
        finally:
            self._live = self._new_live()  # the one before would erase as many lines as it had drawn
            self._live.start()

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        self.view.see(event, call)
        self._at = at

    def show_text(self, text: str) -> None:
        self.view.show_text(text)

    def show_trace(self, trace: Trace) -> None:
        self.view.show_trace(trace)

    def tick(self, at: float) -> None:
        self._at = at
        # Two lines less than the terminal has. The cursor waits in an empty line of its own: the terminal writes ^C
        # there, which would otherwise begin another line, so that the first one would not be erased.
        height = max(self.console.height - 2, 4)
        above = max(len(self.view.parts) - height, 0) + max(self.view.text.count("\n") - height, 0)
        frame = _render.FitHeight(self._picture(height), height, above)
        self._live.update(Group(frame, RichText("")), refresh=True)

    def finish(self, summary: RunSummary, at: float) -> None:
        self._at, self._summary = at, summary
        if self.write_answer is not None:
            self.write_answer(bare(summary.response.output))

    def _picture(self, last: int | None = None) -> RenderableType:
        """Return the whole display; with `last`, only so many last lines of the tree and of the text."""
        view, at, summary = self.view, self._at, self._summary
        ascii_only = self.console.options.ascii_only
        blank = RichText("")
        above: list[RenderableType] = []
        if not self.is_turn or last is not None:
            tree = _render.Guarded(
                "the tree of calls", lambda: _render.tree(view, at, ascii_only=ascii_only, last=last)
            )
            above = [_render.query(self.query), blank, tree]
        below: list[RenderableType] = []
        if summary is not None:
            output = summary.response.output
            if self.write_answer is None:
                below.append(_render.Guarded("the answer", lambda: _render.answer(output, finished=True)))
            below.append(_render.summary(view, at, summary.remote_trace_id))
        elif view.text:
            below.append(_render.Guarded("the text", lambda: _render.answer(view.text, finished=False, last=last)))
        elif view.draft:
            below.append(RichText(line(view.draft), style="dim", no_wrap=True, overflow="ellipsis"))
        return Group(*above, *([blank] if above and below else []), *below)


def bare(output: Any) -> str:
    """Return an answer for a pipe: a `str` with its lines, any other value as one line of JSON."""
    text = escaped(output.replace("\r\n", "\n")).rstrip("\n") if isinstance(output, str) else as_json(output)
    return f"{text}\n"


_DESCRIPTIONS: Mapping[type[Event], Callable[[Any], tuple[str, str, str]]] = {
    ToolCall: lambda event: ("call", " > ".join(event.call_stack[1:]) or event.callee, brief(event.arguments)),
    Observation: lambda event: ("result", event.callee, brief(event.output)),
    TextDelta: lambda event: ("delta", event.agent, json.dumps(event.text, ensure_ascii=False)),
    Text: lambda event: ("text", "", event.text),
}


def _describe_other(event: Event) -> tuple[str, str, str]:
    return event.type or "other", "", brief(event.content)


def describe(event: Event) -> str:
    """Return an event's type, agent and content in one safe line."""
    verb, agent, text = _DESCRIPTIONS.get(type(event), _describe_other)(event)
    return "  ".join(part for part in (f"{line(verb):<10}", line(agent), line(text)) if part)


class _PlainDisplay:
    """Base of the displays without a live view."""

    interval: ClassVar[float | None] = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass

    def show_text(self, text: str) -> None:
        pass

    def show_trace(self, trace: Trace) -> None:
        pass

    def tick(self, at: float) -> None:
        pass


@define
class LinesDisplay(_PlainDisplay):
    """One plain line for each event, for pipes, files and logs; the answer goes to `write_answer`."""

    write: Callable[[str], object]
    query: str
    write_answer: Callable[[str], object]
    events: int = field(init=False, default=0)
    calls: int = field(init=False, default=0)

    def __enter__(self) -> Self:
        self.write(f"question  {line(self.query)}\n")
        return self

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        self.events += 1
        self.calls += isinstance(event, ToolCall)
        self.write(f"{at:7.2f}s  {describe(event)}".rstrip() + "\n")

    def finish(self, summary: RunSummary, at: float) -> None:
        self.write_answer(bare(summary.response.output))
        facts = f"{self.events} events, {self.calls} calls, {at:.1f} s"
        self.write(f"{facts}, trace {line(summary.remote_trace_id)}\n")


@define
class AnswerDisplay(_PlainDisplay):
    """The answer alone."""

    write: Callable[[str], object]

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        pass

    def finish(self, summary: RunSummary, at: float) -> None:
        self.write(bare(summary.response.output))


@define
class JSONDisplay(_PlainDisplay):
    """One JSON object for each event, and the response as the last: for programs."""

    write: Callable[[str], object]

    def see(self, event: Event, at: float, call: TraceCall | None = None) -> None:
        self._write(
            kind="event",
            at=round(at, 3),
            type=event.type,
            content=event.content,
            message=event.message,
            event=event.sse.event,
            id=event.sse.id,
        )

    def finish(self, summary: RunSummary, at: float) -> None:
        self._write(
            kind="response",
            at=round(at, 3),
            state=summary.response.state.name,
            output=summary.response.output,
            trace_id=summary.trace_id,
            remote_trace_id=summary.remote_trace_id,
        )

    def _write(self, **facts: Any) -> None:
        self.write(as_json(facts) + "\n")


def make_display(query: str, *, as_json: bool = False, quiet: bool = False, live: bool = False) -> Display:
    """Return the display for the streams of this process; `live` is a live view in any case."""
    if as_json:
        return JSONDisplay(write)
    if quiet:
        return AnswerDisplay(write)
    out, err = Console(), Console(stderr=True)
    if live or is_live(out):
        return LiveDisplay(out, query)
    if is_live(err) and not out.is_terminal:
        return LiveDisplay(err, query, write)
    return LinesDisplay(write_error, query, write)


def is_live(console: Console) -> bool:
    """Whether the console can show a live view."""
    return console.is_terminal and not console.is_dumb_terminal
