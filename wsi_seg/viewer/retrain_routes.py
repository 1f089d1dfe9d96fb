"""Retraining from the browser, only where `--allow-review` and `--allow-run` were given.

GET /api/retrain/options     {slides: reviewed ones, [{names, slides: what each is held out by, see `Whose`;
                             known: whether its name says the patient}],
                             models: [{name, notice}], model: of the results or null, steps, name: a free one,
                             job: the last one, elsewhere: names of models in training that others started}
POST /api/retrain            a `RetrainRequest` → 202 {job}; 409 while a job runs
GET /api/retrain/{job}       {state, stopping, name, step, steps, loss, validation_loss, validation_dice,
                             message, command: to go on in a terminal, comparison}
DELETE /api/retrain/{job}    stops it, as Ctrl-C does
POST /api/retrain/run        {name} → 202 {job} of a run, see `run_routes`: a model that was trained here on
                             the reviewed slides
"""

from __future__ import annotations

import dataclasses
import shlex
from functools import partial
from pathlib import Path
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from wsi_seg.datasets.patients import patient_by_name
from wsi_seg.training.settings import RetrainSettings
from wsi_seg.viewer import query
from wsi_seg.viewer.responses import json_reply
from wsi_seg.viewer.retrainings import Retrainings, TrainJob, Whose, group_of
from wsi_seg.viewer.state import ViewerState

MOST_STEPS = 100_000
MOST_HELD_OUT = 1000


class RetrainRequest(BaseModel):
    """Request for a retraining; names are looked up in the tables of `Retrainings`."""

    model_config = ConfigDict(extra="forbid", strict=True)

    model: str = Field(max_length=200)
    """To start from."""
    name: str = Field(max_length=200)
    """Of the new model."""
    steps: int = Field(ge=1, le=MOST_STEPS)
    """At most."""
    whose: Whose = "names"
    held_out: list[str] = Field([], max_length=MOST_HELD_OUT)
    """Patients, or slides of unknown patients, to compare on; none: drawn at random."""


class NewRunRequest(BaseModel):
    """Request for a run with a model that was trained here."""

    model_config = ConfigDict(extra="forbid", strict=True)

    name: str = Field(max_length=200)


def retrain_routes(state: ViewerState, retrainings: Retrainings) -> list[Route]:
    """Return the routes that start, watch and stop trainings."""
    slot = retrainings.runs.slot

    async def options(_: Request) -> Response:
        return await state.workers.run(partial(_options, retrainings))

    async def start(request: Request) -> Response:
        asked = query.body(request, await request.body(), RetrainRequest)
        begin = partial(retrainings.start, asked.model, asked.name, asked.steps, asked.whose, asked.held_out)
        return json_reply({"job": (await state.workers.run(begin)).id}, 202)

    async def watch(request: Request) -> Response:
        job = slot.get(request.path_params["job"], TrainJob)
        return json_reply(await state.workers.run(partial(_describe, retrainings, job)))

    async def stop(request: Request) -> Response:
        job = slot.get(request.path_params["job"], TrainJob)
        slot.stop(job)
        return json_reply(await state.workers.run(partial(_describe, retrainings, job)))

    async def run(request: Request) -> Response:
        asked = query.body(request, await request.body(), NewRunRequest)
        return json_reply({"job": (await state.workers.run(partial(retrainings.run, asked.name))).id}, 202)

    return [
        Route("/api/retrain/options", options, methods=["GET"]),
        Route("/api/retrain", start, methods=["POST"]),
        Route("/api/retrain/run", run, methods=["POST"]),
        Route("/api/retrain/{job}", watch, methods=["GET"]),
        Route("/api/retrain/{job}", stop, methods=["DELETE"]),
    ]


def _options(retrainings: Retrainings) -> Response:
    slides, usual, last = retrainings.slides(), RetrainSettings(), retrainings.runs.slot.last(TrainJob)
    return json_reply(
        {
            "slides": [
                {
                    **{whose: group_of(one, whose) for whose in get_args(Whose)},
                    "known": patient_by_name(Path(one.slide.path)) is not None,
                }
                for one in slides
            ],
            "models": [
                {"name": name, "notice": known.card.notice} for name, known in retrainings.models().items()
            ],
            "model": retrainings.usual_model(slides),
            "steps": usual.epochs * usual.steps,
            "name": retrainings.free_name(),
            "job": None if last is None else last.id,
            "elsewhere": retrainings.elsewhere(),
        }
    )


def _describe(retrainings: Retrainings, job: TrainJob) -> dict[str, Any]:
    current = job.state
    out = retrainings.runs.out / job.folder.name
    again = ["wsi-seg", "run", "SLIDES", "-o", str(out), "--model", str(job.folder)]
    resuming = current in ("failed", "stopped")
    return {
        "state": current,
        "stopping": job.stopping,
        "name": job.folder.name,
        "steps": job.steps,
        **dataclasses.asdict(job.progress()),
        "message": job.message(),
        "command": job.command_line("--resume") if resuming else shlex.join(again),
        "comparison": job.comparison() if current == "done" else None,
    }
