"""Client for remote OxyGent multi-agent systems: stream, call and test remote agents.

```python
async with SSEOxyGent(server_url="http://127.0.0.1:8082") as agent:
    async with agent.stream("Plan my trip") as run:
        async for event in run:
            print(event)
    print(run.response.output)
```

Rule: names are imported when they are first used, so that `import oxygent_client` imports no HTTP library.
"""

from importlib import import_module

from oxygent_client._version import __version__

TYPE_CHECKING = False  # of `typing`, which takes longer to load than the rest
if TYPE_CHECKING:
    from typing import Any

    from oxygent_client import errors
    from oxygent_client._agent.agent import SSEOxyGent
    from oxygent_client._agent.conversation import Conversation, Turn
    from oxygent_client._agent.detached import RunHandle
    from oxygent_client._agent.query_map import QueryResult, QueryResults
    from oxygent_client._agent.remote_agent import RemoteAgent
    from oxygent_client._agent.tool import AgentTool
    from oxygent_client._core.call_tree import TraceCall
    from oxygent_client._core.errors import Outcome, OxyError
    from oxygent_client._core.events import (
        Answer,
        AnyEvent,
        Custom,
        Event,
        Observation,
        OxyState,
        Progress,
        RemoteErrorEvent,
        ServerSentEvent,
        Text,
        TextDelta,
        Thought,
        ToolCall,
    )
    from oxygent_client._core.requests import OxyRequest, OxyResponse
    from oxygent_client._core.settings import CallOptions, Limits, Timeouts
    from oxygent_client._core.trace import Trace
    from oxygent_client._core.transport import HTTPRequest, HTTPResponse, Transport
    from oxygent_client._protocol.documents import Welcome
    from oxygent_client._protocol.payload import build_payload
    from oxygent_client._protocol.router import EventRouter
    from oxygent_client._protocol.run_record import RunNode, RunRecord
    from oxygent_client._protocol.sse import Decoder
    from oxygent_client._run.answer_text import TextUpdate
    from oxygent_client._run.keepalive import Heartbeat
    from oxygent_client._run.run import Run
    from oxygent_client._run.texts import AgentText
    from oxygent_client.cluster import Cluster
    from oxygent_client.policies import BearerAuth, Retry
    from oxygent_client.registry import AgentRegistry
    from oxygent_client.transports.httpx import HTTPXTransport

__all__ = [
    "AgentRegistry",
    "AgentText",
    "AgentTool",
    "Answer",
    "AnyEvent",
    "BearerAuth",
    "CallOptions",
    "Cluster",
    "Conversation",
    "Custom",
    "Decoder",
    "Event",
    "EventRouter",
    "HTTPRequest",
    "HTTPResponse",
    "HTTPXTransport",
    "Heartbeat",
    "Limits",
    "Observation",
    "Outcome",
    "OxyError",
    "OxyRequest",
    "OxyResponse",
    "OxyState",
    "Progress",
    "QueryResult",
    "QueryResults",
    "RemoteAgent",
    "RemoteErrorEvent",
    "Retry",
    "Run",
    "RunHandle",
    "RunNode",
    "RunRecord",
    "SSEOxyGent",
    "ServerSentEvent",
    "Text",
    "TextDelta",
    "TextUpdate",
    "Thought",
    "Timeouts",
    "ToolCall",
    "Trace",
    "TraceCall",
    "Transport",
    "Turn",
    "Welcome",
    "__version__",
    "build_payload",
    "errors",
]

_HOMES = {
    "_agent.agent": ("SSEOxyGent",),
    "_agent.conversation": ("Conversation", "Turn"),
    "_agent.detached": ("RunHandle",),
    "_agent.query_map": ("QueryResult", "QueryResults"),
    "_agent.remote_agent": ("RemoteAgent",),
    "_agent.tool": ("AgentTool",),
    "_core.call_tree": ("TraceCall",),
    "_core.errors": ("Outcome", "OxyError"),
    "_core.events": (
        "Answer",
        "AnyEvent",
        "Custom",
        "Event",
        "Observation",
        "OxyState",
        "Progress",
        "RemoteErrorEvent",
        "Text",
        "TextDelta",
        "Thought",
        "ToolCall",
        "ServerSentEvent",
    ),
    "_core.requests": ("OxyRequest", "OxyResponse"),
    "_core.settings": ("CallOptions", "Limits", "Timeouts"),
    "_core.trace": ("Trace",),
    "_core.transport": ("HTTPRequest", "HTTPResponse", "Transport"),
    "_protocol.documents": ("Welcome",),
    "_protocol.payload": ("build_payload",),
    "_protocol.router": ("EventRouter",),
    "_protocol.run_record": ("RunNode", "RunRecord"),
    "_protocol.sse": ("Decoder",),
    "_run.answer_text": ("TextUpdate",),
    "_run.keepalive": ("Heartbeat",),
    "_run.run": ("Run",),
    "_run.texts": ("AgentText",),
    "cluster": ("Cluster",),
    "errors": ("errors",),
    "policies": ("BearerAuth", "Retry"),
    "registry": ("AgentRegistry",),
    "transports.httpx": ("HTTPXTransport",),
}
"""The module of each public name."""

_MOVED = {
    "Answered": "oxygent_client.routing:SetAnswer",
    "Context": "oxygent_client.transports:Context",
    "Drop": "oxygent_client.routing:Drop",
    "Forward": "oxygent_client.routing:Forward",
    "Host": "oxygent_client.routing:Host",
    "Link": "oxygent_client.routing:NameMap",
    "Partial": "oxygent_client.errors:Partial",
}
"""Names that were public here, and where they are now."""


def __getattr__(name: str) -> "Any":
    for home, names in _HOMES.items():
        if name in names:
            module = import_module(f"oxygent_client.{home}")
            value = globals()[name] = module if home == name else getattr(module, name)
            return value
    from oxygent_client._core.deprecation import moved_names

    return moved_names("oxygent_client", _MOVED, stacklevel=3)(name)


def __dir__() -> list[str]:
    return sorted(__all__)
