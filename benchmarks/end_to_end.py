"""A whole run beside the network alone, on the same tiles and cores; start-up is shown apart.

    python benchmarks/end_to_end.py [--size 8192] [--tissue 0.38] [--rounds 3] [--output FILE]

A made JPEG slide at 0.25 µm/px goes through the benchmarks' U-Net (ResNet-34, 21 classes, tiles of 512², no
overlap). In each round the run does everything from the plan to the polygons and the overview, and then the
network alone predicts as many tiles, logits only, as many at a time; the ratio is that of the round.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_model import SLIDE, benchmark_model, default_work
from machine import begin, write_result

from wsi_seg.allocator import keep_freed_memory
from wsi_seg.geometry import Size
from wsi_seg.models.predictor import Predictor
from wsi_seg.plan import PlanSettings
from wsi_seg.run import load_model, open_predictor, segment_slide
from wsi_seg.settings import RunSettings
from wsi_seg.testing.made_slide import make_slide


def forward_seconds(predictor: Predictor, tile: int, batch: int, tiles: int) -> float:
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=SLIDE.size.width)
    parser.add_argument("--tissue", type=float, default=SLIDE.tissue)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tile", type=int, default=512)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--model", help="another model than the benchmarks' own")
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()  # as the command line does
    spec = replace(SLIDE, size=Size(given.size, given.size), tissue=given.tissue)
    result = begin(slide={"size": given.size, "tissue": spec.tissue, "mpp": spec.mpp, "codec": spec.codec})
    model = load_model(given.model or str(benchmark_model(given.work)), given.device, given.precision)
    start = time.perf_counter()
    predictor = open_predictor(model)
    load = time.perf_counter() - start
    own = None if given.model else given.tile
    plan = PlanSettings(tile=own, batch=given.batch, threads=given.threads)
    rows: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        slide = make_slide(Path(folder) / "made.svs", spec)
        settings = RunSettings(plan=plan)
        tiles = 0
        for number in range(given.rounds + 1):
            out = Path(folder) / f"out{number}"
            start = time.perf_counter()
            summary = segment_slide(slide, out, model, replace(settings, overwrite=True)).summary
            wall = time.perf_counter() - start
            tiles = summary["tiles"]
            if number == 0:
                continue  # warms the disk cache, and tells the number of tiles
            alone = forward_seconds(predictor, own or model.facts.card.tile, given.batch, tiles)
            rows.append(
                {
                    "tiles": tiles,
                    "wall_seconds": round(wall, 2),
                    "forward_only_seconds": round(alone, 2),
                    "ratio": round(wall / alone, 3),
                    "seconds": summary["seconds"],
                    "worker_seconds": summary["worker_seconds"],
                    "limit": summary["bottleneck"]["limit"],
                    "peak_memory_mib": summary["peak_memory_mib"],
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
        "model": model.facts.card.name,
        "load_seconds": load,
        "median_ratio": ratio,
        "rows": rows,
    }
    write_result(given.output, result)


if __name__ == "__main__":
    main()
