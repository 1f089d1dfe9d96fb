"""Runs from the browser, only where `--allow-run` was given.

GET /api/run/options      {slides: [names], models: [{name, notice, groups, traced}], threshold, presets:
                          [{name, about, flags, meanings}], job: of now}
GET /api/run/slide?slide= {mpp: [x, y] or null, estimated, problem: why it cannot be opened, results: {id,
                          status, model, date, regions} that a run would replace, or null}
POST /api/run             a `RunRequest` → 202 {job}; 409 while a job runs
GET /api/run/{job}        {state, tiles_done, tiles_total, blocks_done, blocks_total of the slide that is at
                          work, slides_done, slides_total, message, result: id of what is there to look at,
                          pairs: [[id of older results of a slide, id of its new ones]]}
DELETE /api/run/{job}     stops it, as Ctrl-C does
"""

from __future__ import annotations

from functools import partial
from typing import Any

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_seg.core.errors import OutputError, SlideError
from wsi_seg.regions.settings import Threshold, TraceSettings
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.results.progress import RunProgress
from wsi_seg.slides.readers import open_slide
from wsi_seg.viewer import query
from wsi_seg.viewer.folders import ResultEntry
from wsi_seg.viewer.listing import read_row
from wsi_seg.viewer.presets import PRESETS
from wsi_seg.viewer.responses import json_reply
from wsi_seg.viewer.runs import RunChoice, RunJob, Runs
from wsi_seg.viewer.state import ViewerState

# Of any slide: a pixel of a millimeter.
MOST_MPP = 1000.0


class RunRequest(BaseModel):
    """Request for a run; names are looked up in the tables of `Runs`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    slide: str = Field(max_length=4096)
    model: str = Field(max_length=200)
    groups: list[str] = Field(min_length=1, max_length=256)
    threshold: Threshold = TraceSettings().threshold
    preset: str = Field("standard", max_length=100)
    mpp: float | None = Field(None, gt=0, le=MOST_MPP, allow_inf_nan=False)
    """Microns per level-0 pixel; None: those of the slide."""
    overwrite: bool = False


def run_routes(state: ViewerState, runs: Runs) -> list[Route]:
    """Return the routes that start, watch and stop runs."""

    async def options(_: Request) -> Response:
        return await state.workers.run(partial(_options, runs))

    async def start(request: Request) -> Response:
        asked = query.body(request, await request.body(), RunRequest)
        choice = RunChoice(**{**dict(asked), "groups": tuple(asked.groups)})
        return json_reply({"job": (await state.workers.run(partial(runs.start, choice))).id}, 202)

    async def look(request: Request) -> Response:
        name = query.text(request.query_params, "slide")
        return json_reply(await state.workers.run(partial(_look, state, runs, name)))

    async def watch(request: Request) -> Response:
        job = runs.slot.get(request.path_params["job"], RunJob)
        return json_reply(await state.workers.run(partial(_describe, state, job)))

    async def stop(request: Request) -> Response:
        job = runs.slot.get(request.path_params["job"], RunJob)
        runs.slot.stop(job)
        return json_reply(await state.workers.run(partial(_describe, state, job)))

    return [
        Route("/api/run/options", options, methods=["GET"]),
        Route("/api/run/slide", look, methods=["GET"]),
        Route("/api/run", start, methods=["POST"]),
        Route("/api/run/{job}", watch, methods=["GET"]),
        Route("/api/run/{job}", stop, methods=["DELETE"]),
    ]


def _options(runs: Runs) -> Response:
    models = [
        {
            "name": name,
            "notice": known.card.notice,
            "groups": [group.name for group in known.card.groups],
            "traced": list(known.card.traced_names),
        }
        for name, known in runs.models().items()
    ]
    return json_reply(
        {
            "slides": list(runs.slides()),
            "models": models,
            "threshold": TraceSettings().threshold,
            "presets": [
                {"name": one.name, "about": one.about, "flags": one.flags, "meanings": one.meanings}
                for one in PRESETS.values()
            ],
            "job": runs.slot.under_way(RunJob),
        }
    )


def _look(state: ViewerState, runs: Runs, name: str) -> dict[str, Any]:
    """Return what somebody must know of a slide before it is run."""
    path = runs.slide(name)
    mpp, estimated, problem = None, False, None
    try:
        with open_slide(path) as slide:
            mpp, estimated = slide.info.mpp, slide.info.mpp_estimated
    except SlideError as error:
        problem = str(error)
    (entry,) = state.folders.at([runs.final(path)])
    return {
        "mpp": mpp and [mpp.x, mpp.y],
        "estimated": estimated,
        "problem": problem,
        "results": None if entry is None else _results(state, entry),
    }


def _results(state: ViewerState, entry: ResultEntry) -> dict[str, Any]:
    try:
        facts = read_row(state, entry).facts
    except OutputError:
        return {"id": entry.id, "status": "damaged", "model": "", "date": entry.time, "regions": None}
    return {"id": entry.id, **{name: facts[name] for name in ("status", "model", "date", "regions")}}


def _describe(state: ViewerState, job: RunJob) -> dict[str, Any]:
    current = job.state
    finished = state.folders.at(job.finals)
    filled = state.folders.at([ResultsFolder(final.parent, final.name).partial for final in job.finals])
    shown = next(filter(None, finished if current == "done" else filled), None)
    progress = _progress(state, shown) if shown is not None else None
    return {
        "state": current,
        "stopping": job.stopping,
        "tiles_done": 0,
        "tiles_total": 0,
        "blocks_done": 0,
        "blocks_total": 0,
        **(progress.to_json() if progress is not None else {}),
        "slides_done": sum(entry is not None for entry in finished),
        "slides_total": len(finished),
        "message": "" if current == "running" else job.message(),
        "result": shown.id if shown is not None else None,
        "pairs": [[old, new.id] for old, new in zip(job.olds, finished, strict=False) if new is not None],
    }


def _progress(state: ViewerState, entry: ResultEntry) -> RunProgress | None:
    try:
        return state.open(entry).progress()
    except OutputError:
        if entry.is_current():
            raise
        return None  # the run has just ended, and its folder has another name
