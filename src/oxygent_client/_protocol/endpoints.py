"""Paths and headers of OxyGent servers."""

from __future__ import annotations

from typing import Final

from oxygent_client._version import __version__

PATHS: Final = {
    "run": "/sse/chat",
    "organization": "/get_organization",
    "description": "/get_description",
    "agents": "/get_agents",
    "record": "/view",
    "start": "/async/chat",
    "attach": "/async/trace",
    "feedback": "/feedback",
    "alive": "/check_alive",
    "upload": "/upload",
    "rating": "/rating",
    "welcome": "/get_welcome_message",
    "first_query": "/get_first_query",
}

HEADERS: Final = {"accept-encoding": "identity", "user-agent": f"oxygent-client/{__version__}"}
"""Headers of every request. Responses must not be compressed: a proxy that compresses a stream delays its events, and a
compressed chunk can decompress to a thousand times its size."""
STREAM_HEADERS: Final = {"accept": "text/event-stream", "cache-control": "no-store", "content-type": "application/json"}
"""Further headers of a request that opens an event stream."""
