"""Training: a YAML file in, a model folder with held-out metrics out."""
