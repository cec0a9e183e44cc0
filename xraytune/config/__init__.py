"""What a person may ask for: a YAML file of settings and a space of parameters, checked strictly."""
