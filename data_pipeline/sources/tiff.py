"""TIFF files of any number of channels, pages and bits, by tifffile (extra ``tiff``)."""

from __future__ import annotations

from dataclasses import replace

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.folder import find_folder
from data_pipeline.sources.images import Stored
from data_pipeline.sources.names import shown
from data_pipeline.sources.pictures import Found, Picture, load_pictures
from data_pipeline.sources.tiff_files import images_of, reader


def load_tiff(config: SourceConfig, progress: Progress) -> SourceData:
    """Read a folder of TIFF files as `load_folder` does, or one file that is a stack of images.

    The axes are those that the file names (OME, ImageJ) or that its pages make: Y and X are
    the image, C and S its channels, every other axis (pages, time, depth, position) counts
    images.

    Raises
    ------
    UserError
        If tifffile is missing, or as `load_pictures` says.
    """
    reader()
    root = config.path
    if root.is_dir():
        found = find_folder(config, progress)
        files = found.pictures
    elif root.is_file():
        files = [Picture(root.name, "all", None, Stored(root))]
        name, where = shown(root.resolve().stem), shown(str(root.resolve()))
        found = Found(name=name, where=where, pictures=files, passed=[])
    else:
        raise UserError(f"--source {config.source}: no such file or folder")
    pictures: list[Picture] = []
    passed = list(found.passed)
    for file in files:
        try:
            count = images_of(file.stored.path)
        except UserError as error:
            passed.append((shown(file.place), str(error)))
            continue
        for page in range(count):
            place = f"{file.place}/{page}" if count > 1 else file.place
            stored = Stored(file.stored.path, page=page, kind="tiff")
            pictures.append(Picture(place, file.part, file.label, stored))
    several = len(pictures) - len(files)
    if several > 0:
        progress.say(f"{len(pictures):,} images in {len(files):,} files: pages count as images")
    facts = {**found.facts, "reader": "tifffile"}
    whole = replace(found, pictures=pictures, passed=passed, facts=facts)
    return load_pictures(whole, config, progress)
