"""Paths and headers of OxyGent servers."""

from __future__ import annotations

from typing import Final

from oxygent_client._version import __version__

__all__ = ["HEADERS", "PATHS", "RUN_HEADERS"]
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
}

HEADERS: Final = {"accept-encoding": "identity", "user-agent": f"oxygent-client/{__version__}"}
RUN_HEADERS: Final = {"accept": "text/event-stream", "cache-control": "no-store", "content-type": "application/json"}
"""What every request carries, and what one that opens a stream carries too. A stream must not be compressed: a proxy
that does holds events back, and one compressed piece can be a thousand times its size."""
