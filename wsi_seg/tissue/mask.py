"""Where a slide has tissue: found at low power, or given as drawn regions.

A mask is a grid of cells laid over the slide in the l0 frame: cell (i, j) covers l0
[i · l0_per_cell.x, (i + 1) · l0_per_cell.x) × [j · l0_per_cell.y, (j + 1) · l0_per_cell.y). Detected tissue
is whole cells. Drawn regions are exact: the cells only say where to look, the outlines decide each map pixel.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray
from scipy import ndimage

from wsi_seg.annotations.annotation import IGNORE, is_named, polygonal_part
from wsi_seg.annotations.drawing import Drawing, largest_first, reached_pixels
from wsi_seg.annotations.reading import ENDINGS, read_annotations
from wsi_seg.core.errors import MaskError, UsageError
from wsi_seg.core.folders import is_there
from wsi_seg.core.geometry import Box, Origin, RealBox, Scale
from wsi_seg.slides.slide import MapFrame, Pixels, Slide, SlideInfo, read_thumbnail
from wsi_seg.slides.tolerant import read_tolerantly
from wsi_seg.tissue.artifacts import Artifacts
from wsi_seg.tissue.cells import Cells, in_cells
from wsi_seg.tissue.stain import detect_tissue

# Cells of a mask, in µm, and the most cells along the longer side of a slide.
CELL_UM = 8.0
MOST_CELLS = 4096
# Cells along the longer side when the slide does not say its resolution.
UNSCALED_SIDE = 2048

# Areas are sampled at so many pixels along the longer side of the drawn regions.
AREA_SIDE = 4096

# Values of a drawing: areas to analyze, and areas that are cut out of them.
DRAWN, CUT_OUT = 1, 0

# Cells next to what cannot be read whose tissue is not seen for sure: detection smooths and closes.
NEXT_TO_UNREAD = 3

# Ways to find tissue; anything else is a file of drawn regions.
METHODS = ("otsu", "none")
# A source that begins so is a network, with its name and digest: see `pipeline.finders`.
MODEL_SOURCE = "model "


@dataclass(frozen=True, eq=False)
class TissueMask:
    """Cells of a slide that hold tissue; what lies beyond `mask` is none."""

    mask: NDArray[np.bool_]
    """(h, w), True where there is tissue."""
    l0_per_cell: Scale
    """l0 pixels per cell."""
    source: str
    """`otsu`, `none`, the path of the file with regions, or MODEL_SOURCE with a network's name and digest."""
    origin_cell: tuple[int, int] = (0, 0)
    """Column and row, in the grid of the whole slide, of `mask[0, 0]`."""
    drawn: Drawing | None = None
    """In l0 pixels: the regions that are tissue (DRAWN), which reach into the cells of `mask` and no others,
    and those cut out of them (CUT_OUT). None: the cells are the tissue."""

    artifacts: Artifacts | None = None
    """In the tissue, which they are part of; None: they were not looked for."""

    def any_in(self, box_l0: RealBox) -> bool:
        """Return whether any cell that meets the box may hold tissue, artifacts among it."""
        return bool(self._cells.touching(box_l0).any())

    def any_left_in(self, box_l0: RealBox) -> bool:
        """Return whether any cell that meets the box may hold tissue that is to be analyzed.

        It is never False for a box in which `sample` finds tissue.
        """
        return self.any_in(box_l0) and not (self.artifacts is not None and self.artifacts.fill(box_l0))

    def crop(self, box_l0: RealBox) -> TissueMask:
        """Return the part that answers for this box as the whole does."""
        cells = self._cells.crop(box_l0)
        drawn = self.drawn and self.drawn.cropped(box_l0.outward())
        artifacts = self.artifacts and self.artifacts.crop(box_l0)
        return TissueMask(cells.values, self.l0_per_cell, self.source, cells.origin, drawn, artifacts)

    def sample(self, frame: MapFrame, box_map: Box) -> NDArray[np.bool_]:
        """Return for each map pixel of the box whether its center lies in tissue that is to be analyzed.

        Returns:
            bool (box_map.height, box_map.width); False outside the slide.
        """
        tissue = self._sample_tissue(frame, box_map)
        if self.artifacts is not None and self.artifacts.excluded:
            tissue &= self.artifacts.cells.sample(frame, box_map) == 0
        return tissue

    def sample_artifacts(self, frame: MapFrame, box_map: Box) -> NDArray[np.uint8] | None:
        """Return the code of the artifact under the center of each map pixel of the box.

        Returns:
            uint8 (box_map.height, box_map.width); 0: none, or no tissue. None: they were not looked for.
        """
        if self.artifacts is None:
            return None
        codes = np.asarray(self.artifacts.cells.sample(frame, box_map), np.uint8)
        return codes * self._sample_tissue(frame, box_map)

    def _sample_tissue(self, frame: MapFrame, box_map: Box) -> NDArray[np.bool_]:
        if self.drawn is not None:
            painted = self.drawn.scaled(frame.l0_per_map).paint(box_map, ground=CUT_OUT)
            return np.asarray(painted == DRAWN)
        return self._cells.sample(frame, box_map)

    def area_um2(self, mpp: Scale) -> float:
        """Return the area of the tissue, with its artifacts, in µm²; large drawn regions are sampled.

        Args:
            mpp: µm per l0 pixel.
        """
        if self.drawn is not None:
            box = self._cells.extent.scaled(self.l0_per_cell).outward()
            step = -(-max(box.width, box.height, 1) // AREA_SIDE)
            painted = self.drawn.paint(box, step, ground=CUT_OUT) == DRAWN
            return float(np.count_nonzero(painted)) * step**2 * mpp.x * mpp.y
        cell = self.l0_per_cell * mpp
        return float(np.count_nonzero(self.mask)) * cell.x * cell.y

    def digest(self) -> str:
        """Return a SHA-256 of what the mask says and where; the source's name is left out."""
        where: tuple[object, ...] = (
            self.mask.shape,
            self.l0_per_cell.x,
            self.l0_per_cell.y,
            self.origin_cell,
            *([] if self.drawn is None else [self.drawn.digest()]),
            *([] if self.artifacts is None else [self.artifacts.digest()]),
        )
        return hashlib.sha256(repr(where).encode() + np.packbits(self.mask).tobytes()).hexdigest()

    @property
    def _cells(self) -> Cells:
        return Cells(self.mask, self.l0_per_cell, self.origin_cell)


def find_tissue(
    slide: Slide, method: str = "otsu", *, origin: Origin = "bounds", ignored_classes: Sequence[str] = ()
) -> TissueMask:
    """Return the tissue of a slide.

    Args:
        slide: an open slide.
        method: `otsu` (detected at low power, see `wsi_seg.tissue.stain`), `none` (the whole slide), or the
            path of a file of drawn regions (see `wsi_seg.annotations.reading`) whose areas are to be
            analyzed, of whatever class or none. Areas of class `Ignore*` are cut out; where areas overlap the
            smaller one wins.
        origin: what positions in QuPath's GeoJSON count from: `bounds` (the non-empty region, where the slide
            has one) or `level0`. A file that says what was subtracted is believed.
        ignored_classes: classes of that file that are cut out too; Unclassified are areas without a class.

    Raises:
        UsageError: no such method.
        MaskError: the file cannot be used, or its areas lie outside the slide.
        SlideError: the slide cannot be read.
    """
    info = slide.info
    if method == "none":
        return TissueMask(np.ones((1, 1), bool), Scale(info.size.width, info.size.height), "none")
    if method == "otsu":
        return _detected_tissue(slide)
    if method.lower().endswith(ENDINGS) or is_there(Path(method)):
        return _drawn_tissue(info, Path(method), origin, ignored_classes)
    raise UsageError(
        f"unknown tissue method {method!r}; use otsu, none or a file of drawn regions, such as GeoJSON"
    )


def _detected_tissue(slide: Slide) -> TissueMask:
    """Detect tissue at low power; what no level of a damaged slide shows counts as tissue, and is missed."""
    info = slide.info
    unread: list[Box] = []

    def read(pixels: Pixels, frame: MapFrame, box: Box, level: int) -> NDArray[np.uint8]:
        reading = read_tolerantly(pixels, frame, box, level)
        unread.extend(fault.box_map for fault in reading.faults if fault.level is None)
        return reading.region

    pixels, l0_per_cell = read_thumbnail(slide, _cells_along(info), read=read)
    cell_um = math.sqrt(info.mpp.x * l0_per_cell.x * info.mpp.y * l0_per_cell.y) if info.mpp else None
    height, width = pixels.shape[:2]
    missing = np.zeros((height, width), bool)
    for box in unread:
        missing[box.grown(NEXT_TO_UNREAD).intersect(Box(0, 0, width, height)).slices] = True
    if unread and not missing.all():  # else white places would be taken for the slide's glass
        nearest = ndimage.distance_transform_edt(missing, return_distances=False, return_indices=True)
        pixels = pixels[tuple(nearest)]
    mask = detect_tissue(pixels, cell_um or CELL_UM) | missing
    return TissueMask(mask, l0_per_cell, "otsu")


def _cells_along(info: SlideInfo) -> int:
    """Return how many cells the longer side of the slide gets."""
    side = max(info.size.width, info.size.height)
    cells = UNSCALED_SIDE if info.mpp is None else math.ceil(side * max(info.mpp.x, info.mpp.y) / CELL_UM)
    return max(1, min(cells, MOST_CELLS, side))


def _drawn_tissue(info: SlideInfo, path: Path, origin: Origin, ignored_classes: Sequence[str]) -> TissueMask:
    annotations = read_annotations(path).in_l0(info.bounds, origin)
    ignored = (IGNORE, *ignored_classes)
    values = np.array([CUT_OUT if is_named(item.name, ignored) else DRAWN for item in annotations.items])
    if not (values == DRAWN).any():
        raise MaskError(f"{path}: all of its areas are of ignored classes; draw what is to be analyzed")
    geometries_l0 = annotations.geometries
    x0, y0, x1, y1 = shapely.total_bounds(geometries_l0[values == DRAWN])
    inside = RealBox(max(x0, 0), max(y0, 0), min(x1, info.size.width), min(y1, info.size.height))
    if inside.x0 >= inside.x1 or inside.y0 >= inside.y1:
        raise MaskError(
            f"{path}: all regions lie outside the slide {info.name} "
            f"({info.size.width} × {info.size.height} px): x {x0:.0f} … {x1:.0f}, y {y0:.0f} … {y1:.0f}; "
            "is it the file of another slide, or was it drawn at another resolution?"
        )
    side = max(info.size.width, info.size.height) / _cells_along(info)
    l0_per_cell = Scale(side, side)
    regions_l0, values = _on_slide(geometries_l0, values, info)
    box = in_cells(inside, l0_per_cell).outward()
    scaled = shapely.transform(regions_l0, lambda xy: xy / (l0_per_cell.x, l0_per_cell.y))
    mask = reached_pixels(scaled, values, box, DRAWN)
    return TissueMask(mask, l0_per_cell, str(path), (box.x0, box.y0), Drawing.in_order(regions_l0, values))


def _on_slide(
    geometries_l0: NDArray[Any], values: NDArray[np.int64], info: SlideInfo
) -> tuple[NDArray[Any], NDArray[np.int64]]:
    """Return what lies on the slide of geometries, and its values, the largest first."""
    order = largest_first(geometries_l0)
    cut, values = geometries_l0[order], values[order]
    whole = shapely.box(0, 0, info.size.width, info.size.height)
    for i in np.flatnonzero(~shapely.covers(whole, cut)):
        cut[i] = polygonal_part(shapely.intersection(cut[i], whole))
    kept = ~shapely.is_missing(cut)
    return cut[kept], values[kept]
