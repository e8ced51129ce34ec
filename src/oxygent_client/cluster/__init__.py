"""Load balancing, health checks, failover and hedging over several servers."""

from typing import TYPE_CHECKING

from oxygent_client._core.deprecation import ModuleGetattr
from oxygent_client._core.lazy_names import lazy_names

if TYPE_CHECKING:
    from oxygent_client.cluster._cluster import Cluster, Hedge, Status
    from oxygent_client.cluster._health import Health
    from oxygent_client.cluster._lookup import cluster_of, home_of, servers_of
    from oxygent_client.cluster._members import DNS, Replica, Resolver
    from oxygent_client.cluster._run_locations import RunLocation
    from oxygent_client.cluster._strategies import Strategy

__all__ = [
    "DNS",
    "Cluster",
    "Health",
    "Hedge",
    "Replica",
    "Resolver",
    "RunLocation",
    "Status",
    "Strategy",
    "cluster_of",
    "home_of",
    "servers_of",
]

_HOMES = {
    "_cluster": (
        "Cluster",
        "Hedge",
        "Status",
    ),
    "_health": ("Health",),
    "_lookup": (
        "cluster_of",
        "home_of",
        "servers_of",
    ),
    "_members": (
        "DNS",
        "Replica",
        "Resolver",
    ),
    "_run_locations": ("RunLocation",),
    "_strategies": ("Strategy",),
}
"""The names of each module."""

__getattr__: ModuleGetattr = lazy_names(__name__, _HOMES, {"Home": "oxygent_client.cluster:RunLocation"})


def __dir__() -> list[str]:
    return sorted(__all__)
