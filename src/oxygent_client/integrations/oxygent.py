"""`SSEOxyGent` for use inside OxyGent: a drop-in for the framework's own class.

Needs the extra: `pip install 'oxygent-client[oxygent]'`.

Rule 1: `_execute` never raises, but for a cancellation: the framework runs an agent again on any exception.
Rule 2: a call that the framework repeats all the same runs nothing again that may have run.
Rule 3: of the framework's names that begin with an underscore one is used, `_execute`: its documentation has subclasses
    override that, and there is no other way to be an agent.
Rule 4: the framework stores an agent's fields, so of our configuration, which may hold secrets, nothing is a field.
Rule 5: what the remote is may be learned late: a system starts, whatever becomes of the remotes.
"""

from __future__ import annotations

import asyncio
import copy
import inspect
import logging
from collections.abc import Mapping
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
"""What the framework's agents and ours both have: the framework's are fields, and ours follow them."""
SETTINGS: Final = frozenset(inspect.signature(oxygent_client.SSEOxyGent).parameters) - FIELDS
"""Our configuration: the keywords of `oxygent_client.SSEOxyGent`."""


@attrs.define
class _Turn:
    """What one `execute` of the framework has come to."""

    ended: OxyRequest | None = None
    """The request whose run may have begun, and failed: it may not be sent again."""
    response: schemas.OxyResponse | None = None
    """The response of a run that completed."""
    answered: schemas.OxyResponse | None = None
    """The response of an earlier attempt, which raised all the same: a subclass did."""


_TURN: Final[ContextVar[_Turn | None]] = ContextVar("oxygent_client.integrations.oxygent", default=None)


async def _attempt(interceptor: Any, oxy_request: schemas.OxyRequest) -> Any:
    """What the user's `func_interceptor` says, if there is one. The framework asks before each attempt of a call."""
    turn = _TURN.get()
    if turn is not None:
        turn.answered = turn.response
    return None if interceptor is None else await interceptor(oxy_request)


@attrs.frozen
class _Host:
    """The program that a request of ours lives in: the framework, by its own request. Nobody calls others by ours."""

    real: schemas.OxyRequest

    async def send_message(
        self, request: OxyRequest, message: Any, /, *, event: str | None, id: str | None, retry: int | None
    ) -> None:
        """As `Host.send_message`."""
        await self.real.send_message(message, event=event, id=id, retry=retry)


RESTART: Final = ("reference_trace_id", "restart_node_id", "restart_node_output", "restart_node_order")
"""Fields of a restart of the local run: its ids mean nothing to the remote, which begins a new run."""


def _restarting(fields: Mapping[str, Any]) -> list[str]:
    """The names of the fields by which a restart is asked for."""
    return [name for name in RESTART if fields.get(name)]


def _ours(real: schemas.OxyRequest) -> OxyRequest:
    """The framework's request as one of ours, without the ids of a restart; what it holds is the same."""
    known = {field.name for field in attrs.fields(OxyRequest)} & type(real).model_fields.keys() - {"mas", *RESTART}
    return OxyRequest(**{name: getattr(real, name) for name in known}, mas=cast("Host", _Host(real)))


def _real(request: OxyRequest) -> schemas.OxyRequest:
    """The framework's request behind one of ours; an empty one where nobody asked for a run."""
    host: object = request.mas
    return host.real if isinstance(host, _Host) else schemas.OxyRequest()


def _response(ours: OxyResponse) -> schemas.OxyResponse:
    """The framework's response that says the same."""
    return schemas.OxyResponse(state=schemas.OxyState(ours.state.value), output=ours.output, extra=ours.extra)


class _Inside(oxygent_client.SSEOxyGent):
    """Our agent in the framework's: its hooks are those of the agent outside, which get the framework's requests."""

    def __init__(self, outside: SSEOxyGent, **settings: Any) -> None:
        super().__init__(**settings)
        self._outside = outside

    def of(self, outside: SSEOxyGent) -> Self:
        """A copy in another agent."""
        clone = copy.copy(self)
        clone.__dict__["_outside"] = outside
        return clone

    def prepare_payload(self, oxy_request: OxyRequest) -> dict[str, Any]:
        real = _real(oxy_request)
        payload = self._outside.prepare_payload(real)
        # A subclass may take all of the framework's fields; what it sets itself is refused by our agent.
        local = [name for name in _restarting(vars(real)) if payload.get(name) == getattr(real, name)]
        return {**payload, **dict.fromkeys(local, "")} if local else payload

    def prepare_headers(self, oxy_request: OxyRequest) -> dict[str, str]:
        return self._outside.prepare_headers(_real(oxy_request))

    def is_hooked(self, name: str) -> bool:
        return getattr(getattr(self._outside, name), "__func__", None) is not getattr(SSEOxyGent, name)

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        await self._outside.handle_tool_call_event(event_data, _real(oxy_request))

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: OxyRequest) -> None:
        await self._outside.handle_observation_event(event_data, _real(oxy_request))

    async def _process_custom_event(self, event_data: Any, oxy_request: OxyRequest) -> None:
        process = self._outside._process_custom_event  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (the documentation's)
        await process(event_data, _real(oxy_request))


class SSEOxyGent(RemoteAgent):
    """A remote OxyGent system as an agent of a local one: goes into `oxy_space` where the framework's own would.

    It takes the keywords of the framework's agents, and those of `oxygent_client.SSEOxyGent`; each of ours is an
    attribute, too, and may be set after `super().__init__(**kwargs)`, as may attributes of your own.

    With `transport=Cluster([...])` there is no `server_url`, which the framework's agents must have.

    Raises:
        ConfigurationError: an argument is wrong, or the remote's address is missing or given twice.
        ValidationError: likewise, of the framework's; an unknown keyword is one.
    """

    # A keyword that nobody knows may be a misspelt `https_only`; and what is refused may be a secret.
    model_config: ClassVar[dict[str, Any]] = {"extra": "forbid", "hide_input_in_errors": True}

    server_url: pydantic.AnyUrl | None = None
    """The remote's base URL; None where a `Cluster` chooses it."""
    is_share_call_stack: bool = True
    """Whether the remote is told who called whom before it. If not, it sees a plain user."""
    start_seconds: float = 5.0
    """How long the start of the system, or a first call, waits to learn what the remote is."""

    if TYPE_CHECKING:  # fields of the framework to which methods here assign
        desc: str
        func_interceptor: Any
        org: dict[str, Any]

    def __init__(self, **fields: Any) -> None:
        settings = {name: fields.pop(name) for name in SETTINGS & fields.keys()}
        if fields.get("server_url") is None:
            fields.pop("server_url", None)  # the framework's check knows no None
        super().__init__(**fields)
        self.func_interceptor = self.func_interceptor  # as the framework has it now: async
        self._is_found = False
        self._inside = _Inside(self, server_url=self._address(), name=self.name, desc=self.desc, **settings)

    # --- attributes: the framework's fields, our configuration, the user's own ---

    def __getattr__(self, name: str) -> Any:
        inside = self.__dict__.get("_inside")
        if inside is not None and not name.startswith("_") and name in vars(inside):
            return getattr(inside, name)
        return super().__getattr__(name)

    def __setattr__(self, name: str, value: Any) -> None:
        if name == "func_interceptor":  # how one sees, of all that is public, that a call is repeated
            value = partial(_attempt, value)
        if name.startswith("_") or name in type(self).model_fields:
            super().__setattr__(name, value)
        elif name in vars(self._inside):
            setattr(self._inside, name, value)
        else:  # pydantic would refuse it
            object.__setattr__(self, name, value)

    def __copy__(self) -> Self:
        clone = super().__copy__()
        clone.__dict__["_inside"] = self._inside.of(clone)
        return clone

    # --- hooks: as those of our own agent, with the framework's requests ---

    def set_progress_callback(self, callback: Any) -> None:
        """Have `async callback(text)` told of the beginning, each tool call and its end, and the end of each run."""
        self._inside.set_progress_callback(callback)

    def prepare_payload(self, oxy_request: schemas.OxyRequest) -> dict[str, Any]:
        """The payload of a request. Override it to send something else; what the protocol needs is set after it."""
        return oxygent_client.SSEOxyGent.prepare_payload(self._inside, _ours(oxy_request))

    def prepare_headers(self, oxy_request: schemas.OxyRequest) -> dict[str, str]:
        """The headers of a request, without the protocol's own. Override it to add some."""
        return oxygent_client.SSEOxyGent.prepare_headers(self._inside, _ours(oxy_request))

    async def handle_tool_call_event(self, event_data: dict[str, Any], oxy_request: schemas.OxyRequest) -> None:
        """Called with each `tool_call` message."""

    async def handle_observation_event(self, event_data: dict[str, Any], oxy_request: schemas.OxyRequest) -> None:
        """Called with each `observation` message."""

    async def _process_custom_event(self, event_data: Any, oxy_request: schemas.OxyRequest) -> None:
        """Called with each message that is no answer, tool call or observation: any JSON, or a text."""

    # --- the remote ---

    async def init(self) -> None:
        """Find out what the remote is. One that cannot be asked is asked again when it is first called."""
        await super().init()
        if hasattr(RemoteAgent, "cleanup"):  # since 1.1: the system ends what its agents keep
            await self._follow().__aenter__()
        self._is_found = await self._find_out()

    async def cleanup(self) -> None:
        """Close the connections that the agent keeps: the system does it when it ends."""
        await self.aclose()

    async def aclose(self) -> None:
        """Close the connections that the agent keeps; a transport that you gave stays open."""
        await self._inside.aclose()

    def get_org(self) -> Any:
        """The members under the remote's root, each marked `is_remote`; `[]` where nothing is known of them."""
        inside = self._follow()
        inside.org = self.org
        return inside.get_org()

    def _address(self) -> str:
        """The remote's base URL as ours has it."""
        return "" if self.server_url is None else str(self.server_url)

    def _follow(self) -> _Inside:
        """Our agent, with what the framework's fields hold now."""
        inside = self._inside
        inside.server_url, inside.name, inside.desc = self._address(), self.name, self.desc
        inside.is_share_call_stack = self.is_share_call_stack
        return inside

    async def _find_out(self) -> bool:
        """Ask the remote what it is; False where it could not be asked, and might be later."""
        inside = self._follow()
        try:
            async with asyncio.timeout(self.start_seconds):
                await inside.init()
        except (OxyError, TimeoutError) as error:
            reason = str(error) or f"no answer within {self.start_seconds:g} s"
            self._warn(f"nothing is known of the remote: {reason}")
            self._is_found = not (isinstance(error, OxyError) and error.outcome is Outcome.NOT_SENT)
            return False
        self._is_found = True
        self.org, self.desc = inside.org, inside.desc
        await super().init()  # writes what models read of the agent
        return True

    # --- runs ---

    async def execute(self, oxy_request: schemas.OxyRequest) -> schemas.OxyResponse:
        """The framework's whole course of a call; knows the repetitions in it for what they are."""
        token = _TURN.set(_Turn())
        try:
            return await super().execute(oxy_request)
        finally:
            _TURN.reset(token)

    async def _execute(self, oxy_request: schemas.OxyRequest) -> schemas.OxyResponse:
        """The remote's response, or a FAILED one; the part that subclasses wrap."""
        turn = _TURN.get() or _Turn()  # who calls this alone has nothing repeated
        if turn.answered is not None:
            return turn.answered
        request = turn.ended
        if request is None or _real(request) is not oxy_request:
            request = _ours(oxy_request)
            if restart := _restarting(vars(oxy_request)):
                self._warn(f"the remote begins a new run, without {', '.join(restart)} of the local one", oxy_request)
        try:
            if not self._is_found and await self._find_out() and self.mas is not None:
                self.mas.init_agent_organization()
            response = await self._follow()._get_base_execution_logic(request)  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]  (the documentation's name)
        except OxyError as error:
            if error.outcome not in (Outcome.NOT_SENT, Outcome.REJECTED):
                turn.ended = request
            return self._failed(error, oxy_request)
        except Exception as error:  # noqa: BLE001  (rule 1; what the user gave raised it, a transport say)
            turn.ended = request
            raised = HandlerError(f"the call raised {type(error).__name__}")
            return self._failed(raised, oxy_request, error)
        turn.response = _response(response)
        return turn.response

    async def _get_base_execution_logic(self, oxy_request: schemas.OxyRequest) -> schemas.OxyResponse:
        """What `_execute` does unless a subclass replaces it."""
        return await SSEOxyGent._execute(self, oxy_request)

    def _warn(
        self, text: str, oxy_request: schemas.OxyRequest | None = None, cause: BaseException | None = None
    ) -> None:
        """Log `text`, with the attributes that all records of this logger have."""
        trace_id, node_id = (oxy_request.current_trace_id, oxy_request.node_id) if oxy_request else (None, None)
        # The ids are the framework's caller's: as they stand in a line of a log, nothing in them begins another.
        ids = {"trace_id": _in_a_line(trace_id or ""), "node_id": _in_a_line(node_id or "")}
        logger.warning("%s: %s", self.name, _in_a_line(text), exc_info=cause, extra={"event": "warning", **ids})

    def _failed(
        self, error: OxyError, oxy_request: schemas.OxyRequest, cause: BaseException | None = None
    ) -> schemas.OxyResponse:
        """The framework's response for `error`."""
        if cause is None and isinstance(error, HandlerError):
            cause = error.__cause__
        self._warn(str(error), oxy_request, cause)  # only the user's own faults have a traceback
        return _response(OxyResponse.failed(error, str(oxy_request.current_trace_id)))


def _in_a_line(text: object) -> str:
    """A text as it may stand in a line of a log: what does not print is spelled out."""
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in str(text)[:1000])
