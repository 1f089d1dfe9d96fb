"""A folder of slides through one machine: slides per hour, against what the network alone would allow.

    python benchmarks/throughput.py [--slides 2] [--size 8192] [--workers 1] [--output FILE]
    python benchmarks/throughput.py --size 60000 --tissue 0.4 --slides 4 --workers 1 8 --gpus 0   # a GPU node

One made JPEG slide at 0.25 µm/px under many names goes through `wsi-seg run FOLDER`, from the command's start
to the last polygon, once for each number of worker processes. Then the network alone predicts as many tiles,
logits only, as many at a time; the efficiency is its time over that of the run. These are two measurements:
where little else is to do, noise may put it above 100 %. The seconds of cores that the run took say how many
slides the cores alone would allow.
"""

from __future__ import annotations

import argparse
import csv
import json
import resource
import subprocess
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from bench_model import SLIDE, benchmark_model, default_work
from end_to_end import forward_seconds
from machine import begin, paired, write_result

from tests.made.slides import make_slide
from wsi_seg.core.geometry import Size
from wsi_seg.core.system import usable_cores
from wsi_seg.inference.models.calibrate import machine
from wsi_seg.inference.models.devices import resolve_device
from wsi_seg.inference.models.predictor import load_predictor

LOOK_SECONDS = 0.1


def run(slides: Path, out: Path, options: list[str]) -> tuple[float, float]:
    """Return the seconds of a run, and those of all cores that it and its processes took."""
    command = [sys.executable, "-m", "wsi_seg.cli", "run", str(slides), "-o", str(out), *options]
    before, start = _children(), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    seconds = time.perf_counter() - start
    if done.returncode:
        raise SystemExit(f"{' '.join(command)}: exit code {done.returncode}\n{done.stdout}")
    return seconds, _children() - before


def _children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


@contextmanager
def watched_gpu(device: str) -> Iterator[Callable[[], int | None]]:
    """Give what to ask, afterwards, for the most MiB of GPU memory that were in use beyond those before."""
    if not device.startswith("cuda"):
        yield lambda: None
        return

    def used() -> int:
        free, total = torch.cuda.mem_get_info(device)
        return round((total - free) / 2**20)

    before, seen, end = used(), [0], threading.Event()

    def watch() -> None:
        while not end.wait(LOOK_SECONDS):
            seen[0] = max(seen[0], used() - before)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield lambda: seen[0]
    finally:
        end.set()
        watcher.join()


def figures(out: Path) -> dict[str, Any]:
    """Return what the folder of a finished batch says: tiles, seconds of workers by stage, limits."""
    with (out / "batch.csv").open(encoding="utf-8", newline="") as table:
        states = Counter(row["status"] for row in csv.DictReader(table))
    if set(states) != {"done"}:
        raise SystemExit(f"not all slides were done: {dict(states)}")
    summaries = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(out.rglob("summary.json"))]
    plan = json.loads(next(out.rglob("manifest.json")).read_text(encoding="utf-8"))["plan"]

    def total(key: str) -> dict[str, float]:
        return {stage: sum(summary[key][stage] for summary in summaries) for stage in summaries[0][key]}

    return {
        "tiles": sum(summary["tiles"] for summary in summaries),
        "tile": plan["stitch"]["grid"]["tile"],
        "batch": plan["batch"],
        "precision": plan["precision"],
        "worker_seconds": total("worker_seconds"),
        "slide_seconds": total("seconds"),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SLIDE.size.width)
    parser.add_argument("--tissue", type=float, default=SLIDE.tissue)
    parser.add_argument("--slides", type=int, default=2)
    parser.add_argument("--workers", type=int, nargs="+", default=[1], help="worker processes, one run each")
    parser.add_argument("--threads", type=int, help="blocks in flight in each process")
    parser.add_argument("--gpus", help="as for `wsi-seg run`")
    parser.add_argument("--model", help="another model than the benchmarks' own")
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    spec = replace(SLIDE, size=Size(given.size, given.size), tissue=given.tissue)
    device = resolve_device("auto" if given.gpus else "cpu")
    model = given.model or str(benchmark_model(given.work))
    result = begin(
        slide={"size": given.size, "tissue": spec.tissue, "mpp": spec.mpp, "codec": spec.codec},
        slides=given.slides,
        processor=machine(device),
    )
    options = ["--model", model, *(("--gpus", given.gpus) if given.gpus else ("--device", "cpu"))]
    options += ["--threads", str(given.threads)] if given.threads else []
    predictor = load_predictor(model, device)
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        scans = Path(folder) / "scans"
        scans.mkdir()
        first = make_slide(scans / "slide000.svs", spec)
        for number in range(1, given.slides):
            (scans / f"slide{number:03}.svs").hardlink_to(first)
        for workers in given.workers:
            out = Path(folder) / f"out{workers}"
            with watched_gpu(device) as memory:
                wall, cpu = run(scans, out, [*options, "--workers", str(workers)])
            found = figures(out)
            alone = forward_seconds(predictor, found["tile"], found["batch"], found["tiles"])
            row = {
                "workers": workers,
                **found,
                "wall_seconds": wall,
                "forward_only_seconds": alone,
                "efficiency": alone / wall,
                "tiles_per_second": found["tiles"] / wall,
                "forward_only_tiles_per_second": found["tiles"] / alone,
                "seconds_per_slide": wall / given.slides,
                "slides_per_hour": 3600 * given.slides / wall,
                "core_seconds": cpu,
                "cores_busy": cpu / wall / usable_cores(),
                "gpu_memory_mib": memory(),
            }
            rows.append(row)
            print(
                f"{workers} workers: {found['tiles']} tiles in {wall:.1f} s, the network alone {alone:.1f} s "
                f"({row['efficiency']:.0%}); {row['slides_per_hour']:.0f} slides an hour; "
                f"{cpu:.0f} s of cores ({row['cores_busy']:.0%} of all)",
                flush=True,
            )
            stages = {stage: round(seconds, 1) for stage, seconds in found["worker_seconds"].items()}
            print(f"  workers {stages}, slides {found['slide_seconds']}", flush=True)
    result["pairs"] = [
        paired(f"a folder of slides, {row['workers']} workers", "the network alone",
               [(row["wall_seconds"], row["forward_only_seconds"])])
        for row in rows
    ]  # fmt: skip
    write_result(given.output, result | {"rows": rows})


if __name__ == "__main__":
    main()
