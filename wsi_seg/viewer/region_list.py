"""Table of the regions of a result: filtered and sorted, a page at a time, and the neighbors of one in it."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.geometry import Scale
from wsi_seg.results.region_files import Regions
from wsi_seg.viewer import query
from wsi_seg.viewer.listing import place_in

SORTS = (
    "-area", "area", "number", "-number", "class", "-class", "probability", "-probability", "uncertainty",
    "-uncertainty",
)  # fmt: skip
MOST_UM2 = 1e14
# Measurements of each row.
SHOWN = ("area_um2", "mean_probability", "mean_uncertainty")


@dataclass(frozen=True, slots=True)
class RegionQuery:
    """Filters and order of a table of regions."""

    group: str = ""
    """Name of their class or group; "": any."""
    area_um2: float = 0.0
    """Least area."""
    sort: str = "-area"
    """One of `SORTS`; with "-": the largest first. What is not known comes last, equal ones by area."""


def read_region_query(params: Mapping[str, str]) -> RegionQuery:
    """Return the `group`, `area` and `sort` of a query.

    Raises:
        Refused: 400, one is wrong.
    """
    return RegionQuery(
        params.get("group", ""),
        query.number(params, "area", 0, MOST_UM2) if "area" in params else 0.0,
        query.choice(params, "sort", SORTS),
    )


def list_regions(
    regions: Regions, mpp: Scale | None, wanted: RegionQuery, offset: int, limit: int
) -> dict[str, Any]:
    """Return one row for each region, and how many are wanted in all as `total`.

    Args:
        regions: of the result.
        mpp: µm per l0 pixel of the slide.
        wanted: which, in which order.
        offset: regions to leave out at the start.
        limit: rows at most.
    """
    found, areas = _find(regions, mpp, wanted)
    columns = {**{name: regions.figures[name] for name in SHOWN}, "area_um2": areas}
    rows = [_row(regions, columns, index) for index in found[offset : offset + limit].tolist()]
    return {"total": len(found), "rows": rows}


def region_neighbors(regions: Regions, mpp: Scale | None, wanted: RegionQuery, index: int) -> dict[str, Any]:
    """Return the regions before and after one in the table, and its `position`, as `place_in` does."""
    return place_in(_find(regions, mpp, wanted)[0].tolist(), index)


def _find(
    regions: Regions, mpp: Scale | None, wanted: RegionQuery
) -> tuple[NDArray[np.intp], NDArray[np.float64]]:
    """Return the numbers of the regions that are wanted, in their order, and the area of every region."""
    areas = _areas(regions, mpp)
    kept = areas >= wanted.area_um2 if wanted.area_um2 else np.ones(len(areas), bool)
    if wanted.group:
        kept &= np.isin(
            regions.group, [i for i, one in enumerate(regions.groups) if one.name == wanted.group]
        )
    found = np.flatnonzero(kept)
    name, sign = wanted.sort.removeprefix("-"), -1 if wanted.sort.startswith("-") else 1
    key = sign * _key(regions, areas, name)[found]
    return found[np.lexsort((-areas[found], key))], areas


def _areas(regions: Regions, mpp: Scale | None) -> NDArray[np.float64]:
    """Return the areas in µm², (n,), as they were measured; of regions that other programs drew, now."""
    areas = regions.figures["area_um2"]
    if mpp is None or not np.isnan(areas).any():
        return areas
    return np.where(np.isnan(areas), shapely.area(regions.shapes) * mpp.x * mpp.y, areas)


def _key(regions: Regions, areas: NDArray[np.float64], name: str) -> NDArray[np.float64]:
    """Return what regions are sorted by, (n,); NaN, which comes last either way, where it is not known."""
    if name == "number":
        return np.arange(len(areas), dtype=np.float64)
    if name == "class":
        names = sorted((one.name for one in regions.groups), key=str.casefold)
        places = np.array([names.index(one.name) for one in regions.groups], np.float64)
        return np.asarray(places[regions.group], np.float64)
    return areas if name == "area" else regions.figures[f"mean_{name}"]


def _row(regions: Regions, columns: Mapping[str, NDArray[np.float64]], index: int) -> dict[str, Any]:
    values = {name: float(column[index]) for name, column in columns.items()}
    known = {name: value for name, value in values.items() if not math.isnan(value)}
    return {"index": index, "group": regions.groups[regions.group[index]].name, **known}
