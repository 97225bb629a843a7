"""The two tasks: images to latents, and latents to images."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np

from data_pipeline.errors import UserError
from vae_dist.draw import chunk_size
from vae_dist.encode.images import digest
from vae_dist.encode.job import Job
from vae_dist.encode.latent_folder import LatentFolder
from vae_dist.encode.outputs import Columns, Npz, Output, Parquet, Pictures
from vae_dist.encode.rows import Chunk, Rows
from vae_dist.run.trained import Run

VERSION = 1


def encode_job(
    run: Run, rows: Rows, out: Path, *, reconstructions: bool = False, labels: bool = False
) -> Job:
    """Latents of images.

    Parameters
    ----------
    run : Run
    rows : Rows
        Images of the run's shape.
    out : Path
        NAME.npz, NAME.parquet, or a folder: a data folder of latents.
    reconstructions : bool
        Also the images from z = mu, uint8.
    labels : bool
        Give a conditional model the labels; without them it encodes as unlabelled.

    Returns
    -------
    Job
        Its columns are ``mu`` and ``logvar`` float32 (n, z), ``labels`` and ``index`` int64 (n,),
        and, where there are some, ``names`` (n,) and ``reconstructions`` uint8 (n, C, H, W).
    """

    def compute(chunk: Chunk) -> Columns:
        told = chunk.labels if labels else None
        mu, logvar = run.encode(chunk.values, told)
        columns = {"mu": mu, "logvar": logvar, **_kept(chunk)}
        if reconstructions:
            columns["reconstructions"] = _shown(run, run.decode(mu, told))
        return columns

    if reconstructions and not out.suffix:
        raise UserError(
            f"--reconstructions: --out {out} is a data folder, which holds latents alone; "
            "give --out NAME.npz"
        )
    settings = {"task": "encode", "reconstructions": reconstructions, "labels": labels}
    return _job(run, rows, compute, settings, out)


def decode_job(run: Run, rows: Rows, out: Path, *, labels: bool = False) -> Job:
    """Images of latents under ``images``, else as `encode_job`.

    They are uint8 (n, C, H, W); of a run whose data are no pixels float32.
    """
    if out.suffix == "" and not run.values.are_pixels:
        raise UserError(f"--out {out}: what the run decodes are no pictures; give --out NAME.npz")

    def compute(chunk: Chunk) -> Columns:
        images = run.decode(chunk.values, chunk.labels if labels else None)
        return {"images": _shown(run, images), **_kept(chunk)}

    return _job(run, rows, compute, {"task": "decode", "labels": labels}, out)


def _job(run: Run, rows: Rows, compute: Any, settings: dict[str, Any], out: Path) -> Job:
    about = {
        "version": VERSION,
        "run": run.name,
        "step": run.step,
        "content_hash": run.content_hash,
        "rows": rows.name,
        **settings,
    }
    if len(run.latent_shape) > 1:
        about["latent_shape"] = list(run.latent_shape)
    output = _output(out, str(settings["task"]), run.latent_shape)
    kind = type(output).__name__
    key = digest(json.dumps(about, sort_keys=True), rows.identity, kind)
    return Job(rows, compute, chunk_size(run.image_shape), key, output, about)


def _output(out: Path, task: str, latent_shape: tuple[int, ...]) -> Output:
    if out.suffix == ".npz":
        return Npz(out)
    if out.suffix == ".parquet":
        return Parquet(out)
    if out.suffix:
        raise UserError(f"--out {out}: give NAME.npz, NAME.parquet or a folder's name")
    if task == "decode":
        return Pictures(out)
    return LatentFolder(out, latent_shape)


def _kept(chunk: Chunk) -> Columns:
    kept = {"labels": chunk.labels, "index": chunk.index}
    return kept if chunk.names is None else {**kept, "names": chunk.names}


def _shown(run: Run, images: np.ndarray) -> np.ndarray:
    """Pixels as grey levels; what are no pixels as they are."""
    if not run.values.are_pixels:
        return images
    return np.round(images * np.float32(255)).astype(np.uint8)
