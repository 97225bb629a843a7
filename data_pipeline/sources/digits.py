"""scikit-learn's own handwritten digits: needs no file and no network; for smoke tests."""

from __future__ import annotations

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData, hold_out

SIZE = 28


def load_digits(config: SourceConfig, progress: Progress) -> SourceData:
    """1,797 digits, enlarged by Pillow (bicubic) from 8x8 to 1x28x28, so that every model takes them.

    The values 0..16 of the original are spread over 0..255 first. A fifth of each class
    (``--test-fraction``) is held out as the test split, the same images every time.
    """
    import sklearn
    import sklearn.datasets
    from PIL import Image

    small = sklearn.datasets.load_digits()
    grey = np.round(small.images * (255 / 16)).astype(np.uint8)
    images = np.stack(
        [
            np.asarray(Image.fromarray(digit).resize((SIZE, SIZE), Image.Resampling.BICUBIC))
            for digit in grey
        ]
    )[:, None]
    labels = small.target.astype(np.int64)
    splits = {}
    for name, rows in zip(("train", "test"), hold_out(labels, config.test_fraction), strict=True):
        splits[name] = Arrays(images[rows], labels[rows], rows.astype(np.int64))
    progress.say(f"digits: {len(images)} images of scikit-learn {sklearn.__version__}")
    provenance = {
        "found": "scikit-learn",
        "version": sklearn.__version__,
        "resized": f"8x8 to {SIZE}x{SIZE}, bicubic",
        "test_fraction": config.test_fraction,
    }
    return SourceData("digits", splits, [str(d) for d in range(10)], provenance)
