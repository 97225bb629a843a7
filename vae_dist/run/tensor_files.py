"""Files of tensors that somebody may have sent: read whole or refused, and no code of them is run."""

from __future__ import annotations

import io
import warnings
import zipfile
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file

from data_pipeline.errors import UserError, files_of_user


def load_weights(path: Path) -> dict[str, torch.Tensor]:
    """Tensors of a ``.safetensors`` file by name, onto the CPU."""
    try:
        return load_file(path)
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: damaged ({' '.join(str(error).split())[:200]})") from error


def read_torch(path: Path) -> dict[str, Any]:
    """What a file of ``torch.save`` holds, onto the CPU; no code of it is run.

    Zip files are checked by their CRC-32 first, which torch does not do. A file in torch's older
    format must end where its last tensor ends; a changed number within a tensor cannot be seen
    there.

    Raises
    ------
    UserError
        If it cannot be read, is damaged, or holds no dictionary with text keys.
    """
    with files_of_user(f"{path}: cannot be read"):
        content = io.BytesIO(path.read_bytes())
    try:
        in_zip = zipfile.is_zipfile(content)
        if in_zip:
            with zipfile.ZipFile(content) as archive:
                if any(entry.compress_type != zipfile.ZIP_STORED for entry in archive.infolist()):
                    raise ValueError("a compressed part")
                if (part := archive.testzip()) is not None:
                    raise ValueError(f"{part} has another CRC-32")
        content.seek(0)
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # on pickle protocols; said of noise, too
            held = torch.load(content, map_location="cpu", weights_only=True)
        if not in_zip and content.tell() != content.getbuffer().nbytes:
            raise ValueError("bytes after its end")
    except MemoryError:
        raise
    except Exception as error:  # torch and pickle raise whatever a damaged file leads them to
        kind = str(error) if type(error) in (ValueError, zipfile.BadZipFile) else "torch refuses it"
        raise UserError(
            f"{path}: damaged, or not a file of torch.save with tensors and plain values only "
            f"({kind})"
        ) from error
    if not isinstance(held, dict) or not all(isinstance(key, str) for key in held):
        raise UserError(f"{path}: holds {type(held).__name__}, expected a dictionary with names")
    return held
