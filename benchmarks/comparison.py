"""Figures of several programs on one slide, and the comparison; free of torch."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Labels = NDArray[np.uint8]
FASTER, SMALLER = 12.0, 8.0  # what is to be shown against TIAToolbox


def figures(
    seconds: float, work: float, memory: Sequence[tuple[float, int]], tiles: int
) -> dict[str, int | float]:
    """Return the figures of one run from its seconds in all, those after start-up, and its memory."""
    return {
        "seconds": work,
        "startup_seconds": seconds - work,
        "tiles": tiles,
        "tiles_per_second": tiles / work,
        "peak_mib": max(size for _, size in memory) / 2**20,
    }


def agreement(labels: Labels, others: Labels, tissue: NDArray[np.bool_]) -> float:
    """Return the share of the tissue's pixels that have the same label.

    Raises:
        ValueError: there is no tissue.
    """
    if not tissue.any():
        raise ValueError("there is no tissue to compare labels in")
    return float((labels[tissue] == others[tissue]).mean())


def with_ratios(rows: Mapping[str, Mapping[str, Any]], reference: str) -> dict[str, dict[str, float]]:
    """Return, for each program that finished, its time and memory in those of `reference`."""
    one = rows[reference]
    return {
        name: {key: row[key] / one[key] for key in ("seconds", "peak_mib")}
        for name, row in rows.items()
        if name != reference and "seconds" in row
    }


def medians(rounds: Sequence[Mapping[str, Mapping[str, float]]]) -> dict[str, dict[str, float]]:
    """Return the median over rounds of each number, for the programs that are in all of them."""
    return {
        name: {key: statistics.median(one[name][key] for one in rounds) for key in rounds[0][name]}
        for name in rounds[0]
        if all(name in one for one in rounds)
    }


def table(rows: Mapping[str, Mapping[str, Any]], reference: str) -> str:
    """Return a Markdown table of one round, ratios to `reference` included."""
    ratios = {reference: {"seconds": 1.0, "peak_mib": 1.0}, **with_ratios(rows, reference)}
    lines = [
        "| program | s | start-up s | tiles | tiles/s | peak MiB | same labels | × time | × memory |",
        "|---|--:|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for name, row in rows.items():
        if name not in ratios:
            end = f"out of memory after {row['out_of_memory_seconds']:.0f}"
            lines.append(f"| {name} | {end} | | | | {row['peak_mib']:.0f} | | | |")
            continue
        lines.append(
            f"| {name} | {row['seconds']:.1f} | {row['startup_seconds']:.1f} | {row['tiles']} "
            f"| {row['tiles_per_second']:.2f} | {row['peak_mib']:.0f} | {same_labels(row)} "
            f"| {ratios[name]['seconds']:.2f} | {ratios[name]['peak_mib']:.2f} |"
        )
    return "\n".join(lines)


def same_labels(row: Mapping[str, Any]) -> str:
    """Say how many labels are the same, and of which share of the tissue where that is not all."""
    if "agreement" not in row:
        return "none"
    share = row.get("labeled", 1.0)
    return f"{row['agreement']:.3%}" + (f" of {share:.1%}" if share < 1 else "")


def verdict(name: str, ours: str, ratios: Mapping[str, float], ceiling: float) -> str:
    """Say whether what is to be shown against TIAToolbox is shown.

    Args:
        name: as it was run.
        ours: the way of wsi_seg that it is compared with.
        ratios: its time and memory, in those of `ours`.
        ceiling: its time in that of the network alone, as wsi_seg runs it: what no pipeline can beat.
    """
    parts = (("time", ratios["seconds"], FASTER), ("memory", ratios["peak_mib"], SMALLER))
    said = [
        f"{value:.1f} times the {what} (to show: {goal:g}, {'met' if value >= goal else 'not met'})"
        for what, value, goal in parts
    ]
    return f"{name} takes {' and '.join(said)} of {ours}, {ceiling:.1f} times the time of the network alone"
