"""Load balancing, health checks, failover and hedging over several servers."""

from oxygent_client._core.deprecation import ModuleGetattr, moved_names
from oxygent_client.cluster._cluster import Cluster, Hedge, Status, cluster_of, home_of, servers_of
from oxygent_client.cluster._health import Health
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

__getattr__: ModuleGetattr = moved_names(__name__, {"Home": "oxygent_client.cluster:RunLocation"})
