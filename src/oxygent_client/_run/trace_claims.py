"""Reserve the trace id of a run at the server or replica that gets it.

Rule 1: over a cluster, the id is reserved at a replica just before the request is sent there. If any agent of this
    process uses the id there, the request is sent with another one.
Rule 2: the server's id of the run is stored for that replica and for the cluster.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

from oxygent_client._core import json_codec
from oxygent_client._core.errors import ConfigurationError, Outcome
from oxygent_client._core.server_identity import server_identity
from oxygent_client._core.transport import HTTPRequest, redact_url
from oxygent_client._protocol.payload import encode
from oxygent_client._run.trace_ids import TRACE_IDS, TraceIdLease

DEPTH: Final = 10_000
"""How deep a payload of our own may be nested, which was written a moment before."""


class TraceIdClaims:
    """The reserved ids of one run: `first` for its server or cluster, and one for each replica that it was sent to."""

    __slots__ = ("_at", "_first", "remote", "replica")

    def __init__(self, first: TraceIdLease) -> None:
        self.remote = first.remote
        """The id of the run at the server whose response is read, or that was asked last."""
        self.replica = ""
        """The URL of that server, if a cluster chose it."""
        self._first = first
        self._at: dict[str, TraceIdLease] | None = None  # once a cluster has chosen a replica

    def over(self, request: HTTPRequest) -> HTTPRequest:
        """Return the request to send: for a cluster, with these reservations in its context."""
        if request.base_url:
            return request
        return request.with_context(claims=self)

    def assign(self, request: HTTPRequest) -> HTTPRequest:
        """Return `request` for `context.replica`, with an id that is free there.

        Raises:
            ConfigurationError: it needs another id, and a wrapper has replaced the payload by another body.
        """
        context = request.context
        key = server_identity(context.replica)
        claim = TRACE_IDS.claim_at(context.replica, self._first)
        self._at = {**(self._at or {}), key: claim}
        if claim.remote != context.remote_trace_id:
            try:
                payload = _payload(request)
            except ConfigurationError:
                self.discard(request)
                raise
            body = encode({**payload, "current_trace_id": claim.remote})
            request = attrs.evolve(request, body=body, context=attrs.evolve(context, remote_trace_id=claim.remote))
        self.confirm(request)
        return request

    def confirm(self, request: HTTPRequest) -> None:
        """Report that the response to this request is used for the run."""
        self.remote, self.replica = request.context.remote_trace_id, request.context.replica
        TRACE_IDS.name(self._first, self.remote)

    def discard(self, request: HTTPRequest) -> None:
        """Free the id at a replica that did not run this request."""
        claim = (self._at or {}).pop(server_identity(request.context.replica), None)
        if claim is not None:  # it may have been sent twice
            TRACE_IDS.release(claim, ran=False, closed=False)

    def release(self, *, ran: bool, closed: bool) -> None:
        """End the run, as `TraceIdRegistry.release`; at other servers it ended without the close event."""
        TRACE_IDS.release(self._first, ran=ran, closed=closed)
        for key, claim in (self._at or {}).items():
            is_heard = key == server_identity(self.replica)
            TRACE_IDS.release(claim, ran=ran or not is_heard, closed=closed and is_heard)


def _payload(request: HTTPRequest) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", json_codec.loads(request.body.decode(), depth=DEPTH))
    except ValueError as error:
        raise ConfigurationError(
            f"the trace id is in use at {redact_url(request.context.replica)}, and a transport around the Cluster has"
            " made something else than JSON of the payload: put that transport into Cluster(transport=...)",
            outcome=Outcome.NOT_SENT,
        ) from error
