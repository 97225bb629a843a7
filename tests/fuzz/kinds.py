"""Every kind of file that the program reads: how it is damaged, and how it is read."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import hashlib
import importlib
import itertools
import json
import shutil
import tempfile
import zlib
from collections.abc import Callable
from pathlib import Path
from random import Random

from data_pipeline.errors import UserError
from tests.fuzz import mutate
from tests.fuzz.bases import CACHED, CACHED_ARRAY, TRAINING, flags, serve
from vae_dist.train.readings import NonFiniteLoss

Mutation = Callable[[Random, bytes], bytes]


@dataclasses.dataclass(frozen=True)
class Kind:
    """A kind of file.

    Attributes
    ----------
    base : str
        Folder of `bases` that holds a whole one.
    file : str
        Path of the file in it.
    read : callable
        Reads it as the commands do, in the current folder; what it gives is compared.
    mutations : tuple of callables
        How it is damaged; by bits always.
    repair : callable, optional
        Makes sums and sizes right again after the damage; done for every other input.
    exact : bool
        Whether a damage that is not repaired must show: it reads as before, or is refused.
    slow : callable, optional
        Reads it by a whole command; for one input in `every`.
    """

    base: str
    file: str
    read: Callable[[], object]
    mutations: tuple[Mutation, ...] = ()
    repair: Callable[[Path], None] | None = None
    exact: bool = False
    slow: Callable[[], object] | None = None
    every: int = 20


def each(*reads: Callable[[], object]) -> list[object]:
    """What several readers give; if one refuses, the others are tried before that is told."""
    given: list[object] = []
    refused: UserError | None = None
    for read in reads:
        try:
            given.append(read())
        except UserError as error:
            refused = refused or error
    if refused is not None:
        raise refused
    return given


def command(*words: object) -> int:
    """A command in this process; its exceptions come through."""
    from launch.cli import MODULES

    name, *rest = map(str, words)
    return importlib.import_module(f"launch.{MODULES.get(name, name)}").main(rest)


def digest(*arrays: object) -> str:
    """Of the bytes of arrays."""
    found = hashlib.sha256()
    for array in arrays:
        found.update(memoryview(array).cast("B"))  # type: ignore[arg-type]
    return found.hexdigest()


# Data folders


def read_data() -> object:
    def whole() -> object:
        from data_pipeline.folder.opening import open_data

        data = open_data("data")
        given = {}
        for split in data.manifest.splits:
            arrays = data.arrays(split)
            classes = data.manifest.num_classes
            assert not classes or (arrays.labels < classes).all(), "a label beyond the classes"
            given[split] = digest(*arrays)
        return given

    return each(whole, stream, lambda: verify("data"), lambda: inspect("data"))


def verify(folder: str) -> object:
    from data_pipeline.folder.verify import verify as find_faults

    return bool(find_faults(folder))


def inspect(folder: str) -> object:
    from data_pipeline.folder.describe import inspect as describe
    from launch.inspect_folder import _lines

    record = describe(folder) | {"picture": None}
    return len([json.dumps(record), *_lines(record)]) > 0


def stream() -> object:
    from data_pipeline.folder.opening import open_data
    from data_pipeline.load.config import LoaderConfig
    from data_pipeline.load.loader import make_loader
    from data_pipeline.order import World

    config = LoaderConfig(loader="stream")
    loader = make_loader(open_data("data"), "train", config, World(), batch_size=16, seed=1)
    return [digest(b.images.numpy(), b.labels.numpy()) for b in loader.batches(0, 0)]


def repair_shards(folder: Path) -> None:
    """Let the manifest say of each shard what it is."""
    path = folder / "data" / "manifest.json"
    manifest = json.loads(path.read_text())
    digest = hashlib.sha256()
    for name, split in sorted(manifest["splits"].items()):
        for shard in split["shards"]:
            content = (folder / "data" / shard["name"]).read_bytes()
            cuts = [min(cut, len(content)) for cut in shard["offsets"]]
            sums = [zlib.crc32(content[a:b]) for a, b in itertools.pairwise(cuts)]
            shard |= {"bytes": len(content), "offsets": cuts, "crc32": sums}
            shard["sha256"] = hashlib.sha256(content).hexdigest()
            digest.update(f"{name} {shard['name']} {shard['sha256']}\n".encode())
    path.write_text(json.dumps(manifest | {"fingerprint": digest.hexdigest()}))
    repair_manifest(folder)


def repair_manifest(folder: Path) -> None:
    """Make the manifest's checksum right, where its structure lets one be made."""
    from data_pipeline.folder.manifest_file import checksum_of

    path = folder / "data" / "manifest.json"
    with contextlib.suppress(ValueError, RecursionError):
        manifest = json.loads(path.read_bytes())
        if isinstance(manifest, dict):
            path.write_text(json.dumps(manifest | {"checksum": checksum_of(manifest)}))


def read_remote() -> object:
    """Read a folder at an address whose cache holds an object and its record."""
    from data_pipeline.folder.opening import open_data
    from data_pipeline.load.loader import LoaderConfig

    serve(Path("data"))
    kept = Path(tempfile.mkdtemp(dir="."))
    data = open_data("memory://data", config=LoaderConfig(cache_dir=kept))
    shard = data.manifest.split("train").shards[0]
    for name, ending in (("object", ""), ("record", ".json")):
        shutil.copyfile(Path("cache") / name, kept / f"{shard.sha256}{ending}")
    return digest(*data.arrays("train"))


def read_latents(name: str) -> object:
    from vae_dist.encode.latents import LatentRows

    rows = LatentRows(Path(name))
    return rows.shape


# Runs


def read_run() -> object:
    from vae_dist.run.load import load_run

    run = load_run("run")
    last = load_run("run", which="last")
    return [
        digest(*(v.contiguous().numpy() for v in r.objective.state_dict().values()))
        for r in (run, last)
    ]


def resume() -> object:
    more = {"data": "data", "runs_dir": ".", "name": "run", "resume": "auto", "epochs": 3}
    try:
        return command("train", *flags(TRAINING | more))
    except NonFiniteLoss:  # other weights under a right hash: read rightly, they just do not train
        return None


def monitor() -> object:
    from launch.monitor.command import show
    from launch.monitor.reader import RunReader

    run = RunReader(Path("run"))
    run.update()
    show(run)
    return None


def repair_run(folder: Path) -> None:
    """Let ``meta.json`` hold the sums of the files beside it."""
    for meta in (folder / "run" / "checkpoints").glob("step-*/meta.json"):
        record = json.loads(meta.read_text())
        for name in record["sha256"]:
            record["sha256"][name] = hashlib.sha256((meta.parent / name).read_bytes()).hexdigest()
        meta.write_text(json.dumps(record))


def read_article2018(name: str) -> object:
    from vae_dist.run.load import load_run

    run = load_run(name)
    return digest(*(v.contiguous().numpy() for v in run.objective.model.state_dict().values()))


# Evaluations


def read_evaluation() -> object:
    from evaluation.report import tables
    from evaluation.results.files import read_results
    from evaluation.results.folder import Folder
    from evaluation.training import metrics_of, thinned, training_seconds
    from launch.evaluate import print_table, summary

    def curves() -> object:
        records = metrics_of(Path("run"))
        return thinned(records), training_seconds(records, 10, 64)

    def results() -> object:
        found = read_results(Path("eval"))
        print_table(found)
        json.dumps(summary(found))
        for table in (tables.run_table, tables.seed_table, tables.stage_table, tables.record_table, tables.made):  # fmt: skip
            table(found)
        return None

    def parts() -> object:
        folder = Folder(Path("eval"))
        _ = folder.curves, folder.labels, folder.artifacts, folder.maps(), folder.compared()
        for table in (tables.headline, tables.structure_table, tables.reconstruction_table):
            table(folder)
        return None

    return each(results, parts, curves)


def write_report() -> object:
    from evaluation.figures import write_figures
    from evaluation.report import write_report as write
    from evaluation.report.projector import write_projector

    out = Path("eval")
    return each(
        lambda: write_figures(out),
        lambda: write(out),
        lambda: write_projector(out, Path("projector")),
    )


def read_embedding() -> object:
    from evaluation.results.files import read_results
    from evaluation.results.layout import read_embedding as read

    return digest(*read(Path("eval/embeddings/pca-2.npz"), read_results(Path("eval")), 2).values())


def read_cache() -> object:
    """What the cache gives; a damaged file it must not believe."""
    from evaluation.cache import Cache

    cache = Cache(Path("cache"))
    record, arrays = cache.record("knn", "k" * 32), cache.arrays("pca", "k" * 32)
    assert record in (None, CACHED), f"the cache gave {record}"
    assert arrays is None or digest(arrays["train"]) == digest(CACHED_ARRAY), f"gave {arrays}"
    return None


def prepare(dataset: str, source: str, **more: object) -> object:
    from data_pipeline.progress import Silent
    from data_pipeline.sources import SourceConfig
    from data_pipeline.write.config import PrepareConfig
    from launch.prepare import prepare_folder, summary

    config = PrepareConfig(out=Path("out"), writers=1, folds=2)
    manifest, _ = prepare_folder(
        SourceConfig(dataset=dataset, source=Path(source), **more), config, Silent()
    )
    summary(manifest, Path("out"))
    assert not verify("out"), "prepared a folder that verify finds fault with"
    return None


def idx() -> object:
    return prepare("mnist", ".", check_sums=False)


def pictures() -> object:
    return prepare("folder", ".", image_size=8)


def parse_settings() -> object:
    from launch.config import parse
    from launch.train import ModeConfig, TrainingDataConfig
    from vae_dist.train.settings import Settings

    owners = [f.default_factory for f in dataclasses.fields(Settings)]
    parsed = parse(
        "train", [TrainingDataConfig, ModeConfig, *owners], ["--config", "settings.toml"]
    )
    Settings(**dict(zip([f.name for f in dataclasses.fields(Settings)], parsed[2:], strict=True)))
    return None


STEP = "run/checkpoints/step-00000004"
IDX_FILES = ("train-images-idx3-ubyte", "t10k-labels-idx1-ubyte")

_data = functools.partial(Kind, read=read_data)
_run = functools.partial(Kind, "run", read=read_run, slow=resume)
_eval = functools.partial(Kind, "evaluation", read=read_evaluation, slow=write_report, every=400)

KINDS: dict[str, Kind] = {
    "manifest.json": _data("block", "data/manifest.json", mutations=(mutate.json_tree,) * 3, repair=repair_manifest),
    "shard, block": _data("block", "data/train-000000.tar", mutations=(mutate.tar,), repair=repair_shards, exact=True),
    "shard, sample": _data("sample", "data/train-000000.tar", mutations=(mutate.tar,), repair=repair_shards, exact=True),
    "wids.json": _data("block", "data/train.wids.json", mutations=(mutate.json_tree,)),
    "fetched shard": Kind("remote", "cache/object", read_remote, exact=True),
    "record of a fetched shard": Kind("remote", "cache/record", read_remote, (mutate.json_tree,) * 2, exact=True),
    "latents.npz": Kind("latents", "latents.npz", lambda: read_latents("latents.npz"), (mutate.archive,) * 2),
    "latents.npy": Kind("latents", "latents.npy", lambda: read_latents("latents.npy"), (mutate.npy_head,)),
    "config.json": _run("run/config.json", mutations=(mutate.json_tree,) * 3),
    "meta.json": _run(f"{STEP}/meta.json", mutations=(mutate.json_tree,) * 3),
    "model.safetensors": _run(f"{STEP}/model.safetensors", mutations=(mutate.safetensors,), repair=repair_run, exact=True),
    "trainer.pt": _run(f"{STEP}/trainer.pt", mutations=(mutate.archive,), repair=repair_run, exact=True),
    "status.json": Kind("run", "run/status.json", monitor, (mutate.json_tree,) * 3, slow=resume),
    "environment.json": Kind("run", "run/environment.json", monitor, (mutate.json_tree,), slow=resume),
    "metrics.jsonl": Kind("run", "run/metrics.jsonl", monitor, (mutate.lines,) * 3, slow=resume),
    "telemetry.jsonl": Kind("run", "run/telemetry.jsonl", monitor, (mutate.lines,) * 3, slow=resume),
    "results.json": _eval("eval/results.json", mutations=(mutate.json_tree,) * 4),
    "curves": _eval("run/metrics.jsonl", mutations=(mutate.lines,) * 3),
    "labels.npz": _eval("eval/embeddings/labels.npz", mutations=(mutate.archive,) * 2),
    "embedding.npz": Kind("evaluation", "eval/embeddings/pca-2.npz", read_embedding, (mutate.archive,) * 2),
    "artifacts.npz": _eval("eval/artifacts.npz", mutations=(mutate.archive,) * 2),
    "cache record": Kind("evaluation", f"cache/knn-{'k' * 32}.json", read_cache, (mutate.json_tree,) * 2),
    "cache array": Kind("evaluation", f"cache/pca-{'k' * 32}.npz", read_cache, (mutate.archive,)),
    "article2018, zip": Kind("article2018", "new.pth.tar", lambda: read_article2018("new.pth.tar"), (mutate.archive,)),
    "article2018, legacy": Kind("article2018", "old.pth.tar", lambda: read_article2018("old.pth.tar")),
    "settings.toml": Kind("settings", "settings.toml", parse_settings, (mutate.toml,) * 5),
    "npz": Kind("arrays", "set.npz", lambda: prepare("npz", "set.npz"), (mutate.archive,) * 3),
    "npy": Kind("arrays", "images.npy", lambda: prepare("npz", "."), (mutate.npy_head,)),
    "idx": Kind("idx", IDX_FILES[0], idx, (mutate.idx,)),
    "idx labels": Kind("idx", IDX_FILES[1], idx, (mutate.idx,)),
    "idx.gz": Kind("idx-gz", f"{IDX_FILES[0]}.gz", idx, (mutate.gz(mutate.idx), mutate.gz(mutate.bits))),
    "png": Kind("pictures", "cat/victim.png", pictures, (mutate.png,) * 3),
}  # fmt: skip
for ending in ("jpg", "gif", "bmp", "tif", "webp"):
    KINDS[ending] = Kind("pictures", f"cat/victim.{ending}", KINDS["png"].read)
