"""Find the cluster that an agent's transport is, or wraps, and where its runs are.

Rule: it does not load the cluster, which most agents do without.
"""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, cast

from oxygent_client._core.server_identity import server_address
from oxygent_client._core.transport import find_wrapped

if TYPE_CHECKING:
    from oxygent_client.cluster._cluster import Cluster
    from oxygent_client.cluster._run_locations import RunLocation


def cluster_of(transport: object) -> Cluster | None:
    """The cluster that a transport is, or wraps; None without a cluster."""
    module = sys.modules.get(f"{__package__}._cluster")  # without it there is no cluster
    return None if module is None else find_wrapped(transport, cast("type[Cluster]", module.Cluster))


def home_of(transport: object, name: str) -> RunLocation | None:
    """The location of the last run of this name, if `transport` is a cluster and knows it; else None."""
    cluster = cluster_of(transport)
    return None if cluster is None else cluster.home_of(name)


def home_of_turn(transport: object, from_trace_id: str) -> str:
    """The URL of the replica that must run the turn after this one; empty if any server may."""
    cluster = cluster_of(transport)
    location = cluster.home_of(from_trace_id) if cluster is not None and not cluster.shared_storage else None
    return "" if location is None else location.base_url


def servers_of(transport: object, base_url: str) -> frozenset[str]:
    """The normalised address of the server at `base_url`; if that is empty, those of the cluster's members."""
    cluster = None if base_url else cluster_of(transport)
    urls = [base_url] if cluster is None else [each.url for each in cluster.members]
    return frozenset(map(server_address, urls))
