"""The regions of a result, read from its GeoJSON into an index that answers what is where.

Features are parsed one after the other: as one document, 100,000 regions would take gigabytes for a moment.
"""

from __future__ import annotations

import gzip
import json
import math
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations import GZIP_MAGIC, OWN_MEMBER, POLYGONAL
from wsi_seg.errors import OutputError

# Features that are turned into polygons together.
BATCH = 1000
FEATURES = '"features":['
# A compressed file is refused if it holds more text than this, in bytes: 20 times 100,000 regions.
MOST_TEXT = 4 * 2**30
_decoder = json.JSONDecoder()
# Measurements that the exporter writes, and the keys of the server's answers for them.
MEASURED = {
    "Area µm^2": "area_um2",
    "Perimeter µm": "perimeter_um",
    "Mean probability": "mean_probability",
    "Mean uncertainty": "mean_uncertainty",
}


@dataclass(frozen=True, slots=True)
class RegionGroup:
    """A class of regions in the file."""

    name: str
    """Of the group or class of the model's card."""
    label: str
    """As QuPath calls it."""
    color: tuple[int, int, int]


@dataclass(frozen=True, eq=False)
class Regions:
    """All regions of one result, in the order of the file."""

    shapes: NDArray[np.object_]
    """(n,) Polygon or MultiPolygon in l0 pixels."""
    group: NDArray[np.int32]
    """(n,) position in `groups`."""
    groups: tuple[RegionGroup, ...]
    properties: tuple[str, ...]
    """(n,) id and properties of each feature, as JSON text."""
    bounds: NDArray[np.float64]
    """(n, 4) x0, y0, x1, y1 in l0 pixels."""
    tree: shapely.STRtree

    def in_box(self, box_l0: tuple[float, float, float, float]) -> NDArray[np.intp]:
        """Return the regions whose bounding boxes meet a box, in ascending order."""
        return np.sort(self.tree.query(shapely.box(*box_l0)))

    def at(self, x_l0: float, y_l0: float) -> int | None:
        """Return the region at a place, the smallest where several are; None where there is none."""
        found = self.tree.query(shapely.Point(x_l0, y_l0), predicate="intersects")
        if not len(found):
            return None
        return int(found[np.argmin(shapely.area(self.shapes[found]))])

    def describe(self, index: int) -> dict[str, Any]:
        """Return what is known of one region."""
        feature = json.loads(self.properties[index])
        properties = feature["properties"]
        measurements = properties.get("measurements")
        measurements = measurements if isinstance(measurements, dict) else {}
        known = {key: measurements[name] for name, key in MEASURED.items() if name in measurements}
        return {
            "index": index,
            "id": feature["id"],
            "name": properties.get("name"),
            "group": self.groups[self.group[index]].name,
            **known,
            "bbox": [round(value, 2) for value in self.bounds[index].tolist()],
            "measurements": measurements,
        }


def read_regions(path: Path) -> Regions:
    """Read the regions of a GeoJSON file that this package wrote, plain or gzipped.

    Raises:
        OutputError: it cannot be read or is damaged.
    """
    text = _read_text(path)
    try:
        offset = _offset(text)
        shapes: list[NDArray[np.object_]] = []
        numbers, properties = [], []
        groups: dict[RegionGroup, int] = {}
        rest = _features(text)
        while features := list(islice(rest, BATCH)):
            shapes.append(_shapes([feature["geometry"] for feature in features]))
            for feature in features:
                kept = {"id": feature.get("id"), "properties": feature["properties"]}
                numbers.append(groups.setdefault(_group(feature["properties"]), len(groups)))
                properties.append(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    except (LookupError, TypeError, ValueError, RecursionError, shapely.GEOSException) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is no GeoJSON of wsi_seg, or damaged ({reason})") from error
    moved = np.concatenate([np.empty(0, object), *shapes])
    if offset != (0.0, 0.0):
        moved = np.asarray(shapely.transform(moved, lambda xy: xy + np.array(offset)), object)
    return Regions(
        moved,
        np.array(numbers, np.int32),
        tuple(groups),
        tuple(properties),
        shapely.bounds(moved).reshape(-1, 4),
        shapely.STRtree(moved),
    )


def _read_text(path: Path) -> str:
    try:
        data = path.read_bytes()
        if data.startswith(GZIP_MAGIC):
            with gzip.open(path) as file:
                data = file.read(MOST_TEXT + 1)
        if len(data) > MOST_TEXT:
            raise OutputError(f"{path}: holds more than {MOST_TEXT >> 30} GiB of text")
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise OutputError(f"{path}: is damaged (not UTF-8 text)") from error
    except (OSError, EOFError, zlib.error) as error:
        raise OutputError(f"{path}: cannot be read ({error})") from error


def _offset(text: str) -> tuple[float, float]:
    """Return what must be added to get l0 positions."""
    head = text[: text.index(FEATURES)].rstrip().removesuffix(",") + "}"
    x, y = json.loads(head)[OWN_MEMBER]["subtracted_l0"]
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError("subtracted_l0 is not finite")
    return float(x), float(y)


def _features(text: str) -> Iterator[dict[str, Any]]:
    at = text.index(FEATURES) + len(FEATURES)
    while text[at] != "]":
        feature, at = _decoder.raw_decode(text, at + (text[at] == ","))
        yield feature
    if text[at:].strip() != "]}":
        raise ValueError("the list of features does not end the file")


def _shapes(geometries: list[dict[str, Any]]) -> NDArray[np.object_]:
    """Return the polygons of GeoJSON geometries; all at once takes a third of the time."""
    xy: list[list[float]] = []
    ring_lengths: list[int] = []
    polygon_of_ring: list[int] = []
    shape_of_polygon: list[int] = []
    for shape, geometry in enumerate(geometries):
        for polygon in _polygons(geometry):
            for ring in polygon:
                xy += ring
                ring_lengths.append(len(ring))
                polygon_of_ring.append(len(shape_of_polygon))
            shape_of_polygon.append(shape)
    ring_of_vertex = np.repeat(np.arange(len(ring_lengths)), ring_lengths)
    vertices = np.array(xy, float).reshape(-1, 2)
    rings = np.asarray(shapely.linearrings(vertices, indices=ring_of_vertex), object)
    polygons = np.asarray(shapely.polygons(rings, indices=polygon_of_ring), object)
    whole = np.bincount(shape_of_polygon, minlength=len(geometries))
    if (whole == 1).all():
        return polygons
    together = np.asarray(shapely.multipolygons(polygons, indices=shape_of_polygon), object)
    single = np.flatnonzero(whole == 1)
    together[single] = shapely.get_geometry(together[single], 0)
    return together


def _polygons(geometry: dict[str, Any]) -> list[list[list[list[float]]]]:
    """Return the polygons of a geometry, each as its rings, each as its vertices."""
    if geometry["type"] not in POLYGONAL:
        raise ValueError(f"a geometry is a {str(geometry['type'])[:40]!r}, not a polygon")
    parts = geometry["coordinates"] if geometry["type"] == "MultiPolygon" else [geometry["coordinates"]]
    if not parts or not all(parts):
        raise ValueError("a polygon has no outline")
    return list(parts)


def _group(properties: dict[str, Any]) -> RegionGroup:
    known = properties["classification"]
    red, green, blue = (int(value) & 255 for value in known["color"])
    label = str(known["name"])
    metadata = properties.get("metadata")
    name = metadata.get("group", label) if isinstance(metadata, dict) else label
    return RegionGroup(str(name), label, (red, green, blue))
