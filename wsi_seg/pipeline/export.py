"""Finished results in other formats, and with other regions, without running the network again."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import OutputError
from wsi_seg.exporters.geojson import GeoJSONSummary, write_geojson
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.exporters.table import find_format
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.results.files import MANIFEST, MAPS, read_record
from wsi_seg.slides.slide import MapFrame, SlideInfo


def export_regions(
    results: Path, settings: RegionSettings, path: Path, *, compress_large: bool = False
) -> GeoJSONSummary:
    """Trace the maps of a results folder with other settings and write them as GeoJSON.

    Args:
        results: a folder that `segment_slide` made.
        settings: classes, threshold, tolerance, origin.
        path: `.geojson` or `.geojson.gz` file to write.
        compress_large: see `write_geojson`.

    Raises:
        OutputError: the folder holds no results, or `path` cannot be written.
        UsageError: the model has no such class.
    """
    source = export_source(results, settings)
    return write_geojson(
        source.traced(),
        path,
        slide=source.slide,
        frame=source.frame,
        origin=settings.origin,
        compress_large=compress_large,
    )


def export_source(
    results: Path, settings: RegionSettings | None = None, mpp: float | None = None
) -> ExportSource:
    """Return what exporters get of a results folder that `segment_slide` made; raises OutputError.

    Without `settings`, regions are those of the run.
    """
    manifest = read_record(results / MANIFEST)
    if settings is None:
        settings = manifest_part(RegionSettings, manifest, results, "settings", "regions")
    return ExportSource(
        slide=manifest_part(SlideInfo, manifest, results, "slide"),
        frame=manifest_part(MapFrame, manifest, results, "frame"),
        card=manifest_part(ModelCard, manifest, results, "model", "card"),
        maps=Maps.open(results / MAPS),
        settings=settings,
        mpp=mpp,
    )


def export_result(
    results: Path, format_name: str, path: Path, settings: RegionSettings, *, mpp: float | None = None
) -> Exported:
    """Write a finished result in another format; the file or folder appears whole or not at all.

    Args:
        results: a folder that `segment_slide` made.
        format_name: one of `wsi_seg.exporters.table.FORMATS`.
        path: file or folder to write; what is there already is replaced only where it is a file.
        settings: regions, for formats that hold regions; their origin for all.
        mpp: microns per pixel, for formats that take it; None: as the maps have.

    Raises:
        OutputError: the folder holds no results, or `path` cannot be written.
        UsageError: no such format, its library is missing, it does not take `mpp` or not such a one, or the
            name of `path` does not fit.
    """
    return write_export(export_source(results, settings, mpp), format_name, path)


def write_export(source: ExportSource, format_name: str, path: Path) -> Exported:
    """Write an opened result in another format; raises as `export_result`."""
    form = find_format(format_name)
    form.check_mpp(format_name, source.mpp)
    form.check_path(format_name, path)
    return form.load()(source, path)


def card_of(results: Path) -> ModelCard:
    """Return the card of the model that made the results in a folder; raises OutputError."""
    card: ModelCard = manifest_part(ModelCard, read_record(results / MANIFEST), results, "model", "card")
    return card


def manifest_part(kind: Any, manifest: Any, results: Path, *keys: str) -> Any:
    """Return the value at `keys` of the manifest of a results folder as a `kind`, checked.

    Raises:
        OutputError: it is missing or damaged.
    """
    try:
        for key in keys:
            manifest = manifest[key]
        return _adapter(kind).validate_python(manifest)
    except (KeyError, TypeError, ValidationError) as error:
        raise OutputError(
            f"{results / MANIFEST}: {'.'.join(keys)} is missing or damaged; run wsi-seg run again"
        ) from error


# Building one takes a millisecond or more, ten times as long as using it.
_adapter = cache(TypeAdapter)
