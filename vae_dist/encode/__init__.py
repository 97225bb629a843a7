"""From images to files of latents and back: piece by piece, resumable, on any number of processes."""
