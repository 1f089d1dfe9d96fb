"""Tiles of the slide and of the layers over it."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from pathlib import Path

from PIL import Image
from starlette.requests import Request
from starlette.responses import Response

from wsi_seg.core.errors import OutputError
from wsi_seg.core.geometry import Box
from wsi_seg.maps.maps import FAULTS
from wsi_seg.results.files import OVERVIEW
from wsi_seg.slides.slide import MapFrame
from wsi_seg.viewer import query
from wsi_seg.viewer.palette import TISSUE_COLOR, color_of
from wsi_seg.viewer.pictures import (
    THUMBNAIL_SIDE,
    jpeg,
    label_tile,
    slide_tile,
    thumbnail,
    value_tile,
)
from wsi_seg.viewer.responses import FOR_A_MINUTE, NEVER, Refused, kept_headers, not_modified
from wsi_seg.viewer.slides import SlidePlace
from wsi_seg.viewer.sources import ARTIFACTS, CLASSES, COVERAGE, TISSUE, Channels
from wsi_seg.viewer.state import OpenResult, ViewerState

PALETTES = ("card", "safe")
Picture = tuple[bytes, bool]
"""A file, and whether it shows all that it should."""


def _slide_tile(state: ViewerState, request: Request) -> Response:
    result = state.asked(request)
    frame, box, place = _place(result, request)
    slide = result.slide()

    def make() -> Picture:
        with state.pool.lend(_path(slide), result.facts.slide) as lent:
            return slide_tile(lent, frame, box), not lent.lost

    key = (result.facts.slide.fingerprint, slide.path, place)
    return _picture(state, request, result, "jpeg", (key, make))


def _thumbnail(state: ViewerState, request: Request) -> Response:
    # Of the results as they are now, whichever version a list knows: a run may end while its list is read.
    result = state.result(request.path_params["id"])
    slide = result.slide()

    def make() -> Picture:
        if slide.path is None:
            return _small_overview(result), True
        with state.pool.lend(slide.path, result.facts.slide) as lent:
            return thumbnail(lent), not lent.lost

    made = (result.key, slide.path, "thumbnail"), make
    return _picture(state, request, result, "jpeg", made, of_any_version=True)


def _layer_tile(state: ViewerState, request: Request) -> Response:
    result, layer = state.asked(request), request.path_params["layer"]
    if layer not in _LAYERS:
        raise Refused(404, f"no layer {layer[:40]!r}; layers are {', '.join(_LAYERS)}")
    frame, box, place = _place(result, request)
    wanted, draw = _LAYERS[layer](result, request)
    map_per_pixel = frame.l0_per_map / result.facts.frame.l0_per_map

    def make() -> Picture:
        return draw(map_per_pixel=map_per_pixel, box=box), True

    if result.changing:
        return _picture(state, request, result, "png", (None, make))
    return _picture(state, request, result, "png", ((result.key, layer, wanted, place), make))


Draw = Callable[..., bytes]


def _classes(result: OpenResult, request: Request) -> tuple[tuple[object, ...], Draw]:
    codes, palette = query.codes(request.query_params), _palette(request)
    shown = [one for one in result.facts.classes if codes is None or one.code in codes]
    colors = {one.code: color_of(one, result.colored(), palette) for one in shown}
    wanted = (palette, tuple(colors))
    return wanted, partial(label_tile, result.source, CLASSES, colors=colors)


def _tissue(result: OpenResult, _: Request) -> tuple[tuple[object, ...], Draw]:
    return (), partial(label_tile, result.source, TISSUE, colors={1: TISSUE_COLOR})


def _coverage(result: OpenResult, _: Request) -> tuple[tuple[object, ...], Draw]:
    colors = {one.code: one.color for one in FAULTS}
    return (), partial(label_tile, result.source, COVERAGE, colors=colors)


def _artifacts(result: OpenResult, request: Request) -> tuple[tuple[object, ...], Draw]:
    classes = result.facts.artifacts
    if not classes:
        raise Refused(404, "artifacts were not looked for in this result; run with --qc MODEL")
    palette = _palette(request)
    colors = {one.code: color_of(one, classes, palette) for one in classes}
    return (palette,), partial(label_tile, result.source, ARTIFACTS, colors=colors)


def _probability(result: OpenResult, request: Request) -> tuple[tuple[object, ...], Draw]:
    first = query.choice(request.query_params, "kind", ("class", "group"))
    _, channels = result.choose(query.text(request.query_params, "channel"), first)
    return (channels,), partial(value_tile, result.source, channels)


def _uncertainty(result: OpenResult, _: Request) -> tuple[tuple[object, ...], Draw]:
    if not result.facts.uncertainty:
        raise Refused(404, "this result holds no uncertainty; run with --uncertainty to store it")
    channels = Channels("probabilities", (len(result.facts.stored),))
    return (channels,), partial(value_tile, result.source, channels)


_LAYERS: dict[str, Callable[[OpenResult, Request], tuple[tuple[object, ...], Draw]]] = {
    "classes": _classes,
    "probability": _probability,
    "tissue": _tissue,
    "coverage": _coverage,
    "artifacts": _artifacts,
    "uncertainty": _uncertainty,
}


def _palette(request: Request) -> str:
    return query.choice(request.query_params, "palette", PALETTES)


def _place(result: OpenResult, request: Request) -> tuple[MapFrame, Box, tuple[int, int, int]]:
    """Return the frame of a tile's level, its pixels there, and its numbers."""
    most = 2**30
    zoom, x, y = (query.whole(name, request.path_params[name], 0, most) for name in ("z", "x", "y"))
    box = result.grid.box(zoom, x, y)
    return result.grid.frame(zoom), box, (zoom, x, y)


def _path(slide: SlidePlace) -> Path:
    if slide.path is None:
        raise Refused(404, slide.problem or "the slide is not there")
    return slide.path


def _small_overview(result: OpenResult) -> bytes:
    """Return the overview picture of a run in small, for where the slide is not there."""
    path = result.entry.file(OVERVIEW)
    if path is None:
        raise Refused(404, "neither the slide nor a picture of it is there")
    try:
        with Image.open(path, formats=["PNG"]) as image:
            small = image.convert("RGB")
    except (OSError, ValueError, Image.DecompressionBombError) as error:
        raise OutputError(f"{path}: is damaged ({error})") from error
    small.thumbnail((THUMBNAIL_SIDE, THUMBNAIL_SIDE))
    return jpeg(small)


def _picture(
    state: ViewerState,
    request: Request,
    result: OpenResult,
    kind: str,
    made: tuple[tuple[object, ...] | None, Callable[[], Picture]],
    *,
    of_any_version: bool = False,
) -> Response:
    """Return a picture from the cache (under a key, where it has one), or make it."""
    headers = {"Cache-Control": NEVER} if result.changing else kept_headers(request, result.version)
    known = None if result.changing else not_modified(request, headers)
    if known is not None:
        return known
    key, make = made
    content = None if key is None else state.tiles.get(key)
    if content is None:
        content, whole = make()
        if not of_any_version:
            result.check()
        if not whole:  # perhaps only for now
            headers = {"Cache-Control": FOR_A_MINUTE}
        elif key is not None:
            state.tiles.put(key, content)
    return Response(content, headers=headers, media_type=f"image/{kind}")


WORK = {
    "thumbnail.jpg": _thumbnail,
    "tiles/{z}/{x}_{y}.jpg": _slide_tile,
    "layers/{layer}/{z}/{x}_{y}.png": _layer_tile,
}
