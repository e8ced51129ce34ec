"""A registry of named agents and functions that call each other.

Rule 1: a call is placed as the framework places it: a clone with a node id of its own, the caller's node as its father,
    the data of the run shared. Who executes stands on both stacks.
Rule 2: a call answers. An error becomes a FAILED response, unless the call itself is wrong.
Rule 3: who watches is told of a call as the framework tells of it: a `tool_call` before it, an `observation` after it.
Rule 4: a member is opened at its first call inside the registry's block; all are closed, the last one first, whatever
    becomes of the others.
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
from oxygent_client._core.validation import DICT, FLAG, MAPPING, Rule, check_each
from oxygent_client._protocol.payload import RESTART, check_restart
from oxygent_client._protocol.router import copy_json

__all__ = ["AgentRegistry", "Function", "Member"]


class Member(Protocol):
    """What a registry can call.

    What else it has is used too: `category` and `desc` (`str`), `init()`, `get_org()`, and `async with`, which may hold
    no cancel scope and no task group: it is entered in the task of the first call and left in that of the registry.
    What has `prepared`, as a `RemoteAgent`, puts itself on the stacks; for any other member the registry does.
    """

    @property
    def name(self) -> str:
        """What it is called by."""
        ...

    async def execute(self, oxy_request: OxyRequest, /) -> OxyResponse:
        """The response to `oxy_request`."""
        ...


def _named(function: Function) -> str:
    return getattr(function.function, "__name__", "")


def _described(function: Function) -> str:
    return (inspect.getdoc(function.function) or "").partition("\n")[0]


@attrs.frozen
class Function:
    """A local function as a member: `async f(request)`, or with `by_name` a function of the call's arguments.

    What it returns is the output, unless it is an `OxyResponse`. It may be a plain function: that is called in the
    event loop, so it must not wait for anything.

    Raises:
        ConfigurationError: it has no name that could be used (a lambda, a partial), or with `by_name` no signature.
    """

    function: Callable[..., Any]
    by_name: bool = attrs.field(default=False, kw_only=True)
    """Whether it gets the arguments as keywords, instead of the request."""
    name: str = attrs.field(default=attrs.Factory(_named, takes_self=True), kw_only=True)
    desc: str = attrs.field(default=attrs.Factory(_described, takes_self=True), kw_only=True)
    """What it is for; the first line of its docstring, if you say nothing else."""

    def __attrs_post_init__(self) -> None:
        if not self.name or self.name == "<lambda>":
            raise ConfigurationError("this function has no name to be called by: Function(..., name=...)")
        if self.by_name:
            try:
                inspect.signature(self.function)
            except ValueError as error:
                raise ConfigurationError(
                    f"the parameters of {self.name!r} cannot be seen: use it without by_name"
                ) from error

    @property
    def category(self) -> str:
        """`tool` for a function of its arguments; `agent` for one that knows the request, and so may call others."""
        return "tool" if self.by_name else "agent"

    async def execute(self, oxy_request: OxyRequest) -> OxyResponse:
        """What the function makes of the request.

        Raises:
            HandlerError: the arguments do not fit its parameters.
        """
        _check_arguments(self, oxy_request)
        result = self.function(**oxy_request.arguments) if self.by_name else self.function(oxy_request)
        if inspect.isawaitable(result):
            result = await result
        return result if isinstance(result, OxyResponse) else OxyResponse(OxyState.COMPLETED, result)


def _check_arguments(member: object, request: OxyRequest) -> None:
    """Refuse arguments that do not fit a function; nothing of it has run then."""
    if isinstance(member, Function) and member.by_name:
        try:
            inspect.signature(member.function).bind(**request.arguments)
        except TypeError as error:  # arguments come from language models
            text = f"the arguments do not fit {member.name!r}: {error}"
            raise HandlerError(text, outcome=Outcome.NOT_SENT) from error


_RULES: Final[Mapping[str, Rule]] = {
    "arguments": MAPPING,
    "shared_data": DICT,
    "group_data": DICT,
    "idempotent": FLAG,
}
"""What fields of a call must be, where another kind would fail far from here."""


class AgentRegistry:
    """The members of one program. As the host of requests (`OxyRequest.mas`) it resolves `request.call(callee=...)`.

    A bare function is a member by its own name, as `Function` has it. Use the registry in `async with`, so that
    connections are kept between calls; without it, each call opens its own.

    Args:
        members: remote agents, functions, anything that is a `Member`; each by its own `name`.
        name: what the registry itself is called in its `organization`.
        fallback: who is asked where a member failed: from its name to another's, or to a function, which so becomes a
            member. By default only if it surely ran nothing (`outcome` NOT_SENT or REJECTED), which only an agent
            without an `_execute` of its own can say: anything else may have done something before it failed. With
            `OxyRequest.idempotent` after every failure. A fallback may have one of its own.
        on_message: `async f(message, *, request, event, id, retry)`, called with each message that a member sends, and
            with a `tool_call` before and an `observation` after each call: `request` is the one within which it was
            sent. None: nobody watches. It may be assigned later.
        max_depth: how many calls deep members may call each other.

    Raises:
        ConfigurationError: two members have one name, one is no member, or the fallbacks go round in a circle.
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
        for failing, instead in (fallback or {}).items():
            self._fallback[failing] = instead if isinstance(instead, str) else self._add(instead)
        self._check_fallback()

    def _add(self, given: Member | Callable[..., Any]) -> str:
        member: Any = given
        if not hasattr(member, "execute"):
            if not callable(member) or isinstance(member, type):
                raise ConfigurationError(
                    f"{type(member).__name__} is no member: it has no `execute` and is no function"
                )
            member = Function(member)
        name = getattr(member, "name", None)
        if not isinstance(name, str) or not name:
            raise ConfigurationError(f"a member of class {type(member).__name__} has no `name`")
        if name in self._members:
            raise ConfigurationError(f"two members are called {name!r}")
        self._members[name] = member
        return name

    def _check_fallback(self) -> None:
        for start in self._fallback:
            way = [self.member(start).name]
            while (instead := self._fallback.get(way[-1])) is not None:
                if instead in way:
                    raise ConfigurationError(f"the fallbacks go round in a circle: {' > '.join([*way, instead])}")
                way.append(self.member(instead).name)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members, in the order in which they were given."""
        return tuple(self._members)

    def member(self, name: str) -> Member:
        """The member of that name.

        Raises:
            UnknownCalleeError: there is none; the text names those that look like it.
        """
        if (member := self._members.get(name)) is not None:
            return member
        near = get_close_matches(name, self._members, n=3)
        said = f"did you mean {_listed(near)}?" if near else f"it has {_listed([*self._members][:10]) or 'no members'}"
        raise UnknownCalleeError(f"the registry has nothing called {name[:60]!r}; {said}")

    # --- the host of requests ---

    async def call(self, request: str | OxyRequest, /, **changes: Any) -> OxyResponse:
        """What a member answers, also when it failed.

        From outside: `call("name", query="...")`, where what is neither `query` nor `arguments` is a field of
        `OxyRequest`. Within a member, `request.call(callee="name", arguments={...})` comes here.

        Raises:
            UnknownCalleeError: there is no such member.
            PayloadError: the call asks for a restart of an earlier run.
            ConfigurationError: the call is wrong in another way, or the members call each other in a circle.
            AttributeError: `OxyRequest` has no such field.
        """
        check_each(changes, _RULES)
        if isinstance(request, str):
            request = self._from_outside(changes, callee=request)
        callee = str(changes.get("callee") or "")
        member = self.member(callee)
        if len(request.call_stack) > self.max_depth:
            way = " > ".join([*request.call_stack[-5:], callee])
            raise ConfigurationError(f"calls are nested deeper than max_depth ({self.max_depth}): ... > {way}")
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
            instead = self._fallback.get(member.name)
            if instead is None or not _may_another(response, is_idempotent):
                break
            context = Context(trace_id=str(child.current_trace_id), group_id=child.group_id, node_id=str(child.node_id))
            reason = response.extra.get("error", "?")
            log_event("warning", context, "%s failed (%s); asking %s instead", member.name, reason, instead)
            member = self.member(instead)
        if member.name != callee:
            response = attrs.evolve(response, extra={**response.extra, "fallback_for": callee})
        return response

    def _from_outside(self, changes: dict[str, Any], *, callee: str) -> OxyRequest:
        """The request that a call from outside comes from; `changes` become those of a call within."""
        root = OxyRequest(shared_data=changes.pop("shared_data", {}))
        changes["callee"] = callee
        changes["arguments"] = {**changes.get("arguments", {})}
        if "query" in changes:
            changes["arguments"]["query"] = changes.pop("query")
        if "query" in changes["arguments"]:  # where `get_query(master_level=True)` looks for it
            root.shared_data.setdefault("query", changes["arguments"]["query"])
        return root

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """Give `message` to `on_message`.

        Raises:
            HandlerError: it raised.
        """
        if self.on_message is not None:
            try:
                await self.on_message(message, request=request, event=event, id=id, retry=retry)
            except OxyError:
                raise
            except Exception as error:  # it is the user's own, and may raise anything
                raise HandlerError(f"on_message raised {type(error).__name__}") from error

    async def _answer(self, member: Member, request: OxyRequest) -> OxyResponse:
        """The member's response, also when it failed. Who watches is told of the call, and of what came of it."""
        placed = request.clone_with(
            callee_category=getattr(member, "category", "agent"),
            call_stack=[*request.call_stack, member.name],
            node_id_stack=[*request.node_id_stack, str(request.node_id)],
        )
        if not hasattr(member, "prepared"):
            request = placed
        trace_id, has_begun = str(request.current_trace_id), False
        tell_of = partial(_tell, placed.send_message, getattr(member, "sanitize", None), placed)
        try:
            shown = {"query": request.arguments["query"]} if "query" in request.arguments else {}
            await tell_of("tool_call", arguments=shown)
            await self._open(member)
            _check_arguments(member, request)
            has_begun = True
            response = await member.execute(request)
            if not isinstance(cast("Any", response), OxyResponse):
                raise HandlerError(f"{member.name!r} gave no OxyResponse, but {type(response).__name__}")
        except ConfigurationError:
            raise
        except Exception as error:  # noqa: BLE001  (a member may be anything)
            response = OxyResponse.failed(_translated(error, member), trace_id)
        if has_begun and not _asks_once(member):
            response = _unsure(response)
        try:
            await tell_of("observation", output=response.output, current_trace_id=trace_id)
        except OxyError as error:
            response = _unsure(OxyResponse.failed(error, trace_id))
        return response if response.oxy_request is not None else attrs.evolve(response, oxy_request=request)

    # --- finding out ---

    async def init(self) -> dict[str, OxyError]:
        """Have every member find out what it is, all at once; what comes back are those that failed, and why."""
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
        """The members as one tree: a node has `name` and `type`, and `desc` and `children` where there are such.

        Under a remote agent stand the remote's own members, each marked `is_remote`; before `init` there are none.
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
    """What is open in one event loop."""

    def __init__(self) -> None:
        self.entered = 0
        self.failures: list[OxyError] = []
        """What went wrong on closing."""
        self._is_over = False
        self._stack = AsyncExitStack()
        self._open: set[str] = set()
        self._locks: dict[str, anyio.Lock] = {}

    async def open(self, member: Any) -> None:
        """Enter the member, unless that was done; who comes meanwhile waits."""
        if member.name in self._open:
            return
        async with self._locks.setdefault(member.name, anyio.Lock()):
            if member.name in self._open:
                return
            await member.__aenter__()
            self._open.add(member.name)
            self._stack.push_async_callback(self._close, member)
        if self._is_over:  # the block was left meanwhile
            await self._stack.aclose()

    async def close(self) -> None:
        """Leave every member that was entered, the last one first."""
        self._is_over = True
        await self._stack.aclose()

    async def _close(self, member: AbstractAsyncContextManager[Any]) -> None:
        try:
            await member.__aexit__(None, None, None)
        except Exception as error:  # noqa: BLE001  (it is kept; the others are to be closed all the same)
            failure = _translated(error, cast("Member", member), "closing ")
            log_event("warning", Context(), "%s", failure)
            self.failures.append(failure)


_CALL: Final = "node_id copied_node_id caller callee caller_category callee_category request_id".split()
"""What a message about a call says of it, from the fields of the request."""
_UNTOUCHED: Final = (str(Outcome.NOT_SENT), str(Outcome.REJECTED))


def _may_another(response: OxyResponse, is_idempotent: bool) -> bool:
    """Whether another member may be asked after this response."""
    return response.state is OxyState.FAILED and (is_idempotent or response.extra.get("outcome") in _UNTOUCHED)


def _asks_once(member: Member) -> bool:
    """Whether the outcome of a failure is that of all that the member did: an agent of ours, not overridden."""
    return all(getattr(getattr(member, name, None), "asks_once", False) for name in ("execute", "_execute"))


def _unsure(response: OxyResponse) -> OxyResponse:
    """`response`, which may be that of a call within the member: nobody knows what the member did beside it."""
    if response.state is not OxyState.FAILED or response.extra.get("outcome") not in _UNTOUCHED:
        return response
    return attrs.evolve(response, extra={**response.extra, "outcome": str(Outcome.UNKNOWN), "retryable": False})


def _child(request: OxyRequest, changes: dict[str, Any]) -> OxyRequest:
    """The request of a call within `request`. What `request` notes of its calls is all that changes in it."""
    node_id, batch = new_id(), str(changes.get("parallel_id") or new_id())
    placed = {**changes, "node_id": node_id, "parallel_id": batch}
    if request.callee:  # else it comes from outside: the caller is the user
        placed |= {
            "father_node_id": request.node_id,
            "caller": request.callee,
            "caller_category": request.callee_category,
        }
    notes: dict[str, Any] = {} if request.parallel_dict is None else request.parallel_dict
    before: Any = notes[batch]["pre_node_ids"] if batch in notes else request.latest_node_ids
    # What `request` notes of its calls grows with them, so none of them gets a copy: each notes calls of its own.
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


async def _tell(
    send: Callable[..., Awaitable[None]],
    sanitize: Callable[[Any], Any] | None,
    request: OxyRequest,
    what: str,
    **more: Any,
) -> None:
    """Send the message of this type, with which the framework tells of a call, or of what came of it.

    `send` is the request's as it was before the call: a member may replace it, for the calls that it makes. What a
    member's own messages go through, this goes through, too: an output may hold what they may not.

    Raises:
        OxyError: who watches raised.
    """
    content = {name: getattr(request, name) for name in _CALL}
    message: Any = {"type": what, "content": {**content, "call_stack": [*request.call_stack], **more}}
    try:
        await send(message if sanitize is None else sanitize(copy_json(message)))
    except OxyError:
        raise
    except Exception as error:  # both are the user's own
        raise HandlerError(f"telling of the call raised {type(error).__name__}") from error


def _translated(error: Exception, member: Member, doing: str = "", outcome: Outcome | None = None) -> OxyError:
    """`error` as one of ours; of a foreign one only class and place are said: its text may hold anything."""
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
