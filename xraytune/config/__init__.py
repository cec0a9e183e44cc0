"""Configuration: a YAML file with settings and a search space, strictly validated."""
