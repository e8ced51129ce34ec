"""An ASGI application as the remote: streaming, cancellation and errors.

Rule 1: the applications are written out here, as a framework would run them.
Rule 2: when the block is left the application has ended, if it does so within 2 s; each logs its end.
"""

from __future__ import annotations

import contextvars
import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import anyio
import pytest

from oxygent_client import HTTPRequest, Outcome, SSEOxyGent, Timeouts, Transport, errors
from oxygent_client.testing import answer, close, progress
from oxygent_client.transports import Context
from oxygent_client.transports.asgi import ASGITransport
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, MutableMapping

    Message = MutableMapping[str, Any]
    Receive = Callable[[], Awaitable[Message]]
    Send = Callable[[Message], Awaitable[None]]
    App = Callable[[Message, Receive, Send], Awaitable[None]]

URL: Final = "http://remote.test"
HEADERS: Final = [(b"Content-Type", b"text/event-stream")]


def start(status: int = 200, headers: Any = HEADERS) -> Message:
    """Return the message that begins a response."""
    return {"type": "http.response.start", "status": status, "headers": headers}


def part(body: bytes = b"", *, more: bool = True) -> Message:
    """Return a chunk of the body."""
    return {"type": "http.response.body", "body": body, "more_body": more}


def saying(*messages: Message | float | Exception | anyio.Event, log: list[Any] | None = None) -> App:
    """Return an application that sends these messages, waits for seconds or an event, or raises, and logs its steps."""
    done: list[Any] = [] if log is None else log

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await receive()
            for number, step in enumerate(messages):
                if isinstance(step, Exception):
                    raise step
                if isinstance(step, anyio.Event):
                    await step.wait()
                elif isinstance(step, int | float):
                    await anyio.sleep(step)
                else:
                    await send(step)
                done.append(number)
        finally:
            done.append("ended")

    return app


def request(method: str = "POST", path: str = "/sse/chat", body: bytes = b"{}", **headers: str) -> HTTPRequest:
    """Return a request for an application."""
    return HTTPRequest(method, URL, path, headers, body)


async def read(app: App, **options: Any) -> tuple[int, list[bytes]]:
    """Return status and chunks of one exchange."""
    async with ASGITransport(app, **options).exchange(request()) as response:
        return response.status, [chunk async for chunk in response.chunks]


# ------------------------------------------------------------------------------------------------------------ Streaming


async def test_streaming() -> None:
    """A chunk is received while the application works on the next; empty chunks are skipped."""
    log: list[Any] = []
    seen = anyio.Event()
    app = saying(start(), part(b"1"), seen, part(), part(b"2"), part(b"3", more=False), log=log)
    async with ASGITransport(app).exchange(request()) as response:
        assert response.status == 200
        assert response.headers == {"content-type": "text/event-stream"}
        chunks = response.chunks
        assert await anext(chunks) == b"1"
        await anyio.sleep(1)
        assert log == [0, 1]
        seen.set()
        assert [chunk async for chunk in chunks] == [b"2", b"3"]
        with pytest.raises(StopAsyncIteration):
            await anext(chunks)
    assert log == [0, 1, 2, 3, 4, 5, "ended"]


async def test_headers_come_before_the_body() -> None:
    """The block is entered after the headers, before the first chunk."""
    log: list[Any] = []
    async with ASGITransport(saying(start(201, []), math.inf, log=log)).exchange(request()) as response:
        assert response.status == 201
        assert response.headers == {}
        assert log == [0]
    assert log == [0, "ended"]


async def test_backpressure() -> None:
    """Backpressure: the application is never more than one chunk ahead of the reader."""
    log: list[Any] = []
    app = saying(start(), *[part(b"%d" % n) for n in range(1, 9)], part(more=False), log=log)
    async with ASGITransport(app).exchange(request()) as response:
        for number in range(1, 5):
            await anyio.sleep(10)
            assert log[-1] == number - 1, "the next is being sent, and not yet taken"
            assert await anext(response.chunks) == b"%d" % number


OPTIONAL: Final[dict[str, tuple[list[bytes], list[Message]]]] = {
    "no headers and no body": ([], [{"type": "http.response.start", "status": 200}, {"type": "http.response.body"}]),
    "no more_body": ([b"x"], [start(), {"type": "http.response.body", "body": b"x"}]),
    "another message": (
        [b"x"],
        [start(), {"type": "http.response.debug"}, part(bytearray(b"x")), part(memoryview(b""), more=False)],  # type: ignore[arg-type]  # pyright: ignore[reportArgumentType]  (ASGI applications send such things)
    ),
}


@pytest.mark.parametrize(("chunks", "messages"), OPTIONAL.values(), ids=OPTIONAL)
async def test_optional_messages(chunks: list[bytes], messages: list[Message]) -> None:
    """The body, `more_body` and the headers may be missing; messages that are not of HTTP are ignored."""
    assert await read(saying(*messages)) == (200, chunks)


# ---------------------------------------------------------------------------------------------------------------- Scope


async def test_the_scope() -> None:
    """The scope follows the ASGI standard: path, query and headers as if received over a network."""
    got: list[Any] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        got.extend([scope, await receive()])
        await send(start(204, [(b"X-A", b"1"), (b"x-a", b"2"), (b"B", "é".encode("latin-1"))]))
        await send(part(more=False))

    transport = ASGITransport(app, root_path="/mounted")
    base = "https://user:pw@remote.test:8443/b%20c/?token=1&x=%20"
    headers = {"Accept": "text/event-stream", "x-own": "1"}
    sent = HTTPRequest("POST", base, "/sse/chat", headers, b"body", context=Context(purpose="run"))
    async with transport.exchange(sent) as response:
        assert response.headers == {"x-a": "1, 2", "b": "é"}
        assert response.request == sent
    scope, message = got
    assert scope == {
        "type": "http",
        "asgi": {"version": "3.0", "spec_version": "2.4"},
        "http_version": "1.1",
        "method": "POST",
        "scheme": "https",
        "path": "/b c/sse/chat",
        "raw_path": b"/b%20c/sse/chat",
        "query_string": b"token=1&x=%20",
        "root_path": "/mounted",
        "headers": [
            (b"host", b"remote.test:8443"),
            (b"accept", b"text/event-stream"),
            (b"x-own", b"1"),
            (b"content-length", b"4"),
        ],
        "client": ("127.0.0.1", 0),
        "server": ("remote.test", 8443),
    }
    assert message == {"type": "http.request", "body": b"body", "more_body": False}
    for url, server in (("http://a.test", ("a.test", 80)), ("https://a.test", ("a.test", 443))):
        async with transport.exchange(HTTPRequest("GET", url, "/x")):
            pass
        assert got[-2]["server"] == server
        assert got[-2]["query_string"].decode() == ""
        assert got[-2]["headers"][-1][1] == b"0"
    async with ASGITransport(app).exchange(HTTPRequest("GET", URL, "/%ff", {"Host": "other"})):
        pass
    assert tuple(got[-2][name] for name in ("root_path", "path", "headers")) == (
        "",
        "/�",
        [(b"host", b"other"), (b"content-length", b"0")],
    )


async def test_context_variables() -> None:
    """An application sees the caller's context variables, and its changes are not seen by the caller."""
    variable: contextvars.ContextVar[str] = contextvars.ContextVar("variable", default="none")
    seen: list[str] = []

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        seen.append(variable.get())
        variable.set("theirs")
        await send(start())
        await send(part(more=False))

    variable.set("ours")
    await read(app)
    assert seen == ["ours"]
    assert variable.get() == "ours"


# -------------------------------------------------------------------------------------------------------------- Leaving


LEFT_WHILE: Final[dict[str, tuple[Message | float, ...]]] = {
    "sending": (start(), part(b"1"), part(b"2"), part(b"3")),
    "waiting": (start(), part(b"1"), math.inf),
    "in the last chunk": (start(), part(b"1"), part(b"2", more=False)),
}


@pytest.mark.parametrize("place", LEFT_WHILE)
async def test_leaving_early(place: str) -> None:
    """Leaving cancels the application wherever it is, and waits until it has ended."""
    steps = LEFT_WHILE[place]
    log: list[Any] = []

    async def app(scope: Message, receive: Receive, send: Send, steps: Any = steps, log: list[Any] = log) -> None:
        try:
            await saying(*steps)(scope, receive, send)
        finally:
            with anyio.CancelScope(shield=True):
                await anyio.sleep(1.5)
                log.append("cleaned up")

    began = anyio.current_time()
    async with ASGITransport(app).exchange(request()) as response:
        assert await anext(response.chunks) == b"1"
    assert log == ["cleaned up"]
    assert round(anyio.current_time() - began, 3) == 1.5


async def test_leaving_by_an_exception() -> None:
    """The block's own exception is raised unchanged, even if the application fails on cancellation."""

    async def sulking(scope: Message, receive: Receive, send: Send) -> None:
        try:
            await send(start())
            await anyio.sleep_forever()
        finally:
            raise RuntimeError("I was not ready")

    own = KeyError("own")
    with pytest.raises(KeyError) as caught:
        async with ASGITransport(sulking).exchange(request()):
            raise own
    assert caught.value is own
    async with ASGITransport(sulking).exchange(request()):
        pass


async def test_disconnect() -> None:
    """`receive` returns `http.disconnect` when the reader leaves and when the response is complete."""
    told: list[Any] = []

    async def listening(scope: Message, receive: Receive, send: Send, steps: Any) -> None:
        await receive()

        async def listen(cancel: anyio.CancelScope) -> None:
            told.append((await receive())["type"])
            cancel.cancel()

        # As Starlette runs a streaming response.
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(listen, tasks.cancel_scope)
            for step in steps:
                await send(step)
            if steps[-1]["more_body"]:
                await anyio.sleep_forever()

    async with ASGITransport(partial(listening, steps=(start(), part(b"1")))).exchange(request()) as response:
        await anext(response.chunks)
        await anyio.sleep(1)
        assert told == []
    assert told == ["http.disconnect"]
    app = partial(listening, steps=(start(), part(b"1"), part(b"2", more=False)))
    assert await read(app) == (200, [b"1", b"2"])
    assert told == ["http.disconnect"] * 2


async def test_sending_after_the_reader_has_left() -> None:
    """After the reader has left, `send` raises OSError, whether it was waiting or is called later."""
    raised: list[BaseException] = []

    async def stubborn(scope: Message, receive: Receive, send: Send) -> None:
        with anyio.CancelScope(shield=True):
            await send(start())
            for _ in range(2):
                try:
                    await send(part(b"x"))
                except Exception as error:  # noqa: BLE001  (which it is is the question)
                    raised.append(error)

    async with ASGITransport(stubborn).exchange(request()):
        await anyio.sleep(1)
    assert [type(error) for error in raised] == [OSError, OSError]


async def test_a_background_task_is_waited_for() -> None:
    """Leaving the block waits up to 2 s for a background task of the application."""
    log: list[Any] = []
    began = anyio.current_time()
    assert await read(saying(start(), part(b"1", more=False), 1.5, log=log)) == (200, [b"1"])
    assert log == [0, 1, 2, "ended"]
    assert round(anyio.current_time() - began, 3) == 1.5


@pytest.mark.parametrize(
    ("patience", "waited"), [(math.inf, 2), (1, 1)], ids=["a caller with time", "a caller that is cancelled"]
)
async def test_a_long_background_task_runs_on(patience: float, waited: float, caplog: pytest.LogCaptureFixture) -> None:
    """After 2 s, or a cancellation of the caller, the exchange ends and the application goes on."""
    log: list[Any] = []
    began = anyio.current_time()
    with anyio.move_on_after(patience):
        await read(saying(start(), part(b"1", more=False), 5.0, log=log))
    assert round(anyio.current_time() - began, 3) == waited
    assert log == [0, 1]
    assert [record.levelname for record in caplog.records] == ["WARNING"]
    await anyio.sleep(10)
    assert log == [0, 1, 2, "ended"]


async def test_a_background_task_of_an_answered_run() -> None:
    """A run has its answer after 2 s at most, and the background task is completed."""
    log: list[Any] = []
    app = saying(start(), part(answer("42") + close(), more=False), 5.0, log=log)
    began = anyio.current_time()
    assert (await agent(app).ask("hi")).output == "42"
    assert round(anyio.current_time() - began, 3) == 2
    await anyio.sleep(10)
    assert log == [0, 1, 2, "ended"]


async def test_a_late_error_of_a_background_task_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    """An error of a background task after the exchange is logged with its traceback."""
    own = ValueError("own")
    assert await read(saying(start(), part(b"1", more=False), 5.0, own)) == (200, [b"1"])
    await anyio.sleep(10)
    assert [record.exc_info and record.exc_info[1] for record in caplog.records] == [None, own]


# These do not end when they are cancelled, so each ends by itself after 10 s.


async def shielded(scope: Message, receive: Receive, send: Send) -> None:
    """An application that is shielded from cancellation, as one that waits for a thread."""
    await send(start())
    with anyio.CancelScope(shield=True):
        await anyio.sleep(10)


async def swallowing(scope: Message, receive: Receive, send: Send) -> None:
    """An application that swallows one cancellation."""
    await send(start())
    until = anyio.current_time() + 10
    try:
        await anyio.sleep_forever()
    except anyio.get_cancelled_exc_class():
        with anyio.CancelScope(shield=True):
            await anyio.sleep_until(until)


async def mute(scope: Message, receive: Receive, send: Send) -> None:
    """An application that does not begin a response."""
    with anyio.CancelScope(shield=True):
        await anyio.sleep(10)


async def failing_late(scope: Message, receive: Receive, send: Send) -> None:
    """An application that fails at its end."""
    await shielded(scope, receive, send)
    raise RuntimeError("late")


UNWILLING: Final = (shielded, swallowing, mute, failing_late)


@pytest.mark.parametrize("app", UNWILLING)
async def test_leaving_is_bounded(app: App, caplog: pytest.LogCaptureFixture) -> None:
    """A call ends 2 s after its deadline at the latest, whatever the application does, with a log record."""
    began = anyio.current_time()
    with pytest.raises(errors.DeadlineExceededError):
        await agent(app, timeouts=Timeouts(total=0.5, lookup=None)).ask("hi")
    assert round(anyio.current_time() - began, 3) == 2.5
    assert [record.levelname for record in caplog.records if "has not ended" in record.message] == ["WARNING"]
    await anyio.sleep(20)


@pytest.mark.parametrize("app", UNWILLING)
async def test_cancelling_is_bounded(app: App) -> None:
    """A cancelled call ends 2 s later at the latest."""
    with anyio.move_on_after(1) as scope:
        await agent(app).ask("hi")
    assert scope.cancelled_caught
    assert round(anyio.current_time(), 3) <= 3 + scope.deadline - 1
    await anyio.sleep(20)


async def test_cancellation() -> None:
    """Cancelling an exchange cancels the application, before the headers, after them, and before it has begun."""
    log: list[Any] = []
    cases: list[tuple[tuple[Message | float, ...], float, list[Any]]] = [
        ((math.inf,), 1, ["ended"]),
        ((start(), math.inf), 1, [0, "ended"]),
        ((start(), part(b"1"), math.inf), 1, [0, 1, "ended"]),
    ]
    for steps, seconds, expected in cases:
        log.clear()
        with anyio.move_on_after(seconds) as scope:
            await read(saying(*steps, log=log))
        assert scope.cancelled_caught
        assert log == expected
    log.clear()
    with anyio.CancelScope() as scope:
        scope.cancel()
        await read(saying(start(), math.inf, log=log))
    assert scope.cancelled_caught
    assert log[-1:] in ([], ["ended"])


# --------------------------------------------------------------------------------------------------------------- Errors


STAGES: Final[dict[str, tuple[Any, ...]]] = {
    "at once": (),
    "after the head": (start(),),
    "in the body": (start(), part(b"1")),
    "after the body": (start(), part(b"1", more=False)),
}


@pytest.mark.parametrize(
    "error", [ValueError("own"), ExceptionGroup("both", [ValueError("own")])], ids=["one", "a group"]
)
@pytest.mark.parametrize("steps", STAGES.values(), ids=STAGES)
async def test_errors_of_the_application(steps: tuple[Any, ...], error: Exception) -> None:
    """An exception of the application is raised unchanged, at any time."""
    with pytest.raises(type(error)) as caught:
        await read(saying(*steps, error))
    assert caught.value is error


async def test_an_error_while_nothing_is_read() -> None:
    """An exception of the application while nothing is read is raised at the end."""
    with pytest.raises(ValueError, match="own"):
        async with ASGITransport(saying(start(), ValueError("own"))).exchange(request()):
            await anyio.sleep(1)


async def test_an_application_that_ends_early() -> None:
    """An application that ends without a complete response raises an error of this package."""
    with pytest.raises(errors.RemoteProtocolError, match="without a response"):
        await read(saying())
    with pytest.raises(errors.ConnectionLostError, match="response"):
        await read(saying(start(), part(b"1")))
    async with ASGITransport(saying(start(), part(b"1", more=False))).exchange(request()) as response:
        assert response.status == 200  # the caller need not read


# -------------------------------------------------------------------------------------------------------- With an agent


def agent(app: App, **options: Any) -> SSEOxyGent:
    """Return an agent whose remote is `app`."""
    return SSEOxyGent(server_url=URL, transport=ASGITransport(app), **options)


OWN: Final = KeyError("own")
RUNS: Final[dict[str, tuple[Any, tuple[Any, ...]]]] = {
    # name: (output or error, steps of the application)
    "complete": ("42", (start(), part(progress(1)), 5.0, part(answer("42") + close(), more=False))),
    "close, and goes on": ("42", (start(), part(answer("42")), part(close()), math.inf)),
    "cut": (errors.IncompleteStreamError, (start(), part(progress(1), more=False))),
    "ends in the middle": (errors.IncompleteStreamError, (start(), part(progress(1)))),
    "no response": (errors.RemoteProtocolError, ()),
    "refused": (errors.AuthenticationError, (start(401), part(b"who?", more=False))),
    "idle": (errors.IdleTimeoutError, (start(), part(progress(1)), math.inf)),
    "opening": (errors.IdleTimeoutError, (math.inf,)),
    "its own error": (KeyError, (start(), part(progress(1)), OWN)),
}


@pytest.mark.parametrize(("expected", "steps"), RUNS.values(), ids=RUNS)
async def test_a_run(expected: Any, steps: tuple[Any, ...]) -> None:
    """A run of an application can be complete, cut, refused, timed out or left."""
    log: list[Any] = []
    got: Any = None
    try:
        got = (await agent(saying(*steps, log=log), timeouts=Timeouts(idle=20, total=100)).ask("hi")).output
    except (errors.OxyError, KeyError) as error:
        got = type(error)
    assert got == expected
    assert log[-1] == "ended"
    assert OWN.__context__ is None


async def test_leaving_a_run() -> None:
    """Leaving a run cancels the application at once; the next run is not affected."""
    log: list[Any] = []
    app = saying(start(), part(progress(1)), math.inf, log=log)
    async with agent(app).stream("hi") as run:
        await anext(run)
    assert log == [0, 1, "ended"]
    assert run.outcome is Outcome.STARTED
    assert (await agent(saying(start(), part(answer("42") + close(), more=False))).ask("hi")).output == "42"


async def test_concurrent_runs() -> None:
    """Concurrent runs are concurrent tasks of the application."""
    running = most = 0

    async def app(scope: Message, receive: Receive, send: Send) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        await anyio.sleep(1)
        await saying(start(), part(answer("42") + close(), more=False))(scope, receive, send)
        running -= 1

    began = anyio.current_time()
    async with anyio.create_task_group() as tasks:
        for _ in range(50):
            tasks.start_soon(agent(app).ask, "hi")
    assert most == 50
    assert running == 0
    assert round(anyio.current_time() - began, 3) == 1


async def test_closing() -> None:
    """The transport keeps nothing open, shows its application in `repr`, and stays closed."""
    app = saying(start(), part(more=False))
    transport = ASGITransport(app)
    assert repr(transport) == f"ASGITransport({app!r})"
    assert isinstance(transport, Transport)
    async with transport.exchange(request()) as response:
        assert [chunk async for chunk in response.chunks] == []
    for _ in range(2):
        await transport.aclose()
    with pytest.raises(errors.ClosedError):
        await transport.exchange(request()).__aenter__()
