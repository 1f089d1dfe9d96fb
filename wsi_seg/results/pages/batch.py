"""report.html of a batch: a table of its slides, failures first, with links to their own reports."""

from __future__ import annotations

import os
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from wsi_seg.results.files import REPORT, THUMBNAIL
from wsi_seg.results.pages.template import write_page

TEMPLATE = "batch.html.j2"
# What needs a look comes first.
STATUSES = ("failed", "incomplete", "interrupted", "locked", "running", "waiting", "done", "skipped")
# Columns of classes, those with most area; batch.csv has all.
MOST_CLASSES = 6
AREA = "_mm2"
TISSUE = "tissue_mm2"
# Columns of artifacts begin so; the page shows the first, of all classes.
ARTIFACTS = "qc_"
ALL_ARTIFACTS = "qc_mm2"


def write_batch_page(out: Path, rows: Sequence[Mapping[str, Any]], *, notice: str = "") -> Path:
    """Write `out`/report.html, whole or not at all.

    Besides `rows`, memory holds one small picture at a time.

    Args:
        out: folder of the batch.
        rows: of the slides, as in batch.csv; values are numbers or their text, blank or None where unknown.
            Keys: slide, name, status (done, skipped, incomplete or failed), reason, seconds, tissue_mm2, mpp,
            reader, folder (of the slide's results, absolute or relative to `out`), and CLASS_mm2 for each
            class.
        notice: a sentence about the model, such as that of its card.

    Returns:
        The file.

    Raises:
        OutputError: it cannot be written.
    """
    totals = _class_totals(rows)
    shown = sorted(totals, key=lambda name: -totals[name])[:MOST_CLASSES]
    statuses = Counter(str(row["status"]) for row in rows)
    return write_page(
        out / REPORT,
        TEMPLATE,
        title=out.absolute().name,
        notice=notice,
        slides=_slides(out, rows, shown),
        columns=[{"name": name, "mm2": totals[name]} for name in shown],
        hidden=len(totals) - len(shown),
        statuses=[{"name": name, "count": statuses[name]} for name in sorted(statuses, key=_rank)],
        count=len(rows),
        seconds=sum(_number(row.get("seconds")) or 0.0 for row in rows),
        artifacts=any(row.get(ALL_ARTIFACTS) not in (None, "") for row in rows),
        artifacts_mm2=sum(_number(row.get(ALL_ARTIFACTS)) or 0.0 for row in rows),
        tissue_mm2=sum(_number(row.get(TISSUE)) or 0.0 for row in rows),
    )


def _class_totals(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Return the area of each class in all slides, in mm²."""
    totals: dict[str, float] = defaultdict(float)
    for row in rows:
        for key, value in row.items():
            if key.endswith(AREA) and key != TISSUE and not key.startswith(ARTIFACTS):
                totals[key.removesuffix(AREA)] += _number(value) or 0.0
    return totals


def _slides(out: Path, rows: Sequence[Mapping[str, Any]], shown: Sequence[str]) -> Iterator[dict[str, Any]]:
    """Yield what a line of the table shows; failures come first, else the order stays."""
    for row in sorted(rows, key=lambda row: _rank(str(row["status"]))):
        folder = out / str(row["folder"]) if row.get("folder") else None
        yield {
            "name": str(row.get("name") or Path(str(row["slide"])).name),
            "status": str(row["status"]),
            "reason": str(row.get("reason") or ""),
            "seconds": _number(row.get("seconds")),
            "tissue_mm2": _number(row.get(TISSUE)),
            "artifacts_mm2": _number(row.get(ALL_ARTIFACTS)),
            "areas_mm2": [_number(row.get(name + AREA)) for name in shown],
            "mpp": str(row.get("mpp") or ""),
            "reader": str(row.get("reader") or ""),
            "link": _link(out, folder),
            "thumbnail": _thumbnail(folder),
        }


def _rank(status: str) -> int:
    return STATUSES.index(status) if status in STATUSES else len(STATUSES)


def _number(value: Any) -> float | None:
    try:
        return None if value is None or value == "" else float(value)
    except ValueError:  # a row of an earlier batch that somebody has edited
        return None


def _link(out: Path, folder: Path | None) -> str | None:
    """Return the relative address of a slide's own report; None where there is none."""
    if folder is None or not (folder / REPORT).is_file():
        return None
    # Quoted in full: a name may hold ? or #, or look like javascript:.
    return quote(Path(os.path.relpath(folder / REPORT, out)).as_posix(), safe="/")


def _thumbnail(folder: Path | None) -> bytes | None:
    path = folder / THUMBNAIL if folder is not None else None
    return path.read_bytes() if path is not None and path.is_file() else None
