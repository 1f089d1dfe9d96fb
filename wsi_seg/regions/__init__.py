"""Regions: from maps to measured polygons.

Contours are traced, joined to rings, simplified, and measured in one pass; nothing here knows a file
format.
"""

__all__ = ["contours", "group_outlines", "polygons", "settings"]
