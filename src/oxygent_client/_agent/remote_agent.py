"""Base class of remote agents: execute an `OxyRequest` at a server.

Rule 1: a request is executed as a clone; the caller's object is never changed.
Rule 2: `_execute` raises; `execute` returns a FAILED response for every `OxyError` but a `ConfigurationError`.
Rule 3: an agent pickles and copies as its configuration. A value that cannot be copied is an error that names it.
"""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from contextvars import ContextVar
from typing import Any, ClassVar, Final, Self, TypeVar

import attrs

from oxygent_client._agent.call_options import with_options
from oxygent_client._agent.rules import check_server_url
from oxygent_client._core.errors import ConfigurationError, OxyError
from oxygent_client._core.ids import new_id
from oxygent_client._core.requests import OxyRequest, OxyResponse
from oxygent_client._core.settings import CallOptions
from oxygent_client._core.transport import redact_url
from oxygent_client._core.validation import TEXT, instance_of, optional
from oxygent_client._protocol.router import copy_json

F = TypeVar("F", bound=Callable[..., Any])

_CHECKING: Final[ContextVar[frozenset[int]]] = ContextVar("_CHECKING", default=frozenset())
"""The agents that are being checked on their way into a pickle, by id."""
_REQUEST: Final = instance_of(
    OxyRequest, 'an OxyRequest, such as OxyRequest(arguments={"query": "..."}) (`ask` takes a str)'
)
_OPTIONS: Final = optional(instance_of(CallOptions, "CallOptions(...), such as CallOptions(timeout=60)"))


def single_attempt(method: F) -> F:
    """Mark an `_execute`, or `execute`, whose error has the outcome of all that it did; an override has no mark."""
    method.__dict__["asks_once"] = True
    return method


@attrs.define(slots=False, eq=False, repr=False)
class RemoteAgent:
    """An agent at a server, reached by http or https.

    Raises:
        ConfigurationError: `server_url` is missing, or is no http or https URL with a host.
    """

    category = "agent"
    _live: ClassVar[tuple[str, ...]] = ()
    """The attributes of which each copy has its own."""

    server_url: str = attrs.field(default="", validator=check_server_url)
    """The base URL of the remote."""
    name: str = attrs.field(default="remote", validator=TEXT, kw_only=True)
    """The name of the agent in the caller's program."""
    desc: str = attrs.field(default="", validator=TEXT, kw_only=True)
    """The description of the agent; `init` may fill it in."""
    org: dict[str, Any] = attrs.field(factory=dict[str, Any], init=False)
    """The remote's organization as the remote sent it; empty before `init`."""

    def __attrs_post_init__(self) -> None:
        self._check_together()

    def _check_together(self) -> None:
        """Check settings that depend on each other, once all of them are set."""
        if not self.server_url:
            raise ConfigurationError("server_url is missing: give the URL of a server, or transport=Cluster([...])")

    async def init(self) -> None:
        """Discover the remote. This base class discovers nothing."""

    def _keep(self, org: dict[str, Any], desc: str) -> None:
        """Keep the result of a discovery."""
        self.org = org
        self.desc = self.desc or desc

    def get_org(self) -> list[dict[str, Any]]:
        """Return a copy of the members below the remote's root, each marked `is_remote`; empty before `init`."""
        children: list[dict[str, Any]] = copy_json(self.org.get("children", []))
        waiting = [*children]
        while waiting:
            node = waiting.pop()
            node["is_remote"] = True
            waiting.extend(node.get("children", []))
        return children

    @single_attempt
    async def execute(self, oxy_request: OxyRequest, *, options: CallOptions | None = None) -> OxyResponse:
        """Execute a request. A failure is a response, too: its `state` is FAILED, and `extra` describes the error.

        Args:
            oxy_request: the request.
            options: settings of this call alone: time-outs, headers, the callee.

        Raises:
            ConfigurationError: the call or the configuration is invalid.
        """
        _REQUEST.check("oxy_request", oxy_request)
        _OPTIONS.check("options", options)
        request = with_options(self.prepared(oxy_request), options or CallOptions())
        try:
            response = await self._execute(request)
        except ConfigurationError:
            raise
        except OxyError as error:
            response = OxyResponse.failed(error, str(request.current_trace_id))
        response.oxy_request = request
        return response

    async def _execute(self, oxy_request: OxyRequest) -> OxyResponse:
        """Send a prepared request to the remote; subclasses replace or wrap this method.

        Raises:
            OxyError: the run failed.
        """
        raise NotImplementedError

    def prepared(self, oxy_request: OxyRequest) -> OxyRequest:
        """Return the clone of `oxy_request` that this agent executes: with ids, and with this agent on both stacks."""
        drawn = new_id(70)  # for all of them: to draw entropy takes longer than to cut it
        node_id = oxy_request.node_id or drawn[54:]
        clone = oxy_request.clone_with(
            request_id=oxy_request.request_id or drawn[:22],
            group_id=oxy_request.group_id or drawn[22:38],
            current_trace_id=str(oxy_request.current_trace_id or drawn[38:54]),
            node_id=node_id,
            callee=self.name,
            callee_category=self.category,
        )
        clone.call_stack = [*clone.call_stack, self.name]
        clone.node_id_stack = [*clone.node_id_stack, node_id]
        return clone

    # --- copies and pickles ---

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__.copy()  # other threads may assign meanwhile

    def __copy__(self) -> Self:
        # A live object may refer to its agent: in the copy it has to refer to the copy.
        clone = type(self).__new__(type(self))
        clone.__dict__.update(self.__getstate__())
        for name in self._live:
            clone.__dict__[name] = copy.deepcopy(clone.__dict__[name], {id(self): clone})
        return clone

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        clone = type(self).__new__(type(self))
        memo[id(self)] = clone
        # The live ones last: some of them lead back to the agent, and so to all others.
        for name, value in sorted(self.__getstate__().items(), key=lambda item: item[0] in self._live):
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
