"""From a data set to batches: sources, webdataset shards, the order of images, loaders."""

from typing import TYPE_CHECKING

from data_pipeline.exports import exports

if TYPE_CHECKING:
    from data_pipeline.batch import Batch
    from data_pipeline.folder.opening import open_data
    from data_pipeline.load.loader import make_loader
    from data_pipeline.order import World
    from data_pipeline.sources import load_source
    from data_pipeline.write.folder import write_folder

__all__ = ["Batch", "World", "load_source", "make_loader", "open_data", "write_folder"]

__getattr__ = exports(
    __name__,
    {
        "Batch": "data_pipeline.batch",
        "World": "data_pipeline.order",
        "load_source": "data_pipeline.sources",
        "make_loader": "data_pipeline.load.loader",
        "open_data": "data_pipeline.folder.opening",
        "write_folder": "data_pipeline.write.folder",
    },
)


def __dir__() -> list[str]:
    return __all__
