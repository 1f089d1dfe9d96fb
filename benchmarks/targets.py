"""Targets of the benchmarks, and whether the figures meet them; each function takes one part's result."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import Any

Result = Mapping[str, Any]

WALL_TO_NETWORK = 1.2
EFFICIENCY = 0.8
FASTER, SMALLER, SAME_LABELS = 12.0, 8.0, 0.99
TO_OPENSLIDE, TO_TIFFSLIDE = 5.0, 2.0
FLAT = 1.1
CEILING = "2GB"
SLOW_TO_USUAL = 1.1
FLIGHT_BLOCKS = 500
RESUME_SECONDS, RESUME_SLIDES = 10.0, 1000
HELP_SECONDS, FIRST_TILE_SECONDS = 0.3, 5.0
MPX_PER_SECOND, EXPORT_SECONDS, REGIONS = 50.0, 60.0, 100_000


@dataclass(frozen=True)
class Target:
    """One thing to show."""

    part: str
    what: str
    asked: str
    found: str
    met: bool | None
    """None: it was not measured."""


def missing(part: str, what: str, asked: str) -> Target:
    return Target(part, what, asked, "not measured", None)


def end_to_end(result: Result) -> list[Target]:
    ratio = result["median_ratio"]
    return [
        Target("end_to_end", "time of a whole run in that of the network alone", f"≤ {WALL_TO_NETWORK}",
               f"{ratio:.2f}", ratio <= WALL_TO_NETWORK)
    ]  # fmt: skip


def throughput_gpu(result: Result) -> list[Target]:
    best = max(result["rows"], key=lambda row: row["efficiency"])
    slide, what = result["slide"], "speed of a folder of slides in that of the network alone, on a GPU"
    where = f"{result['slides']} of {slide['size']}², {best['workers']} workers"
    return [
        Target("throughput_gpu", what, f"≥ {EFFICIENCY:.0%}", f"{best['efficiency']:.0%} ({where})",
               best["efficiency"] >= EFFICIENCY)
    ]  # fmt: skip


def peers(result: Result) -> list[Target]:
    """TIAToolbox is judged as it comes, or with all in memory where it ran out of memory as it comes."""
    ratios = result["median_ratios_to"]["wsi_seg, default"]
    ways = {"ours": ratios, "ours with OpenVINO": result["median_ratios_to"].get("wsi_seg, OpenVINO")}
    name = next((one for one in ("TIAToolbox", "TIAToolbox, all in memory") if one in ratios), None)
    least = min(row["agreement"] for rows in result["rounds"] for row in rows.values() if "agreement" in row)
    labels = Target("peers", "labels that are the same, the least of all programs", f"≥ {SAME_LABELS:.0%}",
                    f"{least:.2%}", least >= SAME_LABELS)  # fmt: skip
    goals = (("seconds", "time", FASTER), ("peak_mib", "memory", SMALLER))
    if name is None:
        return [
            labels,
            *(missing("peers", f"{what} of TIAToolbox in ours", f"≥ {g:g}") for _, what, g in goals),
        ]
    return [
        labels,
        *(
            Target("peers", f"{what} of {name} in {ours}", f"≥ {goal:g}", f"{way[name][key]:.1f}",
                   way[name][key] >= goal)
            for ours, way in ways.items()
            if way is not None
            for key, what, goal in goals
        ),
    ]  # fmt: skip


def readers(result: Result) -> list[Target]:
    def least(rows: Iterable[Result], other: str) -> float | None:
        return min((row["times_as_fast_per_core"][other] for row in rows), default=None)

    def target(what: str, rows: list[Result], other: str, goal: float, strict: bool = False) -> Target:
        value, asked = least(rows, other), f"{'>' if strict else '≥'} {goal:g}"
        what = f"{what}, times as fast as {other}, the least"
        if value is None:
            return missing("readers", what, asked)
        return Target("readers", what, asked, f"{value:.2f}", value > goal if strict else value >= goal)

    jpeg = [row for row in result["rows"] if row["slide"] != "jpeg2000"]
    level0 = [row for row in jpeg if row["task"].startswith("level 0")]
    grid = [row for row in level0 if "on the grid" in row["task"]]
    anywhere = [row for row in level0 if "on the grid" not in row["task"]]
    coarser = [row for row in jpeg if row["task"].startswith("0.5")]
    others = (("openslide-python", TO_OPENSLIDE), ("tiffslide", TO_TIFFSLIDE))
    return [
        *(target("JPEG on the grid of stored tiles", grid, name, goal) for name, goal in others),
        *(target("JPEG anywhere", anywhere, name, goal) for name, goal in others),
        *(target("JPEG at 0.5 from 0.25 µm/px", coarser, name, 1.0, strict=True) for name, _ in others),
        target("JPEG 2000", [r for r in result["rows"] if r["slide"] == "jpeg2000"], "openslide-python", 1.0),
    ]


def memory(result: Result) -> list[Target]:
    found = []
    for ceiling in dict.fromkeys(row["max_memory"] for row in result["rows"]):
        rows = [row for row in result["rows"] if row["max_memory"] == ceiling]
        peaks = [row["peak_mib"] for row in rows]
        ratio = max(peaks) / min(peaks)
        sizes = f"{min(row['size'] for row in rows)}² to {max(row['size'] for row in rows)}²"
        what = f"largest peak in the least, {sizes}, --max-memory {ceiling}"
        flat = ratio <= FLAT if len(rows) > 1 else None
        found.append(Target("memory", what, f"≤ {FLAT:g}", f"{ratio:.2f}", flat))
        if ceiling == CEILING:
            most = 2e9 / 2**20 + result["model_mib"]
            what, asked = f"peak with --max-memory {ceiling}", f"≤ {most:.0f} MiB with the model"
            found.append(Target("memory", what, asked, f"{max(peaks)} MiB", max(peaks) <= most))
    below = all(row["peak_mib"] <= row["projected_mib"] for row in result["rows"])
    worst = max(row["peak_mib"] / row["projected_mib"] for row in result["rows"])
    return [
        *found,
        Target("memory", "peak in what the plan projected, the most", "≤ 1", f"{worst:.2f}", below),
    ]


def flight(result: Result) -> list[Target]:
    """Both are judged by the run with the slowest writer; too few blocks show nothing."""
    usual, *_, slow = sorted(result["rows"], key=lambda row: row["write_seconds"])
    enough = slow["blocks"] >= FLIGHT_BLOCKS
    ratio = slow["peak_worker_mib"] / usual["peak_worker_mib"]
    where, over = f"over {FLIGHT_BLOCKS} blocks with a slow writer", f"over {slow['blocks']} blocks"
    return [
        Target("flight", f"most tasks in flight {where}", f"≤ the limit, {slow['limit']}",
               f"{slow['peak_in_flight']} {over}", enough and slow["peak_in_flight"] <= slow["limit"]),
        Target("flight", f"memory of a worker {where}, in that with the usual one", f"≤ {SLOW_TO_USUAL:g}",
               f"{ratio:.2f} {over}", enough and ratio <= SLOW_TO_USUAL),
    ]  # fmt: skip


def resume(result: Result) -> list[Target]:
    seconds, slides = result["again_seconds"], result["slides"]
    return [
        Target("resume", f"a finished batch of {RESUME_SLIDES:,} slides, run again",
               f"≤ {RESUME_SECONDS:g} s", f"{seconds:.1f} s for {slides:,}",
               slides >= RESUME_SLIDES and seconds <= RESUME_SECONDS)
    ]  # fmt: skip


def startup(result: Result) -> list[Target]:
    rows = {row["what"]: row["median_seconds"] for row in result["rows"]}
    wanted = (
        ("wsi-seg --help", HELP_SECONDS),
        ("wsi-seg run, until the network gets the first tile of the model's own size", FIRST_TILE_SECONDS),
    )
    return [
        Target("startup", what, f"< {goal:g} s", f"{rows[what]:.2f} s", rows[what] < goal)
        for what, goal in wanted
    ]


def polygons(result: Result) -> list[Target]:
    speed = "Mpx traced per second and core, the least of three maps"
    tracing = result.get("tracing", {}).get("now", {})
    slowest = min((row["mpx_per_s"] for row in tracing.values()), default=None)
    asked = f"≥ {MPX_PER_SECOND:g}"
    traced = (
        missing("polygons", speed, asked)
        if slowest is None
        else Target("polygons", speed, asked, f"{slowest:.0f}", slowest >= MPX_PER_SECOND)
    )
    largest = max((key for key in result if re.fullmatch(r"export_\d+", key)), key=lambda key: int(key[7:]))
    row = result[largest]["now"]
    what = f"export of a {largest[7:]}² map with {row['regions']:,} regions"
    enough = row["regions"] >= REGIONS and row["seconds"] < EXPORT_SECONDS
    return [
        traced,
        Target("polygons", what, f"< {EXPORT_SECONDS:g} s for {REGIONS:,}",
               f"{row['seconds']:.0f} s in {row['peak_mib']:.0f} MiB", enough),
    ]  # fmt: skip


OF_PART: dict[str, Callable[[Result], list[Target]]] = {
    "end_to_end": end_to_end,
    "throughput_gpu": throughput_gpu,
    "peers": peers,
    "readers": readers,
    "memory": memory,
    "flight": flight,
    "resume": resume,
    "startup": startup,
    "polygons": polygons,
}
