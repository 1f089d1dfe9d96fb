"""The tables of a batch: `batch.csv`, the outcome of each slide, and `failed.csv`, to be fed back in."""

from __future__ import annotations

import csv
import fcntl
import time
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, cast

from wsi_seg.core.files import atomic_path, writing
from wsi_seg.pipeline.inputs import SlideInput
from wsi_seg.results.files import BATCH, FAILED

LOCK = ".batch.lock"
# Seconds between two writings while slides are being done: with many slides the tables are large.
PERIOD = 2.0

Status = Literal["waiting", "running", "done", "skipped", "incomplete", "failed", "locked", "interrupted"]
"""`skipped`: whole results were there; `incomplete`: parts of the slide could not be read as they should;
`locked`: by another run, which is at work on it."""

COLUMNS = (
    "slide",
    "name",
    "status",
    "reason",
    "seconds",
    "tissue_mm2",
    "unread_mm2",
    "other_level_mm2",
    "mpp",
    "mpp_source",
    "reader",
    "folder",
)


@dataclass
class Row:
    """Outcome of one slide."""

    slide: SlideInput
    status: Status = "waiting"
    reason: str = ""
    seconds: float | None = None
    folder: Path | str | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    """tissue_mm2, unread_mm2, other_level_mm2, mpp, mpp_source, reader, and columns of artifacts"""
    areas_mm2: Mapping[str, float] = field(default_factory=dict)
    """By class."""
    log: Path | None = None

    def cells(self) -> dict[str, Any]:
        """Return the row of `batch.csv`, without empty cells."""
        cells = {
            "slide": self.slide.path,
            "name": self.slide.name,
            "status": self.status,
            "reason": self.reason,
            "seconds": None if self.seconds is None else round(self.seconds, 2),
            **self.facts,
            **self.slide.notes,
            "folder": None if self.folder is None else self.slide.name,
            **{f"{name}_mm2": area for name, area in self.areas_mm2.items()},
        }
        return {key: value for key, value in cells.items() if value is not None and value != ""}


class BatchTable:
    """The rows of a batch and the files that show them; written whole or not at all.

    Rows of other batches with the same output folder stay in them, also of one that runs at the same time.
    """

    def __init__(self, out: Path, rows: Sequence[Row]) -> None:
        self.rows = list(rows)
        self._out = out
        self._names = {row.slide.name for row in self.rows}
        self._written: float | None = None

    def changed(self) -> None:
        """Write the files, unless that was done a moment ago."""
        if self._written is None or time.monotonic() - self._written >= PERIOD:
            self.write()

    def write(self) -> list[dict[str, Any]]:
        """Write the files and return the rows of `batch.csv`; OutputError where that is refused.

        Without failed slides there is no `failed.csv`.
        """
        failed = [_asked_again(row) for row in self.rows if row.status == "failed"]
        rows = write_tables(self._out, self._names, [row.cells() for row in self.rows], failed)
        self._written = time.monotonic()
        return rows


def write_tables(
    out: Path, names: Collection[str], rows: Sequence[dict[str, Any]], failed: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Write both tables with new rows in the place of all that slides of these names have there.

    Without failed slides there is no `failed.csv`.

    Returns:
        The rows of `batch.csv`.

    Raises:
        OutputError: a file cannot be written.
    """

    def with_others(name: str, new: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
        return [*(row for row in read_rows(out / name) if row.get("name") not in names), *new]

    with writing(out):
        out.mkdir(parents=True, exist_ok=True)
        with _locked(out / LOCK):
            rows = with_others(BATCH, rows)
            _write_csv(out / BATCH, COLUMNS, rows)
            failed = with_others(FAILED, failed)
            if failed:
                _write_csv(out / FAILED, ("slide", "name"), failed)
            else:
                (out / FAILED).unlink(missing_ok=True)
    return rows


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Return the rows of a table of a batch; none where there is no file.

    People open these files and save them otherwise; so no encoding and no number of cells is refused.
    """
    if not path.is_file():
        return []
    with path.open(newline="", encoding="utf-8-sig", errors="replace") as file:
        rows: list[dict[str, Any]] = list(csv.DictReader(file))
    for row in rows:
        row.pop(cast("str", None), None)  # cells beyond the header's
    return rows


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Keep other batches on this filesystem from writing the tables meanwhile."""
    with path.open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _asked_again(row: Row) -> dict[str, Any]:
    slide = row.slide
    return {
        "slide": slide.path,
        "name": slide.name,
        **slide.settings,
        **slide.notes,
        "reason": row.reason,
    }


def _write_csv(path: Path, columns: Sequence[str], rows: Sequence[Mapping[str, Any]]) -> None:
    """Write rows whose columns are the given ones and, sorted after them, all others that occur."""
    others = sorted({key for row in rows for key in row} - {*columns})
    with atomic_path(path, shared=True, sync=True) as temporary:
        with temporary.open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
            writer = csv.DictWriter(file, (*columns, *others), lineterminator="\n")
            writer.writeheader()
            writer.writerows(rows)
