"""Annotations: what people draw, as polygons and as pixels.

`reading` has one table of formats: QuPath, ASAP, Aperio, HALO, DSA, COCO, Labelme, GeoParquet and our own
outlines. `points` reads cells that other programs found. `rasterize` and `drawing` turn polygons into masks
by the pixel-center rule. A new format is a new row of the table with a reader here.
"""

__all__ = ["annotation", "drawing", "geojson", "points", "rasterize", "reading"]
