"""Redaction: names of secrets, redacted responses, and no secret in errors, reprs or logs.

Rule 1: CANARY is in each place where a caller may put a secret; the walk looks for it in each place a program may read.
Rule 2: the places of the walk are first shown to hold text, so that it cannot pass by being empty.
"""

from __future__ import annotations

import base64
import logging
import pickle
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oxygent_client import HTTPXTransport, Limits, OxyRequest, SSEOxyGent, Timeouts, errors
from oxygent_client._api.fetch import fetch_body, fetch_data, read_error
from oxygent_client._core.redaction import SCRUBBED, is_secret, scrub_text
from oxygent_client._core.sent_secrets import SentSecrets
from oxygent_client._core.text import escape_text
from oxygent_client._core.transport import Context, HTTPRequest, HTTPResponse
from oxygent_client.testing import FakeTransport, Reply, answer, close, faults, message, pause, progress, text
from oxygent_client.transports.httpx2 import HTTPX2Transport
from tests.support.servers import play, serving
from tests.support.virtual import anyio_backend as anyio_backend

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Iterator, Mapping

    from oxygent_client import Transport

CANARY: Final = "CANARY/7+q"
"""As tokens have them: two characters that a URL, and one that an escape, encodes."""
IN_URL: Final = "CANARY%2F7%2Bq"
LIMITS: Final = Limits()

# --- by its name ------------------------------------------------------------------------------------------------------

SECRET_HEADERS: Final = """
    authorization proxy-authorization cookie set-cookie x-api-key api-key apikey x-auth-token x-amz-security-token
    x-goog-api-key x-functions-key ocp-apim-subscription-key x-csrf-token x-vault-token private-token x-session-id
    x-access-token x-auth x-client-secret x-jwt-assertion dpop x-amz-signature X-Api-Key AUTHORIZATION X-AuthToken
""".split()
PLAIN_HEADERS: Final = """
    accept accept-encoding content-type content-length user-agent host date x-request-id x-trace-id traceparent
    idempotency-key cache-control x-tenant authority author keyword
""".split()


@pytest.mark.parametrize("name", SECRET_HEADERS)
def test_secret_headers(name: str) -> None:
    """The names of headers for credentials are recognized."""
    assert is_secret(name, "x")


@pytest.mark.parametrize("name", PLAIN_HEADERS)
def test_plain_headers(name: str) -> None:
    """Other names are not."""
    assert not is_secret(name, "x")


# --- out of what a server repeats -------------------------------------------------------------------------------------


def cleaned(text: str, url: str, headers: Mapping[str, str], marked: Collection[str] = ()) -> str:
    """Return the redacted text, after such a request."""
    sent = SentSecrets()
    sent.note(url, headers, marked)
    return sent.clean(text)


BASIC: Final = base64.b64encode(b"ada:CANARY/7+q").decode()
CLEANED: Final[list[tuple[str, str, dict[str, str], str]]] = [
    # expected; the URL and the headers of the request; a text
    ("no [scrubbed] here", "http://h", {"authorization": f"Bearer {CANARY}"}, f"no {CANARY} here"),
    ("[scrubbed]", "http://h", {"authorization": f"Bearer {CANARY}"}, f"Bearer {CANARY}"),
    ("<[scrubbed]>", "http://h", {"Authorization": CANARY}, f"<{CANARY}>"),
    ("[scrubbed]", "http://h", {"authorization": f"Basic {BASIC}"}, BASIC),
    ("pass [scrubbed].", "http://h", {"authorization": f"Basic {BASIC}"}, f"pass {CANARY}."),
    ("user [scrubbed].", "http://h", {"authorization": f"Basic {BASIC}"}, "user ada."),
    ("adamant", "http://h", {"authorization": f"Basic {BASIC}"}, "adamant"),
    ("x [scrubbed]", "http://h", {"authorization": "Basic CANARY7"}, "x CANARY7"),
    ("a [scrubbed] b", "http://h", {"cookie": f"session={CANARY}; x=1"}, f"a {CANARY} b"),
    ("a [scrubbed] b", "http://h", {"x-acme": CANARY}, f"a {CANARY} b"),
    ("text/html", "http://h", {"accept": "text/html"}, "text/html"),
    ("id 0123456789", "http://h", {"x-request-id": "0123456789"}, "id 0123456789"),
    ('{"detail": "[scrubbed]"}', "http://h", {"x-acme": 'CAN"ARY'}, '{"detail": "CAN\\"ARY"}'),
    ("<p>[scrubbed]</p>", "http://h", {"x-acme": "CAN&ARY"}, "<p>CAN&amp;ARY</p>"),
    ("GET /x?k=[scrubbed]", f"http://h?k={IN_URL}", {}, f"GET /x?k={IN_URL}"),
    ("k is [scrubbed]", f"http://h?k={IN_URL}", {}, f"k is {CANARY}"),
    ("http://[scrubbed]@h/x", f"http://ada:{IN_URL}@h", {}, f"http://ada:{IN_URL}@h/x"),
    ("[scrubbed] and [scrubbed]", f"http://ada:{IN_URL}@h", {}, f"ada and {CANARY}"),
    ("[scrubbed]", f"http://ada:{IN_URL}@h", {}, BASIC),
    ("cut within [scrubbed]", "http://h", {"x-acme": CANARY}, "cut within CANA"),
    ("no part CAN", "http://h", {"x-acme": CANARY}, "no part CAN"),
    ("password=[scrubbed]", "http://h", {}, "password=whatever"),
    ('{"token": "[scrubbed]", "a": 1}', "http://h", {}, '{"token": "whatever", "a": 1}'),
    ("nothing", "http://h", {}, "nothing"),
]

CUT: Final[dict[str, tuple[str, str]]] = {
    # the redacted text; JSON that was cut, or is invalid
    "a secret": ('{"a": 1, "password": "[scrubbed]"', '{"a": 1, "password": "x", "b": 2'),
    "in single quotes": ("{'a': 1, 'password': \"[scrubbed]\"", "{'a': 1, 'password': 'x', 'b': 2"),
    "spaces": ('["password" :\n"[scrubbed]"', '["password" :\n"x'),
    "JSON within it": (r'{"a": "{\"password\": "[scrubbed]"', r'{"a": "{\"password\": \"x'),
    "JSON within that": (r'{"a": "{\\\"password\\\":"[scrubbed]"', r'{"a": "{\\\"password\\\":\\\"x'),
    "a key with quotes in it": (r'{"my \"password\"": "[scrubbed]"', r'{"my \"password\"": "x'),
    "a key whose beginning is cut off": ('[password": "[scrubbed]"', '[password": "x'),
    "a count": ('{"max_tokens": 512, "b": "x', '{"max_tokens": 512, "b": "x'),
    "a count at the end": ('{"max_tokens": 512.5', '{"max_tokens": 512.5'),
    "no value": (
        '{"password": null, "secret": "", "pwd": false, "b": "x',
        '{"password": null, "secret": "", "pwd": false, "b": "x',
    ),
    "no value, and one": ('{"password": null, "secret": "[scrubbed]"', '{"password": null, "secret": "x'),
    "no key": ('{"the password" and "x", "b": 1', '{"the password" and "x", "b": 1'),
}


@pytest.mark.parametrize(("expected", "said"), CUT.values(), ids=CUT)
def test_json_that_was_cut_off(expected: str, said: str) -> None:
    """Invalid JSON is shown up to its first secret."""
    assert scrub_text(said) == expected


WEB_TOKENS: Final[dict[str, tuple[str, str]]] = {
    "one": ("a [scrubbed] b", "a eyJhbGciOi.eyJzdWIi.c2ln b"),
    "without a signature": ("[scrubbed]", "eyJhbGciOi.eyJzdWIi."),
    "after a hyphen": ("-[scrubbed]", "-eyJhbGciOi.eyJzdWIi.c2ln"),
    "among names": ("www.[scrubbed].test", "www.eyJhbGciOi.eyJzdWIi.c2ln.test"),
    "two": ("[scrubbed].[scrubbed]", "eyJhbGciOi.b.c.eyJhbGciOi.b.c"),
    "two parts": ("eyJhbGciOi.eyJzdWIi", "eyJhbGciOi.eyJzdWIi"),
    "an empty part": ("eyJhbGciOi..c2ln", "eyJhbGciOi..c2ln"),
    "within a word": ("heyJhbGciOi.b.c", "heyJhbGciOi.b.c"),
    "too short": ("eyJhb.b.c", "eyJhb.b.c"),
}


@pytest.mark.parametrize(("expected", "said"), WEB_TOKENS.values(), ids=WEB_TOKENS)
def test_json_web_tokens(expected: str, said: str) -> None:
    """A text in the form of a JSON web token is redacted anywhere."""
    assert scrub_text(said) == expected


@pytest.mark.parametrize(("expected", "url", "headers", "said"), CLEANED)
def test_redaction_of_sent_credentials(expected: str, url: str, headers: dict[str, str], said: str) -> None:
    """Credentials of the request are redacted in each spelling, and texts that look like credentials."""
    assert cleaned(said, url, headers) == expected


def test_marked_headers() -> None:
    """A marked header is redacted, even if headers of its name are shown; short values only in part."""
    headers = {"X-Request-Id": CANARY, "host": "h", "x-pin": "4711"}
    assert cleaned(f"id {CANARY}", "http://h", headers) == f"id {CANARY}"
    assert cleaned(f"id {CANARY} at h", "http://h", headers, {"x-request-id"}) == "id [scrubbed] at h"


WIDE: Final = st.text(st.characters(min_codepoint=0x21, max_codepoint=0x7E), min_size=6, max_size=40)


@given(secret=WIDE, before=st.text(max_size=20), after=st.text(max_size=20))
@example(secret="((((((", before="", after="")
def test_no_secret_remains(secret: str, before: str, after: str) -> None:
    """A redacted text does not contain the secret, unless the mark in its place does."""
    left = cleaned(before + secret + after, "http://h", {"authorization": f"Bearer {secret}"})
    assert secret not in left.replace(SCRUBBED, "") or secret in before + after


class Chunks:
    """A body in one chunk."""

    def __init__(self, *pieces: bytes) -> None:
        self._pieces = iter(pieces)

    def __aiter__(self) -> Chunks:
        return self

    async def __anext__(self) -> bytes:
        try:
            return next(self._pieces)
        except StopIteration:
            raise StopAsyncIteration from None


def response(status: int, content_type: str, body: bytes, **more: Any) -> HTTPResponse:
    """Return a server's response to a request with secrets."""
    sent = HTTPRequest(
        "POST",
        f"http://ada:{IN_URL}@h/?k={IN_URL}",
        "/sse/chat",
        {"authorization": f"Bearer {CANARY}"},
        context=Context(attempt=3),
    )
    return HTTPResponse(status, {"content-type": content_type}, Chunks(body), sent, **more)


REFUSALS: Final[list[tuple[type[errors.OxyError], str, int, str, str]]] = [
    # expected class and words; status, content type and body
    (errors.AuthenticationError, "bad token [scrubbed]", 401, "text/plain", f"bad token {CANARY}"),
    (errors.ServerError, "at /?k=[scrubbed]", 500, "text/plain", f"at /?k={IN_URL}"),
    (errors.NotFoundError, "two\nlines\tand \\x1b[2J", 404, "text/plain", "two\nlines\tand \x1b[2J"),
    (errors.StatusError, "\\u202eevil\\x0d\n", 418, "text/plain", "\u202eevil\r\n"),
    (
        errors.EnvelopeError,
        "code '401', message 'no [scrubbed]'",
        200,
        "application/json",
        '{"code": 401, "message": "no CANARY/7+q"}',
    ),
    (
        errors.EnvelopeError,
        "message 'a\\x0ab\\x1b[2J'",
        200,
        "application/json",
        '{"code": 401, "message": "a\\nb\\u001b[2J"}',
    ),
    (
        errors.EnvelopeError,
        "message '{'token': \"[scrubbed]\"'",
        200,
        "application/json",
        '{"message": {"token": "x"}}',
    ),
    (errors.EnvelopeError, "code '[scrubbed]'", 200, "application/json", '{"code": "CANARY/7+q"}'),
    (errors.NotAnEventStreamError, "'text/html; a=[scrubbed]\\x1b'", 200, f"text/html; a={CANARY}\x1b", ""),
]


@pytest.mark.parametrize(("cls", "expected", "status", "content_type", "body"), REFUSALS)
async def test_a_refusal_is_safe_to_show(
    cls: type[errors.OxyError], expected: str, status: int, content_type: str, body: str
) -> None:
    """The text and body of a refusal hold no secret and no control character."""
    error = await read_error(response(status, content_type, body.encode()), LIMITS)
    assert type(error) is cls
    assert error.attempts == 3
    assert expected in (error.body if isinstance(error, errors.StatusError) else str(error))
    assert "CANARY" not in f"{error} {vars(error)}"


@pytest.mark.parametrize("body", [b"\0" * 1000, b"fifteen letters CANARY/7+q"], ids=["escaped", "half a secret"])
async def test_the_body_of_a_refusal_is_bounded(body: bytes) -> None:
    """The body of a refusal is bounded, also after escaping, and if it ends within a secret."""
    error = await read_error(response(500, "text/plain", body), Limits(error_body_bytes=20))
    assert isinstance(error, errors.ServerError)
    assert len(error.body) <= 20
    assert "CANA" not in error.body


async def test_an_envelope_that_echoes_a_secret() -> None:
    """The error of an envelope in discovery is redacted."""
    request = HTTPRequest("GET", "http://h", "/x", {"x-acme": CANARY})
    envelope = b'{"code": 403, "message": "not for CANARY/7+q"}'
    transport = FakeTransport({"/x": Reply([envelope])})
    with pytest.raises(errors.EnvelopeError, match=r"not for \[scrubbed\]"):
        await fetch_data(transport, request, LIMITS, until=1e9)
    assert await fetch_body(transport, request, LIMITS, until=1e9) == envelope


SHOWN: Final[list[tuple[str, str, bool]]] = [
    ("plain ü 猫 👍🏽", "plain ü 猫 👍🏽", False),
    ("a\\x0ab\\x09c\\x0d", "a\nb\tc\r", False),
    ("a\nb\tc\\x0d", "a\nb\tc\r", True),
    ("\\x1b[31m\\x07\\x00\\x7f\\x9b", "\x1b[31m\x07\0\x7f\x9b", False),
    ("\\u202e\\u2066\\u200f\\u2028\\u061c", "\u202e\u2066\u200f\u2028\u061c", False),
    ("\\udc80", "\udc80", True),
    ("x" * 30, "x" * 31, False),
    ("x" * 27, "x" * 27 + "\n", False),
    ("x" * 26 + "\\x0a", "x" * 26 + "\n\n", False),
    ("x" * 29, "x" * 29 + "\u202e", True),
    ("x" * 25, "x" * 25 + "\\u202e" + "x", False),
    ("x" * 28 + "\\x", "x" * 28 + "\\xyz", False),
    ("\\u200b\\ufeff\\U000e0041", "\u200b\ufeff\U000e0041", False),
    ("x" * 25, "x" * 25 + "\U000e0041", True),
    ("x" * 28 + "\U0001f468", "x" * 28 + "\U0001f468\u200d\U0001f469", False),
    (
        "x" * 26 + "\U0001f3f4",
        "x" * 26 + "\U0001f3f4\U000e0067\U000e0062\U000e0065\U000e006e\U000e0067\U000e007f",
        True,
    ),
    ("x" * 27 + "\u2764\ufe0fx", "x" * 27 + "\u2764\ufe0fx", True),
]


@pytest.mark.parametrize(("expected", "said", "lines"), SHOWN)
def test_shown_texts(expected: str, said: str, lines: bool) -> None:
    """Control characters and invisible characters are escaped; other text is unchanged."""
    assert escape_text(said, 30, lines=lines) == expected


@given(
    st.text() | st.text("a1\u0645\u1820\u200c\u200d\u180e\ufe0f\u20e3\u2764\U0001f3f4\U000e0067\U000e007f\\"),
    st.integers(0, 50),
)
def test_shown_texts_are_bounded(said: str, limit: int) -> None:
    """A shown text is bounded, can be encoded, and is not escaped twice."""
    shown = escape_text(said, limit)
    assert len(shown) <= limit
    assert shown.encode().decode() == escape_text(shown, limit)


# --- nowhere ----------------------------------------------------------------------------------------------------------

URL: Final = f"http://ada:{IN_URL}@127.0.0.1:8082/base?key={IN_URL}"
ECHO: Final = f"you sent {CANARY}, {IN_URL}, {base64.b64encode(f'ada:{CANARY}'.encode()).decode()}"
"""Texts with which a server may echo a request."""
FINE: Final = (text("hello"), answer("42"), close())


class Authorized:
    """A wrapper that adds a token, like a policy, unknown to the agent."""

    def __init__(self, inner: Transport) -> None:
        self._inner = inner

    def exchange(self, request: HTTPRequest, /) -> Any:
        return self._inner.exchange(
            attrs.evolve(request, headers={**request.headers, "authorization": f"Bearer {CANARY}"})
        )

    async def aclose(self) -> None:
        await self._inner.aclose()


def reply(status: int, body: str, content_type: str = "text/plain", **headers: str) -> FakeTransport:
    """Return a server that gives one response to all requests."""
    said = Reply([body.encode()], status=status, headers={"content-type": content_type, **headers})
    return FakeTransport({"/sse/chat": said})


def script(*steps: Any) -> FakeTransport:
    """Return a server of a stream."""
    return FakeTransport.script(*steps)


WALK: Final[list[tuple[type[errors.OxyError] | None, Callable[[], Transport]]]] = [
    # how the run ends; the remote
    (None, lambda: script(*FINE)),
    (errors.ConnectError, lambda: faults.refuse(script(*FINE), times=None)),
    (errors.ConnectionLostError, lambda: faults.lose_before_headers(script(*FINE))),
    (errors.DeadlineExceededError, lambda: script(*(progress(1), pause(500)) * 9)),
    (errors.IdleTimeoutError, lambda: faults.hang_before_headers(script(*FINE))),
    (errors.SilenceTimeoutError, lambda: faults.fall_silent(script(*FINE))),
    (errors.IdleTimeoutError, lambda: faults.heartbeats_only(script(*FINE))),
    (errors.RedirectError, lambda: reply(302, ECHO, location=f"http://evil.example/?{CANARY}")),
    (errors.StatusError, lambda: reply(418, ECHO)),
    (errors.AuthenticationError, lambda: reply(401, ECHO)),
    (errors.PermissionDeniedError, lambda: reply(403, ECHO)),
    (errors.NotFoundError, lambda: reply(404, ECHO)),
    (errors.RateLimitedError, lambda: reply(429, ECHO)),
    (errors.ServerError, lambda: reply(500, ECHO)),
    (errors.NotAnEventStreamError, lambda: reply(200, ECHO, "text/html")),
    (errors.NotAnEventStreamError, lambda: reply(200, "", f"text/html; x={CANARY}")),
    (errors.EnvelopeError, lambda: reply(200, f'{{"code": 500, "message": "{ECHO}"}}', "application/json")),
    (errors.TooLargeError, lambda: faults.endless_line(script(*FINE))),
    (errors.IncompleteStreamError, lambda: faults.cut_after(script(*FINE), bytes=10)),
    (errors.IncompleteStreamError, lambda: faults.reset_after(script(*FINE), bytes=10)),
    (errors.NoAnswerError, lambda: script(close())),
    (errors.RemoteAgentError, lambda: script(message({"type": "error", "content": "failed"}), close())),
    (errors.MalformedResponseError, lambda: script(message({"type": "odd"}), *FINE)),
    (errors.HandlerError, lambda: script(message({"type": "boom"}), *FINE)),
]


def agent_with_secrets(transport: Transport) -> SSEOxyGent:
    """Return an agent with a secret in each setting."""

    async def boom(content: Any) -> None:
        raise RuntimeError("boom")

    agent = SSEOxyGent(
        server_url=URL,
        transport=Authorized(transport),
        headers={"x-api-key": CANARY, "x-acme": CANARY, "cookie": f"session={CANARY}"},
        forward_headers=["x-forwarded-user"],
        event_handlers={"boom": boom},
        limits=Limits(event_bytes=1000),
        timeouts=Timeouts(total=3000),
        plaintext_hosts=["127.0.0.1"],
    )
    agent.schema = {"odd": _no_odd}
    agent.strict = True
    return agent


def _no_odd(said: Any) -> None:
    raise ValueError("odd")


def asking() -> OxyRequest:
    """Return a request with secrets in its arguments, data and inbound headers."""
    inbound = {"authorization": CANARY, "x-forwarded-user": CANARY, "cookie": CANARY}
    return OxyRequest(
        arguments={"query": CANARY, "password": CANARY},
        shared_data={"_headers": inbound, "secret": CANARY},
        group_data={"secret": CANARY},
        current_trace_id="t-1",
    )


def causes(error: BaseException | None) -> Iterator[BaseException]:
    """Yield the error and its causes one by one: a traceback quotes the lines of this file."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def shows(error: BaseException) -> Iterator[str]:
    """Return all texts of an error, its causes and its attributes."""
    for each in (*causes(error), pickle.loads(pickle.dumps(error))):
        yield str(each)
        yield repr(each)
        yield repr(vars(each) if isinstance(each, errors.OxyError) else "")  # the text of a foreign cause is not ours
    partial = getattr(error, "partial", None)
    yield repr(partial)
    yield repr(attrs.asdict(partial) if partial is not None else None)


def logged(records: list[logging.LogRecord]) -> list[str]:
    """Return all texts that a handler may write for the records."""
    return [f"{record.getMessage()} {vars(record)}" for record in records]


@pytest.mark.parametrize(("cls", "over"), WALK, ids=range(len(WALK)))
async def test_no_secret_is_shown_in_runs(
    cls: type[errors.OxyError] | None, over: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    """For each end of a run, no secret is in an error, its attributes, a `repr` or a log."""
    agent = agent_with_secrets(over())
    request = asking()
    shown: list[str] = [repr(agent), str(agent), repr(request)]
    with caplog.at_level(logging.DEBUG):
        run = agent.stream(request)
        ended: errors.OxyError | None = None
        try:
            async with run:
                shown += [repr(event) async for event in run]
                shown += [repr(run.response), str(run.response.output), repr(run.response.extra)]
        except errors.OxyError as error:
            ended = error
            shown += shows(error)
        assert (None if ended is None else type(ended)) is cls
        failed = await agent_with_secrets(over()).execute(asking())
        shown += [repr(failed), str(failed.output), repr(failed.extra)]
    shown += [repr(run), repr(run.partial), *logged(caplog.records)]
    assert any("oxygent_client" == record.name for record in caplog.records)
    assert [each for each in shown if "CANARY" in each or BASIC in each] == []


@pytest.mark.parametrize(
    "over",
    [
        lambda: FakeTransport({"/get_organization": Reply([ECHO.encode()], status=500)}),
        lambda: FakeTransport({"/get_organization": Reply.json({"code": 1, "message": ECHO})}),
        lambda: FakeTransport({"/get_organization": Reply([ECHO.encode()])}),
        lambda: FakeTransport({"/get_organization": Reply.json({"code": 200, "data": {"organization": 1}})}),
    ],
    ids=["status", "envelope", "no JSON", "no tree"],
)
async def test_discovery_shows_no_secret(over: Callable[[], Transport], caplog: pytest.LogCaptureFixture) -> None:
    """Discovery shows no secret."""
    with caplog.at_level(logging.DEBUG), pytest.raises(errors.OxyError) as caught:
        await agent_with_secrets(over()).init()
    assert [each for each in (*shows(caught.value), *logged(caplog.records)) if "CANARY" in each] == []


@pytest.mark.parametrize("make", [HTTPXTransport, HTTPX2Transport])
async def test_a_refusal_over_a_network_shows_no_secret(
    make: Callable[[], Transport], caplog: pytest.LogCaptureFixture
) -> None:
    """The libraries' loggers show no secret if a real server echoes the request."""
    body = ECHO.encode()
    head = f"HTTP/1.1 401 Unauthorized\r\ncontent-type: text/plain\r\ncontent-length: {len(body)}\r\n\r\n"
    async with serving(play(head.encode() + body)) as server:
        transport = make()
        agent = agent_with_secrets(transport)
        agent.server_url = URL.replace("127.0.0.1:8082", server.url.partition("//")[2])
        with caplog.at_level(logging.DEBUG), pytest.raises(errors.AuthenticationError) as caught:
            await agent.ask(asking())
        await transport.aclose()
    assert server.requests[0].headers["x-acme"] == CANARY
    assert caught.value.body == "you sent [scrubbed], [scrubbed], [scrubbed]"
    assert {"oxygent_client", "httpcore" if make is HTTPXTransport else "httpcore2"} <= {
        record.name.partition(".")[0] for record in caplog.records
    }
    assert [each for each in (*shows(caught.value), *logged(caplog.records)) if "CANARY" in each or BASIC in each] == []


WRONG: Final[list[Callable[[], object]]] = [
    lambda: SSEOxyGent(server_url=f"ftp://ada:{CANARY}@h"),
    lambda: SSEOxyGent(server_url=f"http://ada:{CANARY} @h"),
    lambda: SSEOxyGent(server_url=f"http://ada:{CANARY}@b@h"),
    lambda: HTTPRequest("GET", "http://h", "/x", {"x-acme": f"{CANARY}\r\nevil: 1"}),
    lambda: HTTPRequest("GET", "http://h", f"/x?{CANARY}\r\n"),
]


@pytest.mark.parametrize("wrong", WRONG, ids=range(len(WRONG)))
def test_a_configuration_error_shows_no_secret(wrong: Callable[[], object]) -> None:
    """A configuration error shows no secret."""
    with pytest.raises(errors.ConfigurationError) as caught:
        wrong()
    assert [each for each in shows(caught.value) if "CANARY" in each] == []


async def test_the_walk_finds_secrets() -> None:
    """The server got the secrets, and an event keeps what it sent, also in `partial`."""
    transport = script(message(ECHO), close())
    with pytest.raises(errors.NoAnswerError) as caught:
        await agent_with_secrets(transport).ask(asking())
    sent = transport.requests[0]
    assert {"authorization", "x-api-key", "x-acme", "cookie", "x-forwarded-user"} <= sent.headers.keys()
    assert CANARY.encode() in sent.body
    assert any("CANARY" in each for each in shows(caught.value))


def test_a_text_without_a_secret_is_the_same_object() -> None:
    """A text without a secret is returned as the same object."""
    said = "nothing to hide"
    assert said is scrub_text(said)
