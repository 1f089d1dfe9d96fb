"""Common parts of all pages: templates that escape what they are given, and pictures in them."""

from __future__ import annotations

import base64
import io
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from wsi_seg.core.files import atomic_path
from wsi_seg.exporters.figure import area_text
from wsi_seg.results.pages.numbers import (
    cut,
    duration_text,
    median_text,
    mm2_text,
    percent_text,
    region_area_text,
)

if TYPE_CHECKING:
    from jinja2 import Environment


def write_page(path: Path, template: str, **values: Any) -> Path:
    """Write a page piece by piece, whole or not at all.

    `template` is a file of this package, and text in `values` is escaped.

    Raises:
        OutputError: the file cannot be written.
    """
    with atomic_path(path, shared=True) as temporary:
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            # In batches of this many pieces, of which a row of a table has a dozen.
            stream = _environment().get_template(template).stream(values)
            stream.enable_buffering(200)
            file.writelines(stream)
    return path


@lru_cache(maxsize=1)
def _environment() -> Environment:
    return new_environment()


def new_environment(*packages: str) -> Environment:
    """Return an environment with the base page, its filters, and templates of further folders of wsi_seg."""
    # Imported here: what writes no page need not wait for it.
    from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

    folders = ChoiceLoader([PackageLoader("wsi_seg", package) for package in ("results/pages", *packages)])
    environment = Environment(
        loader=folders, autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    environment.filters.update(
        count=lambda n: f"{n:,}",
        percent=percent_text,
        plain=lambda name: str(name).replace("_", " "),
        mm2=mm2_text,
        region_area=region_area_text,
        median=median_text,
        area=lambda um2: "" if um2 is None else area_text(um2),
        duration=duration_text,
        data_uri=data_uri,
        cut=cut,
    )
    return environment


def data_uri(jpeg: bytes) -> str:
    """Return a JPEG as an address that holds it."""
    return "data:image/jpeg;base64," + base64.b64encode(jpeg).decode("ascii")


def jpeg_of(image: Image.Image, quality: int) -> bytes:
    """Return a picture as JPEG."""
    buffer = io.BytesIO()
    image.save(buffer, "JPEG", quality=quality, optimize=True, progressive=True)
    return buffer.getvalue()
