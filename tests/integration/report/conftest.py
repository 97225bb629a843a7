"""A small evaluation folder of real images, made without training: its "VAE" is a rotated PCA."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from sklearn.decomposition import PCA
from sklearn.metrics import confusion_matrix
from sklearn.neighbors import KNeighborsClassifier

from evaluation.files import write_arrays
from evaluation.results.files import write_results
from evaluation.results.records import Embedding, Results, Row, RunInfo, Stage

NASTY_RUN = "a<b>&'$x$"
NASTY_CLASS = 'zero <img src=x onerror=alert(1)> "0"'
DIM = 10
KS = (1, 5, 10)
COUNTS = (10, 20, 40)


def write_folder(
    out: Path,
    train: tuple[np.ndarray, np.ndarray],
    test: tuple[np.ndarray, np.ndarray],
    classes: list[str],
    *,
    runs: tuple[str, ...] = ("vae_a",),
    sample: int = 3000,
) -> Path:
    """Write the folder that `evaluation.results.records` describes, from (images, labels) pairs."""
    rng = np.random.default_rng(0)
    (images, labels), (test_images, test_labels) = train, test
    shape = images.shape[1:]
    flat, test_flat = (x.reshape(len(x), -1) / 255 for x in (images, test_images))
    pca = PCA(DIM, random_state=0).fit(flat)
    linear = {"train": pca.transform(flat), "test": pca.transform(test_flat)}
    made: dict[str, dict[str, np.ndarray]] = {
        "pca-2": {split: z[:, :2] for split, z in linear.items()},
        f"pca-{DIM}": linear,
        "umap-2": {
            "train": np.tanh(linear["train"][:, 1:3] / 2) + 0.1 * rng.normal(size=(len(flat), 2)),
            "test": np.tanh(linear["test"][:, 1:3] / 2)
            + 0.1 * rng.normal(size=(len(test_flat), 2)),
        },
    }
    for run in runs:
        turn = np.linalg.qr(rng.normal(size=(DIM, DIM)))[0]
        made[f"vae-{DIM}-{run}"] = {split: z @ turn for split, z in linear.items()}
    for name, splits in made.items():
        arrays = {split: z.astype(np.float32) for split, z in splits.items()}
        write_arrays(out / "embeddings" / f"{name}.npz", arrays)
    write_arrays(
        out / "embeddings" / "labels.npz",
        {
            "train_labels": labels,
            "test_labels": test_labels,
            "train_index": np.arange(len(labels)),
            "test_index": np.arange(len(test_labels)),
            "classes": np.array(classes),
        },
    )
    position = rng.permutation(len(test_labels))[:sample]
    train_position = rng.permutation(len(labels))[:10_000]
    artifacts: dict[str, np.ndarray] = {
        "sample_images": test_images[position],
        "sample_labels": test_labels[position],
        "sample_position": position,
        "map_train_position": train_position,
        "originals": test_images[:20],
        f"reconstruction/pca-{DIM}": _decode(pca, linear["test"][:20], shape),
    }
    rows: list[Row] = []
    embeddings: list[Embedding] = []
    for name, splits in made.items():
        method, dim, *rest = name.split("-", 2)
        run = rest[0] if rest else None
        title = {"pca": f"PCA {dim}", "umap": f"UMAP {dim}", "vae": f"VAE {dim} ({run})"}[method]
        embeddings.append(
            Embedding(
                id=name, method=method, dim=int(dim), title=title, run=run, seconds=1.25,
                map="itself" if dim == "2" else "pca", parameters={"seed": 42},
            )
        )  # fmt: skip
        plane = PCA(2, random_state=0).fit(splits["train"])
        artifacts[f"map/{name}"] = plane.transform(splits["test"][position]).astype(np.float32)
        artifacts[f"map_train/{name}"] = plane.transform(splits["train"][train_position]).astype(
            np.float32
        )
        predicted = None
        common = {"dataset": "digits", "method": method, "dim": int(dim), "run": run}
        for k in KS:
            knn = KNeighborsClassifier(k).fit(splits["train"][:1000], labels[:1000])
            predicted = knn.predict(splits["test"])
            value = float((predicted == test_labels).mean())
            rows.append(
                Row(
                    **common, embedding=name, metric="knn_test_accuracy", value=value, k=k,
                    labels_per_class=500, weights="uniform", seed=42, repeats=5, std=0.004,
                    ci_low=value - 0.005, ci_high=value + 0.005, split="test", backend="cpu",
                )
            )  # fmt: skip
            for count in COUNTS:
                value = float(np.clip(value - 2 / count, 0, 1))
                rows.append(
                    Row(
                        **common, embedding=name, metric="knn_cv_accuracy", value=value, k=k,
                        labels_per_class=count, weights="distance", folds=5, seed=42,
                        split="train", backend="cpu",
                    )
                )  # fmt: skip
        artifacts[f"sample_predicted/{name}"] = predicted[position]
        artifacts[f"confusion/{name}"] = confusion_matrix(
            test_labels, predicted, labels=range(len(classes))
        )
        rows.append(
            Row(**common, embedding=name, metric="trustworthiness", value=0.95, split="test", k=5)
        )
    curves: dict[str, list[dict[str, object]]] = {}
    for run in runs:
        z = rng.normal(size=(64, DIM)) * linear["train"].std(axis=0)
        artifacts[f"samples/{run}"] = _decode(pca, z, shape)
        artifacts[f"reconstruction/{run}"] = _decode(pca, linear["test"][:20], shape)
        walk = np.zeros((DIM, 9, DIM))
        for i in range(DIM):
            walk[i, :, i] = np.linspace(-3, 3, 9) * linear["train"].std(axis=0)[i]
        artifacts[f"traversal/{run}"] = _decode(pca, walk.reshape(-1, DIM), shape).reshape(
            DIM, 9, *shape
        )
        artifacts[f"traversal_latent/{run}"] = np.arange(DIM)
        ends = linear["test"][:10].reshape(5, 2, 1, DIM)
        share = np.linspace(0, 1, 9)[:, None]
        lines = ends[:, 0] * (1 - share) + ends[:, 1] * share
        artifacts[f"interpolation/{run}"] = _decode(pca, lines.reshape(-1, DIM), shape).reshape(
            5, 9, *shape
        )
        curves[run] = [
            {
                "split": split, "step": step, "epoch": step / 94, "loss": 240 + 200 * 0.98**step,
                "recon": 230 + 190 * 0.98**step, "kl": 14 - 9 * 0.98**step, "ssim": 0.67 - 0.98**step,
            }
            for step in range(10, 30 * 94, 47) for split in ("train", "val")
        ]  # fmt: skip
        common = {"dataset": "digits", "method": "vae", "dim": DIM, "run": run}
        for metric, value, unit in (("elbo", -243.7, "nats"), ("ssim", 0.6718, None)):
            rows.append(Row(**common, metric=metric, value=value, unit=unit, split="test"))
        for index in range(DIM):
            kl = Row(**common, metric="kl_by_latent", value=2.0 / (index + 1), index=index)
            rows.append(kl)
    write_arrays(out / "artifacts.npz", artifacts)
    (out / "curves.json").write_text(json.dumps(curves), encoding="utf-8")
    write_results(
        out,
        Results(
            dataset="digits",
            data_fingerprint="0" * 64,
            image_shape=list(shape),
            classes=classes,
            counts={"train": len(labels), "test": len(test_labels)},
            protocol="quick",
            seed=42,
            backend={"asked": "auto", "used": "cpu", "reason": "no CUDA device", "device": None},
            versions={"numpy": np.__version__},
            settings={"repeats": 5},
            runs=[
                RunInfo(
                    name=run, path=f"runs/{run}", content_hash="f" * 64, step=2820,
                    latent_size=DIM, num_parameters=119_591,
                )
                for run in runs
            ],
            embeddings=embeddings,
            rows=rows,
            stages=[
                Stage(stage="pca", embedding="pca-2", backend="cpu", seconds=0.4),
                Stage(
                    stage="umap", embedding="umap-2", backend="cpu", seconds=71.0,
                    peak_memory_bytes=2**30, note="n_neighbors 5",
                ),
            ],
            seconds=100.0,
        ),
    )  # fmt: skip
    return out


def _decode(pca: PCA, z: np.ndarray, shape: tuple[int, ...]) -> np.ndarray:
    images = np.clip(pca.inverse_transform(z) * 255, 0, 255).astype(np.uint8)
    return images.reshape(len(z), *shape)


@pytest.fixture(scope="session")
def evaluation_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """scikit-learn's digits, with names that HTML and mathematical text would misread."""
    from sklearn.datasets import load_digits

    digits = load_digits()
    images = np.kron(digits.images * 15.9375, np.ones((2, 2)))[:, None].astype(np.uint8)
    labels = digits.target.astype(np.int64)
    classes = [NASTY_CLASS, *map(str, range(1, 10))]
    return write_folder(
        tmp_path_factory.mktemp("eval"),
        (images[:1300], labels[:1300]),
        (images[1300:], labels[1300:]),
        classes,
        runs=(NASTY_RUN,),
        sample=400,
    )


@pytest.fixture(scope="session")
def report_path(evaluation_folder: Path) -> Path:
    """The folder's report, written once."""
    from evaluation.report import write_report

    return write_report(evaluation_folder)
