"""Maps as one OME-TIFF of two images, for QuPath and all else that reads by Bio-Formats.

Image 0, `classes`: class codes, uint8, with a color table; 0 is not analyzed. Image 1, `probabilities`, where
any are stored: a channel for each class or group, with its name and color, and where it is stored one for the
uncertainty; uint8 (255 stands for 1) or float32, as the maps have them. Both are pyramids of the maps' stored
levels, in SubIFDs, in deflated tiles (https://docs.openmicroscopy.org/ome-model/6.3.1/ome-tiff/specification.html).

Frame: pixel (0, 0) of both images begins at the corner of level 0, also of a slide with bounds, and both
cover all of level 0. Cropping to the bounds would move the map by a part of its pixel, as the bounds begin
anywhere. Instead PositionX and PositionY of every plane say in micrometers where the images' corner lies as
counted from the origin that was asked for: minus the bounds' corner (`bounds`, as QuPath crops), or 0
(`level0`). The physical size is that of a map pixel, the same on both axes, whatever that of the slide is.

QuPath (0.5 to 0.8, by its source) shows one channel of codes in gray, whatever its color table; Fiji and
others show the colors. Probabilities come in the classes' colors in all of them.
"""

from __future__ import annotations

import json
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from numpy.typing import NDArray

import wsi_seg
from wsi_seg.core.classes import RGB, TissueClass
from wsi_seg.core.files import atomic_path
from wsi_seg.exporters.placed import origin_l0
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.exporters.xml_stream import xml_text
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.map_layout import Kind
from wsi_seg.slides.slide import require_mpp

TILE = 512
COMPRESSION = "zlib"
# Raw bytes of tiles that are compressed together; tifffile's default is 512 MiB.
BUFFER = 32 * 2**20
# Namespace of the annotation that names the classes.
CLASSES_NAMESPACE = "wsi_seg/classes"
SLIDE_NAMESPACE = "wsi_seg/slide"


def export(source: ExportSource, path: Path) -> Exported:
    """Write the maps of a result as an OME-TIFF, whole or not at all, one row of tiles at a time.

    Raises:
        OutputError: the maps are damaged, or the file cannot be written.
        MppMissingError: the slide has no mpp.
    """
    maps = source.maps
    channels = maps.layout.channels
    with (
        atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=True, byteorder="<", ome=True) as file,
    ):
        classes = {
            "Channel": {"Name": ["classes"]},
            "MapAnnotation": [_class_names(maps), _slide_facts(source)],
            "Creator": f"wsi_seg {wsi_seg.__version__}",
            "UUID": str(uuid.uuid4()),  # tifffile's own would hold the machine's network address
        }
        colors = {"photometric": "palette", "colormap": colormap(maps.classes)}
        _write_pyramid(file, source, "classes", classes, colors)
        if channels:
            names = {
                "Channel": {
                    "Name": [xml_text(channel.name) for channel in channels],
                    "Color": [ome_color(channel.color) for channel in channels],
                }
            }
            _write_pyramid(file, source, "probabilities", names, {"photometric": "minisblack"})
    size = maps.layout.map_size
    return Exported(path, f"classes of {size} px, {len(channels)} channels, {maps.level_count} levels")


def colormap(classes: tuple[TissueClass, ...]) -> NDArray[np.uint16]:
    """Return the color table of a TIFF, uint16 (3, 256), column i for code i; black for no class."""
    table = np.zeros((3, 256), np.uint16)
    for known in classes:
        table[:, known.code] = np.multiply(known.color, 257)  # 255 becomes 65535
    return table


def ome_color(color: RGB) -> int:
    """Return an opaque color as OME-XML has it: RGBA in a signed 32-bit integer."""
    return int.from_bytes(bytes((*color, 255)), "big", signed=True)


def strips(array: Any, channel: tuple[int, ...] = ()) -> Iterator[NDArray[Any]]:
    """Yield an array (…, y, x) of a map as rows of tiles (≤ `TILE`, width), from the top."""
    for y in range(0, array.shape[-2], TILE):
        yield array[(*channel, slice(y, y + TILE), slice(None))]


def tiles_of(strip: NDArray[Any]) -> Iterator[NDArray[Any]]:
    """Yield the tiles (≤ `TILE`, ≤ `TILE`) of a strip, from the left."""
    for x in range(0, strip.shape[-1], TILE):
        yield strip[:, x : x + TILE]


def _write_pyramid(
    file: tifffile.TiffWriter,
    source: ExportSource,
    kind: Kind,
    metadata: dict[str, Any],
    colors: dict[str, Any],
) -> None:
    """Write one image with its levels in SubIFDs."""
    layout = source.maps.layout
    axes = "CYX" if kind == "probabilities" else "YX"
    for level in range(layout.level_count):
        array = source.maps.array(kind, level)
        mpp = layout.mpp * layout.downsample(kind, level)
        ome = {"axes": axes, "Name": kind, **_placement(source, mpp, array.shape), **metadata}
        file.write(
            _tiles(array),
            shape=array.shape,
            dtype=array.dtype,
            tile=(TILE, TILE),
            compression=COMPRESSION,
            buffersize=BUFFER,
            resolution=(10_000 / mpp, 10_000 / mpp),
            resolutionunit="CENTIMETER",
            software=False,
            **({"subfiletype": 1} if level else {"metadata": ome, "subifds": layout.level_count - 1}),
            **colors,
        )


def _tiles(array: Any) -> Iterator[NDArray[Any]]:
    """Yield the tiles of each plane of an array (y, x) or (c, y, x), in the order of TIFF."""
    planes: list[tuple[int, ...]] = [()] if array.ndim == 2 else [(c,) for c in range(array.shape[0])]
    for plane in planes:
        for strip in strips(array, plane):
            yield from tiles_of(strip)


def _placement(source: ExportSource, mpp: float, shape: tuple[int, ...]) -> dict[str, Any]:
    """Return the size of a pixel and the place of the image's corner, see above."""
    slide_mpp = require_mpp(source.slide)
    dx, dy = origin_l0(source.slide, source.settings.origin)
    planes = shape[0] if len(shape) == 3 else 1
    micrometers = {axis: ["µm"] * planes for axis in ("PositionXUnit", "PositionYUnit")}
    return {
        "PhysicalSizeX": mpp,
        "PhysicalSizeXUnit": "µm",
        "PhysicalSizeY": mpp,
        "PhysicalSizeYUnit": "µm",
        "Plane": {
            "PositionX": [0.0 - dx * slide_mpp.x] * planes,
            "PositionY": [0.0 - dy * slide_mpp.y] * planes,
            **micrometers,
        },
    }


def _class_names(maps: Maps) -> dict[str, Any]:
    names = {"0": "not_analyzed", **{str(c.code): xml_text(c.name) for c in maps.classes}}
    return {"Namespace": CLASSES_NAMESPACE, "Value": names}


def _slide_facts(source: ExportSource) -> dict[str, Any]:
    facts = {key: json.dumps(value) for key, value in slide_facts(source).items()}
    return {"Namespace": SLIDE_NAMESPACE, "Value": facts}


def slide_facts(source: ExportSource) -> dict[str, Any]:
    """Return the slide and the frame of a raster file, as plain data; positions and sizes are l0 pixels."""
    slide, mpp, bounds = source.slide, require_mpp(source.slide), source.slide.bounds
    return {
        "slide": slide.name,
        "fingerprint": slide.fingerprint,
        "begins_at_l0": [0, 0],
        "size_l0": [slide.size.width, slide.size.height],
        "mpp_l0": [mpp.x, mpp.y],
        "bounds_l0": None if bounds is None else [bounds.x0, bounds.y0, bounds.x1, bounds.y1],
    }
