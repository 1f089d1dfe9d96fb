"""GeoJSON files as annotations of images and slides."""

from __future__ import annotations

from pathlib import Path

from wsi_seg.annotations.geojson import Annotations, read_annotations
from wsi_seg.core.errors import DataError, MaskError

ANNOTATION_ENDINGS = (".geojson", ".geojson.gz")


def read_geojson(path: Path, *, may_be_empty: bool = False) -> Annotations:
    """Read the polygons of a GeoJSON file, each of which has an area; points and lines are left out.

    Args:
        path: plain or gzipped.
        may_be_empty: accept a file without any feature.

    Raises:
        DataError: the file cannot be used, or a polygon has no area (fewer than three points, say).
    """
    try:
        annotations = read_annotations(path, may_be_empty=may_be_empty)
    except MaskError as error:
        raise DataError(str(error)) from error
    if annotations.without_area:
        raise DataError(
            f"{path}: feature {annotations.without_area[0]} is a polygon without an area (fewer than three "
            "points?); redraw or delete it"
        )
    return annotations
