"""The relay: runs by POST, viewers by GET, and the bookkeeping of their events.

Rule: time is virtual; the remote is a toy in the same process, and so are the browsers.
"""

from __future__ import annotations

import json
import math
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import BearerAuth, Run, SSEOxyGent
from oxygent_client.errors import ConfigurationError, ConnectError
from oxygent_client.sanitize import redact
from oxygent_client.serve import Audience, Runs, RunTable, ServeLimits, Service, Viewer
from oxygent_client.serve._core.piece_log import PIECE
from oxygent_client.serve._relay.documents import RETRY, Question, frame, json_bytes
from oxygent_client.serve._relay.event_log import FRAME, EventLog
from oxygent_client.serve._relay.relay_run import RelayRun
from oxygent_client.serve.relay import RelayLimits, create_app
from oxygent_client.testing import FakeTransport, Reply, ToyRemote, answer, close, message, pause
from oxygent_client.testing.script import Cut, Fail, Pause, Say, Script
from oxygent_client.transports.asgi import ASGITransport
from tests.support.asgi_client import Call, request
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator

REMOTE: Final = "https://remote.test"
SCRIPTS: Final = {
    **ToyRemote().scripts,
    "slow": Script([Pause(100)], output="late"),
    "steps": Script([step for number in range(5) for step in (Pause(1), Say({"step": number}))], output="done"),
    "burst": Script([Pause(1), *(Say({"step": number}) for number in range(200))], output="done"),
    "large": Script([Pause(1), *(Say("x" * 40_000) for _ in range(50))], output="done"),
    "cut": Script([Pause(1), Cut()]),
    "ask": Script([Pause(1), Say({"type": "feedback", "content": "May I?"}), Pause(1)], output="asked"),
    "fail": Script([Pause(1), Fail()]),
    "quiet": Script([Pause(40)], output="x"),
    "json": Script([Say({"value": math.nan})], output={"a": [math.inf, 1]}),
}


@attrs.define(eq=False)
class Browser:
    """An `EventSource`: the events that it got, and the id that it resumes after."""

    call: Call

    @property
    def events(self) -> list[tuple[str, str, Any]]:
        """Return the id, the name and the data of each event."""
        found: list[tuple[str, str, Any]] = []
        for block in self.call.text.split("\n\n"):
            fields = dict(line.split(": ", 1) for line in block.splitlines() if not line.startswith(":"))
            if "data" in fields:
                found.append((fields.get("id", ""), fields.get("event", "message"), json.loads(fields["data"])))
        return found

    @property
    def numbers(self) -> list[int]:
        """Return the ids."""
        return [int(number) for number, _, _ in self.events if number]

    def named(self, name: str) -> list[Any]:
        """Return the data of the events with this name."""
        return [data for _, each, data in self.events if each == name]

    @property
    def end(self) -> Any:
        """Return the data of the last event, which is the end."""
        number, name, data = self.events[-1]
        assert name == "end"
        assert number
        return data


@attrs.define(eq=False)
class Site:
    """A service that is running, and the toy that it serves."""

    service: Service
    toy: ToyRemote

    async def start(self, query: str, **members: Any) -> str:
        """Start a run, and return its id."""
        reply = await self.post({"query": query, **members})
        assert reply.status == 201
        return str(reply.document["id"])

    @property
    def states(self) -> list[str]:
        """Return the states of the toy's runs."""
        return [run.state for run in self.toy.runs]

    async def post(self, document: Any, **headers: str) -> Call:
        """Send a request for a run."""
        return await request(self.service, "POST", "/relay", document, **headers)

    def browser(self, run: str, seen: str = "", **headers: str) -> Browser:
        """Return a viewer, which connects when its call is awaited."""
        last = {"last-event-id": seen} if seen else {}
        return Browser(Call(self.service, "GET", f"/relay/{run}", given={**last, **headers}))

    async def view(self, run: str, seen: str = "") -> Browser:
        """View a run up to its end."""
        browser = self.browser(run, seen)
        await browser.call()
        return browser


@asynccontextmanager
async def site(agent: dict[str, Any] | None = None, **options: Any) -> AsyncGenerator[Site]:
    """Yield a running service of a toy."""
    toy = ToyRemote(scripts=SCRIPTS)
    limits = {name: options.pop(name) for name in [*options] if name in attrs.fields_dict(RelayLimits)}
    served = SSEOxyGent(server_url=REMOTE, transport=ASGITransport(toy), **(agent or {}))
    service = create_app(served, relay=RelayLimits(**limits), **options)
    async with service.running():
        yield Site(service, toy)


# ------------------------------------------------------------------------------------------------------------ Viewing


async def test_a_run() -> None:
    """A run is started by a POST; its viewer gets the remote's messages with numbers, then the end with the outcome."""
    async with site() as here:
        reply = await here.post({"query": "echo hello"})
        browser = await here.view(reply.document["id"])
        (run,) = here.toy.runs
        assert reply.status == 201
        assert reply.headers["location"] == f"relay/{reply.document['id']}"
        assert reply.document["trace_id"] == run.trace_id
        assert browser.call.headers["content-type"] == "text/event-stream; charset=utf-8"
        assert browser.call.text.startswith(RETRY.decode())
        assert browser.numbers == list(range(1, len(browser.events) + 1))
        assert [data["type"] for data in browser.named("message")] == ["tool_call", "observation", "answer"]
        assert browser.end == {
            "state": "completed",
            "outcome": "completed",
            "trace_id": run.trace_id,
            "output": "hello",
        }
        assert browser.call.is_complete


async def test_several_viewers() -> None:
    """All viewers of a run get the same events, also one that comes later; the agent runs once."""
    async with site() as here:
        run = await here.start("steps")
        early, late = here.browser(run), here.browser(run)
        async with anyio.create_task_group() as group:
            group.start_soon(early.call)
            await early.call.wait_for('"step": 2')
            assert not early.call.is_complete
            group.start_soon(late.call)
        assert late.events == early.events
        assert early.end["output"] == "done"
        assert len(here.toy.runs) == 1


async def test_resuming() -> None:
    """A viewer that names the last event it has seen gets exactly what follows."""
    async with site() as here:
        run = await here.start("steps")
        whole = await here.view(run)
        rest = await here.view(run, seen="3")
        assert rest.events == whole.events[3:]


async def test_after_the_end() -> None:
    """A browser that has seen the end and connects again gets status 204, after which it stops."""
    async with site() as here:
        run = await here.start("echo x")
        whole = await here.view(run)
        again = await here.view(run, seen=str(whole.numbers[-1]))
        assert again.call.status == 204
        assert again.call.text == ""


async def test_a_gap() -> None:
    """A viewer that comes when older events are no longer kept is told how many it has missed."""
    async with site(buffer_events=3) as here:
        run = await here.start("steps")
        await anyio.sleep(20)
        browser = await here.view(run)
        last = browser.numbers[-1]
        assert browser.events[0] == ("", "gap", {"missed": last - 3})
        assert browser.numbers == [last - 2, last - 1, last]


async def test_heartbeats() -> None:
    """A viewer gets comments while the run is quiet."""
    async with site() as here:
        browser = await here.view(await here.start("quiet"))
        assert browser.call.text.count(": heartbeat\n\n") == 2


async def test_numbers_that_are_no_json() -> None:
    """A browser can read each event: NaN and infinite numbers are null."""
    async with site() as here:
        browser = await here.view(await here.start("json"))
        assert {"value": None} in browser.named("message")
        assert browser.end["output"] == {"a": [None, 1]}


# ------------------------------------------------------------------------------------------------------- Slow viewers


async def test_a_burst() -> None:
    """A viewer that reads gets all events of a burst, although few are kept at a time."""
    async with site(buffer_events=2) as here:
        browser = await here.view(await here.start("burst"))
        assert browser.named("message")[1:-2] == [{"step": number} for number in range(200)]
        assert browser.named("dropped") == []


class _Stalled(Call):
    """A client that takes the first bytes of a stream, and then none until `reads` is set."""

    reads: anyio.Event

    async def _send(self, message: Any) -> None:
        await super()._send(message)
        if len(self.pieces) > 1:
            await self.reads.wait()


def stalled(here: Site, run: str) -> Browser:
    """Return a viewer that reads nothing."""
    browser = here.browser(run)
    call = _Stalled(here.service, "GET", browser.call.path)
    call.reads = anyio.Event()
    return Browser(call)


async def test_a_slow_viewer() -> None:
    """A viewer that reads too slowly is dropped with a reason; run and other viewers go on; it can resume."""
    async with site(buffer_events=3, send_seconds=1000) as here:
        run = await here.start("steps")
        slow, quick = stalled(here, run), here.browser(run)
        assert isinstance(slow.call, _Stalled)
        began = anyio.current_time()
        async with anyio.create_task_group() as group:
            group.start_soon(slow.call)
            await quick.call()
            slow.call.reads.set()
        assert quick.end["output"] == "done"
        assert anyio.current_time() - began == pytest.approx(5, abs=1)
        assert slow.events[-1][:2] == ("", "dropped")
        assert slow.named("dropped")[0]["code"] == "slow_viewer"
        assert slow.call.is_complete
        last = quick.numbers[-1]
        again = await here.view(run, seen=str(slow.numbers[-1]))
        assert again.named("gap") == [{"missed": last - 3 - slow.numbers[-1]}]
        assert again.numbers == [last - 2, last - 1, last]


async def test_a_viewer_that_does_not_read(caplog: pytest.LogCaptureFixture) -> None:
    """A viewer that reads nothing for 30 s is cut off, and the log has the reason."""
    async with site() as here:
        browser = stalled(here, await here.start("steps"))
        began = anyio.current_time()
        await browser.call()
        assert anyio.current_time() - began == pytest.approx(30, abs=2)
        assert not browser.call.is_complete
        assert "did not read" in caplog.text


async def test_large_events() -> None:
    """Events that are large together are sent in several pieces, each with whole events."""
    async with site(buffer_bytes=10_000_000) as here:
        run = await here.start("large")
        await anyio.sleep(20)
        browser = await here.view(run)
        assert len(browser.named("message")) >= 50
        assert max(len(piece) for piece in browser.call.pieces) < PIECE + 41_000
        assert len(browser.call.pieces) > 20


async def test_too_many_viewers() -> None:
    """A viewer beyond the limit is refused; when another has left, it is not."""
    async with site(viewers=1) as here:
        run = await here.start("slow")
        first = here.browser(run)
        async with anyio.create_task_group() as group:
            group.start_soon(first.call)
            await first.call.wait_for("retry")
            refused = await here.view(run)
            assert refused.call.status == 429
            assert refused.call.document["error"]["code"] == "too_many_viewers"
            first.call.left.set()
        assert (await here.view(run)).end["output"] == "late"


# ------------------------------------------------------------------------------------------------------------- Leaving


async def test_one_of_several_leaves() -> None:
    """A run goes on while one viewer is left."""
    async with site(grace_seconds=5) as here:
        run = await here.start("slow")
        first, second = here.browser(run), here.browser(run)
        async with anyio.create_task_group() as group:
            group.start_soon(first.call)
            group.start_soon(second.call)
            await anyio.sleep(1)
            first.call.left.set()
        assert second.end["output"] == "late"


async def test_the_last_leaves() -> None:
    """A run without viewers is stopped after the grace period; one that comes back in time keeps it."""
    async with site(grace_seconds=5) as here:
        run = await here.start("slow")
        for _ in range(2):
            await anyio.sleep(4)
            browser = here.browser(run)
            async with anyio.create_task_group() as group:
                group.start_soon(browser.call)
                await anyio.sleep(10)
                browser.call.left.set()
        assert here.states == ["started"]
        await anyio.sleep(6)
        assert here.states == ["cancelled"]
        end = (await here.view(run)).end
        assert end == {
            "state": "cancelled",
            "code": "no_viewers",
            "outcome": "started",
            "trace_id": here.toy.runs[0].trace_id,
        }
        assert here.service.runs.running == 0


async def test_a_run_without_any_viewer() -> None:
    """A run that nobody views is stopped after the grace period."""
    async with site() as here:
        await here.start("slow")
        await anyio.sleep(29)
        assert here.states == ["started"]
        await anyio.sleep(2)
        assert here.states == ["cancelled"]


async def test_stopping_a_run() -> None:
    """DELETE stops the run at the remote, and its viewers get the end; repeated, it changes nothing."""
    async with site() as here:
        run = await here.start("slow")
        browser = here.browser(run)
        async with anyio.create_task_group() as group:
            group.start_soon(browser.call)
            await anyio.sleep(1)
            reply = await request(here.service, "DELETE", f"/relay/{run}")
            assert reply.status == 204
            assert here.states == ["cancelled"]
        assert browser.end["state"] == "cancelled"
        assert browser.end["code"] == "stopped"
        assert (await request(here.service, "DELETE", f"/relay/{run}")).status == 204


async def test_leaving_before_the_run_is_accepted() -> None:
    """If the client leaves before it has the id of the run, the run is stopped."""
    remote = FakeTransport({"/sse/chat": Reply([answer("x"), close()], before=Pause(50))})
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=remote))
    call = Call(service, "POST", "/relay", b'{"query": "x"}')
    async with service.running():
        async with anyio.create_task_group() as group:
            group.start_soon(call)
            await anyio.sleep(1)
            assert service.runs.running == 1
            call.left.set()
        await anyio.sleep(1)
        assert service.runs.running == 0
    assert call.status == 0


# ----------------------------------------------------------------------------------------------- Agents that ask

ANSWERS: Final[list[Any]] = [
    # the body, what the agent gets
    pytest.param({"answer": "yes"}, ["yes", ""], id="text"),
    pytest.param({"answer": {"ok": True}}, [{"ok": True}, ""], id="json"),
    pytest.param({"answer": ""}, [""], id="empty"),
    pytest.param({}, [""], id="none"),
]


@pytest.mark.parametrize(("document", "feedback"), ANSWERS)
async def test_an_answer(document: Any, feedback: list[Any]) -> None:
    """A viewer answers an agent that asks, also where a token is set: the id is enough. The run goes on with it."""
    token = "Bearer t0ken"
    async with site(token="t0ken") as here:
        run = (await here.post({"query": "ask"}, authorization=token)).document["id"]
        browser = here.browser(run)
        async with anyio.create_task_group() as group:
            group.start_soon(browser.call)
            await browser.call.wait_for('"feedback"')
            reply = await request(here.service, "POST", f"/relay/{run}/feedback", document)
            assert (reply.status, reply.text) == (204, "")
        assert browser.end["output"] == "asked"
        assert here.toy.runs[0].feedback == feedback


async def test_who_answers_first() -> None:
    """A question takes one answer; a second one, and one to an agent that does not ask, are errors."""
    async with site() as here:
        run = await here.start("ask")
        path, given = f"/relay/{run}/feedback", {"answer": "yes"}
        early = await request(here.service, "POST", path, given)
        await anyio.sleep(1.5)
        replies = [await request(here.service, "POST", path, given) for _ in range(2)]
        await here.view(run)
        late = await request(here.service, "POST", path, given)
        assert [each.status for each in (early, *replies, late)] == [409, 204, 409, 409]
        assert late.document["error"]["code"] == "no_question"
        assert here.toy.runs[0].feedback == ["yes", ""]


async def test_a_question_that_nobody_waits_for() -> None:
    """An agent that says it asks, and does not wait, gets no answer, and the viewer is told so."""
    steps = (message({"type": "feedback", "content": "May I?"}), pause(60), answer("late"), close())
    remote = FakeTransport({"/sse/chat": Reply(steps), "/feedback": NO_CHANNEL})
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=remote))
    async with service.running():
        run = (await request(service, "POST", "/relay", {"query": "x"})).document["id"]
        await anyio.sleep(1)
        reply = await request(service, "POST", f"/relay/{run}/feedback", {"answer": "yes"})
    assert (reply.status, reply.document["error"]["code"]) == (409, "no_question")


NO_CHANNEL: Final = Reply.json({"code": 500, "data": None, "message": "no such channel"})
FIRST_ANSWERS: Final[list[Any]] = [
    # the responses to the first answer, its status, that of the second one
    pytest.param([NO_CHANNEL] * 21, 409, 204, id="the-agent-does-not-wait-yet"),
    pytest.param([Reply.json({}, status=403)], 502, 204, id="refused"),
    pytest.param([Reply.json({}, status=502)], 424, 409, id="perhaps-delivered"),
]


@pytest.mark.parametrize(("replies", "first", "second"), FIRST_ANSWERS)
async def test_an_answer_that_did_not_arrive(replies: list[Reply], first: int, second: int) -> None:
    """A question whose answer surely did not reach the agent can be answered again."""
    steps = (message({"type": "feedback", "content": "May I?"}), pause(60), answer("late"), close())
    accepted = [Reply.json({"code": 200, "data": {}, "message": ""})] * 2
    remote = FakeTransport({"/sse/chat": Reply(steps), "/feedback": [*replies, *accepted]})
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=remote))
    async with service.running():
        run = (await request(service, "POST", "/relay", {"query": "x"})).document["id"]
        await anyio.sleep(1)
        sent = [await request(service, "POST", f"/relay/{run}/feedback", {"answer": "yes"}) for _ in range(2)]
    assert [each.status for each in sent] == [first, second]


REFUSED: Final[list[Any]] = [
    # the path below that of the run, the body, the status, the code
    pytest.param("feedback", {"data": "x"}, 400, "unsupported_value", id="member"),
    pytest.param("feedback", b"[]", 400, "invalid_json", id="no-object"),
    pytest.param("other", {}, 404, "not_found", id="path"),
    pytest.param("x/feedback", {}, 404, "not_found", id="longer-path"),
]


@pytest.mark.parametrize(("path", "document", "status", "code"), REFUSED)
async def test_refused_answers(path: str, document: Any, status: int, code: str) -> None:
    """An invalid answer is refused."""
    async with site() as here:
        reply = await request(here.service, "POST", f"/relay/{await here.start('ask')}/{path}", document)
        assert (reply.status, reply.document["error"]["code"]) == (status, code)


async def test_an_answer_to_an_unknown_run() -> None:
    """The id of the run is the permission to answer."""
    async with site() as here:
        reply = await request(here.service, "POST", "/relay/nope/feedback", {"answer": "yes"})
        assert (reply.status, reply.document["error"]["code"]) == (404, "run_not_found")


# ---------------------------------------------------------------------------------------------------------------- Ends

ENDS: Final[list[Any]] = [
    # the query, the state, the code, the outcome
    pytest.param("fail", "failed", "agent_failed", "completed", id="failed"),
    pytest.param("cut", "cut", "cut", "started", id="cut"),
    pytest.param("quiet", "cut", "timeout", "started", id="time-out"),
]


@pytest.mark.parametrize(("query", "state", "code", "outcome"), ENDS)
async def test_failed_runs(query: str, state: str, code: str, outcome: str) -> None:
    """The end of a run that failed or was cut has state, code, outcome and trace id; the agent ran once."""
    async with site(limits=ServeLimits(run_seconds=20)) as here:
        end = (await here.view(await here.start(query))).end
        assert isinstance(end.pop("message"), str)
        assert end == {
            "state": state,
            "code": code,
            "outcome": outcome,
            "retryable": False,
            "trace_id": here.toy.runs[0].trace_id,
        }
        assert len(here.toy.runs) == 1


class _BrokenRuns(Runs):
    """Runs with a fault."""

    def outbound(self, run: Run) -> Any:
        """Raise an error whose text is not for clients."""
        raise ValueError("a secret of the program")


async def test_an_unexpected_error(caplog: pytest.LogCaptureFixture) -> None:
    """An unexpected error ends the run without its text, which is logged."""
    remote = FakeTransport({"/sse/chat": Reply([answer("x"), close()])})
    log = EventLog(10, 1000)
    runs = _BrokenRuns(SSEOxyGent(server_url=REMOTE, transport=remote), ServeLimits())
    run = RelayRun("1", runs, Audience(log, 30))
    await run.execute(Question("x"), {})
    (end,) = log.after(0)
    assert b"internal_error" in end
    assert b"a secret" not in end
    assert "a secret" in caplog.text


async def test_a_service_that_stops() -> None:
    """A service that stops ends its runs, and their viewers get the end."""
    async with site() as here:
        browser = here.browser(await here.start("slow"))
        async with anyio.create_task_group() as group:
            group.start_soon(browser.call)
            await anyio.sleep(1)
            await here.service.stop()
        assert browser.end["code"] == "stopping"
        assert here.states == ["cancelled"]


async def test_a_service_that_is_left() -> None:
    """Runs end with the block of the service, also if nothing has stopped it."""
    viewers: list[Browser] = []
    async with anyio.create_task_group() as group, site() as here:
        viewers.append(here.browser(await here.start("slow")))
        group.start_soon(viewers[0].call)
        await anyio.sleep(1)
    assert viewers[0].end["code"] == "stopping"
    assert viewers[0].end["state"] == "cut"


async def test_a_service_that_is_not_running(caplog: pytest.LogCaptureFixture) -> None:
    """A run needs a service that is running; the log says what is missing."""
    service = create_app(SSEOxyGent(server_url=REMOTE))
    assert (await request(service, "POST", "/relay", {"query": "x"})).status == 500
    assert "running()" in caplog.text


# ------------------------------------------------------------------------------------------------------------ Requests

INVALID: Final[list[Any]] = [
    # the body, the member that the error names
    pytest.param({}, "query", id="no-query"),
    pytest.param({"query": ""}, "query", id="empty"),
    pytest.param({"query": 5}, "query", id="no-text"),
    pytest.param({"query": "x", "agent": None}, "agent", id="agent-no-text"),
    pytest.param({"query": "x", "context": "a\nb"}, "context", id="context-with-line-break"),
    pytest.param({"query": "x", "context": "x" * 201}, "context", id="long-context"),
    pytest.param({"query": "x", "shared_data": {}}, "shared_data", id="not-allowed"),
]


@pytest.mark.parametrize(("document", "param"), INVALID)
async def test_invalid_requests(document: Any, param: str) -> None:
    """An invalid member, or one that is not allowed, is refused by its name, and nothing runs."""
    async with site() as here:
        reply = await here.post(document)
        assert reply.status == 400
        assert reply.document["error"]["param"] == param
        assert here.toy.runs == []


@pytest.mark.parametrize("seen", ["x", "-1", "99", "²", "1" * 30])
async def test_invalid_ids_of_events(seen: str) -> None:
    """The id of an event that the run does not have is refused."""
    async with site() as here:
        browser = await here.view(await here.start("echo x"), seen=seen)
        assert browser.call.status == 400
        assert browser.call.document["error"]["param"] == "Last-Event-ID"


async def test_an_agent_and_a_context() -> None:
    """A request may select an agent, and continue an earlier run by its trace id."""
    async with site() as here:
        reply = await here.post({"query": "echo x"})
        await here.start("echo y", agent="flight_agent", context=reply.document["trace_id"])
        first, second = here.toy.runs
        assert second.payload["callee"] == "flight_agent"
        assert second.payload["from_trace_id"] == first.trace_id


async def test_a_run_that_the_remote_refuses() -> None:
    """A run that was not accepted is an error of the POST, with its status, and has no id."""
    remote = FakeTransport({"/sse/chat": Reply(before=ConnectError("refused"))})
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=remote))
    async with service.running():
        reply = await request(service, "POST", "/relay", {"query": "x"})
    assert reply.status == 503
    assert reply.document["error"]["code"] == "unreachable"
    assert reply.headers["x-should-retry"] == "true"


async def test_a_run_that_fails_at_once() -> None:
    """A run that was accepted and fails at once has an id, and its end says how it ended."""
    service = create_app(SSEOxyGent(server_url=REMOTE, transport=FakeTransport.script(close())))
    async with service.running():
        reply = await request(service, "POST", "/relay", {"query": "x"})
        browser = Browser(Call(service, "GET", f"/relay/{reply.document['id']}"))
        await browser.call()
    assert reply.status == 201
    assert browser.end["code"] == "no_answer"


@pytest.mark.parametrize("method", ["GET", "DELETE"])
async def test_unknown_runs(method: str) -> None:
    """An unknown run is a 404."""
    async with site() as here:
        reply = await request(here.service, method, "/relay/nope")
        assert reply.status == 404
        assert reply.document["error"]["code"] == "run_not_found"


async def test_finished_runs_are_forgotten() -> None:
    """A finished run can be viewed for some time."""
    async with site(finished_seconds=60) as here:
        run = await here.start("echo x")
        await anyio.sleep(59)
        assert (await here.view(run)).end["output"] == "x"
        await anyio.sleep(2)
        assert (await here.view(run)).call.status == 404


async def test_refused_runs_take_no_place_of_finished_ones() -> None:
    """A run that the relay or the remote refuses is not kept, so it drops no finished run."""
    async with site(finished_runs=1) as here:
        run = await here.start("echo x")
        await here.view(run)
        for _ in range(2):
            assert (await here.post({"query": "echo y", "agent": "nobody"})).status == 404
        assert (await here.view(run)).end["output"] == "x"


# -------------------------------------------------------------------------------------------------------------- Access


async def test_the_id_is_the_permission_to_view() -> None:
    """With a token, only its holder starts and stops runs; the id is enough to view one."""
    token = "Bearer t0ken"
    async with site(token="t0ken") as here:
        assert (await here.post({"query": "echo x"})).status == 401
        reply = await here.post({"query": "slow"}, authorization=token)
        run = reply.document["id"]
        assert len(run) >= 22
        assert (await request(here.service, "DELETE", f"/relay/{run}")).status == 401
        assert (await request(here.service, "DELETE", f"/relay/{run}", authorization=token)).status == 204
        assert (await here.view(run)).end["state"] == "cancelled"


async def test_origins() -> None:
    """Pages of listed origins may view; others may not."""
    async with site(cors=["https://app.test"]) as here:
        run = await here.start("echo x")
        browser = here.browser(run, origin="https://app.test")
        await browser.call()
        assert browser.call.headers["access-control-allow-origin"] == "https://app.test"
        refused = here.browser(run, origin="https://evil.test")
        await refused.call()
        assert refused.call.status == 403


async def test_redaction() -> None:
    """Messages pass the `sanitize` of the agent, and credentials that the remote returns are removed."""
    agent = {"auth": BearerAuth("s3cret-token"), "sanitize": redact("query")}
    async with site(agent) as here:
        browser = await here.view(await here.start("echo s3cret-token"))
        assert "s3cret-token" not in browser.call.text
        assert browser.end["output"] == "[scrubbed]"
        assert browser.named("message")[0]["content"]["arguments"]["query"] == "[scrubbed]"


async def test_headers() -> None:
    """Of the headers of a request, those in `forward_headers` are sent to the agent."""
    async with site({"forward_headers": ["x-tenant"]}) as here:
        await here.post({"query": "echo x"}, x_tenant="acme", cookie="c=1")
        assert here.toy.runs[0].headers["x-tenant"] == "acme"
        assert "cookie" not in here.toy.runs[0].headers


@pytest.mark.parametrize("name", [field.name for field in attrs.fields(RelayLimits)])
@pytest.mark.parametrize("value", [-1, math.nan, True, "5"])
def test_wrong_limits(name: str, value: Any) -> None:
    """A limit is a number of a certain size."""
    with pytest.raises(ConfigurationError, match=name):
        RelayLimits(**{name: value})


# --------------------------------------------------------------------------------------------------------- Bookkeeping


def test_a_frame() -> None:
    """An event has the lines of the standard; what is not data takes fewer bytes than the log reserves."""
    assert frame(b"{}") == b"data: {}\n\n"
    assert frame(b"{}", "end", 7) == b"id: 7\nevent: end\ndata: {}\n\n"
    assert len(frame(b"", "dropped", 10**18)) < FRAME


def test_a_lone_surrogate() -> None:
    """What is no Unicode is replaced."""
    assert json_bytes({"a": "\ud800ö"}) == '{"a": "?ö"}'.encode()


def test_the_newest_event_is_kept() -> None:
    """An event that is larger than the log is kept while it is the newest."""
    log = EventLog(10, 100)
    log.add(b"a")
    log.add(b"b" * 1000)
    assert log.after(0) == [frame(b"b" * 1000, number=2)]


def steps(viewer: Viewer) -> list[bytes]:
    """Return the events that a viewer takes now."""
    return [block + b"\n\n" for block in viewer.take().split(b"\n\n")[:-1]]


ACTIONS: Final = st.lists(
    st.one_of(
        st.tuples(st.just("add"), st.integers(0, 60)),
        st.tuples(st.just("join"), st.integers(0, 40)),
        st.tuples(st.just("take"), st.integers(0, 5)),
        st.tuples(st.just("leave"), st.integers(0, 5)),
        st.tuples(st.just("again"), st.integers(0, 5)),
    ),
    max_size=60,
)


@given(actions=ACTIONS, events=st.integers(1, 6), size=st.integers(1, 400), is_polite=st.booleans())
def test_each_viewer_sees_all_or_is_told(
    actions: list[tuple[str, int]], events: int, size: int, *, is_polite: bool
) -> None:
    """A viewer gets the events after the one that it names, without a hole, up to the end, unless it is told of one.

    What it is told is right: the missing number of a gap, and that it was dropped. A viewer that gets its turn where
    the log demands it is never dropped.
    """
    log, watched = EventLog(events, size), list[tuple[Viewer, int, list[bytes]]]()

    def take(viewer: Viewer, got: list[bytes]) -> None:
        while not viewer.is_over and (piece := steps(viewer)):
            got.extend(piece)

    for action, value in [*actions, ("end", 0)]:
        data = b"x" * value
        if action in ("add", "end"):
            if is_polite and log.must_pause(data):
                for viewer, _, got in watched:
                    take(viewer, got)
                assert not log.must_pause(data)
            (log.add if action == "add" else log.end)(data)
        elif action == "join":
            seen = min(value, log.last)
            watched.append((log.join(seen), seen, []))
        elif watched:
            viewer, _, got = watched[value % len(watched)]
            if action == "take":
                take(viewer, got)
            elif action == "leave":
                log.leave(viewer)
            elif got and (numbers := numbers_of(got)):
                watched.append((log.join(numbers[-1]), numbers[-1], []))
    for viewer, seen, got in watched:
        take(viewer, got)
        check_view(viewer, seen, got, log)
        assert not (is_polite and viewer in log.viewers and viewer.is_dropped)


def numbers_of(got: list[bytes]) -> list[int]:
    """Return the numbers of events."""
    return [int(each.partition(b"\n")[0][4:]) for each in got if each.startswith(b"id: ")]


def check_view(viewer: Viewer, seen: int, got: list[bytes], log: EventLog) -> None:
    """Check that what a viewer got has no hole that it is not told of."""
    missed = json.loads(got[0].partition(b"data: ")[2])["missed"] if got and b"event: gap" in got[0] else 0
    numbers = numbers_of(got)
    first = seen + missed + 1
    assert numbers == list(range(first, first + len(numbers)))
    assert b"event: gap" not in b"".join(got[1:])
    if viewer.is_dropped:
        assert got[-1].startswith(b"event: dropped")
        assert len(got) == len(numbers) + 1 + bool(missed)
    else:
        assert (numbers or [seen])[-1] == log.last
        assert len(got) == len(numbers) + bool(missed)
    assert viewer.is_over


KEPT: Final[list[Any]] = [
    # how many finished runs are kept, the time, the runs that are found
    pytest.param(2, 5.0, ["b", "c", "runs"], id="number"),
    pytest.param(9, 5.0, ["a", "b", "c", "runs"], id="all"),
    pytest.param(9, 10.5, ["b", "c", "runs"], id="time"),
    pytest.param(9, 100.0, ["runs"], id="none"),
    pytest.param(0, 5.0, ["runs"], id="zero"),
]


@pytest.mark.parametrize(("most", "now", "expected"), KEPT)
def test_finished_runs(most: int, now: float, expected: list[str]) -> None:
    """The last finished runs are kept, for a time; running ones always are."""
    table = RunTable[str](most, 10.0)
    for name in ("a", "b", "c", "runs"):
        table.add(name, name)
    for finished, name in enumerate("abc"):
        table.finish(name, finished)
    assert [name for name in ("a", "b", "c", "runs") if table.find(name, now) == name] == expected
