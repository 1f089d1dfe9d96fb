"""Results as CSV for pandas, R and spreadsheets: regions, and classes of the slide.

Two formats, as the rows of one table are of one kind. Both name the slide in their first column, so that
tables of many slides can be put one below the other.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.assessed import assessed_codes
from wsi_seg.core.classes import hex_code
from wsi_seg.core.files import atomic_path
from wsi_seg.core.threads import map_ahead
from wsi_seg.exporters.columns import column_names, region_batches
from wsi_seg.exporters.source import Exported, ExportSource, RegionSource
from wsi_seg.maps.maps import Maps
from wsi_seg.planning.grid import Block, cut_blocks

CLASS_COLUMNS = ("slide", "class", "code", "color", "pixels", "area_mm2", "share")
UM2_PER_MM2 = 1e6


def export_regions(source: RegionSource, path: Path) -> Exported:
    """Write one row for each region, with the columns of `column_names`; unknown values are blank.

    Raises:
        UsageError, MppMissingError: as `RegionSource.regions`.
        OutputError: the file cannot be written, or the maps are damaged.
    """
    rows = (
        row for _, columns in region_batches(source) for row in zip(*columns.values(), strict=True)
    )  # batch by batch, as they are traced
    count = _write(path, column_names(source), rows)
    return Exported(path, f"{count} regions")


def export_classes(source: ExportSource, path: Path) -> Exported:
    """Write the rows of `class_rows`; unknown values are blank.

    Raises:
        OutputError: the file cannot be written, or the maps are damaged.
    """
    return Exported(path, f"{_write(path, CLASS_COLUMNS, class_rows(source))} classes")


def class_rows(source: ExportSource) -> list[tuple[Any, ...]]:
    """Return one row of `CLASS_COLUMNS` for each class of the model.

    They hold pixels of the label map, mm² and share of what was analyzed. Areas are those of `summary.json`,
    not rounded. Those of classes that the model does not assess are None; shares are None where nothing was
    analyzed.

    Raises:
        OutputError: the maps are damaged.
    """
    counts = _label_counts(source.maps)
    analyzed = int(counts[1:].sum())
    pixel_mm2 = source.frame.mpp**2 / UM2_PER_MM2
    assessed = assessed_codes(source.card)
    rows: list[tuple[Any, ...]] = []
    for found in source.card.tissue_classes:
        pixels = int(counts[found.code])
        known = (pixels, pixels * pixel_mm2, pixels / analyzed if analyzed else None)
        figures = known if found.code in assessed else (None, None, None)
        rows.append((source.slide.name, found.name, found.code, hex_code(found.color), *figures))
    return rows


def _write(path: Path, names: Sequence[str], rows: Iterable[Sequence[Any]]) -> int:
    """Write a table, whole or not at all, and return how many rows it has."""
    count = 0
    with atomic_path(path) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(names)
        for row in rows:
            writer.writerow(row)
            count += 1
    return count


def _label_counts(maps: Maps) -> NDArray[np.int64]:
    """Return the label pixels of each code, int64 (256,)."""

    def counted(block: Block) -> NDArray[np.int64]:
        return np.bincount(np.asarray(maps.labels[block.box.slices]).ravel(), minlength=256)

    blocks = cut_blocks(maps.layout.map_size, maps.layout.block)
    return sum(map_ahead(counted, blocks), start=np.zeros(256, np.int64))
