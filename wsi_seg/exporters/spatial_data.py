"""Results as a SpatialData store for scverse: the class map, regions and their measurements.

`labels/classes` is the label map, with the table `class_names`; `shapes/regions` are the regions, with the
table `measurements`. The coordinate system `global` is in l0 pixels, `um` in micrometers; both count from the
same corner. In SpatialData pixel i covers [i, i + 1), as here, so a scale and a translation are all there is.
The slide is not copied: the store's attribute `wsi_seg` names its file.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import xarray
from anndata import AnnData
from geopandas import GeoDataFrame
from spatialdata import SpatialData
from spatialdata.models import Labels2DModel, ShapesModel, TableModel
from spatialdata.transformations import Identity, Scale, Sequence, Translation

from wsi_seg.annotations.geojson import OWN_MEMBER
from wsi_seg.core.classes import hex_code
from wsi_seg.core.errors import UsageError
from wsi_seg.core.files import new_folder
from wsi_seg.exporters.columns import FIGURES, GEOMETRY, all_columns, share_columns
from wsi_seg.exporters.placed import facts, origin_l0
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.maps.maps import Maps
from wsi_seg.slides.slide import require_mpp

CLASSES, REGIONS = "classes", "regions"
REGION_KEY, CODE_KEY, ID_KEY = "region", "code", "id"
XY = ("x", "y")
# Pixels a side of what is read, computed and stored at a time.
CHUNK = 2048


def export(source: ExportSource, path: Path) -> Exported:
    """Write a new store, the label map chunk by chunk.

    Raises:
        UsageError, MppMissingError: as `make_spatialdata`.
        OutputError: there is something at `path`, it cannot be written, or the maps are damaged.
    """
    store = make_spatialdata(source)
    with new_folder(path) as temporary:
        store.write(temporary, update_sdata_path=False)
    count = len(store[REGIONS]) if REGIONS in store else 0
    return Exported(path, f"{count} regions and the class map")


def make_spatialdata(source: ExportSource) -> SpatialData:
    """Return the result in memory: regions and tables; the label map is read when it is computed or written.

    Where there are no regions, neither shapes nor their table are in it: SpatialData refuses empty ones.

    Raises:
        UsageError, MppMissingError: as `ExportSource.regions`; UsageError for a map of other software.
        OutputError: the maps are damaged.
    """
    if not isinstance(source.maps, Maps):
        raise UsageError(
            "spatialdata takes finished results; maps of other software have no pyramid of labels"
        )
    elements: dict[str, Any] = {CLASSES: _labels(source), "class_names": _class_names(source)}
    columns = all_columns(source)
    if columns[GEOMETRY]:
        elements |= {REGIONS: _shapes(source, columns), "measurements": _measurements(source, columns)}
    return SpatialData.init_from_elements(elements, attrs={OWN_MEMBER: _own(source)})


def _own(source: ExportSource) -> dict[str, Any]:
    slide = source.slide
    image = {"path": slide.path, "reader": slide.reader, "size": [slide.size.width, slide.size.height]}
    return {**facts(slide, source.frame, source.settings.origin), "image": image}


def _transformations(source: ExportSource, l0_per_pixel: tuple[float, float] | None) -> dict[str, Any]:
    """Return how pixels, or None: what is in l0 pixels from the origin, come into the coordinate systems."""
    mpp = require_mpp(source.slide)
    steps = []
    if l0_per_pixel is not None:
        shift = [-value for value in origin_l0(source.slide, source.settings.origin)]
        steps = [Scale(list(l0_per_pixel), axes=XY), Translation(shift, axes=XY)]
    to_um = Sequence([*steps, Scale([mpp.x, mpp.y], axes=XY)])
    return {"global": Sequence(steps) if steps else Identity(), "um": to_um}


def _labels(source: ExportSource) -> Any:
    """Return the label map, read when it is written."""
    levels = source.maps.level_count
    maps = xarray.open_zarr(
        source.maps.path / "labels" / CLASSES,
        consolidated=False,
        mask_and_scale=False,
        drop_variables=[str(level) for level in range(1, levels)],
        chunks={"y": CHUNK, "x": CHUNK},
    )
    scale = source.frame.l0_per_map
    return Labels2DModel.parse(
        maps["0"].drop_attrs().rename(None),
        scale_factors=[2] * (levels - 1) or None,
        chunks={"y": CHUNK, "x": CHUNK},
        transformations=_transformations(source, (scale.x, scale.y)),
    )


def _class_names(source: ExportSource) -> AnnData:
    classes = source.card.tissue_classes
    obs = pd.DataFrame(
        {REGION_KEY: pd.Categorical([CLASSES] * len(classes)), CODE_KEY: [c.code for c in classes],
         "class": pd.Categorical([c.name for c in classes], [c.name for c in classes])},
        index=[str(c.code) for c in classes],
    )  # fmt: skip
    table = AnnData(obs=obs, uns={"class_colors": [hex_code(c.color) for c in classes]})
    return TableModel.parse(table, region=CLASSES, region_key=REGION_KEY, instance_key=CODE_KEY)


def _shapes(source: ExportSource, columns: dict[str, list[Any]]) -> GeoDataFrame:
    frame = GeoDataFrame(geometry=columns[GEOMETRY], index=pd.Index(columns["id"], name=ID_KEY))
    return ShapesModel.parse(frame, transformations=_transformations(source, None))


def _measurements(source: ExportSource, columns: dict[str, list[Any]]) -> AnnData:
    """Return the table of regions: figures as its matrix, names and classes of each row."""
    names = (*FIGURES, "holes", *share_columns(source))
    figures = np.array([columns[name] for name in names], dtype=float).T
    groups = {group.qupath_name: group for group in source.groups}
    obs = pd.DataFrame(
        {REGION_KEY: pd.Categorical([REGIONS] * len(figures)), ID_KEY: columns["id"], "name": columns["name"],
         "class": pd.Categorical(columns["class"], list(groups)), "group": pd.Categorical(columns["group"])},
        index=columns["id"],
    )  # fmt: skip
    colors = [hex_code(group.color) for group in groups.values()]
    table = AnnData(figures, obs=obs, var=pd.DataFrame(index=list(names)), uns={"class_colors": colors})
    return TableModel.parse(table, region=REGIONS, region_key=REGION_KEY, instance_key=ID_KEY)
