"""Serve a remote agent to clients of other protocols.

`oxygent_client.serve.openai` serves OpenAI's API, `oxygent_client.serve.mcp` the Model Context Protocol,
`oxygent_client.serve.a2a` the Agent2Agent protocol, `oxygent_client.serve.agui` AG-UI, the protocol of user interfaces;
`oxygent_client.serve.relay` relays messages to browsers. Another protocol is an `Adapter`: its routes, and the shape of
its errors; a `Service` does the rest.
"""

from oxygent_client.serve._core.access import LOOPBACK
from oxygent_client.serve._core.audience import Audience
from oxygent_client.serve._core.exchange import ASGIApp, Exchange
from oxygent_client.serve._core.failures import INTERNAL, Failure, Refused, failure_of
from oxygent_client.serve._core.hosted_tasks import HostedTasks, not_running
from oxygent_client.serve._core.outbound import Outbound
from oxygent_client.serve._core.piece_log import PieceLog, Viewer
from oxygent_client.serve._core.run_table import RunTable
from oxygent_client.serve._core.runs import Runs, ServedAgent, ServeLimits, positive
from oxygent_client.serve._core.server import serve_forever
from oxygent_client.serve._core.service import Adapter, Mount, Route, Service
from oxygent_client.serve._core.shared_responses import SharedResponses
from oxygent_client.serve._core.texts import ROLES, call_of, text_of

__all__ = [
    "INTERNAL",
    "LOOPBACK",
    "ROLES",
    "ASGIApp",
    "Adapter",
    "Audience",
    "Exchange",
    "Failure",
    "HostedTasks",
    "Mount",
    "Outbound",
    "PieceLog",
    "Refused",
    "Route",
    "RunTable",
    "Runs",
    "ServeLimits",
    "ServedAgent",
    "Service",
    "SharedResponses",
    "Viewer",
    "call_of",
    "failure_of",
    "not_running",
    "positive",
    "serve_forever",
    "text_of",
]
