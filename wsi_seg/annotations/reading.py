"""Reading of drawn regions: one table of formats behind all commands.

A file is told by its content, not by its name: first JSON, XML or CSV, plain or gzipped, then the first
format of `FORMATS` that fits. A reader is a function `(document, path) -> Content`, named as
"module:attribute" and imported on first use.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import Any, cast
from xml.etree.ElementTree import Element, ParseError

import shapely

from wsi_seg.annotations.annotation import Annotation, Annotations, Content, Drawn, polygonal_part
from wsi_seg.annotations.geoparquet import MAGIC
from wsi_seg.core.errors import MaskError
from wsi_seg.core.files import read_plain

# Largest position: no slide has a side of so many pixels.
FARTHEST = 1e9

Reader = Callable[[Any, Path], Content]


@dataclass(frozen=True, slots=True)
class Format:
    """One format of annotation files."""

    title: str
    fits: Callable[[Any], bool]
    """True of its documents: what `json.loads` returns, the root of XML, the text of a CSV file, or bytes."""
    reader: str
    """`module:attribute`."""


def _has(document: Any, *keys: str) -> bool:
    return isinstance(document, dict) and all(key in document for key in keys)


def _is_dsa(document: Any) -> bool:
    part = document[0] if isinstance(document, list) and document else document
    return _has(part, "elements") or (_has(part, "annotation") and _has(part["annotation"], "elements"))


def _is_layered(document: Any, vertex: str) -> bool:
    """Return whether XML has the layers of Aperio or HALO, whose names of a corner differ."""
    if not isinstance(document, Element) or document.tag != "Annotations":
        return False
    return vertex == "Vertex" or document.find(f"./Annotation/Regions/Region/Vertices/{vertex}") is not None


FORMATS = {
    "csv": Format(
        "CSV with outlines", lambda d: isinstance(d, str), "wsi_seg.annotations.csv_files:read_csv"
    ),
    "asap": Format(
        "ASAP XML",
        lambda d: isinstance(d, Element) and d.tag == "ASAP_Annotations",
        "wsi_seg.annotations.xml_files:read_asap",
    ),
    "halo": Format("HALO XML", lambda d: _is_layered(d, "V"), "wsi_seg.annotations.xml_files:read_layers"),
    "aperio": Format(
        "Aperio XML", lambda d: _is_layered(d, "Vertex"), "wsi_seg.annotations.xml_files:read_layers"
    ),
    "coco": Format(
        "COCO", lambda d: _has(d, "images", "annotations"), "wsi_seg.annotations.json_files:read_coco"
    ),
    "labelme": Format(
        "Labelme", lambda d: _has(d, "shapes", "imagePath"), "wsi_seg.annotations.json_files:read_labelme"
    ),
    "dsa": Format("DSA", _is_dsa, "wsi_seg.annotations.json_files:read_dsa"),
    "outlines": Format(
        "list of outlines",
        lambda d: isinstance(d, list) and any(_has(item, "image") or _has(item, "points") for item in d),
        "wsi_seg.annotations.json_files:read_outlines",
    ),
    "geoparquet": Format(
        "GeoParquet", lambda d: isinstance(d, bytes), "wsi_seg.annotations.geoparquet:read_geoparquet"
    ),
    # All other JSON, so that the message says what it lacks.
    "geojson": Format(
        "GeoJSON", lambda d: not isinstance(d, Element), "wsi_seg.annotations.geojson:read_geojson"
    ),
}

# Endings of files next to slides and images; files that end as the second do may be something else.
OWN_ENDINGS = (".geojson", ".geojson.gz", ".geojson.zip", ".annotations")
SHARED_ENDINGS = (".xml", ".json")
# Of all files that a user names.
ENDINGS = (*OWN_ENDINGS, *SHARED_ENDINGS, ".csv", ".parquet", ".gz", ".zip")


def read_annotations(
    path: Path, *, strict: bool = False, may_be_empty: bool = False, many_images: bool = False
) -> Annotations:
    """Read the regions of a file in any of the formats; points, lines and the like do not count.

    A region that crosses itself, as drawn by hand, is made valid; all that its line encircles counts.

    Args:
        path: plain, gzipped, or the only file in a ZIP archive.
        strict: refuse polygons without an area instead of leaving them out.
        may_be_empty: accept a file in which nothing is drawn.
        many_images: accept a file of several images, and no other.

    Raises:
        MaskError: not there, damaged, in no known format, of several images (or not), or without any region
            that has an area.
    """
    content = _content(path)
    if many_images and content.drawn and not content.images:
        raise MaskError(f"{path}: does not say the image of each region; put a file next to each image")
    if len(content.images) > 1 and not many_images:
        names = ", ".join([*list(content.images)[:3], *["…"][: len(content.images) > 3]])
        raise MaskError(f"{path}: holds regions of {len(content.images)} images ({names}), not of one")
    items = []
    for drawn in content.drawn:
        _check_reach(drawn)
        shape = None if drawn.geometry is None else polygonal_part(drawn.geometry)
        if shape is not None:
            items.append(Annotation(shape, drawn.name, drawn.where, drawn.image))
        elif strict and drawn.geometry is not None:
            raise MaskError(f"{drawn.where} has no area (fewer than three points?); redraw or delete it")
    if not items and (content.drawn or not may_be_empty):
        kinds = Counter(drawn.kind for drawn in content.drawn)
        found = ", ".join(f"{count} × {kind}" for kind, count in kinds.items()) or "nothing drawn"
        raise MaskError(f"{path}: no polygon with an area (found {found}); draw areas and export them")
    return Annotations(tuple(items), content.subtracted_l0, content.images)


def _check_reach(drawn: Drawn) -> None:
    """Refuse positions that are on no slide, with which geometry overflows."""
    farthest = 0.0 if drawn.geometry is None else max(map(abs, shapely.bounds(drawn.geometry).tolist()))
    if farthest > FARTHEST:  # NaN where nothing is drawn
        raise MaskError(f"{drawn.where}: a position is {farthest:g}; positions are pixels of a slide")


def _content(path: Path) -> Content:
    document = _document(path)
    found = next((known for known in FORMATS.values() if known.fits(document)), None)
    if found is None:
        raise MaskError(
            f"{path}: XML, but its root is <{document.tag[:40]}>; read are that of ASAP (<ASAP_Annotations>) "
            "and of Aperio and HALO (<Annotations>)"
        )
    module, _, attribute = found.reader.partition(":")
    return cast(Reader, getattr(import_module(module), attribute))(document, path)


def _document(path: Path) -> Any:
    """Return the root of XML, the text of CSV, what a JSON file holds, or the bytes of Parquet.

    Raises:
        MaskError: it cannot be read, or is none of them.
    """
    data = read_plain(Path(path), MaskError)
    if data.startswith(MAGIC):
        return data
    name = path.name.lower().removesuffix(".gz").removesuffix(".zip")
    if data.lstrip(b"\xef\xbb\xbf \t\r\n").startswith(b"<") or name.endswith((".xml", ".annotations")):
        return _xml(data, path)
    try:
        if name.endswith(".csv"):
            return data.decode("utf-8-sig")
        return json.loads(data)
    except (ValueError, RecursionError) as error:
        what = "no valid CSV" if name.endswith(".csv") else "not JSON"
        raise MaskError(f"{path}: {what} ({error}); export it again") from error


def _xml(data: bytes, path: Path) -> Element:
    from defusedxml import DefusedXmlException
    from defusedxml.ElementTree import fromstring

    try:
        return cast(Element, fromstring(data, forbid_dtd=True))
    except DefusedXmlException as error:
        raise MaskError(f"{path}: holds a document type or entities, which annotations need not") from error
    except (ParseError, ValueError, LookupError) as error:
        raise MaskError(f"{path}: damaged XML ({error}); export it again") from error
