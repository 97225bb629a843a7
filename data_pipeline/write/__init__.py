"""Writing a data folder: the folder, its shards, its splits."""
