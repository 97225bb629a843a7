"""The models by name. A new model is one file beside this one and one line here."""

MODELS: dict[str, str] = {
    "fc": "vae_dist.models.fc:FullyConnected",
    "fc_conv": "vae_dist.models.fc_conv:WholeImageConvolution",
}
