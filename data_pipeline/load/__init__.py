"""From a data folder to batches: the loaders from memory and from the stream."""
