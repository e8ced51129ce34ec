"""`OxyRequest` and `OxyResponse`.

Rule 1: the names, fields and values of `OxyRequest` and `OxyResponse` are those of oxygent 1.0.8 to 1.1.3.
Rule 2: a request does nothing by itself: `call` and `send_message` use its host.
"""

from __future__ import annotations

import copy
import functools
import inspect
from collections.abc import Awaitable, Callable, Collection, Mapping
from typing import TYPE_CHECKING, Any, Final, Protocol, Self, cast

import attrs

from oxygent_client._core.errors import ConfigurationError, Outcome, OxyError, PayloadError, RemoteAgentError
from oxygent_client._core.events import OxyState
from oxygent_client._core.settings import CallOptions


class Host(Protocol):
    """The program that a request belongs to (`OxyRequest.mas`): it calls other agents and shows messages."""

    async def call(self, request: OxyRequest, /, **changes: Any) -> OxyResponse:
        """Call another member with a clone of `request` that has `changes`."""
        ...

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """Show `message` to the watchers of the run of `request`."""
        ...


def _containers(value: Any) -> Any:
    """`value` with new dictionaries and lists all the way down; their other members are shared."""
    kind = value.__class__
    if (kind is list and _ATOMS.issuperset(map(type, value))) or (
        kind is dict and _ATOMS.issuperset(map(type, value.values()))
    ):
        return value.copy()
    if isinstance(value, dict):
        return {key: _containers(member) for key, member in cast("dict[Any, Any]", value).items()}
    if isinstance(value, list):
        return [_containers(member) for member in cast("list[Any]", value)]
    return value


_ATOMS: Final[frozenset[type]] = frozenset({str, int, float, bool, type(None)})
"""Classes of values that need no copy."""


def _clone(value: Any) -> Any:
    """A deep copy; of flat containers, as most fields are, without the machinery of `copy`."""
    kind = value.__class__
    if kind is list and _ATOMS.issuperset(map(type, value)):
        return value.copy()
    if kind is dict and _ATOMS.issuperset(map(type, value)) and _ATOMS.issuperset(map(type, value.values())):
        return value.copy()
    return copy.deepcopy(value)


@functools.lru_cache(maxsize=64)
def _names(cls: type[Any]) -> frozenset[str]:
    """The names of the fields of a class of requests."""
    return frozenset(field.name for field in attrs.fields(cls))


@functools.lru_cache(maxsize=64)
def _joined_names(before: tuple[str, ...], more: tuple[str, ...]) -> tuple[str, ...]:
    """The names of both; most requests of a program have the same, and so the same tuple."""
    return (*dict.fromkeys(before + more),)


def _copied(name: str, value: Any, make: Callable[[Any], Any]) -> Any:
    """The copy of a field's value that `make` returns.

    Raises:
        PayloadError: the value cannot be copied; the text names the field, or the key in it.
    """
    try:
        return make(value)
    except Exception as error:  # a `__deepcopy__` may raise anything
        for key, member in cast("dict[str, Any]", value).items() if isinstance(value, dict) else ():
            try:
                make(member)
            except Exception:  # noqa: BLE001  (as above)
                name = key
                break
        # Only the error's class: its text may hold the value, and the value may be a secret.
        raise PayloadError(f"the value of {name!r} cannot be copied ({type(error).__name__})") from error


def _keys(data: dict[str, Any]) -> str:
    """The repr of a field with user data: its keys only."""
    return repr([*data])


_SHARED = ("mas", "shared_data", "group_data")
"""Fields that a clone shares with its original, as in the framework."""
_NO_OPTIONS = CallOptions()
_KEPT = ("_given", "_call_options")
"""Attributes without a field that a clone has, too, beside those that the user assigned."""
_OWN = frozenset({"idempotent"})
"""Fields of this package alone: they are never sent."""
_no_names: Callable[[], list[str]] = list
_no_data: Callable[[], dict[str, Any]] = dict
"""Empty values; a call of `list[str]` takes ten times as long as one of `list`."""


@attrs.define(slots=False, kw_only=True, eq=False)
class OxyRequest:
    """One call of an agent, with its place in the calls of the program.

    Only `arguments` is needed. An agent executes a clone, on which it fills in ids that are empty; the request itself
    is not changed.

    Source of the fields: oxygent 1.1.3, with `is_load_data_for_restart` of 1.0.8 and 1.0.13. A field without a
    description here means what it means there.
    """

    request_id: str = ""
    """The caller's id of the request."""
    group_id: str = ""
    """The id of a group of runs, such as a conversation, in the server's records. It gives no memory."""
    from_trace_id: str | None = ""
    """The trace id of the previous turn: the remote reads its memory from there."""
    current_trace_id: str | None = ""
    """The id of this run."""
    reference_trace_id: str | None = ""
    restart_node_id: str | None = ""
    restart_node_output: str | None = attrs.field(default="", repr=False)
    restart_node_order: str | None = ""
    original_payload: str | None = attrs.field(default="", repr=False)
    is_load_data_for_restart: bool = True
    input_md5: str | None = ""
    root_trace_ids: list[str] = attrs.field(factory=_no_names)
    mas: Host | None = attrs.field(default=None, repr=False)
    """The program that the request belongs to. None: `send_message` discards messages, and `call` is an error."""
    caller: str | None = "user"
    callee: str | None = ""
    call_stack: list[str] = attrs.field(factory=lambda: ["user"])
    """The names from the user down to the callee."""
    node_id_stack: list[str] = attrs.field(factory=lambda: [""])
    """The node ids that go with `call_stack`."""
    father_node_id: str | None = ""
    pre_node_ids: list[str] | str | None = attrs.field(factory=_no_names)
    latest_node_ids: list[str] | str | None = attrs.field(factory=_no_names)
    caller_category: str | None = "user"
    callee_category: str | None = ""
    node_id: str | None = ""
    """The id of this call within its run."""
    copied_node_id: str | None = ""
    is_save_history: bool = True
    is_send_message: bool = True
    is_async_storage: bool = True
    parallel_id: str | None = ""
    parallel_dict: dict[str, Any] | None = attrs.field(factory=_no_data)
    arguments: dict[str, Any] = attrs.field(factory=_no_data, repr=_keys)
    """The arguments of the agent: `query` and others (any JSON)."""
    shared_data: dict[str, Any] = attrs.field(factory=_no_data, repr=_keys)
    """Data that all calls of a run read and write."""
    group_data: dict[str, Any] = attrs.field(factory=_no_data, repr=_keys)
    """Data that all runs of a conversation read and write."""
    create_time: str | None = None
    update_time: str | None = None
    idempotent: bool = False
    """Whether the remote may run twice, so that a request is repeated after more kinds of failure. Never sent."""

    @property
    def given(self) -> frozenset[str]:
        """The names of the fields that the constructor or `clone_with` got."""
        return frozenset(self.__dict__["_given"])

    @property
    def call_options(self) -> CallOptions:
        """The options of this call. An agent sets them on the clone that it executes, and they go no further."""
        options: CallOptions = self.__dict__.get("_call_options", _NO_OPTIONS)
        return options

    @property
    def session_name(self) -> str:
        """The key of the framework's memory."""
        return f"{self.caller}__{self.callee}"

    def clone_with(self, **changes: Any) -> Self:
        """Make a deep copy with other values in some fields; `shared_data` and `group_data` stay shared.

        The clone keeps a `send_message` that was assigned on this request.

        Raises:
            AttributeError: there is no such field.
            PayloadError: a value cannot be copied; the text names its key.
        """
        cls: Any = type(self)
        fields = _names(cls)
        if not fields.issuperset(changes):
            raise AttributeError(f"{cls.__name__} has no field {min(changes.keys() - fields)!r}")
        _ = self.shared_data, self.group_data  # both are there now, to be shared
        own = self.__dict__.copy()
        for name, value in [*own.items()]:
            if name in fields:
                if value.__class__ not in _ATOMS and name not in _SHARED and name not in changes:
                    own[name] = _copied(name, value, _clone)
            elif name.startswith("_") and name not in _KEPT:
                del own[name]
        own |= changes
        own["_given"] = _joined_names(own["_given"], (*changes,))
        clone: Self = object.__new__(cls)
        clone.__dict__ = own
        return clone

    def __copy__(self) -> Self:
        return self.clone_with()

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        return self.clone_with()

    def model_dump(self, *, exclude: Collection[str] = ()) -> dict[str, Any]:
        """Return the fields, without those in `exclude`; dictionaries and lists are copies, all the way down.

        Raises:
            PayloadError: a value is nested too deep, or contains itself; the text names its key.
        """
        fields = self.shared_fields(exclude)
        for name, value in fields.items():
            if value.__class__ not in _ATOMS:
                fields[name] = _copied(name, value, _containers)
        return fields

    def shared_fields(self, exclude: Collection[str] = ()) -> dict[str, Any]:
        """As `model_dump`, with the containers of this request, and of all requests, in the place of copies."""
        own = self.__dict__
        cls: Any = type(self)
        defaults, names = _template(cls, tuple(exclude))
        fields = defaults | own
        for name in own:
            if name not in names:
                del fields[name]
        return fields

    # --- the program around it ---

    async def call(self, **changes: Any) -> OxyResponse:
        """Call another member of the program: `await request.call(callee="...", arguments={...})`.

        Raises:
            ConfigurationError: `mas` is None.
        """
        if self.mas is None:
            raise ConfigurationError("this request has no host for calls: set `mas`")
        return await self.mas.call(self, **changes)

    if TYPE_CHECKING:
        send_message: Callable[..., Awaitable[Any]] = attrs.field(init=False)
        """Show a message to the watchers of this run; without a host it is discarded.

        Assign an async function (`request.send_message = mine`) to get each message of a remote run.
        """
    else:

        def __new__(cls, *args: Any, **fields: Any) -> Self:
            """Remember the names of the given fields, for `build_payload`; type checkers see `__init__` alone."""
            request = super().__new__(cls)
            request.__dict__ = {"_given": (*fields,)}
            return request

        def __init__(self, **fields: Any) -> None:
            if not _NAMES.issuperset(fields):
                name = min(fields.keys() - _NAMES)
                raise TypeError(f"OxyRequest.__init__() got an unexpected keyword argument {name!r}")
            self.__dict__.update(fields)

        async def send_message(
            self, message: Any = None, event: str | None = None, id: str | None = None, retry: int | None = None
        ) -> None:
            """Show `message` to the watchers of this run; without a host it is discarded.

            Assign an async function (`request.send_message = mine`) to get each message of a remote run.
            """
            if self.mas is not None and self.is_send_message:
                await self.mas.send_message(self, message, event=event, id=id, retry=retry)

    # --- the helpers of the framework ---

    def set_query(self, query: str, master_level: bool = False) -> None:
        """Set the query of this call, or with `master_level` that of the whole run."""
        (self.shared_data if master_level else self.arguments)["query"] = query

    def get_query(self, master_level: bool = False) -> Any:
        """Return the query of this call, or with `master_level` that of the whole run; by default empty."""
        return (self.shared_data if master_level else self.arguments).get("query", "")

    def has_short_memory(self, master_level: bool = False) -> bool:
        """Whether the arguments contain a short-term memory."""
        return _memory(master_level) in self.arguments

    def set_short_memory(self, short_memory: Any, master_level: bool = False) -> None:
        """Set the short-term memory."""
        self.arguments[_memory(master_level)] = short_memory

    def get_short_memory(self, master_level: bool = False) -> Any:
        """Return the short-term memory; by default an empty list."""
        return self.arguments.get(_memory(master_level), [])

    def get_request_id(self) -> str:
        """Return the caller's id of the request."""
        return self.request_id

    def set_request_id(self, request_id: str) -> None:
        """Set the caller's id of the request."""
        self.request_id = request_id

    def get_group_id(self) -> str:
        """Return the id of the conversation."""
        return self.group_id

    def set_group_id(self, group_id: str) -> None:
        """Set the id of the conversation."""
        self.group_id = group_id

    def has_arguments(self, key: str) -> bool:
        """Whether there is an argument `key`."""
        return key in self.arguments

    def get_arguments(self, key: str | None = None, default: Any = None) -> Any:
        """Return one argument, or without a key all."""
        return _get(self.arguments, key, default)

    def set_arguments(self, key: str, value: Any) -> None:
        """Set one argument."""
        self.arguments[key] = value

    def has_shared_data(self, key: str) -> bool:
        """Whether the run's data contain `key`."""
        return key in self.shared_data

    def get_shared_data(self, key: str | None = None, default: Any = None) -> Any:
        """Return one value of the run's data, or without a key all."""
        return _get(self.shared_data, key, default)

    def set_shared_data(self, key: str, value: Any) -> None:
        """Set one value of the run's data."""
        self.shared_data[key] = value

    def has_group_data(self, key: str) -> bool:
        """Whether the conversation's data contain `key`."""
        return key in self.group_data

    def get_group_data(self, key: str | None = None, default: Any = None) -> Any:
        """Return one value of the conversation's data, or without a key all."""
        return _get(self.group_data, key, default)

    def set_group_data(self, key: str, value: Any) -> None:
        """Set one value of the conversation's data."""
        self.group_data[key] = value


class _Made:
    """The container of a field that was not set, made when it is first used.

    A descriptor takes a fifth of the time of `__getattr__`, before which Python raises an error.
    """

    __slots__ = ("_make", "_name")

    def __init__(self, name: str, make: Callable[[], Any]) -> None:
        self._name = name
        self._make = make

    def __get__(self, request: OxyRequest | None, cls: object = None) -> Any:
        if request is None:
            raise AttributeError(self._name)
        return request.__dict__.setdefault(self._name, self._make())


_init = inspect.signature(cast("Any", OxyRequest).__attrs_init__)
setattr(  # noqa: B010  (type checkers do not know the attribute)
    OxyRequest,
    "__signature__",
    _init.replace(parameters=[*_init.parameters.values()][1:], return_annotation=_init.empty),
)
# An instance has only the fields that were set, mostly few: all of them, with empty containers, take 1.5 KB.
_NAMES: Final = _names(OxyRequest)
_FACTORIES: Final[Mapping[str, Callable[[], Any]]] = {
    field.name: make for field in attrs.fields(OxyRequest) if (make := getattr(field.default, "factory", None))
}
_DEFAULTS: Final = {
    field.name: None if field.name in _FACTORIES else field.default for field in attrs.fields(OxyRequest)
}
for _name in _NAMES:
    setattr(OxyRequest, _name, _Made(_name, _FACTORIES[_name]) if _name in _FACTORIES else _DEFAULTS[_name])


@functools.lru_cache(maxsize=64)
def _template(cls: Any, exclude: tuple[str, ...]) -> tuple[dict[str, Any], frozenset[str]]:
    """The defaults, and the names, of the fields that a dump without `exclude` has."""
    names = _names(cls) - _OWN - {*exclude}
    defaults = {name: _FACTORIES[name]() if name in _FACTORIES else value for name, value in _DEFAULTS.items()}
    return {name: value for name, value in defaults.items() if name in names}, names


def _memory(master_level: bool) -> str:
    return "master_short_memory" if master_level else "short_memory"


def _get(data: Mapping[str, Any], key: str | None, default: Any) -> Any:
    return data if key is None else data.get(key, default)


@attrs.define(slots=False)
class OxyResponse:
    """The result of a call."""

    state: OxyState
    """How the call ended."""
    output: Any = None
    """The answer (any JSON), or the text of the error."""
    extra: dict[str, Any] = attrs.field(factory=dict[str, Any])
    """More about the call, as JSON. The properties below give typed access to the usual keys; after a failure it has
    `retryable` and `attempts` too."""
    oxy_request: OxyRequest | None = attrs.field(default=None, repr=False, eq=False)
    """The executed clone of the request."""

    @property
    def trace_id(self) -> str:
        """The caller's trace id of the run; empty if it is unknown."""
        return str(self.extra.get("trace_id") or "")

    @property
    def remote_trace_id(self) -> str:
        """The server's trace id of the run; empty if it is unknown."""
        return str(self.extra.get("remote_trace_id") or "")

    @property
    def outcome(self) -> Outcome | None:
        """How far the run got at the remote; None after a failure that does not tell."""
        known = self.extra.get("outcome", Outcome.COMPLETED if self.state is OxyState.COMPLETED else None)
        return next((each for each in Outcome if each == known), None)

    @property
    def error(self) -> str:
        """The class of the error; empty if there was none."""
        return str(self.extra.get("error") or "")

    @property
    def recovered(self) -> bool:
        """Whether the answer comes from the server's record, since the stream was cut."""
        return bool(self.extra.get("recovered"))

    @classmethod
    def failed(cls, error: OxyError, trace_id: str = "") -> Self:
        """Make a response of `error`: FAILED with its text, or the state and output that the remote reported.

        `trace_id` is that of the call, for an error without one.
        """
        extra = {
            "error": type(error).__name__,
            "outcome": str(error.outcome),
            "retryable": error.retryable,
            "attempts": error.attempts,
            "trace_id": error.trace_id or trace_id,
        }
        state, output = OxyState.FAILED, str(error)
        if isinstance(error, RemoteAgentError):
            state, output = error.state or state, error.output if error.output is not None else output
        return cls(state, output, extra)
