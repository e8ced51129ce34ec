"""Observers of runs: the notifications, their order, and failing observers.

Rule: time is virtual; every run is scripted.
"""

from __future__ import annotations

import logging
from contextlib import suppress
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final
from unittest.mock import MagicMock, Mock

import anyio
import attrs
import pytest

from oxygent_client import HTTPRequest, OxyRequest, Retry, SSEOxyGent, Timeouts, errors
from oxygent_client.telemetry import Notification, RunObservation
from oxygent_client.telemetry._observers import UNLOGGED
from oxygent_client.testing import (
    FakeTransport,
    Reply,
    answer,
    close,
    delta,
    observation,
    pause,
    tool_call,
)
from tests.support.plain import plain
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from oxygent_client import Run
    from oxygent_client.testing import Step

URL: Final = "https://user:CANARY@remote.test/base?token=CANARY"
REFUSED: Final = errors.ConnectError("no")
CUT: Final = errors.ConnectionLostError("cut", outcome=errors.Outcome.STARTED)


class Notes:
    """An observer that keeps its notifications."""

    wants_events: ClassVar[bool] = False

    def __init__(self) -> None:
        self.told: list[Notification] = []

    def note(self, notification: Notification, /) -> None:
        """Keep the notification."""
        self.told.append(notification)

    @property
    def names(self) -> list[str]:
        """Return the names of the notifications."""
        return [notification.event for notification in self.told]

    def fields(self, event: str) -> Mapping[str, Any]:
        """Return the fields of the one notification of this name."""
        (fields,) = (notification.fields for notification in self.told if notification.event == event)
        return fields


class EventNotes(Notes):
    """An observer of events too."""

    wants_events: ClassVar[bool] = True


class Marker(Notes):
    """An observer that adds headers."""

    def __init__(self, headers: Mapping[str, str]) -> None:
        super().__init__()
        self._headers = headers

    def headers(self, run: RunObservation, /) -> Mapping[str, str]:
        """Return the headers."""
        assert self.told[0].run is run
        return self._headers


class Broken:
    """An observer that always raises."""

    wants_events = True

    def note(self, notification: Notification, /) -> None:
        """Raise."""
        raise RuntimeError(f"SECRET {notification.event}")

    def headers(self, run: RunObservation, /) -> Mapping[str, str]:
        """Raise."""
        raise RuntimeError("SECRET headers")


async def ask(agent: SSEOxyGent) -> Any:
    """Return the output of a run, or the class of its error."""
    try:
        return (await agent.ask("hi")).output
    except errors.OxyError as error:
        return type(error).__name__


# -------------------------------------------------------------------------------------------------------- Notifications

READ: Final = ("begun", "connect", "opened", "streaming", "first_byte", "first_event")


@pytest.mark.parametrize(
    ("expected", "steps"),
    [
        ((*READ, "closed", "ended"), [answer("42"), close()]),
        ((*READ, "tool_call", "observation", "closed", "ended"),
         [tool_call("search"), observation("search", 1), answer("42"), close()]),
        ((*READ, "closed", "ended"), [answer("42")]),
        ((*READ, "tool_call", "closed", "ended"), [tool_call("search"), CUT]),
        (("begun", "connect", "opened", "streaming", "closed", "ended"), []),
    ],
    ids=["answer", "tool", "cut", "broken", "empty"],
)  # fmt: skip
async def test_the_order(expected: tuple[str, ...], steps: list[Any]) -> None:
    """`begun` is first and `ended` last, once each; events go only to observers that want them."""
    quiet, eager = Notes(), EventNotes()
    agent = plain(server_url=URL, transport=FakeTransport.script(*steps), observers=[quiet, eager])
    await ask(agent)
    assert eager.names == [*expected]
    assert [name for name in expected if name not in ("tool_call", "observation")] == quiet.names
    assert len({notification.run for notification in quiet.told + eager.told}) == 1
    assert set(eager.names) - {"connect", "opened", "first_event", "closed"} <= UNLOGGED.keys()


@pytest.mark.parametrize("mock", [Mock, MagicMock])
async def test_a_mock(mock: type[Mock]) -> None:
    """A mock, which has every attribute, can be an observer."""
    observer = mock()
    agent = plain(server_url=URL, transport=FakeTransport.script(answer("42"), close()), observers=[observer])
    assert await ask(agent) == "42"
    assert [call.args[0].event for call in observer.note.call_args_list] == [*READ, "closed", "ended"]


async def test_fields() -> None:
    """Each notification has its fields; seconds count from the start by the event loop's clock."""
    notes = EventNotes()
    steps: list[Step] = [pause(1), b": hello\r\n\r\n", pause(1), tool_call("search"), pause(1), answer("42"), close()]
    transport = FakeTransport({"/sse/chat": Reply(steps, before=pause(2))})
    agent = plain(server_url=URL, name="finder", transport=transport, observers=(notes,))
    request = OxyRequest(arguments={"query": "hi"}, group_id="talk")
    response = await agent.execute(request)
    size = sum(len(step) for step in steps if isinstance(step, bytes))

    begun = notes.told[0]
    assert begun.fields["request"].callee == "finder"
    assert begun.fields["server_url"] == "https://remote.test/base"
    assert begun.context.group_id == "talk"
    assert notes.fields("streaming") == {"url": "https://remote.test/base/sse/chat", "seconds": 2}
    assert notes.fields("first_byte") == {"seconds": 3}
    assert notes.fields("first_event") == {"seconds": 4}
    assert notes.fields("tool_call")["event"].callee == "search"
    assert notes.fields("closed") == {
        "reason": "its end",
        "outcome": "completed",
        "seconds": 5,
        "bytes": size,
        "events": 2,
    }
    ended = notes.fields("ended")
    assert ended["end"] == "completed"
    assert ended["error"] is None
    assert ended["seconds"] == 5
    assert response.output == ended["response"].output
    assert begun.run.bytes == size
    assert begun.run.events == 2
    assert begun.run.buffered == 0
    assert "CANARY" not in repr([(notification, notification.fields) for notification in notes.told])


async def test_retries() -> None:
    """A retry is notified with the fields of its log record, in its own run."""
    notes = Notes()
    transport = FakeTransport({"/sse/chat": [Reply(before=REFUSED), Reply((answer("42"), close()))]})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(base=0), observers=[notes])
    assert await ask(agent) == "42"
    assert notes.names[:5] == ["begun", "connect", "retry", "connect", "opened"]
    assert notes.fields("retry") == {"attempt": 2, "seconds": 0, "reason": "ConnectError"}
    assert [notification.context.attempt for notification in notes.told[:5]] == [1, 1, 1, 2, 2]
    assert len({notification.run for notification in notes.told}) == 1


LOST: Final = Reply(before=errors.ConnectionLostError("lost", outcome=errors.Outcome.UNKNOWN))
ODD: Final = Reply((b'data: {"type": "tool_call", "content": 1}\r\n\r\n', answer("42"), close()))


@pytest.mark.parametrize(
    ("expected", "replies"),
    [
        (("connect", "opened", "first_event", "warning", "closed"), [ODD]),
        (("connect", "refused", "closed"), [Reply((b"no",), status=403)]),
        (
            (
                *("connect", "debug", "record", "retry", "connect", "retry"),  # it has no record
                *("connect", "opened", "first_event", "warning", "closed"),
            ),
            [LOST, Reply(before=REFUSED), ODD],
        ),
    ],
    ids=["warning", "refused", "retries"],
)
async def test_log_records_and_notifications(
    expected: tuple[str, ...], replies: list[Reply], caplog: pytest.LogCaptureFixture
) -> None:
    """The log records of a run and the notifications have the same order, names and fields."""
    notes = EventNotes()
    transport = FakeTransport({"/sse/chat": replies})
    agent = SSEOxyGent(server_url=URL, transport=transport, retry=Retry(base=0), observers=[notes])
    with caplog.at_level(logging.DEBUG, "oxygent_client"), suppress(errors.OxyError):
        await agent.ask("hi", idempotent=True, trace_id="t")
    logged: list[Any] = [record for record in caplog.records if getattr(record, "trace_id", "") == "t"]
    told = [notification for notification in notes.told if notification.event not in UNLOGGED]
    assert [*expected] == [record.event for record in logged] == [notification.event for notification in told]
    for record, notification in zip(logged, told, strict=True):
        assert dict(notification.fields) == {name: getattr(record, name) for name in notification.fields}


async def leave(run: Run) -> None:
    """Leave at the first event."""
    async with run:
        await anext(run)


async def leave_before(run: Run) -> None:
    """Leave without an event."""
    async with run:
        pass


async def stumble(run: Run) -> None:
    """Leave by an exception of the user's own."""
    async with run:
        await anext(run)
        raise KeyError("mine")


async def cancel_read(run: Run) -> None:
    """Be cancelled while reading."""
    with anyio.move_on_after(5):
        await run_to_end(run)


async def cancel_in_block(run: Run) -> None:
    """Be cancelled in the block."""
    with anyio.move_on_after(5):
        async with run:
            await anyio.sleep(100)


async def run_to_end(run: Run) -> None:
    """Read the run to its end."""
    async with run:
        async for _ in run:
            pass


@pytest.mark.parametrize(
    ("end", "error", "how"),
    [
        ("left", None, leave),
        ("left", None, leave_before),
        ("left", KeyError, stumble),
        ("left", BaseException, cancel_read),
        ("left", BaseException, cancel_in_block),
        ("failed", errors.IdleTimeoutError, run_to_end),
    ],
    ids=lambda value: getattr(value, "__name__", str(value)),
)
async def test_ends(end: str, error: type[BaseException] | None, how: Callable[[Run], Any]) -> None:
    """Each run that began ends once, in any way."""
    notes = Notes()
    transport = FakeTransport.script(answer("42"), pause(10), close())
    agent = plain(server_url=URL, transport=transport, timeouts=Timeouts(idle=8), observers=[notes])
    with suppress(KeyError, errors.OxyError):
        await how(agent.stream("hi"))
    fields = notes.fields("ended")
    assert notes.names[-1] == "ended"
    assert fields["end"] == end
    assert (fields["error"] is None) if error is None else isinstance(fields["error"], error)


async def test_a_detected_failure() -> None:
    """A failure found by the failure detector is the end of the run."""
    notes = Notes()
    agent = plain(
        server_url=URL,
        transport=FakeTransport.script(answer("no"), close()),
        failure_detector="no".__eq__,
        observers=[notes],
    )
    assert await ask(agent) == "RemoteAgentError"
    assert notes.fields("ended")["end"] == "failed"
    assert type(notes.fields("ended")["error"]).__name__ == "RemoteAgentError"


async def test_a_run_that_is_not_entered() -> None:
    """A run that is not entered is not notified."""
    notes = Notes()
    plain(server_url=URL, transport=FakeTransport({}), observers=[notes]).stream("hi")
    assert notes.told == []


async def test_a_request_that_may_have_run() -> None:
    """A run that is refused because the request may have run before is not notified."""
    notes = Notes()
    agent = plain(server_url=URL, transport=FakeTransport.script(CUT), observers=[notes])
    request = agent.prepared(OxyRequest(arguments={"query": "hi"}))
    for _ in range(2):
        with pytest.raises(errors.IncompleteStreamError):
            await agent._execute(request)
    assert 1 == notes.names.count("begun") == notes.names.count("ended")


async def test_observers_set_later() -> None:
    """The observers are those of the agent when the run is made."""
    notes = Notes()
    agent = plain(server_url=URL, transport=FakeTransport.script(answer("42"), close()))
    agent.observers = [notes]
    await ask(agent)
    assert notes.names[-1] == "ended"


async def test_the_number_of_events() -> None:
    """Events that were received and not handed out yet are not counted."""
    run = plain(
        server_url=URL, transport=FakeTransport.script(delta("a") + delta("b") + answer("42") + close())
    ).stream("hi")
    async with run:
        assert [run._config.observed.events async for _ in run] == [1, 2, 3]


# ------------------------------------------------------------------------------------------------------- Buffered bytes


async def test_buffered_bytes() -> None:
    """The buffered bytes are the last chunk while its events are read, and the part of an incomplete event."""
    whole, half = delta("a") + delta("b"), delta("c")
    run = plain(
        server_url=URL,
        transport=FakeTransport.script(whole + half[:-10], half[-10:] + answer("42"), close()),
    ).stream("hi")
    observed = run._config.observed
    async with run:
        held = [observed.buffered async for _ in run]
        assert observed.buffered == 0
    first = len(whole) + len(half) - 10
    line = half.split(b"\r\n")[1][:-6]  # of the ten bytes that are missing, four are line ends
    second = len(line) + 10 + len(answer("42"))
    assert [first, first, second, second] == held


# ------------------------------------------------------------------------------------------------------------- Headers


@pytest.mark.parametrize(
    ("expected", "headers"),
    [
        ({"traceparent": "00-1"}, {"Traceparent": "00-1"}),
        ({"x-own": "theirs"}, {"X-Own": "theirs"}),
        ({"x-own": "mine", "traceparent": None}, {"traceparent": "a\nb"}),
        ({"x-own": "mine"}, {}),
    ],
    ids=["new", "over", "impossible", "none"],
)
async def test_headers(expected: dict[str, str | None], headers: dict[str, str]) -> None:
    """The headers of an observer are added to the request if they are valid."""
    transport = FakeTransport.script(answer("42"), close())
    agent = plain(server_url=URL, transport=transport, headers={"X-Own": "mine"}, observers=[Marker(headers)])
    assert await ask(agent) == "42"
    assert {name: transport.requests[0].headers.get(name) for name in expected} == expected


# ---------------------------------------------------------------------------------------------------- Failing observers


async def test_a_failing_observer(caplog: pytest.LogCaptureFixture) -> None:
    """A failing observer is logged once for each run, without its text; the run and other observers go on."""
    before, after = EventNotes(), EventNotes()
    agent = plain(
        server_url=URL,
        transport=FakeTransport.script(tool_call("search"), observation("search", 1), answer("42"), close()),
        observers=[before, Broken(), after],
    )
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        assert [await ask(agent), await ask(agent)] == ["42", "42"]
    assert before.names == after.names
    said = [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]
    assert ["Broken raised RuntimeError" in text for text in said] == [True, True]
    assert all(hasattr(record, name) for record in caplog.records for name in ("event", "trace_id", "node_id"))
    assert "SECRET" not in caplog.text


async def test_an_interrupt_in_an_observer() -> None:
    """An exception that is no `Exception` is raised."""

    class Interrupted:
        def note(self, notification: Notification, /) -> None:
            raise KeyboardInterrupt

    observed = RunObservation(observers=(Interrupted(),))
    with pytest.raises(KeyboardInterrupt):
        observed.note("begun", HTTPRequest("GET", URL, "").context, {})


def test_a_request_is_itself() -> None:
    """A request is the same for a run with observers."""
    request = HTTPRequest("GET", URL, "")
    marked = RunObservation(observers=(Notes(),)).add_headers(request)
    assert request == marked
    assert repr(request) == repr(marked)
    assert hash(request.context) == hash(marked.context)
    assert "Notes" not in repr(marked.context)
    assert partial(attrs.evolve, marked)().context.observed is marked.context.observed
