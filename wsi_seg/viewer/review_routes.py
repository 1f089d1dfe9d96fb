"""Reviews from the browser, only where `--allow-review` was given.

GET  /api/slides/{id}/review?count=     {regions: verdicts by number, drawn: added ones, areas, progress,
                                        notes, count: of entries}; {count} where it is the one that is given
GET  /api/slides/{id}/review/next?order=uncertainty|threshold|size|class&after=&step=1|-1&group=&all=0|1
                                        {index, place, total, bbox}: what to look at next
GET  /api/slides/{id}/review/outline?index=&v=
                                        {geometry, bbox}: the whole outline of a region
POST /api/slides/{id}/review/edit       an `EditRequest` → {parts}: brush, eraser, holes, splitting, merging
POST /api/slides/{id}/review?v=         a `VerdictRequest` → 201 {entries: their ids, before: count of entries
                                        before them, and what they have changed}
POST /api/slides/{id}/review/undo       an `UndoRequest` → the same; an undo of an undo is a redo

What is answered with 201 is on the disk. `v` is the version of the results whose region is meant by its
number; it must be given, so that no verdict lands on another region.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from functools import partial
from typing import get_args

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_seg.viewer import query
from wsi_seg.viewer.outline_edits import EditRequest, edit
from wsi_seg.viewer.responses import Refused, json_reply
from wsi_seg.viewer.reviews import Order, Reviews, UndoRequest, VerdictRequest, outline
from wsi_seg.viewer.state import ViewerState

BASE = "/api/slides/{id}/review"
ORDERS: tuple[Order, ...] = get_args(Order)


def review_routes(state: ViewerState, reviews: Reviews) -> list[Route]:
    """Return the routes that read and write reviews."""

    def reading(work: Callable[[Request], Response]) -> Callable[[Request], Awaitable[Response]]:
        async def endpoint(request: Request) -> Response:
            return await state.workers.run(partial(work, request))

        return endpoint

    def show(request: Request) -> Response:
        count = request.query_params.get("count")
        known = query.whole("count", count, 0, 10**9 - 1) if count else None
        return json_reply(reviews.show(state.asked(request), known))

    def follow(request: Request) -> Response:
        params = request.query_params
        after = query.whole("after", params["after"], 0, 10**9 - 1) if params.get("after") else None
        step = -1 if query.choice(params, "step", ("1", "-1")) == "-1" else 1
        order = ORDERS[ORDERS.index(query.choice(params, "order", ORDERS))]
        everything = query.choice(params, "all", ("0", "1")) == "1"
        found = reviews.next(
            state.asked(request), order, after, step, params.get("group") or None, everything
        )
        return json_reply(found)

    async def add(request: Request) -> Response:
        asked = query.body(request, await request.body(), VerdictRequest)
        if "v" not in request.query_params:
            raise Refused(
                400, "v is missing from the address: the version of the results that were looked at"
            )
        return json_reply(await state.workers.run(lambda: reviews.add(state.asked(request), asked)), 201)

    def outlined(request: Request) -> Response:
        index = query.whole("index", query.text(request.query_params, "index"), 0, 10**9 - 1)
        return json_reply(outline(state.asked(request), index))

    async def edited(request: Request) -> Response:
        asked = query.body(request, await request.body(), EditRequest)
        return json_reply(await state.workers.run(lambda: edit(state.asked(request), asked)))

    async def undo(request: Request) -> Response:
        asked = query.body(request, await request.body(), UndoRequest)
        return json_reply(await state.workers.run(lambda: reviews.undo(state.asked(request), asked)), 201)

    return [
        Route(BASE, reading(show), methods=["GET"]),
        Route(f"{BASE}/next", reading(follow), methods=["GET"]),
        Route(f"{BASE}/outline", reading(outlined), methods=["GET"]),
        Route(f"{BASE}/edit", edited, methods=["POST"]),
        Route(BASE, add, methods=["POST"]),
        Route(f"{BASE}/undo", undo, methods=["POST"]),
    ]
