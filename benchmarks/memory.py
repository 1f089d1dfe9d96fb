"""Peak memory of whole runs against slide size, each in a process of its own, next to the plan's projection.

    python benchmarks/memory.py [--sizes 8192 32768 65536] [--tissue 0.1] [--max-memory 2GB] [--output FILE]

Makes pyramidal JPEG slides at 0.25 µm/px in a temporary folder and runs `wsi-seg run` on them, once for each
`--max-memory`; `none` sets no ceiling.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from machine import begin, write_result

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.card import WEIGHTS_NAME
from wsi_seg.core.geometry import Size
from wsi_seg.inference.models.registry import find_model

MIB = 2**20
NO_CEILING = "none"


def command(slide: Path, out: Path, model: str, *more: str) -> list[str]:
    code = "from wsi_seg.cli import main; main()"
    return [sys.executable, "-c", code, "run", str(slide), "-o", str(out), "--model", model, "--json", *more]


def answer(words: list[str]) -> Any:
    """Return what a command says about its one slide."""
    return json.loads(subprocess.run(words, check=True, stdout=subprocess.PIPE, text=True).stdout)[0]


def measure(slide: Path, model: str, more: list[str]) -> dict[str, Any]:
    """Run once on a slide."""
    with tempfile.TemporaryDirectory() as out:
        plan = answer(command(slide, Path(out), model, "--dry-run", *more))
        summary = answer(command(slide, Path(out), model, *more))["summary"]
    return {
        "tiles": summary["tiles"],
        "peak_mib": summary["peak_memory_mib"],
        "projected_mib": plan["projected_memory_bytes"] / MIB,
        "ceiling_mib": None if plan["max_memory_bytes"] is None else plan["max_memory_bytes"] / MIB,
        "tile": plan["stitch"]["grid"]["tile"],
        "block": plan["layout"]["block"],
        "threads": plan["threads"],
        "precision": plan["precision"],
        "seconds": summary["seconds"],
        "worker_seconds": summary["worker_seconds"],
    }


def print_row(row: dict[str, Any]) -> None:
    print(
        f"{row['size']:>7} px  --max-memory {row['max_memory']:<6} {row['tiles']:>6} tiles of {row['tile']}"
        f"  block {row['block']} × {row['threads']}  peak {row['peak_mib']:>6} MiB"
        f"  projected {row['projected_mib']:>6.0f} MiB  blocks {row['seconds']['blocks']:.0f} s",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32768, 65536])
    parser.add_argument("--tissue", type=float, default=0.1)
    parser.add_argument("--max-memory", nargs="+", default=["2GB"], metavar="SIZE")
    parser.add_argument("--model", default="bcss-demo")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    weights = (find_model(arguments.model) / WEIGHTS_NAME).stat().st_size
    result = begin(model=arguments.model, model_mib=weights / MIB, tissue=arguments.tissue)
    more = [word for setting in arguments.settings for word in ("--set", setting)]
    rows = []
    for size in arguments.sizes:
        with tempfile.TemporaryDirectory() as folder:
            spec = SlideSpec(size=Size(size, size), tissue=arguments.tissue)
            slide = make_slide(Path(folder) / "made.svs", spec)
            for ceiling in arguments.max_memory:
                limit = [] if ceiling == NO_CEILING else ["--max-memory", ceiling]
                measured = measure(slide, arguments.model, [*limit, *more])
                rows.append({"size": size, "max_memory": ceiling, **measured})
                print_row(rows[-1])
    write_result(arguments.output, result | {"rows": rows})


if __name__ == "__main__":
    main()
