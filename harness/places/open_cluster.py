"""Opening the cluster that an address names."""

from __future__ import annotations

from harness.places.cluster import Cluster

ADDRESS_HELP = "Cluster of machines for the trials: ray://HOST:10001, or HOST:6379 from a machine of it."


def open_cluster(address: str) -> Cluster:
    """A connection, to be used as a context. Raises UsageError for another form of address, EnvironmentFault."""
    from harness.places.ray_cluster import RayCluster

    return RayCluster(address)
