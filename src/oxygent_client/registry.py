"""A registry of named agents and functions that call each other.

Rule 1: a call follows the framework's rules: its request is a clone with its own node id, the caller's node as father
    and the shared data of the run; the member that executes is on both stacks.
Rule 2: a call returns a response. An error becomes a FAILED response, unless the call itself is wrong.
Rule 3: `on_message` gets the framework's messages about a call: a `tool_call` before it, an `observation` after it.
Rule 4: a member is opened at its first call inside the registry's block. All are closed in reverse order, also if
    closing one fails.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from difflib import get_close_matches
from functools import partial
from pathlib import PurePath
from traceback import walk_tb
from types import TracebackType
from typing import Any, Final, Protocol, Self, cast

import anyio
import attrs

from oxygent_client._core.errors import (
    ClosedError,
    ConfigurationError,
    HandlerError,
    Outcome,
    OxyError,
    UnknownCalleeError,
)
from oxygent_client._core.events import OxyState
from oxygent_client._core.ids import new_id
from oxygent_client._core.log import log_event
from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.tasks import plain_task_group
from oxygent_client._core.transport import Context
from oxygent_client._core.user_code import user_code_errors
from oxygent_client._core.validation import DICT, FLAG, MAPPING, Rule, check_each
from oxygent_client._protocol.payload import RESTART, check_restart
from oxygent_client._protocol.router import copy_json

__all__ = ["AgentRegistry", "Function", "Member"]


class Member(Protocol):
    """An object that a registry can call.

    Optional attributes are used too: `category` and `desc` (`str`), `init()`, `get_org()`, and `async with`, which must
    not hold a cancel scope or task group: it is entered in the task of the first call and left in that of the registry.
    A member with `prepared`, such as a `RemoteAgent`, adds itself to the stacks; for others the registry does.
    """

    @property
    def name(self) -> str:
        """The name that callers use."""
        ...

    async def execute(self, oxy_request: OxyRequest, /) -> OxyResponse:
        """Return the response to `oxy_request`."""
        ...


def _named(function: Function) -> str:
    return getattr(function.function, "__name__", "")


def _described(function: Function) -> str:
    return (inspect.getdoc(function.function) or "").partition("\n")[0]


@attrs.frozen
class Function:
    """A local function as a member: `async f(request)`, or with `by_name` a function of the call's arguments.

    It returns the output, or an `OxyResponse`. A function that is not async is called in the event loop, so it must not
    block.

    Raises:
        ConfigurationError: it has no name (a lambda, a partial): pass `name`; or with `by_name` no signature.
    """

    function: Callable[..., Any]
    by_name: bool = attrs.field(default=False, kw_only=True)
    """Pass the arguments as keywords, instead of the request."""
    name: str = attrs.field(default=attrs.Factory(_named, takes_self=True), kw_only=True)
    desc: str = attrs.field(default=attrs.Factory(_described, takes_self=True), kw_only=True)
    """Its description; by default the first line of its docstring."""

    def __attrs_post_init__(self) -> None:
        if not self.name or self.name == "<lambda>":
            raise ConfigurationError("the function has no name: pass Function(..., name=...)")
        if self.by_name:
            try:
                inspect.signature(self.function)
            except ValueError as error:
                raise ConfigurationError(f"the parameters of {self.name!r} are unknown: do not use by_name") from error

    @property
    def category(self) -> str:
        """`tool` with `by_name`; otherwise `agent`: it gets the request, and may call others."""
        return "tool" if self.by_name else "agent"

    async def execute(self, oxy_request: OxyRequest) -> OxyResponse:
        """Call the function and return its result as a response.

        Raises:
            HandlerError: the arguments do not match its parameters.
        """
        _check_arguments(self, oxy_request)
        result = self.function(**oxy_request.arguments) if self.by_name else self.function(oxy_request)
        if inspect.isawaitable(result):
            result = await result
        return result if isinstance(result, OxyResponse) else OxyResponse(OxyState.COMPLETED, result)


def _check_arguments(member: object, request: OxyRequest) -> None:
    """Refuse arguments that do not match a function's parameters, before it runs."""
    if isinstance(member, Function) and member.by_name:
        try:
            inspect.signature(member.function).bind(**request.arguments)
        except TypeError as error:  # arguments come from language models
            text = f"the arguments do not match the parameters of {member.name!r}: {error}"
            raise HandlerError(text, outcome=Outcome.NOT_SENT) from error


_RULES: Final[Mapping[str, Rule]] = {
    "arguments": MAPPING,
    "shared_data": DICT,
    "group_data": DICT,
    "idempotent": FLAG,
}
"""Types of fields of a call whose wrong type would fail only later."""


class AgentRegistry:
    """Named agents and functions of one program. As `OxyRequest.mas` it resolves `request.call(callee=...)`.

    A function without `Function` is a member under its own name. Use the registry in `async with`, so that connections
    are kept between calls; otherwise each call opens its own.

    Args:
        members: remote agents, functions and any other `Member`; each under its own `name`.
        name: name of the registry in its `organization`.
        fallback: from the name of a member that may fail to the name of another one, or to a function, which becomes a
            member. It is called only if the first surely ran nothing (`outcome` NOT_SENT or REJECTED), which is known
            only of an agent without an `_execute` of its own; with `OxyRequest.idempotent` after every failure. A
            fallback may have a fallback.
        on_message: `async f(message, *, request, event, id, retry)`, called with each message that a member sends, a
            `tool_call` before and an `observation` after each call; `request` is the one of the call. May be assigned
            later.
        max_depth: how deeply members may call each other.

    Raises:
        ConfigurationError: two members have one name, an object is not a member, or the fallbacks form a cycle.
    """

    def __init__(
        self,
        *members: Member | Callable[..., Any],
        name: str = "registry",
        fallback: Mapping[str, str | Callable[..., Any]] | None = None,
        on_message: Callable[..., Awaitable[None]] | None = None,
        max_depth: int = 32,
    ) -> None:
        self.name = name
        self.on_message = on_message
        self.max_depth = max_depth
        self._members: dict[str, Member] = {}
        self._fallback: dict[str, str] = {}
        self._live: PerLoop[_Live] = PerLoop()
        for member in members:
            self._add(member)
        for failing, other in (fallback or {}).items():
            self._fallback[failing] = other if isinstance(other, str) else self._add(other)
        self._check_fallback()

    def _add(self, given: Member | Callable[..., Any]) -> str:
        member: Any = given
        if not hasattr(member, "execute"):
            if not callable(member) or isinstance(member, type):
                raise ConfigurationError(
                    f"{type(member).__name__} is not a member: it has no `execute` and is not a function"
                )
            member = Function(member)
        name = getattr(member, "name", None)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"the member of class {type(member).__name__} has no `name`")
        if name in self._members:
            raise ConfigurationError(f"two members have the name {name!r}")
        self._members[name] = member
        return name

    def _check_fallback(self) -> None:
        for start in self._fallback:
            path = [self.member(start).name]
            while (following := self._fallback.get(path[-1])) is not None:
                if following in path:
                    raise ConfigurationError(f"the fallbacks form a cycle: {' > '.join([*path, following])}")
                path.append(self.member(following).name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members, in the order of the arguments."""
        return tuple(self._members)

    def member(self, name: str) -> Member:
        """The member of that name.

        Raises:
            UnknownCalleeError: there is no such member; the text has similar names.
        """
        if (member := self._members.get(name)) is not None:
            return member
        similar = get_close_matches(name, self._members, n=3)
        names = _listed([*self._members][:10]) or "no members"
        hint = f"did you mean {_listed(similar)}?" if similar else f"it has {names}"
        raise UnknownCalleeError(f"the registry has no member {name[:60]!r}; {hint}")

    # --- the host of requests ---

    async def call(self, request: str | OxyRequest, /, **changes: Any) -> OxyResponse:
        """Call a member and return its response, also if it failed.

        From outside: `call("name", query="...")`; keywords other than `query` and `arguments` are fields of
        `OxyRequest`. Within a member, `request.call(callee="name", arguments={...})` calls this.

        Raises:
            UnknownCalleeError: there is no such member.
            PayloadError: the call has fields that restart an earlier run.
            ConfigurationError: the call is wrong otherwise, or members call each other deeper than `max_depth`.
            AttributeError: `OxyRequest` has no such field.
        """
        check_each(changes, _RULES)
        if isinstance(request, str):
            request = self._from_outside(changes, callee=request)
        callee = str(changes.get("callee") or "")
        member = self.member(callee)
        if len(request.call_stack) > self.max_depth:
            path = " > ".join([*request.call_stack[-5:], callee])
            raise ConfigurationError(f"calls are nested deeper than max_depth ({self.max_depth}): ... > {path}")
        check_restart({name: changes.get(name, getattr(request, name)) for name in RESTART})
        changes = {
            "request_id": request.request_id or new_id(22),
            "group_id": request.group_id or new_id(),
            "current_trace_id": str(request.current_trace_id or new_id()),
            **changes,
            "mas": self,
        }
        is_idempotent = changes.get("idempotent", request.idempotent)
        while True:
            child = _child(request, {**changes, "callee": member.name})
            response = await self._answer(member, child)
            fallback = self._fallback.get(member.name)
            if fallback is None or not _may_fall_back(response, is_idempotent):
                break
            context = Context(trace_id=str(child.current_trace_id), group_id=child.group_id, node_id=str(child.node_id))
            reason = response.extra.get("error", "?")
            log_event("warning", context, "%s failed (%s); fallback to %s", member.name, reason, fallback)
            member = self.member(fallback)
        if member.name != callee:
            response = attrs.evolve(response, extra={**response.extra, "fallback_for": callee})
        return response

    def _from_outside(self, changes: dict[str, Any], *, callee: str) -> OxyRequest:
        """Create the request that a call from outside is made within; `changes` become those of a call within it."""
        root = OxyRequest(shared_data=changes.pop("shared_data", {}))
        changes["callee"] = callee
        changes["arguments"] = {**changes.get("arguments", {})}
        if "query" in changes:
            changes["arguments"]["query"] = changes.pop("query")
        if "query" in changes["arguments"]:  # for `get_query(master_level=True)`
            root.shared_data.setdefault("query", changes["arguments"]["query"])
        return root

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """Pass `message` to `on_message`.

        Raises:
            HandlerError: it raised an exception.
        """
        if self.on_message is not None:
            with user_code_errors("on_message", keep_oxy_errors=True):
                await self.on_message(message, request=request, event=event, id=id, retry=retry)

    async def _answer(self, member: Member, request: OxyRequest) -> OxyResponse:
        """Execute a call and return its response, also if it failed; `on_message` gets the messages about it."""
        executed = request.clone_with(
            callee_category=getattr(member, "category", "agent"),
            call_stack=[*request.call_stack, member.name],
            node_id_stack=[*request.node_id_stack, str(request.node_id)],
        )
        if not hasattr(member, "prepared"):
            request = executed
        trace_id, has_begun = str(request.current_trace_id), False
        send = partial(_send_call_message, executed.send_message, getattr(member, "sanitize", None), executed)
        try:
            arguments = {"query": request.arguments["query"]} if "query" in request.arguments else {}
            await send("tool_call", arguments=arguments)
            await self._open(member)
            _check_arguments(member, request)
            has_begun = True
            response = await member.execute(request)
            if not isinstance(cast("Any", response), OxyResponse):
                raise HandlerError(f"{member.name!r} must return an OxyResponse, not {type(response).__name__}")
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  (a member may be anything)
            response = OxyResponse.failed(_translated(error, member), trace_id)
        if has_begun and not _is_single_attempt(member):
            response = _with_unknown_outcome(response)
        try:
            await send("observation", output=response.output, current_trace_id=trace_id)
        except OxyError as error:
            response = _with_unknown_outcome(OxyResponse.failed(error, trace_id))
        return response if response.oxy_request is not None else attrs.evolve(response, oxy_request=request)

    # --- discovery ---

    async def init(self) -> dict[str, OxyError]:
        """Call `init()` of all members that have it, concurrently; returns the errors of those that failed, by name."""
        failed: dict[str, OxyError] = {}
        async with plain_task_group() as group:
            for member in self._members.values():
                if hasattr(member, "init"):
                    group.start_soon(self._init, member, failed)
        return {name: failed[name] for name in self._members if name in failed}

    async def _init(self, member: Any, failed: dict[str, OxyError]) -> None:
        try:
            await self._open(member)
            await member.init()
        except Exception as error:  # noqa: BLE001  (a member may be anything; the others go on)
            failed[member.name] = _translated(error, member)

    def organization(self) -> dict[str, Any]:
        """The members as one tree: a node has `name` and `type`, and perhaps `desc` and `children`.

        The children of a remote agent are the remote's agents, marked `is_remote`; there are none before `init`.
        """
        return {"name": self.name, "type": "agent", "children": [_node(member) for member in self._members.values()]}

    # --- the block ---

    async def __aenter__(self) -> Self:
        live = self._live.get() or self._live.put(_Live())
        live.entered += 1
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        live = self._live.get()
        if live is None:
            raise ClosedError("the registry was not opened in this event loop")
        live.entered -= 1
        if live.entered == 0:
            self._live.take()
            await live.close()
            if live.failures and kind is None:
                raise live.failures[0]

    async def _open(self, member: Any) -> None:
        live = self._live.get()
        if live is not None and hasattr(member, "__aenter__"):
            try:
                await live.open(member)
            except OxyError:
                raise
            except Exception as error:
                raise _translated(error, member, "opening ", Outcome.NOT_SENT) from error

    def __repr__(self) -> str:
        return f"<AgentRegistry {_listed([*self._members])}>"


class _Live:
    """The open members in one event loop."""

    def __init__(self) -> None:
        self.entered = 0
        self.failures: list[OxyError] = []
        """Errors while closing members."""
        self._is_closed = False
        self._stack = AsyncExitStack()
        self._open: set[str] = set()
        self._locks: dict[str, anyio.Lock] = {}

    async def open(self, member: Any) -> None:
        """Enter the member once; concurrent calls wait for it."""
        if member.name in self._open:
            return
        async with self._locks.setdefault(member.name, anyio.Lock()):
            if member.name in self._open:
                return
            await member.__aenter__()
            self._open.add(member.name)
            self._stack.push_async_callback(self._close, member)
        if self._is_closed:  # the block was left meanwhile
            await self._stack.aclose()

    async def close(self) -> None:
        """Leave all members that were entered, in reverse order."""
        self._is_closed = True
        await self._stack.aclose()

    async def _close(self, member: AbstractAsyncContextManager[Any]) -> None:
        try:
            await member.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001  (the others must be closed, too)
            failure = _translated(error, cast("Member", member), "closing ")
            log_event("warning", Context(), "%s", failure)
            self.failures.append(failure)


_CALL: Final = "node_id copied_node_id caller callee caller_category callee_category request_id".split()
"""Fields of the request in a message about its call."""
_UNRUN: Final = (str(Outcome.NOT_SENT), str(Outcome.REJECTED))


def _may_fall_back(response: OxyResponse, is_idempotent: bool) -> bool:
    """Whether the fallback may be called after this response."""
    return response.state is OxyState.FAILED and (is_idempotent or response.extra.get("outcome") in _UNRUN)


def _is_single_attempt(member: Member) -> bool:
    """Whether an outcome covers all that the member did: an agent of this package that overrides nothing."""
    return all(getattr(getattr(member, name, None), "asks_once", False) for name in ("execute", "_execute"))


def _with_unknown_outcome(response: OxyResponse) -> OxyResponse:
    """Set the outcome of a failed member to UNKNOWN: its error may be of one of several calls that it made."""
    if response.state is not OxyState.FAILED or response.extra.get("outcome") not in _UNRUN:
        return response
    return attrs.evolve(response, extra={**response.extra, "outcome": str(Outcome.UNKNOWN), "retryable": False})


def _child(request: OxyRequest, changes: dict[str, Any]) -> OxyRequest:
    """The request of a call within `request`, which only changes in its notes about its calls."""
    node_id, batch = new_id(), str(changes.get("parallel_id") or new_id())
    placed = {**changes, "node_id": node_id, "parallel_id": batch}
    if request.callee:  # otherwise the call is from outside: the caller is the user
        placed |= {
            "father_node_id": request.node_id,
            "caller": request.callee,
            "caller_category": request.callee_category,
        }
    notes: dict[str, Any] = {} if request.parallel_dict is None else request.parallel_dict
    before: Any = notes[batch]["pre_node_ids"] if batch in notes else request.latest_node_ids
    # The notes of `request` grow with its calls, so they are not copied: each call has notes of its own.
    own: dict[str, Any] = {
        "parallel_dict": {},
        "pre_node_ids": [*cast("list[str]", before)] if isinstance(before, list) else before,
        **placed,
        "latest_node_ids": [],
    }
    child = request.clone_with(**own)
    child.original_payload = ""
    request.parallel_dict = notes
    noted: dict[str, Any] = notes.setdefault(batch, {"pre_node_ids": before, "parallel_node_ids": []})
    noted["parallel_node_ids"].append(node_id)
    request.latest_node_ids = noted["parallel_node_ids"]
    return child


async def _send_call_message(
    send: Callable[..., Awaitable[None]],
    sanitize: Callable[[Any], Any] | None,
    request: OxyRequest,
    message_type: str,
    **fields: Any,
) -> None:
    """Send the framework's message about a call (`tool_call`) or its result (`observation`).

    `send` is the request's `send_message` before the call, since a member may replace it for the calls that it makes.
    The member's `sanitize` is applied, as to its own messages.

    Raises:
        OxyError: `on_message` or `sanitize` raised.
    """
    content = {name: getattr(request, name) for name in _CALL}
    message: Any = {"type": message_type, "content": {**content, "call_stack": [*request.call_stack], **fields}}
    with user_code_errors("on_message or sanitize", keep_oxy_errors=True):
        await send(message if sanitize is None else sanitize(copy_json(message)))


def _translated(error: Exception, member: Member, doing: str = "", outcome: Outcome | None = None) -> OxyError:
    """Convert `error` to an `OxyError`; of a foreign one only class and place are shown: its text may hold anything."""
    if isinstance(error, OxyError):
        return error
    *_, (frame, line) = walk_tb(error.__traceback__)
    place = f"{PurePath(frame.f_code.co_filename).name}:{line}"
    ours = HandlerError(f"{doing}{member.name!r} raised {type(error).__name__} ({place})", outcome=outcome)
    ours.__cause__ = error
    return ours


def _node(member: Any) -> dict[str, Any]:
    node: dict[str, Any] = {"name": member.name, "type": getattr(member, "category", "agent")}
    if desc := getattr(member, "desc", ""):
        node["desc"] = desc
    if hasattr(member, "get_org"):
        node["children"] = member.get_org()
    return node


def _listed(names: list[str]) -> str:
    return ", ".join(repr(name[:60]) for name in names)
