"""A run in an object store: the copy that follows its folder, and the way back."""
