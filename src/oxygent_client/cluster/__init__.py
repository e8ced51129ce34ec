"""Several servers that can each do the same, used as if they were one."""

from oxygent_client.cluster._cluster import Cluster, Hedge, Status, cluster_of, home_of, servers_of
from oxygent_client.cluster._health import Health
from oxygent_client.cluster._homes import Home
from oxygent_client.cluster._members import DNS, Replica, Resolver
from oxygent_client.cluster._pick import Strategy

__all__ = [
    "DNS",
    "Cluster",
    "Health",
    "Hedge",
    "Home",
    "Replica",
    "Resolver",
    "Status",
    "Strategy",
    "cluster_of",
    "home_of",
    "servers_of",
]
