"""Regions as columns of a table: one row each, the same columns whatever was found, so that tables add up."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from itertools import islice
from typing import Any

import numpy as np
import shapely

from wsi_seg.core.classes import hex_code
from wsi_seg.exporters.placed import BATCH, PlacedRegion, origin_l0
from wsi_seg.exporters.source import RegionSource
from wsi_seg.slides.slide import require_mpp

TEXTS = ("slide", "id", "name", "class", "group", "color")
POSITIONS = (
    "centroid_x_l0", "centroid_y_l0", "centroid_x_um", "centroid_y_um",
    "xmin_l0", "ymin_l0", "xmax_l0", "ymax_l0", "origin_x_l0", "origin_y_l0",
)  # fmt: skip
FIGURES = ("area_um2", "perimeter_um", "mean_probability", "mean_uncertainty")
SHARE = "share_"
GEOMETRY = "geometry"


def share_columns(source: RegionSource) -> tuple[str, ...]:
    """Return the names of the columns of shares, one for each class of the model, in its order."""
    return tuple(f"{SHARE}{name}" for name in _class_names(source))


def column_names(source: RegionSource) -> tuple[str, ...]:
    """Return the names of all columns, in order."""
    return (*TEXTS, *FIGURES, "holes", *POSITIONS, *share_columns(source))


def region_batches(
    source: RegionSource, most: int = BATCH
) -> Iterator[tuple[list[PlacedRegion], dict[str, list[Any]]]]:
    """Yield regions, at most `most` together, with their columns; raises as `RegionSource.regions`."""
    regions = source.regions()
    while batch := list(islice(regions, most)):
        yield batch, region_columns(source, batch)


def all_columns(source: RegionSource) -> dict[str, list[Any]]:
    """Return the columns of all regions, with their geometries; raises as `RegionSource.regions`."""
    everything: dict[str, list[Any]] = {name: [] for name in (*column_names(source), GEOMETRY)}
    for batch, columns in region_batches(source):
        everything[GEOMETRY] += [item.geometry for item in batch]
        for name, values in columns.items():
            everything[name] += values
    return everything


def region_columns(source: RegionSource, batch: Sequence[PlacedRegion]) -> dict[str, list[Any]]:
    """Return the columns of some regions, in the order of `column_names`.

    Positions in `_l0` and `_um` count from `origin_x_l0`, `origin_y_l0`, which lies in l0 pixels from the
    corner of level 0. Figures are rounded as in GeoJSON; None: not known. Shares are None where nothing
    inside was analyzed, else 0 of a class that does not occur.
    """
    mpp = require_mpp(source.slide)
    shapes = np.array([item.geometry for item in batch], dtype=object)
    center = np.column_stack([shapely.get_x(c := shapely.centroid(shapes)), shapely.get_y(c)])
    counted_from = np.tile(origin_l0(source.slide, source.settings.origin), (len(batch), 1))
    positions = np.hstack(
        [center, center * (mpp.x, mpp.y), shapely.bounds(shapes).reshape(-1, 4), counted_from]
    )
    groups = [item.region.group for item in batch]
    columns: dict[str, list[Any]] = {
        "slide": [source.slide.name] * len(batch),
        "id": [item.identity for item in batch],
        "name": [item.name for item in batch],
        "class": [group.qupath_name for group in groups],
        "group": [group.name for group in groups],
        "color": [hex_code(group.color) for group in groups],
        "area_um2": [_known(item.region.area_um2, 2) for item in batch],
        "perimeter_um": [_known(item.region.perimeter_um, 2) for item in batch],
        "mean_probability": [_known(item.region.mean_probability, 4) for item in batch],
        "mean_uncertainty": [_known(item.region.mean_uncertainty, 4) for item in batch],
        "holes": [_holes(item) for item in batch],
    }
    columns |= dict(zip(POSITIONS, np.round(positions, 2).T.tolist(), strict=True))
    for name in _class_names(source):
        columns[SHARE + name] = [
            round(item.region.shares.get(name, 0.0), 4) if item.region.shares else None for item in batch
        ]
    return columns


def _class_names(source: RegionSource) -> tuple[str, ...]:
    return tuple(dict.fromkeys(c.name for c in source.card.tissue_classes))


def _known(value: float | None, digits: int) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, digits)


def _holes(item: PlacedRegion) -> int:
    return int(shapely.get_num_interior_rings(shapely.get_parts(item.geometry)).sum())
