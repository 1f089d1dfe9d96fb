"""The formats of `wsi-seg export --to`: name to module, imported on use."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Origin

if TYPE_CHECKING:
    from wsi_seg.exporters.source import Exported, ExportSource

    Export = Callable[[ExportSource, Path], Exported]
    """Writes a result to a path, whole or not at all, in bounded memory; raises UsageError for another ending
    and OutputError where it cannot be written."""


@dataclass(frozen=True, slots=True)
class Format:
    """One format that results can be written in."""

    function: str
    """`module:function`, an `Export`."""
    ending: str
    """End of the names of its files, or of its folders."""
    holds: Literal["regions", "maps"]
    about: str
    """One line for `--help` and the documentation."""
    extra: str | None = None
    """Extra of this package that brings its library; None: always there."""
    compressed: bool = False
    """Its names may end with `.gz` besides: the file is compressed then."""
    takes_mpp: bool = False
    """It is written at any resolution, see `ExportSource.mpp`."""
    origin: Origin = "bounds"
    """Start of its positions unless the user says otherwise: as in the programs that read it."""

    def check_mpp(self, name: str, mpp: float | None) -> None:
        """Refuse a resolution that the format has no use for, with a UsageError."""
        if mpp is not None and not self.takes_mpp:
            others = ", ".join(other for other, form in FORMATS.items() if form.takes_mpp)
            raise UsageError(f"the format {name} takes no µm/px; {others} do")

    def check_path(self, name: str, path: Path) -> None:
        """Refuse a file or folder whose name does not fit the format, with a UsageError."""
        endings = (self.ending, f"{self.ending}.gz") if self.compressed else (self.ending,)
        if not path.name.endswith(endings) or path.name in endings:
            raise UsageError(f"{path}: the name of a file of the format {name} ends with {self.ending}")

    def load(self) -> Export:
        """Import and return the function.

        Raises:
            UsageError: its library is not installed; the message says how to install it.
        """
        module, _, name = self.function.partition(":")
        try:
            return cast("Export", getattr(import_module(module), name))
        except ModuleNotFoundError as error:
            if self.extra is None:
                raise
            hint = f"pip install 'wsi-seg[{self.extra}]'"
            raise UsageError(f"this format needs {error.name}, which is not installed: {hint}") from error


FORMATS = {
    "geojson": Format(
        "wsi_seg.exporters.geojson:export",
        ".geojson",
        "regions",
        "regions for QuPath, with measurements",
        compressed=True,
    ),
    "ome-tiff": Format(
        "wsi_seg.exporters.ome_tiff:export",
        ".ome.tiff",
        "maps",
        "classes and probabilities as pyramids, for QuPath and Bio-Formats",
    ),
    "ozx": Format("wsi_seg.exporters.ozx:export", ".ozx", "maps", "the maps as one file: OME-Zarr in a zip"),
    "png": Format(
        "wsi_seg.exporters.masks:export_png",
        ".png",
        "maps",
        "class codes with a palette, at --mpp",
        takes_mpp=True,
    ),
    "tiff-mask": Format(
        "wsi_seg.exporters.masks:export_tiff",
        ".tiff",
        "maps",
        "class codes with a palette, tiled, at --mpp",
        takes_mpp=True,
    ),
    "dicom-seg": Format(
        "wsi_seg.exporters.dicom_seg:export",
        ".dicom-seg",
        "maps",
        "folder of a DICOM Segmentation (LABELMAP): the class map, one file a level",
        extra="dicom",
    ),
    "dicom-pm": Format(
        "wsi_seg.exporters.dicom_pm:export",
        ".dicom-pm",
        "maps",
        "folder of DICOM Parametric Maps: class probabilities, one file a class and level",
        extra="dicom",
    ),
    "dicom-ann": Format(
        "wsi_seg.exporters.dicom_ann:export",
        ".dcm",
        "regions",
        "one file of DICOM Microscopy Bulk Simple Annotations: regions with area",
        extra="dicom",
    ),
    "asap": Format(
        "wsi_seg.exporters.asap:export",
        ".xml",
        "regions",
        "regions for ASAP; holes in a group of their own",
        origin="level0",
    ),
    "imagescope": Format(
        "wsi_seg.exporters.imagescope:export",
        ".xml",
        "regions",
        "regions for Aperio ImageScope, one layer for each class",
        origin="level0",
    ),
    "geoparquet": Format(
        "wsi_seg.exporters.geoparquet:export",
        ".parquet",
        "regions",
        "regions for geopandas and DuckDB, with measurements",
        "geo",
        origin="level0",
    ),
    "spatialdata": Format(
        "wsi_seg.exporters.spatial_data:export",
        ".zarr",
        "regions",
        "class map, regions and measurements for scverse",
        "spatialdata",
        origin="level0",
    ),
    "csv": Format(
        "wsi_seg.exporters.tables:export_regions",
        ".csv",
        "regions",
        "regions for pandas, one row each, with measurements",
        origin="level0",
    ),
    "csv-classes": Format(
        "wsi_seg.exporters.tables:export_classes",
        ".csv",
        "maps",
        "classes of the slide for pandas, one row each, with areas",
    ),
}


@dataclass(frozen=True, slots=True)
class FormatChoice:
    """A format that a run writes, as its setting `formats` names it: `csv`, or `tiff-mask@2` with µm/px."""

    text: str
    name: str
    mpp: float | None

    @property
    def form(self) -> Format:
        return find_format(self.name)

    def path(self, slide: str) -> str:
        """Return where the run writes it, from the results folder; `slide` is the name of the results.

        The file is called as the slide, as programs look for it, in a folder of this format.
        """
        return f"{self.text}/{slide}{self.form.ending}"


def choose_format(text: str) -> FormatChoice:
    """Return the format of one item of `formats`.

    Raises:
        UsageError: there is none, it does not take the resolution, or its library is not installed.
    """
    name, at, number = text.partition("@")
    form = find_format(name)
    mpp = None
    if at:
        try:
            mpp = float(number)
        except ValueError:
            mpp = math.nan
        if not (math.isfinite(mpp) and mpp > 0):
            raise UsageError(f"{text!r}: write the µm/px as a number, such as {name}@2")
        form.check_mpp(name, mpp)
    form.load()
    return FormatChoice(text, name, mpp)


def find_format(name: str) -> Format:
    """Return the format of a name.

    Raises:
        UsageError: there is none.
    """
    if name not in FORMATS:
        raise UsageError(f"no format {name!r}; there are {', '.join(FORMATS)}")
    return FORMATS[name]
