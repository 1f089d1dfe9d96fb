"""LazySlide: `seg.semantic` on the tiles with tissue, with its defaults but for the ignored first class.

It takes tissue as a polygon and keeps a canvas of probabilities, float32, over its bounds: that is the
smallest region that holds all tiles, as for MONAI. Four tiles per forward pass, no loader workers. Its result
is polygons of what is above 0.5, class by class, closed by two pixels. Labels are drawn from them, largest
first; where it has no polygon, as where no class reaches 0.5, there is no label to compare.
"""

from __future__ import annotations

from typing import Any

import geopandas
import lazyslide as zs
import numpy as np
import torch
from job import Job, Network, Report, read_job, tissue_tiles
from lazyslide_models.base import SegmentationModel, SegmentationOutput
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from shapely import box
from torch import Tensor
from wsidata import TileSpec, open_wsi
from wsidata.io import add_tiles, add_tissues

NO_LABEL = 255
TISSUE, TILES, RESULT = "tissues", "tiles", "classes"


class Model(SegmentationModel):  # type: ignore[misc]
    """The benchmarks' network as LazySlide wants it."""

    def __init__(self, job: Job) -> None:
        self.model = Network(job)

    def get_transform(self) -> Any:
        return lambda tile: torch.from_numpy(np.array(tile)[..., :3]).permute(2, 0, 1)

    def segment(self, image: Tensor) -> Any:
        return SegmentationOutput(probability_map=self.model(image).softmax(1))


def drawn(shapes: geopandas.GeoDataFrame, size: tuple[int, int]) -> NDArray[np.uint8]:
    """Return the class of each pixel uint8 (height, width), NO_LABEL where there is no polygon."""
    image = Image.new("L", size, NO_LABEL)
    parts = shapes.explode(index_parts=False)
    parts = parts[parts.geom_type == "Polygon"]
    for number in np.argsort(-parts.area.to_numpy()):
        polygon, channel = parts.geometry.iloc[number], int(parts["class"].iloc[number])
        left, top, right, bottom = (int(value) for value in polygon.bounds)
        mask = Image.new("1", (right - left + 2, bottom - top + 2), 0)
        pen = ImageDraw.Draw(mask)
        for ring, fill in ((polygon.exterior, 1), *((hole, 0) for hole in polygon.interiors)):
            pen.polygon([(x - left, y - top) for x, y in ring.coords], fill=fill)
        image.paste(channel, (left, top), mask)
    return np.asarray(image)


def main() -> None:
    job = read_job()
    report = Report(job, "lazyslide", "wsidata", "openslide-python", "numpy")
    model = Model(job)
    side = job.card["tile"]
    report.ready()
    slide = open_wsi(job.slide, store=str(job.out / "lazyslide.zarr"))
    height, width = (int(length) for length in slide.properties.shape)
    tiles = np.array(tissue_tiles(job, (width, height)))
    x0, y0, x1, y1 = *tiles.min(0), *np.minimum(tiles.max(0) + side, (width, height))
    add_tissues(slide, TISSUE, [box(x0, y0, x1, y1)])
    spec = TileSpec.from_wsidata(slide, side, mpp=job.card["mpp"], tissue_name=TISSUE)
    add_tiles(slide, TILES, tiles, spec, np.zeros(len(tiles), int))
    zs.seg.semantic(
        slide, model, tile_key=TILES, ignore_index=None, device=job.device, pbar=False, key_added=RESULT
    )
    report.done()
    report.write(drawn(slide.shapes[RESULT], (width, height)), len(tiles))


if __name__ == "__main__":
    main()
