"""The payload equals what the framework's own client sends, with listed exceptions, and holds no private data.

Rule 1: the oracle is the recordings of real clients, `fixtures/wire/*_client_post_*.http`.
Rule 2: each deliberate difference has a name and a row.
"""

from __future__ import annotations

import copy
import json
import math
import threading
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oxygent_client import OxyRequest, build_payload, errors
from oxygent_client._protocol.payload import (
    COMMON,
    LOCAL,
    NOT_OVERRIDABLE,
    PROTOCOL,
    RESTART,
    SOME_SERVERS,
    CallStackStrategy,
    check_arguments,
    check_restart,
    encode,
    finalize_payload,
)
from tests.conftest import WIRE

if TYPE_CHECKING:
    from collections.abc import Callable, Collection

Payload = dict[str, Any]
FIELDS: Final = {field.name for field in attrs.fields(OxyRequest)}

# ----------------------------------------------------------------------------------------------------------- Recordings


def recorded(file: str) -> Payload:
    """Return the JSON object of a recorded POST."""
    _, _, body = (WIRE / file).read_bytes().partition(b"\r\n\r\n")
    payload: Payload = json.loads(body)
    return payload


def request_of(payload: Payload, **more: Any) -> OxyRequest:
    """Return the request of this payload: an agent `remote`, called by the last entry of its call stack."""
    fields = {name: value for name, value in payload.items() if name in FIELDS} | more
    fields["call_stack"] = [*payload.get("call_stack", ["user", "local_master"]), "remote"]
    fields["node_id_stack"] = [*payload.get("node_id_stack", ["", "b7EmKjUkcU7545zV"]), payload["node_id"]]
    arguments = {name: value for name, value in payload.items() if name not in FIELDS}
    return OxyRequest(arguments=arguments, **fields)


RECORDINGS: Final = sorted(path.name for path in WIRE.glob("*_client_post_*.http"))
each_recording: Final = pytest.mark.parametrize("file", RECORDINGS)


def is_shared(file: str) -> bool:
    """Return whether the recorded client shared its call stack."""
    return "share_True" in file


def test_the_recordings() -> None:
    """There are recordings of both modes and both versions."""
    assert [file.partition("_client_post_")[::2] for file in RECORDINGS] == [
        (version, f"share_{shared}.http") for version in ("v1.0.13", "v1.1.3") for shared in (False, True)
    ]


@each_recording
def test_the_payload_of_a_recording(file: str) -> None:
    """The fields of a recording give the recording's payload."""
    expected = recorded(file)
    assert build_payload(request_of(expected), is_share_call_stack=is_shared(file)) == expected


@each_recording
def test_the_body_of_a_recording(file: str) -> None:
    """A finalized and encoded payload with the recording's ids is the recording's JSON."""
    expected = recorded(file)
    payload = build_payload(request_of(expected), is_share_call_stack=is_shared(file))
    sealed = finalize_payload(payload, trace_id=expected["current_trace_id"], callee="remote", from_trace_id="")
    assert expected == sealed == json.loads(encode(sealed))


# Deliberate differences: the request's fields, the arguments of finalize_payload, the changes to the recorded body.
ABSENT: Final = object()
DELIBERATE: Final[dict[str, tuple[Payload, Payload, Payload]]] = {
    "the remote knows the run by a name of its own": ({}, {"trace_id": "other"}, {"current_trace_id": "other"}),
    "the local name is not the callee": ({}, {"callee": None}, {"callee": ABSENT}),
    "the callee may have another name": ({}, {"callee": "master"}, {"callee": "master"}),
    "inbound headers stay at home": (
        {"shared_data": {"mine": 1, "_headers": {"authorization": "Bearer SECRET"}}},
        {},
        {"shared_data": {"mine": 1}},
    ),
    "no data is shared": ({}, {"share_data": False}, {"shared_data": {}, "group_data": {}}),
    "some data is shared": ({}, {"share_data": ["mine"]}, {"shared_data": {"mine": 1}, "group_data": {}}),
    "messages are always asked for": ({"is_send_message": False}, {}, {}),
    "a category is never other than user": ({"caller_category": "agent"}, {}, {}),
    "an id that is empty is drawn by the server": (
        {"request_id": "", "group_id": ""},
        {},
        {"request_id": ABSENT, "group_id": ABSENT},
    ),
}


@pytest.mark.parametrize("file", RECORDINGS)
@pytest.mark.parametrize(("fields", "sealing", "changed"), DELIBERATE.values(), ids=DELIBERATE)
def test_deliberate_differences(file: str, fields: Payload, sealing: Payload, changed: Payload) -> None:
    """The payload differs from the framework's only in the listed fields."""
    body = recorded(file)
    expected = {name: value for name, value in (body | changed).items() if value is not ABSENT}
    payload = build_payload(request_of(body, **fields), is_share_call_stack=is_shared(file))
    usual: Payload = {"trace_id": body["current_trace_id"], "callee": "remote"}
    sealed = finalize_payload(payload, **(usual | sealing))
    assert sealed == expected


def test_original_payload_belongs_to_a_restart() -> None:
    """`original_payload`, which 1.1.3 keeps for a restart, is emptied, and not added if it is missing."""
    given_ = build_payload(OxyRequest(original_payload="{}"))
    assert finalize_payload(given_, trace_id="t")["original_payload"] == ""
    assert "original_payload" not in finalize_payload(build_payload(OxyRequest()), trace_id="t")


# ------------------------------------------------------------------------------------------------------ Tables of names


def test_the_tables_of_names() -> None:
    """Each field of a request that may be sent is in exactly one table of names."""
    assert FIELDS - {"idempotent", "arguments"} == {*COMMON, *SOME_SERVERS, *LOCAL}
    assert len(COMMON) + len(SOME_SERVERS) + len(LOCAL) + 1 == len(PROTOCOL)
    assert NOT_OVERRIDABLE < PROTOCOL
    assert PROTOCOL >= set(RESTART)


@pytest.mark.parametrize("file", RECORDINGS)
def test_the_tables_are_the_recordings(file: str) -> None:
    """A recorded client sends each common field, and the others that its version has."""
    fields = set(recorded(file)) & FIELDS
    stacks: set[str] = set() if is_shared(file) else {"call_stack", "node_id_stack"}
    some = {"is_load_data_for_restart"} if "v1.0" in file else {*SOME_SERVERS} - {"is_load_data_for_restart"}
    assert {*COMMON} - stacks | some == fields


DEFAULTS: Final = {field.name: getattr(OxyRequest(), field.name) for field in attrs.fields(OxyRequest)}


@pytest.mark.parametrize("name", SOME_SERVERS)
def test_fields_of_some_servers(name: str) -> None:
    """A field that a server may take for an argument is sent only if it was given or is not the default."""
    changed = OxyRequest()
    setattr(changed, name, "set later")
    assert DEFAULTS[name] == SOME_SERVERS[name]
    assert name not in build_payload(OxyRequest())
    assert build_payload(OxyRequest(**{name: SOME_SERVERS[name]}))[name] == SOME_SERVERS[name]
    assert build_payload(OxyRequest().clone_with(**{name: SOME_SERVERS[name]}))[name] == SOME_SERVERS[name]
    assert build_payload(changed)[name] == "set later"


class Short(OxyRequest):
    """A request without the fields that only some servers know."""

    def model_dump(self, *, exclude: Collection[str] = ()) -> Payload:
        """Leave them out."""
        return super().model_dump(exclude={*exclude, *SOME_SERVERS})


def test_a_request_that_leaves_fields_out() -> None:
    """A subclass may leave such fields out of its dump."""
    assert build_payload(Short(arguments={"query": "x"})) == build_payload(OxyRequest(arguments={"query": "x"}))


@pytest.mark.parametrize("cls", [OxyRequest, Short])
def test_a_payload_that_shares_containers(cls: type[OxyRequest]) -> None:
    """A payload that is encoded at once equals one with copies, also of a subclass that overrides `model_dump`."""
    request = cls(arguments={"query": "x"}, shared_data={"a": [1]}, call_stack=["user", "me"])
    settings: dict[str, Any] = {
        "name": "me",
        "is_share_call_stack": True,
        "call_stack_strategy": None,
        "argument_overrides": (),
    }
    assert build_payload(request, copy=False, **settings) == build_payload(request, **settings)


def test_shared_containers_are_not_copied() -> None:
    """The containers of the request itself are encoded, since to copy them takes time."""
    request = OxyRequest(shared_data={"a": [1]})
    assert request.shared_fields()["shared_data"] is request.shared_data


# ---------------------------------------------------------------------------------------------------------- Call stacks

STACK: Final = ["user", "local", "me"]
NODES: Final = ["", "n1", "n2"]
FULL: Final = (STACK, NODES, "local")
PARTIAL: Final = (STACK[:-1], NODES[:-1], "local")
NONE: Final = (None, None, "user")
STRATEGIES: Final[list[tuple[Any, CallStackStrategy | None, bool]]] = [
    # the expected stacks and caller; the strategy; is_share_call_stack
    (PARTIAL, None, True),
    (NONE, None, False),
    (FULL, "full", True),
    (FULL, "full", False),
    (PARTIAL, "partial", True),
    (PARTIAL, "partial", False),
    (NONE, "none", True),
    (NONE, "none", False),
]


@pytest.mark.parametrize("own", [{"name": "me"}, {}])
@pytest.mark.parametrize(("expected", "strategy", "is_shared"), STRATEGIES)
def test_strategies(expected: Any, strategy: CallStackStrategy | None, is_shared: bool, own: dict[str, Any]) -> None:
    """The strategy, or else `is_share_call_stack`, sets how much of the call stack the remote sees."""
    request = OxyRequest(caller="local", callee="me", call_stack=STACK, node_id_stack=NODES)
    payload = build_payload(request, call_stack_strategy=strategy, is_share_call_stack=is_shared, **own)
    assert (payload.get("call_stack"), payload.get("node_id_stack"), payload["caller"]) == expected
    assert ("call_stack" in payload, "node_id_stack" in payload) == (expected is not NONE,) * 2


def test_an_unknown_strategy() -> None:
    """An unknown strategy is refused with a list of the known ones."""
    unknown: Any = "some"
    with pytest.raises(errors.PayloadError, match=r"call_stack_strategy .*'some'"):
        build_payload(OxyRequest(), call_stack_strategy=unknown)


OWN_ENTRY: Final[list[tuple[list[str], list[str], str | None, str | None]]] = [
    # expected, the stack, the agent's name, the request's callee
    (["user"], ["user", "me"], "me", "me"),
    (["user"], ["user", "me"], "me", "other"),
    (["user", "other"], ["user", "other"], "me", "other"),
    (["user", "me"], ["user", "me", "me"], "me", ""),
    (["user", "me", "other"], ["user", "me", "other"], "me", ""),
    ([], ["me"], "me", ""),
    ([], [], "me", ""),
    (["user"], ["user"], "me", ""),
    # Without a name the callee is used, and without that the last entry but the user.
    (["user"], ["user", "me"], None, "me"),
    (["user", "other"], ["user", "other"], None, "me"),
    (["user"], ["user", "anyone"], None, ""),
    (["user"], ["user", "anyone"], None, None),
    (["user"], ["user"], None, ""),
]


@pytest.mark.parametrize(("expected", "stack", "name", "callee"), OWN_ENTRY)
def test_only_the_own_entry_is_dropped(
    expected: list[str], stack: list[str], name: str | None, callee: str | None
) -> None:
    """The last entry of the stacks is dropped only if it is this agent's."""
    request = OxyRequest(callee=callee, call_stack=stack, node_id_stack=[f"n-{entry}" for entry in stack])
    payload = build_payload(request, name=name)
    assert payload["call_stack"] == expected
    assert payload["node_id_stack"] == [f"n-{entry}" for entry in expected]


# ------------------------------------------------------------------------------------------------------------ Arguments


@pytest.mark.parametrize("name", sorted(PROTOCOL))
def test_an_argument_with_the_name_of_a_field(name: str) -> None:
    """An argument with the name of a protocol field is refused; the error has the name and not the value."""
    request = OxyRequest(arguments={"query": "hi", name: "SECRET"})
    with pytest.raises(errors.PayloadError, match=f"'{name}'") as caught:
        build_payload(request)
    assert "SECRET" not in str(caught.value)
    assert ("argument_overrides" in str(caught.value)) == (name not in NOT_OVERRIDABLE)


@pytest.mark.parametrize("name", sorted(PROTOCOL - NOT_OVERRIDABLE))
def test_an_override_that_is_allowed(name: str) -> None:
    """An argument listed in `argument_overrides` replaces the field in the payload."""
    request = OxyRequest(arguments={name: "mine"})
    assert build_payload(request, argument_overrides={name})[name] == "mine"


@pytest.mark.parametrize("name", sorted(NOT_OVERRIDABLE))
def test_names_that_cannot_be_overwritten(name: str) -> None:
    """Some names cannot be overwritten, listed or not."""
    with pytest.raises(errors.PayloadError, match=f"'{name}'"):
        check_arguments({name: 1}, argument_overrides=PROTOCOL)


@pytest.mark.parametrize("arguments", [{}, {"query": "hi"}, {"Callee": 1}, {"call_stack ": 1}, {"": 1}])
def test_other_arguments(arguments: Payload) -> None:
    """Other arguments are sent unchanged beside the fields."""
    payload = build_payload(OxyRequest(arguments=arguments))
    assert {name: payload[name] for name in arguments} == arguments


# --------------------------------------------------------------------------------------------- Values that are not JSON


def circular() -> dict[str, Any]:
    """Return an object that contains itself."""
    circle: dict[str, Any] = {}
    circle["SECRET"] = circle
    return circle


def deep(levels: int) -> list[Any]:
    """Return deeply nested lists."""
    value: list[Any] = ["SECRET"]
    for _ in range(levels):
        value = [value]
    return value


@attrs.frozen
class Uncopyable:
    """An object that cannot be deep-copied."""

    def __deepcopy__(self, memo: dict[int, Any]) -> Uncopyable:
        raise RuntimeError("SECRET")


NO_JSON: Final[dict[str, tuple[Any, str]]] = {
    # name: (the value, a word of the reason)
    "a datetime": (datetime(2026, 1, 1, tzinfo=UTC), "datetime"),
    "a set": ({"SECRET"}, "set"),
    "bytes": (b"SECRET", "bytes"),
    "NaN": (math.nan, "float"),
    "infinity": (-math.inf, "float"),
    "a lone surrogate": ("SECRET\ud800", "surrogate"),
    "a lone surrogate in a name": ({"SECRET\udfff": 1}, "surrogate"),
    "a circle": (circular(), "(copied|[Cc]ircular)"),
    "too deep": (deep(100_000), "(copied|deep)"),
    "a tuple as a name": ({("SECRET",): 1}, "keys"),
    "a function": (print, "builtin_function"),
    "an object": (Uncopyable(), "Uncopyable"),
    "a lock": (threading.Lock(), "lock"),
}
each_no_json: Final = pytest.mark.parametrize(("value", "reason"), NO_JSON.values(), ids=NO_JSON)


@each_no_json
@pytest.mark.parametrize("is_inside", [False, True])
def test_an_argument_that_is_not_json(value: Any, reason: str, is_inside: bool) -> None:
    """A value that is not JSON raises an error with the argument's name and the reason, without the value."""
    request = OxyRequest(arguments={"query": "hi", "odd": [1, {"inner": value}] if is_inside else value, "fine": 1})
    with pytest.raises(errors.PayloadError, match=f"'odd' cannot be .*{reason}") as caught:
        encode(finalize_payload(build_payload(request), trace_id="t"))
    assert "SECRET" not in str(caught.value)


@each_no_json
def test_a_payload_that_is_not_json(value: Any, reason: str) -> None:
    """The same holds for a payload made by `prepare_payload`."""
    with pytest.raises(
        errors.PayloadError, match=f"'odd' cannot be JSON.*{reason.replace('copied', 'deep')}"
    ) as caught:
        encode({"query": "hi", "odd": value})
    assert "SECRET" not in str(caught.value)


def test_share_data_as_one_text() -> None:
    """`share_data="user"` is refused: it would share the keys `u`, `s`, `e` and `r`."""
    with pytest.raises(errors.ConfigurationError, match="share_data must be"):
        finalize_payload({}, trace_id="t", share_data="user")


def test_data_that_is_not_shared() -> None:
    """Data that is not shared may hold live objects."""
    request = OxyRequest(
        shared_data={"lock": threading.Lock(), "user": {"id": 7}}, group_data={"now": datetime.now(UTC)}
    )
    sealed = finalize_payload(build_payload(request), trace_id="t", share_data={"user"})
    assert sealed["shared_data"] == {"user": {"id": 7}}
    assert sealed["group_data"] == {}
    assert encode(sealed)


def test_encoding() -> None:
    """The body is compact JSON in UTF-8."""
    assert encode({"query": "hello ü🚀", "n": [1, 2.5, None, True]}) == (
        '{"query":"hello ü🚀","n":[1,2.5,null,true]}'.encode()
    )


# ----------------------------------------------------------------------------------------------------- finalize_payload

SEALED: Final[list[tuple[Payload, Payload, Payload]]] = [
    # expected beside the fields of every payload, the payload, the arguments
    ({}, {}, {}),
    ({"query": "hi"}, {"query": "hi", "mas": object(), "parallel_id": "p", "latest_node_ids": []}, {}),
    ({}, {"current_trace_id": "mine", "caller_category": "tool", "is_send_message": False, "callee": "local"}, {}),
    ({"callee": "remote"}, {"callee": "local"}, {"callee": "remote"}),
    ({"callee": ""}, {}, {"callee": ""}),
    ({"from_trace_id": "a"}, {"from_trace_id": "a"}, {}),
    ({"from_trace_id": "a"}, {"from_trace_id": "a"}, {"from_trace_id": "b"}),
    ({"from_trace_id": ""}, {"from_trace_id": ""}, {"from_trace_id": "b"}),
    ({"from_trace_id": None}, {"from_trace_id": None}, {"from_trace_id": "b"}),
    ({"from_trace_id": "b"}, {}, {"from_trace_id": "b"}),
    ({"restart_node_id": "", "restart_node_output": None}, {"restart_node_id": "", "restart_node_output": None}, {}),
    ({}, {"request_id": "", "group_id": None, "node_id": ""}, {}),
    ({"request_id": "r", "group_id": "g", "node_id": "n"}, {"request_id": "r", "group_id": "g", "node_id": "n"}, {}),
    ({"shared_data": {"a": 1}}, {"shared_data": {"a": 1, "_headers": {}}}, {}),
    ({"shared_data": {}}, {"shared_data": {"_headers": {}, "a": 1}}, {"share_data": ["_headers"]}),
    ({"shared_data": {}, "group_data": {}}, {"shared_data": None, "group_data": ["a"]}, {}),
    ({"group_data": {"a": 1}}, {"group_data": {"a": 1, "b": 2}}, {"share_data": frozenset({"a"})}),
    ({"group_data": {}}, {"group_data": {"a": 1}}, {"share_data": ()}),
    ({"query": {"_headers": 1}}, {"query": {"_headers": 1}}, {"share_data": False}),
]


@pytest.mark.parametrize(("expected", "payload", "sealing"), SEALED)
def test_finalize_payload(expected: Payload, payload: Payload, sealing: Payload) -> None:
    """A finalized payload has all protocol fields and no private data; the argument is unchanged."""
    before = copy.copy(payload)
    always = {"current_trace_id": "t", "caller_category": "user", "is_send_message": True}
    assert finalize_payload(payload, trace_id="t", **sealing) == always | expected
    assert before == payload


@pytest.mark.parametrize("payload", [None, [], "text", 1, {1: "x"}, {None: 1}, [("query", "hi")]])
def test_invalid_payloads(payload: Any) -> None:
    """`prepare_payload` must return a dict with str keys."""
    with pytest.raises(errors.PayloadError, match="prepare_payload must return"):
        finalize_payload(payload, trace_id="t")


@pytest.mark.parametrize("check", [check_restart, partial(finalize_payload, trace_id="t")], ids=["early", "at the end"])
@pytest.mark.parametrize("value", ["x", 0, False, ["x"]], ids=repr)
@pytest.mark.parametrize("name", RESTART)
def test_fields_of_a_restart(name: str, value: Any, check: Callable[[dict[str, Any]], object]) -> None:
    """A field of a restart is refused by its name: it would run the whole request again."""
    with pytest.raises(errors.PayloadError, match=name):
        check({"query": "again", name: value})


# ---------------------------------------------------------------------------------------------------------- Properties

JSON: Final[st.SearchStrategy[Any]] = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES: Final = st.text(max_size=6).filter(lambda name: name not in PROTOCOL)
DATA: Final = st.dictionaries(st.text(max_size=4) | st.just("_headers"), JSON, max_size=3)
REQUESTS: Final = st.builds(
    OxyRequest,
    request_id=st.text(max_size=3),
    group_id=st.text(max_size=3),
    from_trace_id=st.none() | st.text(max_size=3),
    current_trace_id=st.none() | st.text(max_size=3),
    restart_node_id=st.none() | st.just(""),
    caller=st.none() | st.text(max_size=3),
    callee=st.sampled_from(["", None, "me", "other"]),
    call_stack=st.lists(st.sampled_from(["user", "me", "other"]), max_size=4),
    node_id_stack=st.lists(st.text(max_size=2), max_size=4),
    caller_category=st.sampled_from(["user", "agent", None]),
    is_send_message=st.booleans(),
    arguments=st.dictionaries(NAMES, JSON, max_size=3),
    shared_data=DATA,
    group_data=DATA,
    parallel_dict=st.none() | DATA,
    idempotent=st.booleans(),
)
STRATEGY: Final = st.sampled_from([None, "full", "partial", "none"])
SHARE: Final = st.booleans() | st.frozensets(st.text(max_size=4) | st.just("_headers"), max_size=2)


@given(REQUESTS, STRATEGY, st.booleans(), st.none() | st.just("remote"), SHARE)
def test_any_request(
    request: OxyRequest, strategy: CallStackStrategy | None, share: bool, callee: str | None, share_data: Any
) -> None:
    """For any request, protocol fields are sent, private data is not, and the request is unchanged."""
    before = copy.deepcopy(request.__dict__)

    def sealed() -> Payload:
        payload = build_payload(request, name="me", call_stack_strategy=strategy, is_share_call_stack=share)
        return finalize_payload(payload, trace_id="t", callee=callee, share_data=share_data)

    payload = sealed()
    assert payload["current_trace_id"] == "t"
    assert payload["caller_category"] == "user"
    assert payload["is_send_message"] is True
    assert payload.get("callee") == callee
    stays = {"callee", "call_stack", "node_id_stack", *("request_id", "group_id", "node_id")}
    assert {*COMMON} - stays <= payload.keys()
    assert not {"mas", "parallel_id", "latest_node_ids", "arguments", "idempotent"} & payload.keys() - {
        *request.arguments
    }
    assert "_headers" not in {*payload["shared_data"], *payload["group_data"]}
    assert request.arguments == {name: payload[name] for name in request.arguments}
    assert sealed() == payload
    assert json.loads(encode(payload)) == payload
    assert request.__dict__ == before
    # Changes to the payload do not change the request.
    for value in payload.values():
        if isinstance(value, list | dict):
            value.clear()
    assert request.__dict__ == before
