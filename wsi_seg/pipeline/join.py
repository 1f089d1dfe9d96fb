"""Cells of other programs joined with regions: how many lie in each, and how far from a border."""

from __future__ import annotations

import csv
import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.annotations.annotation import UNCLASSIFIED
from wsi_seg.annotations.drawing import Drawing
from wsi_seg.annotations.points import Cells, read_cells
from wsi_seg.annotations.reading import read_annotations
from wsi_seg.core.classes import canonical_name
from wsi_seg.core.errors import UsageError
from wsi_seg.core.files import atomic_path
from wsi_seg.core.geometry import Box, Origin, Scale
from wsi_seg.pipeline.export import export_source
from wsi_seg.regions.joining import areas_of_bins, border_distances, count_inside, distance_edges
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.slides.slide import require_mpp

UM2_PER_MM2 = 1e6
# Pixels a side of the picture on which areas of bins are counted, at most.
MOST_SIDE = 3000
# Of a bin's width, the largest pixel that the area of bins is counted with.
PIXEL_OF_BIN = 1 / 8


@dataclass(frozen=True, slots=True, eq=False)
class JoinedRegions:
    """Regions that cells are joined with, and the area in which cells were looked for."""

    slide: str
    mpp: Scale
    bounds: Box | None
    """Bounds of the slide in l0 pixels, where it has any."""
    identities: Sequence[str]
    names: Sequence[str]
    classes: Sequence[str]
    shapes_um: NDArray[np.object_]
    """(n,) in µm from the corner of level 0."""
    counted: NDArray[np.bool_] | None
    """(h, w) analyzed tissue from the corner of level 0; None: all that lies in any region."""
    um_per_px: float
    """Of `counted`, or of a picture to be made in its place."""


@dataclass(frozen=True, slots=True)
class JoinSettings:
    """Choices of a join."""

    class_column: str | None = None
    """See `read_cells`."""
    origin: Origin | None = None
    """Start of the cells' positions where their file does not say it; None: bounds for GeoJSON, or level0."""
    border: str = "Tumor"
    """Class from whose outlines distances are measured."""
    bin_um: float = 50.0
    reach_um: float = 500.0
    """Distances beyond it are in one bin on each side."""


def regions_of(result: Path, settings: RegionSettings, mpp: float | None, bin_um: float) -> JoinedRegions:
    """Return the regions of a results folder, traced with `settings`, or of a file of regions.

    Args:
        result: results folder, or file of any annotation format.
        settings: which regions of a folder, and how they are traced.
        mpp: µm per l0 pixel of a file's slide; a folder knows it.
        bin_um: width of the bins of distances, which decides on the resolution of `counted`.

    Raises:
        UsageError: a file without `mpp`, or a folder with it; no such class.
        OutputError: the folder holds no results.
        MaskError: the file is damaged or holds no regions.
    """
    if result.is_dir():
        if mpp is not None:
            raise UsageError("--mpp is for files of regions; results know the resolution of their slide")
        return _of_folder(result, settings, bin_um)
    if mpp is None:
        raise UsageError(f"{result}: a file of regions needs --mpp, the microns per pixel of its slide")
    found = read_annotations(result).in_l0(None, "level0")
    shapes = shapely.transform(found.geometries, lambda xy: xy * mpp)
    x0, y0, x1, y1 = shapely.total_bounds(shapes)
    names = [item.name or UNCLASSIFIED for item in found.items]
    return JoinedRegions(
        slide=result.name,
        mpp=Scale(mpp, mpp),
        bounds=None,
        identities=[str(number) for number in range(1, len(names) + 1)],
        names=[f"{name} {number}" for number, name in enumerate(names, start=1)],
        classes=names,
        shapes_um=shapes,
        counted=None,
        um_per_px=max(bin_um * PIXEL_OF_BIN, max(x1 - x0, y1 - y0) / MOST_SIDE),
    )


def _of_folder(folder: Path, settings: RegionSettings, bin_um: float) -> JoinedRegions:
    source = export_source(folder, settings)
    mpp = require_mpp(source.slide)
    placed = list(source.regions())
    um = np.array([mpp.x, mpp.y])
    shapes = np.array([item.geometry for item in placed], dtype=object)
    maps = source.maps
    sides = [max(maps.array("tissue", level).shape) for level in range(maps.level_count)]
    fine = [k for k in range(len(sides)) if source.frame.mpp * 2**k <= bin_um * PIXEL_OF_BIN]
    level = max(next((k for k, side in enumerate(sides) if side <= MOST_SIDE), len(sides) - 1), *fine, 0)
    return JoinedRegions(
        slide=source.slide.name,
        mpp=mpp,
        bounds=source.slide.bounds,
        identities=[item.identity for item in placed],
        names=[item.name for item in placed],
        classes=[item.region.group.qupath_name for item in placed],
        shapes_um=shapely.transform(shapes, lambda xy: xy * um),
        counted=np.asarray(maps.array("tissue", level)[:, :]) > 0,
        um_per_px=source.frame.mpp * 2**level,
    )


def cells_in_um(
    path: Path, regions: JoinedRegions, settings: JoinSettings
) -> tuple[Cells, NDArray[np.float64]]:
    """Return the cells of a file, and their positions (n, 2) in µm from the corner of level 0.

    Raises as `read_cells`.
    """
    cells = read_cells(path, settings.class_column)
    um = np.array([regions.mpp.x, regions.mpp.y])
    by_format: Origin = "bounds" if "json" in path.name.lower() else "level0"
    shift_l0 = cells.subtracted_l0
    if shift_l0 is None:
        crop = regions.bounds if (settings.origin or by_format) == "bounds" else None
        shift_l0 = (0.0, 0.0) if crop is None else (float(crop.x0), float(crop.y0))
    return cells, (cells.xy if cells.unit == "um" else cells.xy * um) + np.array(shift_l0) * um


def write_region_counts(path: Path, regions: JoinedRegions, cells: Cells, xy_um: NDArray[np.float64]) -> int:
    """Write one row for each region: cells of each class and their density, and return cells in no region.

    Raises:
        OutputError: the file cannot be written.
    """
    counts, none = count_inside(regions.shapes_um, xy_um, cells.codes, len(cells.names))
    areas = shapely.area(regions.shapes_um) / UM2_PER_MM2
    named = [f"{kind}_{name}" for kind in ("cells", "per_mm2") for name in cells.names]
    header = ("slide", "id", "name", "class", "area_mm2", "cells", "cells_per_mm2", *named)
    densities = counts / areas[:, None]
    rows = []
    for i, area in enumerate(areas.tolist()):
        total = int(counts[i].sum())
        own = (regions.slide, regions.identities[i], regions.names[i], regions.classes[i], round(area, 9))
        figures = (*counts[i].tolist(), *np.round(densities[i], 3).tolist())
        rows.append((*own, total, round(total / area, 3), *figures))
    _write(path, header, rows)
    return int(none.sum())


def write_distances(
    path: Path, regions: JoinedRegions, cells: Cells, xy_um: NDArray[np.float64], settings: JoinSettings
) -> int:
    """Write a row for each bin of distances and each class, and return cells that lie outside what counts.

    Distances below 0 are inside. Areas and cells are those in analyzed tissue, or in any region of a file.

    Raises:
        UsageError: there is no region of the class of the border.
        OutputError: the file cannot be written.
    """
    wanted = canonical_name(settings.border)
    of_border = np.array([canonical_name(name) == wanted for name in regions.classes], bool)
    if not of_border.any():
        have = ", ".join(sorted(set(regions.classes))) or "no regions"
        raise UsageError(
            f"no region of class {settings.border!r} to measure distances from; there are {have}"
        )
    border = regions.shapes_um[of_border]
    edges = distance_edges(settings.bin_um, settings.reach_um)
    inside, counted, corner = _pictures(regions, border)
    areas = areas_of_bins(inside, counted, regions.um_per_px, edges) / UM2_PER_MM2
    column, row = np.floor((xy_um - corner) / regions.um_per_px).astype(np.intp).T
    seen = (row >= 0) & (column >= 0) & (row < counted.shape[0]) & (column < counted.shape[1])
    seen[seen] = counted[row[seen], column[seen]]
    bins = np.digitize(border_distances(border, xy_um[seen]), edges) - 1
    counts = np.zeros((len(areas), len(cells.names)), np.int64)
    np.add.at(counts, (bins, cells.codes[seen]), 1)
    rows = []
    for (low, high), area, of_bin in zip(pairwise(edges.tolist()), areas.tolist(), counts, strict=True):
        ends = [edge if math.isfinite(edge) else None for edge in (low, high)]
        for name, number in zip(cells.names, of_bin.tolist(), strict=True):
            density = round(number / area, 3) if area else None
            rows.append((regions.slide, settings.border, *ends, name, number, round(area, 9), density))
    header = ("slide", "border", "from_um", "to_um", "class", "cells", "area_mm2", "per_mm2")
    _write(path, header, rows)
    return int((~seen).sum())


def _pictures(
    regions: JoinedRegions, border: NDArray[np.object_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_], NDArray[np.float64]]:
    """Return where the border's regions are, what counts, (h, w) each, and the corner of both in µm."""
    size, corner = regions.um_per_px, np.zeros(2)
    if regions.counted is None:
        x0, y0, x1, y1 = shapely.total_bounds(regions.shapes_um)
        corner = np.array([x0, y0])
        width, height = (math.ceil(side / size) for side in (x1 - x0, y1 - y0))
        counted = _painted(regions.shapes_um, corner, size, Box(0, 0, width, height))
    else:
        counted = regions.counted
    height, width = counted.shape
    return _painted(border, corner, size, Box(0, 0, width, height)), counted, corner


def _painted(
    shapes_um: NDArray[np.object_], corner: NDArray[np.float64], um_per_px: float, box: Box
) -> NDArray[np.bool_]:
    shapes = shapely.transform(shapes_um, lambda xy: (xy - corner) / um_per_px)
    return np.asarray(Drawing.of(shapes, np.ones(len(shapes))).paint(box, ground=0) > 0)


def _write(path: Path, header: Sequence[str], rows: Sequence[Sequence[Any]]) -> None:
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(header)
        writer.writerows(rows)
