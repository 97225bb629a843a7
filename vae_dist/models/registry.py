"""The models by name. A new model is one file beside this one and one line here."""

MODELS: dict[str, str] = {
    "fc": "vae_dist.models.fc:FullyConnected",
    "fc_conv": "vae_dist.models.fc_conv:WholeImageConvolution",
    "fcn": "vae_dist.models.fcn:FullyConvolutional",
    "fcns": "vae_dist.models.fcns:SmallConvolutional",
    "fcns_1n": "vae_dist.models.fcns_1n:OneByN",
    "conv": "vae_dist.models.conv:ResidualConvolutional",
}
