"""Outlines of regions, what is known of one, and outlines at another threshold."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
from numpy.typing import NDArray
from starlette.requests import Request
from starlette.responses import FileResponse, Response

from wsi_seg.viewer import query
from wsi_seg.viewer.outlines import answer
from wsi_seg.viewer.regions import RegionGroup
from wsi_seg.viewer.replies import ASK_AGAIN, Refused, json_reply, text_reply
from wsi_seg.viewer.state import ViewerState
from wsi_seg.viewer.threshold import show_contours, trace_box, trace_view


def _regions(state: ViewerState, request: Request) -> Response:
    result, view = state.result(request.path_params["id"]), query.view(request.query_params)
    if result.polygons is None:  # a run that is not finished
        return text_reply(answer((), (), 0))
    return text_reply(result.outlines().show(view))


def _region_at(state: ViewerState, request: Request) -> Response:
    result, params = state.result(request.path_params["id"]), request.query_params
    x, y = (query.number(params, name, -query.MOST_L0, query.MOST_L0) for name in ("x", "y"))
    regions = result.outlines().regions
    index = regions.at(x, y)
    if index is None:
        raise Refused(404, "no region there")
    return json_reply(regions.describe(index))


def _region(state: ViewerState, request: Request) -> Response:
    regions = state.result(request.path_params["id"]).outlines().regions
    count = len(regions.ids)
    index = query.whole("index", request.path_params["index"], 0, 10**9)
    if index >= count:
        raise Refused(404, f"no region {index}; there are {count}")
    return json_reply(regions.describe(index))


def _contours(state: ViewerState, request: Request) -> Response:
    result, params = state.result(request.path_params["id"]), request.query_params
    view = query.view(params)
    # At 0 all of the map would be inside; uint8 probabilities have no finer step.
    threshold = query.number(params, "threshold", 1 / 255, 1.0)
    first = query.choice(params, "kind", ("group", "class"))
    name = params.get("channel")
    if name is None:
        raise Refused(400, "channel is missing from the address")
    group, channels = result.choose(name, first)
    source, frame = result.source, result.facts.frame
    downsample, box = trace_box(source, frame, channels, view)
    trace = replace(result.facts.trace, threshold=threshold)

    def make() -> NDArray[np.object_]:
        return trace_view(source, frame, channels, box, downsample, trace)

    key = (result.key, channels, downsample, box, threshold)
    polygons = make() if result.version is None else state.traced.get_or_make(key, make)
    named = RegionGroup(group.name, group.qupath_name, group.color)
    return text_reply(show_contours(polygons, named, view))


def _download(state: ViewerState, request: Request) -> Response:
    result = state.result(request.path_params["id"])
    path = result.polygons
    if path is None:
        raise Refused(404, "this result has no regions yet")
    compressed = path.name.endswith(".gz")
    return FileResponse(
        path,
        media_type="application/gzip" if compressed else "application/geo+json",
        filename=f"{result.entry.name}.geojson{'.gz' if compressed else ''}",
        headers={"Cache-Control": ASK_AGAIN},
    )


WORK = {
    "regions": _regions,
    "regions/at": _region_at,
    "regions/{index}": _region,
    "contours": _contours,
    "polygons.geojson": _download,
}
