"""What two processes would take for the neighbour search, in CPU seconds of one thread.

    OMP_NUM_THREADS=1 python -m benchmarks.search data/fmnist 20000 5000

The parts are carried out one after the other, so that the figure is right on a busy machine too.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data_pipeline.folder import open_data
from data_pipeline.order import World
from evaluation.backends.search import join_graph, lay_out, search_part
from evaluation.cache import Cache
from evaluation.images import open_splits
from evaluation.pixels import Pixels


def main() -> int:
    """Print the seconds; assert that both ways find the same."""
    if len(sys.argv) != 4:
        print(__doc__, file=sys.stderr)
        return 2
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        splits = open_splits(open_data(sys.argv[1]), Cache(Path(folder)))
        train, test = (
            Pixels(splits[name]).take(np.arange(int(count)))
            for name, count in zip(("train", "test"), sys.argv[2:], strict=True)
        )
    layout, laying_out = _timed(lambda: lay_out(train, test, seed=42))

    def part(rank: int, size: int) -> tuple[dict[str, np.ndarray], float]:
        return _timed(lambda: search_part(train, test, 5, layout, World(rank, size), seed=42))

    whole, alone = part(0, 1)
    parts, seconds = zip(*(part(rank, 2) for rank in range(2)), strict=True)
    one, two = join_graph([whole], layout), join_graph(parts, layout)
    assert np.array_equal(one.train_index, two.train_index)
    assert np.array_equal(one.test_distance, two.test_distance)
    print(
        f"cells {laying_out:.1f} s, search by one process {alone:.1f}, by each of two "
        f"{seconds[0]:.1f} and {seconds[1]:.1f}: "
        f"{(laying_out + alone) / (laying_out + max(seconds)):.2f} times as fast; {one.note}"
    )
    return 0


def _timed(call: Callable[[], Any]) -> tuple[Any, float]:
    start = time.process_time()
    return call(), time.process_time() - start


if __name__ == "__main__":
    raise SystemExit(main())
