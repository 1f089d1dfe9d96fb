"""GeoParquet: geometries with a class each, read a batch of rows at a time."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations.annotation import Content, Drawn
from wsi_seg.annotations.geojson import OWN_MEMBER, POLYGONAL, subtracted_of
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.core.files import reading

# Columns that name the class of a row; the first that a table has is taken.
CLASS_COLUMNS = ("class", "Class", "class_name", "classification", "Classification", "cell_type", "label")
# First bytes of every Parquet file.
MAGIC = b"PAR1"
ROWS = 50_000
GEOMETRY = "geometry"


@dataclass(frozen=True, slots=True)
class Rows:
    """Rows of a file, and what it says of its positions."""

    batches: Iterator[tuple[NDArray[np.object_], list[Any]]]
    """Geometries and the names of their classes, None: unknown; MaskError where the file is damaged."""
    subtracted_l0: tuple[float, float] | None
    """Offset to add to get l0 positions, in files of our own; None: the file does not say."""


def read_rows(path: Path, class_column: str | None = None, content: bytes | None = None) -> Rows:
    """Open a file of geometries.

    Args:
        path: the file.
        class_column: column of the class; None: the first of `CLASS_COLUMNS` that is there, if any.
        content: of the file, where it has been read.

    Raises:
        UsageError: no such column, or pyarrow is not installed.
        MaskError: it is damaged, or has no geometries.
    """
    try:
        from pyarrow import ArrowException, parquet
    except ModuleNotFoundError as error:
        raise UsageError(f"{path}: GeoParquet needs pyarrow: pip install 'wsi-seg[geo]'") from error
    damages = (ArrowException, OSError, ValueError, TypeError, LookupError, shapely.GEOSException)
    with reading(path, MaskError):
        source = path.open("rb") if content is None else io.BytesIO(content)
    try:
        file = parquet.ParquetFile(source)
        told = file.metadata.metadata or {}
        geo, own = (json.loads(told.get(key, b"{}")) for key in (b"geo", OWN_MEMBER.encode()))
        columns = file.schema_arrow.names
    except damages as error:
        source.close()
        raise MaskError(f"{path}: damaged GeoParquet ({_first_line(error)})") from error
    geometry = geo.get("primary_column", GEOMETRY) if isinstance(geo, dict) else GEOMETRY
    if geometry not in columns:
        raise MaskError(f"{path}: no column {str(geometry)[:40]!r} of geometries; it has {listed(columns)}")
    name = class_column_of(path, columns, class_column)

    def batches() -> Iterator[tuple[NDArray[np.object_], list[Any]]]:
        try:
            with source:
                for batch in file.iter_batches(ROWS, columns=[geometry, *filter(None, [name])]):
                    shapes = shapely.from_wkb(batch.column(geometry).to_numpy(zero_copy_only=False))
                    yield shapes, batch.column(name).to_pylist() if name else [None] * len(shapes)
        except damages as error:
            raise MaskError(f"{path}: damaged GeoParquet ({_first_line(error)})") from error

    return Rows(batches(), subtracted_of({OWN_MEMBER: own}, path))


def read_geoparquet(document: bytes, path: Path) -> Content:
    """Read the polygons of a file; raises as `read_rows`."""
    rows = read_rows(path, content=document)
    drawn: list[Drawn] = []
    for shapes, names in rows.batches:
        for shape, name in zip(shapes, names, strict=True):
            where = f"{path}: row {len(drawn) + 1}"
            kind = "none" if shape is None else str(shape.geom_type)
            area = shapely.force_2d(shape) if kind in POLYGONAL else None
            drawn.append(Drawn(kind, area, None if name in (None, "") else str(name), where))
    return Content(drawn, rows.subtracted_l0 or (0.0, 0.0))


def class_column_of(path: Path, columns: Sequence[str], asked: str | None) -> str | None:
    """Return the column of the class; None where there is none and none was asked for."""
    if asked is not None and asked not in columns:
        raise UsageError(f"{path}: no column {asked!r}; it has {listed(columns)}")
    return asked or next((name for name in CLASS_COLUMNS if name in columns), None)


def listed(columns: Sequence[str]) -> str:
    """Return the names of columns for a message."""
    return ", ".join([*(column[:40] for column in columns[:12]), *["…"][: len(columns) > 12]]) or "none"


def _first_line(error: Exception) -> str:
    return next(iter(str(error).splitlines()), type(error).__name__)[:200]
