"""Core time of a slide besides the network, as where a GPU predicts; no GPU is needed.

    python benchmarks/beside.py [--size 60000] [--tissue 0.4] [--models fitted] [--stored all] [--rounds 2]
        [--output FILE]

In place of the network, and of what a GPU does with its output (softmax, best class, means, sums), a stand-in
hands out labels and probabilities of real tiles: those of a run of a model on the 8,192² slide of
bench_model.py. `fitted` is the model of that script, and `trained`, see trained_model.py, needs data.
`--stored` is the setting `probabilities`. All else is as in a run: decoding, cutting tiles, compressing and
writing maps, pyramids, polygons and picture. Tiles side by side come from different places, so that there are
more and smaller regions than on a slide.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from bench_model import SLIDE, benchmark_model, default_work
from machine import YARDSTICK, begin, paired, write_result, yardstick
from numpy.typing import NDArray
from trained_model import MissingDataError, trained_model

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
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.settings import RegionSettings, TraceSettings

TEXTURE = "tissue"  # its tiles take as long to decode as scanned ones
CORES = 16  # of the machine that is reckoned with, beside its GPU


class StandIn:
    """Predicts nothing, in no time; what a tile is given comes from `Stock`."""

    def __init__(self, classes: int) -> None:
        self._classes = classes

    def __call__(self, tiles: NDArray[np.uint8], /, margin: int = 0) -> NDArray[np.float32]:
        """Return zeros of the right shape."""
        side = tiles.shape[1] - 2 * margin
        return np.broadcast_to(np.float32(0), (len(tiles), self._classes, side, side))


def stand_in(classes: int) -> StandIn:
    """Recipe `beside:stand_in`."""
    return StandIn(classes)


class Stock:
    """Labels and stored probabilities of tiles that are tissue all over."""

    def __init__(self, maps: Maps, tile: int) -> None:
        self._tile, self._cell = tile, maps.probability_downsample
        self._summed: dict[Any, list[NDArray[np.uint8]]] = {}
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
            number = (31 * row + 7 * column) % len(self._tiles)
            best, small = self._tiles[number][0], self._small(out.settings.stored)[number]
            height, width = part_map.height, part_map.width
            out._store(
                part_map, best[:height, :width], small[:, : height // self._cell, : width // self._cell]
            )

    def _small(self, stored: Any) -> list[NDArray[np.uint8]]:
        """Return what is stored of each tile; sums are made once, as on a GPU they cost cores nothing."""
        if stored not in self._summed:
            every = [small for _, small in self._tiles]
            summed = [stitch._clipped_sums(small, stored) for small in every] if stored else every
            self._summed[stored] = [small[:0] for small in every] if stored == () else summed
        return self._summed[stored]


def once(slide: Path, model: Any, stored: str) -> dict[str, Any]:
    """Run a slide through, and say what it took."""
    trace = TraceSettings(source="labels" if stored == "none" else "probabilities")
    settings = RunSettings(plan=PlanSettings(probabilities=stored), regions=RegionSettings(trace=trace))
    with tempfile.TemporaryDirectory() as folder:
        cores, start = time.process_time(), time.perf_counter()
        summary = segment_slide(slide, Path(folder), model, settings).summary
        cores, seconds = time.process_time() - cores, time.perf_counter() - start
        files = [path.stat().st_size for path in Path(folder).rglob("*") if path.is_file()]
    return {
        "stored": stored,
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


def measure(model: Any, slide: Path, first: Path, given: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """Yield the rows of one model: choices of what is stored take turns.

    Args:
        model: fills the stock, on the slide `first`.
        slide: to be run through.
        first: slide of the stock.
        given: options of the command line.
    """
    card = model.facts.card
    with tempfile.TemporaryDirectory() as folder:
        stock = Stock(segment_slide(first, Path(folder), model, RunSettings()).maps, card.tile)
    print(f"{len(stock)} tiles in stock", flush=True)
    instead = replace(model, predictor=PredictorRecipe("beside:stand_in", (("classes", len(card.classes)),)))
    with patch.object(stitch._Output, "put", lambda out, part, _: stock.put(out, part)):
        for _ in range(given.rounds):
            for stored in given.stored:
                row = once(slide, instead, stored)
                yield row
                _say(row)


def _say(row: dict[str, Any]) -> None:
    tiles, size = (
        f"{row['tiles']} tiles in {row['seconds']:.1f} s",
        f"{row['files']} files, {row['mib']:.0f} MiB",
    )
    cores = f"{row['core_seconds']:.1f} s of cores, {row['core_ms_a_tile']:.1f} ms a tile"
    print(f"{row['stored']}: {tiles}, {cores}; {size}", flush=True)
    print(f"  workers {row['worker_seconds']}, slide {row['slide_seconds']}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=60_000)
    parser.add_argument("--tissue", type=float, default=0.4)
    parser.add_argument("--models", nargs="+", choices=("fitted", "trained"), default=["fitted"])
    parser.add_argument("--stored", nargs="+", choices=("all", "groups", "none"), default=["all"])
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the models")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()
    result = begin(
        slide={
            "size": given.size,
            "tissue": given.tissue,
            "mpp": SLIDE.mpp,
            "codec": SLIDE.codec,
            "texture": TEXTURE,
        },
        cores_used=usable_cores(),
    )
    rows, pairs, before = [], [], yardstick()
    with tempfile.TemporaryDirectory() as folder:
        first = make_slide(Path(folder) / "first.svs", SLIDE)
        spec = replace(SLIDE, size=Size(given.size, given.size), tissue=given.tissue, texture=TEXTURE)
        slide = make_slide(Path(folder) / "slide.svs", spec)
        for name in given.models:
            try:
                kept = benchmark_model(given.work) if name == "fitted" else trained_model(given.work)
            except MissingDataError as error:
                print(f"{name}: left out, as {error}", flush=True)
                continue
            for row in measure(load_model(str(kept), "cpu"), slide, first, given):
                rows.append({"model": name, **row})
                after = yardstick()
                pairs.append((name, row["stored"], row["core_seconds"], (before + after) / 2))
                before = after
    if not rows:
        raise SystemExit("nothing was measured")
    write_result(given.output, result | {"pairs": list(_pairs(pairs)), "rows": rows})


def _pairs(found: Sequence[tuple[str, str, float, float]]) -> Iterator[dict[str, Any]]:
    """Yield the pairs of each model and choice of what is stored."""
    for model, stored in dict.fromkeys((model, stored) for model, stored, *_ in found):
        usual = (model, stored) == ("fitted", "all")
        what = "core-seconds of a slide without the network" + ("" if usual else f", {model}, {stored}")
        yield paired(what, YARDSTICK, [(a, b) for m, s, a, b in found if (m, s) == (model, stored)])


if __name__ == "__main__":
    main()
