"""Writers of results for other software, and the table of them.

An exporter is a callable `(regions, path, *, slide, frame, origin) -> summary` as in
`wsi_seg.exporters.geojson.write_geojson`, named as "module:attribute" and imported on first use.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import Any, cast

from wsi_seg.core.errors import UsageError

__all__ = ["EXPORTERS", "check", "figure", "find_exporter", "geojson", "gradcam", "overview"]

EXPORTERS = {
    "geojson": "wsi_seg.exporters.geojson:write_geojson",
}


def find_exporter(name: str) -> Callable[..., Any]:
    """Return the exporter of this name.

    Raises:
        UsageError: there is none.
    """
    if name not in EXPORTERS:
        raise UsageError(f"unknown exporter {name!r}; choose one of {', '.join(EXPORTERS)}")
    module, attribute = EXPORTERS[name].split(":")
    return cast(Callable[..., Any], getattr(import_module(module), attribute))
