"""The state of a review: what holds after all its entries, in whatever order they are read.

An entry holds unless a later one that holds itself supersedes it. So an undo is an entry that revokes
another, what that one had superseded holds again, and a redo revokes the undo. Entries that do not supersede
each other all hold, such as those of two reviewers on one region; the latest of them decides.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any, NamedTuple

from shapely import MultiPolygon, Polygon

from wsi_seg.review.entries import MARKED, ReviewEntry, later_than


class Marked(NamedTuple):
    """Tissue of a class, as the review has it."""

    shape: Polygon | MultiPolygon
    """l0 pixels."""
    class_name: str


@dataclass(frozen=True, slots=True)
class Decision:
    """All that holds of one region."""

    entries: tuple[ReviewEntry, ...]
    """The last entry of each reviewer, in the order of their times; at least one."""

    @property
    def final(self) -> ReviewEntry:
        """The latest entry, which decides."""
        return self.entries[-1]

    @property
    def disputed(self) -> bool:
        """True where reviewers differ: about the class, or whether there is a region at all."""
        return len({entry.class_name for entry in self.entries}) > 1


@dataclass(frozen=True, slots=True)
class ReviewState:
    """All that holds of the review of one slide."""

    decisions: Mapping[str, Decision]
    """By region id, in the order of the final entries' times."""
    areas: tuple[ReviewEntry, ...] = ()
    """Reviewed areas, oldest first. What `marked` does not cover in them is background."""
    latest: datetime | None = None
    """Time of the latest of all entries, those that do not hold too."""

    @property
    def marked(self) -> list[Marked]:
        """Regions that are right as they are, and corrected ones, oldest first.

        Where two overlap the later one counts: it was drawn by somebody who saw the other.
        """
        finals = (decision.final for decision in self.decisions.values())
        return [
            Marked(entry.geometry, entry.class_name)
            for entry in finals
            if entry.verdict in MARKED and entry.geometry is not None and entry.class_name is not None
        ]

    @property
    def rejected(self) -> list[tuple[Polygon | MultiPolygon, str | None]]:
        """Outlines, l0 pixels, where there is no tissue of the class that the results say, and that class."""
        finals = (decision.final for decision in self.decisions.values())
        return [
            (entry.geometry, entry.region_class)
            for entry in finals
            if entry.verdict == "rejected" and entry.geometry is not None
        ]

    def new_entry(self, **values: Any) -> ReviewEntry:
        """Return an entry that comes after all of this state.

        Unless `values` say so, it supersedes what the same reviewer has said of the region before.

        Raises:
            ValidationError: of pydantic, where the values do not fit together.
        """
        seen = [] if self.latest is None else [self.latest]
        decision = self.decisions.get(values.get("region", ""))
        earlier = () if decision is None else decision.entries
        own = tuple(one.entry for one in earlier if one.reviewer == str(values.get("reviewer", "")).strip())
        return ReviewEntry(**{"supersedes": own, "time": later_than(seen), **values})

    @property
    def reviewers(self) -> tuple[str, ...]:
        """Names of all whose entries hold, sorted."""
        found = {entry.reviewer for decision in self.decisions.values() for entry in decision.entries}
        return tuple(sorted(found | {area.reviewer for area in self.areas}))


def fold(entries: Iterable[ReviewEntry], reviewer: str | None = None) -> ReviewState:
    """Return what holds after all entries; neither their order nor an entry that comes twice matters.

    Args:
        entries: of one slide.
        reviewer: take only theirs into account.
    """
    unique = {entry.entry: entry for entry in entries if reviewer in (None, entry.reviewer)}
    last: dict[str, dict[str, ReviewEntry]] = defaultdict(dict)
    areas = []
    for entry in holding(unique.values()):
        if entry.verdict == "reviewed-area":
            areas.append(entry)
        elif entry.verdict != "revoked":
            last[entry.region].pop(entry.reviewer, None)
            last[entry.region][entry.reviewer] = entry
    decisions = [(region, Decision(tuple(by_reviewer.values()))) for region, by_reviewer in last.items()]
    decisions.sort(key=lambda pair: pair[1].final.order)
    latest = max((entry.time for entry in unique.values()), default=None)
    return ReviewState(dict(decisions), tuple(areas), latest)


def holding(entries: Iterable[ReviewEntry]) -> list[ReviewEntry]:
    """Return the entries that no other one supersedes which itself holds, oldest first.

    An entry supersedes only older ones, so that a damaged or forged journal has no circles.
    """
    ordered = sorted(entries, key=lambda entry: entry.order)
    superseded: set[str] = set()
    found = []
    for entry in reversed(ordered):
        if entry.entry not in superseded:
            found.append(entry)
            superseded.update(entry.supersedes)
    return found[::-1]
