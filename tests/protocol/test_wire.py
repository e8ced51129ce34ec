"""Messages, responses and documents: their classes and errors, for any bytes of a server."""

from __future__ import annotations

import json
import math
from typing import Any, Final, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import (
    Answer,
    Custom,
    Decoder,
    Event,
    Limits,
    Observation,
    Outcome,
    Progress,
    RemoteErrorEvent,
    ServerSentEvent,
    Text,
    TextDelta,
    Thought,
    ToolCall,
    errors,
)
from oxygent_client._core.redaction import KEPT_HEADERS
from oxygent_client._protocol.documents import KnownAgents, members, parse_organization
from oxygent_client._protocol.endpoints import HEADERS, STREAM_HEADERS
from oxygent_client._protocol.messages import CLOSE, EVENTS, is_event_stream, to_event, unusual_event
from oxygent_client._protocol.responses import error_from_response, parse_envelope, retry_after
from tests.conftest import WIRE


def event(data: Any) -> Event:
    """Return the event of this JSON or text."""
    return to_event(ServerSentEvent(data=data if isinstance(data, str) else json.dumps(data)))


# ------------------------------------------------------------------------------------------------------------ Messages

MESSAGES: Final[list[tuple[type[Event], str | None, Any, str]]] = [
    # expected class, type and content; the data
    (Answer, "answer", "hi", '{"type": "answer", "content": "hi"}'),
    (Answer, "answer", None, '{"type": "answer"}'),
    (Answer, "answer", {"a": [1]}, '{"type": "answer", "content": {"a": [1]}, "current_trace_id": null}'),
    (Answer, "answer", math.inf, '{"type": "answer", "content": Infinity}'),
    (Answer, "answer", 2**70, f'{{"type": "answer", "content": {2**70}}}'),
    (ToolCall, "tool_call", {}, '{"type": "tool_call", "content": {}}'),
    (Observation, "observation", {"output": 1}, '{"type": "observation", "content": {"output": 1}}'),
    (TextDelta, "stream", {"delta": "x"}, '{"type": "stream", "content": {"delta": "x"}}'),
    (TextDelta, "stream_end", {"delta": ""}, '{"type": "stream_end", "content": {"delta": ""}}'),
    (TextDelta, "stream", "x", '{"type": "stream", "content": "x"}'),
    (Progress, "progress", {"progress": 45}, '{"type": "progress", "content": {"progress": 45}}'),
    (Progress, "progress", None, '{"type": "progress"}'),
    (RemoteErrorEvent, "error", "full", '{"type": "error", "content": "full"}'),
    (Thought, "think", "hm", '{"type": "think", "content": "hm", "agent": "a"}'),
    (Custom, "re_run", {}, '{"type": "re_run", "content": {}}'),
    (Custom, "Answer", 1, '{"type": "Answer", "content": 1}'),
    (Custom, "", 1, '{"type": "", "content": 1}'),
    (Custom, None, 1, '{"type": null, "content": 1}'),
    (Custom, None, 1, '{"type": ["answer"], "content": 1}'),
    (Custom, None, 1, '{"type": 7, "content": 1}'),
    (Custom, None, 1, '{"content": 1}'),
    (Custom, None, None, "{}"),
    (Custom, None, [1, [2]], "[1, [2]]"),
    (Custom, None, 123, "123"),
    (Custom, None, None, "null"),
    (Custom, None, True, "true"),
    (Custom, None, "x", '"x"'),
    (Custom, None, -math.inf, "-Infinity"),
    (Text, None, "just text", "just text"),
    (Text, None, "", ""),
    (Text, None, "done", "done"),
    (Text, None, "[DONE]", "[DONE]"),
    (Text, None, "{not json", "{not json"),
    (Text, None, "a\nb", "a\nb"),
    (Text, None, "\ufeff{}", "\ufeff{}"),
    (Text, None, "\0", "\0"),
]


@pytest.mark.parametrize(("cls", "kind", "content", "data"), MESSAGES)
def test_messages(cls: type[Event], kind: str | None, content: Any, data: str) -> None:
    """A message has the class of its type; unknown types, and text that is not JSON, are kept."""
    found = to_event(ServerSentEvent("name", data, "7", 5))
    assert type(found) is cls
    assert found.type == kind
    assert found.content == content
    assert found.sse == ServerSentEvent("name", data, "7", 5)
    assert found.message == (data if cls is Text else json.loads(data))


def test_not_a_number() -> None:
    """An answer may be NaN."""
    assert math.isnan(event('{"type": "answer", "content": NaN}').content)


@pytest.mark.parametrize(
    ("message", "text", "agent"),
    [
        ({"content": "hm", "agent": "a"}, "hm", "a"),
        ({"content": "hm"}, "hm", ""),
        ({"content": {"x": 1}, "agent": 7}, "", ""),
    ],
    ids=["as usual", "without an agent", "of other types"],
)
def test_thoughts(message: dict[str, Any], text: str, agent: str) -> None:
    """A thought has its text and its agent; each is empty where the remote sends none."""
    found = event({"type": "think", **message})
    assert isinstance(found, Thought)
    assert found.text == text
    assert found.agent == agent


WIRE_JSON: Final = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3) | st.sampled_from([*EVENTS]),
    lambda members: (
        st.lists(members, max_size=3)
        | st.dictionaries(st.sampled_from(["type", "content", "x"]), members, max_size=3)
        | st.fixed_dictionaries({"type": st.sampled_from([*EVENTS]), "content": members})
    ),
    max_leaves=8,
)


@given(WIRE_JSON.map(json.dumps) | st.text(max_size=9), st.integers(1, 4))
def test_usual_and_unusual_messages(data: str, depth: int) -> None:
    """A message of the usual shape becomes the event that the general path makes of it."""
    sse, limits = ServerSentEvent("name", data, "7", 5), Limits(depth=depth)
    found, expected = to_event(sse, limits), unusual_event(sse, depth)
    assert found == expected
    assert found.problems == expected.problems


@pytest.mark.parametrize("kind", ["tool_call", "observation"])
@pytest.mark.parametrize("content", ["text", None, [1], 3, False])
def test_malformed_steps(kind: str, content: Any) -> None:
    """A step whose content is not an object is a Custom event with its type."""
    found = event({"type": kind, "content": content, "secret": "SECRET"})
    assert type(found) is Custom
    assert found.type == kind
    assert found.content == content


def test_a_message_that_is_too_deep() -> None:
    """A message over the depth limit is a text with a problem."""
    assert event("[" * 128 + "]" * 128).problems == ()
    deep = event("[" * 129 + "]" * 129)
    assert isinstance(deep, Text)
    assert deep.text == "[" * 129 + "]" * 129
    assert deep.type is None
    assert "Limits.depth (128)" in deep.problems[0]
    assert to_event(ServerSentEvent(data="[[]]"), Limits(depth=1)).problems != ()


def test_an_answer_that_is_too_deep() -> None:
    """An answer over the depth limit is recognized by its outermost object."""
    deep = to_event(ServerSentEvent(data='{"content": [[]], "type": "answer"}'), Limits(depth=2))
    assert isinstance(deep, Text)
    assert deep.type == "answer"


@pytest.mark.parametrize("kind", ["answer", "progress", "tool_call", "mine", None])
def test_a_message_with_a_long_integer(kind: str | None) -> None:
    """A message with a long integer keeps its class and the digits as a text, with a problem."""
    found = event(json.dumps({"type": kind, "content": {"n": 0}}).replace("0", "9" * 5000))
    assert type(found) is EVENTS.get(str(kind), Custom)
    assert found.content == {"n": "9" * 5000}
    assert "5000 digits" in found.problems[0]


def test_every_type_has_a_class() -> None:
    """Each type in the documentation and in recordings has a class."""
    assert {*EVENTS} == {"answer", "tool_call", "observation", "stream", "stream_end", "think", "progress", "error"}


MANIFEST: Final[list[dict[str, Any]]] = json.loads((WIRE / "manifest.json").read_text(encoding="utf-8"))
KINDS: Final[dict[str, type[Event]]] = {
    "answer": Answer,
    "tool_call": ToolCall,
    "observation": Observation,
    "stream": TextDelta,
    "stream_end": TextDelta,
    "think": Thought,
    "progress": Progress,
}


def kind_of(data: str) -> type[Event]:
    """Return the class of the message in a recorded block, by its JSON."""
    try:
        message = json.loads(data)
    except ValueError:
        return Text
    kind = cast("dict[str, Any]", message).get("type") if isinstance(message, dict) else None
    return KINDS.get(str(kind), Custom)


@pytest.mark.parametrize("recording", MANIFEST, ids=lambda recording: recording["file"])
def test_recorded_messages(recording: dict[str, Any]) -> None:
    """Each recorded message has its class, and the answers are those of the manifest."""
    found = [to_event(sse) for sse in Decoder().feed((WIRE / recording["file"]).read_bytes()) if sse.event != CLOSE]
    blocks = [block for block in recording["events"] if block.get("event") != CLOSE]
    assert [kind_of(block["data"]) for block in blocks] == [type(each) for each in found]
    assert [block["data"] for block in blocks] == [each.sse.data for each in found]
    answers = [each for each in found if isinstance(each, Answer)]
    assert recording["answers"] == [each.content for each in answers if "content" in each.message]
    assert recording["last_answer"] == (answers[-1].content if answers else None)


CONTENT_TYPES: Final = [
    (True, "text/event-stream"),
    (True, "text/event-stream; charset=utf-8"),
    (True, "Text/Event-Stream;charset=windows-1252"),
    (True, " text/event-stream ;"),
    (False, "text/event-streams"),
    (False, "application/json, text/event-stream"),
    (False, "application/json"),
    (False, ""),
]


@pytest.mark.parametrize(("expected", "content_type"), CONTENT_TYPES)
def test_content_types(expected: bool, content_type: str) -> None:
    """The content type of an event stream may have parameters."""
    assert is_event_stream(content_type) == expected


@pytest.mark.parametrize("name", [*HEADERS, *STREAM_HEADERS])
def test_our_headers_are_public(name: str) -> None:
    """The value of a header of ours is not taken for a credential, so a response that contains it is shown."""
    assert name in KEPT_HEADERS


# ------------------------------------------------------------------------------------------------------ Error responses

DATE: Final = "Fri, 20 Nov 2026 09:00:00 GMT"
WAITS: Final[list[tuple[float | None, dict[str, str]]]] = [
    # expected, the headers
    (None, {}),
    (None, {"date": DATE}),
    (0.0, {"retry-after": "0"}),
    (30.0, {"retry-after": "30"}),
    (30.0, {"retry-after": " 030 "}),
    (999_999_999.0, {"retry-after": "999999999"}),
    (None, {"retry-after": "1000000000"}),
    (None, {"retry-after": "9" * 5000}),
    (None, {"retry-after": "1.5"}),
    (None, {"retry-after": "-1"}),
    (None, {"retry-after": "+1"}),
    (None, {"retry-after": "٣"}),
    (None, {"retry-after": "soon"}),
    (None, {"retry-after": ""}),
    (60.0, {"retry-after": "Fri, 20 Nov 2026 09:01:00 GMT", "date": DATE}),
    (60.0, {"retry-after": "Fri, 20 Nov 2026 10:01:00 +0100", "date": DATE}),
    (0.0, {"retry-after": "Fri, 20 Nov 2026 08:00:00 GMT", "date": DATE}),
    (None, {"retry-after": "Fri, 20 Nov 2026 09:01:00 GMT"}),
    (None, {"retry-after": "Fri, 20 Nov 2026 09:01:00 GMT", "date": "yesterday"}),
    (None, {"retry-after": "Fri, 20 Nov 2026 09:01:00 -0000", "date": DATE}),
    (None, {"retry-after": "Fri, 20 Nov 2026 09:01:00", "date": DATE}),
    (None, {"retry-after": "Fri, 99 Nov 2026 09:01:00 GMT", "date": DATE}),
    (None, {"retry-after": "Fri, 20 Nov 99999999999999999999 09:01:00 GMT", "date": DATE}),
    (None, {"retry-after": "Fri, 20 Nov 2026 09:01:00 +99999999999999999999", "date": DATE}),
]


@pytest.mark.parametrize(("expected", "headers"), WAITS)
def test_retry_after(expected: float | None, headers: dict[str, str]) -> None:
    """Retry-After is seconds, or a date by the server's clock; other values are ignored."""
    assert retry_after(headers) == expected


DATE_WORDS: Final = st.sampled_from(
    "Fri, 20 Nov 2026 09:01:00 GMT +0000 -0000 +99999999999999999999 99999999999999999999 - + : , 0 25:61:61 ²".split()
)


@given(st.lists(DATE_WORDS, max_size=8).map(" ".join) | st.text(max_size=30))
def test_any_retry_after(value: str) -> None:
    """Any Retry-After gives seconds or None."""
    wait = retry_after({"retry-after": value, "date": DATE})
    assert wait is None or wait >= 0


UNKNOWN, REJECTED = Outcome.UNKNOWN, Outcome.REJECTED
SOON: Final = {"retry-after": "5"}
LATER: Final = {"retry-after": "Fri, 20 Nov 2026 09:00:07 GMT", "date": DATE}
STATUSES: Final[list[tuple[type[errors.StatusError], Outcome, bool, float | None, int, dict[str, str]]]] = [
    # expected class, outcome, retryable and retry_after; the status, the headers
    (errors.StatusError, UNKNOWN, False, None, 100, {}),
    (errors.StatusError, UNKNOWN, False, None, 101, {}),
    (errors.StatusError, UNKNOWN, False, None, 204, {}),
    (errors.StatusError, UNKNOWN, False, None, 206, {}),
    *((errors.RedirectError, REJECTED, False, None, status, {}) for status in (300, 301, 302, 303, 304, 307, 308)),
    (errors.StatusError, REJECTED, False, None, 400, {}),
    (errors.AuthenticationError, REJECTED, False, None, 401, {}),
    (errors.PermissionDeniedError, REJECTED, False, None, 403, {}),
    (errors.NotFoundError, REJECTED, False, None, 404, {}),
    (errors.StatusError, REJECTED, False, None, 405, {}),
    (errors.StatusError, REJECTED, False, None, 422, {}),
    (errors.RateLimitedError, REJECTED, True, None, 429, {}),
    (errors.RateLimitedError, REJECTED, True, 5, 429, SOON),
    (errors.StatusError, REJECTED, False, None, 499, {}),
    (errors.ServerError, UNKNOWN, False, None, 500, {}),
    (errors.ServerError, UNKNOWN, False, 5, 500, SOON),
    (errors.ServerError, UNKNOWN, False, 5, 502, SOON),
    (errors.ServerError, UNKNOWN, False, None, 503, {}),
    (errors.ServerError, REJECTED, True, 5, 503, SOON),
    (errors.ServerError, REJECTED, True, 7, 503, LATER),
    (errors.ServerError, REJECTED, True, 0, 503, {"retry-after": "0"}),
    (errors.ServerError, UNKNOWN, False, None, 503, {"retry-after": "soon"}),
    (errors.ServerError, UNKNOWN, False, None, 503, {"retry-after": LATER["retry-after"]}),
    (errors.ServerError, UNKNOWN, False, 5, 504, SOON),
    (errors.ServerError, UNKNOWN, False, None, 599, {}),
    (errors.StatusError, UNKNOWN, False, None, 600, {}),
    (errors.StatusError, UNKNOWN, False, None, 999, {}),
]


@pytest.mark.parametrize(("cls", "outcome", "retryable", "wait", "status", "headers"), STATUSES)
def test_statuses(
    cls: type[errors.StatusError],
    outcome: Outcome,
    retryable: bool,
    wait: float | None,
    status: int,
    headers: dict[str, str],
) -> None:
    """Each status has its error; it is REJECTED and retryable only if the request surely did not run."""
    error = error_from_response(status, headers, b"why \xff")
    assert isinstance(error, errors.StatusError)
    assert type(error) is cls
    assert error.outcome == outcome
    assert error.retryable == retryable
    assert error.retry_after == wait
    assert error.status == status
    assert error.body == "why \ufffd"
    assert f" {status} (" in str(error)
    assert "why" not in str(error)


JSON_TYPE: Final = {"content-type": "application/json; charset=utf-8"}
NO_STREAMS: Final[list[tuple[type[errors.OxyError], str, dict[str, str], bytes]]] = [
    # expected class, a word of the text; the headers and the body of a 200
    (errors.EnvelopeError, "'403', message 'denied by", JSON_TYPE, (WIRE / "v1.1.3_intercept_dict.json").read_bytes()),
    (errors.EnvelopeError, "code 'None', message 'None'", JSON_TYPE, b"{}"),
    (errors.NotAnEventStreamError, "application/json", JSON_TYPE, b'{"code": 200, "data": {}}'),
    (errors.NotAnEventStreamError, "application/json", JSON_TYPE, b'{"code": 200}'),
    (errors.NotAnEventStreamError, "application/json", JSON_TYPE, b'{"code": 40'),
    (errors.NotAnEventStreamError, "application/json", JSON_TYPE, b"[" * 100_000),
    (errors.NotAnEventStreamError, "application/json", JSON_TYPE, b"\xff"),
    (errors.NotAnEventStreamError, "application/json", JSON_TYPE, b"9" * 5000),
    (errors.NotAnEventStreamError, "text/html", {"content-type": "text/html"}, b'{"code": 403}'),
    (errors.NotAnEventStreamError, "no content type", {}, b""),
    (errors.NotAnEventStreamError, r"'x\\x1b\[31m", {"content-type": "x\x1b[31m" + "y" * 5000}, b""),
]


@pytest.mark.parametrize(("cls", "said", "headers", "body"), NO_STREAMS)
def test_a_200_that_is_not_an_event_stream(
    cls: type[errors.OxyError], said: str, headers: dict[str, str], body: bytes
) -> None:
    """A 200 that is not an event stream raises the error of its envelope, or NotAnEventStreamError."""
    error = error_from_response(200, headers, body)
    assert type(error) is cls
    assert error.outcome == UNKNOWN
    assert error.retryable is False
    with pytest.raises(cls, match=said):
        raise error
    assert len(str(error)) < 500


# ----------------------------------------------------------------------------------------------------------- Documents


def body(value: Any) -> bytes:
    """Return JSON in UTF-8."""
    return json.dumps(value).encode()


ENVELOPES: Final[list[tuple[Any, bytes]]] = [
    # expected: data, or the error; the body
    ({}, b'{"code": 200, "message": "SUCCESS", "data": {}}'),
    ({"a": [1]}, b'{"code": 200, "data": {"a": [1]}}'),
    (errors.EnvelopeError, b'{"code": 400, "message": "illegal channel_id", "data": {}}'),
    ({}, b'{"code": "200", "data": {}}'),
    ({}, b'{"code": null, "data": {}}'),
    ({"a": 1}, b'{"data": {"a": 1}}'),
    ({"a": "9" * 5000}, b'{"code": 200, "data": {"a": %b}}' % (b"9" * 5000)),
    (errors.EnvelopeError, b'{"code": "500", "data": {}}'),
    (errors.EnvelopeError, b'{"code": " 200", "data": {}}'),
    (errors.EnvelopeError, b'{"message": "busy"}'),
    (errors.EnvelopeError, b'{"error": {"message": "busy"}}'),
    (errors.EnvelopeError, b"{}"),
    (errors.EnvelopeError, b'{"code": true, "data": {}}'),
    (errors.EnvelopeError, b'{"code": NaN, "data": {}}'),
    (errors.EnvelopeError, b'{"code": %b, "data": {}}' % (b"9" * 4300)),
    (errors.EnvelopeError, b'{"code": {"a": [[[]]]}, "message": {"b": 1}}'),
    (errors.EnvelopeError, b'{"detail": "Not Found"}'),
    (errors.EnvelopeError, b'{"code": 500, "message": "%b"}' % (b"x" * 100_000)),
    (errors.MalformedResponseError, b'{"code": 200}'),
    (errors.MalformedResponseError, b'{"code": 200, "data": []}'),
    (errors.MalformedResponseError, b'{"code": 200, "data": null}'),
    (errors.MalformedResponseError, b'{"code": 200, "data": "{}"}'),
    (errors.MalformedResponseError, b""),
    (errors.MalformedResponseError, b"[]"),
    (errors.MalformedResponseError, b"null"),
    (errors.MalformedResponseError, b'"text"'),
    (errors.MalformedResponseError, b"<html></html>"),
    (errors.MalformedResponseError, b'{"code": 200, "data": {}'),
    (errors.MalformedResponseError, b'\xef\xbb\xbf{"code": 200, "data": {}}'),
    (errors.MalformedResponseError, b'{"code": "\xff"}'),
    (errors.EnvelopeError, b'{"code": %b, "data": {}}' % (b"9" * 5000)),
    (errors.MalformedResponseError, b'{"data": []}'),
    (errors.TooLargeError, b"[" * 1_000_000),
    (errors.TooLargeError, b'{"code": 200, "data": ' + b'{"a":' * 200 + b"1" + b"}" * 201),
]


@pytest.mark.parametrize(("expected", "text"), ENVELOPES, ids=range(len(ENVELOPES)))
def test_envelopes(expected: Any, text: bytes) -> None:
    """An envelope gives its data or a typed error for any body; the error's text is bounded."""
    if isinstance(expected, dict):
        assert parse_envelope(text) == expected
        return
    with pytest.raises(expected) as caught:
        parse_envelope(text)
    assert type(caught.value) is expected
    assert len(str(caught.value)) < 500


CODES: Final[list[tuple[Any, bytes]]] = [(400, b"400"), (-1, b"-1"), (None, b'"400"'), (None, b"null"), (None, b"1.5")]


@pytest.mark.parametrize(("expected", "code"), CODES)
def test_the_code_of_an_envelope(expected: int | None, code: bytes) -> None:
    """The code of an envelope is a number or None."""
    with pytest.raises(errors.EnvelopeError) as caught:
        parse_envelope(b'{"code": %b}' % code)
    assert caught.value.code == expected


def node(*children: Any, **more: Any) -> dict[str, Any]:
    """Return a node of an organization."""
    return {"name": "n", "children": [*children], **more}


def chain(depth: int) -> dict[str, Any]:
    """Return a node with nested nodes."""
    tree = node()
    for _ in range(depth):
        tree = node(tree)
    return tree


@pytest.mark.parametrize("path", sorted(WIRE.glob("*get_organization.json")), ids=lambda path: path.name)
def test_real_organizations(path: Any) -> None:
    """The organizations of real servers are read, also of a server without agents."""
    data = json.loads(path.read_bytes())["data"]
    root = parse_organization(parse_envelope(path.read_bytes()))
    assert data["organization"] == root
    names = [each["name"] for each in members(root) if "name" in each]
    assert {*data["id_dict"]} <= {*names}


ORGANIZATIONS: Final[list[tuple[int, Any]]] = [
    # expected number of nodes; the organization
    (1, {}),
    (1, {"path": [""]}),
    (1, {"children": []}),
    (3, node(node(), node())),
    (4, node(node(node()), {"name": None})),
    (2001, chain(2000)),
    (99_999, node(*[{}] * 99_998)),
]
NO_ORGANIZATIONS: Final[list[tuple[type[errors.OxyError], Any]]] = [
    # expected error; the organization
    (errors.TooLargeError, node(*[{}] * 100_000)),
    (errors.TooLargeError, node(*[node(*[{}] * 1000)] * 100)),
    (errors.MalformedResponseError, None),
    (errors.MalformedResponseError, []),
    (errors.MalformedResponseError, "text"),
    (errors.MalformedResponseError, {"children": None}),
    (errors.MalformedResponseError, {"children": {}}),
    (errors.MalformedResponseError, {"children": "ab"}),
    (errors.MalformedResponseError, node("text")),
    (errors.MalformedResponseError, node(None)),
    (errors.MalformedResponseError, node([])),
    (errors.MalformedResponseError, node(node(node(3)))),
    (errors.MalformedResponseError, node({}, {"children": 1})),
]


@pytest.mark.parametrize(("expected", "tree"), ORGANIZATIONS, ids=range(len(ORGANIZATIONS)))
def test_organizations(expected: int, tree: Any) -> None:
    """An organization is a tree of objects within the limit, however deep or wide."""
    root = parse_organization({"organization": tree})
    assert root is tree
    assert sum(1 for _ in members(root)) == expected


@pytest.mark.parametrize(("expected", "tree"), NO_ORGANIZATIONS, ids=range(len(NO_ORGANIZATIONS)))
def test_malformed_organizations(expected: type[errors.OxyError], tree: Any) -> None:
    """A tree that is too large or malformed raises a typed error."""
    with pytest.raises(expected):
        parse_organization({"organization": tree})


def test_no_organization() -> None:
    """Data without an organization is malformed."""
    with pytest.raises(errors.MalformedResponseError):
        parse_organization({})


def test_the_limit_of_members() -> None:
    """The limit itself is allowed."""
    tree = node(node(), node(node()))
    assert parse_organization({"organization": tree}, Limits(nodes=4)) is tree
    with pytest.raises(errors.TooLargeError, match=r"Limits.nodes \(3\)"):
        parse_organization({"organization": tree}, Limits(nodes=3))


def test_the_order_of_members() -> None:
    """A tree is walked from its root, each node before its children, in order."""
    tree = {"name": 1, "children": [{"name": 2, "children": [{"name": 3}]}, {"name": 4}]}
    assert [each["name"] for each in members(tree)] == [1, 2, 3, 4]


JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["code", "data", "organization", "children", "name", "agents"]), inner, max_size=4
        )
    ),
    max_leaves=15,
)


@given(JSON, JSON)
def test_any_document(tree: Any, listing: Any) -> None:
    """Any JSON as a document is read or raises RemoteProtocolError."""
    for text in (body(tree), body({"code": 200, "data": {"organization": tree, "agents": listing}})):
        try:
            data = parse_envelope(text)
            root = parse_organization(data)
        except errors.RemoteProtocolError:
            continue
        assert all(isinstance(name, str) for name in KnownAgents.read(root, data).names)


# ---------------------------------------------------------------------------------------------------------------- Names

TREE: Final[dict[str, Any]] = {"name": "master", "children": [{"name": "a"}, {"name": ""}, {"path": []}, {"name": 3}]}
AGENTS: Final[list[tuple[set[str], bool, dict[str, Any], dict[str, Any] | None]]] = [
    # expected names, and whether they are complete; the organization, the data of /get_agents
    ({"master", "a"}, False, TREE, None),
    ({"master", "a"}, False, TREE, {}),
    ({"master", "a"}, False, TREE, {"agents": {"name": "b"}}),
    ({"master", "a"}, False, TREE, {"agents": None}),
    ({"master", "a"}, True, TREE, {"agents": []}),
    ({"master", "a", "b"}, True, TREE, {"agents": [{"name": "b"}, {"name": "a"}]}),
    ({"b"}, True, {"path": [""]}, {"agents": [{"name": "b"}, {"name": ""}, {"name": None}, {}, "c", None, ["d"]]}),
    (set(), False, {}, None),
]


@pytest.mark.parametrize(("names", "complete", "root", "listing"), AGENTS)
def test_agents(names: set[str], complete: bool, root: dict[str, Any], listing: dict[str, Any] | None) -> None:
    """The names are those of the tree and of the list; they are complete only with a list."""
    assert KnownAgents(frozenset(names), complete) == KnownAgents.read(root, listing)


@pytest.mark.parametrize("version", ["v1.0.13", "v1.1.3"])
def test_the_agents_of_real_servers(version: str) -> None:
    """The list of a real server also names tools, models and agents that its tree does not have."""
    root = parse_organization(parse_envelope((WIRE / f"{version}_get_organization.json").read_bytes()))
    listing = parse_envelope((WIRE / f"{version}_get_agents.json").read_bytes())
    found = KnownAgents.read(root, listing)
    assert found.complete
    assert {"master", "echo_agent", "stub_llm", "add"} <= found.names
    assert "echo_agent" not in KnownAgents.read(root, None).names
