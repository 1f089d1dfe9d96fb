"""Peak memory of whole runs against slide size, each in a process of its own, beside the plan's projection.

    python benchmarks/memory.py [--sizes 8192 32768] [--tissue 0.1] [--model bcss-demo]

Makes pyramidal JPEG slides at 0.25 µm/px in a temporary folder and runs `wsi-seg run` on them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from wsi_seg.geometry import Size
from wsi_seg.testing.made_slide import SlideSpec, make_slide

MIB = 2**20


def command(slide: Path, out: Path, model: str, *more: str) -> list[str]:
    code = "from wsi_seg.cli import main; main()"
    return [sys.executable, "-c", code, "run", str(slide), "-o", str(out), "--model", model, "--json", *more]


def measure(size: int, tissue: float, model: str, more: list[str]) -> dict[str, Any]:
    """Run once on a made slide of `size` × `size` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        slide = make_slide(Path(folder) / "made.svs", SlideSpec(size=Size(size, size), tissue=tissue))
        out = Path(folder) / "out"
        plan = json.loads(subprocess.run(
            command(slide, out, model, "--dry-run", *more), check=True, capture_output=True, text=True
        ).stdout)[0]  # fmt: skip
        done = json.loads(subprocess.run(
            command(slide, out, model, *more), check=True, capture_output=True, text=True
        ).stdout)[0]  # fmt: skip
    summary = done["summary"]
    return {
        "size": size,
        "tiles": summary["tiles"],
        "peak_mib": summary["peak_memory_mib"],
        "projected_mib": round(plan["projected_memory_bytes"] / MIB),
        "seconds": summary["seconds"],
        "worker_seconds": summary["worker_seconds"],
        "precision": plan["precision"],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 32768])
    parser.add_argument("--tissue", type=float, default=0.1)
    parser.add_argument("--model", default="bcss-demo")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    more = [word for setting in arguments.settings for word in ("--set", setting)]
    rows = []
    for size in arguments.sizes:
        rows.append(measure(size, arguments.tissue, arguments.model, more))
        row = rows[-1]
        print(
            f"{size:>7} px  {row['tiles']:>6} tiles  peak {row['peak_mib']:>6} MiB"
            f"  projected {row['projected_mib']:>6} MiB  blocks {row['seconds']['blocks']:.0f} s",
            flush=True,
        )
    machine = f"{platform.machine()}, {os.cpu_count()} cores"
    command = "python benchmarks/memory.py " + shlex.join(sys.argv[1:])
    result = {"machine": machine, "python": platform.python_version(), "command": command, "rows": rows}
    result["ratio_of_peaks"] = round(rows[-1]["peak_mib"] / rows[0]["peak_mib"], 3)
    print(f"ratio of peaks {result['ratio_of_peaks']}")
    if arguments.output:
        arguments.output.write_text(json.dumps(result, indent=2) + "\n")


if __name__ == "__main__":
    main()
