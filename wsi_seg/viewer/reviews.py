"""Reviews of the results that a server shows: verdicts by region, what comes next, and new entries."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from numpy.typing import NDArray
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from shapely import MultiPolygon, Polygon

from wsi_seg.core.classes import ClassGroup
from wsi_seg.core.errors import UsageError
from wsi_seg.core.lru import LRUCache
from wsi_seg.results.region_files import Regions
from wsi_seg.review.carry import Carried, CarriedReview, RegionKeys, carry_over
from wsi_seg.review.entries import CORRECTED, ReviewEntry, Reviewer, drawn_shape, own_region, snapped
from wsi_seg.review.results import group_named, nameable, region_values
from wsi_seg.review.state import Decision, ReviewState, fold
from wsi_seg.review.store import ReviewStore, SlideReview
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.state import OpenResult

Order = Literal["uncertainty", "threshold", "size", "class"]
"""Of the queue: most uncertain first, mean probability nearest to the threshold of the run first, largest
first, or by class and then largest first."""

# Regions without a verdict that one reviewed area may accept at once.
MOST_ACCEPTED = 5000
# Results of which what is known of regions and reviews is held.
MOST_HELD = 8


class VerdictRequest(BaseModel):
    """One verdict of a reviewer."""

    model_config = ConfigDict(extra="forbid", strict=True)

    verdict: Literal["accepted", "rejected", "relabeled", "redrawn", "added", "reviewed-area"]
    reviewer: Reviewer
    index: int | None = Field(None, ge=0, le=10**9)
    """Number of a region of the results."""
    region: str | None = Field(None, max_length=200)
    """Id of a region that a reviewer has added, or of results before these."""
    class_name: str | None = Field(None, max_length=100)
    geometry: dict[str, Any] | None = None
    """GeoJSON Polygon or MultiPolygon in l0 pixels, of what is drawn."""
    comment: str = Field("", max_length=2000)
    accept_rest: bool = False
    """Of a reviewed area: accept the regions in it that have no verdict."""


class UndoRequest(BaseModel):
    """Entries to revoke; an undo that is revoked is a redo."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reviewer: Reviewer
    entries: list[str] = Field(min_length=1, max_length=MOST_ACCEPTED + 1)


@dataclass(frozen=True)
class _Standing:
    """A review as it stands for some results."""

    state: ReviewState
    carried: CarriedReview
    entries: Mapping[str, ReviewEntry]
    found: SlideReview


class Reviews:
    """The reviews in one folder, as the routes of the server read and write them."""

    def __init__(self, folder: Path) -> None:
        self.store = ReviewStore(folder)
        self._lock = threading.Lock()
        self._keys: LRUCache[RegionKeys] = LRUCache(MOST_HELD)
        self._standings: LRUCache[_Standing] = LRUCache(MOST_HELD)
        self._orders: LRUCache[NDArray[np.intp]] = LRUCache(MOST_HELD)

    def show(self, result: OpenResult, known: int | None = None) -> dict[str, Any]:
        """Return the whole review of a result in the words of the API.

        Args:
            result: whose review is shown.
            known: entries that a page has seen; where there are no others, their count alone is returned.

        Raises:
            Refused: 404, it has no regions; 409, its run is not finished.
            OutputError: regions or journals are damaged.
        """
        regions, standing = _regions(result), self._standing(result)
        if known == len(standing.entries):
            return {"count": known}
        verdicts = {str(i): _verdict(one, regions, i) for i, one in sorted(standing.carried.verdicts.items())}
        return {**_rest(standing, regions), "regions": verdicts}

    def next(
        self, result: OpenResult, order: Order, after: int | None, step: int, group: str | None, all_: bool
    ) -> dict[str, Any]:
        """Return the region that follows another one in the queue, or the first; `index` None at the end.

        Args:
            result: whose regions are queued.
            order: of the queue.
            after: number of the region before; None: the beginning.
            step: 1 for the next region, -1 for the one before.
            group: only regions of this group.
            all_: regions with a verdict too.
        """
        regions, standing = _regions(result), self._standing(result)
        queue = self._order(result, order)
        if group is not None:
            named = [i for i, one in enumerate(regions.groups) if one.name == group]
            queue = queue[np.isin(regions.group[queue], named)]
        at = np.flatnonzero(queue == after) if after is not None else np.empty(0, np.intp)
        start = int(at[0]) if len(at) else (-1 if step > 0 else len(queue))
        place = start + step
        while 0 <= place < len(queue) and not all_ and int(queue[place]) in standing.carried.verdicts:
            place += step
        found = 0 <= place < len(queue)
        index = int(queue[place]) if found else None
        bbox = [round(value, 2) for value in regions.bounds[index].tolist()] if index is not None else None
        return {"index": index, "place": place + 1 if found else None, "total": len(queue), "bbox": bbox}

    def add(self, result: OpenResult, asked: VerdictRequest) -> dict[str, Any]:
        """Append what a reviewer says, and return the ids of its entries and what it changes.

        Raises:
            Refused: 400, the request does not fit together; 404 or 409, see `show`; 404, no such region.
            OutputError: the journal cannot be written.
        """
        regions = _regions(result)
        with self._lock:
            before = self._standing(result)
            try:
                entries = self._entries(result, regions, before, asked)
            except ValidationError as error:
                raise Refused(400, str(error.errors()[0]["msg"]).removeprefix("Value error, ")) from error
            except UsageError as error:
                raise Refused(400, str(error)) from error
            return self._append(result, before, entries)

    def undo(self, result: OpenResult, asked: UndoRequest) -> dict[str, Any]:
        """Revoke entries of a reviewer; returns and raises as `add`, also 404 for entries that are not there.

        Raises:
            Refused: 409, an entry is another reviewer's.
        """
        with self._lock:
            before = self._standing(result)
            for name in asked.entries:
                entry = before.entries.get(name)
                if entry is None:
                    raise Refused(404, "no such entry in the review of this slide")
                if entry.reviewer != asked.reviewer:
                    raise Refused(
                        409, f"this is an entry of {entry.reviewer}; only its reviewer takes it back"
                    )
            revoked = before.state.new_entry(
                verdict="revoked", slide=result.facts.slide.fingerprint, model=result.facts.model_digest,
                reviewer=asked.reviewer, supersedes=tuple(asked.entries),
            )  # fmt: skip
            return self._append(result, before, [revoked])

    def _append(
        self, result: OpenResult, before: _Standing, entries: Sequence[ReviewEntry]
    ) -> dict[str, Any]:
        self.store.append(result.facts.slide, entries)
        after = self._standing(result)
        regions, old, new = _regions(result), before.carried.verdicts, after.carried.verdicts
        changed = {
            str(i): _verdict(new[i], regions, i) if i in new else None
            for i in sorted({*old, *new})
            if old.get(i) != new.get(i)
        }
        rest = _rest(after, regions)
        ids = [entry.entry for entry in entries]
        return {**rest, "regions": changed, "entries": ids, "before": len(before.entries)}

    def _standing(self, result: OpenResult) -> _Standing:
        regions = _regions(result)
        found = self.store.read(result.facts.slide)
        known = self._standings.get(result.key)
        if known is not None and known.found == found:
            return known
        state = fold(found.entries)
        keys = self._keys.get_or_make(result.key, lambda: RegionKeys(regions))
        entries = {entry.entry: entry for entry in found.entries}
        standing = _Standing(state, carry_over(state, keys), entries, found)
        self._standings.put(result.key, standing)
        return standing

    def _order(self, result: OpenResult, order: Order) -> NDArray[np.intp]:
        regions, threshold = _regions(result), result.facts.trace.threshold
        return self._orders.get_or_make((*result.key, order), lambda: order_of(regions, order, threshold))

    def _entries(
        self, result: OpenResult, regions: Regions, standing: _Standing, asked: VerdictRequest
    ) -> list[ReviewEntry]:
        """Return the entries of a request; raises Refused, UsageError or ValidationError."""
        facts, decision = _facts(regions, standing, asked)
        drawn = asked.verdict in ("redrawn", "added", "reviewed-area")
        if drawn != (asked.geometry is not None):
            raise Refused(400, f"{asked.verdict} {'needs a' if drawn else 'has no'} geometry")
        verdict, final = asked.verdict, None if decision is None else decision.final
        if drawn:
            facts["geometry"] = drawn_shape(asked.geometry, result.facts.slide.size)
        elif final is not None and final.verdict == "redrawn" and verdict in ("accepted", "relabeled"):
            # Of the outline that is on the screen, which is not that of the results any more.
            verdict, facts["geometry"] = "redrawn", final.geometry
        if asked.class_name is not None and asked.verdict not in CORRECTED:
            raise Refused(400, f"{asked.verdict} has no class_name; relabeled gives a region another class")
        if asked.class_name is not None:
            facts["class_name"] = group_named(asked.class_name, _nameable(result)).name
        elif verdict in ("accepted", "redrawn"):
            stands, was = final and final.class_name, facts.get("region_class")
            facts["class_name"] = (stands or was) if verdict == "redrawn" else (was or stands)
        base = {
            "slide": result.facts.slide.fingerprint,
            "model": result.facts.model_digest,
            "reviewer": asked.reviewer,
        }
        own = () if decision is None else decision.entries
        entry = standing.state.new_entry(
            **base, **facts, verdict=verdict, comment=asked.comment,
            supersedes=tuple(one.entry for one in own if one.reviewer == asked.reviewer),
        )  # fmt: skip
        if asked.verdict in ("added", "reviewed-area"):
            entry = entry.model_copy(update={"region": own_region(entry.entry)})
        if asked.verdict != "reviewed-area" or not asked.accept_rest:
            return [entry]
        rest = _undecided_in(entry, regions, standing)
        return [entry, *(self._accepted(regions, i, standing.state, base) for i in rest)]

    def _accepted(
        self, regions: Regions, index: int, state: ReviewState, base: Mapping[str, str]
    ) -> ReviewEntry:
        facts = region_values(regions, index)
        return state.new_entry(**base, **facts, verdict="accepted", class_name=facts["region_class"])


def outline(result: OpenResult, index: int) -> dict[str, Any]:
    """Return the whole outline of a region of the results as GeoJSON in l0 pixels; Refused, 404, without."""
    regions = _regions(result)
    if index >= len(regions.ids):
        raise Refused(404, f"no region {index}; there are {len(regions.ids)}")
    bbox = [round(value, 2) for value in regions.bounds[index].tolist()]
    return {"geometry": shapely.geometry.mapping(snapped(regions.shapes[index])), "bbox": bbox}


def order_of(regions: Regions, order: Order, threshold: float) -> NDArray[np.intp]:
    """Return the numbers of regions in the order of the queue, (n,); regions that lack a figure come last."""
    areas = shapely.area(regions.shapes) if len(regions.ids) else np.empty(0)
    if order == "size":
        return np.argsort(-areas, kind="stable")
    if order == "class":
        return np.lexsort((-areas, regions.group))
    unsure, probability = regions.figures["mean_uncertainty"], regions.figures["mean_probability"]
    return np.argsort(-unsure if order == "uncertainty" else np.abs(probability - threshold), kind="stable")


def _regions(result: OpenResult) -> Regions:
    if result.changing:
        raise Refused(409, "the run of this slide is not finished; review it when it is")
    return result.outlines().regions


def _nameable(result: OpenResult) -> tuple[ClassGroup, ...]:
    facts = result.facts
    return nameable(facts.groups, (ClassGroup(c.name, (c.code,), c.color) for c in facts.classes))


def _facts(
    regions: Regions, standing: _Standing, asked: VerdictRequest
) -> tuple[dict[str, Any], Decision | None]:
    """Return what is known of the region that a request is about, and what was said of it before."""
    if asked.verdict in ("added", "reviewed-area"):
        if asked.index is not None or asked.region is not None:
            raise Refused(400, f"{asked.verdict} is about what is drawn, and names no region")
        return {"region": "new"}, None
    if (asked.index is None) == (asked.region is None):
        raise Refused(400, f"{asked.verdict} names a region, by index or by region")
    if asked.index is not None:
        if asked.index >= len(regions.ids):
            raise Refused(404, f"no region {asked.index}; there are {len(regions.ids)}")
        carried = standing.carried.verdicts.get(asked.index)
        return region_values(regions, asked.index), None if carried is None else carried.decision
    decision = standing.state.decisions.get(str(asked.region))
    if decision is None:
        raise Refused(404, "no such region in the review of this slide")
    final = decision.final
    names = ("region", "region_hash", "region_class", "geometry")
    return {name: getattr(final, name) for name in names}, decision


def _undecided_in(area: ReviewEntry, regions: Regions, standing: _Standing) -> list[int]:
    """Return the regions without a verdict whose inner point lies in an area.

    Those that others have accepted count, too: else the reviewer would say that there is background.
    """
    assert area.geometry is not None
    verdicts, near = standing.carried.verdicts, regions.in_box(area.geometry.bounds).tolist()
    free = np.array(
        [i for i in near if i not in verdicts or _others_accept(verdicts[i], area.reviewer)], np.intp
    )
    points = shapely.point_on_surface(regions.shapes[free])
    shapely.prepare(area.geometry)
    found: list[int] = free[shapely.covers(area.geometry, points)].tolist()
    if len(found) > MOST_ACCEPTED:
        raise Refused(400, f"{len(found)} regions in this area, at most {MOST_ACCEPTED}; draw smaller areas")
    return found


def _others_accept(carried: Carried, reviewer: str) -> bool:
    entries = carried.decision.entries
    accepted = carried.iou == 1 and carried.decision.final.verdict == "accepted"
    return accepted and all(entry.reviewer != reviewer for entry in entries)


def _verdict(carried: Carried, regions: Regions, index: int) -> dict[str, Any]:
    bbox = [round(value, 2) for value in regions.bounds[index].tolist()]
    final = carried.decision.final
    inner = shapely.point_on_surface(final.geometry if final.verdict == "redrawn" else regions.shapes[index])
    at = shapely.get_coordinates(inner)[0].round(2).tolist()
    return {**_said(carried.decision), "iou": round(carried.iou, 3), "bbox": bbox, "at": at}


def _said(decision: Decision) -> dict[str, Any]:
    final = decision.final
    drawn = final.verdict in ("redrawn", "added")
    return {
        "verdict": final.verdict,
        "class_name": final.class_name,
        "reviewer": final.reviewer,
        "comment": final.comment,
        "entry": final.entry,
        "disputed": decision.disputed,
        "geometry": _plain(final.geometry) if drawn else None,
    }


def _plain(geometry: Polygon | MultiPolygon | None) -> dict[str, Any] | None:
    return None if geometry is None else dict(shapely.geometry.mapping(geometry))


def _rest(standing: _Standing, regions: Regions) -> dict[str, Any]:
    """Return what is no verdict on a region of the results: drawn regions, areas, and the progress."""
    carried, state = standing.carried, standing.state
    decisions = [one.decision for one in carried.verdicts.values()]
    drawn = [
        {"region": one.final.region, **_said(one), "geometry": _plain(one.final.geometry)}
        for one in carried.drawn
    ]  # whatever the verdict: nothing else has their outline
    areas = [
        {"entry": area.entry, "reviewer": area.reviewer, "geometry": _plain(area.geometry)}
        for area in state.areas
    ]  # fmt: skip
    progress = {
        "regions": len(regions.ids),
        "reviewed": len(decisions),
        "disputed": sum(one.disputed for one in (*decisions, *carried.drawn)),
        "not_carried": len(carried.lost),
        "reviewers": list(state.reviewers),
    }
    notes = list(standing.found.notes)
    return {
        "drawn": drawn, "areas": areas, "progress": progress, "notes": notes, "count": len(standing.entries)
    }  # fmt: skip
