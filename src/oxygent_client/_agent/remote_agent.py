"""Base class of remote agents: execute an `OxyRequest` at a server.

Rule 1: a request is executed as a clone; the caller's object is never changed.
Rule 2: `_execute` raises, `execute` answers: every `OxyError` but a wrong call becomes a FAILED response.
Rule 3: an agent pickles and copies as its configuration. What cannot is an error that names it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable, Mapping
from contextvars import ContextVar
from difflib import get_close_matches
from typing import Any, ClassVar, Final, Self, TypedDict, TypeVar, cast

from oxygent_client._core.errors import ConfigurationError, OxyError
from oxygent_client._core.ids import new_id
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.transport import check_url, redact_url
from oxygent_client._core.validation import DICT, FLAG, MAPPING, TEXT, Rule, check_each, optional
from oxygent_client._protocol.router import copy_json

__all__ = ["CallOptions", "RemoteAgent", "make_request", "single_attempt"]

F = TypeVar("F", bound=Callable[..., Any])

_CHECKING: Final[ContextVar[frozenset[int]]] = ContextVar("_CHECKING", default=frozenset())
"""The agents that are being checked on their way into a pickle, by id."""


def single_attempt(method: F) -> F:
    """Mark an `_execute`, or `execute`, whose error has the outcome of all that it did; an override has no mark."""
    method.__dict__["asks_once"] = True
    return method


class CallOptions(TypedDict, total=False):
    """What `ask` and `stream` take beside the query."""

    arguments: Mapping[str, Any]
    """What the agent is given beside the query (any JSON)."""
    trace_id: str
    """What you call this run; drawn if empty."""
    from_trace_id: str
    """The trace id of the turn before this one, so that the remote remembers it."""
    group_id: str
    """What you call the conversation; drawn if empty."""
    shared_data: dict[str, Any]
    """Seen and written by all calls of the run."""
    group_data: dict[str, Any]
    """Seen and written by all runs of the conversation."""
    idempotent: bool
    """True allows that the remote runs twice, where that is the price of an answer."""


_RULES: Final[Mapping[str, Rule]] = {
    "arguments": MAPPING,
    "trace_id": optional(TEXT),
    "from_trace_id": optional(TEXT),
    "group_id": optional(TEXT),
    "shared_data": DICT,
    "group_data": DICT,
    "idempotent": FLAG,
}


def _check_fields(fields: Mapping[str, Any]) -> None:
    for name in fields:
        if name not in _RULES:
            near = get_close_matches(name, _RULES, n=1)
            hint = f"; did you mean {near[0]!r}?" if near else ""
            if name.startswith("timeout"):
                hint = ": that is Timeouts(total=...) of the agent, or anyio.fail_after(...) around the call"
            raise ConfigurationError(f"a call takes no {name[:60]!r}{hint}")
    check_each(fields, _RULES)


def make_request(query: str | OxyRequest, fields: CallOptions) -> OxyRequest:
    """The request that `ask` and `stream` were called with.

    Raises:
        ConfigurationError: the query is none, or a field is unknown or of the wrong kind.
    """
    _check_fields(fields)
    if isinstance(query, OxyRequest):
        if fields:
            raise ConfigurationError(f"put {', '.join(fields)} into the request: it says everything by itself")
        return query
    if not isinstance(cast("Any", query), str):
        raise ConfigurationError("the query must be a text: a real server never answers another")
    return OxyRequest(
        arguments={**fields.get("arguments", {}), "query": query},
        current_trace_id=fields.get("trace_id", ""),
        from_trace_id=fields.get("from_trace_id", ""),
        group_id=fields.get("group_id", ""),
        shared_data=fields.get("shared_data", {}),
        group_data=fields.get("group_data", {}),
        idempotent=fields.get("idempotent", False),
    )


class RemoteAgent:
    """An agent that lives elsewhere, reached by http or https.

    Args:
        server_url: the remote's base URL.
        name: what the caller's own program calls it.
        desc: what it is for; `init` may fill it in.
    """

    category = "agent"
    _live: ClassVar[tuple[str, ...]] = ()
    """The attributes of which each copy has its own."""
    org: dict[str, Any]
    """The remote's organization as the remote gave it; empty before `init`."""

    def __init__(self, *, server_url: str, name: str = "remote", desc: str = "") -> None:
        self.server_url = self._checked(server_url)
        self.name = name
        self.desc = desc
        self.org = {}

    def _checked(self, server_url: str) -> str:
        """`server_url`, if this agent can use it."""
        if server_url == "":
            raise ConfigurationError("server_url is missing; only with transport=Cluster([...]) there is none")
        return check_url(server_url)

    async def init(self) -> None:
        """Find out what the remote is. The base finds out nothing."""

    def get_org(self) -> list[dict[str, Any]]:
        """The members under the remote's root, each marked `is_remote`: a copy, to be put under this agent.

        `[]` before `init`.
        """
        children: list[dict[str, Any]] = copy_json(self.org.get("children", []))
        waiting = [*children]
        while waiting:
            node = waiting.pop()
            node["is_remote"] = True
            waiting.extend(node.get("children", []))
        return children

    @single_attempt
    async def execute(self, oxy_request: OxyRequest) -> OxyResponse:
        """The response to `oxy_request`, also when it failed: `state` FAILED then, and `extra` says the rest.

        Raises:
            ConfigurationError: the call itself is wrong.
        """
        request = self.prepared(oxy_request)
        try:
            response = await self._execute(request)
        except ConfigurationError:
            raise
        except OxyError as error:
            response = OxyResponse.failed(error, str(request.current_trace_id))
        response.oxy_request = request
        return response

    async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
        """Ask the remote; the part that subclasses replace or wrap.

        Raises:
            OxyError: the run failed.
        """
        raise NotImplementedError

    def prepared(self, oxy_request: OxyRequest) -> OxyRequest:
        """A clone of `oxy_request` as this agent executes it.

        It has ids where there were none, and this agent on both stacks.
        """
        node_id = oxy_request.node_id or new_id()
        return oxy_request.clone_with(
            request_id=oxy_request.request_id or new_id(22),
            group_id=oxy_request.group_id or new_id(),
            current_trace_id=str(oxy_request.current_trace_id or new_id()),
            node_id=node_id,
            callee=self.name,
            callee_category=self.category,
            call_stack=[*oxy_request.call_stack, self.name],
            node_id_stack=[*oxy_request.node_id_stack, node_id],
        )

    # --- configuration travels, live things do not ---

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # other threads may assign meanwhile

    def __copy__(self) -> Self:
        # What is live may know its agent: in the copy it is to know the copy.
        clone = type(self).__new__(type(self))
        clone.__dict__.update(self.__getstate__())
        for name in self._live:
            clone.__dict__[name] = copy.deepcopy(clone.__dict__[name], {id(self): clone})
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        for name, value in self.__getstate__().items():
            try:
                clone.__dict__[name] = copy.deepcopy(value, memo)
            except TypeError as error:
                raise ConfigurationError(f"{type(self).__name__}.{name} is live and cannot be copied") from error
        return clone

    def __reduce_ex__(self, protocol: Any) -> Any:
        # A handler may be a method of this very agent: the check of one value must not start another.
        checking = _CHECKING.get()
        if id(self) not in checking:
            token = _CHECKING.set(checking | {id(self)})
            try:
                self._check_picklable()
            finally:
                _CHECKING.reset(token)
        return super().__reduce_ex__(protocol)

    def _check_picklable(self) -> None:
        for name, value in self.__getstate__().items():
            try:
                pickle.dumps(value)
            except ConfigurationError:
                raise
            except (TypeError, AttributeError, pickle.PicklingError) as error:
                raise ConfigurationError(f"{type(self).__name__}.{name} is live and cannot be pickled") from error

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.name!r} at {redact_url(self.server_url) or 'several servers'}>"
