"""Contracts of every reader, model, exporter and data set: `CHECKS` that a test runs on one of its kind.

Only tests import this folder.
"""

__all__ = ["datasets", "geojson", "models", "readers"]
