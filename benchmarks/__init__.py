"""What vae-dist bench and docs/benchmarks.md measure. Not part of the wheel."""
