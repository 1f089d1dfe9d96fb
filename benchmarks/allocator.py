"""Memory that the C library keeps for the next tile: runs with `wsi_seg.core.allocator` and without, in turn.

    python benchmarks/allocator.py [--size 8192] [--tissue 0.15] [--rounds 3] [--output FILE]

A made JPEG slide at 0.25 µm/px goes through `wsi-seg run`, in a process of its own each time. Seconds of
cores are those of the whole process; the system's are the part of the kernel, most of it to clear pages.
"""

from __future__ import annotations

import argparse
import json
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from machine import begin, paired, write_result

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Size

RUN = "from wsi_seg.cli import main; main()"
WAYS = {
    "freed memory is kept": RUN,
    "glibc's defaults": f"from wsi_seg.core import allocator; allocator.SETTINGS = (); {RUN}",
}


def measure(code: str, slide: Path, model: str) -> dict[str, Any]:
    """Run once on a slide."""
    with tempfile.TemporaryDirectory() as out:
        command = [sys.executable, "-c", code, "run", str(slide), "-o", out, "--model", model, "--json"]
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        done = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    summary = json.loads(done.stdout)[0]["summary"]
    system = after.ru_stime - before.ru_stime
    return {
        "tiles": summary["tiles"],
        "peak_mib": summary["peak_memory_mib"],
        "seconds": seconds,
        "core_seconds": after.ru_utime - before.ru_utime + system,
        "system_seconds": system,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--size", type=int, default=8192)
    parser.add_argument("--tissue", type=float, default=0.15)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--model", default="bcss-demo")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = begin(size=arguments.size, tissue=arguments.tissue, model=arguments.model)
    measured: dict[str, list[dict[str, Any]]] = {way: [] for way in WAYS}
    with tempfile.TemporaryDirectory() as folder:
        spec = SlideSpec(size=Size(arguments.size, arguments.size), tissue=arguments.tissue)
        slide = make_slide(Path(folder) / "made.svs", spec)
        for _ in range(arguments.rounds):
            for way, code in WAYS.items():
                measured[way].append(measure(code, slide, arguments.model))
                print(way, measured[way][-1], flush=True)
    rows = [
        {"way": way, **{key: statistics.median(run[key] for run in runs) for key in runs[0]}}
        for way, runs in measured.items()
    ]
    kept, usual = ([run["core_seconds"] for run in measured[way]] for way in WAYS)
    result["pairs"] = [
        paired("core-seconds of a run", "with glibc's defaults", zip(kept, usual, strict=True))
    ]
    write_result(arguments.output, result | {"rounds": arguments.rounds, "rows": rows})


if __name__ == "__main__":
    main()
