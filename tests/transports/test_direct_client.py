"""The client that gives each request to its transport as it is, compared with the library's own client."""

from __future__ import annotations

import logging
from typing import Any, Final

import httpx
import httpx2
import pytest

from oxygent_client.transports._direct_client import direct_client

URL: Final = "http://agents.test:8082/prefix/sse/chat?key=a%20b"
REQUESTS: Final[dict[str, tuple[str, str, dict[str, str], bytes]]] = {
    "a run": ("POST", URL, {"accept": "text/event-stream", "Cache-Control": "no-store", "user-agent": "mine"}, b"{}"),
    "no body": ("POST", URL, {}, b""),
    "no body of another method": ("DELETE", URL, {}, b""),
    "a body of another method": ("DELETE", URL, {}, b"{}"),
    "a method in lower case": ("get", URL, {}, b""),
    "a lookup": ("GET", URL, {"accept-encoding": "identity"}, b""),
    "a host of the user's": ("GET", URL, {"host": "other.test"}, b""),
    "a length of the user's": ("POST", URL, {"Content-Length": "2"}, b"{}"),
    "user information": ("POST", "https://ada:s%20ecret@agents.test/", {"authorization": "Bearer other"}, b"{}"),
    "empty user information": ("POST", "http://:@agents.test", {}, b"{}"),
    "a name alone": ("POST", "http://ada@agents.test", {}, b"{}"),
    "an address": ("POST", "http://[::1]:80/sse/chat", {"x-name": "value"}, b"{}"),
    "an international name": ("POST", "http://b\xfccher.test/\xfc", {}, b"{}"),
}


class Recorder:
    """The requests that a transport got, in a form that can be compared."""

    def __init__(self, library: Any) -> None:
        self.requests: list[tuple[Any, ...]] = []
        self.closed = 0
        self.transport = library.MockTransport(self._respond)
        self._library = library

    async def _respond(self, request: Any) -> Any:
        headers = sorted((name.lower(), value) for name, value in request.headers.raw)
        body = await request.aread()
        self.requests.append((request.method, str(request.url), headers, body, request.extensions["timeout"]))
        return self._library.Response(404, stream=_Stream(self._library, self))


def _Stream(library: Any, recorder: Recorder) -> Any:  # noqa: N802  (a class, whose base is an argument)
    class Stream(library.AsyncByteStream):  # type: ignore[misc]  # the library is an argument
        async def __aiter__(self) -> Any:
            yield b"none"

        async def aclose(self) -> None:
            recorder.closed += 1

    return Stream()


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
@pytest.mark.parametrize("request_", REQUESTS.values(), ids=REQUESTS)
async def test_what_is_sent(
    library: Any, request_: tuple[str, str, dict[str, str], bytes], caplog: pytest.LogCaptureFixture
) -> None:
    """A request is the same, its line in the log too, as the library's client makes it; also the second of one URL."""
    method, url, headers, content = request_
    ours, theirs = Recorder(library), Recorder(library)
    time_outs = library.Timeout(None, connect=7.0)
    with caplog.at_level(logging.INFO, library.__name__):
        direct = direct_client(library)
        for client, body in (
            (direct(ours.transport, time_outs, closes_at_once=False), direct.upload),
            (library.AsyncClient(transport=theirs.transport, timeout=time_outs, trust_env=False), bytes),
        ):
            async with client:
                for _ in range(2):
                    options: dict[str, Any] = {"headers": headers, "content": body(content), "extensions": {}}
                    async with client.stream(method, url, **options) as response:
                        assert response.status_code == 404
                        assert await response.aread() == b"none"
    assert ours.requests == theirs.requests
    assert ours.closed == theirs.closed == 2
    lines = [record.getMessage() for record in caplog.records if record.name == library.__name__]
    assert lines[:2] == lines[2:]


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_one_framing(library: Any) -> None:
    """A request that is sent in chunks has no length beside that: a server and a proxy may disagree on its end."""
    recorder = Recorder(library)
    client = direct_client(library)(recorder.transport, library.Timeout(None), closes_at_once=False)
    options: dict[str, Any] = {"headers": {"Transfer-Encoding": "chunked"}, "content": client.upload(b"{}")}
    async with client, client.stream("POST", URL, extensions={}, **options):
        pass
    ((_, _, headers, body, _),) = recorder.requests
    assert b"content-length" not in dict(headers)
    assert body == b"{}"


@pytest.mark.parametrize("library", [httpx, httpx2], ids=["httpx", "httpx2"])
async def test_a_log_that_fails(library: Any, caplog: pytest.LogCaptureFixture) -> None:
    """A response is closed if a filter of the library's log raises."""

    def fail(record: logging.LogRecord) -> bool:
        raise ValueError(record.msg)

    recorder, log = Recorder(library), logging.getLogger(library.__name__)
    client = direct_client(library)(recorder.transport, library.Timeout(None), closes_at_once=False)
    log.addFilter(fail)
    try:
        with caplog.at_level(logging.INFO, library.__name__):
            async with client:
                with pytest.raises(ValueError, match="HTTP Request"):
                    await client.stream("GET", URL, extensions={}, headers={}, content=client.upload(b"")).__aenter__()
    finally:
        log.removeFilter(fail)
    assert recorder.closed == 1
