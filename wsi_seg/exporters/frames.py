"""Results as tables in memory: regions for geopandas, and classes of the slide for pandas."""

from __future__ import annotations

from typing import Literal

import geopandas
import pandas as pd

from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.exporters.columns import GEOMETRY, TEXTS, all_columns, column_names
from wsi_seg.exporters.placed import facts
from wsi_seg.exporters.source import ExportSource, RegionSource
from wsi_seg.exporters.tables import CLASS_COLUMNS, class_rows
from wsi_seg.slides.slide import require_mpp

Unit = Literal["l0", "um"]
"""Unit of geometries: l0 pixels, or micrometers."""


def region_frame(source: RegionSource, unit: Unit) -> geopandas.GeoDataFrame:
    """Return one row for each region, with the columns of `columns` and its geometry.

    Geometries have no coordinate reference system. `attrs["wsi_seg"]` says their unit, and from where they
    count.

    Raises:
        UsageError, MppMissingError: as `RegionSource.regions`.
        OutputError: the maps are damaged.
    """
    mpp = require_mpp(source.slide)
    found = geopandas.GeoDataFrame(all_columns(source), geometry=GEOMETRY)
    kinds = {name: "int64" if name == "holes" else "float64" for name in column_names(source)}
    found = found.astype({**kinds, **dict.fromkeys(TEXTS, "str")})  # also of no rows at all
    if unit == "um":
        found = found.set_geometry(found.geometry.scale(mpp.x, mpp.y, origin=(0, 0)))
    found.attrs[OWN_MEMBER] = {"unit": unit, **facts(source.slide, source.frame, source.settings.origin)}
    return found


def class_frame(source: ExportSource) -> pd.DataFrame:
    """Return `class_rows` as a table; raises OutputError where the maps are damaged."""
    return pd.DataFrame(class_rows(source), columns=list(CLASS_COLUMNS))
