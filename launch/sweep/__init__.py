"""Many trainings: a grid or a search of settings, carried out one after the other."""
