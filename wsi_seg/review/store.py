"""The journals of a review: append-only files, one for each process that writes, all of which are read.

No file has two writers, so no lock is needed: two servers on one folder, also on a network filesystem, lose
nothing. What `append` has returned from is on the disk. A line that a kill or a full disk has cut is the last
of its file; it was never acknowledged, and is left out and said.
"""

from __future__ import annotations

import os
import threading
import uuid
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import ValidationError

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import reading, writing
from wsi_seg.results.journal import whole_lines
from wsi_seg.review.entries import ReviewEntry, parse_line
from wsi_seg.review.places import JOURNAL_ENDING, journals_of, slide_folder
from wsi_seg.slides.slide import SlideInfo


@dataclass(frozen=True, slots=True)
class SlideReview:
    """All that the journals of a slide hold."""

    entries: tuple[ReviewEntry, ...] = ()
    """In the order of their files; `state.fold` takes them in any order."""
    notes: tuple[str, ...] = ()
    """One line for each cut line that was left out."""


@dataclass(slots=True)
class _Parsed:
    """Entries read so far of a file that only grows."""

    end: int
    entries: tuple[ReviewEntry, ...]
    lines: int = 0


class ReviewStore:
    """The reviews in one folder, see `places.review_folder`; threads may share it."""

    def __init__(self, folder: Path) -> None:
        """Read from and write to a folder, which is made with the first entry."""
        self.folder = folder
        self._lock = threading.Lock()
        self._parsed: dict[Path, _Parsed] = {}
        self._own: dict[Path, Path] = {}
        """Journal that this process writes, by the folder of the slide."""

    def read(self, slide: SlideInfo) -> SlideReview:
        """Return all entries on a slide, those of other processes too; none where there is no review.

        Raises:
            OutputError: a journal cannot be read or is damaged; the message names file and line.
        """
        with self._lock:
            entries: list[ReviewEntry] = []
            notes: list[str] = []
            for path in journals_of(self.folder, slide):
                found, cut = self._read_file(path)
                entries += (entry for entry in found if entry.slide == slide.fingerprint)
                if cut:
                    notes.append(f"{path}: its last line was cut ({cut} bytes) and is left out")
            return SlideReview(tuple(entries), tuple(notes))

    def append(self, slide: SlideInfo, entries: Sequence[ReviewEntry]) -> None:
        """Append entries on a slide and return once they are on the disk.

        Raises:
            OutputError: they cannot be written (full disk, no permission); then none of them holds.
            ValueError: an entry is of another slide.
        """
        if any(entry.slide != slide.fingerprint for entry in entries):
            raise ValueError("an entry is of another slide")
        if not entries:
            return
        lines = b"".join(entry.to_line() for entry in entries)
        folder = slide_folder(self.folder, slide)
        with self._lock, writing(folder):
            path = self._own.pop(folder, None) or _new_journal(folder)
            _append_whole(path, lines)
            self._own[folder] = path  # after a failure the next entry begins another file

    def _read_file(self, path: Path) -> tuple[tuple[ReviewEntry, ...], int]:
        """Return the entries of a journal, and how many bytes of a cut line follow them."""
        known = self._parsed.get(path)
        with reading(path, OutputError), path.open("rb") as file:
            size = os.fstat(file.fileno()).st_size
            if known is None or size < known.end:
                known = _Parsed(0, ())
            file.seek(known.end)
            content = file.read()
        whole = whole_lines(content)
        first = known.lines + 1
        lines = whole.splitlines()
        found = [_parse(line, path, number) for number, line in enumerate(lines, first) if line.strip()]
        known = _Parsed(known.end + len(whole), (*known.entries, *found), known.lines + len(lines))
        self._parsed[path] = known
        return known.entries, len(content) - len(whole)


def _parse(line: bytes, path: Path, number: int) -> ReviewEntry:
    try:
        return parse_line(line)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] in ("extra_forbidden", "literal_error"):
            raise OutputError(
                f"{path}: line {number} is of a newer version of wsi-seg ({where}); use that version"
            ) from error
        raise OutputError(
            f"{path}: line {number} is damaged ({f'{where}: ' if where else ''}{first['msg']}); "
            "move that line elsewhere, the others are good"
        ) from error


def _new_journal(folder: Path) -> Path:
    """Make an empty journal, whose name no other process uses, and have its folder on the disk."""
    if folder.is_symlink():
        raise OutputError(f"{folder}: is a link, and nothing is written elsewhere; remove it")
    folder.mkdir(parents=True, exist_ok=True)
    stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%S")
    path = folder / f"{stamp}-{uuid.uuid4().hex[:12]}{JOURNAL_ENDING}"
    path.open("xb").close()
    for place in (folder, folder.parent, folder.parent.parent):
        _sync_folder(place)
    return path


def _sync_folder(folder: Path) -> None:
    """Have the names in a folder on the disk, where its filesystem can tell."""
    with suppress(PermissionError):  # a folder that may be passed through, and not read
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            with suppress(OSError):  # some network filesystems take no fsync of folders
                os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _append_whole(path: Path, lines: bytes) -> None:
    """Append bytes and have them on the disk; where that fails the file is as before, if that can be."""
    with path.open("r+b") as file:
        end = file.seek(0, os.SEEK_END)
        try:
            file.write(lines)
            file.flush()
            os.fsync(file.fileno())
        except OSError:
            with suppress(OSError):
                os.ftruncate(file.fileno(), end)
                os.fsync(file.fileno())
            raise
