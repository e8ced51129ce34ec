"""A remote OxyGent multi-agent system, used as if it were a local agent.

```python
async with SSEOxyGent(server_url="http://127.0.0.1:8082") as agent:
    async with agent.stream("Plan my trip") as run:
        async for event in run:
            print(event)
    print(run.response.output)
```

Rule: names are loaded when they are first used, so that `import oxygent_client` loads no HTTP library.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from oxygent_client._version import __version__

if TYPE_CHECKING:
    from oxygent_client import errors
    from oxygent_client._agent import SSEOxyGent
    from oxygent_client._detached import RunHandle
    from oxygent_client._errors import Outcome, OxyError
    from oxygent_client._models import (
        Answer,
        Custom,
        Event,
        Host,
        Observation,
        OxyRequest,
        OxyResponse,
        OxyState,
        Partial,
        Progress,
        RemoteErrorEvent,
        Text,
        TextDelta,
        ToolCall,
    )
    from oxygent_client._payload import build_payload
    from oxygent_client._remote import RemoteAgent
    from oxygent_client._router import Answered, Drop, EventRouter, Forward, Link
    from oxygent_client._run import Run
    from oxygent_client._settings import Limits, Timeouts
    from oxygent_client._sse import Decoder, ServerSentEvent
    from oxygent_client._transport import Context, HTTPRequest, HTTPResponse, Transport
    from oxygent_client._wire import RunNode, RunRecord
    from oxygent_client.cluster import Cluster
    from oxygent_client.policies import BearerAuth, Retry
    from oxygent_client.registry import AgentRegistry
    from oxygent_client.transports.httpx import HTTPXTransport

__all__ = [
    "AgentRegistry",
    "Answer",
    "Answered",
    "BearerAuth",
    "Cluster",
    "Context",
    "Custom",
    "Decoder",
    "Drop",
    "Event",
    "EventRouter",
    "Forward",
    "HTTPRequest",
    "HTTPResponse",
    "HTTPXTransport",
    "Host",
    "Limits",
    "Link",
    "Observation",
    "Outcome",
    "OxyError",
    "OxyRequest",
    "OxyResponse",
    "OxyState",
    "Partial",
    "Progress",
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
    "Timeouts",
    "ToolCall",
    "Transport",
    "__version__",
    "build_payload",
    "errors",
]

_HOMES = {
    "errors": ("errors",),
    "_agent": ("SSEOxyGent",),
    "_detached": ("RunHandle",),
    "_errors": ("Outcome", "OxyError"),
    "_models": (
        *("Answer", "Custom", "Event", "Host", "Observation", "OxyRequest", "OxyResponse", "OxyState", "Partial"),
        *("Progress", "RemoteErrorEvent", "Text", "TextDelta", "ToolCall"),
    ),
    "_payload": ("build_payload",),
    "_remote": ("RemoteAgent",),
    "_router": ("Answered", "Drop", "EventRouter", "Forward", "Link"),
    "_run": ("Run",),
    "_settings": ("Limits", "Timeouts"),
    "_sse": ("Decoder", "ServerSentEvent"),
    "_transport": ("Context", "HTTPRequest", "HTTPResponse", "Transport"),
    "_wire": ("RunNode", "RunRecord"),
    "cluster": ("Cluster",),
    "policies": ("BearerAuth", "Retry"),
    "registry": ("AgentRegistry",),
    "transports.httpx": ("HTTPXTransport",),
}
"""The module of each public name."""


def __getattr__(name: str) -> Any:
    for home, names in _HOMES.items():
        if name in names:
            module = import_module(f"oxygent_client.{home}")
            value = globals()[name] = module if home == name else getattr(module, name)
            return value
    raise AttributeError(f"module 'oxygent_client' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
