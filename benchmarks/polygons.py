"""Polygons: pixels traced per second, and a whole export of a map with very many regions.

    python benchmarks/polygons.py [--side 30000] [--rounds 3] [--before FOLDER] [--output FILE]

Traces the masks of $WSI_SEG_DATA/bcss_masks (real outlines; left out where they are absent) from memory,
and exports (trace, measure, simplify, write) a made map from disk, each in a process of its own. FOLDER is
a checkout of another version, measured in turn with this one: `git worktree add FOLDER REVISION`. A made map
holds about 120 regions for each million pixels. What `compare.py` compares is repeated: tracing next to
SciPy's labeling of the same mask, and the export of a smaller map next to a fixed piece of work.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
from machine import YARDSTICK, begin, paired, write_result, yardstick
from PIL import Image
from scipy import ndimage

from wsi_seg.core.classes import BCSS
from wsi_seg.core.geometry import Size
from wsi_seg.maps.maps import Maps, create_maps
from wsi_seg.planning.grid import cut_blocks
from wsi_seg.planning.map_layout import MapLayout

REPOSITORY = Path(__file__).resolve().parent.parent
DATA = Path(os.environ.get("WSI_SEG_DATA", REPOSITORY.parent / "shared" / "data"))
MIB = 2**20

# Both run with this version and with others, so they use what all have.
TRACE = """
import json, sys, time
import numpy as np
from scipy import ndimage
from wsi_seg.regions.contours import trace_contours
result = {}
for name, field in np.load(sys.argv[1]).items():
    seconds, others, threshold = [], [], 1 if field.max() == 1 else 128
    for _ in range(3):
        start = time.process_time()
        polygons = trace_contours(field, threshold)
        seconds.append(time.process_time() - start)
        ndimage.label(field >= threshold)
        others.append(time.process_time() - start - seconds[-1])
    result[name] = {"mpx_per_s": field.size / 1e6 / min(seconds), "polygons": len(polygons),
                    "seconds": list(zip(seconds, others))}
print(json.dumps(result))
"""
EXPORT = """
import json, sys, time
from pathlib import Path
from wsi_seg.regions import polygons
from wsi_seg.core.classes import BCSS_GROUPS
from wsi_seg.exporters.geojson import write_geojson
from wsi_seg.core.geometry import Scale
from wsi_seg.maps.maps import Maps
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.slides.slide import Level, SlideInfo, map_frame
maps = Maps.open(Path(sys.argv[1]))
size = maps.layout.map_size
slide = SlideInfo("made", "made", "image", None, size, (Level(size, Scale(1, 1)),), Scale(0.5, 0.5), "image",
                  None, "00")
settings = polygons.TraceSettings(min_area_um2=0, min_hole_um2=0, source="labels")
trace = getattr(polygons, "iter_regions", polygons.trace)
options = {"compress_large": True} if hasattr(polygons, "iter_regions") else {}
path = Path(sys.argv[1]).with_suffix(".geojson")
before, start, cpu = peak_memory_bytes(), time.perf_counter(), time.process_time()
frame = map_frame(slide, 0.5)
done = write_geojson(trace(maps, BCSS_GROUPS[:1], settings), path, slide=slide, frame=frame, **options)
print(json.dumps({"regions": done.count, "seconds": time.perf_counter() - start,
                  "cpu_seconds": time.process_time() - cpu, "peak_mib": peak_memory_bytes() / 2**20,
                  "peak_before_mib": before / 2**20, "file": done.path.name,
                  "file_mib": done.path.stat().st_size / 2**20}))
"""


def real_fields(path: Path) -> None:
    """Write eight masks side by side as tumor, stroma and as a smooth probability of tumor."""
    paths = sorted((DATA / "bcss_masks").glob("*.png"))[:8]
    masks = [np.asarray(Image.open(path))[:4096, :4096] for path in paths]
    canvas = np.zeros((8192, 16_384), np.uint8)
    for i, mask in enumerate(masks):
        y, x = divmod(i, 4)
        canvas[y * 4096 : y * 4096 + mask.shape[0], x * 4096 : x * 4096 + mask.shape[1]] = mask
    tumor = (canvas == 1).astype(np.uint8)
    np.savez(path, tumor_labels=tumor, stroma_labels=(canvas == 2).astype(np.uint8),
             tumor_probability=ndimage.gaussian_filter(tumor * np.uint8(255), 4))  # fmt: skip


def made_map(path: Path, side: int) -> Path:
    """Write maps of `side` × `side` pixels, shard by shard, from a texture of blobs that repeats itself."""
    noise = ndimage.gaussian_filter(np.random.default_rng(1).random((3000, 3000)), 11, mode="wrap")
    texture = np.where(noise > np.quantile(noise, 0.7), 1, 2).astype(np.uint8)
    layout = MapLayout(path.stem, Size(side, side), 0.5, 2048, 4, "uint8", BCSS[:6])
    create_maps(path, layout)
    maps = Maps.open(path)
    for block in cut_blocks(layout.map_size, 2048):
        box = block.box
        labels = texture[np.ix_(np.arange(box.y0, box.y1) % 3000, np.arange(box.x0, box.x1) % 3000)]
        coarse = labels[::4, ::4]
        probabilities = np.stack([(coarse == c.code) * np.uint8(255) for c in layout.classes])
        maps.write_block(block, labels=labels, tissue=labels > 0, probabilities=probabilities)
    return path


def alone(code: str, argument: Path, tree: Path) -> Any:
    """Run `code` in a process of its own, with the package in `tree` and one thread for arithmetic."""
    environment = {**os.environ, "PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", code, str(argument)], cwd=tree, env=environment, check=True,
                          capture_output=True, text=True)  # fmt: skip
    return json.loads(done.stdout)


def repeated_export(store: Path, rounds: int) -> list[tuple[float, float]]:
    """Return CPU seconds of exports, each with those of the yardstick around it."""
    pairs, before = [], yardstick()
    for _ in range(rounds):
        seconds = alone(EXPORT, store, REPOSITORY)["cpu_seconds"]
        after = yardstick()
        pairs.append((seconds, (before + after) / 2))
        before = after
    return pairs


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--rounds", type=int, default=3, help="exports of a smaller map, for comparison")
    parser.add_argument("--repeated-side", type=int, default=6000, help="side of that map")
    parser.add_argument("--before", type=Path, help="checkout of another version")
    parser.add_argument("--before-side", type=int, default=6000, help="side of the map that both export")
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    trees = {"now": REPOSITORY} | ({"before": arguments.before.resolve()} if arguments.before else {})
    result = begin(side=arguments.side) | {"pairs": []}
    with tempfile.TemporaryDirectory() as folder:
        if (DATA / "bcss_masks").is_dir():
            fields = Path(folder) / "fields.npz"
            real_fields(fields)
            result["tracing"] = {name: alone(TRACE, fields, tree) for name, tree in trees.items()}
            for field, row in result["tracing"]["now"].items():
                result["pairs"].append(paired(f"trace {field}", "scipy.ndimage.label", row.pop("seconds")))
            for name, rows in result["tracing"].items():
                for field, row in rows.items():
                    print(
                        f"{name:>7}  {field:18} {row['mpx_per_s']:6.0f} Mpx/s {row['polygons']:7} polygons",
                        flush=True,
                    )
        for side in dict.fromkeys((*([arguments.before_side] if arguments.before else []), arguments.side)):
            store = made_map(Path(folder) / f"{side}.zarr", side)
            used = trees if arguments.before and side == arguments.before_side else {"now": REPOSITORY}
            result[f"export_{side}"] = {n: alone(EXPORT, store, tree) for n, tree in used.items()}
            for name, row in result[f"export_{side}"].items():
                print(
                    f"{name:>7}  {side}² {row['regions']:7} regions  {row['seconds']:6.1f} s"
                    f" ({row['cpu_seconds']:.1f} s of one core)  peak {row['peak_mib']:.0f} MiB"
                    f"  {row['file']} {row['file_mib']:.1f} MiB",
                    flush=True,
                )
        store = made_map(Path(folder) / "repeated.zarr", arguments.repeated_side)
        exports = repeated_export(store, arguments.rounds)
        result["pairs"].append(paired(f"export of a {arguments.repeated_side}² map", YARDSTICK, exports))
    write_result(arguments.output, result)


if __name__ == "__main__":
    main()
