"""`SSEOxyGent` for use inside OxyGent: a drop-in for the framework's own class.

Needs the extra: `pip install 'oxygent-client[oxygent]'`.

Rule 1: `_execute` raises only cancellations, since the framework repeats an agent on any exception.
Rule 2: if the framework repeats a call nevertheless, a run that may have started is not sent again.
Rule 3: of the framework's private names only `_execute` is used, which its documentation tells subclasses to override.
Rule 4: the framework stores an agent's fields, so our settings, which may contain secrets, are not fields.
Rule 5: a system starts even if a remote is unreachable; discovery is repeated at the first call.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections.abc import Collection, Mapping
from contextvars import ContextVar
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, Self, cast

import attrs

import oxygent_client
from oxygent_client import OxyRequest, OxyResponse
from oxygent_client.errors import HandlerError, Outcome, OxyError
from oxygent_client.routing import Host

try:
    import pydantic
    from oxygent import schemas  # pyright: ignore[reportMissingModuleSource]  (only its stubs are there)
    from oxygent.oxy.agents.remote_agent import RemoteAgent  # pyright: ignore[reportMissingModuleSource]  (likewise)
except ImportError as _missing:
    raise ImportError("the drop-in needs oxygent: pip install 'oxygent-client[oxygent]'") from _missing

__all__ = ["SSEOxyGent"]

logger: Final = logging.getLogger("oxygent_client")

FIELDS: Final = frozenset({"server_url", "name", "desc", "is_share_call_stack"})
"""Attributes of both the framework's agents and ours; ours are set from the framework's fields."""
SETTINGS: Final = frozenset(inspect.signature(oxygent_client.SSEOxyGent).parameters) - FIELDS
"""Our settings: the keyword arguments of `oxygent_client.SSEOxyGent`."""


@attrs.define
class _CallState:
    """The state of one `execute` of the framework, over its attempts."""

    ended: OxyRequest | None = None
    """The request of a failed run that may have started: it must not be sent again."""
    response: schemas.OxyResponse | None = None
    """The response of a completed run."""
    answered: schemas.OxyResponse | None = None
    """The response of an earlier attempt in which a subclass raised after the run."""


_CALL_STATE: Final[ContextVar[_CallState | None]] = ContextVar("oxygent_client.integrations.oxygent", default=None)


async def _attempt(interceptor: Any, oxy_request: schemas.OxyRequest) -> Any:
    """Call the user's `func_interceptor`, if there is one. The framework calls it before each attempt."""
    state = _CALL_STATE.get()
    if state is not None:
        state.answered = state.response
    return None if interceptor is None else await interceptor(oxy_request)


@attrs.frozen
class _Host:
    """The `Host` of our requests: forwards messages to the framework's request."""

    real: schemas.OxyRequest

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """As `Host.send_message`."""
        await self.real.send_message(message, event=event, id=id, retry=retry)


RESTART: Final = ("reference_trace_id", "restart_node_id", "restart_node_output", "restart_node_order")
"""Fields of a restart of the local run, whose ids are unknown to the remote: it starts a new run."""


def _restarting(fields: Mapping[str, Any]) -> list[str]:
    """Return the names of the restart fields that are set."""
    return [name for name in RESTART if fields.get(name)]


def _ours(real: schemas.OxyRequest) -> OxyRequest:
    """Convert the framework's request to ours, without the fields of a restart; values are shared."""
    known = {field.name for field in attrs.fields(OxyRequest)} & type(real).model_fields.keys() - {"mas", *RESTART}
    return OxyRequest(**{name: getattr(real, name) for name in known}, mas=cast("Host", _Host(real)))


def _real(request: OxyRequest) -> schemas.OxyRequest:
    """Return the framework's request of one of ours; an empty one outside a run."""
    host: object = request.mas
    return host.real if isinstance(host, _Host) else schemas.OxyRequest()


def _response(ours: OxyResponse) -> schemas.OxyResponse:
    """Convert our response to the framework's."""
    return schemas.OxyResponse(state=schemas.OxyState(ours.state.value), output=ours.output, extra=ours.extra)


class _Inside(oxygent_client.SSEOxyGent):
    """Our agent inside the framework's: its hooks call those of the outer agent, with the framework's requests."""

    def __init__(self, outside: SSEOxyGent, **settings: Any) -> None:
        super().__init__(**settings)
        self._outside = outside

    def of(self, outside: SSEOxyGent) -> Self:
        """Return a copy for another outer agent."""
        clone = copy.copy(self)
        clone.__dict__["_outside"] = outside
        return clone

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        real = _real(oxy_request)
        payload = self._outside.prepare_payload(real)
        # A subclass may copy all fields of the framework's request; restart values of its own are refused.
        local = [name for name in _restarting(vars(real)) if payload.get(name) == getattr(real, name)]
        return {**payload, **dict.fromkeys(local, "")} if local else payload

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        return self._outside.prepare_headers(_real(oxy_request))

    def replaced_hooks(self) -> Collection[str]:
        return self._replaced_in(self._outside, SSEOxyGent)

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        await self._outside.handle_tool_call_event(event_data, _real(oxy_request))

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        await self._outside.handle_observation_event(event_data, _real(oxy_request))

    async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        process = self._outside._process_custom_event  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (the documentation's)
        await process(event_data, _real(oxy_request))


class SSEOxyGent(RemoteAgent):
    """A remote OxyGent system as an agent of a local one, for `oxy_space`, in place of the framework's own class.

    It takes the keyword arguments of the framework's agents and of `oxygent_client.SSEOxyGent`. Ours are attributes
    too, and may be assigned after `super().__init__(**kwargs)`, like attributes of a subclass.

    With `transport=Cluster([...])` leave out `server_url`, which the framework's own agents require.

    Raises:
        ConfigurationError: an argument of ours is wrong, or the remote's URL is missing or given twice.
        ValidationError: an argument of the framework is wrong, or unknown.
    """

    # An unknown keyword may be a misspelt `https_only`; and a refused value may be a secret.
    model_config: ClassVar[dict[str, Any]] = {"extra": "forbid", "hide_input_in_errors": True}

    server_url: pydantic.AnyUrl | None = None
    """The remote's base URL; None with a `Cluster`."""
    is_share_call_stack: bool = True
    """Whether to send the call stack. If False, the remote sees a call by a user."""
    start_seconds: float = 5.0
    """Time limit in seconds for discovery, at the start of the system or at the first call."""

    if TYPE_CHECKING:  # fields of the framework to which methods here assign
        desc: str
        func_interceptor: Any
        org: dict[str, Any]

    def __init__(self, **fields: Any) -> None:
        settings = {name: fields.pop(name) for name in SETTINGS & fields.keys()}
        if fields.get("server_url") is None:
            fields.pop("server_url", None)  # the framework's validation rejects None
        super().__init__(**fields)
        self.func_interceptor = self.func_interceptor  # wrapped by __setattr__
        self._is_discovered = False
        self._inside = _Inside(self, server_url=self._address(), name=self.name, desc=self.desc, **settings)

    # --- attributes: the framework's fields, our settings, the user's own ---

    def __getattr__(self, name: str) -> Any:
        inside = self.__dict__.get("_inside")
        if inside is not None and not name.startswith("_") and name in vars(inside):
            return getattr(inside, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "func_interceptor":  # the only public way to see that a call is repeated
            value = partial(_attempt, value)
        if name.startswith("_") or name in type(self).model_fields:
            super().__setattr__(name, value)
        elif name in vars(self._inside):
            setattr(self._inside, name, value)
        else:  # pydantic would reject it
            object.__setattr__(self, name, value)

    def __copy__(self) -> Self:
        clone = super().__copy__()
        clone.__dict__["_inside"] = self._inside.of(clone)
        return clone

    # --- hooks: those of our own agent, with the framework's requests ---

    def set_progress_callback(self, callback: Any) -> None:
        """Call `async callback(text)` at the start and end of each run and of each of its tool calls."""
        self._inside.set_progress_callback(callback)

    def prepare_payload(self, oxy_request: schemas.OxyRequest) -> dict[str, Any]:
        """Return the payload of a request. Override it to change the payload; protocol fields are set afterwards."""
        return oxygent_client.SSEOxyGent.prepare_payload(self._inside, _ours(oxy_request))

    def prepare_headers(self, oxy_request: schemas.OxyRequest) -> dict[str, str]:
        """Return the headers of a request, without those of the protocol. Override it to add headers."""
        return oxygent_client.SSEOxyGent.prepare_headers(self._inside, _ours(oxy_request))

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: schemas.OxyRequest) -> None:
        """Called with each `tool_call` message."""

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: schemas.OxyRequest) -> None:
        """Called with each `observation` message."""

    async def _process_custom_event(self, event_data: Any, oxy_request: schemas.OxyRequest) -> None:
        """Called with each other message: any JSON value, or a text."""

    # --- the remote ---

    async def init(self) -> None:
        """Discover the remote; if that fails, discovery is repeated at the first call."""
        await super().init()
        if hasattr(RemoteAgent, "cleanup"):  # since 1.1: the system closes its agents
            await self._synced().__aenter__()
        self._is_discovered = await self._discover()

    async def cleanup(self) -> None:
        """Close the agent's connections; the system calls it when it ends."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the agent's connections; a transport that you passed stays open."""
        await self._inside.aclose()

    def get_org(self) -> Any:
        """Return the members below the remote's root, each marked `is_remote`; `[]` if they are not known."""
        inside = self._synced()
        inside.org = self.org
        return inside.get_org()

    def _address(self) -> str:
        """Return the remote's base URL as a `str`."""
        return "" if self.server_url is None else str(self.server_url)

    def _synced(self) -> _Inside:
        """Return our agent, updated from the framework's fields."""
        inside = self._inside
        inside.server_url, inside.name, inside.desc = self._address(), self.name, self.desc
        inside.is_share_call_stack = self.is_share_call_stack
        return inside

    async def _discover(self) -> bool:
        """Discover the remote; return False if that failed."""
        inside = self._synced()
        try:
            async with asyncio.timeout(self.start_seconds):
                await inside.init()
        except (OxyError, TimeoutError) as error:
            reason = str(error) or f"no response within {self.start_seconds:g} s"
            self._warn(f"discovery of the remote failed: {reason}")
            self._is_discovered = not (isinstance(error, OxyError) and error.outcome is Outcome.NOT_SENT)
            return False
        self._is_discovered = True
        self.org, self.desc = inside.org, inside.desc
        await super().init()  # updates the description that models read
        return True

    # --- runs ---

    async def execute(self, oxy_request: schemas.OxyRequest) -> schemas.OxyResponse:
        """Execute a call as the framework does, and keep its state over repetitions."""
        token = _CALL_STATE.set(_CallState())
        try:
            return await super().execute(oxy_request)
        finally:
            _CALL_STATE.reset(token)

    async def _execute(self, oxy_request: schemas.OxyRequest) -> schemas.OxyResponse:
        """Return the remote's response, or a FAILED one; subclasses may override it."""
        state = _CALL_STATE.get() or _CallState()  # called directly, without repetitions
        if state.answered is not None:
            return state.answered
        request = state.ended
        if request is None or _real(request) is not oxy_request:
            request = _ours(oxy_request)
            if restart := _restarting(vars(oxy_request)):
                self._warn(f"the remote starts a new run, without {', '.join(restart)} of the local run", oxy_request)
        try:
            if not self._is_discovered and await self._discover() and self.mas is not None:
                self.mas.init_agent_organization()
            response = await self._synced()._get_base_execution_logic(request)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (the documentation's name)
        except OxyError as error:
            if error.outcome not in (Outcome.NOT_SENT, Outcome.REJECTED):
                state.ended = request
            return self._failed(error, oxy_request)
        except Exception as error:  # noqa: BLE001  (rule 1; raised by the user's code, such as a transport)
            state.ended = request
            raised = HandlerError(f"the call raised {type(error).__name__}")
            return self._failed(raised, oxy_request, error)
        state.response = _response(response)
        return state.response

    async def _get_base_execution_logic(self, oxy_request: schemas.OxyRequest) -> schemas.OxyResponse:
        """The default of `_execute`."""
        return await SSEOxyGent._execute(self, oxy_request)

    def _warn(
        self,
        text: str,
        oxy_request: schemas.OxyRequest | None = None,
        cause: BaseException | None = None,
        server_url: str = "",
    ) -> None:
        """Log `text`, with the attributes that all records of this logger have."""
        trace_id, node_id = (oxy_request.current_trace_id, oxy_request.node_id) if oxy_request else (None, None)
        # The ids are the framework's caller's: as they stand in a line of a log, nothing in them begins another.
        ids = {"trace_id": _in_a_line(trace_id or ""), "node_id": _in_a_line(node_id or "")}
        purpose = "discover" if oxy_request is None else "run"
        extra = {"event": "warning", **ids, "purpose": purpose, "server_url": _in_a_line(server_url)}
        shown = " ".join(filter(None, (purpose, ids["trace_id"], server_url and f"at {extra['server_url']}")))
        logger.warning("%s: %s: %s", self.name, shown, _in_a_line(text), exc_info=cause, extra=extra)

    def _failed(
        self, error: OxyError, oxy_request: schemas.OxyRequest, cause: BaseException | None = None
    ) -> schemas.OxyResponse:
        """The framework's response for `error`."""
        if cause is None and isinstance(error, HandlerError):
            cause = error.__cause__
        self._warn(str(error), oxy_request, cause, error.server_url)  # only the user's own faults have a traceback
        return _response(OxyResponse.failed(error, str(oxy_request.current_trace_id)))


def _in_a_line(text: object) -> str:
    """A text as it may stand in a line of a log: what does not print is spelled out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)[:1000])
