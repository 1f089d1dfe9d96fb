"""Contracts of readers, models, data sets and export formats (`CHECKS` for one of each), and of GeoJSON.

Only tests import this folder.
"""

__all__ = ["datasets", "exporters", "geojson", "models", "readers"]
