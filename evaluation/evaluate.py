"""The comparison, whole: latents of the runs, embeddings, figures, pictures, report."""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import tyro

from data_pipeline.folder import DataFolder, open_data
from data_pipeline.order import World
from evaluation.artifacts import Artifacts
from evaluation.backends import CHOICES, Backends
from evaluation.cache import Cache
from evaluation.encode import (
    Images,
    decode_mean,
    describe_run,
    encode_part,
    join_parts,
    run_figures,
)
from evaluation.latents import emptiness, posterior_figures, smoothness
from evaluation.methods import METHODS, Item, Latents, Methods, file_name
from evaluation.protocol import PROTOCOLS, Measure, Points, make_protocol, reference_rows
from evaluation.results import (
    Failure,
    Results,
    Row,
    RunInfo,
    read_arrays,
    write_arrays,
    write_results,
)
from evaluation.stages import Stages
from vae_dist.run_folder import Run, load_run

UNITS = {
    "recon": "nats",
    "recon_mean": "nats",
    "kl": "nats",
    "elbo": "nats",
    "nll": "nats",
    "psnr": "dB",
}


@dataclass(kw_only=True)
class EvaluateConfig:
    """The comparison: which runs, on which images, by which protocol."""

    runs: tuple[Path, ...] = ()
    """Run folders, checkpoint folders or .pth.tar files of the 2018 program."""
    data: str | None = None
    """The data folder: a path or a URL."""
    out: Path | None = None
    """Folder to write to (eval/NAME of the data set if left out)."""
    protocol: str = "quick"
    """quick, seed or full: what is measured (docs/evaluation.md)."""
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
        if self.protocol not in PROTOCOLS:
            raise ValueError(f"--protocol {self.protocol}: expected {', '.join(PROTOCOLS)}")
        if self.backend not in CHOICES:
            raise ValueError(f"--backend {self.backend}: expected {', '.join(CHOICES)}")
        if self.which not in ("best", "last"):
            raise ValueError(f"--which {self.which}: expected best or last")
        unknown = sorted(set(self.methods) - set(METHODS))
        if unknown:
            raise ValueError(f"--methods {unknown[0]}: expected some of {', '.join(METHODS)}")
        if not self.dims or min(self.dims) < 1:
            raise ValueError(f"--dims {' '.join(map(str, self.dims))}: must be 1 or more")
        if self.repeats < 1:
            raise ValueError(f"--repeats {self.repeats}: must be 1 or more")
        if self.nll_images < 1:
            raise ValueError(f"--nll-images {self.nll_images}: must be 1 or more")
        if not self.methods:
            full = self.protocol == "full"
            self.methods = METHODS if full else ("pca", "umap", "vae")
        if self.nll_samples < 0:
            self.nll_samples = 64 if self.protocol == "full" else 0
        self.dims = tuple(sorted(set(self.dims)))


def evaluate(
    config: EvaluateConfig,
    *,
    world: World | None = None,
    device: str = "cpu",
    wait: Callable[[], None] = lambda: None,
    tell: Callable[[str], None] = lambda line: None,
) -> Results | None:
    """Evaluate runs and write the evaluation folder.

    Parameters
    ----------
    config : EvaluateConfig
    world : World, optional
        Processes that encode; all must share the cache folder.
    device : str
        Where models run.
    wait : callable
        Returns when all processes have called it.
    tell : callable
        Given one line at a time on what is done.

    Returns
    -------
    Results or None
        None on processes other than the first.

    Raises
    ------
    ValueError
        If the data or the settings are wrong. A run that cannot be evaluated raises nothing:
        it is listed in ``Results.failed``.
    """
    world = world or World()
    started = time.perf_counter()
    if config.data is None:
        raise ValueError("--data: give a data folder that vae-dist prepare wrote")
    data = open_data(config.data)
    out = config.out or Path("eval") / data.manifest.name
    cache = Cache(config.cache or out.parent / ".cache", fresh=config.fresh)
    splits = read_splits(data)
    # Before anything is encoded: a GPU that was asked for and is missing should cost no time.
    backends = Backends(config.backend if world.rank == 0 else "cpu", tell=tell)
    stages = backends.stages() if world.rank == 0 else Stages()
    encoded, failed = encode_runs(config, splits, data, cache, stages, world, device, wait)
    if world.rank:
        return None
    if backends.asked == "auto" and backends.used == "cpu":
        tell(f"backend cpu: {backends.reason}")
    results = Results(
        dataset=data.manifest.name,
        data_fingerprint=data.manifest.fingerprint,
        image_shape=list(data.manifest.image_shape),
        classes=list(data.manifest.classes),
        counts={name: len(split.images) for name, split in splits.items()},
        protocol=config.protocol,
        seed=config.seed,
        backend=backends.describe(),
        versions=backends.versions(),
        settings=_plain(dataclasses.asdict(config)),
        runs=[info for info, _, _ in encoded],
        failed=failed,
    )
    out.mkdir(parents=True, exist_ok=True)
    _Comparison(config, results, splits, backends, stages, cache, out).carry_out(encoded)
    results.backend = backends.describe()
    results.stages = stages.done
    results.seconds = time.perf_counter() - started
    write_results(out, results)
    if config.report:
        from evaluation.figures import write_figures
        from evaluation.report import write_report

        with stages.stage("report"):
            write_figures(out)
            write_report(out)
        results.seconds = time.perf_counter() - started
        write_results(out, results)
    return results


def read_splits(data: DataFolder) -> dict[str, Images]:
    """All training images, val among them, in the order of the source; and the test images."""
    parts = [data.arrays(name) for name in ("train", "val") if name in data.manifest.splits]
    images, labels, index = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("images", "labels", "index")
    )
    order = np.argsort(index, kind="stable")
    if "test" not in data.manifest.splits:
        raise ValueError(f"{data.path}: has no split 'test' to score on")
    test = data.arrays("test")
    return {
        "train": Images(images[order], labels[order], index[order]),
        "test": Images(test.images, test.labels, test.index),
    }


Encoded = tuple[RunInfo, Run, dict[str, np.ndarray]]


def encode_runs(
    config: EvaluateConfig,
    splits: dict[str, Images],
    data: DataFolder,
    cache: Cache,
    stages: Stages,
    world: World,
    device: str,
    wait: Callable[[], None],
) -> tuple[list[Encoded], list[Failure]]:
    """Latents of each run; the processes share the work, the first one gets the result.

    A run that fails on any process is left out and listed; the others go on.
    """
    encoded: list[Encoded] = []
    failed: list[Failure] = []
    names: set[str] = set()
    for number, path in enumerate(config.runs):
        run, complaint, key, latents = None, None, "", None
        try:
            run = load_run(path, device, config.which)
            settings = [config.seed, config.nll_samples, config.nll_images]
            key = Cache.key(
                "latents", run.content_hash, data.manifest.fingerprint, *settings, device
            )
            latents = cache.arrays("latents", key)
        except Exception as error:
            complaint = _complaint(error)
        wait()  # the same answer from the cache on every process, before anyone adds to it
        part_of = lambda rank: cache.folder / f".part-{number}-{key}-{rank}-{world.size}.npz"  # noqa: B023, E731
        with stages.stage("encode", str(path), "cache" if latents else device) as record:
            if run is not None and latents is None:
                try:
                    part = encode_part(
                        run,
                        splits,
                        world,
                        seed=config.seed,
                        nll_samples=config.nll_samples,
                        nll_images=config.nll_images,
                    )
                    write_arrays(part_of(world.rank), part)
                except Exception as error:
                    complaint = _complaint(error)
            wait()
            if world.rank == 0 and complaint is None and latents is None:
                try:
                    parts = [part_of(rank) for rank in range(world.size)]
                    latents = join_parts([read_arrays(part) for part in parts])
                    cache.keep_arrays("latents", key, latents)
                except Exception as error:
                    complaint = f"a process failed to encode its part ({_complaint(error)})"
            record.note = complaint
        wait()
        if run is not None:
            part_of(world.rank).unlink(missing_ok=True)
        if world.rank:
            continue
        if complaint is not None or run is None or latents is None:
            failed.append(Failure(run=str(path), error=complaint or "not encoded"))
            stages.tell(f"{path}: left out: {complaint}")
            continue
        name = _unique(file_name(run.name), names)
        info = RunInfo(
            name=name,
            path=str(path),
            content_hash=run.content_hash,
            step=run.step,
            latent_size=int(latents["train/mu"].shape[1]),
            **describe_run(run),
        )
        encoded.append((info, run, latents))
    return encoded, failed


class _Comparison:
    """One evaluation on the first process, after the runs were encoded."""

    def __init__(
        self,
        config: EvaluateConfig,
        results: Results,
        splits: dict[str, Images],
        backends: Backends,
        stages: Stages,
        cache: Cache,
        out: Path,
    ) -> None:
        self.config, self.results, self.splits = config, results, splits
        self.backends, self.stages, self.cache, self.out = backends, stages, cache, out
        self.train, self.test = splits["train"].rows(), splits["test"].rows()
        sample = reference_rows(len(self.test), config.seed)
        self.protocol = make_protocol(config.protocol, config.seed, config.repeats)
        self.measure = Measure(self.protocol, backends, backends.put(self.test[sample]), sample)
        self.artifacts = Artifacts(splits, sample, config.seed)
        self.methods = Methods(
            backends,
            stages,
            cache,
            self.train,
            self.test,
            data_key=results.data_fingerprint,
            dims=config.dims,
            seed=config.seed,
        )

    def carry_out(self, encoded: list[Encoded]) -> None:
        """Fill the results and write every array."""
        embeddings = self.out / "embeddings"
        shutil.rmtree(embeddings, ignore_errors=True)
        train, test = self.splits["train"], self.splits["test"]
        write_arrays(
            embeddings / "labels.npz",
            {
                "train_labels": train.labels,
                "test_labels": test.labels,
                "train_index": train.index,
                "test_index": test.index,
                "classes": np.array(self.results.classes, dtype=np.str_),
            },
        )
        latents = []
        for info, run, arrays in encoded:
            self._run_rows(info, run, arrays)
            key = Cache.key("mu", info.content_hash, self.results.data_fingerprint)
            latents.append(Latents(info.name, arrays["train/mu"], arrays["test/mu"], key))
        for item in self.methods.embeddings(self.config.methods, latents):
            self._embedding(item, embeddings)
        self.artifacts.write(self.out, self.results.runs)

    def _run_rows(self, info: RunInfo, run: Run, latents: dict[str, np.ndarray]) -> None:
        """Figures of a run itself and its pictures."""
        common: dict[str, Any] = {
            "dataset": self.results.dataset,
            "method": "vae",
            "dim": info.latent_size,
            "run": info.name,
            "embedding": f"vae-{info.latent_size}-{info.name}",
        }
        for metric, value in run_figures(latents).items():
            note = None
            if metric == "nll":
                note = f"{self.config.nll_samples} importance samples, {len(latents['test/nll'])} images"
            elif metric in ("recon_mean", "ssim", "ssim11", "psnr", "mse"):
                note = "from z = mu"
            unit = UNITS.get(metric)
            self._add(
                {**common, "metric": metric, "value": value, "split": "test", "unit": unit}
                | {"seed": self.config.seed, "note": note}
            )
        for figure in posterior_figures(latents, self.config.seed):
            self._add(common | figure)
        labels, mu = self.splits["test"].labels, latents["test/mu"]
        with self.stages.stage("pictures", info.name):
            for figure in smoothness(lambda z: decode_mean(run, z), mu, labels, self.config.seed):
                self._add(common | figure)
            self.artifacts.add_run(info, run, mu.std(0))
            pca = self.methods.pixel_pca(info.latent_size)
            for metric, value in self.artifacts.add_pca(self.test, pca, info.latent_size).items():
                self._add(
                    {
                        "dataset": self.results.dataset,
                        "method": "pca",
                        "dim": info.latent_size,
                        "metric": metric,
                        "value": value,
                        "split": "test",
                        "unit": UNITS.get(metric),
                        "embedding": f"pca-{info.latent_size}",
                    }
                )

    def _embedding(self, item: Item, folder: Path) -> None:
        """Measure, draw and write one embedding."""
        embedding = item.embedding
        to_host = self.backends.to_host
        points = Points(
            item.train,
            item.test,
            self.splits["train"].labels,
            self.splits["test"].labels,
            len(self.results.classes),
        )
        protocol = dataclasses.asdict(self.protocol)
        key = Cache.key("figures", item.key, protocol, self.methods.where)
        kept = self.cache.record("figures", key)
        with self.stages.stage(
            "measure", embedding.id, "cache" if kept else self.backends.used
        ) as record:
            if kept is None:
                kept = self._figures(item, points)
                self.cache.keep_record("figures", key, kept)
        fixed = {
            "dataset": self.results.dataset,
            "method": embedding.method,
            "dim": embedding.dim,
            "run": embedding.run,
            "embedding": embedding.id,
        }
        for figure in kept:
            self._add({"seconds": embedding.seconds, **figure} | fixed)
        with self.stages.stage("map", embedding.id, record.backend):
            rows, train_rows = self.artifacts.sample, self.artifacts.train_sample
            embedding.map, shown, behind = self.methods.flat_map(item, rows, train_rows)
            self.artifacts.add_map(embedding.id, shown, behind)
            if points.labelled:
                tests = [f for f in kept if f["metric"] == "knn_test_accuracy"]
                best = max(
                    (f for f in tests if f["weights"] == "uniform"), key=lambda f: f["value"]
                )
                matrix, predicted = self.measure.confusion(points, best["k"])
                self.artifacts.add_confusion(embedding.id, matrix, predicted)
        self.results.embeddings.append(embedding)
        if embedding.method != "raw":  # the data folder holds the pixels
            write_arrays(
                folder / f"{embedding.id}.npz",
                {"train": to_host(item.train), "test": to_host(item.test)},
            )

    def _figures(self, item: Item, points: Points) -> list[dict[str, Any]]:
        figures = list(self.measure.figures(points))
        if "explained_variance" in item.embedding.parameters:
            value = item.embedding.parameters["explained_variance"]
            figures.append({"metric": "explained_variance", "split": "train", "value": value})
        if item.embedding.method != "raw":
            figures += emptiness(
                self.backends.to_host(points.train),
                self.backends.to_host(points.test),
                points.test_labels,
                self.config.seed,
            )
        return json.loads(json.dumps(figures))

    def _add(self, fields: dict[str, Any]) -> None:
        self.results.rows.append(Row(**fields))


def _unique(name: str, taken: set[str]) -> str:
    candidate, number = name, 2
    while candidate in taken:
        candidate, number = f"{name}-{number}", number + 1
    taken.add(candidate)
    return candidate


def _complaint(error: BaseException) -> str:
    """One line; for what is not the user's doing, with the place in the code."""
    text = " ".join(str(error).split())[:300]
    if isinstance(error, ValueError):
        return text
    place = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {text} ({Path(place.filename).name}:{place.lineno})"


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    return str(value) if isinstance(value, Path) else value
