"""Regions: from maps to measured polygons.

Contours are traced, joined to rings, simplified, and measured in one pass; `joining` counts points in
regions and measures their distances to borders. Nothing here knows a file format.
"""

__all__ = ["block_contours", "contours", "group_fields", "group_outlines", "joining", "polygons", "settings"]
