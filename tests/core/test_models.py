"""Requests, responses and events: the framework's names and values, and nothing that changes behind anyone's back."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final

import attrs
import pytest

from oxygent_client import (
    Answer,
    Custom,
    Event,
    Observation,
    OxyRequest,
    OxyResponse,
    OxyState,
    Progress,
    RemoteErrorEvent,
    ServerSentEvent,
    Text,
    TextDelta,
    ToolCall,
    errors,
)
from oxygent_client.errors import Partial

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS: Final = [field.name for field in attrs.fields(OxyRequest)]
SHARED: Final = {"mas", "shared_data", "group_data"}


@attrs.define
class Program:
    """A host that answers every call, and remembers what it is told."""

    told: list[Any] = attrs.field(factory=list[Any])

    async def call(self, request: OxyRequest, /, **changes: Any) -> OxyResponse:
        """As `Host.call`."""
        self.told.append((request, changes))
        return OxyResponse(OxyState.COMPLETED, "called")

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """As `Host.send_message`."""
        self.told.append((request, message, event, id, retry))


def filled() -> OxyRequest:
    """A request with something of its own in every field."""
    fields: dict[str, Any] = {name: f"its {name}" for name in FIELDS}
    fields.update({name: [name, "x"] for name in ("root_trace_ids", "call_stack", "node_id_stack", "pre_node_ids")})
    fields.update({name: {name: {"a": [1]}} for name in ("arguments", "shared_data", "group_data", "parallel_dict")})
    fields.update({name: False for name in FIELDS if name.startswith("is_")})
    fields.update(latest_node_ids=["n"], mas=Program(), idempotent=True)
    return OxyRequest(**fields)


# ------------------------------------------------------------------------------------------------------------ Requests

# Source: oxygent 1.1.3, and is_load_data_for_restart of 1.0.8 and 1.0.13; `idempotent` is our own.
DEFAULTS: Final[dict[str, Any]] = {
    **dict.fromkeys("request_id group_id from_trace_id current_trace_id reference_trace_id".split(), ""),
    **dict.fromkeys("restart_node_id restart_node_output restart_node_order original_payload input_md5".split(), ""),
    **dict.fromkeys("callee father_node_id callee_category node_id copied_node_id parallel_id".split(), ""),
    **dict.fromkeys("caller caller_category".split(), "user"),
    **dict.fromkeys("is_load_data_for_restart is_save_history is_send_message is_async_storage".split(), True),
    **dict.fromkeys("mas create_time update_time".split()),
    **{name: [] for name in "root_trace_ids pre_node_ids latest_node_ids".split()},
    **{name: {} for name in "parallel_dict arguments shared_data group_data".split()},
    "call_stack": ["user"],
    "node_id_stack": [""],
    "idempotent": False,
}


def test_the_defaults() -> None:
    """Every field has the framework's default, and no two requests have one in common that could be changed."""
    one, other = OxyRequest(), OxyRequest()
    assert {name: getattr(one, name) for name in FIELDS} == DEFAULTS
    containers = [name for name in FIELDS if isinstance(getattr(one, name), list | dict)]
    assert [name for name in containers if getattr(one, name) is getattr(other, name)] == []


def test_by_keyword_only() -> None:
    """A field is given by its name, and there are no others."""
    make: Any = OxyRequest
    with pytest.raises(TypeError):
        make("r")
    with pytest.raises(TypeError):
        make(query="hi")


def test_identity() -> None:
    """A request is a thing, not a value: two of the same fields are two."""
    assert OxyRequest() != OxyRequest()
    assert len({OxyRequest(), OxyRequest()}) == 2


@pytest.mark.parametrize("name", FIELDS)
def test_a_clone(name: str) -> None:
    """A clone has the same values; what the run shares is the same thing, everything else a copy of its own."""
    request = filled()
    clone = request.clone_with()
    ours, theirs = getattr(request, name), getattr(clone, name)
    assert ours == theirs
    if isinstance(ours, list | dict | Program):
        assert (ours is theirs) == (name in SHARED)
    if isinstance(ours, dict) and name not in SHARED:
        assert ours[name] is not theirs[name]


@pytest.mark.parametrize("name", FIELDS)
def test_a_clone_with_changes(name: str) -> None:
    """A change is the clone's alone, and is the very value that was given."""
    request, value = filled(), object()
    before = dict(request.__dict__)
    clone = request.clone_with(**{name: value})
    assert getattr(clone, name) is value
    assert request.__dict__ == before
    assert {each for each in FIELDS if getattr(clone, each) != getattr(request, each)} == {name}


@pytest.mark.parametrize("name", ["query", "send_message", "_given", "given", ""])
def test_a_change_of_no_field(name: str) -> None:
    """What is no field cannot be changed; the error names it."""
    with pytest.raises(AttributeError, match=f"'{name}'"):
        OxyRequest().clone_with(**{name: 1})


def test_what_was_given() -> None:
    """A request knows which fields were said, also where it was the default that was said; a clone knows more."""
    request = OxyRequest(caller="user", arguments={})
    assert [set(), {"caller", "arguments"}] == [OxyRequest().given, request.given]
    assert request.clone_with(callee="x", caller="y").given == {"caller", "arguments", "callee"}
    request.node_id = "set later"
    assert {"caller", "arguments"} == request.given == request.clone_with().given


COPIES: Final[dict[str, Callable[[OxyRequest], OxyRequest]]] = {
    "copy": copy.copy,
    "deepcopy": copy.deepcopy,
    "clone_with": lambda request: request.clone_with(),
    "pickle": lambda request: pickle.loads(pickle.dumps(request)),
}
each_copy: Final = pytest.mark.parametrize("make", COPIES.values(), ids=COPIES)


@each_copy
def test_copies(make: Callable[[OxyRequest], OxyRequest]) -> None:
    """A copy of whatever kind has every field, knows what was given, and is of the same class."""
    request = filled()
    copied = make(request)
    assert type(copied) is OxyRequest
    assert {name: getattr(request, name) for name in FIELDS} == {name: getattr(copied, name) for name in FIELDS}
    assert request.given == copied.given
    copied.arguments["arguments"]["a"].append(2)
    assert request.arguments == {"arguments": {"a": [1]}}


class Mine(OxyRequest):
    """A user's own request."""


@each_copy
def test_copies_of_a_subclass(make: Callable[[OxyRequest], OxyRequest]) -> None:
    """A subclass stays what it is."""
    assert type(make(Mine(node_id="n"))) is Mine


def test_a_clone_keeps_what_was_replaced() -> None:
    """A `send_message` that was put on a request is its clone's too, and so is whatever else was put there."""
    request = OxyRequest()
    mine: Any = object()
    request.send_message = mine
    vars(request)["extra"] = mine
    for clone in (request.clone_with(), request.clone_with(callee="x"), copy.deepcopy(request)):
        assert clone.send_message is mine
        assert vars(clone)["extra"] is mine


UNCOPYABLE: Final[list[tuple[str, dict[str, Any]]]] = [
    # expected in the error, the fields
    ("lock", {"arguments": {"query": "SECRET", "lock": threading.Lock()}}),
    ("pre_node_ids", {"pre_node_ids": [threading.Lock()]}),
    ("inner", {"parallel_dict": {"fine": 1, "inner": {"lock": threading.Lock()}}}),
]


@pytest.mark.parametrize(("expected", "fields"), UNCOPYABLE)
def test_what_cannot_be_copied(expected: str, fields: dict[str, Any]) -> None:
    """A clone that cannot be made is a PayloadError that names the key and shows no value."""
    with pytest.raises(errors.PayloadError, match=f"'{expected}' cannot be copied") as caught:
        OxyRequest(**fields).clone_with()
    assert "SECRET" not in str(caught.value)


def test_what_is_shared_may_be_anything() -> None:
    """Live objects in the run's data are in no clone's way, and in no dump's."""
    lock = threading.Lock()
    request = OxyRequest(shared_data={"lock": lock, "list": [lock]})
    assert request.clone_with().shared_data is request.shared_data
    dumped = request.model_dump()["shared_data"]
    assert request.shared_data == dumped
    assert dumped is not request.shared_data


@pytest.mark.parametrize("name", sorted({*FIELDS} - {"idempotent"}))
def test_model_dump(name: str) -> None:
    """A dump has every field but our own, less those that are excluded; dictionaries and lists are copies."""
    request = filled()
    rest = {*FIELDS} - {"idempotent"}
    assert request.model_dump().keys() == rest
    assert (
        rest - {name, "mas"}
        == request.model_dump(exclude={name, "mas"}).keys()
        == request.model_dump(exclude=[name, "mas"]).keys()
    )
    value = request.model_dump()[name]
    assert getattr(request, name) == value
    assert not isinstance(value, list | dict) or value is not getattr(request, name)


def test_a_dump_that_goes_in_circles() -> None:
    """What holds itself has no dump; the error names its key."""
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    with pytest.raises(errors.PayloadError, match="'odd' cannot be copied"):
        OxyRequest(arguments={"fine": 1, "odd": circle}).model_dump()


def test_the_repr_of_a_request() -> None:
    """A repr shows the names of arguments and data, and none of their values."""
    request = filled()
    request.arguments = {"query": "SECRET", "password": "SECRET"}
    request.shared_data = {"_headers": {"authorization": "SECRET"}}
    request.group_data = {"pin": "SECRET"}
    request.original_payload = request.restart_node_output = "SECRET"
    shown = repr(request)
    assert "SECRET" not in shown
    assert "Program" not in shown
    assert "arguments=['query', 'password'], shared_data=['_headers'], group_data=['pin']" in shown
    assert "node_id='its node_id'" in shown


def test_the_session_name() -> None:
    """What the framework keys its memory by."""
    assert OxyRequest(caller="a", callee="b").session_name == "a__b"


# ------------------------------------------------------------------------------------------------ The program around it


async def test_calling_another() -> None:
    """A request calls through its host; without one it says so."""
    host = Program()
    request = OxyRequest(mas=host)
    assert (await request.call(callee="x", arguments={"query": "hi"})).output == "called"
    assert host.told == [(request, {"callee": "x", "arguments": {"query": "hi"}})]
    with pytest.raises(errors.ConfigurationError, match="set `mas`"):
        await OxyRequest().call(callee="x")


async def test_sending_a_message() -> None:
    """A message goes to the host with its event's name, id and retry; without a host, or unwanted, to nobody."""
    host = Program()
    request = OxyRequest(mas=host)
    await request.send_message({"type": "x"})
    await request.send_message("text", event="e", id="1", retry=5)
    await request.send_message()
    request.is_send_message = False
    await request.send_message("unheard")
    await OxyRequest().send_message("unheard")
    assert host.told == [
        (request, {"type": "x"}, None, None, None),
        (request, "text", "e", "1", 5),
        (request, None, None, None, None),
    ]


# ----------------------------------------------------------------------------------------------------------- Helpers


def test_the_query() -> None:
    """The query stands in the arguments, that of the whole run in its data."""
    request = OxyRequest()
    assert request.get_query() == ""
    assert request.get_query(master_level=True) == ""
    request.set_query("mine")
    request.set_query("the run's", master_level=True)
    assert request.get_query() == "mine"
    assert request.get_query(master_level=True) == "the run's"
    assert request.arguments == {"query": "mine"}
    assert request.shared_data == {"query": "the run's"}


@pytest.mark.parametrize(("level", "name"), [(False, "short_memory"), (True, "master_short_memory")])
def test_the_short_memory(level: bool, name: str) -> None:
    """Both short-term memories stand in the arguments."""
    request = OxyRequest()
    assert request.has_short_memory(level) is False
    assert request.get_short_memory(level) == []
    request.set_short_memory([{"role": "user"}], level)
    assert request.has_short_memory(level) is True
    assert request.get_short_memory(level) == [{"role": "user"}]
    assert request.arguments == {name: [{"role": "user"}]}


@pytest.mark.parametrize("name", ["request_id", "group_id"])
def test_ids(name: str) -> None:
    """An id is read and set by its methods as by its field."""
    request = OxyRequest()
    getattr(request, f"set_{name}")("x")
    assert getattr(request, f"get_{name}")() == "x"
    assert getattr(request, name) == "x"


@pytest.mark.parametrize("name", ["arguments", "shared_data", "group_data"])
def test_data(name: str) -> None:
    """Arguments and data are read, set and asked for by key; without a key there is all of it."""
    request = OxyRequest()
    has, get, put = (getattr(request, f"{verb}_{name}") for verb in ("has", "get", "set"))
    assert has("k") is False
    assert get("k") is None
    assert get("k", "else") == "else"
    assert get() == {}
    put("k", None)
    assert has("k") is True
    assert get("k") is None
    assert get("k", "else") is None
    assert get() is getattr(request, name)


# ----------------------------------------------------------------------------------------------- States and responses


def test_states() -> None:
    """The framework's seven states, and the documentation's other word for one."""
    states = {"CREATED": 1, "RUNNING": 2, "COMPLETED": 3, "FAILED": 4, "PAUSED": 5, "SKIPPED": 6, "CANCELED": 7}
    assert {state.name: state.value for state in OxyState} == states
    assert OxyState["ERROR"] is OxyState.FAILED


def test_responses() -> None:
    """A response is equal by what came of the call, travels, and does not show the request."""
    response = OxyResponse(OxyState.COMPLETED, {"a": 1}, {"trace_id": "t"}, OxyRequest(arguments={"query": "SECRET"}))
    assert response == OxyResponse(OxyState.COMPLETED, {"a": 1}, {"trace_id": "t"})
    assert response == pickle.loads(pickle.dumps(response)) == copy.deepcopy(response)
    assert "query" not in repr(response)
    assert OxyResponse(OxyState.FAILED) == OxyResponse(OxyState.FAILED, None, {}, None)
    assert OxyResponse(OxyState.FAILED).extra is not OxyResponse(OxyState.FAILED).extra


# -------------------------------------------------------------------------------------------------------------- Events

CLASSES: Final = [Answer, Custom, Observation, Progress, RemoteErrorEvent, Text, TextDelta, ToolCall]


def made(cls: type[Event], content: Any) -> Any:
    """An event of this class with this content."""
    return cls("x", content, {"type": "x", "content": content}, ServerSentEvent(data="SECRET", id="7"))


@pytest.mark.parametrize("cls", CLASSES)
def test_events(cls: type[Event]) -> None:
    """An event is frozen and slotted, travels, compares by what was said, and does not show its message twice."""
    event = made(cls, {"a": 1})
    assert cls("x", {"a": 1}, {"type": "x", "content": {"a": 1}}) == event
    assert event != made(cls, {"a": 2})
    assert [pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)] == [event] * 3
    assert pickle.loads(pickle.dumps(event)).sse == ServerSentEvent(data="SECRET", id="7")
    assert repr(event) == f"{cls.__name__}(type='x', content={{'a': 1}})"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.content = 1
    assert not hasattr(event, "__dict__")


def test_events_of_two_classes() -> None:
    """The class of an event is a part of what it says."""
    assert made(ToolCall, {}) != made(Observation, {})


STEP: Final[dict[str, Any]] = {
    "node_id": "n",
    "caller": "a",
    "callee": "t",
    "caller_category": "agent",
    "callee_category": "tool",
    "call_stack": ["user", "a", "t"],
}
ACCESSORS: Final[list[tuple[dict[str, Any], type[Event], Any]]] = [
    # expected, class, content
    (STEP | {"call_stack": ("user", "a", "t"), "arguments": {"q": 1}}, ToolCall, STEP | {"arguments": {"q": 1}}),
    (STEP | {"call_stack": ("user", "a", "t"), "output": [1]}, Observation, STEP | {"output": [1]}),
    ({**dict.fromkeys(STEP, ""), "call_stack": (), "arguments": {}}, ToolCall, {}),
    ({**dict.fromkeys(STEP, ""), "call_stack": (), "output": None}, Observation, {}),
    (
        {**dict.fromkeys(STEP, ""), "call_stack": (), "arguments": {}},
        ToolCall,
        {**dict.fromkeys(STEP, 1), "arguments": []},
    ),
    (
        {**dict.fromkeys(STEP, ""), "call_stack": (), "arguments": {}},
        ToolCall,
        {**dict.fromkeys(STEP), "arguments": "{}"},
    ),
    ({"caller": "", "call_stack": ("b",)}, Observation, {"caller": ["a"], "call_stack": [1, "b", None, ["c"]]}),
    ({"call_stack": ()}, Observation, {"call_stack": "user"}),
    ({"text": "hi", "agent": "a", "node_id": "n"}, TextDelta, {"delta": "hi", "agent": "a", "node_id": "n"}),
    ({"text": "", "agent": "", "node_id": ""}, TextDelta, {"delta": None, "agent": 1}),
    ({"text": "", "agent": "", "node_id": ""}, TextDelta, None),
    ({"text": "", "agent": "", "node_id": ""}, TextDelta, ["delta"]),
    ({"text": "bare", "agent": "", "node_id": ""}, TextDelta, "bare"),
]


@pytest.mark.parametrize(("expected", "cls", "content"), ACCESSORS)
def test_accessors(expected: dict[str, Any], cls: type[Event], content: Any) -> None:
    """What an event says by name is there, and of the kind that is said, whatever the remote sent."""
    event = made(cls, content)
    assert {name: getattr(event, name) for name in expected} == expected


def test_texts() -> None:
    """A text is its message."""
    assert Text(None, "hi", "hi").text == "hi"


def test_partials() -> None:
    """What is kept of a broken stream is a value; its repr shows how much there is."""
    partial = Partial(events=(made(Answer, 1),), text="secret", answer={"a": 1}, dropped=2)
    assert repr(partial) == "Partial(events=<1 events>, text=<6 characters>, answer={'a': 1}, dropped=2)"
    assert pickle.loads(pickle.dumps(partial)) == partial
    assert Partial() == Partial(events=(), text="", answer=None, dropped=0)
