"""From checkpoints and images to a report that compares PCA, UMAP and the VAE."""

from typing import TYPE_CHECKING

from data_pipeline.exports import exports

if TYPE_CHECKING:
    from evaluation.evaluation import evaluate
    from evaluation.results.files import read_results
    from evaluation.settings import EvaluateConfig

__all__ = ["EvaluateConfig", "evaluate", "read_results"]

__getattr__ = exports(
    __name__,
    {
        "EvaluateConfig": "evaluation.settings",
        "evaluate": "evaluation.evaluation",
        "read_results": "evaluation.results.files",
    },
)


def __dir__() -> list[str]:
    return __all__
