"""Data sets: annotated images of several kinds as regions with targets at a model's resolution."""
