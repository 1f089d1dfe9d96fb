"""report.html of a batch: a table of its slides, failures first, and how their figures are distributed."""

from __future__ import annotations

import math
import os
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsi_seg.results.files import REPORT, THUMBNAIL
from wsi_seg.results.pages.distribution import LEAST_SLIDES, Measured, distribution
from wsi_seg.results.pages.names import file_name, without_path
from wsi_seg.results.pages.numbers import mm2_text, percent_text
from wsi_seg.results.pages.template import write_page
from wsi_seg.tissue.domain import UNLIKE

TEMPLATE = "batch.html.j2"
# What needs a look comes first.
STATUSES = ("failed", "incomplete", "interrupted", "locked", "running", "waiting", "done", "skipped")
# Columns of classes, those with most area; batch.csv has all.
MOST_CLASSES = 6
AREA = "_mm2"
TISSUE = "tissue_mm2"
UNREAD, OTHER_LEVEL = "unread_mm2", "other_level_mm2"
# Columns of artifacts begin so; the page shows the first, of all classes.
ARTIFACTS = "qc_"
ALL_ARTIFACTS = "qc_mm2"
# Columns besides those of classes that are shown where there is something in them.
EXTRA = {ALL_ARTIFACTS: "artifacts", UNREAD: "not read", OTHER_LEVEL: "other level"}
# Columns that the user's table brought.
NOTES = "note:"
# Interquartile ranges below which slides count as equal: of shares in percent, of tissue by its median.
LEAST_PERCENT, LEAST_TISSUE = 1.0, 0.1
SAME_AS = "the same file as "

Row = Mapping[str, Any]
Addresses = Mapping[str, str | None]
"""Of the slides' own pages, by name."""


def model_facts(card: Mapping[str, Any]) -> dict[str, str]:
    """Return what the page of a batch says of a model, from its card as JSON."""
    return {key: str(card.get(key) or "") for key in ("name", "version", "notice", "held_out")}


def write_batch_page(
    out: Path,
    rows: Sequence[Row],
    *,
    models: Iterable[Mapping[str, str]] = (),
    reviewed: str = "",
    path: Path | None = None,
    links: bool = True,
) -> Path:
    """Write the page of a batch, whole or not at all.

    Besides `rows`, memory holds one small picture at a time.

    Args:
        out: folder of the batch.
        rows: of the slides, as in batch.csv; values are numbers or their text, blank or None where unknown.
            Keys: slide, name, status (done, skipped, incomplete or failed), reason, seconds, tissue_mm2,
            unread_mm2, other_level_mm2, mpp, reader, folder (of the slide's results, absolute or relative to
            `out`), and CLASS_mm2 for each class.
        models: see `model_facts`; each is named once.
        reviewed: how far the review of their regions is; "": nothing is said.
        path: HTML file to write; None: `out`/report.html.
        links: whether slides lead to their own pages, by addresses relative to `out`.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
    """
    totals = _class_totals(rows)
    shown = sorted(totals, key=lambda name: -totals[name])[:MOST_CLASSES]
    statuses = Counter(str(row["status"]) for row in rows)
    addresses = {_name(row): _link(out, _folder(out, row)) for row in rows} if links else {}
    known = {key: _total(rows, key) for key in EXTRA}
    extra = [key for key, mm2 in known.items() if mm2 or (key == ALL_ARTIFACTS and mm2 is not None)]
    return write_page(
        path or out / REPORT,
        TEMPLATE,
        title=out.absolute().name,
        reviewed=reviewed,
        models=[dict(facts) for facts in dict.fromkeys(tuple(model.items()) for model in models)],
        slides=_slides(out, rows, [*extra, *(name + AREA for name in shown)], addresses),
        columns=[
            *({"name": EXTRA[key], "mm2": known[key]} for key in extra),
            *({"name": name, "mm2": totals[name]} for name in shown),
        ],
        hidden=len(totals) - len(shown),
        statuses=[{"name": name, "count": statuses[name]} for name in sorted(statuses, key=_rank)],
        count=len(rows),
        seconds=sum(_number(row.get("seconds")) or 0.0 for row in rows),
        artifacts_mm2=known[ALL_ARTIFACTS],
        unread_mm2=known[UNREAD],
        other_level_mm2=known[OTHER_LEVEL],
        tissue_mm2=_total(rows, TISSUE) or 0.0,
        unlike=sum(UNLIKE in str(row.get("reason") or "") for row in rows),
        plots=_plots(rows, shown, addresses),
        least_slides=LEAST_SLIDES,
    )


def _class_totals(rows: Sequence[Row]) -> dict[str, float]:
    """Return the area of each class in all slides, in mm²."""
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        for key, value in row.items():
            others = key in (TISSUE, UNREAD, OTHER_LEVEL) or key.startswith((ARTIFACTS, NOTES))
            if key.endswith(AREA) and not others:
                totals[key.removesuffix(AREA)] += _number(value) or 0.0
    return totals


def _total(rows: Sequence[Row], key: str) -> float | None:
    """Return the sum of a column; None where no row has a number in it."""
    numbers = [number for row in rows if (number := _number(row.get(key))) is not None]
    return sum(numbers) if numbers else None


def _slides(
    out: Path, rows: Sequence[Row], areas: Sequence[str], addresses: Addresses
) -> Iterator[dict[str, Any]]:
    """Yield what a line of the table shows, with these areas; failures come first, else the order stays."""
    names = {str(row.get("slide") or ""): _name(row) for row in rows}
    for row in sorted(rows, key=lambda row: _rank(str(row["status"]))):
        yield {
            "name": _name(row),
            "status": str(row["status"]),
            "reason": _reason(row, names),
            "seconds": _number(row.get("seconds")),
            "tissue_mm2": _number(row.get(TISSUE)),
            "areas_mm2": [_number(row.get(key)) for key in areas],
            "mpp": str(row.get("mpp") or ""),
            "reader": str(row.get("reader") or ""),
            "link": addresses.get(_name(row)),
            "thumbnail": _thumbnail(_folder(out, row)),
        }


def _plots(rows: Sequence[Row], shown: Sequence[str], addresses: Addresses) -> list[dict[str, Any]]:
    """Return the distributions over slides with tissue: of its area, and of shares of it in percent."""
    measures: dict[str, list[Measured]] = defaultdict(list)
    for row in rows:
        tissue = _number(row.get(TISSUE))
        if not tissue:
            continue
        name, link = _name(row), addresses.get(_name(row))
        measures[TISSUE].append(Measured(name, link, tissue))
        for one in shown:
            mm2 = _number(row.get(one + AREA)) or 0.0
            measures[one + AREA].append(Measured(name, link, 100 * min(1.0, mm2 / tissue)))
        for key in (ALL_ARTIFACTS, UNREAD):
            lost = _number(row.get(key))
            if lost is not None:
                measures[key].append(Measured(name, link, 100 * lost / (tissue + lost)))
    areas = measures[TISSUE]
    least = LEAST_TISSUE * statistics.median(one.value for one in areas) if areas else 0.0
    found = [distribution("tissue analyzed", areas, unit="mm²", least_range=least, text=_mm2)]
    labels = {one + AREA: one for one in shown} | {ALL_ARTIFACTS: "artifacts", UNREAD: "tissue not read"}
    found += [
        distribution(label, measures[key], unit="% of tissue", least_range=LEAST_PERCENT, text=_percent)
        for key, label in labels.items()
    ]
    return [one for one in found if one is not None]


def _mm2(mm2: float) -> str:
    return f"{mm2_text(mm2)} mm²"


def _percent(percent: float) -> str:
    return percent_text(percent / 100)


def _name(row: Row) -> str:
    return str(row.get("name") or file_name(str(row["slide"])))


def _reason(row: Row, names: Mapping[str, str]) -> str:
    """Return why a slide is as it is, without the folders and the file names that pages do not show."""
    reason = str(row.get("reason") or "")
    other = reason.removeprefix(SAME_AS)
    if other != reason and other in names:
        return SAME_AS + names[other]
    return without_path(reason, str(row.get("slide") or ""), _name(row))


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)


def _number(value: Any) -> float | None:
    try:
        number = None if value is None or value == "" else float(value)
    except ValueError:  # a row of an earlier batch that somebody has edited
        return None
    return number if number is not None and 0 <= number < math.inf else None


def _folder(out: Path, row: Row) -> Path | None:
    return out / str(row["folder"]) if row.get("folder") else None


def _link(out: Path, folder: Path | None) -> str | None:
    """Return the relative address of a slide's own report; None where there is none."""
    if folder is None or not (folder / REPORT).is_file():
        return None
    # Quoted in full: a name may hold ? or #, or look like javascript:.
    return quote(Path(os.path.relpath(folder / REPORT, out)).as_posix(), safe="/")


def _thumbnail(folder: Path | None) -> bytes | None:
    path = folder / THUMBNAIL if folder is not None else None
    return path.read_bytes() if path is not None and path.is_file() else None
