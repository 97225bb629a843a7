"""A run folder: its layout, its checkpoints, loading and resuming."""
