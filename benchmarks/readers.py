"""Reading speed of openslide-python, tiffslide and wsi_seg's reader `tiff`, side by side in one process.

    python benchmarks/readers.py [--size 16384] [--seconds 4] [--output benchmarks/results/readers.json]

Reads regions at random places of the packaged Aperio slide (240² tiles, JPEG of RGB) and of slides of made
tissue at 0.25 µm/px (256² tiles, JPEG of subsampled YCbCr and JPEG 2000): each region by every reader before
the next one, so that all meet the same noise, and with no decoded tiles kept from one region to the next.
Ratios say how many times as fast: 1 thread compares CPU time, which other programs hardly disturb, 2 threads
wall time.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import openslide
import tiffslide
from machine import begin, paired, versions, write_result
from numpy.typing import NDArray
from PIL import Image

from tests.made.slides import TILE, SlideSpec, make_slide
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.readers import open_slide, tiled_tiff
from wsi_seg.slides.sample import sample_slide
from wsi_seg.slides.slide import Slide, map_frame, read_region

RGB = NDArray[np.uint8]
Read = Callable[[int, int, int, int], RGB]
"""Reads the region at (x, y) in l0 pixels, `side` l0 pixels wide and high, reduced by `factor`."""
OURS, OPENSLIDE, TIFFSLIDE = "wsi_seg tiff", "openslide-python", "tiffslide"
SHARES = 5  # of the regions of a task, whose times are compared one by one
LIBRARIES = ("openslide-python", "openslide-bin", "tiffslide", "tifffile", "imagecodecs", "pillow")


@dataclass(frozen=True)
class Task:
    name: str
    side: int
    """In l0 pixels."""
    factor: int = 1
    step: int = 1
    """Places are multiples of it, in l0 pixels."""


SAMPLE_TASKS = (
    Task("level 0, 480², on the grid of stored tiles", 480, step=240),
    Task("level 0, 512², anywhere", 512),
    Task("level 0, 2048², anywhere", 2048),
)
TASKS = (
    Task("level 0, 512², on the grid of stored tiles", 512, step=TILE),
    Task("level 0, 512², anywhere", 512),
    Task("level 0, 2048², anywhere", 2048),
    Task("0.5 from 0.25 µm/px, 512², on the grid", 1024, factor=2, step=TILE),
    Task("0.5 from 0.25 µm/px, 512², anywhere", 1024, factor=2, step=2),
)


def without_cache(handle: openslide.OpenSlide) -> openslide.OpenSlide:
    handle.set_cache(openslide.OpenSlideCache(0))
    return handle


def ours(stack: ExitStack, path: Path) -> Read:
    slide: Slide = stack.enter_context(open_slide(path, reader="tiff"))

    def read(x: int, y: int, side: int, factor: int) -> RGB:
        if factor == 1:
            return slide.read_level(0, Box.at(x, y, side, side))
        frame = map_frame(slide.info, 0.25 * factor)
        return read_region(slide, frame, Box.at(x // factor, y // factor, side // factor, side // factor))

    return read


def openslide_python(stack: ExitStack, path: Path) -> Read:
    handle = stack.enter_context(without_cache(openslide.OpenSlide(path)))

    def read(x: int, y: int, side: int, factor: int) -> RGB:
        region = handle.read_region((x, y), 0, (side, side)).convert("RGB")
        return np.asarray(region.reduce(factor) if factor > 1 else region)

    return read


def tiffslide_array(stack: ExitStack, path: Path) -> Read:
    handle = stack.enter_context(tiffslide.TiffSlide(path))

    def read(x: int, y: int, side: int, factor: int) -> RGB:
        region = handle.read_region((x, y), 0, (side, side), as_array=True)
        return np.asarray(Image.fromarray(region).reduce(factor) if factor > 1 else region)

    return read


READERS: dict[str, Callable[[ExitStack, Path], Read]] = {
    OURS: ours,
    OPENSLIDE: openslide_python,
    TIFFSLIDE: tiffslide_array,
}


def places(task: Task, size: Size, seed: int) -> Iterator[tuple[int, int]]:
    rng = np.random.default_rng(seed)
    steps = ((size.width - task.side) // task.step, (size.height - task.side) // task.step)
    while True:
        x, y = rng.integers(0, steps) * task.step
        yield int(x), int(y)


def one_thread(path: Path, task: Task, size: Size, seconds: float) -> tuple[dict[str, list[float]], int]:
    """Return CPU seconds of each reader for each region, and the largest difference to OpenSlide."""
    cpu: dict[str, list[float]] = {name: [] for name in READERS}
    count, largest = 0, 0
    with ExitStack() as stack:
        reads = {name: open_reader(stack, path) for name, open_reader in READERS.items()}
        end = time.perf_counter() + seconds
        for x, y in places(task, size, seed=1):
            pixels = {}
            for name in np.random.default_rng(count).permutation(list(reads)):
                start = time.process_time()
                pixels[name] = reads[name](x, y, task.side, task.factor)
                cpu[name].append(time.process_time() - start)
            difference = np.abs(pixels[OURS].astype(int) - pixels[OPENSLIDE]).max()
            count, largest = count + 1, max(largest, int(difference))
            if time.perf_counter() > end:
                break
    return cpu, largest


def two_threads(path: Path, task: Task, size: Size, seconds: float) -> dict[str, float]:
    """Return wall ms per region of each reader where two threads with a handle each share the regions."""
    wall, rounds, batch = dict.fromkeys(READERS, 0.0), 0, 4
    with ExitStack() as stack, ThreadPoolExecutor(2) as pool:
        reads = {name: [new(stack, path) for _ in range(2)] for name, new in READERS.items()}
        spots = [places(task, size, seed=2), places(task, size, seed=3)]
        end = time.perf_counter() + seconds
        while time.perf_counter() < end:
            shares = [[next(spot) for _ in range(batch)] for spot in spots]

            def work(read: Read, share: list[tuple[int, int]]) -> None:
                for x, y in share:
                    read(x, y, task.side, task.factor)

            for name in np.random.default_rng(rounds).permutation(list(reads)):
                start = time.perf_counter()
                list(pool.map(work, reads[name], shares))
                wall[name] += time.perf_counter() - start
            rounds += 1
    return {name: 1000 * value / (2 * batch * rounds) for name, value in wall.items()}


def in_shares(values: list[float]) -> list[float]:
    """Return the sums of `SHARES` equal shares of values, one after another; fewer where there are fewer."""
    length = max(1, len(values) // SHARES)
    return [sum(values[i * length : (i + 1) * length]) for i in range(min(SHARES, len(values)))]


def measure(
    slide: str, task: Task, path: Path, size: Size, seconds: float
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the row of a task, and pairs of ours and OpenSlide's."""
    spent, difference = one_thread(path, task, size, seconds)
    regions = len(spent[OURS])
    cpu = {name: 1000 * sum(values) / regions for name, values in spent.items()}
    pairs = zip(in_shares(spent[OURS]), in_shares(spent[OPENSLIDE]), strict=True)
    wall = two_threads(path, task, size, seconds)

    def ratios(values: dict[str, float]) -> dict[str, float]:
        return {name: round(value / values[OURS], 2) for name, value in values.items() if name != OURS}

    row = {
        "slide": slide,
        "task": task.name,
        "regions": regions,
        "largest_difference_to_openslide": difference,
        "cpu_ms_1_thread": {name: round(value, 3) for name, value in cpu.items()},
        "wall_ms_2_threads": {name: round(value, 3) for name, value in wall.items()},
        "times_as_fast_per_core": ratios(cpu),
        "times_as_fast_2_threads": ratios(wall),
    }
    return row, paired(f"{slide}, {task.name}", OPENSLIDE, pairs)


def print_row(row: dict[str, Any]) -> None:
    cpu, faster, both = (
        row[key] for key in ("cpu_ms_1_thread", "times_as_fast_per_core", "times_as_fast_2_threads")
    )
    print(
        f"{row['slide']:<9} {row['task']:<43} {cpu[OURS]:>8.2f} {cpu[OPENSLIDE]:>9.2f} {cpu[TIFFSLIDE]:>9.2f}"
        f" {faster[OPENSLIDE]:>9.2f} {faster[TIFFSLIDE]:>9.2f}"
        f" {both[OPENSLIDE]:>9.2f} {both[TIFFSLIDE]:>9.2f}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=16384, help="width and height of the slides in pixels")
    parser.add_argument("--seconds", type=float, default=4, help="for each task, once per number of threads")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = begin(versions=versions(*LIBRARIES))
    print(f"{'':<53} {'CPU ms a region, 1 thread':>28} {'faster, 1 thread':>19} {'faster, 2 threads':>19}")
    print(
        f"{'':<53} {'ours':>8} {'openslide':>9} {'tiffslide':>9}" + f" {'openslide':>9} {'tiffslide':>9}" * 2
    )
    result |= {"rows": [], "pairs": []}
    tiled_tiff.CACHE_BYTES = 0
    with tempfile.TemporaryDirectory() as folder:
        size = Size(arguments.size, arguments.size)
        slides: dict[str, tuple[Path, tuple[Task, ...]]] = {"Aperio": (sample_slide(), SAMPLE_TASKS)}
        for codec in ("jpeg", "jpeg2000"):
            path = make_slide(
                Path(folder) / f"{codec}.svs", SlideSpec(size, codec=codec, tissue=1, texture="tissue")
            )
            slides[codec] = (path, TASKS)
        for name, (path, tasks) in slides.items():
            with open_slide(path) as slide:
                size = slide.info.size
            for task in tasks:
                row, pairs = measure(name, task, path, size, arguments.seconds)
                result["rows"].append(row)
                result["pairs"].append(pairs)
                print_row(row)
    write_result(arguments.output, result)


if __name__ == "__main__":
    main()
