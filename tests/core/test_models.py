"""Requests, responses and events: the framework's names and values, copies, and no shared mutable state."""

from __future__ import annotations

import copy
import pickle
import threading
from typing import TYPE_CHECKING, Any, Final, cast

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
from oxygent_client._core.events import new_event, new_sse
from oxygent_client.errors import Partial

if TYPE_CHECKING:
    from collections.abc import Callable

FIELDS: Final = [field.name for field in attrs.fields(OxyRequest)]
SHARED: Final = {"mas", "shared_data", "group_data"}


@attrs.define
class Program:
    """A host that answers each call, and records the messages."""

    told: list[Any] = attrs.field(factory=list[Any])

    async def call(self, request: OxyRequest, /, **changes: Any) -> OxyResponse:
        """Answer the call."""
        self.told.append((request, changes))
        return OxyResponse(OxyState.COMPLETED, "called")

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """Record the message."""
        self.told.append((request, message, event, id, retry))


def filled() -> OxyRequest:
    """Return a request with a value in each field."""
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
    """Each field has the framework's default, and requests share no mutable default."""
    one, other = OxyRequest(), OxyRequest()
    assert {name: getattr(one, name) for name in FIELDS} == DEFAULTS
    containers = [name for name in FIELDS if isinstance(getattr(one, name), list | dict)]
    assert [name for name in containers if getattr(one, name) is getattr(other, name)] == []


def test_by_keyword_only() -> None:
    """Fields are keywords, and unknown ones are refused."""
    make: Any = OxyRequest
    with pytest.raises(TypeError):
        make("r")
    with pytest.raises(TypeError):
        make(query="hi")


def test_identity() -> None:
    """Requests compare by identity."""
    assert OxyRequest() != OxyRequest()
    assert len({OxyRequest(), OxyRequest()}) == 2


@pytest.mark.parametrize("name", FIELDS)
def test_a_clone(name: str) -> None:
    """A clone has equal values; the run's shared objects are the same, all else is copied."""
    request = filled()
    clone = request.clone_with()
    ours, theirs = getattr(request, name), getattr(clone, name)
    assert ours == theirs
    if isinstance(ours, list | dict | Program):
        assert (ours is theirs) == (name in SHARED)
    if isinstance(ours, dict) and name not in SHARED:
        assert ours[name] is not theirs[name]


def test_a_clone_of_unusual_values() -> None:
    """A container in a field that mostly holds a text is copied, too; an attribute that was deleted stays so."""
    odd: Any = {"a": [1]}
    request = OxyRequest(caller=odd, father_node_id="f" * 16)
    del request.father_node_id
    clone = request.clone_with()
    assert clone.caller == odd
    assert clone.caller is not odd
    assert "father_node_id" not in vars(clone)


def test_fields_that_were_not_set() -> None:
    """A request holds only what was set; an empty container is made when it is first used, for this request alone."""
    request = OxyRequest(callee="time")
    assert vars(request).keys() - {"_given"} == {"callee"}
    request.arguments["city"] = "Graz"
    assert request.arguments == {"city": "Graz"}
    assert OxyRequest().arguments == {}


def test_an_unknown_argument() -> None:
    """An unknown argument is a TypeError that names it, and an unknown attribute an AttributeError."""
    wrong: Any = {"color": "red"}
    with pytest.raises(TypeError, match="'color'"):
        OxyRequest(**wrong)
    with pytest.raises(AttributeError, match="'color'"):
        getattr(OxyRequest(), "color")  # noqa: B009  (type checkers know that there is none)


@pytest.mark.parametrize("name", FIELDS)
def test_a_clone_with_changes(name: str) -> None:
    """A change of a clone is the given object, and does not affect the original."""
    request, value = filled(), object()
    before = dict(request.__dict__)
    clone = request.clone_with(**{name: value})
    assert getattr(clone, name) is value
    assert request.__dict__ == before
    assert {each for each in FIELDS if getattr(clone, each) != getattr(request, each)} == {name}


@pytest.mark.parametrize("name", ["query", "send_message", "_given", "given", ""])
def test_an_unknown_field(name: str) -> None:
    """An unknown field is refused by its name."""
    with pytest.raises(AttributeError, match=f"'{name}'"):
        OxyRequest().clone_with(**{name: 1})


def test_given_fields() -> None:
    """A request knows which fields were set, even to their defaults; a clone adds its changes."""
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
    """Each kind of copy has all fields, the set of given fields, and the same class."""
    request = filled()
    copied = make(request)
    assert type(copied) is OxyRequest
    assert {name: getattr(request, name) for name in FIELDS} == {name: getattr(copied, name) for name in FIELDS}
    assert request.given == copied.given
    copied.arguments["arguments"]["a"].append(2)
    assert request.arguments == {"arguments": {"a": [1]}}


class Mine(OxyRequest):
    """A user's request class."""


@each_copy
def test_copies_of_a_subclass(make: Callable[[OxyRequest], OxyRequest]) -> None:
    """Copies have the user's class."""
    assert type(make(Mine(node_id="n"))) is Mine


CLONES: Final[dict[str, Callable[[OxyRequest], OxyRequest]]] = {
    "clone_with": lambda request: request.clone_with(),
    "clone_with fields": lambda request: request.clone_with(callee="x"),
    "deepcopy": copy.deepcopy,
}


@pytest.mark.parametrize("make", CLONES.values(), ids=CLONES)
def test_a_clone_keeps_assigned_attributes(make: Callable[[OxyRequest], OxyRequest]) -> None:
    """A clone keeps a `send_message`, or another attribute, that was assigned to the request; but no private one."""
    request = OxyRequest()
    mine: Any = object()
    request.send_message = mine
    vars(request)["extra"] = vars(request)["_private"] = mine
    clone = make(request)
    assert clone.send_message is mine
    assert vars(clone)["extra"] is mine
    assert "_private" not in vars(clone)


def test_a_container_of_no_request() -> None:
    """The class itself has no container, which each request has of its own."""
    assert not hasattr(OxyRequest, "arguments")
    assert OxyRequest().arguments is not OxyRequest().arguments


UNCOPYABLE: Final[list[tuple[str, dict[str, Any]]]] = [
    # expected in the error, the fields
    ("lock", {"arguments": {"query": "SECRET", "lock": threading.Lock()}}),
    ("pre_node_ids", {"pre_node_ids": [threading.Lock()]}),
    ("inner", {"parallel_dict": {"fine": 1, "inner": {"lock": threading.Lock()}}}),
]


@pytest.mark.parametrize(("expected", "fields"), UNCOPYABLE)
def test_arguments_that_cannot_be_copied(expected: str, fields: dict[str, Any]) -> None:
    """A clone that cannot be made raises PayloadError with the key and without the value."""
    with pytest.raises(errors.PayloadError, match=f"'{expected}' cannot be copied") as caught:
        OxyRequest(**fields).clone_with()
    assert "SECRET" not in str(caught.value)


def test_live_objects_in_shared_data() -> None:
    """Live objects in the shared data prevent neither clones nor dumps."""
    lock = threading.Lock()
    request = OxyRequest(shared_data={"lock": lock, "list": [lock]})
    assert request.clone_with().shared_data is request.shared_data
    dumped = request.model_dump()["shared_data"]
    assert request.shared_data == dumped
    assert dumped is not request.shared_data


@pytest.mark.parametrize("name", sorted({*FIELDS} - {"idempotent"}))
def test_model_dump(name: str) -> None:
    """A dump has each of the framework's fields, without excluded ones; dicts and lists are copies."""
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


def test_a_dump_of_a_circular_object() -> None:
    """A dump of an object that contains itself raises an error with its key."""
    circle: dict[str, Any] = {}
    circle["circle"] = circle
    with pytest.raises(errors.PayloadError, match="'odd' cannot be copied"):
        OxyRequest(arguments={"fine": 1, "odd": circle}).model_dump()


def test_the_repr_of_a_request() -> None:
    """A repr shows the names of arguments and data, and no values."""
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
    """The session name is the key of the framework's memory."""
    assert OxyRequest(caller="a", callee="b").session_name == "a__b"


# ---------------------------------------------------------------------------------------------------------------- Hosts


async def test_calling_another() -> None:
    """A request calls through its host; without one it raises an error."""
    host = Program()
    request = OxyRequest(mas=host)
    assert (await request.call(callee="x", arguments={"query": "hi"})).output == "called"
    assert host.told == [(request, {"callee": "x", "arguments": {"query": "hi"}})]
    with pytest.raises(errors.ConfigurationError, match="set `mas`"):
        await OxyRequest().call(callee="x")


async def test_sending_a_message() -> None:
    """A message goes to the host with its event's name, id and retry, or nowhere."""
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
    """The query is in the arguments, that of the whole run in its data."""
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
    """Both short-term memories are in the arguments."""
    request = OxyRequest()
    assert request.has_short_memory(level) is False
    assert request.get_short_memory(level) == []
    request.set_short_memory([{"role": "user"}], level)
    assert request.has_short_memory(level) is True
    assert request.get_short_memory(level) == [{"role": "user"}]
    assert request.arguments == {name: [{"role": "user"}]}


@pytest.mark.parametrize("name", ["request_id", "group_id"])
def test_ids(name: str) -> None:
    """An id can be read and set by its methods and by its field."""
    request = OxyRequest()
    getattr(request, f"set_{name}")("x")
    assert getattr(request, f"get_{name}")() == "x"
    assert getattr(request, name) == "x"


@pytest.mark.parametrize("name", ["arguments", "shared_data", "group_data"])
def test_data(name: str) -> None:
    """Arguments and data can be read, set and tested by key, or as a whole."""
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
    """There are the framework's seven states, and the alias of the documentation."""
    states = {"CREATED": 1, "RUNNING": 2, "COMPLETED": 3, "FAILED": 4, "PAUSED": 5, "SKIPPED": 6, "CANCELED": 7}
    assert {state.name: state.value for state in OxyState} == states
    assert OxyState["ERROR"] is OxyState.FAILED


def test_responses() -> None:
    """Responses compare by their result, pickle, and have no request in their repr."""
    response = OxyResponse(OxyState.COMPLETED, {"a": 1}, {"trace_id": "t"}, OxyRequest(arguments={"query": "SECRET"}))
    assert response == OxyResponse(OxyState.COMPLETED, {"a": 1}, {"trace_id": "t"})
    assert response == pickle.loads(pickle.dumps(response)) == copy.deepcopy(response)
    assert "query" not in repr(response)
    assert OxyResponse(OxyState.FAILED) == OxyResponse(OxyState.FAILED, None, {}, None)
    assert OxyResponse(OxyState.FAILED).extra is not OxyResponse(OxyState.FAILED).extra


# -------------------------------------------------------------------------------------------------------------- Events

CLASSES: Final = [Answer, Custom, Observation, Progress, RemoteErrorEvent, Text, TextDelta, ToolCall]


def made(cls: type[Event], content: Any) -> Any:
    """Return an event of this class with this content."""
    return cls("x", content, {"type": "x", "content": content}, ServerSentEvent(data="SECRET", id="7"))


@pytest.mark.parametrize("cls", CLASSES)
def test_events(cls: type[Event]) -> None:
    """An event is frozen and slotted, pickles, compares by content, and shows its message once."""
    event = made(cls, {"a": 1})
    assert cls("x", {"a": 1}, {"type": "x", "content": {"a": 1}}) == event
    assert event != made(cls, {"a": 2})
    assert [pickle.loads(pickle.dumps(event)), copy.copy(event), copy.deepcopy(event)] == [event] * 3
    assert pickle.loads(pickle.dumps(event)).sse == ServerSentEvent(data="SECRET", id="7")
    assert repr(event) == f"{cls.__name__}(type='x', content={{'a': 1}})"
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        event.content = 1
    assert not hasattr(event, "__dict__")


@pytest.mark.parametrize("cls", CLASSES)
def test_events_that_are_made_quickly(cls: type[Event]) -> None:
    """`new_sse` and `new_event` make the same, frozen, as the constructors."""
    sse = new_sse("message", "SECRET", "7", None)
    event = new_event(cls, "x", {"a": 1}, {"type": "x", "content": {"a": 1}}, sse, ("bad",))
    assert sse == ServerSentEvent(data="SECRET", id="7")
    assert event == made(cls, {"a": 1})
    assert type(event) is cls
    assert pickle.loads(pickle.dumps(event)).problems == ("bad",)
    assert attrs.evolve(event, problems=()).sse is sse
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        cast("Any", event).content = 1


def test_events_of_two_classes() -> None:
    """Events of different classes are not equal."""
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
    """An accessor returns a value of its type for any message of a remote."""
    event = made(cls, content)
    assert {name: getattr(event, name) for name in expected} == expected


def test_texts() -> None:
    """A text event's text is its message."""
    assert Text(None, "hi", "hi").text == "hi"


def test_partials() -> None:
    """A partial result is a value; its repr has its size."""
    partial = Partial(events=(made(Answer, 1),), text="secret", answer={"a": 1}, dropped=2)
    assert repr(partial) == "Partial(events=<1 events>, text=<6 characters>, answer={'a': 1}, dropped=2)"
    assert pickle.loads(pickle.dumps(partial)) == partial
    assert Partial() == Partial(events=(), text="", answer=None, dropped=0)
