"""`SyncRun`: iteration, and each way to leave it."""

from __future__ import annotations

import gc
import threading
from typing import TYPE_CHECKING, Any, Final, assert_type

import pytest

from oxygent_client import AgentText, Answer, AnyEvent, Heartbeat, Outcome, Retry, Run, TextUpdate
from oxygent_client.errors import ClosedError, ConfigurationError, ConnectError, HandlerError, RemoteAgentError
from oxygent_client.sync import SyncRun, SyncSSEOxyGent, call
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, delta, message, progress
from oxygent_client.transports.asgi import ASGITransport

if TYPE_CHECKING:
    from collections.abc import Callable

    from tests.sync.conftest import ServedToy

URL: Final = "http://remote.test"


def scripted(*steps: Any) -> SyncSSEOxyGent:
    """Return an agent whose remote sends these steps."""
    return SyncSSEOxyGent(URL, transport=FakeTransport.script(*steps))


def test_the_events_of_a_run() -> None:
    """A plain `for` yields all events; afterwards the response is available."""
    run = scripted(progress(1), delta("4"), delta("2"), answer("42"), close()).stream("hi", trace_id="t")
    assert [event.type for event in run] == ["progress", "stream", "stream", "answer"]
    assert run.response.output == "42"
    assert run.text == "42"
    assert run.partial.text == "42"
    assert run.outcome is Outcome.COMPLETED
    assert run.trace_id == run.remote_trace_id == "t"
    assert run.sent.values() == set()
    assert run.trace().status == "completed"
    assert run.call_of(run.partial.events[0]) is None
    assert "completed" in run.report()
    assert repr(run) == "<SyncRun t completed>"


def test_the_text_of_the_answer() -> None:
    """The pieces of the answer are iterated over, as they are written; leaving that ends the run, too."""
    agent = SyncSSEOxyGent(URL, transport=ASGITransport(ToyRemote(pace=0)))
    run = agent.stream("trip")
    pieces = [assert_type(text, str) for text in run.text_stream]
    assert len(pieces) > 1
    assert "".join(pieces) == run.response.output == run.text
    assert [assert_type(each, AgentText).text for each in run.texts][-1] == run.text
    run = agent.stream("trip")
    for update in run.text_updates(hold="shape"):
        assert assert_type(update, TextUpdate).text == update.delta
        break
    with pytest.raises(ClosedError):
        _ = run.response
    with pytest.raises(ConfigurationError):
        next(agent.stream("trip").text_updates(hold="no"))  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  (wrong on purpose)


def test_heartbeats(toy: ServedToy) -> None:
    """With `keepalive`, a quiet remote is no quiet `for`; without it, the events are those of a plain `for`."""
    for event in SyncSSEOxyGent(toy.url).stream("hang").events(keepalive=0.01):
        if isinstance(event, Heartbeat):
            break
    assert toy.state_after_leaving() == "cancelled"
    events = scripted(answer("42"), close()).stream("hi").events()
    assert [assert_type(event, AnyEvent).content for event in events] == ["42"]


def test_a_run_that_ended_is_read_again() -> None:
    """Iterating again over a complete run gives no events, and the response is kept."""
    run = scripted(answer("42"), close()).stream("hi")
    assert len([*run]) == 1
    assert [*run] == []
    assert run.final_response().output == "42"


def test_single_events() -> None:
    """`next` leaves the run open; `final_response` reads the rest and ends it."""
    run = scripted(progress(1), progress(2), answer("42"), close()).stream("hi")
    assert next(run).content == 1
    assert next(run).content == 2
    assert run.final_response().output == "42"
    assert next(run, None) is None


def test_a_block() -> None:
    """A run is entered once, by its first use."""
    with scripted(answer("42"), close()).stream("hi") as run:
        assert isinstance(next(run), Answer)
        with pytest.raises(ClosedError), run:
            pass
        assert [*run] == []
    assert run.response.output == "42"


def test_a_block_that_is_not_read() -> None:
    """Leaving a block that was not read is allowed."""
    run = scripted(answer("42"), close()).stream("hi")
    run.close()  # no connection is open yet
    run.__exit__(None, None, None)
    with run:
        pass
    with pytest.raises(ClosedError):
        _ = run.response


def broken(run: SyncRun) -> None:
    """Leave the `for` by `break`."""
    for _ in run:
        break


def raised(run: SyncRun) -> None:
    """Leave the `for` by an exception."""
    with pytest.raises(ZeroDivisionError):
        for _ in run:
            _ = 1 / 0


def closed(run: SyncRun) -> None:
    """Close the generator."""
    events: Any = iter(run)
    next(events)
    events.close()


def thrown(run: SyncRun) -> None:
    """Raise an exception inside the generator."""
    events: Any = iter(run)
    next(events)
    with pytest.raises(ZeroDivisionError):
        events.throw(ZeroDivisionError())


def collected(run: SyncRun) -> None:
    """Drop the generator in a reference cycle, which is collected in the thread of the loop."""
    cycle: list[Any] = [iter(run)]
    next(cycle[0])
    cycle.append(cycle)
    del cycle

    async def collect() -> None:
        gc.collect()

    call(collect)


def left(run: SyncRun) -> None:
    """Leave the block."""
    with run:
        next(run)


def left_by_an_exception(run: SyncRun) -> None:
    """Leave the block by an exception, which is raised unchanged."""
    error = ValueError("mine")
    with pytest.raises(ValueError, match="mine") as caught, run:
        raise error
    assert caught.value is error


def called(run: SyncRun) -> None:
    """Call `close` in the middle of the run."""
    next(run)
    run.close()
    run.close()


LEAVING: Final = (broken, raised, closed, thrown, collected, left, left_by_an_exception, called)


@pytest.mark.parametrize("leave", LEAVING)
def test_leaving_cancels_the_remote(toy: ServedToy, leave: Callable[[SyncRun], None]) -> None:
    """The remote stops within a second after each way to leave, and the run never looks complete."""
    run = SyncSSEOxyGent(toy.url).stream("slow")
    leave(run)
    assert toy.state_after_leaving() == "cancelled"
    with pytest.raises(ClosedError):
        _ = run.response
    with pytest.raises(ClosedError):
        next(run)


def test_a_handler_that_uses_its_run(toy: ServedToy) -> None:
    """It may end the run, but not read it: it would wait for itself."""

    def read(content: Any) -> None:
        next(run)

    def end(content: Any) -> None:
        run.close()

    agent = SyncSSEOxyGent(toy.url, event_handlers={"tool_call": read})
    run = agent.stream("hang")
    with pytest.raises(HandlerError) as caught:
        next(run)
    assert isinstance(caught.value.__cause__, ConfigurationError)
    agent.event_handlers = {"tool_call": end}
    run = agent.stream("hang")
    with pytest.raises(ClosedError):
        next(run)
    assert toy.state_after_leaving() == "cancelled"


def test_a_dropped_run_cancels_the_remote(toy: ServedToy) -> None:
    """A dropped run cancels the remote run."""
    run = SyncSSEOxyGent(toy.url).stream("slow")
    next(run)
    del run
    assert toy.state_after_leaving() == "cancelled"


def test_a_run_that_is_closed_by_another_thread(toy: ServedToy) -> None:
    """If another thread closes the run its reader gets an error at once."""
    run = SyncSSEOxyGent(toy.url).stream("hang")
    assert next(run).type == "tool_call"
    closing = threading.Timer(0.05, run.close)
    closing.start()
    with pytest.raises(ClosedError):
        next(run)
    closing.join()
    assert toy.state_after_leaving() == "cancelled"


def test_a_run_that_fails() -> None:
    """The error of a run is raised in the `for`, and again by `response`."""
    run = scripted(message({"type": "error", "content": "no"}), close()).stream("hi")
    with pytest.raises(RemoteAgentError) as caught:
        list(run)
    with pytest.raises(RemoteAgentError) as again:
        _ = run.response
    assert again.value is caught.value


def test_a_run_that_cannot_begin() -> None:
    """If entering a run fails the error is raised there, and the run is closed."""
    transport = FakeTransport({"/sse/chat": Reply(before=ConnectError("no"))})
    run = SyncSSEOxyGent(URL, transport=transport, retry=Retry(attempts=1)).stream("hi")
    with pytest.raises(ConnectError):
        list(run)
    with pytest.raises(ClosedError):
        next(run)


def test_a_detached_run_goes_on(toy: ServedToy) -> None:
    """Leaving an attached run does not stop it, and another program can read on."""
    agent = SyncSSEOxyGent(toy.url)
    token = agent.start("echo again").to_token()
    for _ in agent.attach(token):
        break
    assert agent.attach(token).final_response().output == "again"


SAME: Final = {
    "abandon": "called when an event loop was closed, by the package itself",
}
"""Public names of the asynchronous class that the synchronous one lacks, with reasons."""


def test_the_names_of_a_run() -> None:
    """A synchronous run has each public name of an asynchronous one, with a docstring."""
    names = {name for name in dir(Run) if not name.startswith("_")} - SAME.keys()
    assert sorted(names - set(dir(SyncRun))) == []
    assert [name for name in sorted(names) if not getattr(SyncRun, name).__doc__] == []
