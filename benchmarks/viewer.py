"""The viewer under load: how long tiles and outlines take, and how much memory the server holds.

    python benchmarks/viewer.py [--seconds 60] [--clients 16] [--regions 100000] [--size 32768]
                                [--output FILE]

`wsi-seg view` serves, in a process of its own on the loopback address, a made JPEG slide with maps of the
same size, filled by a stand-in for a network, and a file of so many regions of 40 vertices. Each client is a
browser that looks around: it zooms and pans to random places and asks for all tiles of slide and classes and
the outlines of a screen of 1536 × 1024 pixels at once, over six connections, then for the next screen.
Latency is from asking to the last byte, waiting for other clients included.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import math
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import psutil
from machine import begin, versions, write_result

from tests.made.results import make_results
from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Size
from wsi_seg.planning.plan import PlanSettings

SCREEN = (1536, 1024)
CONNECTIONS = 6
MIB = 2**20


def write_regions(path: Path, count: int, size: int, header: dict[str, Any]) -> None:
    """Write so many star-shaped regions on a grid over the whole slide, as the exporter writes them."""
    angles = np.linspace(0, 2 * np.pi, 41)
    rows = math.ceil(math.sqrt(count))
    step = size / rows
    with path.open("w", encoding="utf-8") as file:
        top = json.dumps({"type": "FeatureCollection", "wsi_seg": header})
        file.write(f'{top[:-1]},"features":[')
        for i in range(count):
            radius = step * (0.25 + 0.15 * np.cos(angles * (3 + i % 4)) ** 2)
            xy = np.stack([radius * np.cos(angles), radius * np.sin(angles)], axis=1)
            xy = np.round(xy + np.array([(i % rows + 0.5) * step, (i // rows + 0.5) * step]), 2)
            xy[-1] = xy[0]
            feature = {
                "type": "Feature",
                "id": f"{i}",
                "geometry": {"type": "Polygon", "coordinates": [xy.tolist()]},
                "properties": {
                    "name": f"Tumor {i}",
                    "classification": {"name": "Tumor", "color": [200, 0, 0]},
                    "measurements": {"Area µm^2": 1.0, "Mean probability": 0.7},
                    "metadata": {"group": "tumor"},
                },
            }
            file.write(("," if i else "") + json.dumps(feature, separators=(",", ":")))
        file.write("]}")


def make_out(folder: Path, size: int, regions: int) -> Path:
    """Make a slide, its results and the many regions; return OUT."""
    slide = make_slide(folder / "made.svs", SlideSpec(Size(size, size), tissue=0.4))
    results = make_results(slide, folder / "out", plan=PlanSettings(tile=512, block=2048, overlap=64))
    path = results / "polygons.geojson"
    path.with_suffix(".geojson.gz").unlink(missing_ok=True)
    write_regions(path, regions, size, {"subtracted_l0": [0.0, 0.0]})
    return results.parent


class Client:
    """One browser that looks around."""

    def __init__(self, url: str, facts: dict[str, Any], seed: int, seconds: dict[str, list[float]]) -> None:
        limits = httpx.Limits(max_connections=CONNECTIONS)
        self.http = httpx.AsyncClient(base_url=url, limits=limits, timeout=60)
        self.facts, self.random, self.seconds = facts, random.Random(seed), seconds
        self.base = f"/api/slides/{facts['id']}"
        self.busy = 0
        """Answers 503."""

    async def look_around(self, until: float) -> None:
        async with self.http:
            while time.monotonic() < until:
                await asyncio.gather(*(self.ask(kind, path) for kind, path in self.screen()))

    def screen(self) -> list[tuple[str, str]]:
        """Return what a browser asks for to show a random place."""
        width, height = self.facts["size"]
        below = self.random.randint(0, 5)
        zoom, factor = self.facts["max_zoom"] - below, 2**below
        x = self.random.uniform(0, max(1.0, width - SCREEN[0] * factor))
        y = self.random.uniform(0, max(1.0, height - SCREEN[1] * factor))
        side = 512 * factor
        columns = range(int(x // side), int(min(width - 1, x + SCREEN[0] * factor) // side) + 1)
        rows = range(int(y // side), int(min(height - 1, y + SCREEN[1] * factor) // side) + 1)
        places = [f"{zoom}/{column}_{row}" for row in rows for column in columns]
        box = ",".join(f"{v:.0f}" for v in (x, y, x + SCREEN[0] * factor, y + SCREEN[1] * factor))
        return [
            *(("slide tile", f"{self.base}/tiles/{place}.jpg") for place in places),
            *(("class tile", f"{self.base}/layers/classes/{place}.png") for place in places),
            ("outlines", f"{self.base}/regions?box={box}&scale={factor}"),
        ]

    async def ask(self, kind: str, path: str) -> None:
        start = time.perf_counter()
        answer = await self.http.get(path)
        if answer.status_code == 503:
            self.busy += 1
            return
        answer.raise_for_status()
        self.seconds[kind].append(time.perf_counter() - start)


async def load(url: str, facts: dict[str, Any], clients: int, seconds: float) -> tuple[dict[str, Any], int]:
    """Return latencies by kind, and how often the server was too busy."""
    measured: dict[str, list[float]] = defaultdict(list)
    everyone = [Client(url, facts, seed, measured) for seed in range(clients)]
    until = time.monotonic() + seconds
    await asyncio.gather(*(one.look_around(until) for one in everyone))
    return dict(measured), sum(one.busy for one in everyone)


async def watch(process: psutil.Process, memory: list[int]) -> None:
    while True:
        memory.append(process.memory_info().rss)
        await asyncio.sleep(0.2)


def row(kind: str, seconds: list[float]) -> dict[str, Any]:
    cuts = statistics.quantiles(seconds, n=100)
    return {
        "what": kind,
        "answers": len(seconds),
        "p50_ms": 1000 * cuts[49],
        "p95_ms": 1000 * cuts[94],
        "max_ms": 1000 * max(seconds),
    }


async def measure(url: str, process: psutil.Process, given: argparse.Namespace) -> dict[str, Any]:
    memory: list[int] = []
    watching = asyncio.create_task(watch(process, memory))
    async with httpx.AsyncClient(base_url=url, timeout=120) as one:
        listed = (await one.get("/api/slides")).json()
        facts = (await one.get(f"/api/slides/{listed[0]['id']}")).json()
        start = time.perf_counter()
        await one.get(f"/api/slides/{facts['id']}/regions?box=0,0,1,1&scale=1")
        index = time.perf_counter() - start
        start = time.perf_counter()
        whole = f"box=0,0,{given.size},{given.size}&scale={given.size / SCREEN[0]:.3f}"
        answer = await one.get(f"/api/slides/{facts['id']}/regions?{whole}")
        first = time.perf_counter() - start
    before = max(memory)
    seconds, busy = await load(url, facts, given.clients, given.seconds)
    watching.cancel()
    return {
        "read_regions_seconds": index,
        "whole_slide": {
            "seconds": first,
            "shown": len(answer.json()["regions"]),
            "hidden": answer.json()["hidden"],
        },
        "rows": [row(kind, values) for kind, values in sorted(seconds.items())],
        "too_busy": busy,
        "memory_before_mib": before / MIB,
        "memory_peak_mib": max(memory) / MIB,
        "memory_end_mib": memory[-1] / MIB,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--regions", type=int, default=100_000)
    parser.add_argument("--size", type=int, default=32_768, help="side of the slide in pixels")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    result = begin(
        seconds=given.seconds, clients=given.clients, regions=given.regions, size=given.size,
        versions=versions("starlette", "uvicorn", "pillow", "shapely", "zarr", "imagecodecs"),
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as folder:
        out = make_out(Path(folder), given.size, given.regions)
        command = [sys.executable, "-m", "wsi_seg.cli", "view", str(out), "--port", "0", "--no-browser"]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
            assert server.stdout is not None
            url = server.stdout.readline().strip()
            if not url:
                raise SystemExit("the server did not start")
            try:
                result |= asyncio.run(measure(url, psutil.Process(server.pid), given))
            finally:
                server.terminate()
    for one in result["rows"]:
        print(
            f"{one['what']:<12} {one['answers']:6} answers, p50 {one['p50_ms']:6.1f} ms, "
            f"p95 {one['p95_ms']:6.1f} ms, longest {one['max_ms']:6.0f} ms"
        )
    whole = result["whole_slide"]
    print(
        f"{given.regions} regions read in {result['read_regions_seconds']:.1f} s; of the whole slide "
        f"{whole['shown']} outlines in {whole['seconds']:.2f} s the first time\n"
        f"memory {result['memory_before_mib']:.0f} MiB before, {result['memory_peak_mib']:.0f} at most, "
        f"{result['memory_end_mib']:.0f} at the end; {result['too_busy']} answers 503"
    )
    write_result(given.output, result)


if __name__ == "__main__":
    main()
