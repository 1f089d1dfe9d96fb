"""How many slides an hour on 1 to 64 GPUs: a simulation fed by what real runs took, and checked against some.

    python benchmarks/scaling.py RESULTS/SLIDE... [--forward-ms 4] [--slides 300] [--output FILE]
    python benchmarks/scaling.py --check [--rounds 3] [--output FILE]

The first form takes finished results of `wsi-seg run` and simulates a batch of such slides. With
`--check` the script makes two slides, runs them in one process and with two worker processes, and compares
that with the simulation of both, which is fed by the run in one process; then it goes on with these runs
as the first form does. `docs/scaling.md` says what is measured and what assumed.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from machine import begin, describe_machine, write_result
from scaling_model import BlockWork, Cluster, Work, simulate

from tests.made.slides import SlideSpec, make_slide
from wsi_seg.core.geometry import Size
from wsi_seg.results.bottleneck import SERIAL

SIDE = 512
STORED_TILE = 256**2
# A file of the maps is created, written and renamed.
REQUESTS_A_FILE = 3
GPUS_A_NODE = 8
WORKERS = (1, 2, 4, 8, 16, 32, 64)
# Of the check: worker processes by name, and threads in each.
PROCESSES = {"one_process": 1, "two_workers": 2}
THREADS = 2
# Assumed, as docs/scaling.md says; every one is an option.
NODE = {"threads": 3, "cores": 64}
SHARED = {"filesystem_mb_s": 2000.0, "filesystem_requests_s": 20_000.0, "scheduler_tasks_s": 500.0}
DRIVER = {"driver_threads": 8}
# Of a slide, besides its blocks.
SERIAL_WORK = ("plan", "pyramids", "trace", "groups", "overview")


def measured(results: Sequence[Path]) -> dict[str, Any]:
    """Return what the blocks and slides of finished results took, in the mean."""
    runs = [_one(folder) for folder in results]
    blocks = sum(run["blocks"] for run in runs)
    total = {key: sum(run[key] for run in runs) for key in runs[0]}
    per_block = {key: total[key] / blocks for key in ("tiles", *BlockWork.__dataclass_fields__)}
    per_slide = {key: total[key] / len(runs) for key in (*SERIAL_WORK, "blocks", "tile_side")}
    return {"per_block": per_block, **per_slide}


def _one(folder: Path) -> dict[str, float]:
    summary, manifest = (
        json.loads((folder / f"{name}.json").read_text(encoding="utf-8")) for name in ("summary", "manifest")
    )
    busy, wall = summary["worker_seconds"], summary["seconds"]
    if not busy.get("predict"):
        raise SystemExit(f"{folder}: nothing was predicted in its run, so there is nothing to learn from it")
    slide = Path(manifest["slide"]["path"])
    if not slide.is_file():
        raise SystemExit(f"{slide}: the slide of {folder} is not there, and its size tells how much is read")
    files = [path for path in (folder / "maps.zarr").rglob("*") if path.is_file()]
    levels = [level["size"]["width"] * level["size"]["height"] for level in manifest["slide"]["levels"]]
    pixels = levels[manifest["plan"]["level"]]
    traced = manifest["settings"]["regions"]
    groups = max(1, len(traced["groups"] or ()) + len(traced["classes"]))
    return {
        "blocks": summary["blocks"],
        "tiles": summary["tiles"],
        "tile_side": manifest["plan"]["stitch"]["grid"]["tile"],
        "read": busy["read"] + busy["resample"],
        "predict": busy["predict"] / manifest["plan"].get("passes", 1),
        "write": busy["stitch"] + busy["write"] + busy.get("contours", 0.0),
        # As if the level that is read were read whole, once.
        "read_mb": slide.stat().st_size / 1e6 * pixels / sum(levels),
        "read_requests": pixels / STORED_TILE,
        "write_mb": sum(p.stat().st_size for p in files) / 1e6,
        "write_requests": REQUESTS_A_FILE * len(files),
        "plan": wall["plan"],
        # As many threads at a time as blocks have built them.
        "pyramids": wall["pyramids"] * manifest["plan"]["threads"],
        # Each group is a job of its own, and as many go at a time as there are threads.
        "trace": wall["polygons"] * min(groups, manifest["plan"]["threads"]),
        "groups": groups,
        "overview": wall["overview"],
    }


def work_of(facts: dict[str, Any], slides: int, startup: float) -> Work:
    """Return the measured slides as work for the simulation, as often as asked."""
    block = BlockWork(**{key: facts["per_block"][key] for key in BlockWork.__dataclass_fields__})
    serial = {key: facts[key] for key in SERIAL_WORK} | {"groups": round(facts["groups"])}
    return Work(slides, round(facts["blocks"]), block, **serial, startup=startup)


def on_gpus(work: Work, facts: dict[str, Any], forward_ms: float) -> Work:
    """Return the work with the device's time replaced by that of a GPU, which is assumed."""
    seconds = facts["per_block"]["tiles"] * forward_ms / 1000 * (facts["tile_side"] / SIDE) ** 2
    return replace(work, block=replace(work.block, predict=seconds))


def predictions(work: Work, given: argparse.Namespace) -> list[dict[str, Any]]:
    """Return slides per hour by workers and scenario, and print them as a table."""
    rows = []
    print("| GPUs | nodes | no limits | one slide at a time | shared limits | of it: devices busy | tail |")
    print("|---|---|---|---|---|---|---|")
    for workers in WORKERS:
        nodes = -(-workers // GPUS_A_NODE)
        node = Cluster(workers, nodes, threads=given.threads, cores=given.cores)
        limits = {key: getattr(given, key) for key in SHARED}
        flight = workers + 2
        scenarios = {
            "no limits": replace(node, cores=float("inf")),
            "one slide at a time": replace(node, slides_in_flight=1, driver_threads=1),
            "shared limits": replace(
                node, slides_in_flight=flight, driver_threads=given.driver_threads, **limits
            ),
        }
        for name, cluster in scenarios.items():
            seen = simulate(work, cluster)
            rows.append({
                "gpus": workers, "nodes": nodes, "scenario": name, "slides_per_hour": seen.slides_per_hour,
                "device_share": seen.device_share, "tail_share": seen.tail_share,
                "filesystem_share": seen.filesystem_busy / seen.seconds,
                "scheduler_share": seen.scheduler_busy / seen.seconds,
            })  # fmt: skip
        free, alone, shared = rows[-3:]
        print(
            f"| {workers} | {nodes} | {free['slides_per_hour']:.0f} | {alone['slides_per_hour']:.0f} | "
            f"{shared['slides_per_hour']:.0f} | {shared['device_share']:.0%} | {shared['tail_share']:.0%} |",
            flush=True,
        )
    return rows


def check(given: argparse.Namespace, folder: Path) -> tuple[dict[str, Any], dict[str, Any]]:
    """Run two slides in one process and in two; return the comparison and what the one process measured."""
    spec = SlideSpec(size=Size(given.size, given.size), tissue=0.5)
    slides = [make_slide(folder / f"{name}.svs", replace(spec, seed=seed)) for seed, name in enumerate("ab")]
    small = make_slide(folder / "small.svs", replace(spec, size=Size(2 * SIDE, 2 * SIDE)))
    _wall(folder / "warm", [small], given, 1)  # imports, disk cache, and the speed of the network alone
    # As `wsi-seg run` does two slides: both at a time, on shared workers.
    cluster = Cluster(threads=THREADS, cores=os.cpu_count() or 1, device_takes_core=True,
                      slides_in_flight=2, driver_threads=2)  # fmt: skip
    rounds = []
    for number in range(given.rounds):
        load = describe_machine()["load_average"]
        found: dict[str, dict[str, float]] = {}
        for name, workers in PROCESSES.items():
            startup = _startup(folder / f"{name}{number}" / "small", small, given, workers)
            wall = _wall(folder / f"{name}{number}" / "out", slides, given, workers)
            found[name] = {"measured": wall, "startup_seconds": startup}
        facts = measured([folder / f"one_process{number}" / "out" / slide.stem for slide in slides])
        for name, workers in PROCESSES.items():
            work = work_of(facts, len(slides), found[name]["startup_seconds"])
            found[name]["simulated"] = simulate(work, replace(cluster, workers=workers)).seconds
        rounds.append({"load_average_before": load, **found, "facts": facts})
        one, two = found.values()
        print(
            f"round {number + 1}: one process {one['measured']:.1f} s, simulated {one['simulated']:.1f} s; "
            f"two workers {two['measured']:.1f} s, simulated {two['simulated']:.1f} s; load before {load}",
            flush=True,
        )
    return _compared(rounds), rounds[-1]["facts"]


def _compared(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    errors = {
        name: statistics.median(r[name]["simulated"] / r[name]["measured"] - 1 for r in rounds)
        for name in PROCESSES
    }
    speedup = {
        how: statistics.median(r["one_process"][how] / r["two_workers"][how] for r in rounds)
        for how in ("measured", "simulated")
    }
    print(
        f"simulated against measured: one process {errors['one_process']:+.1%}, "
        f"two workers {errors['two_workers']:+.1%}; "
        f"two are {speedup['measured']:.2f} times one, simulated {speedup['simulated']:.2f}"
    )
    return {"median_error": errors, "speedup": speedup, "rounds": rounds}


def _startup(out: Path, small: Path, given: argparse.Namespace, workers: int) -> float:
    """Return the seconds of a run on a slide of one block beyond those of its stages: imports, weights."""
    wall = _wall(out, [small], given, workers)
    summary = json.loads((out / small.stem / "summary.json").read_text(encoding="utf-8"))
    # A run without other formats has no stage "exports".
    serial = sum(summary["seconds"].get(stage, 0.0) for stage in SERIAL)
    return wall - serial - sum(summary["worker_seconds"].values())


def _wall(out: Path, slides: Sequence[Path], given: argparse.Namespace, workers: int) -> float:
    """Return the seconds of a run of the command line on slides."""
    settings = ["--device", "cpu", "--threads", str(THREADS), "--set", f"tile={SIDE}", "--set", "overlap=0"]
    command = [
        sys.executable,
        "-m",
        "wsi_seg.cli",
        "run",
        *map(str, slides),
        "-o",
        str(out),
        "-m",
        given.model,
    ]
    alone = {"OMP_NUM_THREADS": "1", "XDG_CACHE_HOME": str(given.cache)}
    start = time.perf_counter()
    done = subprocess.run(
        [*command, "--workers", str(workers), *settings],
        env={**os.environ, **alone},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    if done.returncode:
        raise SystemExit(f"wsi-seg run failed with exit code {done.returncode}:\n{done.stderr}")
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("results", type=Path, nargs="*", help="results folders of slides")
    parser.add_argument("--check", action="store_true", help="run slides in one process and in two first")
    parser.add_argument("--rounds", type=int, default=1, help="of the check")
    parser.add_argument("--size", type=int, default=12288, help="side of the check's slides in pixels")
    parser.add_argument("--model", default="bcss-demo", help="of the check")
    parser.add_argument("--forward-ms", type=float, default=4.0, help="of a GPU for a tile of 512²; assumed")
    parser.add_argument("--slides", type=int, default=300)
    parser.add_argument("--blocks", type=int, default=180, help="with tissue, of a slide")
    parser.add_argument("--spread", type=float, default=0.4, help="standard deviation over mean")
    parser.add_argument("--startup", type=float, default=10.0, help="seconds of a worker")
    parser.add_argument("--output", type=Path)
    for name, value in {**NODE, **SHARED, **DRIVER}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=type(value), default=value, help="assumed")
    given = parser.parse_args()
    if bool(given.results) == given.check:
        parser.error("name results folders, or pass --check")
    result = begin(model=given.model)
    with tempfile.TemporaryDirectory() as folder:
        given.cache = Path(folder) / "cache"
        compared, facts = check(given, Path(folder)) if given.check else (None, measured(given.results))
    grown = given.blocks / facts["blocks"]
    work = on_gpus(work_of(facts, given.slides, given.startup), facts, given.forward_ms)
    # Pyramids and polygons grow with the blocks; so does the overview at most.
    work = replace(
        work,
        blocks=given.blocks,
        pyramids=work.pyramids * grown,
        trace=work.trace * grown,
        overview=work.overview * grown,
        spread=given.spread,
    )
    assumed = {
        key: getattr(given, key) for key in ("forward_ms", "startup", "spread", *NODE, *SHARED, *DRIVER)
    }
    rows = predictions(work, given)
    write_result(
        given.output,
        {
            **result,
            "check": compared,
            "measured": facts,
            "assumed": assumed,
            "work": asdict(work),
            "rows": rows,
        },
    )


if __name__ == "__main__":
    main()
