"""From batches to a trained variational autoencoder."""
