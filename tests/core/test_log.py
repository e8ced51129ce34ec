"""Log records: events, their order and fields; never a secret.

Rule: the table ZOO has one run of each kind, and the rules hold for each of its records.
"""

from __future__ import annotations

import contextlib
import json
import logging
import re
import subprocess
import sys
from typing import TYPE_CHECKING, Any, Final

import anyio
import attrs
import pytest

from oxygent_client import OxyRequest, RunHandle, SSEOxyGent, Timeouts, errors
from oxygent_client._core.log import LEVELS, describe_request, log_event
from oxygent_client.cluster import Cluster, Hedge
from oxygent_client.policies import BearerAuth, Retry, Token
from oxygent_client.testing import FakeTransport, Pause, Reply, answer, close, heartbeat, message, pause, progress
from oxygent_client.transports import Context
from tests.conftest import ROOT
from tests.run.test_recovery import DONE, NO_RECORDS, RUNNING
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

CANARY: Final = "hunter2-canary"
URL: Final = f"https://remote.test/base?key={CANARY}"
HANDLE: Final = RunHandle(server_url=URL, trace_id="mine", remote_trace_id="mine", node_id="n")
FOREVER: Final = Pause(float("inf"))
GOOD: Final = Reply((progress(1), answer(CANARY), close()))
STREAM: Final = "/sse/chat"


@attrs.frozen
class Case:
    """A run of the table."""

    events: str
    """The names of its log events."""
    replies: dict[str, Any]
    options: dict[str, Any] = attrs.field(factory=dict[str, Any])
    call: Callable[[SSEOxyGent], Awaitable[Any]] | None = None
    ids: tuple[str, ...] = ("mine", "n")
    """The trace id and the node id of the records; only the first, and empty, for a record of no run."""


def request() -> OxyRequest:
    """Return a request full of secrets."""
    return OxyRequest(
        arguments={"query": CANARY, "token": CANARY},
        current_trace_id="mine",
        node_id="n",
        shared_data={"_headers": {"authorization": CANARY}, "key": CANARY},
    )


async def ask(agent: SSEOxyGent) -> Any:
    """Read a run to its end."""
    return await agent.ask(request())


async def leave(agent: SSEOxyGent) -> None:
    """Leave a run."""
    async with agent.stream(request()) as run:
        await anext(run)


async def listen(agent: SSEOxyGent) -> Any:
    """Read a detached run."""
    async with agent.attach(HANDLE.to_token()) as run:
        return await run.final_response()


async def enter_broken(agent: SSEOxyGent) -> None:
    """Run with user code that fails in the beginning, after the program's."""

    async def broken(text: str) -> None:
        raise KeyError(text)

    await anyio.sleep(1000)
    agent.set_progress_callback(broken)
    await ask(agent)


async def twice(agent: SSEOxyGent) -> None:
    """Make two runs, the second with an old token."""
    await ask(agent)
    await anyio.sleep(90)
    await ask(agent)


def failing() -> BearerAuth:
    """Return a provider of one token that then fails."""
    tokens = iter([Token(CANARY, expires_in=100)])

    async def provider() -> Token:
        for token in tokens:
            return token
        raise errors.ConnectError(f"token={CANARY}")

    return BearerAuth(provider=provider)


def wrong(value: Any) -> None:
    """A validator that rejects each message."""
    raise ValueError(f"password={CANARY} is wrong in {value}")


LOST: Final = errors.ConnectionLostError("reset")
OPEN: Final = "connect opened"
WHOLE: Final = f"{OPEN} first_event closed"
ODD: Final = message({"type": "tool_call", "content": "text", "token": CANARY})
LONG: Final = message({"type": "x" * 100_000 + "\x1b[31m", "content": {"password": CANARY}})
ENVELOPE: Final = Reply.json({"code": 500, "message": f"token={CANARY}"})
REFUSED: Final = Reply((f"password={CANARY}".encode(),), status=403)
ZOO: Final[dict[str, Case]] = {
    "a whole run": Case(WHOLE, {STREAM: GOOD}),
    "left": Case(WHOLE, {STREAM: GOOD}, call=leave),
    "refused": Case("connect refused closed", {STREAM: REFUSED}),
    "no stream": Case(f"{OPEN} debug record closed", {STREAM: ENVELOPE}),
    "no connection": Case("connect closed", {STREAM: Reply(before=errors.ConnectError("refused"))}),
    "again, and then well": Case(
        f"connect refused retry connect retry {WHOLE}",
        {STREAM: [Reply(status=429), Reply(before=errors.ConnectError("refused")), GOOD]},
        {"retry": Retry(base=0)},
    ),
    "cut": Case(f"{OPEN} first_event record closed", {STREAM: Reply((progress(1),)), "/view": DONE}),
    "cut, without records": Case(
        f"{OPEN} first_event debug debug debug debug record closed",
        {STREAM: Reply((progress(1), LOST)), "/view": Reply((CANARY.encode(),), status=500)},
    ),
    "idle": Case(f"{OPEN} debug record closed", {STREAM: Reply((heartbeat(), pause(15)) * 50), "/view": NO_RECORDS}),
    "odd messages": Case(
        f"{OPEN} first_event warning warning warning warning closed",
        {STREAM: Reply((ODD, LONG, answer(1), close()))},
        {"schema": {None: wrong}},
    ),
    "strict": Case(
        f"{OPEN} first_event warning closed",
        {STREAM: Reply((LONG, answer(1), close()))},
        {"schema": {None: wrong}, "strict": True},
    ),
    "a remote that says nothing of itself": Case(
        f"warning warning {WHOLE}", {STREAM: GOOD, "/get_organization": Reply(status=500)}, {"callee": "someone"}
    ),
    "a remote that lists no agents": Case(
        f"debug debug warning {WHOLE}",
        {STREAM: GOOD, "/get_organization": Reply.json({"code": 200, "data": {"organization": {}}})},
        {"callee": "someone"},
    ),
    "a handler": Case("closed", {STREAM: GOOD}, call=enter_broken),
    "a token that is not renewed": Case(f"{WHOLE} warning {WHOLE}", {STREAM: GOOD}, {"auth": failing}, call=twice),
    "started": Case(
        OPEN, {"/async/chat": Reply.json({"code": 200, "data": {}})}, call=lambda agent: agent.start(request())
    ),
    "listened to": Case(WHOLE, {"/async/trace": GOOD}, call=listen),
    "listened to, and cut": Case(
        f"{OPEN} first_event reattach connect refused reattach {OPEN} closed",
        {"/async/trace": [Reply((progress(1), LOST)), Reply(status=503), Reply((answer(1), close()))]},
        call=listen,
    ),
    "listened to, and nothing comes": Case(
        f"{OPEN} record record record closed",
        {"/async/trace": Reply((FOREVER,)), "/view": [RUNNING, DONE, DONE]},
        call=listen,
    ),
    "two at a time": Case(
        f"connect hedge {OPEN.removeprefix('connect ')} first_event closed",
        {STREAM: [Reply(before=Pause(9)), GOOD]},
        {"hedge": Hedge(after=2)},
        call=lambda agent: agent.ask(request().clone_with(idempotent=True)),
    ),
    "looked up": Case("debug", {"/view": ENVELOPE}, call=lambda agent: agent.lookup("mine"), ids=("mine",)),
}
COMMON: Final = {"event", "trace_id", "node_id", "purpose", "server_url"}
USUAL: Final = {*vars(logging.makeLogRecord({})), "message", "asctime"}


async def written(name: str, caplog: pytest.LogCaptureFixture) -> list[logging.LogRecord]:
    """Return the log records of a run."""
    case = ZOO[name]
    given = {key: value() if key == "auth" else value for key, value in case.options.items()}
    options: dict[str, Any] = {"retry": Retry(attempts=1), "headers": {"x-api-key": CANARY}, **given}
    if "auth" in options:
        del options["headers"]
    fake = FakeTransport(case.replies)
    if "hedge" in options:
        there: dict[str, Any] = {
            "transport": Cluster([URL, URL.replace("remote", "second")], transport=fake, hedge=options.pop("hedge"))
        }
    else:
        there = {"server_url": URL, "transport": fake}
    agent = SSEOxyGent(**there, **options)
    with caplog.at_level(logging.DEBUG, "oxygent_client"), contextlib.suppress(errors.OxyError):
        await (case.call or ask)(agent)
    return [record for record in caplog.records if record.name.startswith("oxygent_client")]


@pytest.mark.parametrize("name", ZOO)
async def test_each_kind_of_run(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """Each kind of run logs its events in order, with the run's ids and level, and without a secret."""
    records = await written(name, caplog)
    assert ZOO[name].events.split() == [vars(record)["event"] for record in records]
    rows = documented()
    for record in records:
        fields = vars(record)
        assert rows[fields["event"]] == (record.levelname, {*fields} - USUAL - COMMON)
        assert record.getMessage().startswith(f"{fields['purpose']} {fields['trace_id']}".strip())
        assert fields["server_url"] in record.getMessage()
        assert (fields["trace_id"], fields["node_id"])[: len(ZOO[name].ids)] == ZOO[name].ids
        shown = [record.getMessage(), *(str(value) for key, value in fields.items() if key not in ("args", "msg"))]
        assert [text for text in shown if CANARY in text or "\x1b" in text] == []
        assert 1500 > len(record.getMessage())


async def test_each_event_occurs() -> None:
    """Each log event occurs in a run of the table."""
    assert {event for case in ZOO.values() for event in case.events.split()} == {*LEVELS}


FORGED: Final = "mine\nWARNING: forged\r\x1b[2J\u202e\x00"
"""An id, perhaps from a request header, that contains a line break."""


async def test_ids_with_line_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """The ids of a run are on one line of the log, and the request has them unchanged."""
    fake = FakeTransport({STREAM: GOOD})
    line = logging.Formatter("%(event)s %(trace_id)s %(node_id)s %(message)s")
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        await SSEOxyGent(server_url=URL, transport=fake).ask(
            request().clone_with(current_trace_id=FORGED, node_id=FORGED)
        )
    lines = [line.format(record) for record in caplog.records]
    assert len(lines) == len(WHOLE.split())
    assert [each for each in lines if not each.isprintable() or r"mine\x0aWARNING" not in each] == []
    assert json.loads(fake.requests[0].body)["current_trace_id"] == FORGED


def test_texts_with_line_breaks(caplog: pytest.LogCaptureFixture) -> None:
    """Fields, message values and error texts are on one line too; numbers stay numbers."""
    context = Context(trace_id=FORGED, node_id=FORGED, group_id=FORGED)
    with caplog.at_level(logging.DEBUG, "oxygent_client"):
        log_event("record", context, "%s %s %d", FORGED, ValueError(FORGED * 1000), 7, state=FORGED, seconds=1.5)
    record = caplog.records[0]
    fields = vars(record)
    assert record.getMessage().isprintable()
    assert len(record.getMessage()) < 2500
    assert [name for name in ("trace_id", "node_id", "state") if not fields[name].isprintable()] == []
    assert record.getMessage().endswith(" 7")
    assert fields["seconds"] == 1.5


ENDS: Final[dict[str, tuple[str, str, float]]] = {
    # name: the reason, the outcome, the least seconds
    "a whole run": ("its end", "completed", 0),
    "left": ("left", "started", 0),
    "refused": ("PermissionDeniedError", "rejected", 0),
    "no connection": ("ConnectError", "not_sent", 0),
    "no stream": ("EnvelopeError", "unknown", 0),
    "cut": ("its end", "completed", 0),
    "cut, without records": ("IncompleteStreamError", "started", 0),
    "idle": ("IdleTimeoutError", "unknown", 599.9),
    "strict": ("MalformedResponseError", "started", 0),
    "a handler": ("HandlerError", "not_sent", 0),
    "listened to, and cut": ("its end", "completed", 0),
}


@pytest.mark.parametrize("name", ENDS)
async def test_the_last_record(name: str, caplog: pytest.LogCaptureFixture) -> None:
    """The last record has the reason of the end, the outcome and the duration."""
    reason, outcome, least = ENDS[name]
    last = vars((await written(name, caplog))[-1])
    assert last["reason"] == reason
    assert last["outcome"] == outcome
    assert least <= last["seconds"] < least + 15


async def test_fields(caplog: pytest.LogCaptureFixture) -> None:
    """Records have the number of the attempt, and the server's status."""
    records = [vars(record) for record in await written("again, and then well", caplog)]
    assert [each["attempt"] for each in records if "attempt" in each] == [1, 2, 2, 3, 3]
    assert [each["status"] for each in records if "status" in each] == [429, 200]
    assert [each["reason"] for each in records if each["event"] == "retry"] == ["RateLimitedError", "ConnectError"]


async def test_cancellation(caplog: pytest.LogCaptureFixture) -> None:
    """A cancelled run has a last record."""
    agent = SSEOxyGent(server_url=URL, transport=FakeTransport.script(FOREVER), timeouts=Timeouts(total=None))
    with caplog.at_level(logging.DEBUG, "oxygent_client"), anyio.move_on_after(1):
        await agent.ask(request())
    assert [*OPEN.split(), "closed"] == [vars(record)["event"] for record in caplog.records]
    assert "Cancelled" in vars(caplog.records[-1])["reason"]


ROW: Final = re.compile(r"^\| `(\w+)` \| ([A-Z]+) \| (.*?) \|", re.MULTILINE)


def documented() -> dict[str, tuple[str, set[str]]]:
    """Return the table of the documentation: level and fields of each event."""
    page = (ROOT / "docs" / "howto" / "log.md").read_text(encoding="utf-8")
    return {name: (level, {*re.findall(r"`(\w+)`", fields)}) for name, level, fields in ROW.findall(page)}


def test_the_table() -> None:
    """The documentation has each event with its level."""
    expected = {name: logging.getLevelName(level) for name, level in LEVELS.items()}
    assert {name: level for name, (level, _) in documented().items()} == expected


def test_nothing_at_import() -> None:
    """Importing the package sets no handler and no level, and logs nothing."""
    program = """
import logging
import oxygent_client, oxygent_client.policies, oxygent_client.testing
oxygent_client.SSEOxyGent(server_url="http://127.0.0.1:9")
for name in ("oxygent_client", None):
    log = logging.getLogger(name)
    assert (log.handlers, log.filters, log.disabled) == ([], [], False), name
assert logging.getLogger("oxygent_client").level == logging.NOTSET
assert logging.getLogger("oxygent_client").propagate
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", program], capture_output=True, check=False)
    assert done.returncode == 0
    assert done.stdout == b""
    assert done.stderr == b""


@pytest.mark.parametrize(
    ("context", "expected"),
    [
        pytest.param(
            Context(purpose="run", trace_id="t", server_url="http://a:b@x.test/base?c=d"),
            "run t at http://x.test/base",
            id="a run",
        ),
        pytest.param(
            Context(purpose="discover", server_url="http://x.test"), "discover at http://x.test", id="a lookup"
        ),
        pytest.param(Context(purpose="run", trace_id="t"), "run t", id="a cluster"),
        pytest.param(Context(trace_id="t", replica="http://a:b@r.test"), "run t at http://r.test", id="a replica"),
        pytest.param(Context(), "", id="no request"),
    ],
)
def test_a_request_in_a_record(context: Context, expected: str) -> None:
    """Purpose, run and server are named, without the secrets of the URL."""
    assert describe_request(context) == expected
