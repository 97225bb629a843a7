"""The settings of an evaluation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import tyro

from data_pipeline.errors import UserError
from evaluation.backends.choose import CHOICES
from evaluation.items import METHODS
from evaluation.measures.protocol import PROTOCOLS


@dataclass(kw_only=True)
class EvaluateConfig:
    """The comparison: which runs, on which images, by which protocol."""

    runs: tuple[Path, ...] = ()
    """Run folders, checkpoint folders or .pth.tar files of the 2018 program."""
    data: str | None = None
    """The data folder: a path or a URL."""
    allow_other_data: bool = False
    """Also score runs that were trained on other data, another split of the same images included;
    the report says so."""
    out: Path | None = None
    """Folder to write to (eval/NAME of the data set if left out)."""
    protocol: str = "quick"
    """quick, article2018 or full: what is measured (docs/evaluation.md)."""
    methods: tuple[str, ...] = ()
    """raw, pca, umap, vae, vae_white, vae_umap, concat, ensemble; left out: all with the full
    protocol, else pca, umap and vae."""
    dims: tuple[int, ...] = (2, 10)
    """Dimensions of PCA and UMAP."""
    backend: str = "auto"
    """auto (cuML where it works), cuml (or fail), cpu."""
    which: str = "best"
    """best or last: which checkpoint of a run folder."""
    seed: Annotated[int, tyro.conf.arg(aliases=["--evaluation-seed"])] = 42
    """Of samples of labels, UMAP and the noise of ELBO and NLL."""
    repeats: int = 5
    """Samples of labels that figures are repeated over, for their confidence intervals."""
    nll_samples: int = -1
    """Importance samples of the NLL; 0: no NLL; left out: 64 with the full protocol, else 0."""
    nll_images: int = 2000
    """Test images that the NLL is measured on."""
    cache: Path | None = None
    """Folder of what was computed before (OUT/../.cache if left out)."""
    fresh: bool = False
    """Compute all again."""
    report: bool = True
    """Write figures and report.html."""

    def __post_init__(self) -> None:
        if self.protocol == "seed":  # its name until version 0.1
            self.protocol = "article2018"
        if self.protocol not in PROTOCOLS:
            raise UserError(f"--protocol {self.protocol}: expected {', '.join(PROTOCOLS)}")
        if self.backend not in CHOICES:
            raise UserError(f"--backend {self.backend}: expected {', '.join(CHOICES)}")
        if self.which not in ("best", "last"):
            raise UserError(f"--which {self.which}: expected best or last")
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise UserError(f"--methods {unknown[0]}: expected some of {', '.join(METHODS)}")
        if not self.dims or min(self.dims) < 1:
            raise UserError(f"--dims {' '.join(map(str, self.dims))}: must be 1 or more")
        if self.repeats < 1:
            raise UserError(f"--repeats {self.repeats}: must be 1 or more")
        if self.nll_images < 1:
            raise UserError(f"--nll-images {self.nll_images}: must be 1 or more")
        if not self.methods:
            full = self.protocol == "full"
            self.methods = METHODS if full else ("pca", "umap", "vae")
        if self.nll_samples < 0:
            self.nll_samples = 64 if self.protocol == "full" else 0
        self.dims = tuple(sorted(set(self.dims)))
