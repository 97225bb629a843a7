"""vae-dist doctor: check a machine."""
