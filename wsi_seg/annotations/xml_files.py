"""XML of ASAP, Aperio ImageScope and HALO: positions are l0 pixels of the whole slide.

Unless the file says what was subtracted of them, as our own can (`SUBTRACTED`).
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import shapely

from wsi_seg.annotations.annotation import (
    HOLE_OF,
    SUBTRACTED,
    Content,
    Drawn,
    polygon_of,
    polygonal_part,
    union_of,
    within_corners,
)
from wsi_seg.core.errors import MaskError

if TYPE_CHECKING:
    from xml.etree.ElementTree import Element

# A spline of ASAP is taken as the polygon of its points.
ASAP_AREAS = ("Polygon", "Spline", "Rectangle")
# Aperio numbers its types, HALO names them; all others (arrows, rulers, pins) have no area. Some programs
# that write such files leave out the type.
RECTANGLES, ELLIPSES = ("1", "Rectangle"), ("2", "Ellipse")
AREAS = ("0", "Polygon", *RECTANGLES, *ELLIPSES)


def read_asap(root: Element, path: Path) -> Content:
    """Read what is drawn in ASAP's XML: the class of each is its group; raises MaskError.

    Annotations of a group with the attribute `hole_of` are holes in the larger ones of that group; smaller
    ones lie within the hole.
    """
    own = {group.get("Name"): _own_attributes(group) for group in root.findall("./AnnotationGroups/Group")}
    drawn: list[Drawn] = []
    regions: dict[str | None, list[Drawn]] = {}
    holes: dict[str | None, list[shapely.Geometry | None]] = {}
    for number, item in enumerate(root.findall("./Annotations/Annotation"), start=1):
        where, kind = f"{path}: annotation {number}", item.get("Type", "none")
        points = _points(item.findall("./Coordinates/Coordinate"), where)
        shape = polygon_of(points, where) if kind in ASAP_AREAS else None
        group = item.get("PartOfGroup", "None")
        outer = own.get(group, {}).get(HOLE_OF)
        if outer is None:
            name = None if group in ("None", "") else group
            regions.setdefault(name, []).append(Drawn(kind, shape, name, where))
        else:
            drawn.append(Drawn(HOLE_OF, None, None, where))
            holes.setdefault(outer, []).append(shape)
    for name, found in regions.items():
        drawn.extend(_without(found, _areas(holes.get(name, ()))))
    return Content(drawn, _subtracted([attributes.get(SUBTRACTED) for attributes in own.values()], path))


def read_layers(root: Element, path: Path) -> Content:
    """Read what is drawn in the XML of Aperio or HALO; raises MaskError.

    The class of a region is that of its layer. A region with NegativeROA is a hole in the larger ones of its
    layer; smaller ones lie within the hole.
    """
    drawn = []
    for count, layer in enumerate(root.findall("./Annotation"), start=1):
        regions, holes = [], []
        for number, region in enumerate(layer.findall("./Regions/Region"), start=1):
            where, kind = f"{path}: region {number} of layer {count}", region.get("Type", "0")
            shape = _shape(region, kind, where)
            if region.get("NegativeROA", "0") in ("", "0"):
                regions.append(Drawn(kind, shape, _layer_name(layer), where))
            else:
                drawn.append(Drawn("NegativeROA", None, None, where))
                holes.append(shape)
        drawn.extend(_without(regions, _areas(holes)))
    attributes = root.findall("./Annotation/Attributes/Attribute")
    said = [item.get("Value") for item in attributes if item.get("Name") == SUBTRACTED]
    return Content(drawn, _subtracted(said, path))


def _without(regions: Sequence[Drawn], holes: Sequence[shapely.Geometry]) -> list[Drawn]:
    """Return regions without the smaller ones of the holes."""
    tree = shapely.STRtree(holes)
    left = []
    for region in regions:
        shape = None if region.geometry is None else polygonal_part(region.geometry)
        if shape is not None and holes:
            found = [holes[i] for i in tree.query(shape, predicate="intersects")]
            cut = union_of([hole for hole in found if hole.area < shape.area])
            region = Drawn(region.kind, shapely.difference(shape, cut), region.name, region.where)
        left.append(region)
    return left


def _areas(shapes: Iterable[shapely.Geometry | None]) -> list[shapely.Geometry]:
    """Return the valid parts of shapes that have an area."""
    parts = [polygonal_part(shape) for shape in shapes if shape is not None]
    return [part for part in parts if part is not None]


def _own_attributes(group: Element) -> dict[str, str]:
    """Return the attributes that a group of ASAP has been given."""
    return {name: value for item in group.findall("./Attributes/Attribute") for name, value in item.items()}


def _subtracted(said: Iterable[str | None], path: Path) -> tuple[float, float]:
    """Return what was subtracted of l0 positions, x and y, as groups or layers say; 0 where none does."""
    texts = {text for text in said if text is not None}
    if not texts:
        return 0.0, 0.0
    try:
        (text,) = texts
        x, y = map(float, text.split())
        if not math.isfinite(x + y):
            raise ValueError(text)
    except ValueError as error:
        shown = ", ".join(repr(text[:40]) for text in sorted(texts)[:3])
        raise MaskError(
            f"{path}: {SUBTRACTED} is {shown}, not one x and y; correct it, or remove the attribute"
        ) from error
    return x, y


def _shape(region: Element, kind: str, where: str) -> shapely.Geometry | None:
    if kind not in AREAS:
        return None
    points = _points([*region.findall("./Vertices/Vertex"), *region.findall("./Vertices/V")], where)
    ellipse = kind in ELLIPSES and len(points) <= 4
    if ellipse or (kind in RECTANGLES and len(points) == 2):
        return within_corners(points, where, ellipse=ellipse)
    return polygon_of(points, where)


def _layer_name(layer: Element) -> str | None:
    """Return the class of a layer: its name; where it has none, the value or name of its first attribute."""
    first = layer.find("./Attributes/Attribute")
    attribute = {} if first is None else first.attrib
    own = "" if attribute.get("Name") == "Description" else attribute.get("Name", "")
    names = (layer.get("Name", ""), attribute.get("Value", ""), own)
    return next((name.strip() for name in names if name.strip()), None)


def _points(elements: Sequence[Element], where: str) -> list[tuple[float, float]]:
    return [(_number(element, "X", where), _number(element, "Y", where)) for element in elements]


def _number(element: Element, key: str, where: str) -> float:
    text = element.get(key, "")
    try:
        return float(text)
    except ValueError as error:
        raise MaskError(f"{where}: {key} is {text[:40]!r}, which is no number") from error
