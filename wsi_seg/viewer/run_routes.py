"""Runs from the browser, only where `--allow-run` was given.

GET /api/run/options      {slides: [names], models: [{name, notice, groups, traced}], threshold, job: of now}
POST /api/run             {slide, model, groups, threshold} → 202 {job}; 409 while one runs
GET /api/run/{job}        {state, tiles_done, tiles_total, blocks_done, blocks_total, message, result}
DELETE /api/run/{job}     stops it, as Ctrl-C does
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_seg.core.errors import OutputError
from wsi_seg.regions.settings import Threshold, TraceSettings
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.results.progress import RunProgress
from wsi_seg.viewer import query
from wsi_seg.viewer.folders import ResultEntry
from wsi_seg.viewer.responses import json_reply
from wsi_seg.viewer.runs import Job, Runs
from wsi_seg.viewer.state import ViewerState


class RunRequest(BaseModel):
    """Request for a run; names are looked up in the tables of `Runs`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    slide: str = Field(max_length=4096)
    model: str = Field(max_length=200)
    groups: list[str] = Field(min_length=1, max_length=256)
    threshold: Threshold = TraceSettings().threshold


def run_routes(state: ViewerState, runs: Runs) -> list[Route]:
    """Return the routes that start, watch and stop runs."""

    async def options(_: Request) -> Response:
        return await state.workers.run(partial(_options, runs))

    async def start(request: Request) -> Response:
        asked = query.body(request, await request.body(), RunRequest)
        job = await state.workers.run(
            partial(runs.start, asked.slide, asked.model, tuple(asked.groups), asked.threshold)
        )
        return json_reply({"job": job.id}, 202)

    async def watch(request: Request) -> Response:
        job = runs.get(request.path_params["job"])
        return json_reply(await state.workers.run(partial(_describe, state, job)))

    async def stop(request: Request) -> Response:
        job = runs.get(request.path_params["job"])
        runs.stop(job)
        return json_reply(await state.workers.run(partial(_describe, state, job)))

    return [
        Route("/api/run/options", options, methods=["GET"]),
        Route("/api/run", start, methods=["POST"]),
        Route("/api/run/{job}", watch, methods=["GET"]),
        Route("/api/run/{job}", stop, methods=["DELETE"]),
    ]


def _options(runs: Runs) -> Response:
    models = [
        {
            "name": name,
            "notice": card.notice,
            "groups": [group.name for group in card.groups],
            "traced": list(card.traced_names),
        }
        for name, card in runs.models().items()
    ]
    return json_reply(
        {
            "slides": list(runs.slides()),
            "models": models,
            "threshold": TraceSettings().threshold,
            "job": runs.under_way(),
        }
    )


def _describe(state: ViewerState, job: Job) -> dict[str, Any]:
    current = job.state
    finished = state.folders.at(job.final)
    partial_folder = state.folders.at(ResultsFolder(job.final.parent, job.final.name).partial)
    entry = finished if current == "done" else partial_folder
    progress = _progress(state, entry) if entry is not None else None
    return {
        "state": current,
        "stopping": current == "running" and job.stopped_at is not None,
        "tiles_done": 0,
        "tiles_total": 0,
        "blocks_done": 0,
        "blocks_total": 0,
        **(progress.to_json() if progress is not None else {}),
        "message": "" if current == "running" else job.message(),
        "result": entry.id if entry is not None else None,
    }


def _progress(state: ViewerState, entry: ResultEntry) -> RunProgress | None:
    try:
        return state.open(entry).progress()
    except OutputError:
        if entry.is_current():
            raise
        return None  # the run has just ended, and its folder has another name
