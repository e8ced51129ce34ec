"""Base classes of policies and of the transports that apply them.

Rule 1: a policy `X` is configuration: it is frozen, compares by content and pickles. Its wrapper is
    `XTransport(inner, X(...))`, a `Wrapper`.
Rule 2: what a policy has to remember from call to call (a budget, a token, who waits) is its memory. It is made by
    `remember()`, is handed to each wrapper, and starts anew in a copy.
"""

from __future__ import annotations

import math
from typing import Any, ClassVar, Final, Literal, Protocol, TypeAlias, runtime_checkable

import anyio
import attrs

from oxygent_client._core.bodies import read_up_to
from oxygent_client._core.transport import Context, HTTPResponse, Transport

__all__ = ["Policy", "PolicyKind", "Wrapper", "drain", "waiting_ends"]

PolicyKind: TypeAlias = Literal["concurrency", "rate", "retry", "auth", "redirect", "https-only"]
"""What a policy is about. A chain has at most one of a kind; `ORDER` says where each kind stands."""

DRAIN_SECONDS: Final = 0.25
DRAIN_BYTES: Final = 16 * 1024
"""What is read of a response that is not handed on, so that its connection can be used again."""
MARGIN: Final = 0.01
"""Seconds before the deadline at which waiting ends. The caller waits under the same deadline, and would otherwise be
the first to hear of it, without a word on whether anything was sent."""


@runtime_checkable
class Policy(Protocol):
    """How bytes may move: a frozen value that compares by content."""

    kind: ClassVar[PolicyKind]

    def remember(self) -> Any:
        """A new memory, to be shared by all wrappers of one agent; None where there is nothing to remember."""
        ...

    def over(self, inner: Transport, memory: Any, /) -> Transport:
        """A `Wrapper` of this kind around `inner`, with what `remember()` gave."""
        ...


@attrs.define(eq=False)
class Wrapper:
    """A transport around a transport. A subclass says how it exchanges."""

    kind: ClassVar[PolicyKind]

    inner: Transport
    """What it wraps."""

    async def aclose(self) -> None:
        """As `Transport.aclose`: closes the wrapped transport."""
        await self.inner.aclose()


def waiting_ends(context: Context) -> float:
    """When a policy that waits before anything is sent gives up, by the event loop's clock."""
    return math.inf if context.deadline is None else context.deadline - MARGIN


async def drain(response: HTTPResponse) -> None:
    """Read what little is left of a response that nobody is going to read."""
    await read_up_to(response.chunks, DRAIN_BYTES, until=anyio.current_time() + DRAIN_SECONDS)
