"""Look up the record of a run that a server stored.

Rule 1: a record is asked for, never counted on: whatever stands in the way of it is a line in the log, and None.
Rule 2: what a node holds of arguments and inbound headers is a secret of the run's: it is dropped where it is read.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Final
from urllib.parse import quote

import anyio
import attrs

from oxygent_client._api.fetch import fetch_data
from oxygent_client._core.errors import ConnectError, ConnectionLostError, OxyError, RateLimitedError, ServerError
from oxygent_client._core.log import log_event
from oxygent_client._core.settings import Limits
from oxygent_client._core.transport import HTTPRequest, Transport
from oxygent_client._protocol.endpoints import PATHS
from oxygent_client._protocol.run_record import RunNode, RunRecord, parse_record
from oxygent_client.cluster import home_of

__all__ = ["RunNode", "RunRecord", "look_until"]

PASSING: Final = (ConnectError, ConnectionLostError, RateLimitedError, ServerError)
"""Errors that say nothing of whether there are records."""
FIRST_LOOK: Final = 0.05
"""Seconds between the first two looks at a record that does not say enough yet; doubled each time, up to:"""
RAREST_LOOK: Final = 2.0


async def look_until(
    enough: Callable[[RunRecord], bool],
    transport: Transport,
    pattern: HTTPRequest,
    trace_id: str,
    limits: Limits,
    *,
    until: float,
    first_until: float | None = None,
    node_id: str = "",
) -> RunRecord | None:
    """What the server has stored of the run that it knows as `trace_id`; None where it stores nothing, or cannot say.

    It is looked at again, more and more rarely, until it is `enough`, or the time is over: `until`, by the event loop's
    clock. A server that stores runs and has none of this one gives `RunRecord(None, None, ())`. One trace id may cover
    several runs; `node_id` says which one is meant, and without it the latest is. `pattern` is a GET.

    A record may lag behind its run, and servers of 1.0 answer 500 now and then while they store others. Of several
    servers the one is asked that the run of this node went to, by the name that the run has there. `first_until` is
    until when the first answer must be there, if that is later.
    """
    first_until = until if first_until is None else first_until
    if not pattern.base_url:
        if (home := home_of(transport, node_id)) is None:
            return None
        pattern, trace_id = attrs.evolve(pattern, base_url=home.base_url), home.remote_trace_id
    pause, found = FIRST_LOOK, None
    while True:
        try:
            found = await _looked(transport, pattern, trace_id, limits, first_until, node_id)
        except PASSING:
            pass
        except OxyError:
            return found
        if (found is not None and enough(found)) or anyio.current_time() + pause >= until:
            return found
        await anyio.sleep(pause)
        pause, first_until = min(2 * pause, RAREST_LOOK), until


async def _looked(
    transport: Transport, pattern: HTTPRequest, trace_id: str, limits: Limits, until: float, node_id: str
) -> RunRecord:
    context = attrs.evolve(
        pattern.context, purpose="discover", trace_id=trace_id, deadline=until, idempotent=False, node_id=node_id
    )
    path = f"{PATHS['record']}?item_id={quote(trace_id, safe='', errors='surrogatepass')}"
    request = attrs.evolve(pattern, path=path, context=context)
    try:
        return parse_record(await fetch_data(transport, request, limits, until=until), limits, node_id=node_id)
    except OxyError as error:
        log_event("debug", pattern.context, "no record of the run: %s", error)
        raise
