"""Everything that touches argv, the environment, a configuration file or a cluster."""
