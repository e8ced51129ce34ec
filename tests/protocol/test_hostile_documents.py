"""Hostile documents and error responses: each raises a typed error or does no harm, in bounded time.

Rule 1: for any bytes of the remote, `init`, `get_org` and a run raise only `OxyError`.
Rule 2: the text of an error can be encoded, printed, logged and pickled, and is short.
"""

from __future__ import annotations

import copy
import json
import logging
import pickle
import time
from typing import Any, Final

import anyio
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from oxygent_client import Limits, SSEOxyGent, errors
from oxygent_client._protocol.documents import KnownAgents, parse_organization
from oxygent_client._protocol.responses import parse_envelope
from oxygent_client.testing import FakeTransport, Reply, answer, close

PATHS: Final[tuple[str, ...]] = ("/get_organization", "/get_description", "/get_agents")
RUN: Final = Reply([answer("42"), close()])
SOON: Final = 20.0
"""Seconds, on any machine: quadratic code takes minutes."""


def wrapped(data: str) -> bytes:
    """Return an envelope around JSON."""
    return f'{{"code": 200, "message": "SUCCESS", "data": {data}}}'.encode()


def tree(inner: str) -> bytes:
    """Return an organization with these members, as JSON."""
    return wrapped(f'{{"organization": {{"name": "root", {inner}}}}}')


GOOD: Final = {
    "/get_organization": tree('"children": []'),
    "/get_description": wrapped('{"description": "d"}'),
    "/get_agents": wrapped('{"agents": [{"name": "a"}]}'),
}


def remote(documents: dict[str, bytes]) -> FakeTransport:
    """Return a remote that answers runs and these documents."""
    headers = {"content-type": "application/json"}
    replies = {path: Reply([body], headers=headers) for path, body in {**GOOD, **documents}.items()}
    return FakeTransport({"/sse/chat": RUN, **replies})


def check_text(error: errors.OxyError) -> None:
    """Assert that the text of the error is safe to show and can be pickled."""
    for text in (str(error), repr(error)):
        text.encode()
        assert len(text) < 3000
        assert not [char for char in text if char < " " or "\x7f" <= char <= "\x9f"]
    assert str(pickle.loads(pickle.dumps(error))) == str(error)


async def initialised(
    documents: dict[str, bytes], limits: Limits = Limits()
) -> tuple[SSEOxyGent, errors.OxyError | None]:
    """Return an agent after `init`, and the error if any; the agent can be copied and pickled."""
    agent = SSEOxyGent(server_url="http://remote.test", transport=remote(documents), limits=limits)
    error = None
    try:
        await agent.init()
    except errors.OxyError as raised:
        check_text(raised)
        error = raised
    assert isinstance(agent.get_org(), list)
    assert isinstance(agent.desc, str)
    copy.deepcopy(agent._catalog)
    return agent, error


MALFORMED, LARGE, ENVELOPE = errors.MalformedResponseError, errors.TooLargeError, errors.EnvelopeError

ANYWHERE: Final[dict[str, tuple[bytes, type[errors.OxyError]]]] = {
    # the contents of each of the three documents: (its bytes, the error)
    "empty": (b"", MALFORMED),
    "blank": (b" \n", MALFORMED),
    "null": (b"null", MALFORMED),
    "true": (b"true", MALFORMED),
    "a number": (b"7", MALFORMED),
    "NaN": (b"NaN", MALFORMED),
    "a list": (b"[]", MALFORMED),
    "cut": (b'{"code": 200, "da', MALFORMED),
    "two": (b"{}{}", MALFORMED),
    "HTML": (b"<html>", MALFORMED),
    "a BOM": (b"\xef\xbb\xbf" + wrapped("{}"), MALFORMED),
    "UTF-16": (wrapped("{}").decode().encode("utf-16"), MALFORMED),
    "UTF-32": (wrapped("{}").decode().encode("utf-32"), MALFORMED),
    "invalid UTF-8": (wrapped('"\xe9"').decode().encode("latin-1"), MALFORMED),
    "a surrogate in UTF-8": (wrapped('"?"').replace(b"?", b"\xed\xa0\x80"), MALFORMED),
    "NUL": (b"\0" * 1000, MALFORMED),
    "5,000 digits": (b'{"code": 200, "data": ' + b"9" * 5000 + b"}", MALFORMED),
    "a code of 5,000 digits": (b'{"code": ' + b"9" * 5000 + b"}", ENVELOPE),
    "100,000 lists deep": (b"[" * 100_000 + b"]" * 100_000, LARGE),
    "100,000 objects deep": (b'{"a":' * 100_000, LARGE),
    "deep in the data": (wrapped("[" * 500 + "]" * 500), LARGE),
    "data is a list": (wrapped("[]"), MALFORMED),
    "data is null": (wrapped("null"), MALFORMED),
    "the last of two codes counts": (b'{"code": 200, "code": 500, "data": {}}', ENVELOPE),
    "no envelope": (b"{}", ENVELOPE),
    "a code that is a text": (b'{"code": "500", "data": {}}', ENVELOPE),
    "a code that is true": (b'{"code": true, "data": {}}', ENVELOPE),
    "a code that is NaN": (b'{"code": NaN, "data": {}}', ENVELOPE),
    "a code beyond floats": (b'{"code": 1e999999, "data": {}}', ENVELOPE),
    "a code that is deep": (b'{"code": ' + b"[" * 100 + b"]" * 100 + b"}", ENVELOPE),
    "a surrogate in the message": (rb'{"code": 1, "message": "\ud800\udc00 \ud800 \udfff"}', ENVELOPE),
    "escapes in the message": (rb'{"code": 1, "message": "\u001b[31m\u0007\u0000\u009b2J\u202e\r\n"}', ENVELOPE),
    "a message of 7 MB": (b'{"code": 1, "message": "' + b"\\u001b" * 1_200_000 + b'"}', ENVELOPE),
    "a message that is a tree": (b'{"code": 1, "message": {"a": [1, {"b": null}]}}', ENVELOPE),
    "too large": (b" " * 9_000_000, LARGE),
}
OPTIONAL: Final = {ENVELOPE}
"""Harmless contents of a description or an agent list: some servers do not have it."""


@pytest.mark.parametrize("path", PATHS)
@pytest.mark.parametrize("which", ANYWHERE)
async def test_hostile_documents(which: str, path: str) -> None:
    """A hostile document raises a typed error in `init` or does no harm, and the agent can still run."""
    body, expected = ANYWHERE[which]
    with anyio.fail_after(SOON):
        agent, error = await initialised({path: body})
        harmless = path != "/get_organization" and expected in OPTIONAL
        assert (None if harmless else expected) == (type(error) if error else None)
        assert (await agent.ask("hi")).output == "42"


TREES: Final[dict[str, tuple[bytes, type[errors.OxyError] | None]]] = {
    # an organization: (its bytes, the error or None)
    "no object": (wrapped('{"organization": [1]}'), MALFORMED),
    "nothing": (wrapped("{}"), MALFORMED),
    **{
        f"children {value[:12]}": (tree(f'"children": {value}'), MALFORMED)
        for value in ("null", "7", '"text"', "{}", "[[]]", "[null]", '["a"]', "[{}, 7]", '[{"children": 7}]', "true")
    },
    "the last children count": (tree('"children": [{}], "children": 7'), MALFORMED),
    "too deep": (tree('"children": [{' * 200 + "}]" * 200), LARGE),
    "a million children": (tree('"children": [' + "{}," * 999_999 + "{}]"), LARGE),
    "names of every kind": (
        tree(
            '"children": [{"name": {"a": 1}}, {"name": null}, {"name": 7}, {"name": []}, {"name": NaN}, {"name": ""}]'
        ),
        None,
    ),
    "a name of 7 MB": (tree('"children": [{"name": "' + "x" * 7_000_000 + '"}]'), None),
    "names with surrogates": (tree(r'"children": [{"name": "\ud800"}, {"\udfff": "\udfff"}]'), None),
    "names with escapes": (tree(r'"children": [{"name": "\u001b[2J\u0007\u202e"}]'), None),
    "one id again and again": (tree('"id": 1, "children": [{"id": 1, "children": [{"id": 1}]}]'), None),
    "huge numbers": (tree('"children": [{"x": 1e999999, "y": -1e999999, "z": NaN, "n": 1e-999999}]'), None),
    "4,000 digits": (tree('"x": ' + "9" * 4000), None),
    "keys of ours": (tree('"children": [{"is_remote": false, "__class__": "x", "children": []}]'), None),
    "a deep member beside the tree": (tree('"x": ' + "[" * 120 + "]" * 120), None),
    "as deep as may be": (tree('"children": [{' * 60 + "}]" * 60), None),
}


@pytest.mark.parametrize("which", TREES)
async def test_hostile_organizations(which: str) -> None:
    """A hostile organization raises a typed error, or is copied and marked whole, with names that are safe to show."""
    body, expected = TREES[which]
    with anyio.fail_after(SOON):
        agent, error = await initialised({"/get_organization": body})
        assert (type(error) if error else None) == expected
        waiting = agent.get_org()
        while waiting:
            node = waiting.pop()
            assert node["is_remote"] is True
            waiting.extend(node.get("children", []))


async def test_the_deepest_organization() -> None:
    """An organization of the greatest depth allowed is read, copied, marked and pickled."""
    body = tree('"x": ' + "[" * 395 + "]" * 395 + ', "children": [{' + '"children": [{' * 190 + "}]" * 190 + "}]")
    agent, error = await initialised({"/get_organization": body}, Limits(depth=400))
    assert error is None
    assert len(agent.get_org()) == 1
    assert agent.org == pickle.loads(pickle.dumps(agent.org))


LISTINGS: Final = {
    # the data of `/get_agents`: whether it is a valid list
    '{"agents": null}': False,
    '{"agents": {}}': False,
    '{"agents": "abc"}': False,
    '{"agents": [null, 7, [], "a", {"name": {}}, {"name": ["a"]}, {"name": null}, {"name": 1e999999}]}': True,
    '{"agents": [' + '{"name": "a"},' * 300_000 + '{"name": "a"}]}': True,
    '{"agents": [{"name": "' + "x" * 6_000_000 + '"}]}': True,
    r'{"agents": [{"name": "\ud800"}, {"name": "\u001b[2J\n"}]}': True,
}


@pytest.mark.parametrize(("data", "is_list"), LISTINGS.items(), ids=range(len(LISTINGS)))
async def test_hostile_listings(data: str, is_list: bool, caplog: pytest.LogCaptureFixture) -> None:
    """A callee that is not listed raises an error that is safe to show, whatever the list holds."""
    transport = remote({"/get_agents": wrapped(data)})
    agent = SSEOxyGent(server_url="http://remote.test", transport=transport, callee="nobody")
    with anyio.fail_after(SOON), caplog.at_level(logging.DEBUG, "oxygent_client"):
        if is_list:
            with pytest.raises(errors.UnknownCalleeError) as raised:
                await agent.ask("hi")
            check_text(raised.value)
        else:
            assert (await agent.ask("hi")).output == "42"
    for record in caplog.records:
        record.getMessage().encode()


async def test_error_responses(caplog: pytest.LogCaptureFixture) -> None:
    """An error response to a run raises a typed error that is safe to show, log and pickle."""
    headers = {"content-type": "application/json"}
    for body, _ in ANYWHERE.values():
        transport = FakeTransport({"/sse/chat": Reply([body], headers=headers)})
        with caplog.at_level(logging.DEBUG, "oxygent_client"), pytest.raises(errors.RemoteProtocolError) as raised:
            await SSEOxyGent(server_url="http://remote.test", transport=transport).ask("hi")
        check_text(raised.value)
    for record in caplog.records:
        record.getMessage().encode()


CODES: Final[dict[str, int | None]] = {
    "500": 500,
    "0": 0,
    "-1": -1,
    "true": None,
    "false": None,
    "null": None,
    '"500"': None,
    "500.0": None,
    "NaN": None,
    "[500]": None,
}


@pytest.mark.parametrize(("code", "expected"), CODES.items())
def test_codes(code: str, expected: int | None) -> None:
    """The `code` of an error is an int or None; true is not 1."""
    with pytest.raises(ENVELOPE) as raised:
        parse_envelope(f'{{"code": {code}}}'.encode())
    assert raised.value.code == expected
    assert type(raised.value.code) is type(expected)


@pytest.mark.parametrize("code", ["200", "200.0", "2e2"])
def test_spellings_of_200(code: str) -> None:
    """Each spelling of the number 200 means success."""
    assert parse_envelope(f'{{"code": {code}, "data": {{}}}}'.encode()) == {}


ANSI: Final = "\x1b[31m\x00\x9b\u202e\ud800 a\nb\tc\r"
SHOWN: Final = r"\x1b[31m\x00\x9b\u202e\ud800 a\x0ab\x09c\x0d"


@pytest.mark.parametrize("name", errors.__all__)
def test_texts_of_errors(name: str) -> None:
    """The text of an error can be encoded and shown, and is one line of bounded length."""
    cls: Any = getattr(errors, name)
    if not issubclass(cls, errors.OxyError):
        return
    error = cls(ANSI)
    assert str(error) == SHOWN
    assert error.args == (SHOWN,)
    check_text(error)
    assert str(pickle.loads(pickle.dumps(error))) == SHOWN
    assert 2000 == len(str(cls("x" * 9999))) == len(str(cls("\x1b" * 9999)))
    assert str(cls("日本 é 🎉")) == "日本 é 🎉"


# -------------------------------------------------------------------------------------------------- Arbitrary documents

JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(st.characters(exclude_categories=())),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["children", "name", "agents", "organization", "description", "x"]), inner)
    ),
    max_leaves=15,
)
DOCUMENT: Final = (
    st.binary(max_size=60)
    | JSON.map(lambda value: json.dumps(value).encode())
    | JSON.map(lambda value: wrapped(json.dumps(value)))
    | JSON.map(lambda value: wrapped(json.dumps({"organization": value, "agents": value, "description": value})))
    | st.lists(JSON, max_size=4).map(lambda value: tree(f'"children": {json.dumps(value)}'))
)


@given(DOCUMENT, DOCUMENT, DOCUMENT)
@example(b"\xff", b"\xff", b"\xff")
@example(tree('"children": [{"name": "a", "children": [{}]}]'), GOOD["/get_description"], GOOD["/get_agents"])
async def test_any_documents(tree_: bytes, description: bytes, listing: bytes) -> None:
    """For any documents, `init` and a call of a callee return or raise an `OxyError`."""
    documents: dict[str, bytes] = dict(zip(PATHS, (tree_, description, listing), strict=True))
    await initialised(documents)
    agent = SSEOxyGent(server_url="http://remote.test", transport=remote(documents), callee="\ud800")
    try:
        await agent.ask("hi")
    except errors.OxyError as error:
        check_text(error)


@given(st.dictionaries(st.sampled_from(["organization", "agents", "children", "name"]), JSON))
def test_any_data(data: dict[str, Any]) -> None:
    """For any data in the envelope, the organization is a tree whose names can be listed, or a typed error."""
    try:
        root = parse_organization(data, Limits(nodes=50))
    except errors.OxyError as error:
        check_text(error)
        return
    names = KnownAgents.read(root, data).names
    assert {str} >= {*map(type, names)}
    assert "" not in names


def test_a_wide_organization_is_read_in_time() -> None:
    """The time to read an organization grows linearly with its members."""
    start = time.process_time()
    for _ in range(3):
        root = parse_organization({"organization": {"children": [{"name": "x"}] * 99_999}})
        assert len(KnownAgents.read(root, None).names) == 1
    assert time.process_time() - start < SOON
