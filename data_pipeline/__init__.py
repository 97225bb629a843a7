"""From a data set to batches: sources, webdataset shards, the order of images, loaders."""
