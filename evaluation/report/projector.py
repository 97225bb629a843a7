"""The sample's embeddings for TensorBoard's projector, with a sprite of the images."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np

from data_pipeline.errors import UserError
from evaluation.figures.style import to_display
from evaluation.files import write_bytes, write_text
from evaluation.results.folder import Folder
from evaluation.results.layout import read_embedding

_LARGEST_SHEET = 8192  # pixels a side; browsers hold no larger texture


def write_projector(out_dir: Path, log_dir: Path) -> Path:
    """Write every embedding of an evaluation folder for ``tensorboard --logdir LOG_DIR``.

    Parameters
    ----------
    out_dir
        A folder that holds ``results.json``, ``artifacts.npz`` and ``embeddings/``.
    log_dir
        Where ``projector_config.pbtxt``, ``sprite.png`` and the tables go; made if missing.

    Returns
    -------
    Path
        The configuration that TensorBoard reads.

    Raises
    ------
    ValueError
        If the folder holds no sample of images or no embeddings.
    """
    folder = Folder(Path(out_dir))
    images = folder.artifacts.get("sample_images")
    if images is None or not folder.results.embeddings:
        raise UserError(
            f"{out_dir}: no sample of images and embeddings to project; run vae-dist evaluate"
        )
    log_dir = Path(log_dir)
    if not {"sample_position", "sample_labels"} <= folder.artifacts.keys():
        raise UserError(f"{out_dir}/artifacts.npz: has no sample; run vae-dist evaluate again")
    position = folder.artifacts["sample_position"]
    width, height = _write_sprite(log_dir / "sprite.png", images)
    _write_metadata(folder, log_dir / "metadata.tsv")
    parts = []
    for number, item in enumerate(folder.results.embeddings):
        path = folder.path / "embeddings" / f"{item.id}.npz"
        if not path.is_file():
            continue
        # Names of files are counted: a run's name may hold what a path may not.
        table = f"embedding-{number:03d}.tsv"
        values = read_embedding(path, folder.results, item.dim)["test"][position]
        text = io.StringIO()
        np.savetxt(text, values, fmt="%.6g", delimiter="\t")
        write_text(log_dir / table, text.getvalue())
        parts.append(
            f"embeddings {{\n"
            f"  tensor_name: {_quoted(item.title)}\n"
            f"  tensor_shape: [{values.shape[0]}, {values.shape[1]}]\n"
            f'  tensor_path: "{table}"\n'
            f'  metadata_path: "metadata.tsv"\n'
            f'  sprite {{ image_path: "sprite.png" single_image_dim: [{width}, {height}] }}\n'
            f"}}\n"
        )
    config = log_dir / "projector_config.pbtxt"
    write_text(config, "".join(parts))
    return config


def _write_metadata(folder: Folder, path: Path) -> None:
    labels = folder.artifacts["sample_labels"]
    position = folder.artifacts["sample_position"]
    names = [
        " ".join(name.split()) or str(code) for code, name in enumerate(folder.results.classes)
    ]
    lines = ["class\ttest image"]
    for label, place in zip(labels, position, strict=True):
        known = 0 <= label < len(names)
        lines.append(f"{names[label] if known else 'no label'}\t{place}")
    write_text(path, "\n".join(lines) + "\n")


def _write_sprite(path: Path, images: np.ndarray) -> tuple[int, int]:
    """Write a square sheet, row by row as the projector reads it; return one image's size."""
    from PIL import Image

    shown = (to_display(images) * 255).round().astype(np.uint8)
    side = math.ceil(math.sqrt(len(shown)))
    height, width = shown.shape[1:3]
    scale = min(1.0, _LARGEST_SHEET / (side * max(height, width)))
    width, height = max(int(width * scale), 1), max(int(height * scale), 1)
    sheet = Image.new("RGB", (side * width, side * height))
    for i, image in enumerate(shown):
        picture = Image.fromarray(image).convert("RGB")
        if picture.size != (width, height):
            picture = picture.resize((width, height))
        sheet.paste(picture, (i % side * width, i // side * height))
    packed = io.BytesIO()
    sheet.save(packed, "PNG", optimize=True)
    write_bytes(path, packed.getvalue())
    return width, height


def _quoted(text: str) -> str:
    """A string of protobuf's text format."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", " ")
    return f'"{escaped}"'
