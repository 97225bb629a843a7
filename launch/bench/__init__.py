"""vae-dist bench: measure this machine."""
