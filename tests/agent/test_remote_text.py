"""Redaction of remote texts: no error, log, notification, statistic or command shows a credential that came back.

Rule 1: a remote sends CANARY back in each spelling and place, and the walk checks each place that shows text.
Rule 2: these tests list the errors, log calls, notifications and commands that exist; a new one must have its line
    here.
Rule 3: data that a program reads (an event, an answer, a record) is unchanged; `DATA` lists all of it.
"""

from __future__ import annotations

import ast
import base64
import html
import io
import json
import logging
import re
from functools import cache
from typing import TYPE_CHECKING, Any, Final
from urllib.parse import quote

import pytest

from oxygent_client import OxyRequest, SSEOxyGent, errors
from oxygent_client._core.log import LEVELS
from oxygent_client.cli import main
from oxygent_client.policies import APIKey, BasicAuth, BearerAuth, Headers
from oxygent_client.telemetry._observers import UNLOGGED
from oxygent_client.testing import Cassette, FakeTransport, RecordingTransport, Reply, answer, close, message
from oxygent_client.testing import serve as serving
from tests.conftest import ROOT
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from oxygent_client import HTTPRequest
    from oxygent_client.telemetry._observers import Notification
    from oxygent_client.testing._fake_transport import Step as Script

CANARY: Final = "canary/7+q=z&9"
"""Texts that the spellings write in another way."""
BASIC: Final = base64.b64encode(f"ada:{CANARY}".encode()).decode()
SPELLINGS: Final[dict[str, Callable[[str], str]]] = {
    "as it is": str,
    "percent": lambda text: quote(text, safe=""),
    "percent, small": lambda text: quote(text, safe="").lower(),
    "JSON": lambda text: json.dumps(text)[1:-1].replace("/", "\\/").replace("&", "\\u0026"),
    "HTML": lambda text: html.escape(text).replace("+", "&#43;"),
    "base64": lambda text: base64.b64encode(text.encode()).decode(),
    "base64 of user and password": lambda text: base64.b64encode(f"ada:{text}".encode()).decode(),
}


async def request_id(_request: HTTPRequest) -> dict[str, str]:
    """A credential in a header that is not marked as secret."""
    return {"x-request-id": CANARY}


SENT: Final[dict[str, Callable[[], dict[str, Any]]]] = {
    # how a caller gives the credential to an agent
    "bearer": lambda: {"auth": BearerAuth(CANARY)},
    "basic": lambda: {"auth": BasicAuth("ada", CANARY)},
    "API key": lambda: {"auth": APIKey(CANARY)},
    "a header of auth": lambda: {"auth": Headers(request_id)},
    "a header": lambda: {"headers": {"x-acme": CANARY}},
    "a cookie": lambda: {"headers": {"cookie": f"a=1; session={CANARY}"}},
    "user information": lambda: {"server_url": f"https://ada:{quote(CANARY, safe='')}@remote.test"},
    "the query": lambda: {"server_url": f"https://remote.test/?code={quote(CANARY, safe='')}"},
    "the query without a name": lambda: {"server_url": f"https://remote.test/?{quote(CANARY, safe='')}"},
}
HIDING: Final = "\x1b[8m\u202e\u2066\u200f\x07\x9b\u200b\u2060\ufeff\xad\u034f\u206a\U000e0041\ufe01\u3164"
"""Characters that hide text, change its direction, or control a terminal."""
SAID: Final = HIDING.join(spell(CANARY) for spell in SPELLINGS.values())
"""The remote's text: the canary in each spelling."""
UNSAFE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufe00-\ufe0f\ufeff\U000e0000-\U000e0fff]"
)


def seen(texts: Iterator[str] | list[str]) -> list[str]:
    """Return the texts that show the canary in any spelling, or hold unsafe characters."""
    marks = [spell(CANARY)[:12] for spell in SPELLINGS.values()]
    return [text for text in texts if any(mark in text for mark in marks) or UNSAFE.search(text)]


# --- the places of an agent -------------------------------------------------------------------------------------------


def refuses(said: Any) -> None:
    """A validator that quotes the value in its error."""
    raise ValueError(f"not expected: {said}")


def stream(make: Callable[[str], dict[str, Any]], *rest: Script) -> Callable[[str], FakeTransport]:
    """Return a remote whose first message holds the canary."""
    return lambda said: FakeTransport.script(message(make(said)), *rest)


def reply(status: int, body: str, **headers: str) -> Callable[[str], FakeTransport]:
    """Return a remote that answers a run with one body."""

    def over(said: str) -> FakeTransport:
        head = {name.replace("_", "-"): value.replace("CANARY", said) for name, value in headers.items()}
        return FakeTransport({"/sse/chat": Reply([body.replace("CANARY", said).encode()], status=status, headers=head)})

    return over


def documents(**replies: Reply) -> FakeTransport:
    """Return a remote with these documents, and no run."""
    return FakeTransport({f"/{name}": each for name, each in replies.items()})


TREE: Final[dict[str, Any]] = {"organization": {"name": "master", "type": "agent", "children": []}}
FINE: Final = (answer("42"), close())
STRICT: Final[dict[str, Any]] = {"strict": True, "schema": {None: refuses}}
WALK: Final[dict[str, tuple[type[errors.OxyError] | None, Callable[[str], FakeTransport], dict[str, Any]]]] = {
    # the error of the run; the remote; more options of the agent
    "a body": (errors.PermissionDeniedError, reply(403, "bad CANARY", content_type="text/plain"), {}),
    "a body that is cut": (errors.ServerError, reply(500, "x" * 9 + "CANARY" * 500, content_type="text/plain"), {}),
    "a redirect": (errors.RedirectError, reply(302, "CANARY", location="/CANARY"), {}),
    "a content type": (errors.NotAnEventStreamError, reply(200, "", content_type="text/x; a=CANARY"), {}),
    "a content coding": (
        errors.NotAnEventStreamError,
        reply(200, "", content_type="text/event-stream", content_encoding="CANARY"),
        {},
    ),
    "an envelope": (
        errors.EnvelopeError,
        lambda said: FakeTransport({"/sse/chat": Reply.json({"code": said, "message": said})}),
        {},
    ),
    "a failure": (
        errors.RemoteAgentError,
        stream(lambda said: {"type": "error", "content": said}, close()),
        {},
    ),
    "a stray text": (errors.NoAnswerError, stream(lambda said: {"detail": said}, close()), {}),
    "a type": (errors.MalformedResponseError, stream(lambda said: {"type": said}, *FINE), STRICT),
    "a content": (
        errors.MalformedResponseError,
        stream(lambda said: {"type": "note", "content": said}, *FINE),
        STRICT,
    ),
    "a type, not strict": (
        None,
        stream(lambda said: {"type": said, "content": said}, *FINE),
        {"schema": {None: refuses}},
    ),
    "a name": (
        errors.UnknownCalleeError,
        lambda said: documents(
            get_organization=Reply.json({"code": 200, "data": TREE}),
            get_description=Reply.json({"code": 500, "message": said}),
            get_agents=Reply.json({"code": 200, "data": {"agents": [{"name": said}, {"name": "x" + said}]}}),
        ),
        {"callee": "nobody"},
    ),
    "no list of names": (
        errors.NotFoundError,
        lambda said: documents(get_organization=Reply([said.encode()], status=500)),
        {"callee": "nobody"},
    ),
}  # fmt: skip
DATA: Final = frozenset({"partial", "output", "events"})
"""Attributes of errors that are data, as received."""
NOTED: Final = frozenset({"event", "request", "response", "error"})
"""Fields of notifications that are data; an error among them is checked as an error."""


class Listening:
    """An observer of all notifications."""

    wants_events = True

    def __init__(self) -> None:
        self.told: list[Notification] = []

    def note(self, notification: Notification) -> None:
        """Keep the notification."""
        self.told.append(notification)


def shows(error: errors.OxyError) -> Iterator[str]:
    """Return the texts of an error."""
    yield f"{error} {error!r}"
    yield from (f"{name} {value}" for name, value in vars(error).items() if name not in DATA)


@pytest.mark.seconds
@pytest.mark.parametrize("sent", SENT.values(), ids=SENT)
@pytest.mark.parametrize(("cls", "over", "more"), WALK.values(), ids=WALK)
async def test_no_credential_is_shown(
    cls: type[errors.OxyError] | None,
    over: Callable[[str], FakeTransport],
    more: dict[str, Any],
    sent: Callable[[], dict[str, Any]],
    caplog: pytest.LogCaptureFixture,
) -> None:
    """No error, log record, notification, statistic, `repr` or cassette shows a credential that came back."""
    listening, cassette = Listening(), Cassette()
    transport = RecordingTransport(over(SAID), cassette)
    given: dict[str, Any] = {"server_url": "https://remote.test", **more, **sent()}
    agent = SSEOxyGent(transport=transport, observers=[listening], **given)
    ended: errors.OxyError | None = None
    with caplog.at_level(logging.DEBUG):
        run = agent.stream("q")
        try:
            async with run:
                async for _ in run:
                    pass
        except errors.OxyError as error:
            ended = error
    assert (None if ended is None else type(ended)) is cls
    shown = [
        f"{agent!r} {run!r} {agent.stats()} {transport!r}",
        *(f"{each.getMessage()} {vars(each)}" for each in caplog.records),
    ]
    if ended is not None:
        shown += shows(ended)
    for told in listening.told:
        shown.append(f"{told.event} { ({name: each for name, each in told.fields.items() if name not in NOTED}) }")
        if isinstance(failure := told.fields.get("error"), errors.OxyError):
            shown += shows(failure)
    assert seen(shown) == []


async def test_the_walk_finds_the_canary() -> None:
    """The walk finds the canary in an event, which is data."""
    transport = FakeTransport.script(message({"type": "note", "content": f"{CANARY}{HIDING}"}), *FINE)
    agent = SSEOxyGent(server_url="https://remote.test", transport=transport, auth=APIKey(CANARY))
    async with agent.stream(OxyRequest(arguments={"query": "q"})) as run:
        events = [event async for event in run]
    assert events[0].content == f"{CANARY}{HIDING}"
    assert len(seen([events[0].content, HIDING, spelt(CANARY), "plain"])) == 3


def spelt(text: str) -> str:
    """Return the text in base64."""
    return base64.b64encode(text.encode()).decode()


# --- no place is forgotten --------------------------------------------------------------------------------------------

SAYS_NOTHING: Final = """
    ConfigurationError InsecureTransportError PayloadError ConnectError TLSError ConnectTimeoutError ConnectionLostError
    OxyTimeoutError SilenceTimeoutError IdleTimeoutError DeadlineExceededError UnconfirmedError StatusError
    AuthenticationError RateLimitedError RemoteProtocolError TooLargeError IncompleteStreamError HandlerError
    NoHealthyReplicaError ClosedError CassetteError RunNotFoundError UnknownNodeError
""".split()
"""Errors whose texts are constant, or are made by the same code as the classes in WALK."""


def subclasses(cls: type[errors.OxyError]) -> Iterator[type[errors.OxyError]]:
    """Return all subclasses in the package."""
    for each in cls.__subclasses__():
        if each.__module__.startswith("oxygent_client"):
            yield each
            yield from subclasses(each)


def test_each_error_is_listed() -> None:
    """Each class of error is in the walk, or listed as quoting nothing."""
    walked = {cls.__name__ for cls, _, _ in WALK.values() if cls is not None}
    assert {each.__name__ for each in subclasses(errors.OxyError)} - walked - {*SAYS_NOTHING} == set()


SOURCE: Final = ROOT / "src" / "oxygent_client"
WRITERS: Final[dict[str, tuple[str, ...]]] = {
    # functions that write or escape a text, and the modules that may call them; others use `tell` and `sent.shown`
    "logger.log": ("_core/log.py",),
    "escape_text": (
        "_core/decompression.py", "_core/errors.py", "_core/log.py", "_core/redaction.py", "_agent/callbacks.py",
        "transports/_library_log.py",
        # of data that a program looks at itself
        "_core/report.py", "_core/trace.py", "_protocol/run_record.py", "_run/notebook.py",
    ),
    "for_display": (
        "_core/sent_secrets.py", "_protocol/responses.py", "_protocol/schema.py", "_run/reported_errors.py",
    ),
    "warnings.warn": ("_core/deprecation.py",),
    "print": (),
    "logging.warning": (),
    "logger.warning": ("integrations/oxygent.py",),
    "logger.info": (),
    "logger.error": (),
    "logger.exception": (),
}  # fmt: skip


@cache
def calls() -> list[tuple[str, str]]:
    """Return each call in the package's modules except the command line: the module and the function."""
    return [*_calls()]


def _calls() -> Iterator[tuple[str, str]]:
    for path in sorted(SOURCE.rglob("*.py")):
        name = path.relative_to(SOURCE).as_posix()
        if not name.startswith(("cli/", "testing/")):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Call):
                    yield name, ast.unparse(node.func)


@pytest.mark.parametrize("called", WRITERS)
def test_each_writer_is_listed(called: str) -> None:
    """A module that writes or shows a text in a new way is found."""
    assert {name for name, each in calls() if each == called} == {*WRITERS[called]}


def test_each_notification_is_listed() -> None:
    """Each field of a notification is data, or went through `tell`."""
    assert NOTED >= {"event", "request", "response", "error"}
    assert {*UNLOGGED} == {"begun", "streaming", "first_byte", "tool_call", "observation", "ended"}
    assert {*LEVELS} == {
        "connect", "opened", "first_event", "closed", "retry", "hedge", "refused", "reattach", "record",
        "warning", "debug",
    }  # fmt: skip


# --- the command line -------------------------------------------------------------------------------------------------


async def remote(scope: dict[str, Any], receive: Callable[..., Any], send: Callable[..., Any]) -> None:
    """Serve as a remote that sends the key of each request back wherever it can."""
    headers = {name.decode(): value.decode() for name, value in scope["headers"]}
    said = headers.get("authorization", headers["x-api-key"]).removeprefix("Bearer ") + HIDING
    stack = ["user", "master", said]
    step = {"caller": "master", "callee": said, "callee_category": "tool", "call_stack": stack, "node_id": said}
    messages = [
        {"type": "tool_call", "content": {**step, "arguments": {"query": said}}},
        {"type": "observation", "content": {**step, "output": said}},
        {"type": said, "content": {said: said}},
        {"type": "answer", "content": f"the answer is {said}"},
    ]
    document = {"code": 200, "data": {"organization": {"name": said, "children": [{"name": said, "type": said}]}}}
    body = "".join(f"id: {headers['x-api-key']}\ndata: {json.dumps(each)}\n\n" for each in messages)
    is_run = scope["path"].endswith("/sse/chat")
    kind = b"text/event-stream" if is_run else b"application/json"
    await send({"type": "http.response.start", "status": 200, "headers": [(b"content-type", kind)]})
    text = f"{body}event: close\ndata: [DONE]\n\n" if is_run else json.dumps(document)
    await send({"type": "http.response.body", "body": text.encode()})


COMMANDS: Final[dict[str, tuple[str, ...]]] = {
    # a command that shows texts of a remote, and its arguments behind the URL
    "ask": ("q",),
    "ask --json": ("q", "--json"),
    "record": ("q", "FILE"),
    "ask --token-env": ("q", "--token-env", "CANARY_TOKEN"),
    "chat": (),
    "tree --token-env": ("--token-env", "CANARY_TOKEN"),
    "tree": (),
    "tree --json": ("--json",),
}
ELSEWHERE: Final = {
    # commands that show no text of a remote: why
    "batch": "results go to a file, redacted (tests/cli/test_batch.py)",
    "doctor": "it shows names and errors, redacted (tests/cli/test_doctor.py)",
    "demo": "its remote is its own, and gets no credential",
    "toy": "it is a remote",
    "replay": "what it shows is a cassette; nothing is sent",
    "start": "it shows the ids of its run",
    "watch": "its display is that of ask",
    "lookup": "a trace is redacted when it is made (tests/cli/test_detached.py)",
    "report": "its page is that of a redacted trace, and redacts it again (tests/core/test_report.py)",
    "serve": "texts of the remote go to its clients, redacted (tests/serve/test_openai.py)",
}


def test_each_command_is_listed() -> None:
    """Each command is in the walk, or listed with a reason."""
    from oxygent_client.cli._app import app

    names = {command.name or command.callback.__name__ for command in app.registered_commands if command.callback}
    assert {each.split(maxsplit=1)[0] for each in COMMANDS} | ELSEWHERE.keys() == names


@pytest.mark.seconds
@pytest.mark.parametrize("command", COMMANDS)
def test_commands_show_no_credential(
    command: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """No command shows a credential, in the terminal or in its file."""
    kept = tmp_path / "kept.json"
    arguments = [str(kept) if each == "FILE" else each for each in COMMANDS[command]]
    monkeypatch.setattr("sys.stdin", io.StringIO("q\n/tree\n"))
    monkeypatch.setenv("CANARY_TOKEN", CANARY.replace("&", "/"))
    with serving(remote) as url:
        code = main([command.split(maxsplit=1)[0], url, *arguments, "-H", f"x-api-key: {CANARY}"])
    shown = capsys.readouterr()
    assert code == 0
    assert "[scrubbed]" in shown.out
    assert seen([shown.out.replace("\n", " "), shown.err]) == []
