"""What a step is expected to take on some GPUs, from a few figures of one and of the network.

    python -m benchmarks.cost_model --compute-ms 80 --floor-ms 1 --parameters 119591

Assumptions. The batch is global and each GPU computes its part: ``compute`` seconds for the whole
batch on one GPU fall as 1/n, down to ``floor``, which is what the launches (or the replay of a
graph) of a step take however small the part is. Gradients are fp32 and reduced by a ring: each
GPU sends and receives ``2 (n - 1) / n`` times their bytes, at the slowest link that the ring
crosses, NVLink within a node and the network between nodes, and each of the ``2 (n - 1)`` hops
has a latency. Of the reduction, ``overlap`` is hidden behind the backward pass (DDP's buckets). Loading, logging
and validation do not count, for they are not in the step's way.

On a CPU a step's calls are not hidden behind its work: `fixed` seconds come on top, of every process.
``vae-dist bench train`` checks that form on 1, 2 and 4 processes.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Mapping

import numpy as np


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


def fixed_and_each(steps: Mapping[int, float]) -> tuple[float, float]:
    """Seconds that every step takes, and those of an image, from the steps of some batch sizes.

    The line nearest to all of them in proportion; with one batch size all is in the images.
    """
    if len(steps) < 2:
        return 0.0, next(seconds / size for size, seconds in steps.items())
    sizes, seconds = (np.array(list(column), float) for column in (steps, steps.values()))
    columns = np.stack([1 / seconds, sizes / seconds], axis=1)
    (fixed, each), *_ = np.linalg.lstsq(columns, np.ones(len(sizes)), rcond=None)
    return (float(fixed), float(each)) if fixed > 0 else (0.0, float(np.mean(seconds / sizes)))


def cpu_step_seconds(
    *, fixed: float, compute: float, reduction: float, processes: int, cores: int
) -> float:
    """Expected seconds of a step of a fixed global batch on processes of one thread.

    Parameters
    ----------
    fixed : float
        Seconds of every step of every process, whatever its part.
    compute : float
        Seconds of the whole batch's images on one core.
    reduction : float
        Seconds of the gradients' all-reduce on that number of processes.
    processes, cores : int
        Processes beyond the cores share them.
    """
    return (processes * fixed + compute) / min(processes, cores) + reduction


def main() -> None:
    """Print the expected step of 1 to 64 GPUs."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--compute-ms", type=float, required=True, help="whole batch on one GPU")
    parser.add_argument("--floor-ms", type=float, required=True, help="least step of one GPU")
    parser.add_argument("--parameters", type=int, required=True)
    parser.add_argument("--overlap", type=float, default=0.0)
    for field in dataclasses.fields(Cluster):
        flag = "--" + field.name.replace("_", "-")
        parser.add_argument(flag, type=type(field.default), default=field.default)
    given = vars(parser.parse_args())
    compute, floor = given.pop("compute_ms") / 1e3, given.pop("floor_ms") / 1e3
    gradient_bytes, overlap = 4.0 * given.pop("parameters"), given.pop("overlap")
    cluster = Cluster(**given)
    print("GPUs  ms a step  times one GPU  ms of the all-reduce")
    for gpus in (1, 8, 16, 32, 64):
        seconds = step_seconds(
            compute=compute,
            floor=floor,
            gradient_bytes=gradient_bytes,
            gpus=gpus,
            cluster=cluster,
            overlap=overlap,
        )
        reduction = all_reduce_seconds(gradient_bytes, gpus, cluster)
        one = max(compute, floor)
        print(f"{gpus:4}  {1e3 * seconds:9.3f}  {one / seconds:13.2f}  {1e3 * reduction:20.3f}")


if __name__ == "__main__":
    main()
