"""Reading addresses: transfer and cache."""
