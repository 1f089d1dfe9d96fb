"""Regions of a result that another program has saved again, such as QuPath after they were corrected there.

They are read by the rules of all commands: every polygon counts, also that of a detection or a TMA core;
points, lines and missing cores do not, and areas of class `Ignore*` are no regions. QuPath drops what our
files say of their origin, so positions count from the slide's bounds, as QuPath's do. The class decides which
group of the model a region belongs to, for it may have been corrected.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.annotation import IGNORE, UNCLASSIFIED, is_named, polygonal_part
from wsi_seg.annotations.geojson import area_of, classification_name, features_of, subtracted_of
from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.errors import MaskError, OutputError
from wsi_seg.core.files import read_plain
from wsi_seg.core.geometry import Box
from wsi_seg.results.region_files import RegionGroup, Regions, is_own, read_regions

# Of a class whose color the file does not say.
GRAY = (150, 150, 150)


class _Saved(NamedTuple):
    group: RegionGroup
    shape: Polygon | MultiPolygon
    id: str
    properties: dict[str, Any]


def open_regions(path: Path, bounds: Box | None, groups: Sequence[ClassGroup] = ()) -> Regions:
    """Read the regions of a GeoJSON file, as this package wrote it or as another program saved it.

    Args:
        path: plain or gzipped.
        bounds: the non-empty region of the slide in l0 pixels, where it states one.
        groups: those of the model; a class of another name is a group of its own.

    Raises:
        OutputError: it cannot be read, or is damaged.
    """
    if is_own(path):
        return read_regions(path)
    try:
        document = json.loads(read_plain(path, OutputError))
        said = subtracted_of(document, path)
        found = list(_saved(document, path, groups))
    except MaskError as error:
        raise OutputError(str(error)) from error
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: no JSON, or damaged ({error}); export it again") from error
    x, y = said or ((bounds.x0, bounds.y0) if bounds is not None else (0.0, 0.0))
    shapes = np.array([one.shape for one in found], object)
    shapes = np.asarray(shapely.transform(shapes, lambda xy: np.add(xy, (x, y))), object)
    named = tuple(dict.fromkeys(one.group for one in found))
    return Regions(
        shapes,
        shapely.bounds(shapes).reshape(-1, 4),
        np.array([named.index(one.group) for one in found], np.int32),
        named,
        tuple(one.id for one in found),
        tuple(json.dumps(one.properties, ensure_ascii=False) for one in found),
    )


def _saved(document: Any, path: Path, groups: Sequence[ClassGroup]) -> Iterator[_Saved]:
    """Yield the regions of a document; raises MaskError."""
    for number, feature in enumerate(features_of(document, path), start=1):
        shape = area_of(feature, f"{path}: feature {number}")
        area = None if shape is None else polygonal_part(shape)
        known = feature.get("properties")
        properties = dict(known) if isinstance(known, dict) else {}
        name = classification_name(properties)
        if area is None or is_named(name, (IGNORE,)):
            continue
        properties["measurements"] = _measurements(properties.get("measurements"))
        yield _Saved(
            _group(properties, name or UNCLASSIFIED, groups), area, str(feature.get("id", "")), properties
        )


def _group(properties: dict[str, Any], label: str, groups: Sequence[ClassGroup]) -> RegionGroup:
    """Return the group of a class; of several that QuPath calls alike, the one that our metadata name."""
    known = [group.name for group in groups if is_named(label, (group.name, group.qupath_name))]
    metadata = properties.get("metadata")
    said = metadata.get("group") if isinstance(metadata, dict) else None
    return RegionGroup(said if said in known else next(iter(known), label), label, _color(properties))


def _color(properties: dict[str, Any]) -> tuple[int, int, int]:
    """Return the color of a class: three numbers, or one as QuPath 0.3 and older wrote it."""
    classification = properties.get("classification")
    if isinstance(classification, dict):
        color, packed = classification.get("color"), classification.get("colorRGB")
        if isinstance(color, list) and len(color) == 3 and all(isinstance(part, int) for part in color):
            red, green, blue = (part & 255 for part in color)
            return red, green, blue
        if isinstance(packed, int):
            return packed >> 16 & 255, packed >> 8 & 255, packed & 255
    return GRAY


def _measurements(known: Any) -> dict[str, float]:
    """Return the finite measurements: an object, or a list of names and values as in QuPath 0.3 and older."""
    if isinstance(known, list):
        known = {one.get("name"): one.get("value") for one in known if isinstance(one, dict)}
    if not isinstance(known, dict):
        return {}
    return {
        str(name): value
        for name, value in known.items()
        if isinstance(value, int | float) and math.isfinite(value)
    }
