"""Where the time of a run went, and what to make faster first."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from wsi_seg.blocks import STAGES

# What the driver does beside the blocks, one after another.
SERIAL = ("plan", "pyramids", "polygons", "overview")
# At this share of the speed of the network alone nothing but the network is worth making faster.
GOOD_EFFICIENCY = 0.9


def bottleneck(
    wall: Mapping[str, float],
    busy: Mapping[str, float],
    *,
    tiles: int,
    forward_seconds: float | None,
    passes: int = 1,
) -> dict[str, Any]:
    """Say what a run's time went into.

    Args:
        wall: seconds of the driver's stages: those of `SERIAL`, and "blocks".
        busy: seconds of `blocks.STAGES`, summed over the blocks predicted in "blocks".
        tiles: predicted in "blocks".
        forward_seconds: of the network alone, logits only, for one tile; None where it was not measured.
        passes: forward passes at a time, over which the seconds of "predict" are summed.

    Returns:
        wall_seconds: from the first look at the slide to the last picture.
        busy_share: seconds of each stage per second of "blocks"; stages of several blocks overlap, so the sum
            may be more than 1.
        serial_share: share of the whole that each of the driver's stages took.
        forward_only_seconds: what the network alone would need for the same tiles.
        efficiency: forward_only_seconds / wall_seconds.
        limit: the stage to make faster first.
    """
    busy = {**busy, "predict": busy.get("predict", 0.0) / passes}
    total = sum(wall.get(stage, 0.0) for stage in ("blocks", *SERIAL))
    blocks = wall.get("blocks", 0.0)
    alone = tiles * forward_seconds if forward_seconds is not None and tiles else None
    efficiency = alone / total if alone is not None and total > 0 else None
    return {
        "wall_seconds": round(total, 3),
        "busy_share": {s: _share(busy.get(s, 0.0), blocks) for s in STAGES},
        "serial_share": {s: _share(wall.get(s, 0.0), total) for s in SERIAL},
        "forward_only_seconds": None if alone is None else round(alone, 3),
        "efficiency": None if efficiency is None else round(efficiency, 3),
        "limit": _limit(wall, busy, efficiency),
    }


def _limit(wall: Mapping[str, float], busy: Mapping[str, float], efficiency: float | None) -> str:
    """Name the stage that keeps the device waiting longest; "predict" where the device hardly waits."""
    blocks = wall.get("blocks", 0.0)
    idle = max(0.0, blocks - busy.get("predict", 0.0))
    inside = {s: busy.get(s, 0.0) for s in STAGES if s not in ("predict", "wait")}
    longest = max(inside, key=inside.__getitem__)
    # What the blocks do beside predicting costs no more than the time in which nothing is predicted.
    lost = {**{s: wall.get(s, 0.0) for s in SERIAL}, longest: min(idle, inside[longest])}
    worst = max(lost, key=lost.__getitem__)
    if efficiency is not None and efficiency >= GOOD_EFFICIENCY:
        return "predict"
    return worst if lost[worst] > (1 - GOOD_EFFICIENCY) * sum(wall.values()) else "predict"


def _share(part: float, whole: float) -> float | None:
    return round(part / whole, 4) if whole > 0 else None


def describe(report: Mapping[str, Any]) -> str:
    """Return the report in one line for a terminal."""
    shares = {**report["busy_share"], **report["serial_share"]}
    busy = ", ".join(
        f"{stage} {share:.0%}"
        for stage, share in sorted(shares.items(), key=lambda item: -(item[1] or 0))
        if share and share >= 0.005 and stage != "wait"
    )
    speed = report["efficiency"]
    of_network = f"; {speed:.0%} of the speed of the network alone" if speed is not None else ""
    return f"busy: {busy or 'nothing'}{of_network}; limited by {report['limit']}"
