"""Exports: time, memory and size of every format, of a made map with very many regions.

    python benchmarks/exports.py [FORMAT …] [--side 30000] [--mpp 4] [--output FILE]

Each format is written in a process of its own, with all that it loads. The map is that of `polygons.py`: at a
side of 30,000 it holds some 107,000 regions. `--mpp` is for formats that take one.
"""

from __future__ import annotations

import argparse
import tempfile
from pathlib import Path

from machine import begin, write_result
from polygons import REPOSITORY, alone, made_map

from wsi_seg.exporters.table import FORMATS
from wsi_seg.maps.maps import Maps

EXPORT = """
import json, sys, time
from pathlib import Path
start, cpu = time.perf_counter(), time.process_time()
from wsi_seg.core.card import ModelCard
from wsi_seg.core.geometry import Scale
from wsi_seg.core.system import peak_memory_bytes
from wsi_seg.exporters.source import ExportSource
from wsi_seg.exporters.table import FORMATS
from wsi_seg.maps.maps import Maps
from wsi_seg.regions.settings import RegionSettings, TraceSettings
from wsi_seg.slides.slide import Level, SlideInfo, map_frame
store, name, mpp = sys.argv[1].split(",")
maps, form = Maps.open(Path(store)), FORMATS[name]
size = maps.layout.map_size
slide = SlideInfo("made", "made", "image", "none", size, (Level(size, Scale(1, 1)),), Scale(0.5, 0.5),
                  "image", None, "00")
trace = TraceSettings(min_area_um2=0, min_hole_um2=0, source="labels")
source = ExportSource(slide, map_frame(slide, 0.5), ModelCard(name="made", notice="made"), maps,
                      RegionSettings(groups=("tumor",), trace=trace), float(mpp) if form.takes_mpp else None)
done = form.load()(source, Path(store).with_name("made" + form.ending))
paths = [done.path, *done.path.rglob("*")] if done.path.is_dir() else [done.path]
print(json.dumps({"content": done.content, "seconds": time.perf_counter() - start,
                  "cpu_seconds": time.process_time() - cpu, "peak_mib": peak_memory_bytes() / 2**20,
                  "mib": sum(path.stat().st_size for path in paths) / 2**20}))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("formats", nargs="*", choices=[*FORMATS, []], help="all by default")
    parser.add_argument("--side", type=int, default=30_000)
    parser.add_argument("--mpp", type=float, default=4.0)
    parser.add_argument("--output", type=Path)
    arguments = parser.parse_args()
    result = begin(side=arguments.side, mpp=arguments.mpp)
    with tempfile.TemporaryDirectory() as folder:
        store = made_map(Path(folder) / "maps.zarr", arguments.side)
        maps = Maps.open(store)
        for level in range(maps.layout.block_levels, maps.level_count):
            for shard in maps.pyramid_shards(level):
                maps.build_shard(shard)
        for name in arguments.formats or FORMATS:
            row = alone(EXPORT, Path(f"{store},{name},{arguments.mpp}"), REPOSITORY)
            result[name] = row
            print(
                f"{name:14} {row['seconds']:6.1f} s ({row['cpu_seconds']:.1f} s of one core)  peak"
                f" {row['peak_mib']:.0f} MiB  {row['mib']:.1f} MiB  {row['content']}",
                flush=True,
            )
    write_result(arguments.output, result)


if __name__ == "__main__":
    main()
