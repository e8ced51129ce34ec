"""Observers and statistics of an agent's runs.

`oxygent_client.telemetry.otel` exports them to OpenTelemetry.
"""

from typing import TYPE_CHECKING

from oxygent_client._core.deprecation import ModuleGetattr
from oxygent_client._core.lazy_names import lazy_names

if TYPE_CHECKING:
    from oxygent_client._core.open_calls import OpenCalls
    from oxygent_client._protocol.failure_texts import is_failure_text
    from oxygent_client.telemetry._observers import Notification, Observer, Propagator, RunObservation
    from oxygent_client.telemetry._stats import Quantiles, Stats
    from oxygent_client.telemetry._stats_collector import CountsConnections

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

_HOMES = {
    "._core.open_calls": ("OpenCalls",),
    "._protocol.failure_texts": ("is_failure_text",),
    "_observers": ("Notification", "Observer", "Propagator", "RunObservation"),
    "_stats": ("Quantiles", "Stats"),
    "_stats_collector": ("CountsConnections",),
}
"""The names of each module."""

__getattr__: ModuleGetattr = lazy_names(
    __name__,
    _HOMES,
    {
        "Happening": "oxygent_client.telemetry:Notification",
        "Observed": "oxygent_client.telemetry:RunObservation",
        "Pool": "oxygent_client.telemetry:CountsConnections",
    },
)


def __dir__() -> list[str]:
    return sorted(__all__)
