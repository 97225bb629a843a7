"""Index files in webdataset's wids format, by which other programs open the shards at random."""

from __future__ import annotations

import json

from data_pipeline.folder.manifest import Manifest


def wids_indexes(manifest: Manifest) -> dict[str, str]:
    """Names and texts of the index files in webdataset's wids format, one a split."""
    indexes = {}
    for name, split in manifest.splits.items():
        blocks = [len(shard.offsets) - 1 for shard in split.shards]
        samples = blocks if manifest.layout == "block" else [s.count for s in split.shards]
        record = {
            "__kind__": "wids-shard-index-v1",
            "wids_version": 1,
            "name": f"{manifest.name}-{name}",
            "shardlist": [
                {"url": shard.name, "nsamples": count, "filesize": shard.bytes}
                for shard, count in zip(split.shards, samples, strict=True)
            ],
        }
        indexes[f"{name}.wids.json"] = json.dumps(record, indent=1, sort_keys=True) + "\n"
    return indexes
