"""Other reading libraries next to OpenSlide and the reader `tiff`: pixels, speed, and damaged files.

    python benchmarks/other_readers.py [--seconds 4] [--count 60] [--output FILE]

Needs fastslide and large-image with large-image-source-tiff beside what wsi-seg needs; libraries that are not
installed are left out. Regions of 512² px are read as in `readers.py`, without a cache of decoded tiles, but
for large_image, whose own cache of tiles stays on. Each
damaged file is read in a process of its own: slides cut off at eight places, slides with a stored tile of
zeros, and slides with one to three bytes changed in their tables of tags.
"""

from __future__ import annotations

import argparse
import collections
import importlib
import importlib.util
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
from machine import begin, versions, write_result
from readers import RGB, Task, places

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Box, Size
from wsi_seg.slides.readers import open_slide, tiled_tiff
from wsi_seg.slides.sample import sample_slide

SECONDS = 40
SHARES = (0.0005, 0.05, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999)
TASK = Task("level 0, 512², anywhere", 512)
LIBRARIES = (
    "fastslide",
    "large-image",
    "large-image-source-tiff",
    "openslide-python",
    "openslide-bin",
    "tifffile",
)


@dataclass(frozen=True)
class Opened:
    size: tuple[int, int]
    read: Callable[[int, int, int, int], RGB]
    """x, y, width and height of a region of level 0."""


def ours(path: Path) -> Opened:
    slide = open_slide(path)
    return Opened(
        (slide.info.size.width, slide.info.size.height),
        lambda x, y, width, height: slide.read_level(0, Box.at(x, y, width, height)),
    )


def openslide_python(path: Path) -> Opened:
    import openslide

    handle = openslide.OpenSlide(path)
    handle.set_cache(openslide.OpenSlideCache(0))
    return Opened(
        handle.dimensions,
        lambda x, y, width, height: np.asarray(handle.read_region((x, y), 0, (width, height)).convert("RGB")),
    )


def fastslide(path: Path) -> Opened:
    handle = importlib.import_module("fastslide").FastSlide.from_file_path(path)
    return Opened(
        handle.dimensions,
        lambda x, y, width, height: np.array(handle.read_region((x, y), 0, (width, height)).numpy()),
    )


def large_image_tiff(path: Path) -> Opened:
    source = importlib.import_module("large_image_source_tiff").open(str(path), noCache=True)

    def read(x: int, y: int, width: int, height: int) -> RGB:
        region = {"left": x, "top": y, "width": width, "height": height, "units": "base_pixels"}
        return np.asarray(source.getRegion(region=region, format="numpy")[0])[..., :3]

    return Opened((source.sizeX, source.sizeY), read)


READERS = {
    "wsi_seg": ours,
    "openslide-python": openslide_python,
    "fastslide": fastslide,
    "large-image tiff": large_image_tiff,
}
MODULES = {"fastslide": "fastslide", "large-image tiff": "large_image_source_tiff"}


def measure(path: Path, names: list[str], seconds: float) -> list[dict[str, Any]]:
    """Return a row for each reader: CPU ms a region, and differences to OpenSlide."""
    opened = {name: READERS[name](path) for name in names}
    cpu, largest = dict.fromkeys(names, 0.0), dict.fromkeys(names, 0)
    mean, count, end = dict.fromkeys(names, 0.0), 0, time.perf_counter() + seconds
    for x, y in places(TASK, Size(*opened["openslide-python"].size), seed=1):
        pixels = {}
        for name in np.random.default_rng(count).permutation(names):
            start = time.process_time()
            pixels[name] = opened[name].read(x, y, TASK.side, TASK.side)
            cpu[name] += time.process_time() - start
        for name in names:
            difference = np.abs(pixels[name].astype(int) - pixels["openslide-python"])
            largest[name] = max(largest[name], int(difference.max()))
            mean[name] += float(difference.mean())
        count += 1
        if time.perf_counter() > end:
            break
    return [
        {
            "reader": name, "regions": count, "cpu_ms": 1000 * cpu[name] / count,
            "largest_difference_to_openslide": largest[name],
            "mean_difference_to_openslide": mean[name] / count,
        }
        for name in names
    ]  # fmt: skip


def damaged(path: Path, count: int) -> Iterator[tuple[str, bytes]]:
    """Yield damaged copies of a slide, and how each is damaged."""
    content = path.read_bytes()
    for share in SHARES:
        yield "cut off", content[: max(20, int(len(content) * share))]
    with tifffile.TiffFile(path) as tiff:
        at, size = tiff.pages.first.dataoffsets[5], tiff.pages.first.databytecounts[5]
        tags = [at for page in tiff.pages for at in range(page.offset, page.offset + 2 + 12 * len(page.tags))]
    yield "a tile of zeros", content[:at] + bytes(size) + content[at + size :]
    rng = np.random.default_rng(7)
    for _ in range(count):
        changed = bytearray(content)
        for place in rng.choice(tags, rng.integers(1, 4)):
            changed[place] = rng.integers(256)
        yield "bytes of tags changed", bytes(changed)


def outcome(name: str, path: Path, good: RGB) -> str:
    """Read all of a slide in a process of its own, and return how that ended."""
    child = os.fork()
    if child == 0:
        quiet = os.open(os.devnull, os.O_WRONLY)
        os.dup2(quiet, 1)
        os.dup2(quiet, 2)
        code = 1
        try:
            code = read_all(name, path, good)
        finally:  # whatever a library raises over a damaged file is an error
            os._exit(code)
    end = time.monotonic() + SECONDS
    while time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            if os.WIFSIGNALED(status):
                return "crash"
            return {0: "right pixels", 1: "error", 2: "other pixels, no error"}.get(
                os.WEXITSTATUS(status), "exit"
            )
        time.sleep(0.01)
    with suppress(ProcessLookupError):
        os.kill(child, 9)
    os.waitpid(child, 0)
    return f"no end in {SECONDS} s"


def read_all(name: str, path: Path, good: RGB) -> int:
    opened = READERS[name](path)
    if tuple(opened.size) != good.shape[1::-1]:
        return 2
    return 0 if np.array_equal(opened.read(0, 0, *opened.size), good) else 2


def count_outcomes(name: str, folder: Path, count: int) -> list[dict[str, Any]]:
    found: dict[str, collections.Counter[str]] = collections.defaultdict(collections.Counter)
    made = make_slide(folder / "small.svs", SlideSpec(Size(2048, 2048), tissue=1))
    for source in (sample_slide(), made):
        good = whole(name, source, folder)
        for kind, content in damaged(source, count):
            path = folder / "damaged.svs"
            path.write_bytes(content)
            found[kind][outcome(name, path, good)] += 1
    return [{"reader": name, "damage": kind, **dict(counts)} for kind, counts in found.items()]


def whole(name: str, path: Path, folder: Path) -> RGB:
    """Return the pixels of a whole slide; read in another process, as threads of a library die in a fork."""
    kept = folder / "good.npy"
    child = os.fork()
    if child == 0:
        opened = READERS[name](path)
        np.save(kept, opened.read(0, 0, *opened.size))
        os._exit(0)
    os.waitpid(child, 0)
    return np.asarray(np.load(kept))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8192, help="width and height of the slides in pixels")
    parser.add_argument("--seconds", type=float, default=4, help="for each slide")
    parser.add_argument(
        "--count", type=int, default=60, help="slides with changed bytes, for each of two slides"
    )
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = begin(versions=versions(*LIBRARIES))
    names = [n for n in READERS if n not in MODULES or importlib.util.find_spec(MODULES[n])]
    tiled_tiff.CACHE_BYTES = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder, size = Path(temporary), Size(arguments.size, arguments.size)
        # First, while no library has made threads here.
        result["damaged"] = [row for name in names for row in count_outcomes(name, folder, arguments.count)]
        slides = {"Aperio": sample_slide()}
        for codec in ("jpeg", "jpeg2000"):
            slides[codec] = make_slide(folder / f"{codec}.svs", SlideSpec(size, codec=codec, tissue=1))
        result["rows"] = [
            {"slide": slide, **row}
            for slide, path in slides.items()
            for row in measure(path, names, arguments.seconds)
        ]
    for row in (*result["rows"], *result["damaged"]):
        print(row, flush=True)
    write_result(arguments.output, result)


if __name__ == "__main__":
    main()
