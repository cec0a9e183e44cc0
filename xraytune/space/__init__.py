"""A YAML file becomes a `Space`: its grammar, its settings and its rules."""
