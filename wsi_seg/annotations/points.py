"""Cells that other programs found, as points with a class: GeoJSON, GeoParquet and tables.

A polygon counts as its centroid. Tables are CSV, or separated by tabs as QuPath writes measurements. A file
is told by the end of its name.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations.annotation import UNCLASSIFIED
from wsi_seg.annotations.geojson import classification_name, features_of, subtracted_of
from wsi_seg.annotations.geoparquet import class_column_of, listed, read_rows
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.core.files import check_plain, read_plain, reading

Unit = Literal["pixel", "um"]

# Columns of x and y, and their unit, as far as names say it; the first pair that a table has is taken.
POSITIONS: tuple[tuple[str, str, Unit], ...] = (
    ("x", "y", "pixel"),
    ("x_l0", "y_l0", "pixel"),
    ("centroid_x_l0", "centroid_y_l0", "pixel"),
    ("x_um", "y_um", "um"),
    ("Centroid X µm", "Centroid Y µm", "um"),
    ("Centroid X px", "Centroid Y px", "pixel"),
)
ENDINGS = (".geojson", ".geojson.gz", ".json", ".zip", ".parquet", ".csv", ".tsv", ".txt")


@dataclass(frozen=True, slots=True, eq=False)
class Cells:
    """Points, each of a class."""

    xy: NDArray[np.float64]
    """(n, 2) x, y as in the file."""
    codes: NDArray[np.int32]
    """(n,) index into `names`."""
    names: tuple[str, ...]
    """Classes, sorted."""
    unit: Unit
    subtracted_l0: tuple[float, float] | None
    """Offset to add to get l0 positions; None: the file does not say."""


def read_cells(path: Path, class_column: str | None = None) -> Cells:
    """Read the cells of a file.

    Args:
        path: ends with one of `ENDINGS`.
        class_column: column of the class in GeoParquet and tables; None: see `geoparquet`.

    Raises:
        UsageError: another ending, no such column, or a library that is not installed.
        MaskError: it cannot be read, is damaged, or holds no cells.
    """
    readers: dict[tuple[str, ...], Callable[[Path, str | None], Cells]] = {
        ENDINGS[:4]: _read_geojson,
        ENDINGS[4:5]: _read_parquet,
        ENDINGS[5:]: _read_table,
    }
    for endings, read in readers.items():
        if path.name.lower().endswith(endings):
            with reading(path, MaskError):
                check_plain(path, MaskError)
                cells = read(path, class_column)
            break
    else:
        raise UsageError(f"{path}: cells come from files that end with {', '.join(ENDINGS)}")
    if not len(cells.xy):
        raise MaskError(f"{path}: holds no cells")
    if not np.isfinite(cells.xy).all():
        number = int(np.flatnonzero(~np.isfinite(cells.xy).all(axis=1))[0]) + 1
        raise MaskError(f"{path}: the position of cell {number} is not finite")
    return cells


def _coded(
    xy: NDArray[np.float64], names: Sequence[Any], unit: Unit, subtracted: tuple[float, float] | None
) -> Cells:
    texts = [UNCLASSIFIED if name is None or name == "" else str(name) for name in names]
    classes, codes = np.unique(np.array(texts, dtype=object).astype(str), return_inverse=True)
    return Cells(
        xy.reshape(-1, 2), codes.astype(np.int32), tuple(map(str, classes.tolist())), unit, subtracted
    )


def _read_geojson(path: Path, class_column: str | None) -> Cells:
    if class_column is not None:
        raise UsageError(f"{path}: GeoJSON has its classes as classification, not in a column")
    try:
        document = json.loads(read_plain(path, MaskError))
        kept = [feature for feature in features_of(document, path) if feature.get("geometry")]
        shapes = shapely.from_geojson([json.dumps(feature["geometry"]) for feature in kept])
    except (ValueError, RecursionError, shapely.GEOSException) as error:
        raise MaskError(f"{path}: damaged GeoJSON ({str(error).splitlines()[0]})") from error
    names = [classification_name(feature.get("properties")) for feature in kept]
    return _coded(
        shapely.get_coordinates(shapely.centroid(shapes)), names, "pixel", subtracted_of(document, path)
    )


def _read_parquet(path: Path, class_column: str | None) -> Cells:
    rows = read_rows(path, class_column)
    points, names = [np.empty((0, 2))], []
    for shapes, of_batch in rows.batches:
        center = shapely.centroid(shapes)
        points.append(np.column_stack([shapely.get_x(center), shapely.get_y(center)]))
        names += of_batch
    return _coded(np.concatenate(points), names, "pixel", rows.subtracted_l0)


def _read_table(path: Path, class_column: str | None) -> Cells:
    with path.open(newline="", encoding="utf-8-sig") as file:
        try:
            first = file.readline()
            file.seek(0)
            rows = csv.DictReader(file, delimiter="\t" if "\t" in first else ",")
            columns = list(rows.fieldnames or ())
            found = [known for known in POSITIONS if known[0] in columns and known[1] in columns]
            if not found:
                pairs = "; ".join(f"{x}, {y}" for x, y, _ in POSITIONS)
                raise MaskError(f"{path}: no columns of positions ({pairs}); it has {listed(columns)}")
            x, y, unit = found[0]
            name = class_column_of(path, columns, class_column)
            values = list(_positions(path, rows, (x, y), name))
        except (csv.Error, UnicodeDecodeError) as error:
            raise MaskError(f"{path}: damaged table ({error})") from error
    xy = np.array([value[:2] for value in values], dtype=float)
    return _coded(xy, [value[2] for value in values], unit, None)


def _positions(
    path: Path, rows: Iterable[dict[str, str]], xy: tuple[str, str], name: str | None
) -> Iterator[tuple[float, float, str | None]]:
    for number, row in enumerate(rows, start=2):
        try:
            x, y = float(row[xy[0]]), float(row[xy[1]])
        except (TypeError, ValueError) as error:
            shown = f"{str(row[xy[0]])[:40]!r}, {str(row[xy[1]])[:40]!r}"
            raise MaskError(f"{path}: row {number}: {shown} is no position") from error
        if not math.isfinite(x + y):
            raise MaskError(f"{path}: row {number}: the position is not finite")
        yield x, y, row[name] if name else None
