"""Verdicts on the regions of results: on the very regions that were reviewed, or on those that overlap them.

Regions of another model, or traced with other settings, have other ids. A verdict is carried over to the
region whose intersection with the reviewed outline is at least `MIN_IOU` of their union, and whose class is
the one that the reviewer gave or saw. Two disjoint regions cannot both have so much of an outline; where
outlines overlap each other, the largest share wins.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import shapely

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
    """Facts of the regions of some results, to be kept from one `carry_over` to the next."""

    def __init__(self, regions: Regions) -> None:
        self.regions = regions
        self.index = {region_id(regions, i): i for i in range(len(regions.ids))}
        """Number of a region by its id."""
        self._hashes: dict[int, str] = {}
        self._overlaps: dict[str, list[tuple[int, float]]] = {}

    def hash_of(self, index: int) -> str:
        """Return the `geometry_hash` of a region."""
        if index not in self._hashes:
            self._hashes[index] = geometry_hash(self.regions.shapes[index])
        return self._hashes[index]

    def overlaps_of(self, entries: Sequence[ReviewEntry]) -> list[list[tuple[int, float]]]:
        """Return for each entry the regions that overlap its outline by `MIN_IOU` or more, and their IoU."""
        new = [entry for entry in entries if entry.entry not in self._overlaps]
        self._overlaps |= {entry.entry: [] for entry in new}
        shapes, regions = np.array([entry.geometry for entry in new], object), self.regions.shapes
        # A tree of the few that are new, for it is made each time.
        at, number = shapely.STRtree(shapes).query(regions, predicate="intersects")
        own, other = shapely.area(shapes)[number], shapely.area(regions[at])
        close = np.minimum(own, other) >= MIN_IOU * np.maximum(own, other)  # others cannot reach it
        number, at, own, other = number[close], at[close], own[close], other[close]
        common = shapely.area(shapely.intersection(shapes[number], regions[at]))
        iou = common / (own + other - common)
        for k in np.flatnonzero(iou >= MIN_IOU).tolist():
            self._overlaps[new[number[k]].entry].append((int(at[k]), float(iou[k])))
        return [self._overlaps[entry.entry] for entry in entries]


def carry_over(state: ReviewState, keys: RegionKeys) -> CarriedReview:
    """Return which verdicts of a review count for which regions of results of the same slide."""
    verdicts: dict[int, Carried] = {}
    waiting = []
    for decision in state.decisions.values():
        i, known = keys.index.get(decision.final.region), decision.final.region_hash
        if i is not None and known in ("", keys.hash_of(i)):  # it may have been changed elsewhere
            verdicts[i] = Carried(decision, 1.0)
        else:
            waiting.append(decision)
    reasons = _match(waiting, keys, verdicts)
    apart = [NotCarried(waiting[number], reason) for number, reason in reasons.items()]
    drawn = tuple(one.decision for one in apart if _is_added(one.decision))
    return CarriedReview(verdicts, drawn, tuple(one for one in apart if not _is_added(one.decision)))


def _is_added(decision: Decision) -> bool:
    """Return whether a reviewer has drawn the region, so that no results had it."""
    return decision.entries[0].region_class is None


def _match(waiting: list[Decision], keys: RegionKeys, verdicts: dict[int, Carried]) -> dict[int, str]:
    """Add the decisions that overlap free regions enough; return why the others do not, by their number."""
    regions = keys.regions
    overlaps = keys.overlaps_of([decision.final for decision in waiting])
    pairs = [(iou, number, i) for number, found in enumerate(overlaps) for i, iou in found]
    reasons = dict.fromkeys(range(len(waiting)), f"no region overlaps it by IoU {MIN_IOU:g}")
    for iou, number, i in sorted(pairs, key=lambda pair: -pair[0]):
        if number not in reasons or i in verdicts:
            continue
        decision, group = waiting[number], regions.groups[regions.group[i]].name
        if canonical_name(group) in _classes(decision.entries):
            verdicts[i] = Carried(decision, iou)
            del reasons[number]
        else:
            reasons[number] = f"the region there is {group} now"
    return reasons


def _classes(entries: Iterable[ReviewEntry]) -> set[str]:
    """Return the classes that reviewers saw or gave, in canonical spelling."""
    names = {name for entry in entries for name in (entry.region_class, entry.class_name)}
    return {canonical_name(name) for name in names if name is not None}
