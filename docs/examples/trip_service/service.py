"""Serve trips over HTTP: `GET /?wish=...` returns a plan as JSON."""

import json
import os
from dataclasses import asdict
from typing import Any
from urllib.parse import parse_qs

from oxygent_client import SSEOxyGent
from trips import NoTripError, plan


class TripService:
    """An ASGI application that calls `agent`."""

    def __init__(self, agent: SSEOxyGent) -> None:
        self.agent = agent

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """Answer one request."""
        assert scope["type"] == "http"
        wish = parse_qs(scope["query_string"].decode()).get("wish", [""])[0]
        try:
            status, document = 200, asdict(await plan(self.agent, wish))
        except NoTripError as error:
            status, document = 503 if error.again else 502, {"error": str(error)}
        headers = [(b"content-type", b"application/json")]
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": json.dumps(document).encode()})


def from_environment() -> TripService:
    """Make the deployed service."""
    return TripService(SSEOxyGent(server_url=os.environ["TRIP_AGENT_URL"]))
