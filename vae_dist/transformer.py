"""A variational autoencoder as a transformer of scikit-learn."""

from __future__ import annotations

import tempfile
import warnings
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.utils import Tags
from sklearn.utils.validation import check_array, check_is_fitted, validate_data

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError
from data_pipeline.folder import open_data
from data_pipeline.sources.base import SourceData
from data_pipeline.write.config import PrepareConfig
from data_pipeline.write.folder import write_folder
from vae_dist.run.load import load_run
from vae_dist.run.trained import Run
from vae_dist.train.settings import Settings
from vae_dist.train.trainer import Trainer

NAME = "transformer"
"""Name of the run that `VAETransformer.fit` trains."""


class VAETransformer(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):
    """Images to the means of their latents, and latents back to images.

    `fit` writes the images as a data folder and trains on it as ``vae-dist train`` does, on this
    process alone. The folder holds bytes: values are rounded to 256 steps for the training. The
    weights with the best validation loss are kept.

    Parameters
    ----------
    model_type : str
        Family of the model; `fc`, `fc_conv` and `conv` take images of any shape.
    latent_size : int
        Number of latents, the columns that `transform` returns.
    epochs : int
    batch_size : int
    lr : float
        Learning rate of Adam.
    kl_loss_weight : float
        Weight of the KL divergence in the loss; above 1 makes a beta-VAE.
    seed : int
        Everything random follows from it.
    device : str
        ``"auto"`` takes a GPU where there is one; or ``"cpu"``.
    image_shape : tuple of int, optional
        (C, H, W), or (H, W), of images that are given as rows of pixels. Without it a row is a
        square image if its length allows, else one line of pixels.
    value_range : tuple of float, optional
        The values that are black and white. Without it 0 and 255 for uint8, and for other types
        the least and the greatest value that `fit` is given. Values beyond are cut off, with a
        warning.
    folds : int
        The images are divided into this number of parts; one is the validation set.
    folder : str or Path, optional
        Keep the data folder and the run here, and replace those of an earlier `fit`. Without it
        they lie in a temporary folder that is removed.
    settings : mapping, optional
        More settings by the names of ``vae-dist train``'s flags, as in
        ``{"kl_schedule": "linear"}``; a parameter above cannot be given again.
    verbose : bool
        Say on the terminal how the training goes.

    Attributes
    ----------
    run_ : Run
        The trained model.
    image_shape_ : tuple of int
        (C, H, W).
    value_range_ : tuple of float or None
        The values that are black and white; None: as in `Run.encode`, uint8 or floats in 0..1.
    n_features_in_ : int
        Values in an image.

    Examples
    --------
    >>> from sklearn.linear_model import LogisticRegression
    >>> from sklearn.pipeline import make_pipeline
    >>> pipeline = make_pipeline(VAETransformer(latent_size=10), LogisticRegression())
    >>> accuracy = pipeline.fit(images, labels).score(test_images, test_labels)
    """

    value_range_: tuple[float, float] | None

    def __init__(
        self,
        model_type: str = "fc",
        latent_size: int = 10,
        epochs: int = 30,
        batch_size: int = 64,
        lr: float = 1e-3,
        kl_loss_weight: float = 1.0,
        seed: int = 42,
        device: str = "auto",
        image_shape: tuple[int, ...] | None = None,
        value_range: tuple[float, float] | None = None,
        folds: int = 5,
        folder: str | Path | None = None,
        settings: Mapping[str, Any] | None = None,
        verbose: bool = False,
    ) -> None:
        self.model_type = model_type
        self.latent_size = latent_size
        self.epochs = epochs
        self.batch_size = batch_size
        self.lr = lr
        self.kl_loss_weight = kl_loss_weight
        self.seed = seed
        self.device = device
        self.image_shape = image_shape
        self.value_range = value_range
        self.folds = folds
        self.folder = folder
        self.settings = settings
        self.verbose = verbose

    @classmethod
    def from_run(
        cls,
        path: str | Path,
        *,
        device: str = "auto",
        value_range: tuple[float, float] | None = None,
        **options: Any,
    ) -> Self:
        """A fitted transformer from a run, a checkpoint or an exported folder.

        Parameters
        ----------
        path : str or Path
        device : str
        value_range : tuple of float, optional
            The values that are black and white in the images that will be given. Without it
            uint8 images, or floats in 0..1.
        **options
            As in `vae_dist.load_run`: ``which``, ``allow_code``.
        """
        run = load_run(path, device, **options)
        made = cls(
            model_type=run.config["model"]["model_type"],
            latent_size=run.latent_size,
            device=device,
            image_shape=run.image_shape,
            value_range=value_range,
        )
        made.n_features_in_ = int(np.prod(run.image_shape))
        made.value_range_ = None if value_range is None else _range(value_range)
        made._take(run)
        return made

    def fit(self, X: np.ndarray, y: object = None) -> Self:
        """Train.

        Parameters
        ----------
        X : array
            (n, pixels), (n, H, W) or (n, C, H, W), of any kind of numbers.
        y : object
            Not used.

        Raises
        ------
        UserError
            If a parameter is wrong, the images are too few, or the training fails.
        """
        images = self._images(X, reset=True)
        if self.value_range is not None:
            self.value_range_ = _range(self.value_range)
        elif images.dtype == np.uint8:
            self.value_range_ = (0.0, 255.0)
        else:
            self.value_range_ = _widened(float(images.min()), float(images.max()))
        count = len(images)
        arrays = Arrays(
            np.rint(self._scaled(images) * 255).astype(np.uint8),
            np.full(count, -1, np.int64),
            np.arange(count, dtype=np.int64),
        )
        with ExitStack() as stack:
            if self.folder is None:
                folder = Path(stack.enter_context(tempfile.TemporaryDirectory()))
            else:
                folder = Path(self.folder)
            settings = self._settings(folder)
            prepare = PrepareConfig(folds=self.folds, writers=1, overwrite=True)
            write_folder(SourceData(NAME, {"train": arrays}, []), folder / "data", prepare)
            Trainer(settings, open_data(str(folder / "data"))).train()
            self._take(load_run(settings.folder, self._torch_device()))
        return self

    def transform(self, X: np.ndarray) -> np.ndarray:
        """Means of q(z|x), float32 (n, latent_size), of images as `fit` takes them."""
        check_is_fitted(self)
        return self.run_.encode(self._scaled(self._images(X)))[0]

    def inverse_transform(self, Z: np.ndarray) -> np.ndarray:
        """Mean images, float32, of latents (n, latent_size), in ``value_range_``.

        They come as `fit` was given its images: rows of pixels or (n, C, H, W); of `from_run`
        as (n, C, H, W).
        """
        check_is_fitted(self)
        shown = self.run_.decode(check_array(Z, dtype=np.float32))
        low, high = self.value_range_ or (0.0, 1.0)
        return (low + (high - low) * shown).reshape(len(shown), *self._given_shape)

    def _take(self, run: Run) -> None:
        self.run_, self.image_shape_ = run, run.image_shape
        if not hasattr(self, "_given_shape"):
            self._given_shape: tuple[int, ...] = run.image_shape

    @property
    def _n_features_out(self) -> int:
        return self.run_.latent_size

    def _settings(self, folder: Path) -> Settings:
        more = dict(self.settings or {})
        own = ("model_type", "latent_size", "epochs", "batch_size", "lr", "kl_loss_weight", "seed")
        fixed = {
            **{name: getattr(self, name) for name in own},
            "name": NAME,
            "runs_dir": folder / "runs",
            "overwrite": True,
            "no_cuda": self._torch_device() == "cpu",
            "expect_world_size": 1,
            "console": bool(self.verbose),
        }
        if twice := sorted(more.keys() & fixed.keys()):
            raise UserError(
                f"settings: {', '.join(twice)} is set by VAETransformer itself; Fix: give it as a "
                "parameter of its own where there is one"
            )
        quiet = {"tensorboard": False, "telemetry_interval": 0} if self.folder is None else {}
        return Settings.of(**quiet | more | fixed)

    def _torch_device(self) -> str:
        if self.device not in ("auto", "cpu"):
            raise UserError(f"device {self.device!r}: expected one of auto, cpu")
        return self.device

    def _images(self, X: np.ndarray, reset: bool = False) -> np.ndarray:
        """Checked images (n, C, H, W), of the type that they came in."""
        if isinstance(X, list | tuple):
            X = np.asarray(X)
        shape = tuple(X.shape[1:]) if getattr(X, "ndim", 2) > 2 else None
        given = validate_data(
            self,
            X if shape is None else np.asarray(X).reshape(len(X), -1),
            reset=reset,
            dtype="numeric",
            ensure_min_samples=self.folds if reset else 1,
        )
        if reset:
            self._given_shape = shape or given.shape[1:]
            return given.reshape(len(given), *self._shape_of(self._given_shape))
        return given.reshape(len(given), *self.image_shape_)

    def _shape_of(self, given: tuple[int, ...]) -> tuple[int, int, int]:
        """(C, H, W) of images that `fit` was given as arrays of this shape."""
        pixels = int(np.prod(given))
        if self.image_shape is not None:
            shape = tuple(self.image_shape)
        elif len(given) > 1:
            shape = given
        else:
            side = round(pixels**0.5)
            shape = (side, side) if side * side == pixels else (1, pixels)
        if len(shape) == 2:
            shape = (1, *shape)
        if len(shape) != 3 or int(np.prod(shape)) != pixels:
            raise UserError(
                f"image_shape {shape}: {pixels} values an image; expected (C, H, W) or (H, W) "
                "that holds this number"
            )
        return shape

    def _scaled(self, images: np.ndarray) -> np.ndarray:
        """Images as the run takes them: float32 in [0, 1], or as they are without a range."""
        if self.value_range_ is None:
            return images
        low, high = self.value_range_
        scaled = (images.astype(np.float64) - low) / (high - low)
        if beyond := int(((scaled < 0) | (scaled > 1)).sum()):
            warnings.warn(
                f"{beyond:,} of {images.size:,} values lie beyond {low:g} and {high:g}, black and "
                "white, and are cut off; Fix: give value_range",
                stacklevel=3,
            )
        return scaled.clip(0, 1).astype(np.float32)

    def __sklearn_tags__(self) -> Tags:
        tags = super().__sklearn_tags__()
        assert tags.transformer_tags is not None
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def _range(given: tuple[float, float]) -> tuple[float, float]:
    low, high = map(float, given)
    if not low < high:
        raise UserError(f"value_range {given}: the first value must be below the second")
    return low, high


def _widened(low: float, high: float) -> tuple[float, float]:
    """A range that holds more than one value, also where all images are of one."""
    return (low, high) if low < high else (low, low + 1.0)
