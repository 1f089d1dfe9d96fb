"""Files that hold the outlines of many images: CSV and JSON.

Positions are pixels of the image, x to the right and y down, from the image's upper left corner: the center
of the first pixel is (0.5, 0.5). Programs that number pixel centers from 0 (OpenCV) are half a pixel off.

CSV, one row for each outline (our own format), its points as alternating x and y between blanks:

    image,class,points
    benign/case 1.png,benign,"10.5 20 40 22.5 30 60"
    normal/case 9.png,,

or one row for each corner, as many programs write:

    image,polygon,class,x,y
    benign/case 1.png,1,benign,10.5,20

JSON, either a list of outlines (our own format)

    [{"image": "benign/case 1.png", "class": "benign", "points": [[10.5, 20], [40, 22.5], [30, 60]]}]

or a COCO document with `images`, `annotations` whose segmentations are polygons, and `categories`.

The column or key `class` may be left out. An image with nothing to outline is listed without points.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import shapely
from pydantic import BaseModel, Field, TypeAdapter, ValidationError
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.geojson import load_json, polygonal_part
from wsi_seg.core.errors import DataError, MaskError
from wsi_seg.core.files import reading

Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Outline:
    """One outline of an image."""

    polygon: Polygon | MultiPolygon
    """Valid, area above zero, in pixels of the image."""
    name: str | None
    """Of its class; None where the file does not say."""
    where: str
    """File and row, for messages."""


@dataclass(frozen=True, slots=True)
class _Drawn:
    """One outline as a file has it, before any check."""

    image: str
    name: str | None
    parts: tuple[Sequence[Point], ...]
    where: str


def read_outlines(path: Path) -> dict[str, list[Outline]]:
    """Read the outlines of a CSV or JSON file, in one of the formats above.

    Returns:
        For each image that the file names, its outlines, perhaps none.

    Raises:
        DataError: the file cannot be read or is in none of the formats, or an outline has fewer than three
            points or no area.
    """
    suffix = path.suffix.lower()
    if suffix not in (".csv", ".json"):
        raise DataError(f"{path}: outlines are read from .csv and .json")
    outlines: dict[str, list[Outline]] = {}
    for drawn in _read_csv(path) if suffix == ".csv" else _read_json(path):
        of_image = outlines.setdefault(drawn.image, [])
        if any(len(points) for points in drawn.parts):
            of_image.append(Outline(_polygon(drawn), drawn.name, drawn.where))
    return outlines


def _polygon(drawn: _Drawn) -> Polygon | MultiPolygon:
    for points in drawn.parts:
        if len(points) < 3:
            raise DataError(f"{drawn.where}: an outline has at least 3 points, this one has {len(points)}")
        if not all(map(math.isfinite, (value for point in points for value in point))):
            raise DataError(f"{drawn.where}: a position is not a finite number")
    polygon = polygonal_part(shapely.union_all([_valid(points) for points in drawn.parts]))
    if polygon is None:
        raise DataError(f"{drawn.where}: the outline encircles no area")
    return polygon


def _valid(points: Sequence[Point]) -> Polygon | MultiPolygon:
    return polygonal_part(Polygon(points)) or Polygon()


# --- CSV ----------------------------------------------------------------------------------------------


def _read_csv(path: Path) -> Iterator[_Drawn]:
    try:
        with reading(path, DataError), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(enumerate(reader, start=2))
            columns = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no valid CSV ({error})") from error
    for number, row in rows:
        if None in row or None in row.values():
            raise DataError(f"{path}: row {number} has not the {len(columns)} columns of the first row")
    if {"image", "points"} <= set(columns):
        return _row_for_each_outline(path, rows)
    if {"image", "polygon", "x", "y"} <= set(columns):
        return _row_for_each_corner(path, rows)
    raise DataError(
        f"{path}: the columns are {', '.join(columns) or 'none'}; needed are image and points, or image, "
        "polygon, x and y, and perhaps class"
    )


def _row_for_each_outline(path: Path, rows: Iterable[tuple[int, dict[str, str]]]) -> Iterator[_Drawn]:
    for number, row in rows:
        where = f"{path}: row {number}"
        values = [_number(text, where) for text in row["points"].replace(",", " ").split()]
        if len(values) % 2:
            raise DataError(f"{where}: points are pairs of x and y, but there are {len(values)} numbers")
        points = list(zip(values[::2], values[1::2], strict=True))
        yield _Drawn(row["image"].strip(), row.get("class", "").strip() or None, (points,), where)


def _row_for_each_corner(path: Path, rows: Iterable[tuple[int, dict[str, str]]]) -> Iterator[_Drawn]:
    corners: dict[tuple[str, str], list[Point]] = {}
    names: dict[tuple[str, str], str] = {}
    for number, row in rows:
        where = f"{path}: row {number}"
        key = row["image"].strip(), row["polygon"].strip()
        points = corners.setdefault(key, [])
        name = row.get("class", "").strip()
        if names.setdefault(key, name) != name:
            raise DataError(f"{where}: polygon {key[1]!r} is of class {name!r} here and {names[key]!r} above")
        if row["x"].strip() or row["y"].strip():
            points.append((_number(row["x"], where), _number(row["y"], where)))
    for key, points in corners.items():
        yield _Drawn(key[0], names[key] or None, (points,), f"{path}: polygon {key[1]!r} of image {key[0]!r}")


def _number(text: str, where: str) -> float:
    try:
        return float(text)
    except ValueError as error:
        raise DataError(f"{where}: {text!r} is no number") from error


# --- JSON ---------------------------------------------------------------------------------------------


class _Own(BaseModel):
    image: str
    name: str | None = Field(default=None, alias="class")
    points: list[Point] = []


class _CocoImage(BaseModel):
    id: int | str
    file_name: str


class _CocoAnnotation(BaseModel):
    image_id: int | str
    category_id: int | str | None = None
    segmentation: list[list[float]]


class _CocoCategory(BaseModel):
    id: int | str
    name: str


class _Coco(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory] = []


def _read_json(path: Path) -> Iterator[_Drawn]:
    try:
        document = load_json(path)
    except MaskError as error:
        raise DataError(str(error)) from error
    try:
        if isinstance(document, list):
            return _own_outlines(path, TypeAdapter(list[_Own]).validate_python(document))
        return _coco_outlines(path, _Coco.model_validate(document))
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "document"
        raise DataError(
            f"{path}: neither a list of outlines (image, class, points) nor COCO with polygons: {key}: "
            f"{first['msg']}"
        ) from error


def _own_outlines(path: Path, rows: list[_Own]) -> Iterator[_Drawn]:
    for number, row in enumerate(rows):
        yield _Drawn(row.image, row.name, (row.points,), f"{path}: outline {number}")


def _coco_outlines(path: Path, document: _Coco) -> Iterator[_Drawn]:
    images: dict[Any, str] = {image.id: image.file_name for image in document.images}
    names: dict[Any, str] = {category.id: category.name for category in document.categories}
    for name in images.values():
        yield _Drawn(name, None, (), str(path))
    for number, item in enumerate(document.annotations):
        where = f"{path}: annotation {number}"
        if item.image_id not in images:
            raise DataError(f"{where}: there is no image of id {item.image_id!r}")
        if item.category_id is not None and item.category_id not in names:
            raise DataError(f"{where}: there is no category of id {item.category_id!r}")
        if not item.segmentation:
            raise DataError(f"{where}: has no polygon")
        if any(len(part) % 2 for part in item.segmentation):
            raise DataError(f"{where}: a polygon has an odd number of coordinates")
        parts = tuple(list(zip(part[::2], part[1::2], strict=True)) for part in item.segmentation)
        yield _Drawn(images[item.image_id], names.get(item.category_id), parts, where)
