"""A data folder: its manifest, its tars, opening, verifying and describing it."""

from data_pipeline.folder.opening import DataFolder, open_data

__all__ = ["DataFolder", "open_data"]
