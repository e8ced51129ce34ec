"""`SyncAgentRegistry`: agents and plain functions that call each other, for programs without `async`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from types import TracebackType
from typing import Any, Self

import attrs

from oxygent_client import AgentRegistry
from oxygent_client.registry import Function, Member
from oxygent_client.sync._agent import SyncSSEOxyGent
from oxygent_client.sync._mirror import as_async, blocking, plain, setting
from oxygent_client.sync._portal import Portal, current_portal


def _async_member(given: Any) -> Any:
    """Return the member that stands for `given` in the asynchronous registry."""
    if isinstance(given, SyncSSEOxyGent):
        return given._get_inner()  # noqa: SLF001  # pyright: ignore[reportPrivateUsage]
    if isinstance(given, Function):
        return attrs.evolve(given, function=as_async(given.function))
    if hasattr(given, "execute") or isinstance(given, type) or not callable(given):
        return given
    return _async_member(Function(given))


class SyncAgentRegistry:
    """Named agents and functions of one program, as in `AgentRegistry`, without `async`.

    Members are `SyncSSEOxyGent`, plain or async functions, `Function`, and any member of an `AgentRegistry`. A plain
    function runs in the thread that called, and may call the registry itself. `on_message` may be plain, too.

    Raises:
        ConfigurationError: two members have one name, an object is not a member, or the fallbacks form a cycle.
    """

    name: str = setting()
    max_depth: int = setting()

    def __init__(
        self,
        *members: SyncSSEOxyGent | Member | Callable[..., Any],
        name: str = "registry",
        fallback: Mapping[str, str | Callable[..., Any]] | None = None,
        on_message: Callable[..., object] | None = None,
        max_depth: int = 32,
    ) -> None:
        self._registry = AgentRegistry(
            *map(_async_member, members),
            name=name,
            fallback={
                failing: other if isinstance(other, str) else _async_member(other)
                for failing, other in (fallback or {}).items()
            },
            max_depth=max_depth,
        )
        self.on_message = on_message
        self._entered_in: list[Portal] = []

    @property
    def on_message(self) -> Callable[..., object] | None:
        """A plain or async function, called with each message that a member sends."""
        return self._on_message

    @on_message.setter
    def on_message(self, value: Callable[..., object] | None) -> None:
        self._on_message = value
        self._registry.on_message = None if value is None else as_async(value)

    @property
    def names(self) -> tuple[str, ...]:
        """The names of the members, in the order of the arguments."""
        return self._registry.names

    @plain(AgentRegistry.member)
    def member(self) -> None:
        """Return the member of that name; of a `SyncSSEOxyGent`, its asynchronous agent."""

    @blocking(AgentRegistry.call)
    def call(self) -> None:
        """Call a member and return its response, also if it failed: `registry.call("name", query="...")`."""

    @blocking(AgentRegistry.init)
    def init(self) -> None:
        """Discover all remote members at once."""

    @plain(AgentRegistry.organization)
    def organization(self) -> None:
        """Return the members as one tree: a node has `name` and `type`, and perhaps `desc` and `children`."""

    # --- the block ---

    def __enter__(self) -> Self:
        portal = current_portal()
        portal.run(self._registry.__aenter__)
        self._entered_in.append(portal)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        portal = self._entered_in.pop()
        if portal is current_portal():  # else its connections are gone with the event loop that had them
            portal.run(self._registry.__aexit__, kind, error, traceback)

    def _get_inner(self) -> AgentRegistry:
        return self._registry

    def _wait_for(self, function: Callable[..., Awaitable[Any]], *args: Any, **kwargs: Any) -> Any:
        return current_portal().run(function, *args, **kwargs)

    def __repr__(self) -> str:
        return repr(self._registry).replace("<AgentRegistry ", "<SyncAgentRegistry ", 1)
