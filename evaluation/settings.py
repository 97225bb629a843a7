"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.checks import OF_RUN, AtLeast, OneOf, check_fields
from data_pipeline.errors import UserError
from data_pipeline.plugins import installed
from evaluation.backends.choose import CHOICES
from evaluation.items import EMBEDDINGS, METHODS
from evaluation.measures.protocol import PROTOCOLS


@dataclass(kw_only=True)
class EvaluateConfig:
    """The comparison: which runs, on which images, by which protocol."""

    runs: Annotated[tuple[Path, ...], OF_RUN] = ()
    """Run folders, checkpoint folders or their addresses, or .pth.tar files of the 2018 program."""
    data: str | None = None
    """The data folder: a path or a URL."""
    allow_other_data: bool = False
    """Also score runs that were trained on other data, another split of the same images included;
    the report says so."""
    out: Path | None = None
    """Folder to write to (eval/NAME of the data set if not given)."""
    protocol: Annotated[str, OneOf(*PROTOCOLS)] = "quick"
    """quick, article2018, all_labels or full: what is measured (docs/evaluation.md)."""
    methods: Annotated[tuple[str, ...], OneOf(*METHODS, more=partial(installed, EMBEDDINGS))] = ()
    """raw, pca, umap, vae, vae_white, vae_umap, concat, ensemble; not given: all with the full
    protocol, else pca, umap and vae."""
    dims: Annotated[tuple[int, ...], AtLeast(1)] = (2, 10)
    """Dimensions of PCA and UMAP."""
    backend: Annotated[str, OneOf(*CHOICES)] = "auto"
    """auto (cuML where it works), cuml (or fail), cpu."""
    which: Annotated[str, OneOf("best", "last")] = "best"
    """best or last: which checkpoint of a run folder."""
    allow_code: bool = False
    """Import the module that a run's config.json names, where its model is code of your own
    (--model-type MODULE:CLASS): only for runs that you trust."""
    seed: Annotated[int, tyro.conf.arg(aliases=["--evaluation-seed"])] = 42
    """Of samples of labels, UMAP and the noise of ELBO and NLL."""
    repeats: Annotated[int, AtLeast(1)] = 5
    """Samples of labels that figures are repeated over, for their confidence intervals."""
    nll_samples: int = -1
    """Importance samples of the NLL; 0: no NLL; not given: 64 with the full protocol, else 0."""
    nll_images: Annotated[int, AtLeast(1)] = 2000
    """Test images that the NLL is measured on."""
    fid_features: Annotated[Path | None, OF_RUN] = None
    """Features for the Fréchet and kernel distances (FID, KID) of samples and reconstructions: a run,
    whose mu they are, or weights of torchvision's inception_v3 (.safetensors or .pth)."""
    cache: Path | None = None
    """Folder of what was computed before (OUT/../.cache if not given)."""
    fresh: bool = False
    """Compute all again."""
    report: bool = True
    """Write figures and report.html."""

    def __post_init__(self) -> None:
        if self.protocol == "seed":  # its name until version 0.1
            self.protocol = "article2018"
        check_fields(self)
        if not self.dims:
            raise UserError("--dims: give at least one dimension")
        if not self.methods:
            full = self.protocol == "full"
            self.methods = METHODS if full else ("pca", "umap", "vae")
        if self.nll_samples < 0:
            self.nll_samples = 64 if self.protocol == "full" else 0
        self.dims = tuple(sorted(set(self.dims)))
