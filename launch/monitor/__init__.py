"""vae-dist monitor: watch a run."""
