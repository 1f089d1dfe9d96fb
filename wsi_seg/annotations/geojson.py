"""Regions drawn by somebody: the reader of QuPath's GeoJSON, one for all commands.

QuPath writes a FeatureCollection, a single Feature or a bare list of features, plain or gzipped; bare
geometries and lists of collections are read too. Every polygon counts, those inside a GeometryCollection
like those next to it; points, lines and missing cores of a tissue microarray do not. Positions are those of
the file; what our own exporter subtracted from level-0 positions comes with them.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from shapely import MultiPolygon, Polygon

from wsi_seg.core.classes import canonical_name
from wsi_seg.core.errors import MaskError
from wsi_seg.core.files import reading

GZIP_MAGIC = b"\x1f\x8b"
POLYGONAL = ("Polygon", "MultiPolygon")
COLLECTION = "GeometryCollection"
GEOMETRIES = (*POLYGONAL, COLLECTION, "Point", "MultiPoint", "LineString", "MultiLineString")

# Name of our member at the top of a FeatureCollection; QuPath ignores it.
OWN_MEMBER = "wsi_seg"

# What QuPath calls an annotation without a class.
UNCLASSIFIED = "Unclassified"
# Class of areas that no command takes into account, whatever else the user names.
IGNORE = "Ignore*"


@dataclass(frozen=True, slots=True)
class Annotation:
    """One drawn region."""

    geometry: Polygon | MultiPolygon
    """Valid, area above zero, in the file's coordinates."""
    name: str | None
    """Name of its classification; None when it has none."""


@dataclass(frozen=True, slots=True)
class Annotations:
    """All drawn regions of one file."""

    items: tuple[Annotation, ...]
    """At least one, unless an empty file was asked for."""
    subtracted_l0: tuple[float, float] | None
    """Offset to add to get l0 positions, when the file says so (files of this package do)."""
    without_area: tuple[int, ...] = ()
    """Numbers, from 0, of the file's features that are polygons without an area; they are left out."""


def is_named(name: str | None, names: Iterable[str]) -> bool:
    """Return whether a class is one of several; None, no class, is called Unclassified."""
    return canonical_name(name or UNCLASSIFIED) in map(canonical_name, names)


def read_annotations(path: Path, *, may_be_empty: bool = False) -> Annotations:
    """Read the polygons of a GeoJSON file as QuPath writes it; anything else in it is left out.

    A polygon that crosses itself, as drawn by hand, is made valid; all that its line encircles counts. A ring
    that is not closed is closed.

    Args:
        path: plain or gzipped.
        may_be_empty: accept a file without any feature.

    Raises:
        MaskError: not there, not GeoJSON, damaged, or without any polygon that has an area.
    """
    document = load_json(path)
    features = list(_features(document, path))
    found = {i: _annotation(f, i, path) for i, f in enumerate(features) if _polygons(f)}
    items = tuple(item for item in found.values() if item is not None)
    if not items and not (may_be_empty and not features):
        kinds = sorted({_kind(f) for f in features})
        what = f"{len(features)} features of kind {', '.join(kinds)}" if features else "no features"
        raise MaskError(
            f"{path}: no polygon with an area (found {what}); draw areas in QuPath and export them"
        )
    without_area = tuple(i for i, item in found.items() if item is None)
    return Annotations(items, _subtracted(document, path), without_area)


def load_json(path: Path) -> Any:
    """Return the JSON document of a plain or gzipped file.

    Raises:
        MaskError: the file cannot be read or is not JSON.
    """
    with reading(path, MaskError):
        data = Path(path).read_bytes()
    try:
        return json.loads(gzip.decompress(data) if data.startswith(GZIP_MAGIC) else data)
    except (OSError, EOFError, zlib.error) as error:
        raise MaskError(f"{path}: damaged gzip file ({error})") from error
    except (ValueError, RecursionError) as error:
        raise MaskError(f"{path}: not JSON ({error}); give a GeoJSON file as exported by QuPath") from error


def _features(document: Any, path: Path) -> Iterator[dict[str, Any]]:
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
                f"{path}: JSON, but neither a FeatureCollection, a Feature, a geometry nor a list of them"
            )


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


def _annotation(feature: dict[str, Any], index: int, path: Path) -> Annotation | None:
    try:
        shapes = [shapely.from_geojson(json.dumps(_closed(part))) for part in _polygons(feature)]
    except (shapely.GEOSException, RecursionError) as error:
        reason = str(error).splitlines()[0]
        raise MaskError(f"{path}: feature {index} has a damaged geometry ({reason})") from error
    parts = [part for shape in shapes if (part := polygonal_part(shapely.force_2d(shape))) is not None]
    if not parts:
        return None
    whole = parts[0] if len(parts) == 1 else polygonal_part(shapely.union_all(parts))
    assert whole is not None
    return Annotation(whole, _name(feature.get("properties")))


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


def polygonal_part(geometry: shapely.Geometry) -> Polygon | MultiPolygon | None:
    """Return the valid, areal part of a geometry, or None when it has no area."""
    if not shapely.is_valid(geometry):
        # "structure": where parts overlap or a line crosses itself, all that was encircled counts.
        geometry = shapely.make_valid(geometry, method="structure", keep_collapsed=False)
    parts = shapely.get_parts(shapely.get_parts(geometry))
    polygons = [part for part in parts if isinstance(part, Polygon) and part.area > 0]
    if len(polygons) > 1:
        return MultiPolygon(polygons)
    return polygons[0] if polygons else None


def _name(properties: Any) -> str | None:
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


def _subtracted(document: Any, path: Path) -> tuple[float, float] | None:
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
