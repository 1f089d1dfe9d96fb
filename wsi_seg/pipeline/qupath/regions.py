"""Regions of finished results where QuPath shows the slide: found by name, checked by fingerprint, moved.

QuPath crops a slide to its bounds where it opens it through OpenSlide, and does not where it uses another
library or is told so. The size of the image in QuPath tells the two apart, and nothing else is believed.
"""

from __future__ import annotations

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, cast

from wsi_seg.annotations.geojson import OWN_MEMBER, subtracted_of
from wsi_seg.core.errors import OutputError, SlideError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import list_folder
from wsi_seg.core.formats import GZIP_MAGIC
from wsi_seg.core.geometry import Size
from wsi_seg.exporters.placed import origin_l0
from wsi_seg.pipeline.export import manifest_part
from wsi_seg.results.files import (
    MANIFEST,
    POLYGONS,
    SUMMARY,
    as_summary,
    read_json,
    read_record,
    unlike_notice,
)
from wsi_seg.slides.readers import open_slide
from wsi_seg.slides.slide import SlideInfo

# How deep results may lie under OUT.
DEEPEST = 8
# Characters that are read together, and within which our own files say what was subtracted.
PIECE = 2**20
HEAD = re.compile(r'\{"type":"FeatureCollection","' + OWN_MEMBER + r'":(?P<own>\{[^{}]*\}),')
NOT_ASCII = re.compile(r"[^\x00-\x7f]")


def find_results(out: Path, name: str, slide: str) -> Path:
    """Return the folder of a slide's finished results.

    Args:
        out: the folder of all results.
        name: of results of this slide; a batch may have put them deeper.
        slide: path of the slide.

    Raises:
        OutputError: there are none, or only those of another slide of this name.
        SlideError: the slide cannot be opened.
    """
    others = []
    for folder in _candidates(out, name):
        info: SlideInfo = manifest_part(SlideInfo, read_record(folder / MANIFEST), folder, "slide")
        if _fingerprint(slide, info) == info.fingerprint:
            return folder
        others.append(
            f"{folder}: holds results of another slide of this name, {info.path}, and not of {slide}; "
            "choose another folder for results"
        )
    if others:
        raise OutputError(others[0])
    raise OutputError(f"{out}: has no finished results of {name}; run wsi-seg on this image first")


def _fingerprint(slide: str, like: SlideInfo) -> str | None:
    """Return the fingerprint of a slide, as the reader of another makes it; None where it does not fit."""
    try:
        with open_slide(slide, reader=like.reader, series=like.series) as opened:
            return opened.info.fingerprint
    except SlideError:
        open_slide(slide).close()  # raises where it is no slide at all
        return None


def _candidates(out: Path, name: str) -> Iterator[Path]:
    own = out / name
    if (own / MANIFEST).is_file():
        yield own
    yield from (folder for folder in finished_results(out) if folder.name == name and folder != own)


def finished_results(out: Path, deepest: int = DEEPEST) -> Iterator[Path]:
    """Yield the folders of finished results in and below a folder; what cannot be read is passed over."""
    try:
        inner = list_folder(out)
    except OSError:
        return
    if any(path.name == MANIFEST for path in inner):
        yield out
    elif deepest:
        for path in inner:
            if path.is_dir() and not path.is_symlink():
                yield from finished_results(path, deepest - 1)


def qupath_origin(info: SlideInfo, shown: Size) -> tuple[float, float]:
    """Return the l0 position, x and y, of the corner of a slide as QuPath shows it.

    Args:
        info: the slide.
        shown: size of the image in QuPath, in pixels.

    Raises:
        SlideError: QuPath shows neither the whole slide nor its bounds.
    """
    if shown == info.size:
        return 0.0, 0.0
    bounds = info.bounds
    if bounds is not None and shown == Size(bounds.width, bounds.height):
        return origin_l0(info, "bounds")
    cropped = f", within bounds {bounds.width} × {bounds.height}" if bounds is not None else ""
    raise SlideError(
        f"{info.path}: QuPath shows an image of {shown.width} × {shown.height} px, but this slide has "
        f"{info.size.width} × {info.size.height} px{cropped}; open the slide itself in QuPath, not a crop, "
        "a rotated copy or another image of its file"
    )


def write_regions(folder: Path, shown: Size, to: IO[bytes]) -> None:
    """Write the regions of results as GeoJSON whose positions are those of QuPath's image.

    The text is ASCII: QuPath 0.5 on Windows reads files in the encoding of the system.

    Args:
        folder: the results.
        shown: see `qupath_origin`.
        to: gets the bytes.

    Raises:
        OutputError: the regions are missing or damaged.
        SlideError: see `qupath_origin`.
    """
    info: SlideInfo = manifest_part(SlideInfo, read_record(folder / MANIFEST), folder, "slide")
    origin = qupath_origin(info, shown)
    names = (POLYGONS, f"{POLYGONS}.gz")
    path = next((folder / name for name in names if (folder / name).is_file()), folder / POLYGONS)
    try:
        with reading(path, OutputError), _text(path) as text:
            piece = text.read(PIECE)
            head = HEAD.match(piece)
            if head is not None and subtracted_of({OWN_MEMBER: json.loads(head["own"])}, path) == origin:
                while piece:
                    to.write(_ascii(piece))
                    piece = text.read(PIECE)
                return
            document = json.loads(piece + text.read())
    except (EOFError, zlib.error, ValueError, RecursionError) as error:
        raise OutputError(f"{path}: damaged GeoJSON ({error}); run wsi-seg export again") from error
    # A file that QuPath has saved again has lost our member, and counts from the bounds.
    subtracted = subtracted_of(document, path)
    x, y = origin_l0(info, "bounds") if subtracted is None else subtracted
    _move(document, x - origin[0], y - origin[1])
    to.write(json.dumps(document, separators=(",", ":")).encode("ascii"))


def warnings_of(folder: Path) -> list[str]:
    """Return what people must know about results before they rely on them, a line each.

    Raises:
        OutputError: the summary is missing or damaged.
    """
    summary = as_summary(read_json(folder / SUMMARY), folder / SUMMARY)
    incomplete = "results are INCOMPLETE: parts of the slide could not be read"
    unlike = unlike_notice(summary)
    return [
        *([incomplete] if summary["status"] == "incomplete" else []),
        *([unlike] if unlike else []),
        *([f"model {summary.get('model')}: {summary['notice']}"] if summary.get("notice") else []),
    ]


@contextmanager
def _text(path: Path) -> Iterator[IO[str]]:
    with path.open("rb") as raw:
        packed = raw.read(len(GZIP_MAGIC)) == GZIP_MAGIC
        raw.seek(0)
        data = cast(IO[bytes], gzip.GzipFile(fileobj=raw)) if packed else raw
        with io.TextIOWrapper(data, encoding="utf-8-sig") as text:
            yield text


def _ascii(text: str) -> bytes:
    """Return JSON with all other characters as escapes; they only stand in its strings."""

    def escape(found: re.Match[str]) -> str:
        return json.dumps(found[0])[1:-1]

    return NOT_ASCII.sub(escape, text).encode("ascii")


def _move(part: Any, dx: float, dy: float) -> None:
    """Add to all positions of a GeoJSON document, in place."""
    waiting = [part]
    while waiting:
        one = waiting.pop()
        if isinstance(one, list):
            waiting.extend(one)
        elif isinstance(one, dict):
            if "coordinates" in one:
                one["coordinates"] = _moved(one["coordinates"], dx, dy)
            own = one.get(OWN_MEMBER)
            if isinstance(own, dict) and "subtracted_l0" in own:
                x, y = own["subtracted_l0"]
                own["subtracted_l0"] = [x - dx, y - dy]
            waiting.extend(one.get(key) for key in ("features", "geometry", "geometries", "nucleusGeometry"))


def _moved(coordinates: Any, dx: float, dy: float) -> Any:
    if not isinstance(coordinates, list):
        return coordinates
    if len(coordinates) >= 2 and all(isinstance(value, int | float) for value in coordinates):
        x, y, *rest = coordinates
        return [round(x + dx, 2), round(y + dy, 2), *rest]
    return [_moved(part, dx, dy) for part in coordinates]
