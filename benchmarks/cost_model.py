"""What a step is expected to take on some GPUs, from a few figures of one and of the network.

Assumptions. The batch is global and each GPU computes its part: ``compute`` seconds for the whole
batch on one GPU fall as 1/n, down to ``floor``, which is what the launches (or the replay of a
graph) of a step take however small the part is. Gradients are fp32 and reduced by a ring: each
GPU sends and receives ``2 (n - 1) / n`` times their bytes, at the slowest link that the ring
crosses, NVLink within a node and the network between nodes, and each of the ``2 (n - 1)`` hops
has a latency. Of the reduction, ``overlap`` is hidden behind the backward pass (DDP's buckets). Loading, logging
and validation do not count, for they are not in the step's way.
"""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True, kw_only=True)
class Cluster:
    """Figures of a cluster; the defaults are nominal ones of H100 nodes with one 400 Gb/s
    adapter a GPU, to be replaced by measured ones."""

    gpus_per_node: int = 8
    node_bandwidth: float = 300e9
    """Bytes a second that a GPU sends within a node."""
    network_bandwidth: float = 40e9
    """Bytes a second that a GPU sends between nodes."""
    node_latency: float = 5e-6
    """Seconds a hop within a node."""
    network_latency: float = 15e-6
    """Seconds a hop between nodes."""


def all_reduce_seconds(gradient_bytes: float, gpus: int, cluster: Cluster) -> float:
    """Seconds of one ring all-reduce."""
    if gpus == 1:
        return 0.0
    nodes = -(-gpus // cluster.gpus_per_node)
    across = nodes > 1
    bandwidth = cluster.network_bandwidth if across else cluster.node_bandwidth
    between = 2 * nodes if across else 0  # hops of both rounds that leave a node
    hops = between * cluster.network_latency + (2 * (gpus - 1) - between) * cluster.node_latency
    return 2 * (gpus - 1) / gpus * gradient_bytes / bandwidth + hops


def step_seconds(
    *,
    compute: float,
    floor: float,
    gradient_bytes: float,
    gpus: int,
    cluster: Cluster,
    overlap: float = 0.0,
) -> float:
    """Expected seconds of a step of a fixed global batch.

    Parameters
    ----------
    compute : float
        Seconds of the whole batch on one GPU.
    floor : float
        Least seconds of a step on one GPU.
    gradient_bytes : float
        Four times the number of parameters.
    gpus : int
    cluster : Cluster
    overlap : float
        Share of the reduction that the backward pass hides, 0 to 1.
    """
    reduction = (1 - overlap) * all_reduce_seconds(gradient_bytes, gpus, cluster)
    return max(compute / gpus, floor) + reduction
