"""Core time and bytes of maps of trained models, by what is stored of the probabilities.

    python benchmarks/stored.py [--rounds 7] [--models bundled trained] [--output FILE]

Each model is run on the packaged slide: `bundled` is `bcss-demo`, and `trained`, see trained_model.py, needs
data. Its blocks are then written again, with their pyramids, under each choice: all that cores do to maps
where a GPU predicts and adds up. A tile is 512² map pixels with tissue. Times are of the process, with the
threads that compress; the least of all rounds counts, and choices take turns.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
from bench_model import TEACHER, default_work
from machine import begin, write_result
from numpy.typing import NDArray
from trained_model import MissingDataError, trained_model

from wsi_seg import PlanSettings, RunSettings, load_model, segment_slide
from wsi_seg.core.allocator import keep_freed_memory
from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.geometry import Size
from wsi_seg.maps import pyramid, shards
from wsi_seg.maps.fields import ChannelSum
from wsi_seg.maps.maps import Maps, create_maps
from wsi_seg.planning.grid import Block, cut_blocks
from wsi_seg.planning.map_layout import MapLayout
from wsi_seg.planning.stored import stored_groups
from wsi_seg.slides.sample import sample_slide

TILE_PIXELS = 512**2
CHUNK = 512
SIDE = 6144  # of the square of map pixels that is written
# All classes, without leaving out planes of nothing but 0.
ZEROS_TOO = "all, zeros too"


@dataclass(frozen=True, slots=True)
class Choice:
    """One choice of what is stored, and the blocks of a map as they are then written."""

    name: str
    layout: MapLayout
    blocks: tuple[tuple[Block, dict[str, NDArray[Any]]], ...]


def choices(maps: Maps, card: ModelCard) -> Iterator[Choice]:
    """Yield each choice with its blocks; sums are made here, as on a GPU."""
    ds, side = maps.probability_downsample, max(SIDE, maps.layout.block)
    labels = _repeated(maps.labels[:], side, ds)
    every = _repeated(maps.probabilities[:], side // ds, 1)
    layout = replace(maps.layout, map_size=Size(side, side))
    for name, asked in {
        ZEROS_TOO: "all",
        "all": "all",
        "groups": "groups",
        "traced": card.traced_names,
        "none": "none",
    }.items():
        stored = stored_groups(asked, card)  # type: ignore[arg-type]
        sums = _sums(maps, every, stored)
        blocks = []
        for block in cut_blocks(layout.map_size, layout.block):
            box = block.box
            here = labels[box.slices]
            small = sums[:, box.y0 // ds : -(-box.y1 // ds), box.x0 // ds : -(-box.x1 // ds)]
            values = {"labels": here, "tissue": here > 0, "probabilities": np.ascontiguousarray(small)}
            blocks.append((block, values))
        yield Choice(name, replace(layout, stored=stored), tuple(blocks))


def _repeated(values: NDArray[Any], side: int, step: int) -> NDArray[Any]:
    """Return the whole `step`s of a map, repeated to a square of `side` pixels."""
    height, width = (length // step * step for length in values.shape[-2:])
    rows, columns = np.arange(side) % height, np.arange(side) % width
    return values[..., rows[:, None], columns]


def _sums(maps: Maps, every: NDArray[np.uint8], stored: tuple[ClassGroup, ...] | None) -> NDArray[np.uint8]:
    if stored is None:
        return every
    channels = (maps.layout.find_channels(group.codes) for group in stored)
    planes = [ChannelSum(every, found, 1)[:, :] for found in channels if found is not None]
    return np.stack(planes) if planes else every[:0]


def write(choice: Choice, path: Path) -> tuple[float, int]:
    """Write a store; return its core-seconds and bytes."""
    layout = choice.layout
    create_maps(path, layout)
    made = Maps.open(path)
    for kind in layout.kinds:
        for level in range(layout.level_count):
            made.array(kind, level)
    find = every_plane if choice.name == ZEROS_TOO else shards.planes_in_use
    with patch.object(shards, "planes_in_use", find), patch.object(pyramid, "planes_in_use", find):
        start = time.process_time()
        for block, values in choice.blocks:
            made.write_block(block, **values)
        for level in range(layout.block_levels, layout.level_count):
            for shard in made.pyramid_shards(level):
                made.build_shard(shard)
        seconds = time.process_time() - start
    return seconds, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def every_plane(values: NDArray[Any]) -> NDArray[np.intp]:
    """Return all planes as in use."""
    return np.arange(len(values))


def empty_share(choice: Choice) -> float:
    """Return the share of chunks (`CHUNK`² of one channel) that hold nothing but 0."""
    planes = [plane for _, values in choice.blocks for plane in values["probabilities"]]
    chunks = [
        plane[y : y + CHUNK, x : x + CHUNK].any()
        for plane in planes
        for y in range(0, plane.shape[0], CHUNK)
        for x in range(0, plane.shape[1], CHUNK)
    ]
    return 1 - float(np.mean(chunks)) if chunks else 0.0


def measure(name: str, reference: str, rounds: int, work: Path) -> list[dict[str, Any]]:
    """Return a row for each choice of one model."""
    model = load_model(reference, "cpu")
    kept = work / f"packaged-{model.facts.digest[:16]}"
    settings = RunSettings(plan=PlanSettings(allow_upsampling=True))  # the slide has 0.5 µm/px
    maps = segment_slide(sample_slide(), kept, model, settings).maps
    found = list(choices(maps, model.facts.card))
    tiles = sum(np.count_nonzero(values["labels"]) for _, values in found[0].blocks) / TILE_PIXELS
    best: dict[str, tuple[float, int]] = {}
    for turn in range(rounds):
        for choice in found:
            with tempfile.TemporaryDirectory() as temporary:
                now = write(choice, Path(temporary) / "maps.zarr")
            if turn:  # the first one warms up
                best[choice.name] = min(now, best.get(choice.name, now))
    rows = []
    for choice in found:
        seconds, size = best[choice.name]
        channels = len(choice.layout.channels)
        row = {"model": name, "classes": len(maps.classes), "mpp": maps.mpp, "stored": choice.name}
        row |= {"channels": channels, "empty_chunks": empty_share(choice), "tiles": tiles}
        row |= {"core_ms_a_tile": seconds / tiles * 1e3, "kib_a_tile": size / tiles / 1024}
        rows.append(row)
        print(
            f"{name:8} {choice.name:15} {channels:3} channels, {row['empty_chunks']:.0%} of chunks empty: "
            f"{row['core_ms_a_tile']:.2f} ms of cores and {row['kib_a_tile']:.0f} KiB a tile",
            flush=True,
        )
    return rows


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--models", nargs="+", choices=("bundled", "trained"), default=["bundled", "trained"])
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps models and maps")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    keep_freed_memory()
    result, rows = begin(), []
    for name in given.models:
        try:
            reference = TEACHER if name == "bundled" else str(trained_model(given.work))
        except MissingDataError as error:
            print(f"{name}: left out, as {error}", flush=True)
            continue
        rows += measure(name, reference, given.rounds, given.work)
    if not rows:
        raise SystemExit("nothing was measured")
    write_result(given.output, result | {"rows": rows})


if __name__ == "__main__":
    main()
