"""Blocks in flight and memory of worker processes, with the usual writer and with one that is slow.

    python benchmarks/flight.py [--blocks 500] [--write-seconds 0.2] [--output FILE]

A made slide goes through two worker processes twice. A stand-in in NumPy takes the place of the network, so
that blocks are ready long before the slow writer has written the last ones: if anything piled up behind it,
the tasks in flight would pass their limit, or memory would grow with the blocks that are done.
"""

from __future__ import annotations

import argparse
import math
import tempfile
from pathlib import Path
from typing import Any

from machine import begin, write_result
from slow_writer import Peaks, SlowWriter

from tests.made.slides import SlideSpec, make_slide
from wsi_seg import RunSettings, segment_slide
from wsi_seg.core.card import CardClass, CardGroup, ModelCard
from wsi_seg.core.geometry import Size
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.execution.workers import open_workers
from wsi_seg.pipeline.models import Model
from wsi_seg.planning.plan import ModelFacts, PlanSettings

MIB = 2**20
SIDE = 512  # of a block and of a tile
LOOKS = (50, 250)  # blocks after which memory is noted; it levels off within some 200 as caches fill
WORKERS = WorkerSettings(processes=2, threads=2)
CARD = ModelCard(
    name="darkness",
    classes=(
        CardClass(code=1, name="tumor", color=(200, 0, 0)),
        CardClass(code=2, name="stroma", color=(0, 200, 0)),
    ),
    groups=(CardGroup(name="tumor", codes=(1,), color=(200, 0, 0)),),
    tile=SIDE,
    overlap=0,
    mpp=0.5,
)
MODEL = Model(ModelFacts(CARD, "0" * 64, 0), PredictorRecipe("tests.made.predictors:darkness"))
SETTINGS = RunSettings(tissue="none", plan=PlanSettings(block=SIDE), workers=WORKERS)


def measure(slide: Path, write_seconds: float) -> dict[str, Any]:
    """Run once on a slide, in new worker processes."""
    peaks = Peaks()
    with open_workers(WORKERS) as workers, tempfile.TemporaryDirectory() as out:
        slow = SlowWriter(workers, write_seconds) if write_seconds else workers
        summary = segment_slide(slide, out, MODEL, SETTINGS, peaks, workers=slow).summary
    return {
        "write_seconds": write_seconds,
        "blocks": len(peaks.after),
        "peak_in_flight": summary["tasks_in_flight"]["peak"],
        "limit": summary["tasks_in_flight"]["limit"],
        "worker_mib_after": {str(n): peaks.after[n - 1] / MIB for n in LOOKS if n <= len(peaks.after)},
        "peak_worker_mib": peaks.after[-1] / MIB,
        "blocks_seconds": summary["seconds"]["blocks"],
    }


def print_row(row: dict[str, Any]) -> None:
    looks = ", ".join(f"{mib:.0f} after {blocks} blocks" for blocks, mib in row["worker_mib_after"].items())
    print(
        f"{row['blocks']} blocks in {row['blocks_seconds']:.0f} s, writing each takes "
        f"{row['write_seconds']:g} s more: at most {row['peak_in_flight']} of {row['limit']} in flight, "
        f"worker memory {row['peak_worker_mib']:.0f} MiB ({looks})",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--blocks", type=int, default=500, help="at least; they fill a rectangle")
    parser.add_argument("--write-seconds", type=float, default=0.2, help="that a slow write takes more")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    columns = math.isqrt(given.blocks)
    rows = -(-given.blocks // columns)
    result = begin(processes=WORKERS.processes, threads=WORKERS.threads, block=SIDE)
    with tempfile.TemporaryDirectory() as folder:
        spec = SlideSpec(size=Size(columns * SIDE, rows * SIDE), mpp=CARD.mpp)
        slide = make_slide(Path(folder) / "made.svs", spec)
        measured = []
        for seconds in (0.0, given.write_seconds):
            measured.append(measure(slide, seconds))
            print_row(measured[-1])
    write_result(given.output, result | {"rows": measured})


if __name__ == "__main__":
    main()
