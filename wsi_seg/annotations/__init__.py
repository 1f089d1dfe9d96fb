"""Annotations: what people draw, as polygons and as pixels.

QuPath GeoJSON and other outline files in; `rasterize` and `drawing` turn polygons into masks by the pixel-
center rule. A new annotation format is a new reader here.
"""

__all__ = ["drawing", "geojson", "outline_files", "rasterize"]
