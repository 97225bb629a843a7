"""A run belongs to its data: what it says of them, and whether a folder holds the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data_pipeline.errors import UserError
from data_pipeline.folder import DataFolder
from data_pipeline.folder.manifest import Manifest
from data_pipeline.records import read_json
from data_pipeline.redact import shown
from vae_dist.run.checkpoint import read_meta

FLAG = "--allow-other-data True"


def describe_data(data: DataFolder) -> dict[str, Any]:
    """What ``config.json`` and each checkpoint say of the data under ``data``.

    ``fingerprint`` is of the shards. ``source`` is a hash of what the images are, ``split`` says
    which of them are train, val and test, and ``content`` is a hash of both: two folders of one
    ``content`` hold the same images in the same splits, whatever their shards and layout. Both
    hashes are empty where the folder does not say where its images came from. ``dtype`` and
    ``scale`` say what the stored values mean, ``types`` which values of the source's types were
    black and white.
    """
    manifest = data.manifest
    return {
        "path": shown(data.path),
        "name": manifest.name,
        "fingerprint": manifest.fingerprint,
        "mean": list(manifest.mean),
        "std": list(manifest.std),
        "dtype": manifest.dtype,
        "scale": None if manifest.scale is None else list(manifest.scale),
        "types": dict(manifest.provenance.get("source", {}).get("types") or {}),
        **_identity(manifest),
    }


def check_data(run: str, trained_on: Mapping[str, Any], data: DataFolder, *, allow: bool) -> str:
    """Refuse data that a run does not belong to: the one rule of all commands.

    Parameters
    ----------
    run : str
        Names the run in messages.
    trained_on : mapping
        `describe_data` of the run's training, out of its ``config.json``.
    data : DataFolder
        What the run is about to be used on.
    allow : bool
        Use it all the same (``--allow-other-data``).

    Returns
    -------
    str
        Empty for the data it was trained on. Otherwise one line that is to be printed, and that
        stands in what is written: other data were allowed, or the run does not say what it was
        trained on (an old run; a checkpoint of the 2018 program).

    Raises
    ------
    UserError
        For another split of the same images, or for other images, unless allowed.
    """
    if not trained_on.get("fingerprint"):
        return f"{run}: does not say which images it was trained on, so that was not checked"
    here = describe_data(data)
    if _same(trained_on, here):
        former = trained_on.get("former") or []
        if not former:
            return ""
        return f"{run}: was trained on other data before: {'; '.join(map(_told, former))}"
    kind = "other images"
    if here["source"] and here["source"] == trained_on.get("source"):
        kind = "another split of the same images"
    what = f"{run}: was trained on {_told(trained_on)}; {_told(here)} is {kind}"
    danger = "images it was trained on may count as validation or test images"
    if allow:
        return f"{what}: {danger} (allowed by {FLAG})"
    raise UserError(f"{what}, and {danger}; give the --data it was trained on, or {FLAG}")


def data_of(checkpoint: Path) -> dict[str, Any]:
    """What a checkpoint folder was trained on; of an old one what its run's ``config.json`` says.

    The run may have gone on with other data since, so the checkpoint's own word comes first.
    """
    if recorded := read_meta(checkpoint).data:
        return dict(recorded)
    config = checkpoint.parent.parent / "config.json"
    return dict(read_json(config).get("data") or {}) if config.is_file() else {}


def continue_on(trained_on: Mapping[str, Any], data: DataFolder) -> dict[str, Any]:
    """`describe_data` of a run that goes on, with what it was trained on before as ``former``."""
    here = describe_data(data)
    former = [dict(one) for one in trained_on.get("former") or []]
    if trained_on.get("fingerprint") and not _same(trained_on, here):
        former.append({k: v for k, v in trained_on.items() if k not in ("former", "mean", "std")})
    return here | ({"former": former} if former else {})


def _same(one: Mapping[str, Any], other: Mapping[str, Any]) -> bool:
    alike = bool(one.get("content")) and one.get("content") == other.get("content")
    return alike or one["fingerprint"] == other["fingerprint"]


def _told(record: Mapping[str, Any]) -> str:
    split = record.get("split") or {}
    facts = [f"fingerprint {str(record['fingerprint'])[:12]}"]
    if "fold" in split and "folds" in split:
        facts.append(f"val is fold {split['fold']} of {split['folds']}")
    if split.get("test_fraction") is not None:
        facts.append(f"test fraction {split['test_fraction']}")
    return f"{record.get('name', 'data')} in {record.get('path', '?')} ({', '.join(facts)})"


def _identity(manifest: Manifest) -> dict[str, Any]:
    source = dict(manifest.provenance.get("source") or {})
    settings = manifest.provenance.get("settings") or {}
    names = ("folds", "fold", "stratify", "split_seed", "test_fraction")
    split = {name: settings[name] for name in names if name in settings}
    if "test_fraction" in source:
        split["test_fraction"] = source.pop("test_fraction")
    source.pop("found", None)  # the same images found in another place are the same
    source.pop("types", None)  # says what "pixels" says
    if not source:
        return {"source": "", "split": split, "content": ""}
    images = _hash([manifest.name, manifest.image_shape, manifest.classes, source])
    counts = {name: [one.count, one.class_counts] for name, one in manifest.splits.items()}
    # The means are exact sums over the train images: other pixels or rows give others.
    facts = [images, split, counts, manifest.mean, manifest.std]
    if not manifest.values.are_bytes:
        facts.append([manifest.dtype, manifest.scale])
    return {"source": images, "split": split, "content": _hash(facts)}


def _hash(facts: Any) -> str:
    return hashlib.sha256(json.dumps(facts, sort_keys=True, default=str).encode()).hexdigest()
