"""JSON of the Digital Slide Archive, COCO, Labelme, and our own list of outlines.

Our own names the image of each outline; one with nothing to outline is listed without points:

    [{"image": "benign/case 1.png", "class": "benign", "points": [[10.5, 20], [40, 22.5], [30, 60]]}]

Positions are pixels of the image; those of the Digital Slide Archive are l0 pixels of the whole slide.
"""

from __future__ import annotations

import base64
import binascii
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, TypeVar

import numpy as np
import shapely
from numpy.typing import NDArray
from PIL import Image
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, TypeAdapter, ValidationError

from wsi_seg.annotations.annotation import (
    Content,
    Drawn,
    ellipse_of,
    pixels_of,
    polygon_of,
    union_of,
    within_corners,
)
from wsi_seg.core.errors import MaskError
from wsi_seg.core.geometry import Size

Number = Annotated[float, Field(allow_inf_nan=False)]
Point = tuple[Number, Number]
Position = Annotated[list[Number], Field(min_length=2, max_length=3)]
"""x, y and perhaps z."""
Model = TypeVar("Model")


def _parsed(kind: type[Model] | Any, document: Any, path: Path, title: str) -> Model:
    try:
        parsed: Model = TypeAdapter(kind).validate_python(document)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "document"
        raise MaskError(f"{path}: no valid {title}: {key}: {first['msg']}") from error
    return parsed


# --- our own ----------------------------------------------------------------------------------------------


class _Own(BaseModel):
    image: str
    name: str | None = Field(default=None, alias="class")
    points: list[Point] = []


def read_outlines(document: Any, path: Path) -> Content:
    """Read our own list of outlines; raises MaskError."""
    rows: list[_Own] = _parsed(list[_Own], document, path, "list of outlines (image, class, points)")
    drawn = []
    for number, row in enumerate(rows):
        where = f"{path}: outline {number}"
        if row.points:
            drawn.append(Drawn("outline", polygon_of(row.points, where), row.name, where, row.image))
    return Content(drawn, images={row.image: None for row in rows})


# --- Digital Slide Archive ----------------------------------------------------------------------------------


class _Label(BaseModel):
    value: str = ""


class _Element(BaseModel):
    type: str
    group: str | None = None
    label: _Label = _Label()
    points: list[Position] = []
    closed: bool = False
    holes: list[list[Position]] = []
    center: Position = [0.0, 0.0]
    width: Number = 0.0
    height: Number = 0.0
    radius: Number = 0.0
    rotation: Number = 0.0
    """Radians, from x toward y."""


class _Elements(BaseModel):
    elements: list[_Element]


def read_dsa(document: Any, path: Path) -> Content:
    """Read one or several annotations as the Digital Slide Archive exports them; raises MaskError.

    The class of an element is its group or else its label.
    """
    parts = document if isinstance(document, list) else [document]
    bare = [part.get("annotation", part) if isinstance(part, dict) else part for part in parts]
    found: list[_Elements] = _parsed(list[_Elements], bare, path, "annotation of the Digital Slide Archive")
    drawn = []
    for count, part in enumerate(found, start=1):
        for number, element in enumerate(part.elements, start=1):
            where = f"{path}: element {number} of annotation {count}"
            name = element.group or element.label.value or None
            drawn.append(Drawn(element.type, _element_shape(element, where), name, where))
    return Content(drawn)


def _element_shape(element: _Element, where: str) -> shapely.Geometry | None:
    half = element.width / 2, element.height / 2
    match element.type:
        case "polyline" if element.closed:
            return polygon_of(element.points, where, element.holes)
        case "rectangle" | "rectanglegrid":
            upright = shapely.box(-half[0], -half[1], *half)
            cos, sin = math.cos(element.rotation), math.sin(element.rotation)
            x, y = element.center[:2]
            return shapely.transform(upright, lambda xy: xy @ [[cos, sin], [-sin, cos]] + (x, y))
        case "ellipse":
            return ellipse_of(element.center, half, element.rotation)
        case "circle":
            return ellipse_of(element.center, (element.radius, element.radius))
    return None


# --- COCO -------------------------------------------------------------------------------------------------


class _Runs(BaseModel):
    """Pixels of an image as lengths of runs of 0 and 1 by turns, column after column."""

    size: tuple[int, int]
    """Rows and columns."""
    counts: list[int] | str


class _CocoImage(BaseModel):
    id: int | str
    file_name: str
    width: int | None = None
    height: int | None = None


class _CocoAnnotation(BaseModel):
    image_id: int | str
    category_id: int | str | None = None
    segmentation: Annotated[
        Annotated[list[list[Number]], Tag("polygons")] | Annotated[_Runs, Tag("runs")],
        Discriminator(lambda value: "runs" if isinstance(value, dict | _Runs) else "polygons"),
    ]


class _CocoCategory(BaseModel):
    id: int | str
    name: str


class _Coco(BaseModel):
    images: list[_CocoImage]
    annotations: list[_CocoAnnotation]
    categories: list[_CocoCategory] = []


def read_coco(document: Any, path: Path) -> Content:
    """Read a COCO document whose segmentations are polygons or run lengths; raises MaskError."""
    coco: _Coco = _parsed(_Coco, document, path, "COCO document with polygons or run lengths")
    images: dict[Any, str] = {image.id: image.file_name for image in coco.images}
    names: dict[Any, str] = {category.id: category.name for category in coco.categories}
    drawn = []
    for number, item in enumerate(coco.annotations):
        where = f"{path}: annotation {number}"
        if item.image_id not in images:
            raise MaskError(f"{where}: there is no image of id {item.image_id!r}")
        if item.category_id is not None and item.category_id not in names:
            raise MaskError(f"{where}: there is no category of id {item.category_id!r}")
        parts = item.segmentation
        shape = _shape_of_runs(parts, where) if isinstance(parts, _Runs) else _shape_of_parts(parts, where)
        drawn.append(Drawn("object", shape, names.get(item.category_id), where, images[item.image_id]))
    return Content(drawn, images={i.file_name: _size(i.width, i.height) for i in coco.images})


def _size(width: int | None, height: int | None) -> Size | None:
    return Size(width, height) if width and height else None


def _shape_of_parts(parts: Sequence[Sequence[float]], where: str) -> shapely.Geometry:
    if not parts:
        raise MaskError(f"{where}: has no polygon")
    if any(len(part) % 2 for part in parts):
        raise MaskError(f"{where}: a polygon has an odd number of coordinates")
    return union_of([polygon_of(list(zip(part[::2], part[1::2], strict=True)), where) for part in parts])


def _shape_of_runs(runs: _Runs, where: str) -> shapely.Geometry:
    counts = _decoded(runs.counts, where) if isinstance(runs.counts, str) else runs.counts
    height, width = runs.size
    if min(height, width, *counts) < 0 or sum(counts) != height * width:
        raise MaskError(
            f"{where}: its run lengths are those of {sum(counts)} pixels, but its size is {width}×{height}"
        )
    ends = np.cumsum(counts, dtype=np.int64)
    return pixels_of(ends[0::2][: len(ends) // 2], ends[1::2], max(height, 1))


def _decoded(text: str, where: str) -> list[int]:
    """Return run lengths of COCO's text: five bits a character, each length less the one two before it."""
    counts: list[int] = []
    value = shift = 0
    for character in text:
        bits = ord(character) - 48
        if not 0 <= bits < 64 or shift > 60:
            raise MaskError(f"{where}: {character!r} in its run lengths is damaged")
        value |= (bits & 31) << shift
        shift += 5
        if not bits & 32:
            value -= (bits & 16) and 1 << shift
            counts.append(value + (counts[-2] if len(counts) > 2 else 0))
            value = shift = 0
    if shift:
        raise MaskError(f"{where}: its run lengths are cut off")
    return counts


# --- Labelme ----------------------------------------------------------------------------------------------


class _Shape(BaseModel):
    label: str | None = None
    points: list[Point]
    shape_type: str | None = None
    mask: str | None = None
    """A PNG in Base64: the pixels of the box that the points span."""


class _Labelme(BaseModel):
    model_config = ConfigDict(populate_by_name=True)

    image: str = Field(alias="imagePath")
    width: int | None = Field(default=None, alias="imageWidth")
    height: int | None = Field(default=None, alias="imageHeight")
    shapes: list[_Shape]


def read_labelme(document: Any, path: Path) -> Content:
    """Read what Labelme has drawn on an image; raises MaskError."""
    labelme: _Labelme = _parsed(_Labelme, document, path, "file of Labelme")
    image = labelme.image.replace("\\", "/")
    drawn = []
    for number, shape in enumerate(labelme.shapes, start=1):
        where, kind = f"{path}: shape {number}", shape.shape_type or "polygon"
        drawn.append(Drawn(kind, _labelme_shape(shape, kind, where), shape.label or None, where, image))
    return Content(drawn, images={image: _size(labelme.width, labelme.height)})


def _labelme_shape(shape: _Shape, kind: str, where: str) -> shapely.Geometry | None:
    match kind, shape.points:
        case "mask", [corner, _]:
            pixels = _mask_pixels(shape.mask or "", where)
            return shapely.transform(pixels, lambda xy: xy + np.floor(corner))
        case "rectangle", [_, _]:
            return within_corners(shape.points, where, ellipse=False)
        case "circle", [center, edge]:
            radius = math.dist(center, edge)
            return ellipse_of(center, (radius, radius))
        case (("polygon" | "rectangle" | "rotation"), points):
            return polygon_of(points, where)
        case (("mask" | "circle"), points):
            raise MaskError(f"{where}: a {kind} has 2 points, this one has {len(points)}")
    return None


def _mask_pixels(text: str, where: str) -> shapely.Geometry:
    try:
        with Image.open(io.BytesIO(base64.b64decode(text))) as opened:
            marked: NDArray[np.bool_] = np.asarray(opened.convert("L")) > 0
    except (binascii.Error, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise MaskError(f"{where}: its mask is no PNG in Base64 ({str(error)[:100]})") from error
    changes = np.flatnonzero(np.diff(marked.T.ravel(), prepend=False, append=False))
    return pixels_of(changes[0::2], changes[1::2], marked.shape[0])
