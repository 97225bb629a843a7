"""Other people's webdatasets: tar files in which a sample is the members of one name."""

from __future__ import annotations

import json
import tarfile
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from data_pipeline.errors import UserError
from data_pipeline.progress import Progress
from data_pipeline.remote.transfer import sha256_of
from data_pipeline.sources.base import SourceConfig, SourceData
from data_pipeline.sources.images import Stored
from data_pipeline.sources.names import shown
from data_pipeline.sources.parquet import part_of
from data_pipeline.sources.pictures import Found, Picture, load_pictures
from data_pipeline.sources.walk import Walk

IMAGES = ("png", "jpg", "jpeg", "webp", "ppm", "pgm", "bmp", "gif", "tif", "tiff", "jp2", "avif")
LABELS = ("cls", "cls.txt", "label", "label.txt", "cls.json", "json")
KEYS = ("label", "cls", "class", "class_name", "target", "category")
PICKLES = ("pyd", "pickle", "pkl", "pth", "pt")
_LARGEST_LABEL = 1 << 20
_LARGEST_IMAGE = 1 << 28


@dataclass
class _Sample:
    place: str
    part: str
    members: dict[str, Stored] = field(default_factory=dict)


def load_webdataset(config: SourceConfig, progress: Progress) -> SourceData:
    """Read tar files: one, or all in a folder.

    ``KEY.png`` and ``KEY.cls`` are the image and the label of a sample; which members they
    are is given by ``--image-field`` and ``--label-field``, or guessed and said. Splits are
    told from the names of the files. Nothing is unpickled.

    Raises
    ------
    UserError
        If a tar is damaged or packed, or if no member is an image.
    """
    root = config.path
    walk = Walk(root if root.is_dir() else root.parent)
    places = list(walk.files()) if root.is_dir() else [root.name]
    files = [place for place in places if place.lower().endswith(".tar")]
    if not files or not (root.is_dir() or root.is_file()):
        raise UserError(
            f"--source {config.source}: no .tar file there (.tar.gz must be unpacked to .tar)"
        )
    samples: list[_Sample] = []
    counts: Counter[str] = Counter()
    for place in files:
        for sample in _samples(walk.root / place, place):
            samples.append(sample)
            counts.update(sample.members.keys())
    image = _member(counts, config.image_field, IMAGES)
    if image is None:
        names = ", ".join(shown(name) for name, _ in counts.most_common(10))
        raise UserError(
            f"--source {config.source}: members are {names or 'none'}; none is known as an "
            "image: --image-field names it"
        )
    label, key = _label_member(counts, config)
    of = f"{label}" + (f", key {key}" if key else "")
    progress.say(f"images are the members {shown(image)}, labels {shown(of) if label else 'none'}")
    unread = sum(counts[name] for name in counts if name.rsplit(".", 1)[-1] in PICKLES)
    if unread:
        progress.say(f"{unread:,} pickled members are never read")
    pictures, passed = [], [(shown(p), "no tar file") for p in places if p not in files]
    for sample in samples:
        if image not in sample.members:
            passed.append((shown(sample.place), f"a sample without {shown(image)}"))
            continue
        word = _label(sample, label, key) if label else None
        pictures.append(Picture(sample.place, sample.part, word, sample.members[image]))
    if key and not any(picture.label for picture in pictures):
        raise UserError(
            f"--label-field {config.label_field}: no {label} member has a label at {key}; "
            "name a key of the outermost object"
        )
    found = Found(
        name=shown(root.resolve().stem if root.is_file() else root.resolve().name),
        where=shown(str(root.resolve())),
        pictures=pictures,
        passed=passed,
        facts={
            "files": {shown(place): sha256_of(walk.root / place) for place in files},
            "members": [shown(image), shown(of) if label else None],
        },
    )
    return load_pictures(found, config, progress)


def _samples(path: Path, place: str) -> Iterator[_Sample]:
    """Samples of a tar, in its order: members beside each other whose names begin alike."""
    sample: _Sample | None = None
    part = part_of(place)
    try:
        with tarfile.open(path, "r:") as tar:
            for member in tar:
                tar.members = []  # type: ignore[attr-defined]  # else it keeps all of them
                if not member.isreg() or member.issparse():
                    continue
                folder, _, name = member.name.rpartition("/")
                stem, _, suffix = name.partition(".")
                if not stem or not suffix:
                    continue
                key = f"{place}/{folder}/{stem}" if folder else f"{place}/{stem}"
                if sample is None or sample.place != key:
                    if sample is not None:
                        yield sample
                    sample = _Sample(key, part)
                size = min(member.size, _LARGEST_IMAGE)
                sample.members[suffix.lower()] = Stored(path, member.offset_data, size)
    except (tarfile.TarError, ValueError, EOFError) as error:
        raise UserError(f"{shown(str(path))}: damaged tar ({error}); fetch it again") from error
    if sample is not None:
        yield sample


def _member(counts: Counter[str], asked: str | None, usual: Sequence[str]) -> str | None:
    if asked is not None:
        if asked.lower().lstrip(".") not in counts:
            raise UserError(f"--image-field {asked}: no sample has such a member")
        return asked.lower().lstrip(".")
    known = [name for name in counts if name in usual or name.rsplit(".", 1)[-1] in usual]
    return max(known, key=lambda name: (counts[name], name), default=None)


def _label_member(counts: Counter[str], config: SourceConfig) -> tuple[str | None, str | None]:
    """The member that holds labels and, of JSON, the key; None where there is none."""
    if config.label_field is not None:
        name, _, key = config.label_field.partition(":")
        name = name.lower().lstrip(".")  # members are matched so; keys of JSON are not
        if name not in counts:
            raise UserError(f"--label-field {config.label_field}: no sample has such a member")
        return name, key or None
    return next((name for name in LABELS if name in counts), None), None


def _label(sample: _Sample, member: str, key: str | None) -> str | None:
    stored = sample.members.get(member)
    if stored is None:
        return None
    if stored.size > _LARGEST_LABEL:
        raise UserError(f"{shown(sample.place)}.{member}: {stored.size:,} bytes are no label")
    with stored.open() as file:
        text = file.read().decode("utf-8", "backslashreplace").strip()
    if member.endswith("json"):
        try:
            value = json.loads(text)
        except (ValueError, RecursionError) as error:
            raise UserError(f"{shown(sample.place)}.{member}: no JSON ({error})") from error
        if isinstance(value, dict):
            keys = [key] if key else [name for name in KEYS if name in value]
            value = value.get(keys[0]) if keys else None
        text = "" if value is None or isinstance(value, dict | list) else str(value)
    return None if text in ("", "-1") else shown(text)
