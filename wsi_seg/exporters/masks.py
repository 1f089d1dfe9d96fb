"""Label maps at any resolution: class codes with a color table, as one PNG or as one tiled TIFF.

Frame: pixel (0, 0) begins at the corner of level 0, also of a slide with bounds; the picture covers all of
level 0, and pixel i lies `mpp` × i micrometers from there. The last column and row may reach beyond the
slide by part of a pixel. A pixel is the code at its center (nearest neighbor, codes are never mixed), in the
coarsest stored level that is at or finer than the picture: at the maps' own resolution, and at 2, 4, 8, …
times it, the file is that level as stored. Each file says as JSON which slide it is of, where that has its
bounds, and the classes (`Description` of a PNG, `ImageDescription` of a TIFF).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image
from PIL.PngImagePlugin import PngInfo

from wsi_seg.core.errors import FormatLimitError
from wsi_seg.core.files import atomic_path
from wsi_seg.core.geometry import Box, Size
from wsi_seg.exporters.ome_tiff import BUFFER, COMPRESSION, TILE, colormap, slide_facts, tiles_of
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.maps.resampling import frame_at, label_reader

# Pillow warns of more pixels as a decompression bomb, and the picture is in memory as a whole.
MOST_PNG_PIXELS = 89_000_000
# A TIFF of more bytes than this needs the 64-bit variant, which fewer programs read.
CLASSIC_TIFF = 4 * 10**9


@dataclass(frozen=True, slots=True)
class LabelPicture:
    """The label map of a result at one resolution, read piece by piece."""

    read: Callable[[Box], NDArray[np.uint8]]
    """Returns the codes of a box of the picture."""
    size: Size
    mpp: float

    @property
    def pixels(self) -> int:
        return self.size.width * self.size.height

    @classmethod
    def of(cls, source: ExportSource) -> LabelPicture:
        """Return the picture at the resolution that was asked for, or at that of the maps.

        Raises:
            UsageError: it is finer than the slide, or no number.
            OutputError: the maps are damaged.
            MppMissingError: the slide has no mpp.
        """
        maps = source.maps
        mpp = maps.mpp if source.mpp is None else source.mpp
        size = frame_at(source.slide, maps, mpp).size
        return cls(label_reader(maps, "classes", mpp / maps.mpp), size, mpp)

    def strips(self) -> Iterator[NDArray[np.uint8]]:
        """Yield the codes as rows of tiles, uint8 (≤ `TILE`, width), from the top."""
        for y in range(0, self.size.height, TILE):
            yield self.read(Box(0, y, self.size.width, min(y + TILE, self.size.height)))


def export_png(source: ExportSource, path: Path) -> Exported:
    """Write the label map as a PNG with a palette, in which code 0 is transparent.

    Where no resolution is asked for, it is that of the maps, or 2, 4, 8, … times it where they are large.

    Raises:
        FormatLimitError: at the one asked for it would be larger than `MOST_PNG_PIXELS`.
        UsageError: that is finer than the slide.
        OutputError: the maps are damaged, or the file cannot be written.
        MppMissingError: the slide has no mpp.
    """
    picture = LabelPicture.of(source)
    while source.mpp is None and picture.pixels > MOST_PNG_PIXELS:
        picture = LabelPicture.of(replace(source, mpp=2 * picture.mpp))
    pixels = picture.pixels
    if pixels > MOST_PNG_PIXELS:
        coarser = math.ceil(picture.mpp * math.sqrt(pixels / MOST_PNG_PIXELS) * 10) / 10
        raise FormatLimitError(
            f"{path}: {picture.size} px is too large for a PNG (at most {MOST_PNG_PIXELS // 10**6} million "
            f"pixels); use --mpp {coarser:g} or more, or the format tiff-mask"
        )
    image = Image.new("P", (picture.size.width, picture.size.height))
    image.putpalette(colormap(source.maps.classes).T.astype(np.uint8).tobytes())
    for index, strip in enumerate(picture.strips()):
        image.paste(Image.fromarray(strip), (0, index * TILE))
    about = PngInfo()
    about.add_text("Description", _description(source, picture))
    per_inch = 25_400 / picture.mpp
    with atomic_path(path) as temporary:
        image.save(temporary, "PNG", pnginfo=about, dpi=(per_inch, per_inch), transparency=0)
    return Exported(path, f"{picture.size} px at {picture.mpp:g} µm/px")


def export_tiff(source: ExportSource, path: Path) -> Exported:
    """Write the label map as a TIFF of one level, in deflated tiles, a row of them at a time.

    Raises:
        UsageError: it would be finer than the slide.
        OutputError: the maps are damaged, or the file cannot be written.
        MppMissingError: the slide has no mpp.
    """
    picture = LabelPicture.of(source)
    size, per_centimeter = picture.size, 10_000 / picture.mpp
    with (
        atomic_path(path) as temporary,
        tifffile.TiffWriter(temporary, bigtiff=size.width * size.height > CLASSIC_TIFF, ome=False) as file,
    ):
        file.write(
            (tile for strip in picture.strips() for tile in tiles_of(strip)),
            shape=(size.height, size.width),
            dtype=np.uint8,
            tile=(TILE, TILE),
            photometric="palette",
            colormap=colormap(source.maps.classes),
            compression=COMPRESSION,
            buffersize=BUFFER,
            resolution=(per_centimeter, per_centimeter),
            resolutionunit="CENTIMETER",
            description=_description(source, picture),
            metadata=None,
            software=False,
        )
    return Exported(path, f"{size} px at {picture.mpp:g} µm/px")


def _description(source: ExportSource, picture: LabelPicture) -> str:
    """Return what the file says of itself: JSON, ASCII."""
    classes = {"0": "not_analyzed", **{str(c.code): c.name for c in source.maps.classes}}
    return json.dumps({"mpp": picture.mpp, **slide_facts(source), "classes": classes})
