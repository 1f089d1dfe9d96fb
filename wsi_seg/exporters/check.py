"""Check a GeoJSON file against every rule that QuPath (0.5 to 0.8) and this package have for it.

Slow and strict on purpose, and independent of the writer.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import shapely

from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import read_plain

GRID = 0.01
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}", re.IGNORECASE)
STRING_OR_SPACE = re.compile(r'"(?:[^"\\]|\\.)*"|\s+')
FEATURE_MEMBERS = {"type", "id", "geometry", "properties"}
PROPERTIES = {"objectType", "name", "classification", "isLocked", "measurements", "metadata"}


def check_geojson(path: Path) -> list[str]:
    """Return what is wrong with a GeoJSON file for QuPath, one line each; empty when all is well."""
    try:
        text = read_plain(path, OutputError).decode("utf-8")
        document = json.loads(text, parse_constant=_refuse_constant)
    except OutputError as error:
        return [str(error)]
    except (ValueError, RecursionError) as error:
        return [f"{path}: not JSON ({error})"]
    return [f"{path}: {problem}" for problem in _problems(path, text, document)]


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no JSON number")


def _problems(path: Path, text: str, document: Any) -> Iterator[str]:
    if not path.name.endswith((".geojson", ".geojson.gz")):
        yield "the name must end with .geojson or .geojson.gz"
    if any(match[0].isspace() for match in STRING_OR_SPACE.finditer(text)):
        yield "not compact: there is white space between its parts"
    if not isinstance(document, dict) or document.get("type") != "FeatureCollection":
        yield "not a FeatureCollection"
        return
    yield from _own_member(document.get(OWN_MEMBER))
    features = document.get("features")
    if not isinstance(features, list):
        yield "features is not a list"
        return
    seen: set[str] = set()
    for index, feature in enumerate(features):
        yield from (f"feature {index}: {problem}" for problem in _feature(feature, seen))


def _own_member(own: Any) -> Iterator[str]:
    pair = own.get("subtracted_l0") if isinstance(own, dict) else None
    if not (isinstance(pair, list) and len(pair) == 2 and all(_is_number(value) for value in pair)):
        yield f"member {OWN_MEMBER!r} does not record subtracted_l0 as two numbers"


def _feature(feature: Any, seen: set[str]) -> Iterator[str]:
    if not isinstance(feature, dict) or feature.get("type") != "Feature":
        yield "not a Feature"
        return
    yield from (f"null at {place}" for place in _nulls(feature, "feature"))
    for member in sorted(feature.keys() - FEATURE_MEMBERS):
        yield f"member {member!r} does not belong outside properties"
    identity = feature.get("id")
    if not isinstance(identity, str) or not UUID.fullmatch(identity):
        yield f"id {identity!r} is not a UUID"
    elif identity.lower() in seen:
        yield f"id {identity} is not unique"
    else:
        seen.add(identity.lower())
    yield from _geometry(feature.get("geometry"))
    yield from _properties(feature.get("properties"))


def _nulls(value: Any, place: str) -> Iterator[str]:
    if value is None:
        yield place
    elif isinstance(value, dict):
        for name, member in value.items():
            yield from _nulls(member, f"{place}.{name}")
    elif isinstance(value, list) and not all(isinstance(item, int | float) for item in value):
        for index, item in enumerate(value):
            yield from _nulls(item, f"{place}[{index}]")


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _is_byte(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value <= 255


def _geometry(geometry: Any) -> Iterator[str]:
    kind = geometry.get("type") if isinstance(geometry, dict) else None
    if kind not in ("Polygon", "MultiPolygon"):
        yield f"geometry is {kind!r}, not Polygon or MultiPolygon"
        return
    for member in sorted(geometry.keys() - {"type", "coordinates"}):
        yield f"geometry has a member {member!r}"
    coordinates = geometry.get("coordinates")
    parts = [coordinates] if kind == "Polygon" else coordinates
    if not isinstance(parts, list) or not parts:
        yield "geometry has no coordinates"
        return
    problems = [problem for part in parts for problem in _rings(part)]
    yield from problems
    if not problems:
        yield from _shape(shapely.from_geojson(json.dumps(geometry)))


def _rings(part: Any) -> Iterator[str]:
    if not isinstance(part, list) or not part:
        yield "a polygon without a ring"
        return
    for ring in part:
        if not isinstance(ring, list) or not all(_is_position(position) for position in ring):
            yield "a ring is not a list of positions [x, y]"
        elif len(ring) < 4:
            yield f"a ring of {len(ring)} positions; it takes four"
        elif ring[0] != ring[-1]:
            yield f"a ring is not closed: it begins at {ring[0]} and ends at {ring[-1]}"


def _is_position(position: Any) -> bool:
    return isinstance(position, list) and len(position) == 2 and all(_is_number(value) for value in position)


def _shape(geometry: shapely.Geometry) -> Iterator[str]:
    if not shapely.is_valid(geometry):
        yield f"invalid polygon: {shapely.is_valid_reason(geometry)}"
        return
    snapped = shapely.set_precision(geometry, GRID, mode="valid_output")
    if not shapely.area(snapped) > 0 or not shapely.is_valid(snapped):
        yield "no area is left on QuPath's grid of 0.01 px"
    elif shapely.get_type_id(snapped) not in (3, 6):  # Polygon, MultiPolygon
        yield "not a polygon any more on QuPath's grid of 0.01 px"


def _properties(properties: Any) -> Iterator[str]:
    if not isinstance(properties, dict):
        yield "properties is not an object"
        return
    for name in sorted(properties.keys() - PROPERTIES):
        yield f"unknown property {name!r}"
    if properties.get("objectType") != "annotation":
        yield f"objectType is {properties.get('objectType')!r}, not 'annotation'"
    if not isinstance(properties.get("name"), str) or not properties["name"]:
        yield "name is missing or not a text"
    yield from _classification(properties.get("classification"))
    if "isLocked" in properties and properties["isLocked"] is not True:
        yield "isLocked stands there without being true"
    measurements = properties.get("measurements", {})
    if not isinstance(measurements, dict):
        yield "measurements is not an object"
    else:
        yield from (f"measurement {n!r} is no number" for n, v in measurements.items() if not _is_number(v))
    metadata = properties.get("metadata", {})
    if not isinstance(metadata, dict):
        yield "metadata is not an object"
    else:
        yield from (f"metadata {n!r} is no text" for n, v in metadata.items() if not isinstance(v, str))


def _classification(classification: Any) -> Iterator[str]:
    if not isinstance(classification, dict):
        yield "classification is missing or not an object"
        return
    if not isinstance(classification.get("name"), str) or not classification["name"]:
        yield "classification has no name"
    color = classification.get("color")
    if not isinstance(color, list) or len(color) != 3 or not all(_is_byte(value) for value in color):
        yield f"classification color is {color!r}, not three whole numbers of 0 to 255"
