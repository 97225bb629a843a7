"""From checkpoints and images to a report that compares PCA, UMAP and the VAE."""
