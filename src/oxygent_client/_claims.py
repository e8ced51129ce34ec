"""The trace id of one run at the server that it is sent to, or at each of those that a cluster chooses.

Rule 1: over a cluster, the id is claimed at a replica when the request for the run is about to go there. Where it is in
    use, by whatever agent of this process, the request is sent with another one.
Rule 2: what the caller called the run is known, by the server's name for it, at that replica and at the cluster.
"""

from __future__ import annotations

from typing import Any, Final, cast

import attrs

from oxygent_client import _json
from oxygent_client._errors import ConfigurationError, Outcome
from oxygent_client._identity import identity
from oxygent_client._payload import encode
from oxygent_client._traces import TRACES, Claim
from oxygent_client._transport import HTTPRequest, shown_url

__all__ = ["Claims"]

DEPTH: Final = 10_000
"""How deep a payload of our own may be nested, which was written a moment before."""


class Claims:
    """What one run has claimed: `first` where it was asked for, and more at each replica that it was sent to."""

    def __init__(self, first: Claim) -> None:
        self.remote = first.remote
        """What the remote calls the run: of several servers, the one that is heard, or was asked last."""
        self.replica = ""
        """The URL of that one, if a cluster chose it."""
        self._first = first
        self._at: dict[str, Claim] = {}

    def over(self, request: HTTPRequest) -> HTTPRequest:
        """`request` as it is sent: if a cluster is to choose its server, it takes these claims along."""
        if request.base_url:
            return request
        return attrs.evolve(request, context=attrs.evolve(request.context, claims=self))

    def fit(self, request: HTTPRequest) -> HTTPRequest:
        """`request`, which is about to go to `context.replica`, with an id that is free there.

        Raises:
            ConfigurationError: it needs another id, and its body is not the payload any more.
        """
        context = request.context
        key = identity(context.replica)
        claim = self._at[key] = TRACES.claim_at(context.replica, self._first)
        if claim.remote != context.remote_trace_id:
            try:
                payload = _payload(request)
            except ConfigurationError:
                self.unused(request)
                raise
            body = encode({**payload, "current_trace_id": claim.remote})
            request = attrs.evolve(request, body=body, context=attrs.evolve(context, remote_trace_id=claim.remote))
        self.heard(request)
        return request

    def heard(self, request: HTTPRequest) -> None:
        """The response to this request is the run's."""
        self.remote, self.replica = request.context.remote_trace_id, request.context.replica
        TRACES.name(self._first, self.remote)

    def unused(self, request: HTTPRequest) -> None:
        """The replica surely ran nothing of this request."""
        claim = self._at.pop(identity(request.context.replica), None)
        if claim is not None:  # it may have been sent twice
            TRACES.release(claim, ran=False, closed=False)

    def release(self, *, ran: bool, closed: bool) -> None:
        """The run is over: as `TraceLedger.release`, for the server that was heard. The others did not close."""
        TRACES.release(self._first, ran=ran, closed=closed)
        for key, claim in self._at.items():
            is_heard = key == identity(self.replica)
            TRACES.release(claim, ran=ran or not is_heard, closed=closed and is_heard)


def _payload(request: HTTPRequest) -> dict[str, Any]:
    try:
        return cast("dict[str, Any]", _json.loads(request.body.decode(), depth=DEPTH))
    except ValueError as error:
        raise ConfigurationError(
            f"the trace id is in use at {shown_url(request.context.replica)}, and a transport around the Cluster has"
            " made something else than JSON of the payload: put that transport into Cluster(transport=...)",
            outcome=Outcome.NOT_SENT,
        ) from error
