"""Where the time of a run went, and what to make faster first.

A share is of time in which something could have been done, so that none is above 1: of the whole run for what
the driver does, and for what blocks do of the time of "blocks" in each lane. A lane is a thread that does
blocks; for "predict", a forward pass that may run at a time.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from wsi_seg.inference.blocks import STAGES

# What the driver does besides the blocks, one after another.
SERIAL = ("plan", "pyramids", "polygons", "overview", "exports")
# At this share of the run's time in forward passes nothing but the network is worth making faster.
GOOD_SHARE = 0.9
# What summary.json says of its figures.
DEFINITIONS = {
    "busy_share": (
        'seconds of a stage in all blocks / (seconds of "blocks" * lanes): lanes.threads, '
        'for "predict" lanes.passes * lanes.processes'
    ),
    "serial_share": "seconds of a stage / wall_seconds",
    "network_seconds": "seconds of all forward passes in this run / (lanes.passes * lanes.processes)",
    "network_share": "network_seconds / wall_seconds: 1 is a run that does nothing but forward passes",
}


@dataclass(frozen=True, slots=True)
class Lanes:
    """Lanes of work: what could be done at a time."""

    threads: int = 1
    """Threads that did blocks, in all processes."""
    processes: int = 1
    """Processes that did blocks."""
    passes: int = 1
    """Forward passes at a time in each process, at most."""

    def of(self, stage: str) -> int:
        """Return how many of a stage of `blocks.STAGES` there may be at a time."""
        return self.passes * self.processes if stage == "predict" else self.threads


def lanes_of(lanes: Iterable[str], passes: int) -> Lanes:
    """Return the lanes of a run: those of its blocks, and `passes` forward passes at most in one process."""
    threads = {lane for lane in lanes if lane}
    processes = {lane.rpartition(":")[0] for lane in threads}
    return Lanes(max(1, len(threads)), max(1, len(processes)), passes)


def bottleneck(wall: Mapping[str, float], busy: Mapping[str, float], lanes: Lanes) -> dict[str, Any]:
    """Say what a run's time went into.

    Args:
        wall: seconds of the driver's stages: those of `SERIAL`, and "blocks".
        busy: seconds of `blocks.STAGES`, summed over the blocks predicted in "blocks"; of a stage no more
            than those of "blocks" in each of its lanes.
        lanes: of the run.

    Returns:
        wall_seconds: from the first look at the slide to the last picture.
        limit: the stage to make faster first.
        lanes, definitions: what the rest is made of, and how, see `DEFINITIONS`; all shares are 0 … 1, and
        None where there was no time to share.
    """
    mean = {stage: busy.get(stage, 0.0) / lanes.of(stage) for stage in STAGES}
    total = sum(wall.get(stage, 0.0) for stage in ("blocks", *SERIAL))
    blocks = wall.get("blocks", 0.0)
    network = mean["predict"] if mean["predict"] > 0 else None
    share = None if network is None else _share(network, total)
    return {
        "wall_seconds": round(total, 3),
        "busy_share": {stage: _share(mean[stage], blocks) for stage in STAGES},
        "serial_share": {stage: _share(wall.get(stage, 0.0), total) for stage in SERIAL},
        "network_seconds": None if network is None else round(network, 3),
        "network_share": share,
        "limit": _limit(wall, mean, share),
        "lanes": asdict(lanes),
        "definitions": DEFINITIONS,
    }


def _limit(wall: Mapping[str, float], busy: Mapping[str, float], network_share: float | None) -> str:
    """Name the stage that keeps the device waiting longest; "predict" where the device hardly waits.

    `busy` are the seconds of each stage in the mean of its lanes.
    """
    blocks = wall.get("blocks", 0.0)
    idle = max(0.0, blocks - busy["predict"])
    inside = {stage: busy[stage] for stage in STAGES if stage not in ("predict", "wait")}
    longest = max(inside, key=inside.__getitem__)
    # What the blocks do besides predicting costs no more than the time in which nothing is predicted.
    lost = {**{s: wall.get(s, 0.0) for s in SERIAL}, longest: min(idle, inside[longest])}
    worst = max(lost, key=lost.__getitem__)
    if network_share is not None and network_share >= GOOD_SHARE:
        return "predict"
    return worst if lost[worst] > (1 - GOOD_SHARE) * sum(wall.values()) else "predict"


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None


def describe(report: Mapping[str, Any]) -> str:
    """Return the report in one line for a terminal."""
    lanes, network = report["lanes"], report["network_share"]
    passes = f"forward passes ({lanes['passes'] * lanes['processes']} at a time) {network or 0:.0%}"
    inside = _listed(report["busy_share"])
    said = [
        ", ".join([f"of the time of the run: {passes}", *_listed(report["serial_share"])]),
        *([f"of that of the {lanes['threads']} threads in blocks: {', '.join(inside)}"] if inside else []),
        f"limited by {report['limit']}",
    ]
    return "; ".join(said)


def _listed(shares: Mapping[str, float | None]) -> list[str]:
    """Return stages and percents, largest first; what rounds to nothing is left out."""
    known = {s: share for s, share in shares.items() if share is not None and s not in ("wait", "predict")}
    return [f"{s} {known[s]:.0%}" for s in sorted(known, key=lambda s: -known[s]) if round(100 * known[s])]
