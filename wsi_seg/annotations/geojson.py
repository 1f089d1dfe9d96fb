"""QuPath's GeoJSON.

QuPath writes a FeatureCollection, a single Feature or a bare list of features; bare geometries and lists of
collections are read too. Every polygon counts, those inside a GeometryCollection like those next to it;
points, lines and missing cores of a tissue microarray do not. Positions are those of the file; what our own
exporter subtracted from level-0 positions comes with them.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely

from wsi_seg.annotations.annotation import Content, Drawn, union_of
from wsi_seg.core.errors import MaskError

POLYGONAL = ("Polygon", "MultiPolygon")
COLLECTION = "GeometryCollection"
GEOMETRIES = (*POLYGONAL, COLLECTION, "Point", "MultiPoint", "LineString", "MultiLineString")

# Name of our member at the top of a FeatureCollection; QuPath ignores it.
OWN_MEMBER = "wsi_seg"


def read_geojson(document: Any, path: Path) -> Content:
    """Read what is drawn in a JSON document; raises MaskError. A ring that is not closed is closed."""
    drawn: list[Drawn] = []
    polygons = 0
    for feature in features_of(document, path):
        polygons += bool(_polygons(feature))
        where = f"{path}: polygon {polygons}"
        shape = area_of(feature, where)
        drawn.append(Drawn(_kind(feature), shape, classification_name(feature.get("properties")), where))
    return Content(drawn, subtracted_of(document, path))


def features_of(document: Any, path: Path) -> Iterator[dict[str, Any]]:
    """Yield all features in the order of the file; a bare geometry is a feature without properties."""
    waiting = [document]
    while waiting:
        part = waiting.pop()
        kind = part.get("type") if isinstance(part, dict) else None
        if kind == "FeatureCollection":
            part = part.get("features")
        if isinstance(part, list):
            waiting.extend(reversed(part))
        elif kind == "Feature":
            yield part
        elif kind in GEOMETRIES:
            yield {"type": "Feature", "geometry": part}
        else:
            raise MaskError(
                f"{path}: JSON, but neither a FeatureCollection, a Feature, a geometry nor a list of them "
                "(GeoJSON), nor DSA, COCO, Labelme or a list of outlines"
            )


def area_of(feature: dict[str, Any], where: str) -> shapely.Geometry | None:
    """Return the area of a feature, perhaps invalid or empty; None where it has no polygon.

    Args:
        feature: see `features_of`.
        where: file and place, for messages.

    Raises:
        MaskError: its geometry is damaged.
    """
    parts = _polygons(feature)
    return _shape(parts, where) if parts else None


def _kind(feature: dict[str, Any]) -> str:
    if _is_missing_core(feature):
        return "missing TMA core"
    geometry = feature.get("geometry")
    return str(geometry.get("type")) if isinstance(geometry, dict) else "none"


def _is_missing_core(feature: dict[str, Any]) -> bool:
    """Return whether QuPath marked this core of a tissue microarray as missing."""
    properties = feature.get("properties")
    return isinstance(properties, dict) and properties.get("isMissing") is True


def _polygons(feature: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the polygonal geometries of a feature, those in collections too."""
    found: list[dict[str, Any]] = []
    waiting: list[Any] = [] if _is_missing_core(feature) else [feature.get("geometry")]
    while waiting:
        geometry = waiting.pop()
        if not isinstance(geometry, dict):
            continue
        kind = geometry.get("type")
        if kind in POLYGONAL:
            found.append(geometry)
        elif kind == COLLECTION and isinstance(geometry.get("geometries"), list):
            waiting.extend(reversed(geometry["geometries"]))
    return found


def _shape(polygons: list[dict[str, Any]], where: str) -> shapely.Geometry:
    try:
        shapes = [shapely.force_2d(shapely.from_geojson(json.dumps(_closed(part)))) for part in polygons]
    except (shapely.GEOSException, RecursionError) as error:
        raise MaskError(f"{where} has a damaged geometry ({str(error).splitlines()[0]})") from error
    return shapes[0] if len(shapes) == 1 else union_of(shapes)


def _closed(geometry: dict[str, Any]) -> dict[str, Any]:
    """Return a polygonal geometry whose rings end where they start."""

    def close(ring: Any) -> Any:
        return [*ring, ring[0]] if isinstance(ring, list) and len(ring) > 2 and ring[0] != ring[-1] else ring

    several = geometry["type"] == "MultiPolygon"
    polygons = geometry.get("coordinates") if several else [geometry.get("coordinates")]
    if not isinstance(polygons, list):
        return geometry
    closed = [
        [close(ring) for ring in polygon] if isinstance(polygon, list) else polygon for polygon in polygons
    ]
    return {"type": geometry["type"], "coordinates": closed if several else closed[0]}


def classification_name(properties: Any) -> str | None:
    """Return the class that the properties of a feature name; None where they name none."""
    classification = properties.get("classification") if isinstance(properties, dict) else None
    if isinstance(classification, str):
        return classification or None
    if not isinstance(classification, dict):
        return None
    names = classification.get("names")
    if isinstance(names, list) and names:
        return ": ".join(map(str, names))
    name = classification.get("name")
    return name if isinstance(name, str) else None


def subtracted_of(document: Any, path: Path) -> tuple[float, float] | None:
    """Return what our member says was subtracted of l0 positions; None where there is no such member.

    Raises:
        MaskError: it is not two numbers.
    """
    own = document.get(OWN_MEMBER) if isinstance(document, dict) else None
    if not isinstance(own, dict) or "subtracted_l0" not in own:
        return None
    pair = own["subtracted_l0"]
    if (
        not isinstance(pair, list)
        or len(pair) != 2
        or not all(isinstance(v, int | float) and math.isfinite(v) for v in pair)
    ):
        raise MaskError(f"{path}: member {OWN_MEMBER}.subtracted_l0 is {pair!r}, expected two numbers")
    return float(pair[0]), float(pair[1])
