"""Results whose regions lie at known places, of three slides that exporters must get right.

`odd` has an odd number of pixels and other microns per pixel on x than on y; `bounds` is a scan on a larger
slide, which QuPath crops to its bounds; `plain` is neither.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import shapely
from PIL import Image, ImageDraw
from shapely import Polygon

from tests.made.landmarks import SIDE, darkness_model
from tests.made.pyramids import write_pyramid
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.polygons import TraceSettings

# Rectangles x0, y0, x1, y1, and the hole of the first; their edges lie on map pixels of all three slides.
RECTANGLES = ((100, 120, 400, 360), (560, 40, 640, 500), (480, 600, 880, 680))
HOLE = (200, 180, 300, 300)
BOUNDS = Box(512, 256, 512 + 1024, 256 + 768)
PLAIN, ODD = Size(1024, 768), Size(1021, 767)


@dataclass(frozen=True)
class MadeResult:
    """A finished result and the truth about it."""

    folder: Path
    origin_l0: tuple[int, int]
    """Corner of the slide's bounds."""
    mpp: Scale
    size: Size
    """Of level 0, in l0 pixels."""

    @property
    def landmarks_l0(self) -> list[Polygon]:
        """The tumor, in l0 pixels from level 0's corner."""
        dx, dy = self.origin_l0
        holes = [[shapely.box(*HOLE).exterior.coords], [], []]
        shapes = [Polygon(shapely.box(*r).exterior, h) for r, h in zip(RECTANGLES, holes, strict=True)]
        return [shapely.affinity.translate(shape, dx, dy) for shape in shapes]


def drawing(size: Size) -> Image.Image:
    """Return black shapes on white, which the stand-in is sure of."""
    image = Image.new("RGB", (size.width, size.height), "white")
    pen = ImageDraw.Draw(image)
    for x0, y0, x1, y1 in RECTANGLES:
        pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill="black")
    x0, y0, x1, y1 = HOLE
    pen.rectangle((x0, y0, x1 - 1, y1 - 1), fill="white")
    return image


def make_exported(kind: str, folder: Path) -> MadeResult:
    """Make a slide, `plain`, `odd` or `bounds`, and results of it, as exact as the map is."""
    mpp, size, origin = Scale(0.25, 0.25), PLAIN, (0, 0)
    if kind == "bounds":
        slide, origin = folder / "bounds.scn", (BOUNDS.x0, BOUNDS.y0)
        size = Size(BOUNDS.x1 + 256, BOUNDS.y1 + 256)
        texture = folder / "texture.png"
        drawing(Size(SIDE, SIDE)).save(texture)
        make_slide(slide, SlideSpec(size, 0.25, tissue=1.0, texture=texture, bounds=BOUNDS))
        texture.unlink()
    else:
        slide = folder / f"{kind}.tiff"
        mpp, size = (Scale(0.25, 0.2), ODD) if kind == "odd" else (mpp, size)
        write_pyramid(slide, np.asarray(drawing(size)), mpp, (1, 4))
    trace = TraceSettings(min_area_um2=10, min_hole_um2=10, tolerance_um=0.05)
    settings = RunSettings(
        tissue="none",
        plan=PlanSettings(block=256, tile=128, overlap=16, probability_downsample=2),
        regions=RegionSettings(groups=("tumor",), trace=trace),
    )
    done = segment_slide(slide, folder / "out", darkness_model(0.5, 128), settings)
    return MadeResult(Path(done.folder), origin, mpp, size)
