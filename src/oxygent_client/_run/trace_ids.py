"""Registry of the trace ids in use at each server.

A real server keys its queue of messages by the trace id and reads it destructively: two runs with one id swap, double
and lose each other's messages, and unread messages of a run are delivered to the next run with its id.

Rule 1: a caller's id is sent unchanged, unless it is in flight at this server, its last run ended without the close
    event, or the same call ran before: the server's record could not tell the two runs apart.
Rule 2: otherwise the server gets `<id>-<12 random characters>`, and the caller keeps its own id.
Rule 3: the table belongs to one process, is bounded, and is shared by its threads.
Rule 4: a garbage-collected lease has ended without the close event. A forked child has none of its parent's leases.
"""

from __future__ import annotations

import os
import threading
import weakref
from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Final, TypeVar, cast

import attrs

from oxygent_client._core.ids import new_id
from oxygent_client._core.server_identity import server_identity

Key = tuple[str, str]
K = TypeVar("K")
V = TypeVar("V")


@attrs.define(eq=False)
class TraceIdLease:
    """A run's id at one server, in flight until it is released or garbage-collected.

    It does not change; it is not frozen, since attrs sets each field of a frozen instance by a call.
    """

    key: Key
    """The server, and the id of the run there."""
    remote: str
    """That id."""
    trace_id: str = ""
    """The caller's id of the run; empty for a run that another program started."""
    node_id: str = ""
    """The caller's own node of the call."""


class _Held(weakref.ref[TraceIdLease]):
    """A lease in flight, and its key, and its call if that has a node, for when it is garbage-collected."""

    __slots__ = ("call", "key")

    key: Key
    call: Key | None


@attrs.define(eq=False, repr=False)
class TraceIdRegistry:
    """The trace ids that must not be sent, and the server's ids of runs that were renamed."""

    size: int = 10_000
    """The number of ids of each kind that are kept; the oldest that is not in flight is removed first."""
    _in_flight: dict[Key, _Held] = attrs.field(factory=dict[Key, _Held], init=False)
    _lost: deque[weakref.ref[TraceIdLease]] = attrs.field(factory=deque[weakref.ref[TraceIdLease]], init=False)
    """Garbage-collected leases. The collector may run while the lock is held, so it only appends."""
    _lose: Callable[[weakref.ref[TraceIdLease]], None] = attrs.field(
        default=attrs.Factory(lambda self: self._lost.append, takes_self=True), init=False
    )
    _soiled: OrderedDict[Key, None] = attrs.field(factory=OrderedDict[Key, None], init=False)
    _renamed: OrderedDict[Key, str] = attrs.field(factory=OrderedDict[Key, str], init=False)
    _calls: OrderedDict[Key, None] = attrs.field(factory=OrderedDict[Key, None], init=False)
    _lock: threading.Lock = attrs.field(factory=threading.Lock, init=False)

    def claim(self, base_url: str, trace_id: str, node_id: str = "") -> TraceIdLease:
        """Lease the id under which the server runs the caller's `trace_id`.

        `node_id` is the caller's own node of the call. A server's record is asked by both: so both were never one run's
        before.
        """
        with self._lock:
            return self._claim(base_url, trace_id, trace_id, node_id)

    def claim_at(self, base_url: str, first: TraceIdLease) -> TraceIdLease:
        """Lease the id at a replica for a run whose id at the cluster is `first`."""
        with self._lock:
            return self._claim(base_url, first.remote, first.trace_id, first.node_id)

    def name(self, claim: TraceIdLease, remote: str) -> None:
        """Record the server's id of the last run with this lease's trace id."""
        with self._lock:
            self._name(claim.key[0], claim.trace_id, remote)

    def hold(self, base_url: str, remote: str) -> TraceIdLease | None:
        """Lease the server's id of a run, to read its events; None if it is being read already."""
        with self._lock:
            self._take_back()
            key = server_identity(base_url), remote
            return None if key in self._in_flight else self._hold(TraceIdLease(key, remote), None)

    def release(self, claim: TraceIdLease, *, ran: bool, closed: bool) -> None:
        """End a lease; `ran` if the run may have run, `closed` if its close event was received and no event is left."""
        with self._lock:
            held = self._in_flight.get(claim.key)
            if held is None or held() is not claim:  # a claim of the process from which this one was forked
                return
            del self._in_flight[claim.key]
            self._note(held, ran=ran, closed=closed)

    def after_fork(self) -> None:
        """Drop the leases of the parent process; their ids are not sent again."""
        self._lock = threading.Lock()  # another thread may have held it at that moment
        for held in self._in_flight.values():
            self._note(held, ran=True, closed=False)
        self._in_flight = {}
        self._lost.clear()

    def forget(self) -> None:
        """Free all ids, including those of open runs."""
        with self._lock:
            for table in (self._in_flight, self._soiled, self._renamed, self._calls):
                table.clear()

    def _claim(self, base_url: str, wanted: str, trace_id: str, node_id: str) -> TraceIdLease:
        if self._lost:
            self._take_back()
        server, remote = server_identity(base_url), wanted
        key, call = (server, wanted), (server, f"{trace_id} {node_id}")
        if key in self._in_flight or key in self._soiled or call in self._calls:
            remote = f"{trace_id}-{new_id(12)}"
            key = server, remote
        self._name(server, trace_id, remote)
        return self._hold(TraceIdLease(key, remote, trace_id, node_id), call if node_id else None)

    def _name(self, server: str, trace_id: str, remote: str) -> None:
        if remote != trace_id:
            _keep(self._renamed, (server, trace_id), remote, self.size)
        elif self._renamed:
            self._renamed.pop((server, trace_id), None)

    def _hold(self, claim: TraceIdLease, call: Key | None) -> TraceIdLease:
        held = self._in_flight[claim.key] = _Held(claim, self._lose)
        held.key, held.call = claim.key, call
        return claim

    def _take_back(self) -> None:
        """End the leases that were garbage-collected before they were released."""
        while self._lost:
            held = cast("_Held", self._lost.popleft())
            if self._in_flight.get(held.key) is held:  # else it was released a moment before
                del self._in_flight[held.key]
                self._note(held, ran=True, closed=False)

    def _note(self, held: _Held, *, ran: bool, closed: bool) -> None:
        if ran and not closed:
            _keep(self._soiled, held.key, None, self.size)
        if ran and held.call is not None:
            _keep(self._calls, held.call, None, self.size)

    def remote_name(self, base_url: str, trace_id: str) -> str:
        """Return the server's id of the last run with the caller's `trace_id`."""
        with self._lock:
            return self._renamed.get((server_identity(base_url), trace_id), trace_id)


def _keep(table: OrderedDict[K, V], key: K, value: V, size: int) -> None:
    table[key] = value
    table.move_to_end(key)
    while len(table) > size:
        table.popitem(last=False)


TRACE_IDS: Final = TraceIdRegistry()
"""The registry of this process."""
if hasattr(os, "register_at_fork"):  # pragma: no branch  (absent on Windows)
    os.register_at_fork(after_in_child=TRACE_IDS.after_fork)
