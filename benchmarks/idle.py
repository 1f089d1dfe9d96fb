"""Idle share of the lanes of worker processes over a batch of slides, and over its last part.

    python benchmarks/idle.py [--slides 4] [--workers 2] [--source labels] [--before FOLDER] [--output FILE]

Made slides go through worker processes of one thread each, with a stand-in in NumPy in place of the network,
so that what the cores do besides predicting is all there is. A lane is a thread that does tasks, and idle
while it has none: from the first task of the batch to the last, and in the tail, which begins with the end of
the last block. FOLDER is a checkout of another version, measured in turn with this one: `git worktree add
FOLDER REVISION`. Other load on the machine makes tasks longer, and their waiting for each other with them;
shares suffer less.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from statistics import median
from typing import Any

from machine import begin, write_result

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Size

REPOSITORY = Path(__file__).resolve().parent.parent

# It runs with this version and with others, so it uses what all have. Each task leaves a line in a file of
# its lane: its key, and when it began and ended.
BATCH = """
import json, os, sys, threading, time
from dataclasses import replace
from functools import partial
from pathlib import Path
import wsi_seg.execution.cluster as cluster

def noted(function, log, keyed):
    key, task = keyed
    start = time.time()
    try:
        return function(task)
    finally:
        with Path(log, f"{os.getpid()}-{threading.get_ident()}").open("a") as file:
            file.write(json.dumps([key, start, time.time()]) + "\\n")

def main():
    from tests.made.landmarks import darkness_model
    from wsi_seg.pipeline.batch import Batch, SlideTask
    from wsi_seg.pipeline.inputs import find_slides
    from wsi_seg.pipeline.settings import KEYS, make_settings

    class Quiet:
        def workers_started(self, workers): pass
        def slide_started(self, row): return self
        def slide_ended(self, row, result, error):
            if error: raise error
        def start(self, plan, done): pass
        def block_done(self, record): pass
        def stage(self, name): pass

    slides, out, log, workers, source = sys.argv[1:]
    execute = cluster.Cluster.execute
    def noting(self, work):
        tasks = [(key, (key, task)) for key, task in work.tasks]
        killed = work.on_killed and (lambda keyed: work.on_killed(keyed[1]))
        function = partial(noted, work.function, log)
        execute(self, replace(work, function=function, tasks=tasks, on_killed=killed))
    cluster.Cluster.execute = noting
    settings = make_settings({"workers": int(workers), "threads": 1, "block": 1024, "source": source})
    settings = settings.for_workers(())
    model = darkness_model(0.5, 512)
    tasks = [SlideTask(slide, model, settings) for slide in find_slides([slides], KEYS)]
    Batch(tasks, out, settings.workers).run(Quiet())

if __name__ == "__main__":
    main()
"""


def measure(tree: Path, slides: Path, workers: int, source: str) -> dict[str, Any]:
    """Run the batch with the package in `tree` and return what its lanes did."""
    with tempfile.TemporaryDirectory() as folder:
        script, out, log = (Path(folder) / name for name in ("batch.py", "out", "log"))
        script.write_text(BATCH, encoding="utf-8")
        log.mkdir()
        environment = {
            **os.environ,
            "PYTHONPATH": os.pathsep.join([str(tree), folder]),
            "OMP_NUM_THREADS": "1",
        }
        command = [sys.executable, "-c", "import batch; batch.main()", slides, out, log, str(workers), source]
        subprocess.run(list(map(str, command)), cwd=tree, env=environment, check=True)
        lanes = [
            [json.loads(line) for line in lane.read_text().splitlines()] for lane in sorted(log.iterdir())
        ]
    return shares(lanes, workers)


def shares(lanes: list[list[tuple[str, float, float]]], workers: int) -> dict[str, Any]:
    """Return seconds and idle shares of lanes, each a list of (key of a task, its begin, its end)."""
    tasks = [task for lane in lanes for task in lane]
    begin_, end = min(task[1] for task in tasks), max(task[2] for task in tasks)
    last_block = max(task[2] for task in tasks if task[0].startswith("block-"))
    seconds: dict[str, float] = defaultdict(float)
    for key, start, stop in tasks:
        seconds[key.partition("-")[0]] += stop - start

    def idle(since: float) -> float:
        busy = sum(max(0.0, stop - max(since, start)) for _, start, stop in tasks)
        return 1 - busy / (workers * (end - since))

    return {
        "wall_seconds": end - begin_,
        "idle_share": idle(begin_),
        "tail_seconds": end - last_block,
        "tail_idle_share": idle(last_block),
        "tasks": len(tasks),
        "task_seconds": dict(sorted(seconds.items())),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slides", type=int, default=4)
    parser.add_argument("--size", type=int, default=16_384, help="pixels a side, at 0.5 µm/px")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--source", default="probabilities", help="of the regions: or labels")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--before", type=Path, help="checkout of another version")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    trees = {"now": REPOSITORY} | ({"before": given.before.resolve()} if given.before else {})
    result = begin(slides=given.slides, size=given.size, workers=given.workers, source=given.source)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        spec = SlideSpec(Size(given.size, given.size), mpp=0.5, tissue=0.5)
        first = make_slide(Path(folder) / "slide0.svs", spec)
        for number in range(1, given.slides):
            (Path(folder) / f"slide{number}.svs").hardlink_to(first)
        for _ in range(given.rounds):
            for version, tree in trees.items():
                rows.append({"version": version, **measure(tree, Path(folder), given.workers, given.source)})
                print(rows[-1], flush=True)
    medians = {
        version: {
            figure: median(row[figure] for row in rows if row["version"] == version)
            for figure in ("wall_seconds", "idle_share", "tail_seconds", "tail_idle_share")
        }
        for version in trees
    }
    for version, row in medians.items():
        print(
            f"{version:>7}  {row['wall_seconds']:.1f} s, lanes idle {row['idle_share']:.0%} of it; "
            f"after the last block {row['tail_seconds']:.1f} s, idle {row['tail_idle_share']:.0%}",
            flush=True,
        )
    write_result(given.output, result | {"median": medians, "rows": rows})


if __name__ == "__main__":
    main()
