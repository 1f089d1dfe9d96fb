"""The routes of `wsi-seg view`.

    GET /                                          the page        GET /static/…     what it loads
    GET /api                                       {version, allow_run, allow_review}
    GET /api/slides?find=&offset=&limit=           results, by default all; X-Total-Count: how many
                                                   there are in all with `find` in name or folder; also
                                                   status=, model=, since=, until=, regions= and sort=,
                                                   see `ListQuery`
    GET /api/models                                models of all results, "name version"
    GET /api/slides/{id}                           one result: geometry, classes, groups, layers
    GET /api/slides/{id}/thumbnail.jpg
    GET /api/slides/{id}/associated                pictures stored with the slide   …/{name}.jpg   one of them
    GET /api/slides/{id}/tiles/{z}/{x}_{y}.jpg     Deep Zoom tile of the slide, 512 px, no overlap
    GET /api/slides/{id}/layers/{layer}/{z}/{x}_{y}.png
                                                   the same tile of a layer: classes (?codes=1,2), tissue,
                                                   coverage,
                                                   probability (?channel=tumor&kind=class|group),
                                                   uncertainty; &palette=card|safe for those of classes
    GET /api/slides/{id}/regions?box=x0,y0,x1,y1&scale=S
                                                   outlines in l0 pixels, S l0 pixels per screen pixel
    GET /api/slides/{id}/regions/at?x=&y=          the region at a place   …/regions/{index}   one region
    GET /api/slides/{id}/regions/list?group=&area=&sort=&offset=&limit=
                                                   table of regions, see `RegionQuery`; area in µm²
    GET /api/slides/{id}/regions/{index}/neighbors?group=&area=&sort=
                                                   the regions before and after one in that table
    GET /api/slides/{id}/contours?channel=tumor&threshold=0.5&box=…&scale=S
                                                   outlines at another threshold, from the probabilities
    GET /api/slides/{id}/polygons.geojson          the regions that the run traced, to download; with
                                                   ?channel=tumor&threshold=0.6 those of one group at another
                                                   threshold, traced now
    GET /api/slides/{id}/report.html               the report of a finished run, a page that may load nothing
    GET /api/slides/{id}/progress                  how far a run is, and the version of its results
    GET /api/slides/{id}/same                      other results of the same slide
    GET /api/slides/{id}/neighbors?find=&sort=…    ids before and after it in a list
    GET /api/compare?a={id}&b={id}                 whether two results are of one slide, else 409
    /api/run…                                      see `run_routes`; only where runs are allowed
    /api/slides/{id}/review…                       see `review_routes`; only where reviews are
    /api/retrain…                                  see `retrain_routes`; only where both are

A refusal is JSON {"error": "one line"} with its status. Pictures and outlines may be kept by the browser for
good where the address holds `v=` and the result's `version`; an address with another version than that of the
results in the folder is refused with 409, so that a page never mixes two results. Only a thumbnail is always
that of the results in the folder. Names, classes and errors are sent as text; the page has to show them as
text.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import FileResponse, Response
from starlette.routing import Mount, Route

import wsi_seg
from wsi_seg.core.errors import WsiSegError
from wsi_seg.viewer import associated_routes, layer_routes, query, region_routes
from wsi_seg.viewer.jobs import JobSlot
from wsi_seg.viewer.listing import list_results, models_in_use, neighbors, read_list_query, same_slide
from wsi_seg.viewer.payloads import describe_result
from wsi_seg.viewer.responses import (
    ASK_AGAIN,
    FOR_GOOD,
    Refused,
    error_reply,
    json_reply,
    json_text,
    tagged_reply,
)
from wsi_seg.viewer.retrain_routes import retrain_routes
from wsi_seg.viewer.retrainings import Retrainings
from wsi_seg.viewer.review_routes import review_routes
from wsi_seg.viewer.reviews import Reviews
from wsi_seg.viewer.run_routes import run_routes
from wsi_seg.viewer.runs import Runs
from wsi_seg.viewer.security import HEADERS, Access, Guard
from wsi_seg.viewer.state import Places, ViewerState
from wsi_seg.viewer.static_files import KeptFiles, static_version

Work = Callable[[ViewerState, Request], Response]


def create_app(places: Places, access: Access | None = None) -> Starlette:
    """Return the server's application."""
    state = ViewerState(places)
    slot = JobSlot()
    runs = Runs(places.out, places.runs, slot) if places.runs is not None else None

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        yield
        await state.workers.run(slot.close)
        state.close()

    routes = [Route(path, _in_thread(state, work), methods=["GET"]) for path, work in _WORK.items()]
    if runs is not None:
        routes += run_routes(state, runs)
    if places.reviews is not None:
        routes += review_routes(state, Reviews(places.reviews))
    if runs is not None and places.reviews is not None:
        routes += retrain_routes(state, Retrainings(state, runs, places.reviews))
    if places.static is not None:
        routes += [
            Route("/", _in_thread(state, _page), methods=["GET"]),
            Mount(f"/static/{static_version(places.static)}", KeptFiles(places.static, FOR_GOOD)),  # type: ignore[list-item]
            Mount("/static", KeptFiles(places.static, ASK_AGAIN)),  # type: ignore[list-item]
        ]
    return Starlette(
        routes=routes,
        middleware=[Middleware(Guard, access=access or Access())],
        exception_handlers={HTTPException: _http_error, WsiSegError: _error, Exception: _failure},
        lifespan=lifespan,
    )


def _in_thread(state: ViewerState, work: Work) -> Callable[[Request], Awaitable[Response]]:
    """Return an endpoint that does its work in one of a bounded number of threads."""

    async def endpoint(request: Request) -> Response:
        return await state.workers.run(partial(work, state, request))

    return endpoint


def _page(state: ViewerState, _: Request) -> Response:
    assert state.places.static is not None
    page = (state.places.static / "index.html").read_text(encoding="utf-8")
    # What the page loads is under the hash of its content, so that a browser may keep it for good.
    page = page.replace('"static/', f'"static/{static_version(state.places.static)}/')
    return Response(page, headers={"Cache-Control": "no-cache"}, media_type="text/html")


def _about(state: ViewerState, _: Request) -> Response:
    places = state.places
    allowed = {"allow_run": places.runs is not None, "allow_review": places.reviews is not None}
    return json_reply({"version": wsi_seg.__version__, **allowed})


def _slides(state: ViewerState, request: Request) -> Response:
    params = request.query_params
    offset = query.whole("offset", params.get("offset", "0"), 0, 10**9)
    limit = query.whole("limit", params["limit"], 1, 10**9) if "limit" in params else None
    lines, total = list_results(state, read_list_query(params), offset, limit)
    return tagged_reply(request, json_text(lines), {"X-Total-Count": str(total)})


def _models(state: ViewerState, request: Request) -> Response:
    return tagged_reply(request, json_text(models_in_use(state)))


def _neighbors(state: ViewerState, request: Request) -> Response:
    wanted = read_list_query(request.query_params)
    return json_reply(neighbors(state, wanted, request.path_params["id"]))


def _slide(state: ViewerState, request: Request) -> Response:
    return tagged_reply(request, json_text(describe_result(state, state.asked(request))))


def _report(state: ViewerState, request: Request) -> Response:
    path = state.asked(request).report
    if path is None:
        raise Refused(404, "this result has no report (yet)")
    return FileResponse(path, media_type="text/html", headers={"Cache-Control": ASK_AGAIN})


def _same(state: ViewerState, request: Request) -> Response:
    return tagged_reply(request, json_text(same_slide(state, state.asked(request))))


def _progress(state: ViewerState, request: Request) -> Response:
    result = state.asked(request)
    progress = result.progress()
    now = {"status": result.status, "version": result.version}
    return json_reply({**now, **(progress.to_json() if progress else {})})


def _compare(state: ViewerState, request: Request) -> Response:
    names = [request.query_params.get(name) for name in ("a", "b")]
    if None in names:
        raise Refused(400, "compare needs the ids of two results: a= and b=")
    one, other = (state.result(str(name)) for name in names)
    slides = one.facts.slide, other.facts.slide
    if slides[0].size != slides[1].size or slides[0].fingerprint != slides[1].fingerprint:
        raise Refused(409, f"{one.entry.name} and {other.entry.name} are results of different slides")
    return json_reply({"a": describe_result(state, one), "b": describe_result(state, other), "same": True})


async def _http_error(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = {404: "no such address", 405: "this method is not allowed here"}
    return error_reply(error.status_code, what.get(error.status_code, error.detail), error.headers)


async def _error(_: Request, error: Exception) -> Response:
    status = error.status if isinstance(error, Refused) else 500
    return error_reply(status, str(error), {"Retry-After": "1"} if status == 503 else None)


async def _failure(_: Request, error: Exception) -> Response:
    """Answer for a fault of this program, whose traceback goes to stderr."""
    # This answer is made outside the guard.
    return error_reply(500, f"{type(error).__name__} in the server; see what it has printed", HEADERS)


_RESULT = "/api/slides/{id}"
_WORK: dict[str, Work] = {
    "/api": _about,
    "/api/slides": _slides,
    "/api/models": _models,
    "/api/compare": _compare,
    _RESULT: _slide,
    f"{_RESULT}/progress": _progress,
    f"{_RESULT}/same": _same,
    f"{_RESULT}/neighbors": _neighbors,
    f"{_RESULT}/report.html": _report,
    **{f"{_RESULT}/{path}": work for path, work in associated_routes.WORK.items()},
    **{f"{_RESULT}/{path}": work for path, work in layer_routes.WORK.items()},
    **{f"{_RESULT}/{path}": work for path, work in region_routes.WORK.items()},
}
