"""List of results: searched, filtered, sorted, a page at a time, and the neighbors of one in it."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from typing import Any, TypeVar

from wsi_seg.core.classes import hex_code
from wsi_seg.core.errors import WsiSegError
from wsi_seg.results.files import unlike_notice
from wsi_seg.viewer import query
from wsi_seg.viewer.folders import ResultEntry
from wsi_seg.viewer.state import OpenResult, ResultRow, ViewerState

STATUSES = ("", "done", "incomplete", "running", "interrupted", "damaged")
SORTS = ("name", "-name", "date", "-date", "regions", "-regions", "tissue", "-tissue", "status", "model")
MOST_SECONDS = 1e11
MOST_REGIONS = 1e9
Item = TypeVar("Item", str, int)


@dataclass(frozen=True, slots=True)
class ListQuery:
    """Search, filters and order of a list of results."""

    text: str = ""
    """Part of their name or folder, in letters of either case."""
    status: str = ""
    """One of `STATUSES`; "": any."""
    model: str = ""
    """Name and version of their model; "": any."""
    since: float = -math.inf
    until: float = math.inf
    """When they were finished, in seconds since 1970: from `since` to before `until`."""
    regions: int = 0
    """Least number of traced regions."""
    sort: str = "name"
    """One of `SORTS`; with "-": the largest first. What is not known comes last."""

    @property
    def by_name_alone(self) -> bool:
        """True where nothing but names has to be known of the results."""
        return self == ListQuery(text=self.text, sort=self.sort) and self.sort in ("name", "-name")


def read_list_query(params: Mapping[str, str]) -> ListQuery:
    """Return the `find`, `status`, `model`, `since`, `until`, `regions` and `sort` of a query.

    Raises:
        Refused: 400, one is wrong.
    """
    return ListQuery(
        params.get("find", ""),
        query.choice(params, "status", STATUSES),
        params.get("model", ""),
        query.number(params, "since", 0, MOST_SECONDS) if "since" in params else -math.inf,
        query.number(params, "until", 0, MOST_SECONDS) if "until" in params else math.inf,
        int(query.number(params, "regions", 0, MOST_REGIONS)) if "regions" in params else 0,
        query.choice(params, "sort", SORTS),
    )


def list_results(
    state: ViewerState, wanted: ListQuery, offset: int = 0, limit: int | None = None
) -> tuple[list[dict[str, Any]], int]:
    """Return one line for each result; a damaged one says what is wrong with it.

    Args:
        state: of the server.
        wanted: which, in which order.
        offset: results to leave out at the start.
        limit: lines at most; None: all.

    Returns:
        The lines, and how many results are wanted in all.
    """
    found = _find(state, wanted)
    stop = len(found) if limit is None else offset + limit
    return [_line(state, entry) for entry in found[offset:stop]], len(found)


def neighbors(state: ViewerState, wanted: ListQuery, identity: str) -> dict[str, Any]:
    """Return the ids before and after a result in the list, damaged ones left out, and its `position` from 1.

    All are None where it is not in the list.
    """
    listed = [entry.id for entry in _find(state, wanted) if not _is_damaged(state, entry, wanted)]
    return place_in(listed, identity)


def place_in(listed: Sequence[Item], one: Item) -> dict[str, Any]:
    """Return what comes before and after one in a list, and its `position` from 1.

    All are None where it is not in the list.
    """
    if one not in listed:
        return {"previous": None, "next": None, "position": None, "total": len(listed)}
    at = listed.index(one)
    before, after = listed[at - 1] if at else None, listed[at + 1] if at + 1 < len(listed) else None
    return {"previous": before, "next": after, "position": at + 1, "total": len(listed)}


def models_in_use(state: ViewerState) -> list[str]:
    """Return name and version of the models of all finished results, in order."""
    found = set()
    for entry in state.folders.all():
        with suppress(WsiSegError):
            found.add(read_row(state, entry).facts["model"])
    return sorted(found - {""}, key=str.casefold)


def same_slide(state: ViewerState, result: OpenResult) -> list[dict[str, Any]]:
    """Return id, name and folder of the other results of the slide of a result."""
    own, found = read_row(state, result.entry).slide, []
    for entry in state.folders.all():
        if entry.id == result.entry.id:
            continue
        with suppress(WsiSegError):  # a damaged one cannot be compared
            if read_row(state, entry).slide == own:
                found.append({"id": entry.id, "name": entry.name, "folder": place_of(state, entry)})
    return found


def _find(state: ViewerState, wanted: ListQuery) -> list[ResultEntry]:
    text = wanted.text.casefold()
    found = [
        entry for entry in state.folders.all()
        if not text or text in f"{place_of(state, entry)}/{entry.name}".casefold()
    ]  # fmt: skip
    if wanted.by_name_alone:
        return found[::-1] if wanted.sort == "-name" else found
    known = [(entry, _sortable(state, entry)) for entry in found]
    kept = [(entry, facts) for entry, facts in known if _fits(facts, wanted)]
    name, descending = wanted.sort.removeprefix("-"), wanted.sort.startswith("-")
    if name == "name":
        return [entry for entry, _ in (reversed(kept) if descending else kept)]
    lacking = [entry for entry, facts in kept if facts[name] is None]
    sorted_ones = sorted(
        ((entry, facts) for entry, facts in kept if facts[name] is not None),
        key=lambda one: one[1][name], reverse=descending,
    )  # fmt: skip
    return [entry for entry, _ in sorted_ones] + lacking


def _fits(facts: Mapping[str, Any], wanted: ListQuery) -> bool:
    return (
        wanted.status in ("", facts["status"])
        and wanted.model in ("", facts["model"])
        and wanted.since <= facts["date"] < wanted.until
        and (facts["regions"] or 0) >= wanted.regions
    )


def _sortable(state: ViewerState, entry: ResultEntry) -> dict[str, Any]:
    """Return what a result is filtered and sorted by."""
    try:
        facts = read_row(state, entry).facts
    except WsiSegError:
        return {"status": "damaged", "model": None, "date": entry.time, "regions": None, "tissue": None}
    status = facts["status"]
    if entry.running:  # the row is that of when it was first read
        status = "interrupted" if entry.interrupted() else "running"
    return {
        "status": status,
        "model": facts["model"] or None,
        "date": entry.time if facts["date"] is None else facts["date"],
        "regions": facts["regions"],
        "tissue": facts["tissue_mm2"],
    }


def _is_damaged(state: ViewerState, entry: ResultEntry, wanted: ListQuery) -> bool:
    if wanted.status:
        return wanted.status == "damaged"
    try:
        read_row(state, entry)
    except WsiSegError:
        return True
    return False


def _line(state: ViewerState, entry: ResultEntry) -> dict[str, Any]:
    head = {
        "id": entry.id, "name": entry.name, "folder": place_of(state, entry), "folder_time": entry.time,
    }  # fmt: skip
    try:
        row = read_row(state, entry)
        now = {}
        if entry.running:
            result = state.open(entry)
            progress = result.progress()
            now = {"status": result.status, "progress": progress and progress.to_json()}
    except WsiSegError as error:
        return {**head, "status": "damaged", "error": str(error), "areas": [], "has_slide": False}
    date = entry.time if row.facts["date"] is None else row.facts["date"]
    return {**head, **row.facts, **now, "date": date, "has_slide": state.finder.is_present(row.slide_path)}


def read_row(state: ViewerState, entry: ResultEntry) -> ResultRow:
    """Return what is listed of a result, read once for each version; OutputError where it is damaged."""

    def read() -> ResultRow:
        slide = (result := OpenResult(entry, state)).facts.slide
        facts = _row_facts(result)
        return ResultRow(facts, slide.path, (slide.fingerprint, slide.size.width, slide.size.height))

    return state.rows.get_or_make((entry.id, entry.version), read)


def _row_facts(result: OpenResult) -> dict[str, Any]:
    facts = result.facts
    mpp, size = facts.slide.mpp, facts.slide.size
    return {
        "version": result.version,
        "status": result.status,
        "progress": None,
        "model": facts.model,
        "date": _seconds(facts.finished),
        "regions": region_count(result),
        "tissue_mm2": facts.summary.get("tissue_area_mm2"),
        "areas": [
            {"name": g.name, "color": hex_code(g.color), "mm2": facts.area(g.name, "group_area_mm2")}
            for g in facts.groups
            if facts.area(g.name, "group_area_mm2")
        ],
        "notice": facts.notice,
        "unlike": unlike_notice(facts.summary),
        "mpp": None if mpp is None else [mpp.x, mpp.y],
        "size": [size.width, size.height],
    }


def region_count(result: OpenResult) -> int | None:
    """Return how many regions were traced; None where none were asked for (yet)."""
    regions = result.facts.summary.get("regions")
    if not isinstance(regions, dict):
        return None
    return sum(int(one.get("count", 0)) for one in regions.values())


def _seconds(finished: str) -> float | None:
    """Return a time of a manifest in seconds since 1970; None where it says none."""
    try:
        return datetime.fromisoformat(finished).timestamp()
    except ValueError:
        return None


def place_of(state: ViewerState, entry: ResultEntry) -> str:
    """Return where the result lies under OUT, to tell equal names apart."""
    inner = entry.folder.relative_to(state.folders.out).parent.as_posix()
    return "" if inner == "." else inner
