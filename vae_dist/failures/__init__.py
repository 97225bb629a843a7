"""What to say of failures that a training meets."""
