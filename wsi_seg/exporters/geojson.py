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
import shutil
import uuid
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import IO, cast

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations.annotation import polygonal_part
from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.errors import UsageError
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.core.geometry import Origin
from wsi_seg.core.threads import map_ahead
from wsi_seg.regions.polygons import Region
from wsi_seg.slides.slide import MapFrame, SlideInfo, require_mpp

# QuPath's grid, in l0 pixels.
GRID = 0.01

# Any fixed namespace: ids are to be the same whenever and wherever a region is written.
ID_NAMESPACE = uuid.uuid5(uuid.NAMESPACE_OID, "wsi_seg/region")

# Results of a run are compressed when their text is longer, in bytes: 32 MiB, some 50,000 regions.
COMPRESS_ABOVE = 32 * 2**20

# Regions that are worked on together; more gain nothing.
BATCH = 1000


@dataclass(frozen=True, slots=True)
class GeoJSONSummary:
    """Summary of a written file."""

    path: Path
    """The file; with `.gz` at the end where it was large enough to be compressed."""
    count: int
    """Features in the file."""
    counts: dict[str, int]
    """Features of each group, by the group's name."""
    vanished: int
    """Regions with no area left on QuPath's grid, or wholly outside the slide; not written."""
    subtracted_l0: tuple[float, float]


def write_geojson(
    regions: Iterable[Region],
    path: Path,
    *,
    slide: SlideInfo,
    frame: MapFrame,
    origin: Origin = "bounds",
    compress_large: bool = False,
    written: Callable[[Region], None] | None = None,
) -> GeoJSONSummary:
    """Write regions as one FeatureCollection, as they come; the file appears whole or not at all.

    Args:
        regions: in map pixels of `frame`; an iterator is not held in memory.
        path: ends with `.geojson`, or `.geojson.gz` for a compressed file (QuPath opens both).
        slide: the slide they lie on.
        frame: its map frame.
        origin: `bounds` subtracts the slide's bounds-x/y where it has any, as QuPath expects; `level0`
            keeps positions as the reader numbers them.
        compress_large: turn a `.geojson` above `COMPRESS_ABOVE` into a `.geojson.gz`. Whichever of the two
            an earlier call has left is removed, so that one remains. False: as `path` says.
        written: called with each region that has been written, as it has been measured for the file.

    Area and perimeter are measured on the polygon in the file: after simplification, cut at the slide's edge
    and snapped. Mean probability, mean uncertainty and shares are those of the region, over whole pixels.

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
    with atomic_path(path) as temporary, _text(temporary, path.name.endswith(".gz")) as file:
        header = _header(slide, frame, origin, subtracted)
        file.write(f'{{"type":"FeatureCollection","{OWN_MEMBER}":{header},"features":[')
        measured = _measured(regions, slide, frame, subtracted)
        counts, vanished = _write_features(file, measured, slide, written)
        file.write("]}")
    place = _compressed(path) if compress_large and path.suffix != ".gz" else path
    return GeoJSONSummary(place, counts.total(), dict(counts), vanished, subtracted)


def _measured(
    regions: Iterable[Region], slide: SlideInfo, frame: MapFrame, subtracted: tuple[float, float]
) -> Iterator[tuple[Region, str | None, str | None]]:
    """Yield each region, with area and perimeter as written, its geometry and a key; None if it vanished."""
    mpp = require_mpp(slide)
    um = np.array([mpp.x, mpp.y])

    def encoded(batch: list[Region]) -> Iterator[tuple[Region, str | None, str | None]]:
        shapes = to_qupath(np.array([region.polygon for region in batch]), slide, frame, subtracted)
        in_um = shapely.transform(shapes, lambda xy_l0: xy_l0 * um)
        figures = zip(batch, shapely.area(in_um).tolist(), shapely.length(in_um).tolist(), strict=True)
        found = [replace(region, area_um2=area, perimeter_um=length) for region, area, length in figures]
        return zip(found, shapely.to_geojson(shapes), _keys(shapes), strict=True)

    for batch in map_ahead(encoded, _batches(regions)):
        yield from batch


def _write_features(
    file: IO[str],
    measured: Iterable[tuple[Region, str | None, str | None]],
    slide: SlideInfo,
    written: Callable[[Region], None] | None,
) -> tuple[Counter[str], int]:
    """Return the features written of each group, and how many regions had nothing left to write."""
    counts: Counter[str] = Counter()
    vanished = 0
    for region, geometry, key in measured:
        if geometry is None:
            vanished += 1
            continue
        file.write("," if counts.total() else "")
        counts[region.group.name] += 1
        identity = uuid.uuid5(ID_NAMESPACE, f"{slide.fingerprint}/{region.group.name}/{key}")
        file.write(_feature(region, str(identity), geometry, counts[region.group.name]))
        if written is not None:
            written(region)
    return counts, vanished


def _batches(regions: Iterable[Region]) -> Iterator[list[Region]]:
    rest = iter(regions)
    while batch := list(islice(rest, BATCH)):
        yield batch


def to_qupath(
    polygons: NDArray[np.object_], slide: SlideInfo, frame: MapFrame, subtracted_l0: tuple[float, float]
) -> NDArray[np.object_]:
    """Return polygons in map pixels, (n,), as QuPath will have them: moved, cut at the edge, snapped, valid.

    `subtracted_l0` is what to subtract from l0 positions, x and y.

    Returns:
        (n,) Polygon or MultiPolygon; None when nothing is left of it. Snapping may part a polygon where it
        was thinner than the grid.
    """
    dx, dy = subtracted_l0
    factor, shift = np.array([frame.l0_per_map.x, frame.l0_per_map.y]), np.array([dx, dy])
    moved = _polygonal(shapely.transform(polygons, lambda xy_map: xy_map * factor - shift))
    # The map's last column and row may reach beyond the slide by part of a pixel.
    whole = shapely.box(-dx, -dy, slide.size.width - dx, slide.size.height - dy)
    x0, y0, x1, y1 = whole.bounds
    left, top, right, bottom = shapely.bounds(moved).T
    beyond = (left < x0) | (top < y0) | (right > x1) | (bottom > y1)
    moved[beyond] = shapely.intersection(moved[beyond], whole)
    snapped = _polygonal(shapely.set_precision(moved, GRID, mode="valid_output"))
    return np.asarray(shapely.orient_polygons(snapped), object)


def _polygonal(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    """Return `polygonal_part` of each geometry; None stays None."""
    result = geometries.copy()
    good = (
        shapely.is_valid(geometries) & (shapely.get_type_id(geometries) == 3) & (shapely.area(geometries) > 0)
    )
    for i in np.flatnonzero(~good & ~shapely.is_missing(geometries)).tolist():
        result[i] = polygonal_part(geometries[i])
    return result


def _keys(geometries: NDArray[np.object_]) -> NDArray[np.object_]:
    return np.asarray(shapely.to_wkb(geometries, hex=True, byte_order=1), object)


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


def _feature(region: Region, identity: str, geometry: str, number: int) -> str:
    group = region.group
    properties = {
        "objectType": "annotation",
        "name": f"{group.qupath_name} {number}",
        "classification": {"name": group.qupath_name, "color": list(group.color)},
        "measurements": _measurements(region),
        "metadata": {"group": group.name, "codes": " ".join(map(str, group.codes))},
    }
    # GEOS writes the shortest digits that give back the same number: two decimals on this grid.
    return f'{{"type":"Feature","id":"{identity}","geometry":{geometry},"properties":{_json(properties)}}}'


def _measurements(region: Region) -> dict[str, float]:
    values = {
        "Area µm^2": round(region.area_um2, 2),
        "Perimeter µm": round(region.perimeter_um, 2),
        "Mean probability": round(region.mean_probability, 4),
        **_uncertainty(region),
        **{f"Share {name}": round(share, 4) for name, share in region.shares.items()},
    }
    return {name: value for name, value in values.items() if math.isfinite(value)}


def _uncertainty(region: Region) -> dict[str, float]:
    known = region.mean_uncertainty
    return {} if known is None else {"Mean uncertainty": round(known, 4)}


# Made once: `json.dumps` would make one for each feature.
_json = json.JSONEncoder(separators=(",", ":"), ensure_ascii=False, allow_nan=False).encode


def _compressed(path: Path) -> Path:
    """Compress a file that is large, leave one of the two, and return its name."""
    compressed = path.with_name(path.name + ".gz")
    with writing(path):
        if path.stat().st_size <= COMPRESS_ABOVE:
            compressed.unlink(missing_ok=True)
            return path
        with atomic_path(compressed) as temporary:
            with path.open("rb") as text, temporary.open("wb") as raw, _gzip(raw) as stream:
                shutil.copyfileobj(text, stream, 2**20)
        path.unlink()
    return compressed


@contextmanager
def _text(path: Path, compress: bool) -> Iterator[IO[str]]:
    with path.open("wb") as raw:
        stream = _gzip(raw) if compress else raw
        text = io.TextIOWrapper(cast(IO[bytes], stream), encoding="utf-8", newline="\n")
        try:
            yield text
            text.flush()
        finally:
            text.detach()
            if compress:
                stream.close()


def _gzip(raw: IO[bytes]) -> gzip.GzipFile:
    # Without a time and a name in the gzip header, equal regions give equal bytes.
    return gzip.GzipFile("", "wb", compresslevel=6, fileobj=raw, mtime=0)
