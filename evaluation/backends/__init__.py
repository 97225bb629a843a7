"""Where embeddings and searches are computed: cuML on a GPU, or the CPU."""
