"""What UMAP's stages cost in an evaluation, in CPU seconds, so that the figure is right on a busy machine.

OMP_NUM_THREADS=1 python -m benchmarks.umap_parts data/fmnist
"""

from __future__ import annotations

import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TypeVar

from data_pipeline.folder import open_data
from evaluation.backends.cpu import CpuBackend, UmapSettings
from evaluation.backends.search import neighbour_graph
from evaluation.cache import Cache
from evaluation.images import open_splits
from evaluation.pixels import Pixels

SEED = 42
T = TypeVar("T")


def main() -> int:
    """Print the seconds of each stage."""
    if len(sys.argv) != 2:
        print(__doc__, file=sys.stderr)
        return 2
    warnings.simplefilter("ignore")  # umap-learn says of a seed that it has one thread
    with tempfile.TemporaryDirectory() as folder:
        splits = open_splits(open_data(sys.argv[1]), Cache(Path(folder)))
        train, test = Pixels(splits["train"]).whole(), Pixels(splits["test"]).whole()
    backend = CpuBackend()
    # Before numba runs, which gives this thread's matrix products as many threads as it has itself.
    graph = _timed("search", lambda: neighbour_graph(train, test, 5, seed=SEED))
    small, few = train[:500], test[:50]
    tiny = neighbour_graph(small, few, 5, seed=SEED)
    _timed("import, compile", lambda: backend.umap(small, few, tiny, [UmapSettings(dim=2)]))
    for dim in (2, 10):
        settings = [UmapSettings(dim=dim, seed=SEED)]
        _timed(f"layout, {dim} dimensions", partial(backend.umap, train, test, graph, settings))
    return 0


def _timed(what: str, call: Callable[[], T]) -> T:
    start = time.process_time()
    found = call()
    print(f"{what}: {time.process_time() - start:.1f} s", flush=True)
    return found


if __name__ == "__main__":
    raise SystemExit(main())
