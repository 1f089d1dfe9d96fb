"""Verdicts on the regions of results: on the very regions that were reviewed, or on those that overlap them.

Regions of another model, or traced with other settings, have other ids. A verdict is carried over to the
region whose intersection with the reviewed outline is at least `MIN_IOU` of their union, and whose class is
the one that the reviewer gave or saw. Two disjoint regions cannot both have so much of an outline; where
outlines overlap each other, the largest share wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import numpy as np
import shapely
from numpy.typing import NDArray

from wsi_seg.core.classes import canonical_name
from wsi_seg.results.region_files import Regions
from wsi_seg.review.entries import ReviewEntry, geometry_hash
from wsi_seg.review.results import region_id
from wsi_seg.review.state import Decision, ReviewState

# Least intersection over union of a region and the outline of a verdict that is carried over to it.
MIN_IOU = 0.5


@dataclass(frozen=True, slots=True)
class Carried:
    """A decision that counts for a region of the results."""

    decision: Decision
    iou: float
    """1 where the region itself was reviewed."""


@dataclass(frozen=True, slots=True)
class NotCarried:
    """A decision for which these results have no region."""

    decision: Decision
    reason: str


@dataclass(frozen=True, slots=True)
class CarriedReview:
    """A review as it stands for some results."""

    verdicts: Mapping[int, Carried]
    """By the number of the region in the results' file."""
    drawn: tuple[Decision, ...]
    """Added regions that the results lack: they stand for themselves."""
    lost: tuple[NotCarried, ...]
    """Verdicts on regions that these results do not have."""


class RegionKeys:
    """Ids and hashes of the regions of some results, to be kept from one `carry_over` to the next."""

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self.index = {region_id(regions, i): i for i in range(len(regions.ids))}
        """Number of a region by its id."""
        self._hashes: dict[int, str] = {}

    def hash_of(self, index: int) -> str:
        """Return the `geometry_hash` of a region."""
        if index not in self._hashes:
            self._hashes[index] = geometry_hash(self.regions.shapes[index])
        return self._hashes[index]


def carry_over(state: ReviewState, keys: RegionKeys) -> CarriedReview:
    """Return which verdicts of a review count for which regions of results of the same slide."""
    regions = keys.regions
    verdicts: dict[int, Carried] = {}
    waiting = []
    for decision in state.decisions.values():
        i, known = keys.index.get(decision.final.region), decision.final.region_hash
        if i is not None and known in ("", keys.hash_of(i)):  # it may have been changed elsewhere
            verdicts[i] = Carried(decision, 1.0)
        else:
            waiting.append(decision)
    free = np.array([i not in verdicts for i in range(len(regions.ids))], bool)
    reasons = _match(waiting, regions, np.flatnonzero(free), verdicts)
    apart = [decision for number, decision in enumerate(waiting) if number in reasons]
    lost = [
        NotCarried(decision, reasons[number])
        for number, decision in enumerate(waiting)
        if number in reasons and decision.entries[0].region_class is not None
    ]
    drawn = [decision for decision in apart if decision.entries[0].region_class is None]
    return CarriedReview(verdicts, tuple(drawn), tuple(lost))


def _match(
    waiting: list[Decision], regions: Regions, free: NDArray[np.intp], verdicts: dict[int, Carried]
) -> dict[int, str]:
    """Add the decisions that overlap free regions enough; return why the others do not, by their number."""
    shapes = np.array([decision.final.geometry for decision in waiting], object)
    candidates = regions.shapes[free]
    # A tree of the few that wait, for it is made each time.
    at, number = shapely.STRtree(shapes).query(candidates, predicate="intersects")
    own, other = shapely.area(shapes)[number], shapely.area(candidates)[at]
    close = np.minimum(own, other) >= MIN_IOU * np.maximum(own, other)  # others cannot reach it
    number, at, own, other = number[close], at[close], own[close], other[close]
    common = shapely.area(shapely.intersection(shapes[number], candidates[at]))
    iou = common / (own + other - common)
    reasons = dict.fromkeys(range(len(waiting)), f"no region overlaps it by IoU {MIN_IOU:g}")
    for k in np.argsort(-iou, kind="stable").tolist():
        if iou[k] < MIN_IOU:
            break
        decision, i = waiting[number[k]], int(free[at[k]])
        if number[k] not in reasons or i in verdicts:
            continue
        group = regions.groups[regions.group[i]].name
        if canonical_name(group) in _classes(decision.entries):
            verdicts[i] = Carried(decision, float(iou[k]))
            del reasons[int(number[k])]
        else:
            reasons[int(number[k])] = f"the region there is {group} now"
    return reasons


def _classes(entries: Iterable[ReviewEntry]) -> set[str]:
    """Return the classes that reviewers saw or gave, in canonical spelling."""
    names = {name for entry in entries for name in (entry.region_class, entry.class_name)}
    return {canonical_name(name) for name in names if name is not None}
