"""What a step needs in memory: estimated, searched for, planned."""
