"""Shares of a batch for job arrays: the slides of each, its own tables, and the tables of all made one.

Tasks of an array run on many machines, whose filesystem may have no locks between them. So each writes tables
into a folder of its own, and one run of `merge_shares`, when they have ended, writes those of the batch.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.files import writing
from wsi_seg.core.storage import is_remote
from wsi_seg.pipeline.batch_table import read_rows, write_tables
from wsi_seg.pipeline.inputs import SlideInput
from wsi_seg.results.files import BATCH, FAILED, SHARES, read_record, write_json
from wsi_seg.results.pages.batch import model_facts, write_batch_page

RECORD = "share.json"
MERGED = "merged.json"
_SHARE = re.compile(r"([0-9]{1,6})/([0-9]{1,6})")
_FOLDER = re.compile(r"([0-9]{1,6})-of-([0-9]{1,6})")


@dataclass(frozen=True, slots=True, order=True)
class Share:
    """Share `number`, counted from 1, of `count`."""

    count: int
    number: int

    @classmethod
    def parse(cls, text: str, out: str) -> Share:
        """Return the share that `N/M` means.

        Raises:
            UsageError: it means none, or `out` is a URL, next to which shares cannot keep tables.
        """
        match = _SHARE.fullmatch(text)
        share = cls(int(match[2]), int(match[1])) if match else cls(0, 0)
        if not 1 <= share.number <= share.count:
            raise UsageError(f"--array {text}: no share N/M with N from 1 to M; give one, such as 3/8")
        if is_remote(out):
            raise UsageError(f"--array keeps tables in {SHARES}/ of the output, so {out} must be a folder")
        return share

    def __str__(self) -> str:
        return f"{self.number} of {self.count}"

    @property
    def folder(self) -> Path:
        """Folder of its tables in that of all results."""
        return Path(SHARES, f"{self.number}-of-{self.count}")

    def take(self, slides: Sequence[SlideInput]) -> list[SlideInput]:
        """Return every `count`-th slide in the order of names, whatever is done already."""
        return sorted(slides, key=lambda slide: slide.name)[self.number - 1 :: self.count]

    def begin(self, out: Path, slides: Sequence[SlideInput], models: Sequence[Mapping[str, str]]) -> None:
        """Note that this share runs, of which list of slides it is, and what the batch's page says of models.

        OutputError where that is refused.
        """
        names = "\n".join(sorted(f"{slide.name}\t{slide.path}" for slide in slides))
        digest = hashlib.sha256(names.encode(errors="surrogateescape")).hexdigest()
        with writing(out / self.folder):
            (out / self.folder).mkdir(parents=True, exist_ok=True)
        write_json(out / self.folder / RECORD, {"slides": len(slides), "list": digest, "models": models})


@dataclass(frozen=True, slots=True)
class Merged:
    """The tables of a batch, and what is wrong with its shares."""

    rows: Sequence[dict[str, Any]]
    """Of `batch.csv`, those of earlier batches included."""
    missing: Sequence[Share]
    """Shares of the last array that have not begun."""
    unlike: Sequence[Share]
    """Shares of the last array that were cut from another list of slides than most."""


def merge_shares(out: Path) -> Merged:
    """Write `batch.csv`, `failed.csv` and `report.html` of all shares in the folder of all results.

    A share is read again when its table has changed since the last time, and then its rows replace those of
    the same slides. Run again, also after a crash in the middle, it writes the same.

    Raises:
        UsageError: there are no shares.
        OutputError: a share's record is damaged, or a file cannot be written.
    """
    shares = _shares(out)
    if not shares:
        raise UsageError(f"{out}: holds no {SHARES}/N-of-M; run all of an array with --array N/M first")
    records = {share: read_record(out / share.folder / RECORD) for share in shares}
    known = read_record(out / SHARES / MERGED) if (out / SHARES / MERGED).is_file() else {}
    times = {share: _time(out / share.folder / BATCH) for share in shares}
    changed = [share for share in shares if times[share] and times[share] != known.get(share.folder.name)]
    rows: dict[str, dict[str, Any]] = {}
    failed: dict[str, dict[str, Any]] = {}
    for share in sorted(changed, key=lambda share: times[share]):
        for row in read_rows(out / share.folder / BATCH):
            rows[row["name"]] = row
            failed.pop(row["name"], None)
        failed |= {row["name"]: row for row in read_rows(out / share.folder / FAILED)}
    written = write_tables(out, set(rows), list(rows.values()), list(failed.values()))
    write_batch_page(out, written, models=_models(out, records))
    write_json(out / SHARES / MERGED, {share.folder.name: times[share] for share in shares})
    return Merged(written, *_checked(out, records))


def _models(out: Path, records: Mapping[Share, dict[str, Any]]) -> list[dict[str, str]]:
    """Return what the shares noted of their models."""
    found: list[dict[str, str]] = []
    for share, record in records.items():
        models = record.get("models", [])
        if not isinstance(models, list) or not all(isinstance(model, dict) for model in models):
            raise OutputError(f"{out / share.folder / RECORD}: is damaged (models); run the share again")
        found += map(model_facts, models)
    return found


def _shares(out: Path) -> list[Share]:
    """Return the shares that have begun."""
    matches = (_FOLDER.fullmatch(record.parent.name) for record in (out / SHARES).glob(f"*/{RECORD}"))
    return sorted(Share(int(match[2]), int(match[1])) for match in matches if match)


def _time(path: Path) -> int:
    """Return when a file was written, in ns; 0 where there is none."""
    return path.stat().st_mtime_ns if path.is_file() else 0


def _checked(out: Path, records: dict[Share, dict[str, Any]]) -> tuple[list[Share], list[Share]]:
    """Return the shares of the last array that are missing, and those of another list of slides."""
    count = max(records, key=lambda share: _time(out / share.folder / RECORD)).count
    last = {share: record.get("list") for share, record in records.items() if share.count == count}
    lists = list(last.values())
    usual = max(lists, key=lists.count)
    missing = [Share(count, number) for number in range(1, count + 1) if Share(count, number) not in last]
    return missing, [share for share, cut in last.items() if cut != usual]
