"""Open, share and close the transport of an agent.

Rule 1: a transport that the user gave is used and never closed.
Rule 2: inside `async with agent` one transport of the agent's own is kept, so that connections are used again; outside,
    each operation has its own, and nothing stays open.
Rule 3: transports are kept for the event loop that entered: another loop neither uses nor closes them.
Rule 4: policies are wrapped around a transport once, until one of them changes.
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
Chain: TypeAlias = tuple[Transport, Given, Transport]
"""A transport, policies, and the transport with these policies around it."""


@attrs.define(eq=False, repr=False)
class TransportLease:
    """A transport for the time of the block."""

    transport: Transport
    """The transport; with policies around it, once they are set."""
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
    _kept: PerLoop[Transport] = attrs.field(factory=PerLoop[Transport], init=False)
    _chains: PerLoop[Chain] = attrs.field(factory=PerLoop[Chain], init=False)
    _entered: PerLoop[int] = attrs.field(factory=PerLoop[int], init=False)

    def lease(self, given: Transport | None) -> TransportLease:
        """A transport for one operation."""
        lasting = self._kept.get() if given is None else given
        if lasting is not None:
            return TransportLease(lasting)
        own = self._make()
        return TransportLease(own, own)

    def chain(
        self,
        transport: Transport,
        policies: Given,
        wrap: Callable[[Transport, Given], Transport],
        *,
        given: Transport | None,
    ) -> Transport:
        """The leased transport with its policies around it: built once per event loop, until either changes."""
        kept = self._chains.get()
        if kept is not None and kept[0] is transport and kept[1] == policies:
            return kept[2]
        chain = wrap(transport, policies)
        if transport is given or transport is self._kept.get():
            self._chains.put((transport, policies, chain))
        return chain

    def enter(self) -> None:
        """From now on, keep a transport."""
        if self._kept.get() is None:
            self._kept.put(self._make())
        self._entered.put((self._entered.get() or 0) + 1)

    async def leave(self) -> None:
        """Close the kept transport, if as many have left as entered."""
        if self._entered.put((self._entered.get() or 0) - 1) == 0:
            await self.aclose()

    def connections(self) -> tuple[int, int] | None:
        """As `CountsConnections.connections`, of the kept transports of all event loops; None without any."""
        counts = [each.connections() for each in self._kept.everywhere() if isinstance(each, CountsConnections)]
        known = [count for count in counts if count is not None]
        return (sum(there for there, _ in known), sum(idle for _, idle in known)) if known else None

    async def aclose(self) -> None:
        """Close all kept transports."""
        self._chains.take()
        kept = self._kept.take()
        if kept is not None:
            await kept.aclose()
