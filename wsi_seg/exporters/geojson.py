"""Regions as GeoJSON that QuPath 0.5 to 0.8 opens in the right place.

Coordinates are l0 pixels. QuPath crops a slide to its `openslide.bounds-*`, so these are subtracted by
default; what was subtracted is recorded in the member `wsi_seg` at the top, which QuPath ignores.
QuPath snaps coordinates to a grid of 0.01 px and refuses a whole file for one polygon that is invalid
then, so they are snapped and checked here.
"""

from __future__ import annotations

import gzip
import io
import json
import math
import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, cast

import numpy as np
import shapely
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations import OWN_MEMBER, polygonal_part
from wsi_seg.errors import OutputError, UsageError
from wsi_seg.polygons import Region
from wsi_seg.slide import MapFrame, SlideInfo, require_mpp

# QuPath's grid, in l0 pixels.
GRID = 0.01

# Any fixed namespace: ids are to be the same whenever and wherever a region is written.
ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "wsi_seg/region")

Origin = Literal["bounds", "level0"]


@dataclass(frozen=True, slots=True)
class GeoJSONSummary:
    """What was written."""

    path: Path
    count: int
    """Features in the file."""
    counts: dict[str, int]
    """Features of each group, by the group's name."""
    vanished: int
    """Regions with no area left on QuPath's grid, or wholly outside the slide; not written."""
    subtracted_l0: tuple[float, float]


def write_geojson(
    regions: Iterable[Region], path: Path, *, slide: SlideInfo, frame: MapFrame, origin: Origin = "bounds"
) -> GeoJSONSummary:
    """Write regions as one FeatureCollection; the file appears whole or not at all.

    Args:
        regions: in map pixels of `frame`.
        path: ends with `.geojson`, or `.geojson.gz` for a compressed file (QuPath opens both).
        slide: the slide they lie on.
        frame: its map frame.
        origin: `bounds` subtracts the slide's bounds-x/y where it has any, as QuPath expects; `level0`
            keeps positions as the reader numbers them.

    Raises:
        UsageError: another ending or origin.
        OutputError: the file cannot be written.
        MppMissingError: the slide has no mpp.
    """
    if not path.name.endswith((".geojson", ".geojson.gz")):
        raise UsageError(f"{path}: the name must end with .geojson or .geojson.gz")
    if origin not in ("bounds", "level0"):
        raise UsageError(f"origin must be bounds or level0, got {origin!r}")
    crop = slide.bounds if origin == "bounds" else None
    subtracted = (float(crop.x0), float(crop.y0)) if crop is not None else (0.0, 0.0)
    counts: Counter[str] = Counter()
    vanished = 0
    with _writing(path) as file:
        file.write(f'{{"type":"FeatureCollection","{OWN_MEMBER}":{_header(slide, frame, origin, subtracted)}')
        file.write(',"features":[')
        for region in regions:
            geometry = to_qupath(region.polygon, slide, frame, subtracted)
            if geometry is None:
                vanished += 1
                continue
            file.write("," if counts.total() else "")
            counts[region.group.name] += 1
            file.write(_feature(region, geometry, slide.fingerprint, counts[region.group.name]))
        file.write("]}")
    return GeoJSONSummary(path, counts.total(), dict(counts), vanished, subtracted)


def to_qupath(
    polygon: Polygon, slide: SlideInfo, frame: MapFrame, subtracted_l0: tuple[float, float]
) -> Polygon | MultiPolygon | None:
    """Return a polygon in map pixels as QuPath will have it: moved, cut at the slide's edge, snapped, valid.

    None when nothing is left of it. Snapping may part it where it was thinner than the grid.
    """
    dx, dy = subtracted_l0
    factor, shift = np.array([frame.l0_per_map.x, frame.l0_per_map.y]), np.array([dx, dy])
    moved: shapely.Geometry | None
    moved = polygonal_part(shapely.transform(polygon, lambda xy_map: xy_map * factor - shift))
    if moved is None:
        return None
    # The map's last column and row may reach beyond the slide by part of a pixel.
    whole = shapely.box(-dx, -dy, slide.size.width - dx, slide.size.height - dy)
    if not shapely.covers(whole, shapely.box(*shapely.bounds(moved).tolist())):
        moved = shapely.intersection(moved, whole)
    snapped = polygonal_part(shapely.set_precision(moved, GRID, mode="valid_output"))
    return None if snapped is None else shapely.orient_polygons(snapped)


def _header(slide: SlideInfo, frame: MapFrame, origin: Origin, subtracted: tuple[float, float]) -> str:
    mpp = require_mpp(slide)
    return _json(
        {
            "origin": origin,
            "subtracted_l0": list(subtracted),
            "slide": slide.name,
            "fingerprint": slide.fingerprint,
            "mpp": [mpp.x, mpp.y],
            "map_mpp": frame.mpp,
        }
    )


def _feature(region: Region, geometry: Polygon | MultiPolygon, fingerprint: str, number: int) -> str:
    group = region.group
    properties = {
        "objectType": "annotation",
        "name": f"{group.qupath_name} {number}",
        "classification": {"name": group.qupath_name, "color": list(group.color)},
        "measurements": _measurements(region),
        "metadata": {"group": group.name, "codes": " ".join(map(str, group.codes))},
    }
    key = f"{fingerprint}/{group.name}/{shapely.to_wkb(geometry, hex=True, byte_order=1)}"
    # GEOS writes the shortest digits that give back the same number: two decimals on this grid.
    return (
        f'{{"type":"Feature","id":"{uuid.uuid5(ID_NAMESPACE, key)}",'
        f'"geometry":{shapely.to_geojson(geometry)},"properties":{_json(properties)}}}'
    )


def _measurements(region: Region) -> dict[str, float]:
    values = {
        "Area µm^2": round(region.area_um2, 2),
        "Perimeter µm": round(region.perimeter_um, 2),
        "Mean probability": round(region.mean_probability, 4),
        **{f"Share {name}": round(share, 4) for name, share in region.shares.items()},
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _json(value: Any) -> str:
    return json.dumps(value, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


@contextmanager
def _writing(path: Path) -> Iterator[IO[str]]:
    """Give a text file under a temporary name that becomes `path` when all went well."""
    partial = path.with_name(path.name + ".partial")
    try:
        with partial.open("wb") as raw, _text(raw, path.name.endswith(".gz")) as file:
            yield file
        partial.replace(path)
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror or error})") from error
    finally:
        with suppress(OSError):  # what matters has been raised
            partial.unlink(missing_ok=True)


@contextmanager
def _text(raw: IO[bytes], compress: bool) -> Iterator[IO[str]]:
    # Without a time and a name in the gzip header, equal regions give equal bytes.
    stream = gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0) if compress else raw
    text = io.TextIOWrapper(cast(IO[bytes], stream), encoding="utf-8", newline="\n")
    try:
        yield text
        text.flush()
    finally:
        text.detach()
        if compress:
            stream.close()
