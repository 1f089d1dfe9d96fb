"""Regions as XML that Aperio ImageScope opens: one layer for each class.

A hole is a region with `NegativeROA="1"` in the same layer, as ImageScope writes it. ImageScope shows the
whole of level 0. A layer can have attributes of its own: `subtracted_l0` says what was subtracted of l0
positions. There is no public specification; elements and attributes are those of files that ImageScope
wrote.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import count, groupby
from pathlib import Path

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations.annotation import SUBTRACTED
from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.geometry import Scale
from wsi_seg.exporters.placed import PlacedRegion, origin_l0
from wsi_seg.exporters.source import Exported, RegionSource
from wsi_seg.exporters.xml_stream import XMLStream, number_texts, outlines, xml_file
from wsi_seg.slides.slide import require_mpp

# Columns of the list of regions: their ids, titles and widths, as in ImageScope's own files.
HEADERS = (("9999", "Region"), ("9997", "Length"), ("9996", "Area"), ("9998", "Text"), ("1", "Description"))
POLYGON = "0"


def export(source: RegionSource, path: Path) -> Exported:
    """Write the regions, one layer for each class, with lengths and areas of what is drawn.

    A file has one resolution: where x and y differ, it is the one with which areas are right.

    Raises:
        UsageError, MppMissingError: as `RegionSource.regions`.
        OutputError: the file cannot be written, or the maps are damaged.
    """
    mpp = require_mpp(source.slide)
    layers = _Layers(mpp, "{:g} {:g}".format(*origin_l0(source.slide, source.settings.origin)))
    left = dict.fromkeys(source.groups)
    regions = 0
    with xml_file(path) as xml:
        with xml.element("Annotations", MicronsPerPixel=f"{math.sqrt(mpp.x * mpp.y):.6f}"):
            for group, items in groupby(source.regions(), key=lambda item: item.region.group):
                regions += layers.write(xml, group, items)
                left.pop(group)
            for group in left:
                layers.write(xml, group, ())
    return Exported(path, f"{regions} regions")


class _Layers:
    """Writer of layers, which numbers them."""

    def __init__(self, mpp: Scale, subtracted: str) -> None:
        self._mpp, self._subtracted = mpp, subtracted
        self._numbers = count(1)

    def write(self, xml: XMLStream, group: ClassGroup, items: Iterable[PlacedRegion]) -> int:
        """Write a layer with some regions, and return how many they are."""
        red, green, blue = group.color
        own = {"Id": next(self._numbers), "Name": group.qupath_name, "ReadOnly": 0, "NameReadOnly": 0,
               "LineColorReadOnly": 0, "Incremental": 0, "Type": 4,
               "LineColor": red + 256 * green + 65536 * blue, "Visible": 1, "Selected": 0,
               "MarkupImagePath": "", "MacroName": ""}  # fmt: skip
        number, regions = count(1), 0
        with xml.element("Annotation", **own):
            with xml.element("Attributes"):
                xml.empty("Attribute", Name="Description", Id=0, Value="")
                xml.empty("Attribute", Name=SUBTRACTED, Id=1, Value=self._subtracted)
            with xml.element("Regions"):
                with xml.element("RegionAttributeHeaders"):
                    for id_, title in HEADERS:
                        xml.empty("AttributeHeader", Id=id_, Name=title, ColumnWidth=-1)
                for item in items:
                    regions += 1
                    for name, outer, holes in outlines(item):
                        self._write_region(xml, next(number), name, outer, negative=False)
                        for hole in holes:
                            self._write_region(xml, next(number), name, hole, negative=True)
            xml.empty("Plots")
        return regions

    def _write_region(
        self, xml: XMLStream, number: int, name: str, ring: NDArray[np.float64], *, negative: bool
    ) -> None:
        shape = shapely.Polygon(ring)
        in_um = shapely.Polygon(ring * (self._mpp.x, self._mpp.y))
        own = {"Id": number, "Type": POLYGON, "Zoom": "1.000000", "Selected": 0, "ImageLocation": "",
               "ImageFocus": 0, "Length": f"{shape.length:.1f}", "Area": f"{shape.area:.1f}",
               "LengthMicrons": f"{in_um.length:.1f}", "AreaMicrons": f"{in_um.area:.1f}", "Text": name,
               "NegativeROA": int(negative), "InputRegionId": 0, "Analyze": 1,
               "DisplayId": number}  # fmt: skip
        with xml.element("Region", **own):
            xml.empty("Attributes")
            with xml.element("Vertices"):
                for x, y in number_texts(ring):
                    xml.empty("Vertex", X=x, Y=y)
