"""Agreement of two reviewers of one slide: Cohen's kappa of verdicts, and Dice of areas for each class.

Kappa (Cohen 1960, doi:10.1177/001316446002000104) compares the regions that both have judged; a verdict is a
class, or that there is no region. It is five lines here, held against scikit-learn by the tests, so that
nobody has to install that. Dice compares exact areas of polygons where both have looked: in the outlines of
regions that both have judged, and where reviewed areas of both overlap.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import shapely

from wsi_seg.review.state import ReviewState

REJECTED = "rejected"


@dataclass(frozen=True, slots=True)
class Agreement:
    """Agreement of two reviewers."""

    regions: int
    """Regions that both have judged."""
    same: int
    """Those with the same verdict."""
    kappa: float
    """Cohen's kappa, -1 … 1; NaN where there are no such regions, or only one verdict was ever given."""
    dice: dict[str, float]
    """By class, 0 … 1: twice the common area over the sum of both; only classes that one of them has."""

    def to_json(self) -> dict[str, Any]:
        """Return plain values; None for NaN."""
        kappa = None if math.isnan(self.kappa) else round(self.kappa, 4)
        dice = {name: round(value, 4) for name, value in self.dice.items()}
        return {"regions": self.regions, "same": self.same, "kappa": kappa, "dice": dice}


def agreement(one: ReviewState, other: ReviewState) -> Agreement:
    """Return how two reviewers agree; see `state.fold` for the state of one."""
    both = [region for region in one.decisions if region in other.decisions]
    pairs = [
        tuple(state.decisions[region].final.class_name or REJECTED for state in (one, other))
        for region in both
    ]
    same = sum(a == b for a, b in pairs)
    return Agreement(len(both), same, cohens_kappa([a for a, _ in pairs], [b for _, b in pairs]),
                     _dice(one, other, both))  # fmt: skip


def cohens_kappa(one: Sequence[str], other: Sequence[str]) -> float:
    """Return Cohen's kappa of two lists of verdicts on the same things; NaN where it is not defined."""
    names, codes = np.unique([*one, *other], return_inverse=True)
    a, b = codes[: len(one)], codes[len(one) :]
    counts = np.array([np.bincount(part, minlength=len(names)) for part in (a, b)], float)
    chance = float((counts[0] * counts[1]).sum()) / max(len(a), 1) ** 2
    if not len(a) or chance == 1:
        return math.nan
    return (float(np.mean(a == b)) - chance) / (1 - chance)


def _dice(one: ReviewState, other: ReviewState, both: Sequence[str]) -> dict[str, float]:
    judged = [state.decisions[region].final.geometry for state in (one, other) for region in both]
    areas = [shapely.union_all([area.geometry for area in state.areas]) for state in (one, other)]
    seen = shapely.union_all([*judged, shapely.intersection(areas[0], areas[1])])
    shapes = [_by_class(state, seen) for state in (one, other)]
    found = {}
    for name in sorted({*shapes[0], *shapes[1]}):
        a, b = (by_class.get(name, shapely.Polygon()) for by_class in shapes)
        total = float(shapely.area(a) + shapely.area(b))
        found[name] = 2 * float(shapely.area(shapely.intersection(a, b))) / total
    return found


def _by_class(state: ReviewState, seen: shapely.Geometry) -> dict[str, shapely.Geometry]:
    """Return the area of each class where both have looked."""
    shapes: dict[str, list[shapely.Geometry]] = {}
    for shape, name in state.marked:
        shapes.setdefault(name, []).append(shape)
    found = {name: shapely.intersection(shapely.union_all(parts), seen) for name, parts in shapes.items()}
    return {name: area for name, area in found.items() if shapely.area(area) > 0}
