"""The regions of a result, read from its GeoJSON into arrays that answer what is where.

The file is read piece by piece, as the exporter writes it; geometries are parsed many at a time.
"""

from __future__ import annotations

import codecs
import gzip
import json
import math
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.errors import OutputError
from wsi_seg.core.formats import GZIP_MAGIC

# Features whose geometries are parsed together.
BATCH = 1000
FEATURES = '"features":['
# A file is refused if it holds more text than this, in bytes: 20 times 100,000 regions.
MOST_TEXT = 4 * 2**30
# Bytes of the file that are looked at together.
PIECE = 2**22
# Bytes within which our files name themselves.
MOST_HEAD = 2**16
# A feature up to its properties; in strings, quotes are escaped.
FEATURE = re.compile(
    r',?\{"type":"Feature","id":"(?P<id>[^"\\]*)",'
    r'"geometry":(?P<geometry>\{"type":"(?:Polygon|MultiPolygon)","coordinates":[^}]*\}),"properties":'
)
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
    """(n,) Polygon or MultiPolygon of each region in l0 pixels."""
    bounds: NDArray[np.float64]
    """(n, 4) x0, y0, x1, y1 of each region in l0 pixels."""
    group: NDArray[np.int32]
    """(n,) position in `groups`."""
    groups: tuple[RegionGroup, ...]
    ids: tuple[str, ...]
    properties: tuple[str, ...]
    """(n,) properties of each feature, as JSON text."""

    def in_box(self, box_l0: tuple[float, float, float, float]) -> NDArray[np.intp]:
        """Return the regions whose bounding boxes meet a box, in ascending order."""
        x0, y0, x1, y1 = self.bounds.T
        return np.flatnonzero((x0 <= box_l0[2]) & (x1 >= box_l0[0]) & (y0 <= box_l0[3]) & (y1 >= box_l0[1]))

    def at(self, x_l0: float, y_l0: float) -> int | None:
        """Return the region at a place, the smallest where several are; None where there is none."""
        near = self.in_box((x_l0, y_l0, x_l0, y_l0))
        shapes = self.shapes[near]
        found = np.flatnonzero(shapely.intersects_xy(shapes, x_l0, y_l0))
        if not len(found):
            return None
        return int(near[found[np.argmin(shapely.area(shapes[found]))]])

    @cached_property
    def figures(self) -> Mapping[str, NDArray[np.float64]]:
        """(n,) values of each of `MEASURED`, by its key; NaN where the file does not say."""
        values = np.full((len(MEASURED), len(self.properties)), np.nan)
        for i, text in enumerate(self.properties):
            measurements = _measurements(json.loads(text))
            for row, name in zip(values, MEASURED, strict=True):
                value = measurements.get(name)
                if isinstance(value, int | float) and math.isfinite(value):
                    row[i] = value
        return dict(zip(MEASURED.values(), values, strict=True))

    def describe(self, index: int) -> dict[str, Any]:
        """Return what is known of one region."""
        properties = json.loads(self.properties[index])
        measurements = _measurements(properties)
        known = {key: measurements[name] for name, key in MEASURED.items() if name in measurements}
        return {
            "index": index,
            "id": self.ids[index],
            "name": properties.get("name"),
            "group": self.groups[self.group[index]].name,
            **known,
            "bbox": [round(value, 2) for value in self.bounds[index].tolist()],
            "measurements": measurements,
        }


def _measurements(properties: Mapping[str, Any]) -> Mapping[str, Any]:
    measurements = properties.get("measurements")
    return measurements if isinstance(measurements, dict) else {}


class _Feature(NamedTuple):
    """One feature of the file."""

    id: str
    geometry: str
    """As JSON text."""
    properties: Any
    text: str
    """Of the properties."""


def is_own(path: Path) -> bool:
    """Return whether a file begins as this package writes it; OutputError where it cannot be read."""
    with _naming(path), _opened(path) as file:
        head, features, _ = file.read(MOST_HEAD).decode("utf-8", "replace").partition(FEATURES)
        return bool(features) and f'"{OWN_MEMBER}"' in head


def read_regions(path: Path) -> Regions:
    """Read the regions of a GeoJSON file that this package wrote, plain or gzipped.

    Raises:
        OutputError: it cannot be read, is damaged, or was written by others.
    """
    with _naming(path), _opened(path) as file:
        return _read(_pieces(file))


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Report what is wrong with a file as an OutputError that names it."""
    try:
        yield
    except (LookupError, TypeError, ValueError, RecursionError) as error:
        reason = " ".join(str(error).split())[:200]
        raise OutputError(f"{path}: is no GeoJSON of wsi_seg, or damaged ({reason})") from error
    except (OSError, EOFError, zlib.error) as error:
        raise OutputError(f"{path}: cannot be read ({error})") from error


def _read(pieces: Iterator[str]) -> Regions:
    head, _, text = next(pieces).partition(FEATURES)
    x, y = json.loads(head.rstrip().removesuffix(",") + "}")[OWN_MEMBER]["subtracted_l0"]
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError("subtracted_l0 is not finite")
    parts = [np.empty(0, object)]
    numbers, ids, properties = [], [], []
    groups: dict[tuple[str, str, int, int, int], int] = {}
    rest = _features(chain([text], pieces))
    while features := list(islice(rest, BATCH)):
        parts.append(_shapes([feature.geometry for feature in features]))
        for feature in features:
            numbers.append(groups.setdefault(_group(feature.properties), len(groups)))
            ids.append(feature.id)
            properties.append(feature.text)
    named = tuple(RegionGroup(name, label, (red, green, blue)) for name, label, red, green, blue in groups)
    shapes = np.asarray(shapely.transform(np.concatenate(parts), lambda xy: np.add(xy, (x, y))), object)
    bounds = shapely.bounds(shapes)
    return Regions(shapes, bounds, np.array(numbers, np.int32), named, tuple(ids), tuple(properties))


def _shapes(geometries: Sequence[str]) -> NDArray[np.object_]:
    """Return the (n,) polygons of JSON texts.

    Raises:
        ValueError: a text is no polygon, or one without area, or of more than x and y.
    """
    try:
        shapes = np.asarray(shapely.from_geojson(geometries), object)
    except shapely.GEOSException as error:
        raise ValueError(str(error)) from error
    if not (shapely.area(shapes) > 0).all() or shapely.has_z(shapes).any():
        raise ValueError("coordinates are not those of polygons")
    return shapes


@contextmanager
def _opened(path: Path) -> Iterator[IO[bytes]]:
    with path.open("rb") as raw:
        packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        yield cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw


def _pieces(file: IO[bytes]) -> Iterator[str]:
    """Yield the text in pieces that end between two features."""
    decoder = codecs.getincrementaldecoder("utf-8")()
    text, size, total = "", PIECE, 0
    while data := file.read(size):
        total += len(data)
        if total > MOST_TEXT:
            raise ValueError(f"holds more than {MOST_TEXT >> 30} GiB of text")
        text += decoder.decode(data)
        cut = text.rfind(',{"type":"Feature",')
        if cut < 0:  # a feature that is larger still
            size *= 2
            continue
        yield text[:cut]
        text, size = text[cut:], PIECE
    yield text + decoder.decode(b"", final=True)


def _features(pieces: Iterable[str]) -> Iterator[_Feature]:
    """Yield the features of what stands behind `FEATURES`."""
    count, rest = 0, ""
    for text in pieces:
        at = 0
        while not rest and (found := FEATURE.match(text, at)):
            start = found.end()
            properties, at = _decoder.raw_decode(text, start)
            yield _Feature(found["id"], found["geometry"], properties, text[start:at])
            if text[at : at + 1] != "}":
                raise ValueError(f"feature {count} does not end with its properties")
            at, count = at + 1, count + 1
        rest += text[at:].strip()
        if rest not in ("", "]}"):
            raise ValueError(f"feature {count} is not as wsi_seg writes it, or the file ends within")
    if rest != "]}":
        raise ValueError("the list of features does not end")


def _group(properties: dict[str, Any]) -> tuple[str, str, int, int, int]:
    """Return name, label and color."""
    known = properties["classification"]
    red, green, blue = known["color"]
    label = str(known["name"])
    metadata = properties.get("metadata")
    name = metadata.get("group", label) if isinstance(metadata, dict) else label
    return str(name), label, int(red) & 255, int(green) & 255, int(blue) & 255
