"""Columns of the report's tables: key of a row, heading, digits, and what it means."""

from __future__ import annotations

from evaluation.results.blanks import DISTANCES

# Of the headline table; the keys are those of `leaderboard`.
SCORES = (
    (
        "trustworthiness",
        "trustworthiness",
        4,
        "are neighbours on the map neighbours in pixels too? 1: all, 0.5: chance",
    ),
    ("linear_probe_accuracy", "linear probe", 4, "test accuracy of a linear classifier"),
    ("silhouette", "silhouette", 3, "separation of the classes, −1 to 1"),
    ("kmeans_nmi", "k-means NMI", 3, "agreement of clusters with classes, 0 to 1"),
    (
        "mig",
        "MIG",
        3,
        "mutual information gap: how much more the best dimension tells of a factor than the second "
        "best does; 0 to 1, mean over factors",
    ),
    (
        "dci_disentanglement",
        "DCI disentanglement",
        3,
        "does each dimension tell of one factor only? 0 to 1, by random forests",
    ),
    (
        "fit_seconds",
        "seconds of fitting",
        1,
        "on the training images; the training of a VAE included",
    ),
    (
        "transform_seconds",
        "seconds of transforming",
        2,
        "PCA, VAE: all images (a VAE's figures included); UMAP: the test images",
    ),
)
BEST: dict[str, int] = {  # which is best in a column: the largest (1) or the smallest (-1)
    **dict.fromkeys(
        (
            "knn_test_accuracy", "trustworthiness", "linear_probe_accuracy", "silhouette",
            "kmeans_nmi", "knn_all_test_accuracy", "knn_macro_auc", "continuity", "kmeans_ari",
            "elbo", "ssim", "ssim11", "psnr", "mig", "dci_disentanglement", "dci_completeness",
            "dci_informativeness",
        ),
        1,
    ),
    **dict.fromkeys(("knn_log_loss", "recon", "recon_mean", "nll", "mse", "aggregate_distance", *DISTANCES), -1),
}  # fmt: skip

STRUCTURE = (
    ("explained_variance", "explained variance", 4, "share of the pixels' variance"),
    ("knn_all_test_accuracy", "KNN accuracy, all labels", 4, "on test images, at the best k"),
    ("knn_log_loss", "KNN log-loss (nats)", 4, "on test images, at the best k; lower is better"),
    ("knn_macro_auc", "KNN macro AUC", 4, "on test images, at the best k"),
    ("continuity", "continuity", 4, "share of neighbourhoods not torn apart"),
    ("kmeans_ari", "k-means ARI", 3, "agreement of clusters with classes, chance 0"),
    (
        "dci_completeness",
        "DCI completeness",
        3,
        "is each factor told by one dimension only? 0 to 1, by random forests",
    ),
    (
        "dci_informativeness",
        "DCI informativeness",
        3,
        "share of the factors' values that random forests find in test images they were not fitted to",
    ),
    (
        "gap",
        "gap",
        3,
        "empty space between classes: how far lines between them pass from any image, over the "
        "usual distance of neighbours; larger is emptier",
    ),
)
_FRECHET = (
    "from the test images, by means and covariances of the features in the note; FID if Inception's"
)
_KERNEL = "the same by a cubic kernel (MMD²), unbiased; KID if the features are Inception's"
RECONSTRUCTION = (
    ("recon", "reconstruction (nats)", 2, "an image, z drawn"),
    ("recon_mean", "reconstruction from mu (nats)", 2, "an image"),
    ("kl", "KL (nats)", 2, "an image"),
    ("elbo", "ELBO (nats)", 2, "an image, higher is better"),
    ("nll", "NLL (nats)", 2, "an image, importance-weighted"),
    ("ssim", "SSIM", 4, "window 5, zero padding"),
    ("ssim11", "SSIM 11", 4, "window 11, valid region"),
    ("psnr", "PSNR (dB)", 2, "peak signal to noise"),
    ("mse", "MSE", 5, "pixels in 0 to 1"),
    ("frechet_samples", "Fréchet distance, samples", 2, _FRECHET),
    ("frechet_recon", "Fréchet distance, reconstructions", 2, _FRECHET),
    ("kernel_samples", "kernel distance, samples", 5, _KERNEL),
    ("kernel_recon", "kernel distance, reconstructions", 5, _KERNEL),
    ("active_units", "active units", 0, "latents whose mean varies over images"),
    ("aggregate_distance", "distance from the prior", 3, "sliced Wasserstein-2"),
    ("interpolation_length", "path length", 3, "of decoded straight lines; 1 is straight"),
    ("interpolation_jump", "largest step", 3, "share of a decoded line's length"),
)
OVER_SEEDS = (
    ("knn_test_accuracy", "KNN test accuracy", 4, "at the best k"),
    ("knn_all_test_accuracy", "KNN accuracy, all labels", 4, "at the best k"),
    *(column for column in SCORES if "seconds" not in column[0]),
    *(column for column in RECONSTRUCTION if column[0] in ("elbo", "nll", "ssim", "active_units")),
)
