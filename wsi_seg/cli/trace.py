"""`wsi-seg trace`: regions of label and probability maps that other software made."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from wsi_seg.cli.options import given_settings, output_option, settings_of, takes_options, takes_settings
from wsi_seg.cli.output import say
from wsi_seg.core.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.core.geometry import Origin, Scale
    from wsi_seg.regions.settings import RegionSettings


@dataclass(frozen=True)
class TraceOptions:
    """Arguments and options of `wsi-seg trace` that are no settings of a run."""

    map_: Annotated[
        Path,
        typer.Argument(
            metavar="MAP",
            help="Label or probability map: Zarr or OME-Zarr (folder or zip file), TIFF, or NumPy .npy.",
        ),
    ]
    output: Annotated[Path, output_option("File to write.")]
    to: Annotated[
        str, typer.Option("--to", metavar="FORMAT", help="Format to write, one of those of regions.")
    ] = "geojson"
    mpp: Annotated[
        str | None,
        typer.Option(
            metavar="MPP", help="Microns per map pixel, or X,Y; needed where the file does not say."
        ),
    ] = None
    slide: Annotated[
        str | None,
        typer.Option(help="Slide of the map: its size, bounds and microns per pixel place the regions."),
    ] = None
    slide_mpp: Annotated[
        str | None,
        typer.Option(
            metavar="MPP",
            help="Microns per level-0 pixel, or X,Y, in place of the slide's; without --slide the map's by "
            "default.",
        ),
    ] = None
    offset: Annotated[
        str | None,
        typer.Option(
            metavar="X,Y",
            help="Position of the map's corner in level-0 pixels, or bounds: that of the slide's bounds. "
            "By default as the file says, else 0,0.",
        ),
    ] = None
    array: Annotated[
        str | None,
        typer.Option(
            metavar="PATH", help="Array or image in the Zarr store; number of the image in a TIFF file."
        ),
    ] = None
    kind: Annotated[
        Literal["labels", "probabilities"] | None,
        typer.Option(help="What the map holds; by default floats, or several channels, are probabilities."),
    ] = None
    channels: Annotated[
        Literal["first", "last"] | None,
        typer.Option(help="Axis of the classes, where the file does not name its axes."),
    ] = None
    class_names: Annotated[
        str | None,
        typer.Option(
            metavar="NAMES",
            help="Names of label values, or of channels from 0, with colors: 1=tumor:#c80000,2=stroma. "
            "Values of one name are one class. By default as the file says, else by number.",
        ),
    ] = None
    instances: Annotated[
        Path | None,
        typer.Option(help="JSON with the class of each value, where values number objects (HoVerNeXt)."),
    ] = None


@takes_settings("classes", "threshold", "min_area_um2", "min_hole_um2", "tolerance_um", "source", "origin")
@takes_options(TraceOptions)
def trace(context: typer.Context, options: TraceOptions) -> int:
    """Trace the regions of a label or probability map that other software made."""
    from wsi_seg.exporters.table import find_format
    from wsi_seg.maps.foreign.legend import parse_names
    from wsi_seg.pipeline.trace import TraceRequest, open_foreign, region_format

    export = region_format(options.to, options.output)
    given = given_settings(context)
    request = TraceRequest(
        path=options.map_,
        inner=options.array,
        kind=options.kind,
        channels=options.channels,
        names=parse_names(options.class_names),
        instances=options.instances,
        mpp=_mpp("--mpp", options.mpp),
        offset=_offset(options.offset),
        slide=options.slide,
        slide_mpp=_mpp("--slide-mpp", options.slide_mpp),
    )
    source = open_foreign(request, _regions(given, find_format(options.to).origin))
    if source.settings.trace.source == "labels" and given.get("source") != "labels":
        _refuse_probabilities(given)
    written = export(source, options.output)
    say(source.about)
    say(f"{written.content} → {written.path}")
    return 0


def _regions(given: dict[str, object], origin: Origin) -> RegionSettings:
    if "classes" in given:
        given = {**given, "groups": []}
    return settings_of(given, defaults={"origin": origin}).regions


def _refuse_probabilities(given: dict[str, object]) -> None:
    for name in ("threshold", "source"):
        if name in given:
            raise UsageError(f"--{name}: a label map has no probabilities; leave it out")


def _mpp(flag: str, text: str | None) -> Scale | None:
    from wsi_seg.core.geometry import Scale

    return None if text is None else Scale(*_pair(flag, text, "0.5 or 0.25,0.26", single=True))


def _offset(text: str | None) -> Literal["bounds"] | tuple[float, float] | None:
    if text is None or text == "bounds":
        return None if text is None else "bounds"
    return _pair("--offset", text, "bounds or 1000,2000")


def _pair(flag: str, text: str, such_as: str, *, single: bool = False) -> tuple[float, float]:
    try:
        numbers = [float(part) for part in text.split(",")]
    except ValueError:
        numbers = []
    if single and len(numbers) == 1:
        numbers *= 2
    if len(numbers) != 2 or not all(abs(number) < 1e9 for number in numbers):
        raise UsageError(f"{flag} {text!r}: write {such_as}")
    return numbers[0], numbers[1]
