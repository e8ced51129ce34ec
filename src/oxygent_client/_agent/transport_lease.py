"""Open, share and close the transport of an agent.

Rule 1: a transport that the user gave is used and never closed.
Rule 2: inside `async with agent` one transport of the agent's own is kept, so that connections are used again; outside,
    each operation has its own, and nothing stays open.
Rule 3: transports are kept for the event loop that entered: another loop neither uses nor closes them.
Rule 4: policies are wrapped around a transport that stays once per event loop, until one of them changes: a wrapper may
    have locks.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import attrs

from oxygent_client._core.per_loop import PerLoop
from oxygent_client._core.transport import Transport
from oxygent_client.policies._base import Policy
from oxygent_client.telemetry._stats_collector import CountsConnections

Given: TypeAlias = tuple[Policy | None, ...]
Wrap: TypeAlias = Callable[[Transport, Given], Transport]
"""Returns a transport with policies around it."""
Chain: TypeAlias = tuple[Transport, Given, Transport]
"""A transport, policies, and the transport with these policies around it."""


def _bare(transport: Transport, _policies: Given) -> Transport:
    return transport


@attrs.define(eq=False, repr=False)
class TransportLease:
    """A transport for the time of the block."""

    transport: Transport
    """The transport, with policies around it."""
    temporary: Transport | None = None
    """The transport that is closed after the block; None if it stays."""

    async def __aenter__(self) -> Transport:
        return self.transport

    async def __aexit__(self, *error: object) -> None:
        if self.temporary is not None:
            await self.temporary.aclose()


@attrs.define(eq=False, repr=False)
class TransportPool:
    """The transports of one agent. Pickled or copied, it starts anew."""

    _make: Callable[[], Transport]
    _kept: PerLoop[Chain] = attrs.field(factory=PerLoop[Chain], init=False)
    _entered: PerLoop[int] = attrs.field(factory=PerLoop[int], init=False)
    _given: PerLoop[Chain] = attrs.field(factory=PerLoop[Chain], init=False)
    """That of the transport that the user gave last."""

    def lease(self, given: Transport | None, policies: Given = (), wrap: Wrap = _bare) -> TransportLease:
        """A transport for one operation, with these policies around it."""
        if given is not None:
            chain = self._given.get()
            if chain is None or chain[0] is not given or chain[1] != policies:
                chain = self._given.put((given, policies, wrap(given, policies)))
            return TransportLease(chain[2])
        chain = self._kept.get()
        if chain is None:
            own = self._make()
            return TransportLease(wrap(own, policies), own)
        if chain[1] != policies:
            chain = self._kept.put((chain[0], policies, wrap(chain[0], policies)))
        return TransportLease(chain[2])

    def enter(self) -> None:
        """From now on, keep a transport."""
        if self._kept.get() is None:
            self._kept.put((transport := self._make(), (), transport))
        self._entered.put((self._entered.get() or 0) + 1)

    async def leave(self) -> None:
        """Close the kept transport, if as many have left as entered."""
        if self._entered.put((self._entered.get() or 0) - 1) == 0:
            await self.aclose()

    def connections(self) -> tuple[int, int] | None:
        """As `CountsConnections.connections`, of the kept transports of all event loops; None without any."""
        transports = [transport for transport, _, _ in self._kept.everywhere()]
        counts = [each.connections() for each in transports if isinstance(each, CountsConnections)]
        known = [count for count in counts if count is not None]
        return (sum(there for there, _ in known), sum(idle for _, idle in known)) if known else None

    async def aclose(self) -> None:
        """Close all kept transports."""
        self._given.take()
        kept = self._kept.take()
        if kept is not None:
            await kept[0].aclose()
