"""Output formats: live view, plain lines, JSON lines.

Rule 1: a Show is told what happens, and when; it asks nothing and waits for nothing.
Rule 2: the block is the life of a Show: whatever ends it, the terminal is left as it was, and what was seen stays.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from types import TracebackType
from typing import Any, ClassVar, Protocol, Self

from attrs import define, field, frozen
from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.text import Text as Words

from oxygent_client import Event, Observation, OxyResponse, Text, TextDelta, ToolCall
from oxygent_client.cli import _render
from oxygent_client.cli._terminal_text import as_json, block, brief, indented, line
from oxygent_client.cli._view import View

__all__ = ["JSONShow", "LinesShow", "LiveShow", "RunSummary", "Show"]


@frozen
class RunSummary:
    """How a run ended: the response, and the ids on both sides."""

    response: OxyResponse
    trace_id: str
    remote_trace_id: str


class Show(Protocol):
    """Who watches. Times are seconds since the question was asked."""

    interval: ClassVar[float | None]
    """How often `tick` is wanted, in seconds; None is never."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None: ...

    def see(self, event: Event, at: float) -> None:
        """An event came."""
        ...

    def tick(self, at: float) -> None:
        """Time has passed."""
        ...

    def finish(self, outcome: RunSummary, at: float) -> None:
        """The run is over and went well."""
        ...


@define
class LiveShow:
    """The tree of calls as it grows, the text below it, and at the end the whole once more, to stay."""

    console: Console
    query: str
    interval: ClassVar[float | None] = 1 / 12
    view: View = field(init=False)
    closing: RenderableType = field(init=False, default="")
    _live: Live = field(init=False)
    _at: float = field(init=False, default=0.0)
    _outcome: RunSummary | None = field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.view = View(self.query)
        # Drawn when we say so: rich's own thread would read the view while an event changes it.
        self._live = Live(console=self.console, auto_refresh=False, transient=True, vertical_overflow="crop")

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self._live.stop()
        self.view.closed = True
        self.closing = self._picture()
        self.console.print(self.closing, crop=False)  # what is too long for a frame is broken by the terminal

    def see(self, event: Event, at: float) -> None:
        self.view.see(event, at)
        self._at = at

    def tick(self, at: float) -> None:
        self._at = at
        # One line less than there are: the cursor stands on the last.
        height = max(self.console.height - 1, 4)
        above = max(self.view.kept - height, 0) + max(self.view.text.count("\n") - height, 0)
        self._live.update(_render.Fitted(self._picture(height), height, above), refresh=True)

    def finish(self, outcome: RunSummary, at: float) -> None:
        self._at, self._outcome = at, outcome

    def _picture(self, last: int | None = None) -> RenderableType:
        """All there is; of tree and text `last` lines each, where it is given."""
        view, at, outcome = self.view, self._at, self._outcome
        ascii_only = self.console.options.ascii_only
        blank = Words("")
        parts: list[RenderableType] = [
            _render.question(self.query),
            blank,
            _render.Drawn("the tree of calls", lambda: _render.tree(view, at, ascii_only=ascii_only, last=last)),
        ]
        if outcome is not None:
            output = outcome.response.output
            answer = _render.Drawn("the answer", lambda: _render.answer(output, finished=True))
            parts += [blank, answer, _render.summary(view, at, outcome.remote_trace_id)]
        elif view.text:
            parts += [blank, _render.Drawn("the text", lambda: _render.answer(view.text, finished=False, last=last))]
        return Group(*parts)


_WORDS: Mapping[type[Event], Callable[[Any], tuple[str, str, str]]] = {
    ToolCall: lambda event: ("call", " > ".join(event.call_stack[1:]) or event.callee, brief(event.arguments)),
    Observation: lambda event: ("result", event.callee, brief(event.output)),
    TextDelta: lambda event: ("delta", event.agent, json.dumps(event.text, ensure_ascii=False)),
    Text: lambda event: ("text", "", event.text),
}


def _other(event: Event) -> tuple[str, str, str]:
    return event.type or "other", "", brief(event.content)


def described(event: Event) -> str:
    """What an event is, whose, and what it says, in one safe line."""
    verb, who, words = _WORDS.get(type(event), _other)(event)
    return "  ".join(part for part in (f"{line(verb):<10}", line(who), line(words)) if part)


@define
class LinesShow:
    """One plain line for each event, then the answer: for pipes, files and logs."""

    write: Callable[[str], object]
    query: str
    interval: ClassVar[float | None] = None
    events: int = field(init=False, default=0)
    calls: int = field(init=False, default=0)

    def __enter__(self) -> Self:
        self.write(f"question  {line(self.query)}\n")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass

    def see(self, event: Event, at: float) -> None:
        self.events += 1
        self.calls += isinstance(event, ToolCall)
        self.write(f"{at:7.2f}s  {described(event)}".rstrip() + "\n")

    def tick(self, at: float) -> None:
        pass

    def finish(self, outcome: RunSummary, at: float) -> None:
        output = outcome.response.output
        text = output if isinstance(output, str) else indented(output)
        self.write(f"\n{block(text).rstrip()}\n\n")
        facts = f"{self.events} events, {self.calls} calls, {at:.1f} s"
        self.write(f"{facts}, trace {line(outcome.remote_trace_id)}\n")


@define
class JSONShow:
    """One JSON object for each event, and the response as the last: for programs."""

    write: Callable[[str], object]
    interval: ClassVar[float | None] = None

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        pass

    def see(self, event: Event, at: float) -> None:
        self._write(
            kind="event",
            at=round(at, 3),
            type=event.type,
            content=event.content,
            message=event.message,
            event=event.sse.event,
            id=event.sse.id,
        )

    def tick(self, at: float) -> None:
        pass

    def finish(self, outcome: RunSummary, at: float) -> None:
        self._write(
            kind="response",
            at=round(at, 3),
            state=outcome.response.state.name,
            output=outcome.response.output,
            trace_id=outcome.trace_id,
            remote_trace_id=outcome.remote_trace_id,
        )

    def _write(self, **facts: Any) -> None:
        self.write(as_json(facts) + "\n")
