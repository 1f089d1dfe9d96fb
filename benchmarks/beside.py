"""Core time of a slide besides the network, as where a GPU predicts; no GPU is needed.

    python benchmarks/beside.py [--size 60000] [--tissue 0.4] [--rounds 2] [--output FILE]

In place of the network, and of what a GPU does with its output (softmax, best class, means), a stand-in hands
out labels and probabilities of real tiles: those of a run of the benchmarks' model on its 8,192² slide. All
else is as in a run: decoding, cutting tiles, compressing and writing maps, pyramids, polygons and picture.
Tiles side by side come from different places, so that there are more and smaller regions than on a slide.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from bench_model import CARD, SLIDE, benchmark_model, default_work
from machine import YARDSTICK, begin, paired, write_result, yardstick
from numpy.typing import NDArray

from tests.made.slides import make_slide
from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.geometry import Box, Size
from wsi_seg.core.system import usable_cores
from wsi_seg.execution.tasks import PredictorRecipe
from wsi_seg.inference import stitch
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings

CORES = 16  # of the machine that is reckoned with, beside its GPU


class StandIn:
    """Predicts nothing, in no time; what a tile is given comes from `Stock`."""

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return zeros of the right shape."""
        side = tiles.shape[1] - 2 * margin
        return np.broadcast_to(np.float32(0), (len(tiles), len(CARD.classes), side, side))


def stand_in() -> StandIn:
    """Recipe `beside:stand_in`."""
    return StandIn()


class Stock:
    """Labels and stored probabilities of tiles that are tissue all over."""

    def __init__(self, maps: Maps, tile: int) -> None:
        self._tile, self._cell = tile, maps.probability_downsample
        self._tiles: list[tuple[NDArray[np.uint8], NDArray[np.uint8]]] = []
        height, width = maps.labels.shape
        side = tile // self._cell
        for y in range(0, height - tile + 1, tile):
            for x in range(0, width - tile + 1, tile):
                labels = maps.labels[y : y + tile, x : x + tile]
                if labels.all():
                    v, u = y // self._cell, x // self._cell
                    self._tiles.append(
                        (labels - np.uint8(1), maps.probabilities[:, v : v + side, u : u + side])
                    )

    def __len__(self) -> int:
        return len(self._tiles)

    def put(self, out: Any, part_map: Box) -> None:
        """Store a tile, as `stitch` does with what it has fetched from a GPU."""
        rows, columns = part_map.within(out.box)
        if out.analyzed[rows, columns].any():
            row, column = part_map.y0 // self._tile, part_map.x0 // self._tile
            best, small = self._tiles[(31 * row + 7 * column) % len(self._tiles)]
            height, width = part_map.height, part_map.width
            out._store(
                part_map, best[:height, :width], small[:, : height // self._cell, : width // self._cell]
            )


def once(slide: Path, model: Any) -> dict[str, Any]:
    """Run a slide through, and say what it took."""
    with tempfile.TemporaryDirectory() as folder:
        cores, start = time.process_time(), time.perf_counter()
        summary = segment_slide(slide, Path(folder), model, RunSettings()).summary
        cores, seconds = time.process_time() - cores, time.perf_counter() - start
        files = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
    return {
        "tiles": summary["tiles"],
        "seconds": seconds,
        "core_seconds": cores,
        "core_ms_a_tile": cores / summary["tiles"] * 1e3,
        "slides_per_hour_of_16_cores": 3600 * CORES / cores,
        "slide_seconds": summary["seconds"],
        "worker_seconds": summary["worker_seconds"],
        "regions": sum(group["count"] for group in summary["regions"].values()),
        "files": len(files),
        "mib": sum(files) / 2**20,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=60_000)
    parser.add_argument("--tissue", type=float, default=0.4)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()
    model = load_model(str(benchmark_model(given.work)), "cpu")
    result = begin(
        slide={"size": given.size, "tissue": given.tissue, "mpp": SLIDE.mpp, "codec": SLIDE.codec},
        cores_used=usable_cores(),
    )
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        first = make_slide(Path(folder) / "first.svs", SLIDE)
        maps = Maps.open(Path(segment_slide(first, Path(folder), model, RunSettings()).folder) / "maps.zarr")
        stock = Stock(maps, CARD.tile)
        print(f"{len(stock)} tiles in stock", flush=True)
        spec = replace(SLIDE, size=Size(given.size, given.size), tissue=given.tissue)
        slide = make_slide(Path(folder) / "slide.svs", spec)
        stitch._Output.put = lambda out, part, _: stock.put(out, part)  # type: ignore[method-assign]
        instead = replace(model, predictor=PredictorRecipe("beside:stand_in"))
        pairs, before = [], yardstick()
        for _ in range(given.rounds):
            row = once(slide, instead)
            rows.append(row)
            after = yardstick()
            pairs.append((row["core_seconds"], (before + after) / 2))
            before = after
            print(
                f"{row['tiles']} tiles in {row['seconds']:.1f} s, {row['core_seconds']:.1f} s of cores, "
                f"{row['core_ms_a_tile']:.1f} ms a tile; {row['files']} files, {row['mib']:.0f} MiB",
                flush=True,
            )
            print(f"  workers {row['worker_seconds']}, slide {row['slide_seconds']}", flush=True)
    result["pairs"] = [paired("core-seconds of a slide without the network", YARDSTICK, pairs)]
    write_result(given.output, result | {"rows": rows})


if __name__ == "__main__":
    main()
