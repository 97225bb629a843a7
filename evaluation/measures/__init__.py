"""What is measured of an embedding; each yields rows."""
