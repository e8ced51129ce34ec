"""Look up the record of a run that a server stored.

Rule 1: a record is optional: an error while reading it is logged, and the result is None, unless `must_read` is set.
Rule 2: a record holds secrets: inbound headers, settings of agents. Parsing drops them; it keeps the arguments of the
    calls only for those who ask for them.
"""

from __future__ import annotations

import math
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
from oxygent_client.cluster._lookup import home_of

__all__ = ["TRANSIENT", "RunNode", "RunRecord", "fetch_record", "look_until"]

TRANSIENT: Final = (ConnectError, ConnectionLostError, RateLimitedError, ServerError)
"""Errors after which the record is requested again."""
FIRST_PAUSE: Final = 0.05
"""Seconds between the first two requests for a record; the pause doubles each time, up to LONGEST_PAUSE."""
LONGEST_PAUSE: Final = 2.0


async def look_until(
    enough: Callable[[RunRecord], bool],
    transport: Transport,
    template: HTTPRequest,
    trace_id: str,
    limits: Limits,
    *,
    until: float,
    first_until: float | None = None,
    node_id: str = "",
    with_arguments: bool = False,
    must_read: bool = False,
) -> RunRecord | None:
    """Poll the server's record of the run with the trace id `trace_id`; None if the server has no records.

    It is requested again, with growing pauses, until `enough(record)` or until `until` by the event loop's clock. A
    server with records, but none of this run, gives `RunRecord(None, None, ())`. One trace id may cover several runs:
    `node_id` selects one, otherwise the latest counts. `template` is a GET request.

    A record may lag behind its run, and servers of 1.0 sometimes respond 500 while they store others. With a cluster,
    the replica of this node's run is asked, for its trace id there. `first_until` is the deadline of the first
    response, if that is later.

    Raises:
        OxyError: with `must_read`, the server has no records, cannot be reached, or its response is malformed.
    """
    first_until = until if first_until is None else first_until
    if not template.base_url:
        if (location := home_of(transport, node_id)) is None:
            return None
        template, trace_id = attrs.evolve(template, base_url=location.base_url), location.remote_trace_id
    pause, found = FIRST_PAUSE, None
    failure: OxyError | None = None
    while True:
        try:
            found = await fetch_record(
                transport, template, trace_id, limits, until=first_until, node_id=node_id, with_arguments=with_arguments
            )
        except TRANSIENT as error:
            failure = error
        except OxyError as error:
            failure, until = error, -math.inf
        if (found is not None and enough(found)) or anyio.current_time() + pause >= until:
            if must_read and found is None and failure is not None:
                raise failure
            return found
        await anyio.sleep(pause)
        pause, first_until = min(2 * pause, LONGEST_PAUSE), until


async def fetch_record(
    transport: Transport,
    template: HTTPRequest,
    trace_id: str,
    limits: Limits,
    *,
    until: float,
    node_id: str = "",
    with_arguments: bool = False,
) -> RunRecord:
    """Fetch the record of a run once; the arguments are those of `look_until`.

    Raises:
        OxyError: the server has no records, cannot be reached, or its response is malformed.
    """
    context = attrs.evolve(
        template.context,
        purpose="discover",
        trace_id=trace_id,
        deadline=until,
        idempotent=False,
        node_id=node_id,
        server_url=template.base_url,
    )
    path = f"{PATHS['record']}?item_id={quote(trace_id, safe='', errors='surrogatepass')}"
    request = attrs.evolve(template, path=path, context=context)
    try:
        data = await fetch_data(transport, request, limits, until=until)
        clean = request.context.sent.clean_json
        return parse_record(data, limits, node_id=node_id, with_arguments=with_arguments, clean=clean)
    except OxyError as error:
        log_event("debug", context, "reading the record of the run failed: %s", error)
        raise
