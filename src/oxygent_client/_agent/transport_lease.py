"""Open, share and close the transport of an agent.

Rule 1: a transport that the user gave is used and never closed.
Rule 2: inside `async with agent` one transport of the agent's own is kept, so that connections are used again; outside,
    each operation has its own, and nothing stays open.
Rule 3: what is kept is kept for the event loop that entered: another loop neither uses nor closes it.
"""

from __future__ import annotations

from collections.abc import AsyncGenerator, Callable
from contextlib import asynccontextmanager

import attrs

from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.transport import Transport
from oxygent_client.telemetry._stats import CountsConnections

__all__ = ["TransportPool"]


@attrs.define
class TransportPool:
    """The transports of one agent. Pickled or copied, it starts anew."""

    _make: Callable[[], Transport]
    _kept: PerLoop[Transport] = attrs.field(factory=PerLoop[Transport], init=False)
    _entered: PerLoop[int] = attrs.field(factory=PerLoop[int], init=False)

    @asynccontextmanager
    async def lease(self, given: Transport | None) -> AsyncGenerator[Transport, None]:
        """A transport for one operation."""
        lasting = self._kept.get() if given is None else given
        transport = self._make() if lasting is None else lasting
        try:
            yield transport
        finally:
            if lasting is None:
                await transport.aclose()

    def enter(self) -> None:
        """From now on, keep a transport."""
        if self._kept.get() is None:
            self._kept.put(self._make())
        self._entered.put((self._entered.get() or 0) + 1)

    async def leave(self) -> None:
        """Close what is kept, if as many have left as entered."""
        if self._entered.put((self._entered.get() or 0) - 1) == 0:
            await self.aclose()

    def connections(self) -> tuple[int, int] | None:
        """As `Pool.connections`, of what is kept, in all event loops; None while nothing is."""
        counts = [each.connections() for each in self._kept.everywhere() if isinstance(each, CountsConnections)]
        known = [count for count in counts if count is not None]
        return (sum(there for there, _ in known), sum(idle for _, idle in known)) if known else None

    async def aclose(self) -> None:
        """Close what is kept."""
        kept = self._kept.take()
        if kept is not None:
            await kept.aclose()
