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
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations import GZIP_MAGIC, OWN_MEMBER
from wsi_seg.errors import OutputError

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
        shapes, numbers, properties = [], [], []
        groups: dict[RegionGroup, int] = {}
        for feature in _features(text):
            shape = _shape(feature["geometry"])
            shapes.append(shape)
            kept = {"id": feature.get("id"), "properties": feature["properties"]}
            numbers.append(groups.setdefault(_group(feature["properties"]), len(groups)))
            properties.append(json.dumps(kept, ensure_ascii=False, separators=(",", ":")))
    except (LookupError, TypeError, ValueError, RecursionError, shapely.GEOSException) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is no GeoJSON of wsi_seg, or damaged ({reason})") from error
    moved = np.empty(len(shapes), object)
    moved[:] = shapes
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


def _shape(geometry: dict[str, Any]) -> shapely.Polygon | shapely.MultiPolygon:
    if geometry["type"] == "Polygon":
        return _polygon(geometry["coordinates"])
    if geometry["type"] == "MultiPolygon":
        return shapely.MultiPolygon([_polygon(part) for part in geometry["coordinates"]])
    raise ValueError(f"a geometry is a {str(geometry['type'])[:40]!r}, not a polygon")


def _polygon(rings: list[list[list[float]]]) -> shapely.Polygon:
    outer, *holes = rings
    return shapely.Polygon(outer, holes)


def _group(properties: dict[str, Any]) -> RegionGroup:
    known = properties["classification"]
    red, green, blue = (int(value) & 255 for value in known["color"])
    label = str(known["name"])
    metadata = properties.get("metadata")
    name = metadata.get("group", label) if isinstance(metadata, dict) else label
    return RegionGroup(str(name), label, (red, green, blue))
