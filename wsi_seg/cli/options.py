"""Options that several commands share."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.core.errors import UsageError

ConfigOption = Annotated[
    Path | None, typer.Option("--config", "-c", help="YAML file of settings; flags win over it.")
]
MppOption = Annotated[
    float | None, typer.Option(help="Microns per level-0 pixel, where the slide does not say.")
]
SeriesOption = Annotated[
    int | None,
    typer.Option(min=0, help="Number of the image in a TIFF file of several, as wsi-seg info lists them."),
]
GroupsOption = Annotated[
    str | None,
    typer.Option(
        help="Class groups to trace, separated by commas; by default those that the model's card names."
    ),
]
ClassesOption = Annotated[str | None, typer.Option(help="Single classes to trace, separated by commas.")]
ThresholdOption = Annotated[
    float | None, typer.Option(help="Probability from which on a place belongs to a region.")
]
IgnoredClassesOption = Annotated[
    str | None,
    typer.Option(
        metavar="NAMES",
        help="Classes of a GeoJSON file whose areas are left out besides Ignore*, separated by commas; "
        "Unclassified for areas without a class.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="Any other setting of configs/run.yaml; repeatable."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, and nothing else, on stdout.")]
VerboseOption = Annotated[bool, typer.Option("--verbose", "-v", help="Say more on stderr.")]


def parse_settings(pairs: list[str] | None) -> dict[str, str]:
    """Turn KEY=VALUE pairs into texts, which the type of each setting converts.

    Raises:
        UsageError: a pair has no "=" or no value.
    """
    values = {}
    for pair in pairs or []:
        key, _, text = (part.strip() for part in pair.partition("="))
        if not key or not text:
            raise UsageError(f"--set {pair!r}: write KEY=VALUE, such as --set tile=1024")
        values[key] = text
    return values


def names(text: str | None) -> list[str] | None:
    """Turn "tumor,stroma" into names; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def set_up_logging(verbose: bool) -> None:
    """Log to stderr: warnings, or with -v what is being done. The logs of slides hold both.

    Without -v not why a slide failed: the command says that itself. Nor what tifffile finds wrong with a
    file, as whoever reads it says that.
    """
    handler = logging.StreamHandler()
    handler.setLevel(logging.INFO if verbose else logging.WARNING)
    if not verbose:
        handler.addFilter(
            lambda record: record.name != "wsi_seg.pipeline.batch" or record.levelno < logging.ERROR
        )
        handler.addFilter(lambda record: record.name != "tifffile")
    logging.basicConfig(format="%(levelname)s %(name)s: %(message)s", handlers=[handler])
    logging.getLogger("wsi_seg").setLevel(logging.INFO)
