"""Regions as XML that ASAP opens, one annotation for each outline.

ASAP shows the whole of level 0, also of slides with bounds, and has no holes. As in CAMELYON, a hole is an
annotation of a group of its own, `Tumor hole` within the group `Tumor`. Where ASAP turns annotations into a
mask, give `Tumor hole` the value 0 and name it after `Tumor`. The attributes of a group, which ASAP keeps,
say what a group of holes belongs to (`hole_of`) and what was subtracted of l0 positions (`subtracted_l0`).
The format is that of ASAP's XmlRepository (github.com/computationalpathologygroup/ASAP).
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from wsi_seg.annotations.annotation import HOLE_OF, SUBTRACTED
from wsi_seg.core.classes import ClassGroup, hex_code
from wsi_seg.exporters.placed import PlacedRegion, origin_l0
from wsi_seg.exporters.source import Exported, RegionSource
from wsi_seg.exporters.xml_stream import XMLStream, number_texts, outlines, xml_file


def export(source: RegionSource, path: Path) -> Exported:
    """Write the regions as annotations, and their classes as groups.

    Raises:
        UsageError, MppMissingError: as `RegionSource.regions`.
        OutputError: the file cannot be written, or the maps are damaged.
    """
    count = 0
    with_holes: set[str] = set()
    with xml_file(path) as xml, xml.element("ASAP_Annotations"):
        with xml.element("Annotations"):
            for item in source.regions():
                count += 1
                if _write_region(xml, item):
                    with_holes.add(item.region.group.qupath_name)
        with xml.element("AnnotationGroups"):
            x, y = origin_l0(source.slide, source.settings.origin)
            for group in {group.qupath_name: group for group in source.groups}.values():
                _write_group(xml, group, f"{x:g} {y:g}", group.qupath_name in with_holes)
    return Exported(path, f"{count} regions")


def _write_region(xml: XMLStream, item: PlacedRegion) -> int:
    """Write a region and return how many holes it has."""
    group, found = item.region.group, 0
    for name, outer, holes in outlines(item):
        _write_annotation(xml, name, group.qupath_name, group, outer)
        for hole in holes:
            found += 1
            _write_annotation(xml, f"{item.name} hole {found}", _hole_group(group), group, hole)
    return found


def _write_annotation(
    xml: XMLStream, name: str, part_of: str, group: ClassGroup, ring: NDArray[np.float64]
) -> None:
    color = hex_code(group.color)
    with xml.element("Annotation", Name=name, Type="Polygon", PartOfGroup=part_of, Color=color):
        with xml.element("Coordinates"):
            for order, (x, y) in enumerate(number_texts(ring)):
                xml.empty("Coordinate", Order=order, X=x, Y=y)


def _write_group(xml: XMLStream, group: ClassGroup, subtracted: str, with_holes: bool) -> None:
    own, color = {SUBTRACTED: subtracted}, hex_code(group.color)
    with xml.element("Group", Name=group.qupath_name, PartOfGroup="None", Color=color):
        with xml.element("Attributes"):
            xml.empty("Attribute", **own)
    if with_holes:
        with xml.element("Group", Name=_hole_group(group), PartOfGroup=group.qupath_name, Color=color):
            with xml.element("Attributes"):
                xml.empty("Attribute", **own)
                xml.empty("Attribute", **{HOLE_OF: group.qupath_name})


def _hole_group(group: ClassGroup) -> str:
    return f"{group.qupath_name} hole"
