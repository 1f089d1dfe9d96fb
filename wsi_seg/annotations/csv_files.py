"""CSV with the outlines of many images, our own format; positions are pixels of the image.

One row for each outline, its points as alternating x and y between blanks:

    image,class,points
    benign/case 1.png,benign,"10.5 20 40 22.5 30 60"
    normal/case 9.png,,

or one row for each corner, as many programs write:

    image,polygon,class,x,y
    benign/case 1.png,1,benign,10.5,20

The column `class` may be left out. An image with nothing to outline is listed without points.
"""

from __future__ import annotations

import csv
import io
from collections.abc import Iterable, Iterator
from pathlib import Path

from wsi_seg.annotations.annotation import Content, Drawn, polygon_of
from wsi_seg.core.errors import MaskError

Rows = Iterable[tuple[int, dict[str, str]]]


def read_csv(text: str, path: Path) -> Content:
    """Read the outlines of a CSV file; raises MaskError."""
    try:
        reader = csv.DictReader(io.StringIO(text, newline=""))
        rows = list(enumerate(reader, start=2))
        columns = list(reader.fieldnames or ())
    except csv.Error as error:
        raise MaskError(f"{path}: no valid CSV ({error})") from error
    for number, row in rows:
        if None in row or None in row.values():
            raise MaskError(f"{path}: row {number} has not the {len(columns)} columns of the first row")
    if {"image", "points"} <= set(columns):
        drawn = list(_row_for_each_outline(path, rows))
    elif {"image", "polygon", "x", "y"} <= set(columns):
        drawn = list(_row_for_each_corner(path, rows))
    else:
        shown = ", ".join(" ".join(column[:40].split()) for column in columns[:10])
        raise MaskError(
            f"{path}: the columns are {shown or 'none'}; needed are image and points, or image, "
            "polygon, x and y, and perhaps class"
        )
    return Content(drawn, images={row["image"].strip(): None for _, row in rows})


def _row_for_each_outline(path: Path, rows: Rows) -> Iterator[Drawn]:
    for number, row in rows:
        where = f"{path}: row {number}"
        values = [_number(text, where) for text in row["points"].replace(",", " ").split()]
        if len(values) % 2:
            raise MaskError(f"{where}: points are pairs of x and y, but there are {len(values)} numbers")
        if values:
            points = list(zip(values[::2], values[1::2], strict=True))
            name = row.get("class", "").strip() or None
            yield Drawn("outline", polygon_of(points, where), name, where, row["image"].strip())


def _row_for_each_corner(path: Path, rows: Rows) -> Iterator[Drawn]:
    corners: dict[tuple[str, str], list[tuple[float, float]]] = {}
    names: dict[tuple[str, str], str] = {}
    for number, row in rows:
        where = f"{path}: row {number}"
        key = row["image"].strip(), row["polygon"].strip()
        points = corners.setdefault(key, [])
        name = row.get("class", "").strip()
        if names.setdefault(key, name) != name:
            raise MaskError(
                f"{where}: polygon {key[1]!r} is of class {name[:40]!r} here and {names[key][:40]!r} above"
            )
        if row["x"].strip() or row["y"].strip():
            points.append((_number(row["x"], where), _number(row["y"], where)))
    for key, points in corners.items():
        where = f"{path}: polygon {key[1]!r} of image {key[0]!r}"
        if points:
            yield Drawn("outline", polygon_of(points, where), names[key] or None, where, key[0])


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise MaskError(f"{where}: {text[:40]!r} is no number") from error
