"""Regions with measurements as GeoParquet 1.1, for geopandas, DuckDB and QGIS.

Geometries are WKB in l0 pixels without a coordinate reference system, as nothing is on the Earth. The member
`wsi_seg` of the file's metadata says so, and from where positions count; times `mpp` they are micrometers.
Columns are those of `columns`, with the boxes in one column `bbox`, by which readers find the rows of a
place.
The specification: https://geoparquet.org/releases/v1.1.0/
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import shapely
from pyarrow import parquet

from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.files import atomic_path
from wsi_seg.exporters.columns import GEOMETRY, TEXTS, column_names, region_batches
from wsi_seg.exporters.placed import PlacedRegion, facts
from wsi_seg.exporters.source import Exported, RegionSource

EDGES = ("xmin", "ymin", "xmax", "ymax")
BBOX = "bbox"

# Regions of one row group: what is held in memory, and what readers can pass over.
ROW_GROUP = 10_000


def export(source: RegionSource, path: Path) -> Exported:
    """Write the regions, one row each, a row group at a time.

    Raises:
        UsageError, MppMissingError: as `RegionSource.regions`.
        OutputError: the file cannot be written, or the maps are damaged.
    """
    schema = _schema(source)
    count = 0
    kinds: set[str] = set()
    extent = np.array([np.inf, np.inf, -np.inf, -np.inf])
    with atomic_path(path) as temporary, parquet.ParquetWriter(temporary, schema, compression="zstd") as file:
        for batch, columns in region_batches(source, ROW_GROUP):
            bounds = np.array([columns.pop(f"{edge}_l0") for edge in EDGES])
            file.write_batch(_record_batch(batch, columns, bounds, schema))
            kinds.update(item.geometry.geom_type for item in batch)
            extent[:2] = np.minimum(extent[:2], bounds[:2].min(axis=1))
            extent[2:] = np.maximum(extent[2:], bounds[2:].max(axis=1))
            count += len(batch)
        told = {"geo": _geo(sorted(kinds), extent.tolist() if count else None), OWN_MEMBER: _own(source)}
        file.add_key_value_metadata({name: json.dumps(value) for name, value in told.items()})
    return Exported(path, f"{count} regions")


def _schema(source: RegionSource) -> pa.Schema:
    boxes = {f"{edge}_l0" for edge in EDGES}
    fields = [
        (name, pa.string() if name in TEXTS else pa.int32() if name == "holes" else pa.float64())
        for name in column_names(source)
        if name not in boxes
    ]
    box = pa.struct([(edge, pa.float64()) for edge in EDGES])
    return pa.schema([*fields, (BBOX, box), (GEOMETRY, pa.binary())])


def _record_batch(
    batch: list[PlacedRegion], columns: dict[str, list[Any]], bounds: np.ndarray, schema: pa.Schema
) -> pa.RecordBatch:
    """Return rows as they are stored; `bounds` are float64 (4, n)."""
    box = pa.StructArray.from_arrays([pa.array(edge) for edge in bounds], list(EDGES))
    geometry = pa.array(shapely.to_wkb([item.geometry for item in batch]), pa.binary())
    arrays = [pa.array(values, schema.field(name).type) for name, values in columns.items()]
    return pa.RecordBatch.from_arrays([*arrays, box, geometry], schema=schema)


def _geo(kinds: list[str], extent: list[float] | None) -> dict[str, Any]:
    """Return the metadata of GeoParquet."""
    column = {
        "encoding": "WKB",
        "geometry_types": kinds,
        "crs": None,
        "edges": "planar",
        "orientation": "counterclockwise",
        "covering": {"bbox": {edge: [BBOX, edge] for edge in EDGES}},
        **({} if extent is None else {"bbox": extent}),
    }
    return {"version": "1.1.0", "primary_column": GEOMETRY, "columns": {GEOMETRY: column}}


def _own(source: RegionSource) -> dict[str, Any]:
    return {"unit": "pixel", **facts(source.slide, source.frame, source.settings.origin)}
