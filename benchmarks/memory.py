"""Peak memory of whole runs against slide size, each in a process of its own, beside the plan's projection.

    python benchmarks/memory.py [--sizes 8192 65536] [--tissue 0.1 0.01] [--max-memory 2GB] [--output FILE]
    python benchmarks/memory.py --networks bcss-demo … [--device cpu] [--tiles 512] [--output FILE]

The first makes pyramidal JPEG slides at 0.25 µm/px in a temporary folder and runs `wsi-seg run` on them, with
the benchmarks' U-Net (ResNet-34, 21 classes, tiles of 512², no overlap) unless `--model` names another. It may
be done in pieces: rows that the output holds already, of other sizes and the same settings, are kept.

The second measures what the projection is made of: the process with all that a run imports, and one forward
pass per input pixel. It needs Linux.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench_model import benchmark_model, default_work
from machine import begin, write_result

from wsi_seg.geometry import Size
from wsi_seg.testing.made_slide import SlideSpec, make_slide

MIB = 2**20
CODE = "from wsi_seg.cli import main; main()"

# Imports what a run does and shares the heap as it does; then the network, and three forward passes of which
# the last result is held, as one is while the next is computed.
NETWORK_CODE = """
import gc, json, re, sys
from wsi_seg.memory import share_heap
share_heap()
import numpy, wsi_seg.cli.progress, wsi_seg.config, wsi_seg.readers.openslide, wsi_seg.readers.tiled_tiff
import wsi_seg.run
from wsi_seg.card import read_card
from wsi_seg.models.predictor import load_predictor
from wsi_seg.models.registry import find_model
def kept(key):
    return int(re.search(key + r":\\s+(\\d+)", open("/proc/self/status").read())[1]) * 1024
model, device, precision, tile, batch = sys.argv[1], sys.argv[2], sys.argv[3], int(sys.argv[4]), int(sys.argv[5])
folder = find_model(model)
predictor = load_predictor(model, device, precision)
if device == "cpu":
    predictor(numpy.zeros((1, 64, 64, 3), numpy.uint8))  # loads the last libraries
gc.collect()
loaded = kept("VmRSS")
open("/proc/self/clear_refs", "w").write("5")  # forgets the peak
tiles = numpy.random.default_rng(0).integers(0, 256, (batch, tile, tile, 3), numpy.uint8)
for _ in range(3):
    result = predictor(tiles)
pixels = batch * tile * tile
peak, maps = (kept("VmHWM") - loaded) / pixels, 3 * 4 * len(read_card(folder).codes)
print(json.dumps({
    "model": read_card(folder).name, "encoder": read_card(folder).encoder,
    "architecture": read_card(folder).architecture, "device": device, "precision": predictor.precision,
    "tile": tile, "batch": batch, "weights_mib": (folder / "model.safetensors").stat().st_size / 2**20,
    "loaded_mib": loaded / 2**20, "bytes_per_pixel": peak, "of_these_activations": peak - maps,
}))
"""


def run_json(command: Sequence[str | Path]) -> Any:
    done = subprocess.run([sys.executable, "-c", *command], stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout)


def measure_run(size: int, tissue: float, model: str, more: list[str]) -> dict[str, Any]:
    """Run once on a made slide of `size` × `size` pixels."""
    with tempfile.TemporaryDirectory() as folder:
        slide = make_slide(Path(folder) / "made.svs", SlideSpec(size=Size(size, size), tissue=tissue))
        command = [CODE, "run", slide, "-o", Path(folder) / "out", "--model", model, "--json", *more]
        plan = run_json([*command, "--dry-run"])[0]
        summary = run_json(command)[0]["summary"]
    return {
        "size": size,
        "tissue": tissue,
        "tiles": summary["tiles"],
        "peak_mib": summary["peak_memory_mib"],
        "projected_mib": round(plan["projected_memory_bytes"] / MIB),
        "tile": plan["stitch"]["grid"]["tile"],
        "block": plan["layout"]["block"],
        "batch": plan["batch"],
        "workers": plan["workers"],
        "device": plan["device"],
        "precision": plan["precision"],
        "seconds": summary["seconds"],
        "worker_seconds": summary["worker_seconds"],
    }


def measure_runs(given: argparse.Namespace) -> None:
    model = given.model or str(benchmark_model(given.work))
    more = [word for setting in given.settings for word in ("--set", setting)]
    more += ["--max-memory", given.max_memory] if given.max_memory else []
    facts = {"model": given.model or "benchmark", "max_memory": given.max_memory, "set": given.settings}
    result = begin(**facts)
    rows = {row["size"]: row for row in _rows_before(given.output, facts)}
    for number, size in enumerate(given.sizes):
        tissue = given.tissue[min(number, len(given.tissue) - 1)]
        row = rows[size] = measure_run(size, tissue, model, more)
        print(
            f"{size:>7} px  {row['tiles']:>6} tiles  peak {row['peak_mib']:>6} MiB"
            f"  projected {row['projected_mib']:>6} MiB  blocks {row['seconds']['blocks']:.0f} s",
            flush=True,
        )
        result["rows"] = [rows[size] for size in sorted(rows)]
        peaks = [row["peak_mib"] for row in result["rows"]]
        result["largest_peak_over_smallest"] = max(peaks) / min(peaks)
        write_result(given.output, result)
    print(f"largest peak over smallest {result['largest_peak_over_smallest']:.3f}")


def _rows_before(path: Path | None, facts: dict[str, Any]) -> list[dict[str, Any]]:
    """Return the rows of an output that was begun with the same settings; none where there is no such file."""
    if path is None or not path.exists():
        return []
    before = json.loads(path.read_text(encoding="utf-8"))
    if {key: before.get(key) for key in facts} != facts:
        raise SystemExit(f"{path}: holds runs of another model or other settings; name another --output")
    rows: list[dict[str, Any]] = before["rows"]
    return rows


def measure_networks(given: argparse.Namespace) -> None:
    result: dict[str, Any] = {**begin(), "rows": []}
    for model in given.networks:
        for tile in given.tiles:
            facts = [model, given.device, given.precision, str(tile), str(given.batch)]
            row = run_json([NETWORK_CODE, *facts])
            result["rows"].append(row)
            print(
                f"{row['architecture']}, {row['encoder']}, {row['device']}, {row['precision']}, {tile}²: loaded "
                f"{row['loaded_mib']:.0f} MiB (weights {row['weights_mib']:.0f}), forward "
                f"{row['bytes_per_pixel']:.0f} bytes a pixel, {row['of_these_activations']:.0f} without maps",
                flush=True,
            )
            write_result(given.output, result)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--sizes", type=int, nargs="+", default=[8192, 65536])
    parser.add_argument("--tissue", type=float, nargs="+", default=[0.1, 0.01], help="share, of each size")
    parser.add_argument("--max-memory", help="as for wsi-seg run")
    parser.add_argument("--model", help="another model than the benchmarks' own")
    parser.add_argument("--set", action="append", default=[], dest="settings")
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    parser.add_argument("--networks", nargs="+", metavar="MODEL", help="measure these models alone, no runs")
    parser.add_argument("--tiles", type=int, nargs="+", default=[512])
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", default="auto")
    parser.add_argument("--output", type=Path)
    given = parser.parse_args()
    if given.networks:
        measure_networks(given)
    else:
        measure_runs(given)


if __name__ == "__main__":
    main()
