"""Base classes of policies and of the transports that apply them.

Rule 1: a policy `X` is configuration: frozen, compared by content, picklable. `XTransport(inner, X(...))`, a `Wrapper`,
    applies it.
Rule 2: what a policy keeps between calls (a retry budget, a token, free slots) is its state. `new_state()` creates it,
    each wrapper of an agent shares it, and a copy of the agent starts with a new one.
"""

from __future__ import annotations

import math
from collections.abc import AsyncGenerator, Awaitable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias, cast, runtime_checkable

import attrs

from oxygent_client._core.transport import (
    Context,
    HTTPRequest,
    HTTPResponse,
    OpenExchange,
    Purpose,
    SelfClosing,
    Transport,
)

PolicyKind: TypeAlias = Literal["concurrency", "rate", "retry", "auth", "redirect", "https-only"]
"""What a policy is about. A chain has at most one of each kind; `ORDER` is their order."""

COUNTED: Final[tuple[Purpose, ...]] = ("run", "attach")
"""What limits and the retry budget count. Lookups run nothing, and must not wait behind streams that last minutes."""
MARGIN: Final = 0.01
"""Seconds before the deadline at which a policy stops waiting, so that its own error, with the outcome, is raised
before the caller's cancel scope fires."""


@runtime_checkable
class Policy(Protocol):
    """A rule that changes how a transport moves bytes: a frozen value that compares by content."""

    kind: ClassVar[PolicyKind]

    def new_state(self) -> Any:
        """State to be shared by all wrappers of one agent; None if the policy keeps none."""
        ...

    def wrap(self, inner: Transport, state: Any, /) -> Transport:
        """A `Wrapper` of this kind around `inner`; `state` is from `new_state()`."""
        ...


class StatelessPolicy:
    """Base class of policies that keep nothing between calls."""

    __slots__ = ()

    def new_state(self) -> None:
        """No state."""


@asynccontextmanager
async def _in_a_generator(
    exchange: AbstractAsyncContextManager[HTTPResponse],
) -> AsyncGenerator[HTTPResponse, None]:
    """An exchange that is left also when its run is dropped: event loops close generators."""
    async with exchange as response:
        yield response


_OF_A_GENERATOR: Final = type(_in_a_generator(cast("Any", None)))


@attrs.define(eq=False)
class Layer:
    """A transport around a transport. A subclass overrides `exchange`, or `_respond`."""

    inner: Transport
    """The wrapped transport."""

    @asynccontextmanager
    async def exchange(self, request: HTTPRequest, /) -> AsyncGenerator[HTTPResponse, None]:
        """As `Transport.exchange`; entering it may take several exchanges, one after the other."""
        async with OpenExchange() as exchange:
            yield await self._respond(exchange, request)

    def _respond(self, exchange: OpenExchange, request: HTTPRequest) -> Awaitable[HTTPResponse]:
        """Await the response for the caller; `exchange` holds its exchange.

        Layers share it, so one that goes on after an error closes it first.
        """
        return Layer.respond(self.inner, exchange, request)

    @staticmethod
    def respond(transport: Transport, exchange: OpenExchange, request: HTTPRequest) -> Awaitable[HTTPResponse]:
        """Enter an exchange of `transport`; its layers share `exchange`, which is faster than one for each.

        It is no coroutine, so that each layer takes one and not two.
        """
        if isinstance(transport, Layer) and type(transport).exchange is Layer.exchange:
            return transport._respond(exchange, request)  # noqa: SLF001  (of this class)
        entered = transport.exchange(request)
        if type(entered) is not _OF_A_GENERATOR and not isinstance(entered, SelfClosing):
            entered = _in_a_generator(entered)
        exchange.closes_safely = getattr(getattr(type(transport), "exchange", None), "closes_safely", False) is True
        return exchange.enter(entered)

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self.inner.aclose()


class Wrapper(Layer):
    """The transport that applies a policy."""

    __slots__ = ()
    kind: ClassVar[PolicyKind]


def wait_deadline(context: Context) -> float:
    """When a policy that waits before anything is sent must give up, by the event loop's clock."""
    return math.inf if context.deadline is None else context.deadline - MARGIN
