"""Outlines of regions, what is known of one, and outlines at another threshold."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
from numpy.typing import NDArray
from starlette.background import BackgroundTask
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.geometry import MOST_L0
from wsi_seg.exporters.geojson import write_geojson
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.polygons import iter_regions
from wsi_seg.results.region_files import RegionGroup, Regions
from wsi_seg.viewer import query
from wsi_seg.viewer.region_list import list_regions, read_region_query, region_neighbors
from wsi_seg.viewer.responses import ASK_AGAIN, Refused, json_text, kept_headers, not_modified, text_reply
from wsi_seg.viewer.screen_outlines import answer
from wsi_seg.viewer.sources import Channels
from wsi_seg.viewer.state import OpenResult, ViewerState
from wsi_seg.viewer.threshold import show_contours, trace_box, trace_view

# Of the table of regions in one answer.
MOST_ROWS = 1000


def _regions(state: ViewerState, request: Request) -> Response:
    result, view = state.asked(request), query.view(request.query_params)
    if result.polygons is None:  # a run that is not finished
        return text_reply(answer((), (), 0))
    return _kept(request, result, lambda: result.outlines().show(view))


def _kept(request: Request, result: OpenResult, make: Callable[[], str]) -> Response:
    """Return JSON that changes with the version of a result alone."""
    if result.changing:
        return text_reply(make())
    headers = kept_headers(request, result.version)
    return not_modified(request, headers) or text_reply(make(), headers=headers)


def _region_at(state: ViewerState, request: Request) -> Response:
    result, params = state.asked(request), request.query_params
    x, y = (query.number(params, name, -MOST_L0, MOST_L0) for name in ("x", "y"))
    regions = result.outlines().regions
    index = regions.at(x, y)
    if index is None:
        raise Refused(404, "no region there")
    return _kept(request, result, lambda: json_text(regions.describe(index)))


def _region_list(state: ViewerState, request: Request) -> Response:
    result, params = state.asked(request), request.query_params
    wanted = read_region_query(params)
    offset = query.whole("offset", params.get("offset", "0"), 0, 10**9)
    limit = query.whole("limit", params.get("limit", "100"), 1, MOST_ROWS)
    if result.polygons is None:  # a run that is not finished
        return text_reply(json_text({"total": 0, "rows": []}))
    regions, mpp = result.outlines().regions, result.facts.slide.mpp
    return _kept(request, result, lambda: json_text(list_regions(regions, mpp, wanted, offset, limit)))


def _region_neighbors(state: ViewerState, request: Request) -> Response:
    result, wanted = state.asked(request), read_region_query(request.query_params)
    regions, index = _numbered(result, request)
    mpp = result.facts.slide.mpp
    return _kept(request, result, lambda: json_text(region_neighbors(regions, mpp, wanted, index)))


def _region(state: ViewerState, request: Request) -> Response:
    result = state.asked(request)
    regions, index = _numbered(result, request)
    return _kept(request, result, lambda: json_text(regions.describe(index)))


def _numbered(result: OpenResult, request: Request) -> tuple[Regions, int]:
    """Return the regions of a result, and the number that an address names; Refused, 404, without."""
    regions = result.outlines().regions
    count = len(regions.ids)
    index = query.whole("index", request.path_params["index"], 0, 10**9)
    if index >= count:
        raise Refused(404, f"no region {index}; there are {count}")
    return regions, index


def _contours(state: ViewerState, request: Request) -> Response:
    result, params = state.asked(request), request.query_params
    view = query.view(params)
    group, channels, threshold = _group_at(result, params)
    source, frame = result.source, result.facts.frame
    downsample, box = trace_box(source, frame, channels, view)
    trace = replace(result.facts.trace, threshold=threshold)

    def make() -> NDArray[np.object_]:
        polygons = trace_view(source, frame, channels, box, downsample, trace)
        result.check()
        return polygons

    key = (result.key, channels, downsample, box, threshold)
    named = RegionGroup(group.name, group.qupath_name, group.color)

    def show() -> str:
        polygons = make() if result.changing else state.traced.get_or_make(key, make)
        return show_contours(polygons, named, view)

    return _kept(request, result, show)


def _group_at(result: OpenResult, params: Mapping[str, str]) -> tuple[ClassGroup, Channels, float]:
    """Return the class or group that is asked for, its channels, and the threshold."""
    # At 0 all of the map would be inside; uint8 probabilities have no finer step.
    threshold = query.number(params, "threshold", 1 / 255, 1.0)
    first = query.choice(params, "kind", ("group", "class"))
    return *result.choose(query.text(params, "channel"), first), threshold


def _download(state: ViewerState, request: Request) -> Response:
    result = state.asked(request)
    path = result.polygons
    if path is None:
        raise Refused(404, "this result has no regions yet")
    if "threshold" in request.query_params:
        return _download_at(state, request, result)
    return _file_reply(path, result.entry.name)


def _download_at(state: ViewerState, request: Request, result: OpenResult) -> Response:
    """Return the regions of one class or group at another threshold, traced as `wsi-seg export` does."""
    group, _, threshold = _group_at(result, request.query_params)
    facts = result.facts
    trace = replace(facts.trace, threshold=threshold, source="probabilities")
    with ExitStack() as stack:
        folder = stack.enter_context(TemporaryDirectory(prefix="wsi_seg_view_"))
        with state.tracing:  # one at a time: it takes all cores
            regions = iter_regions(Maps.open(result.entry.maps()), (group,), trace)
            written = write_geojson(
                regions, Path(folder) / "regions.geojson", slide=facts.slide, frame=facts.frame,
                origin=facts.origin, compress_large=True,
            )  # fmt: skip
        result.check()
        reply = _file_reply(written.path, f"{result.entry.name}_{group.name}_{threshold:.4g}")
        reply.background = BackgroundTask(stack.pop_all().close)
        return reply


def _file_reply(path: Path, name: str) -> Response:
    compressed = path.name.endswith(".gz")
    return FileResponse(
        path,
        media_type="application/gzip" if compressed else "application/geo+json",
        filename=f"{name}.geojson{'.gz' if compressed else ''}",
        headers={"Cache-Control": ASK_AGAIN},
    )


WORK = {
    "regions": _regions,
    "regions/at": _region_at,
    "regions/list": _region_list,
    "regions/{index}": _region,
    "regions/{index}/neighbors": _region_neighbors,
    "contours": _contours,
    "polygons.geojson": _download,
}
