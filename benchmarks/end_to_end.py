"""A whole run against the network alone, on the same tiles and cores; start-up is shown apart.

    python benchmarks/end_to_end.py [--size 8192] [--tissue 0.38] [--rounds 3] [--output FILE]
    python benchmarks/end_to_end.py --size 60000 --tissue 0.4 --device cuda --workers 8     # on a GPU node

A made JPEG slide at 0.25 µm/px goes through the benchmarks' U-Net (ResNet-34, 21 classes, tiles of 512², no
overlap). In each round the run does everything from the plan to the polygons and the overview; before it and
after it the network alone predicts half as many tiles, logits only, as many at a time, as other tenants of a
machine make it slower and faster from one minute to the next. The ratio is that of the round.
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from bench_model import SLIDE, benchmark_model, default_work
from machine import begin, paired, write_result

from tests.made.slides import make_slide
from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.geometry import Size
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.workers import open_workers
from wsi_seg.inference.models.calibrate import machine
from wsi_seg.inference.models.devices import resolve_device
from wsi_seg.inference.models.predictor import NetworkPredictor
from wsi_seg.pipeline.models import load_model, open_predictor
from wsi_seg.pipeline.result import Result
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import DEFAULT_THREADS, GPU_THREADS, PlanSettings


def forward_seconds(predictor: NetworkPredictor, tile: int, batch: int, tiles: int) -> float:
    """Return the seconds of the network alone for so many tiles, as many at a time as in the run."""
    noise = np.random.default_rng(0).integers(0, 256, (batch, tile, tile, 3), np.uint8)
    passes = predictor.passes

    def predict(batches: int) -> None:
        for _ in pool.map(lambda _: predictor.logits(noise).shape, range(batches)):
            pass

    with ThreadPoolExecutor(passes, initializer=predictor.share, initargs=(passes,)) as pool:
        predict(passes)
        start = time.perf_counter()
        predict(-(-tiles // batch))
        seconds = time.perf_counter() - start
    predictor.unshare()
    return seconds


def shape(done: Result) -> tuple[int, int]:
    """Return tile and batch of a run."""
    plan = json.loads((Path(done.folder) / "manifest.json").read_text(encoding="utf-8"))["plan"]
    return plan["stitch"]["grid"]["tile"], plan["batch"]


def gpu_memory_mib(device: str) -> int | None:
    """Return the memory in use on a GPU, by all processes; PyTorch keeps what it once took."""
    if not device.startswith("cuda"):
        return None
    free, total = torch.cuda.mem_get_info(device)
    return round((total - free) / 2**20)


def worker_settings(given: argparse.Namespace) -> WorkerSettings:
    """Return where the blocks are computed: in this process, or in several that share the GPU, if any."""
    if given.workers == 1:
        return WorkerSettings()
    device = resolve_device(given.device)
    gpu = device.startswith("cuda")
    threads = given.threads or (GPU_THREADS if gpu else DEFAULT_THREADS)
    gpus = (int(device.removeprefix("cuda:")),) if gpu else ()
    return WorkerSettings(processes=given.workers, threads=threads, gpus=gpus)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SLIDE.size.width)
    parser.add_argument("--tissue", type=float, default=SLIDE.tissue)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch", type=int, help="tiles per forward pass; by default what a run takes")
    parser.add_argument("--threads", type=int, help="blocks in flight in each process")
    parser.add_argument("--workers", type=int, default=1, help="processes; with a GPU they share it")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--model", help="another model than the benchmarks' own")
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    spec = replace(SLIDE, size=Size(given.size, given.size), tissue=given.tissue)
    result = begin(slide={"size": given.size, "tissue": spec.tissue, "mpp": spec.mpp, "codec": spec.codec})
    where = worker_settings(given)
    reference = given.model or str(benchmark_model(given.work))
    model = load_model(reference, given.device, given.precision, workers=where)
    start = time.perf_counter()
    predictor = open_predictor(model)
    load = time.perf_counter() - start
    own = None if given.model else given.tile
    plan = PlanSettings(tile=own, batch=given.batch, threads=given.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder, open_workers(where) as workers:
        slide = make_slide(Path(folder) / "made.svs", spec)
        settings = RunSettings(plan=plan, workers=where)

        def run(number: int) -> tuple[Result, float]:
            start = time.perf_counter()
            out = Path(folder) / f"out{number}"
            done = segment_slide(slide, out, model, replace(settings, overwrite=True), workers=workers)
            return done, time.perf_counter() - start

        done, _ = run(0)  # warms the disk cache, and tells the number of tiles
        tiles, (tile, batch) = done.summary["tiles"], shape(done)
        for number in range(1, given.rounds + 1):
            before = forward_seconds(predictor, tile, batch, tiles // 2)
            done, wall = run(number)
            summary, gpu_memory = done.summary, gpu_memory_mib(predictor.device)
            alone = before + forward_seconds(predictor, tile, batch, tiles - tiles // 2)
            rows.append(
                {
                    "tiles": tiles,
                    "tile": tile,
                    "batch": batch,
                    "wall_seconds": round(wall, 2),
                    "forward_only_seconds": round(alone, 2),
                    "ratio": round(wall / alone, 3),
                    "seconds": summary["seconds"],
                    "worker_seconds": summary["worker_seconds"],
                    "limit": summary["bottleneck"]["limit"],
                    "peak_memory_mib": summary["peak_memory_mib"],
                    "peak_worker_memory_mib": summary["peak_worker_memory_mib"],
                    "gpu_memory_mib": gpu_memory,
                }
            )
            print(
                f"round {number}: {tiles} tiles, run {wall:.1f} s, network alone {alone:.1f} s, "
                f"ratio {wall / alone:.3f}, peak {summary['peak_memory_mib']} MiB",
                flush=True,
            )
            print(f"  worker seconds {summary['worker_seconds']}, driver {summary['seconds']}", flush=True)
    ratio = statistics.median(row["ratio"] for row in rows)
    print(f"median ratio {ratio:.3f}; loading the model {load:.1f} s apart")
    result |= {
        "device": model.facts.device,
        "precision": model.facts.precision,
        "processor": machine(predictor.device),
        "workers": given.workers,
        "tile": rows[0]["tile"],
        "batch": rows[0]["batch"],
        "model": model.facts.card.name,
        "load_seconds": load,
        "median_ratio": ratio,
        "pairs": [
            paired(
                "a whole run",
                "the network alone",
                ((row["wall_seconds"], row["forward_only_seconds"]) for row in rows),
            )
        ],
        "rows": rows,
    }
    write_result(given.output, result)


if __name__ == "__main__":
    main()
