"""The evaluation folder: its rows, its files."""
