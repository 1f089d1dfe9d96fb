"""Contracts of readers, models and data sets (`CHECKS` that a test runs on one of each kind), and of GeoJSON.

Only tests import this folder.
"""

__all__ = ["datasets", "geojson", "models", "readers"]
