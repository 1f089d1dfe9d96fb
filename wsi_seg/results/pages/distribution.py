"""How a figure is distributed over the slides of a batch, and which slides lie far from the others."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

# Of fewer slides neither quartiles nor outliers mean anything.
LEAST_SLIDES = 8
# As in box plots: so many interquartile ranges beyond a quartile (Tukey, Exploratory Data Analysis, 1977).
BEYOND = 1.5
MOST_BINS, MOST_NAMED = 10, 8
# Letters of an edge for which a column is wide enough on a phone; of longer ones every second is written.
MOST_LETTERS = 4


@dataclass(frozen=True, slots=True)
class Measured:
    """A figure of one slide."""

    name: str
    link: str | None
    """Address of its own page."""
    value: float


def distribution(
    label: str,
    measured: Sequence[Measured],
    *,
    unit: str,
    text: Callable[[float], str],
    least_range: float,
) -> dict[str, Any] | None:
    """Return how the template shows a figure of many slides.

    Args:
        label: what it is.
        measured: its value, 0 or more, of each slide that has one.
        unit: of values at the edges of bins.
        text: writes a value with its unit.
        least_range: interquartile range below which slides count as equal, in `unit`.

    Returns:
        `label`, `unit`, `slides`, `drawing` for the macro `histogram`, `median`, `quartiles`, and `outliers`
        with `name`, `link` and `text`, farthest first, of which `more` are left out. None: too few slides, or
        none has any.
    """
    values = [one.value for one in measured]
    if len(values) < LEAST_SLIDES or not max(values):
        return None
    low, median, high = statistics.quantiles(values, n=4, method="inclusive")
    reach = BEYOND * max(high - low, least_range)
    beyond = {one: max(low - one.value, one.value - high) for one in measured}
    outliers = sorted((one for one in measured if beyond[one] > reach), key=lambda one: -beyond[one])
    return {
        "label": label,
        "unit": unit,
        "slides": len(values),
        "drawing": columns(values),
        "median": text(median),
        "quartiles": (text(low), text(high)),
        "outliers": [{"name": o.name, "link": o.link, "text": text(o.value)} for o in outliers[:MOST_NAMED]],
        "more": max(0, len(outliers) - MOST_NAMED),
    }


def columns(values: Sequence[float]) -> dict[str, Any]:
    """Return a histogram of values from 0 on for the macro `histogram`, in at most `MOST_BINS` even bins.

    Their width is 1, 2 or 5 times a power of ten. A value on an edge counts in the bin above, the largest in
    the last bin.
    """
    step = _step(max(values))
    bins = math.ceil(max(values) / step - 1e-9)
    counts = [0] * bins
    for value in values:
        counts[min(int(value / step + 1e-9), bins - 1)] += 1
    most, last = max(counts), f"{step * bins:,.6g}"
    every = 1 if len(last) <= MOST_LETTERS else 2
    drawn = [
        {"share": n / most, "text": f"{n:,}" if n else "", "edge": "" if i % every else f"{step * i:,.6g}"}
        for i, n in enumerate(counts)
    ]
    return {"columns": drawn, "last_edge": last}


def _step(largest: float) -> float:
    power = 10.0 ** (math.floor(math.log10(largest)) - 1)
    return next(step for step in (power, 2 * power, 5 * power, 10 * power) if largest <= MOST_BINS * step)
