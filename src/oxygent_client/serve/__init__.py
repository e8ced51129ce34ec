"""Serve a remote agent to clients of other protocols.

`oxygent_client.serve.openai` serves OpenAI's API. Another protocol is an `Adapter`: its routes, and the shape of its
errors; a `Service` does the rest.
"""

from oxygent_client.serve._core.access import LOOPBACK
from oxygent_client.serve._core.exchange import ASGIApp, Exchange
from oxygent_client.serve._core.failures import Failure, Refused, failure_of
from oxygent_client.serve._core.runs import Runs, ServedAgent, ServeLimits
from oxygent_client.serve._core.server import serve_forever
from oxygent_client.serve._core.service import Adapter, Mount, Route, Service

__all__ = [
    "LOOPBACK",
    "ASGIApp",
    "Adapter",
    "Exchange",
    "Failure",
    "Mount",
    "Refused",
    "Route",
    "Runs",
    "ServeLimits",
    "ServedAgent",
    "Service",
    "failure_of",
    "serve_forever",
]
