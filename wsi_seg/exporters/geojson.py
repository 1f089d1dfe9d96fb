"""Regions as GeoJSON that QuPath 0.5 to 0.8 opens in the right place.

Coordinates are l0 pixels as `placed` makes them; what was subtracted of them is recorded in the member
`wsi_seg` at the top, which QuPath ignores.
"""

from __future__ import annotations

import gzip
import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, cast

import shapely

from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.errors import UsageError
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.core.geometry import Origin
from wsi_seg.core.threads import map_ahead
from wsi_seg.exporters.placed import batches, facts, identity, keys, measurements, origin_l0, place
from wsi_seg.exporters.source import Exported, RegionSource
from wsi_seg.regions.polygons import Region
from wsi_seg.slides.slide import MapFrame, SlideInfo

# Results of a run are compressed when their text is longer, in bytes: 32 MiB, some 50,000 regions.
COMPRESS_ABOVE = 32 * 2**20

# What comes after the last feature.
END = "]}"


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
    subtracted = origin_l0(slide, origin)
    with atomic_path(path) as temporary, _text(temporary, path.name.endswith(".gz")) as file:
        file.write(_beginning(slide, frame, origin))
        measured = _measured(regions, slide, frame, subtracted)
        counts: Counter[str] = Counter()
        vanished = _write_features(file, measured, slide, written, counts)
        file.write(END)
    final = _compressed(path) if compress_large and path.suffix != ".gz" else path
    return GeoJSONSummary(final, counts.total(), dict(counts), vanished, subtracted)


def write_part(
    regions: Iterable[Region],
    path: Path,
    *,
    slide: SlideInfo,
    frame: MapFrame,
    origin: Origin,
    written: Callable[[Region], None],
    before: Mapping[str, int],
) -> int:
    """Write the features of some groups, for `join_parts`; return how many vanished.

    `before` has the number of features in earlier parts by the group's name. Other arguments, and errors, are
    those of `write_geojson`, but for the name of the file.
    """
    with atomic_path(path, sync=True) as temporary, _text(temporary, compress=False) as file:
        measured = _measured(regions, slide, frame, origin_l0(slide, origin))
        return _write_features(file, measured, slide, written, Counter(before))


def join_parts(
    parts: Sequence[Path], path: Path, *, slide: SlideInfo, frame: MapFrame, origin: Origin
) -> Path:
    """Write what `write_geojson` does, with `compress_large`, of groups that `write_part` has written.

    Args:
        parts: in the order of their groups.
        path: ends with `.geojson`.
        slide: as for the parts.
        frame: as for the parts.
        origin: as for the parts.

    Returns:
        The file; with `.gz` at the end where it was large enough to be compressed.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        file.write(_beginning(slide, frame, origin).encode())
        between = b""
        for part in parts:
            if part.stat().st_size:
                file.write(between)
                with part.open("rb") as features:
                    shutil.copyfileobj(features, file, 2**20)
                between = b","
        file.write(END.encode())
    return _compressed(path)


def _beginning(slide: SlideInfo, frame: MapFrame, origin: Origin) -> str:
    """Return what comes before the first feature."""
    return f'{{"type":"FeatureCollection","{OWN_MEMBER}":{_json(facts(slide, frame, origin))},"features":['


def export(source: RegionSource, path: Path) -> Exported:
    """Write the regions of a map, see `write_geojson` for what it raises."""
    written = write_geojson(
        source.traced(),
        path,
        slide=source.slide,
        frame=source.frame,
        origin=source.settings.origin,
    )
    return Exported(written.path, f"{written.count} regions")


def _measured(
    regions: Iterable[Region], slide: SlideInfo, frame: MapFrame, subtracted: tuple[float, float]
) -> Iterator[tuple[Region, str | None, str | None]]:
    """Yield each region, with area and perimeter as written, its geometry and a key; None if it vanished."""

    def encoded(batch: list[Region]) -> Iterator[tuple[Region, str | None, str | None]]:
        found, shapes = place(batch, slide, frame, subtracted)
        return zip(found, shapely.to_geojson(shapes), keys(shapes), strict=True)

    for batch in map_ahead(encoded, batches(regions)):
        yield from batch


def _write_features(
    file: IO[str],
    measured: Iterable[tuple[Region, str | None, str | None]],
    slide: SlideInfo,
    written: Callable[[Region], None] | None,
    counts: Counter[str],
) -> int:
    """Add to the features of each group; return how many regions had nothing left to write."""
    between, vanished = "", 0
    for region, geometry, key in measured:
        if geometry is None:
            vanished += 1
            continue
        file.write(between)
        between = ","
        counts[region.group.name] += 1
        file.write(_feature(region, identity(slide, region, key), geometry, counts[region.group.name]))
        if written is not None:
            written(region)
    return vanished


def _feature(region: Region, uuid: str, geometry: str, number: int) -> str:
    group = region.group
    properties = {
        "objectType": "annotation",
        "name": f"{group.qupath_name} {number}",
        "classification": {"name": group.qupath_name, "color": list(group.color)},
        "measurements": measurements(region),
        "metadata": {"group": group.name, "codes": " ".join(map(str, group.codes))},
    }
    # GEOS writes the shortest digits that give back the same number: two decimals on this grid.
    return f'{{"type":"Feature","id":"{uuid}","geometry":{geometry},"properties":{_json(properties)}}}'


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
