"""Observers and statistics of an agent's runs.

`oxygent_client.telemetry.otel` exports them to OpenTelemetry.
"""

from oxygent_client._core.deprecation import ModuleGetattr, moved_names
from oxygent_client._core.open_calls import OpenCalls
from oxygent_client._protocol.run_record import is_failure_text
from oxygent_client.telemetry._observers import Notification, Observer, Propagator, RunObservation
from oxygent_client.telemetry._stats import CountsConnections, Quantiles, Stats

__all__ = [
    "CountsConnections",
    "Notification",
    "Observer",
    "OpenCalls",
    "Propagator",
    "Quantiles",
    "RunObservation",
    "Stats",
    "is_failure_text",
]

__getattr__: ModuleGetattr = moved_names(
    __name__,
    {
        "Happening": "oxygent_client.telemetry:Notification",
        "Observed": "oxygent_client.telemetry:RunObservation",
        "Pool": "oxygent_client.telemetry:CountsConnections",
    },
)
