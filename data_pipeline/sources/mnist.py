"""MNIST, Fashion-MNIST, KMNIST, EMNIST: found, downloaded, checked and read.

Looked for in ``--source DIR`` alone if given, else where systems keep a copy, else among
earlier downloads, else downloaded.
"""

from __future__ import annotations

import hashlib
import os
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from functools import partial
from pathlib import Path
from typing import IO, Any

import numpy as np

from data_pipeline.batch import Arrays
from data_pipeline.errors import UserError, files_of_user
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.download import DownloadError, download, download_folder, sum_fault
from data_pipeline.sources.idx import GZIP_MAGIC, read_idx
from data_pipeline.sources.kinds import kind_of
from data_pipeline.sources.known import FAMILIES, ROLES, Family, RawFile

_ZIP_FAULTS = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError)


def load_mnist_family(config: SourceConfig, progress: Progress) -> SourceData:
    """Find, check and read one of the families.

    Raises
    ------
    ValueError
        If it is not found, is damaged, or is not the published data.
    """
    family = FAMILIES[config.dataset]
    arrays, origin, files = _find(config, family, progress)
    unchecked = [name for name, facts in files.items() if not facts["checked"]]
    if unchecked:
        why = (
            "no sum is published for them as they are"
            if config.check_sums
            else "--check-sums False"
        )
        progress.say(f"{origin}: {', '.join(unchecked)} not checked: {why}")
    splits = {split: _arrays(arrays, split, family, origin) for split in ("train", "test")}
    counts = ", ".join(f"{len(part.labels)} {split}" for split, part in splits.items())
    progress.say(f"{config.dataset}: {counts} images in {origin}")
    return SourceData(
        config.dataset, splits, list(family.classes), {"found": origin, "files": files}
    )


def _arrays(arrays: dict[str, np.ndarray], split: str, family: Family, origin: str) -> Arrays:
    images, labels = arrays[f"{split}-images"], arrays[f"{split}-labels"]
    if images.ndim != 3 or labels.ndim != 1 or len(images) != len(labels):
        raise UserError(
            f"{origin}: {split} images {images.shape} and labels {labels.shape} do not match"
        )
    if family.transposed:
        images = np.ascontiguousarray(images.transpose(0, 2, 1))
    labels = labels.astype(np.int64) - family.first_label
    if len(labels) and not 0 <= labels.min() <= labels.max() < len(family.classes):
        raise UserError(f"{origin}: {split} labels lie outside the {len(family.classes)} classes")
    return Arrays(images[:, None], labels, np.arange(len(labels), dtype=np.int64))


Found = tuple[dict[str, np.ndarray], str, dict[str, dict[str, Any]]]


def _find(config: SourceConfig, family: Family, progress: Progress) -> Found:
    if config.source is not None:
        folder = config.path
        found = _read_folder(folder, family, config.check_sums)
        if found is None:
            if kind := kind_of(folder):
                raise UserError(
                    f"--source {config.source}: --dataset {config.dataset} reads "
                    f"{family.files[0].name} and the like, of which none is there; Fix: --dataset {kind}"
                )
            raise UserError(
                f"--source {config.source}: {_missing(folder, family)}; "
                f"need {', '.join(f.name for f in family.files)} (or .gz)"
            )
        return found
    kept = download_folder(config) / _folder_name(config.dataset)
    for folder in [*map(Path, family.folders), kept]:
        try:
            found = _read_folder(folder, family, config.check_sums)
        except UserError as error:
            progress.say(f"passed over a bad copy: {error}")
            continue
        if found is not None:
            return found
    if not config.download:
        raise UserError(_not_found(config, family, "downloading is off (--download False)"))
    try:
        _download(config, family, kept, progress)
    except DownloadError as error:
        raise UserError(_not_found(config, family, f"the download failed: {error}")) from error
    found = _read_folder(kept, family, config.check_sums)
    if found is None:
        raise UserError(f"{kept}: {_missing(kept, family)} in what was downloaded")
    return found


def _folder_name(dataset: str) -> str:
    return dataset.split("-")[0]  # both EMNIST sets lie in one archive


def _not_found(config: SourceConfig, family: Family, download_result: str) -> str:
    package = "; on Debian: apt install dataset-fashion-mnist" if config.dataset == "fmnist" else ""
    return (
        f"{config.dataset} not found: no --source DIR was given, no copy lies in "
        f"{' or '.join(family.folders)}, and {download_result}. Fix: give --source DIR with "
        f"{family.files[0].name} and the three files beside it (.gz or not){package}"
    )


def _candidates(folder: Path, family: Family, file: RawFile) -> Iterator[Path]:
    """Where a raw file may lie: in the folder, or below it as torchvision or NIST put it."""
    for place in (folder, folder / "raw", folder / family.torchvision / "raw", folder / "gzip"):
        for name in (file.name + ".gz", file.name):
            yield place / name
            yield place / name.replace("-idx", ".idx")  # as some copies spell it


def _path_of(folder: Path, family: Family, file: RawFile) -> Path | None:
    return next((p for p in _candidates(folder, family, file) if p.is_file()), None)


def _missing(folder: Path, family: Family) -> str:
    if not folder.is_dir():
        return "no such folder"
    return "no " + ", ".join(f.name for f in family.files if _path_of(folder, family, f) is None)


def _read_folder(folder: Path, family: Family, check: bool) -> Found | None:
    """Contents by role, where they were, and each file's sums; None unless all are there."""
    paths = {file.name: _path_of(folder, family, file) for file in family.files}
    archive = folder / family.archive if family.archive and folder.is_dir() else folder
    zipped = None
    if any(path is None for path in paths.values()):
        if family.archive is None or not archive.is_file():
            return None
        zipped = archive
    arrays: dict[str, np.ndarray] = {}
    files: dict[str, dict[str, Any]] = {}
    for role, file in zip(ROLES, family.files, strict=True):
        path = zipped or paths[file.name]
        assert path is not None
        member = file.name + ".gz" if zipped else None
        where = f"{path}/{member}" if member else f"{path}"
        arrays[role], files[file.name] = _checked(partial(_open, path, member), file, where, check)
    return arrays, str(zipped or folder), files


@contextmanager
def _open(path: Path, member: str | None) -> Iterator[tuple[IO[bytes], int]]:
    """A raw file, or the member of that name of a zip file, and how many bytes it has."""
    if member is None:
        with files_of_user(f"{path}: cannot be read"), open(path, "rb") as file:
            yield file, os.fstat(file.fileno()).st_size
        return
    try:
        with zipfile.ZipFile(path) as packed:
            inner = next((i for i in packed.infolist() if i.filename.endswith("/" + member)), None)
            inner = inner or next((i for i in packed.infolist() if i.filename == member), None)
            if inner is None:
                raise UserError(f"{path}: no {member} in it")
            with packed.open(inner) as file:
                yield file, min(inner.file_size, path.stat().st_size)
    except _ZIP_FAULTS as error:
        raise UserError(f"{path}: damaged zip file ({error}); fetch it again") from error


Opened = Callable[[], AbstractContextManager[tuple[IO[bytes], int]]]


def _checked(
    opened: Opened, file: RawFile, where: str, check: bool
) -> tuple[np.ndarray, dict[str, Any]]:
    """Array of a raw file and how the file was checked."""
    with opened() as (content, size):
        packed = content.read(2) == GZIP_MAGIC
    if packed and file.packed is not None and file.content is None:
        with opened() as (content, size):
            packed_sum = hashlib.file_digest(content, "sha256").hexdigest()  # type: ignore[arg-type]
        if check and packed_sum != file.packed:
            raise UserError(_wrong_sum(where, file.name, packed_sum, file.packed))
        with opened() as (content, size):
            return read_idx(content, size, where)[0], {
                "sha256_packed": packed_sum,
                "checked": check,
            }
    with opened() as (content, size):
        array, found = read_idx(content, size, where)
    if check and file.content is not None and found != file.content:
        raise UserError(_wrong_sum(where, file.name, found, file.content))
    return array, {"sha256": found, "checked": check and file.content is not None}


def _wrong_sum(where: str, name: str, found: str, expected: str) -> str:
    return (
        f"{where}: {name} has SHA-256 {found[:12]}…, the published file {expected[:12]}…; "
        "fetch it again, or give --check-sums False if this is another set on purpose"
    )


def _download(config: SourceConfig, family: Family, folder: Path, progress: Progress) -> None:
    """Fetch every raw file of a family into `folder`."""
    import torchvision.datasets

    known = getattr(torchvision.datasets, family.torchvision)
    own = [config.mirror] if config.mirror else []
    if family.archive is not None:
        base, _, name = known.url.rpartition("/")
        progress.say(f"{config.dataset}: downloading {name} (about 560 MB)")
        fault = partial(_archive_fault, family=family, md5=known.md5, check=config.check_sums)
        download(name, [*own, base], folder / family.archive, fault, config, progress)
        return
    mirrors = [*own, *known.mirrors, *family.mirrors]
    md5_of = dict(known.resources)
    for file in family.files:
        name = file.name + ".gz"
        fault = partial(_raw_fault, file=file, md5=md5_of[name], check=config.check_sums)
        download(name, mirrors, folder / name, fault, config, progress)


def _archive_fault(path: Path, family: Family, md5: str, check: bool) -> str | None:
    """What is wrong with a downloaded archive, or None."""
    if check and family.archive_packed is not None:
        return sum_fault(path, "md5", md5) or sum_fault(path, "sha256", family.archive_packed)
    return None if zipfile.is_zipfile(path) else "not a zip file"


def _raw_fault(path: Path, file: RawFile, md5: str, check: bool) -> str | None:
    """What is wrong with a downloaded raw file, or None."""
    if check and file.packed is not None:
        return sum_fault(path, "md5", md5) or sum_fault(path, "sha256", file.packed)
    try:
        _checked(partial(_open, path, None), file, path.name, check)
    except UserError as error:
        return str(error)
    return None
