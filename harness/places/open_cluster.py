"""Opening the cluster that an address names, its machines whole or split."""

from __future__ import annotations

from harness.places.cluster import Cluster

ADDRESS_HELP = "Cluster of machines: ray://HOST:10001, HOST:6379 from a machine of Ray's, or dask://HOST:8786."


def open_cluster(address: str, split: int = 1) -> Cluster:
    """A connection, to be used as a context, to machines of `split` parts each. Raises UsageError for another form of
    address, EnvironmentFault."""
    if address.startswith("dask"):
        from harness.places.dask_cluster import DaskCluster

        return DaskCluster(address, split)
    from harness.places.ray_cluster import RayCluster

    return RayCluster(address, split)
