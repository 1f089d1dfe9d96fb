"""Results under a folder, finished or in progress, and names for them that are no paths.

A name in a URL (`id`) is a hash of the folder's place under OUT and only ever looked up in the table that a
walk has made; so nothing that a URL encodes leads anywhere else. Symbolic links are not followed: neither to
folders, nor to the files of a result.
"""

from __future__ import annotations

import hashlib
import os
import stat
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path

from wsi_seg.core.errors import OutputError
from wsi_seg.results.claims import is_held
from wsi_seg.results.files import JOURNAL, MANIFEST, MAPS, PLAN
from wsi_seg.results.folder import ResultsFolder
from wsi_seg.viewer.responses import Refused

# How deep results may lie under OUT.
DEEPEST = 8
# A walk answers for so many seconds.
FRESH_SECONDS = 1.0
PARTIAL = ".partial"


@dataclass(frozen=True, slots=True)
class ResultEntry:
    """A results folder that was found."""

    id: str
    name: str
    folder: Path
    running: bool
    """It is still being filled, or its run was interrupted; see `interrupted`."""
    version: str
    """Changes when the folder holds another result; a run that goes on keeps its version."""
    time: float
    """When it was last written, in seconds since 1970."""

    def file(self, name: str) -> Path | None:
        """Return a file of the folder; None where there is none, or only a symbolic link."""
        path = self.folder / name
        return path if path.is_file() and not path.is_symlink() else None

    def is_current(self) -> bool:
        """Tell whether the folder still holds what it held when it was found."""
        mark = _mark(self.folder, self.running)
        return mark is not None and _version(mark, self.running) == self.version

    def interrupted(self) -> bool:
        """Tell whether nobody is at work on a folder that is not finished."""
        held = is_held(ResultsFolder(self.folder.parent, self.name).claim)
        # A run gives its claim back once its folder has been renamed.
        return self.running and not held and self.folder.exists()

    def maps(self) -> Path:
        """Return the folder of the maps.

        Raises:
            Refused: 404, they are not there (yet).
            OutputError: a symbolic link lies in it.
        """
        path = self.folder / MAPS
        if not path.is_dir():
            raise Refused(404, f"{path}: no maps here (yet)")
        if path.is_symlink() or _holds_link(path):
            raise OutputError(f"{path}: holds a symbolic link, which is not followed; put the files there")
        return path


def _holds_link(folder: Path) -> bool:
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_symlink() or (entry.is_dir() and _holds_link(Path(entry.path))):
                return True
    return False


class ResultFolders:
    """The table of the results under one folder, made again when it is older than a second."""

    def __init__(self, out: Path) -> None:
        self.out = out.resolve()
        self._lock = threading.Lock()
        self._walked = -FRESH_SECONDS
        self._entries: dict[str, ResultEntry] = {}

    def all(self, *, fresh: bool = False) -> list[ResultEntry]:
        """Return all results, sorted by name and place; `fresh`: as they are at this moment."""
        with self._lock:
            now = time.monotonic()
            if fresh or now - self._walked >= FRESH_SECONDS:
                self._entries = {entry.id: entry for entry in find_results(self.out)}
                self._walked = now
            return list(self._entries.values())

    def get(self, identity: str) -> ResultEntry:
        """Return the result of this id.

        Raises:
            Refused: 404, there is none.
        """
        with self._lock:
            known = self._entries.get(identity)
        if known is not None and known.is_current():
            return known
        self.all(fresh=known is not None)
        found = self._entries.get(identity)
        if found is None:
            raise Refused(404, "no such result; it may have been moved or removed")
        return found

    def at(self, folders: Sequence[Path]) -> list[ResultEntry | None]:
        """Return the result that is in each of these folders now, None where there is none."""
        there = {entry.folder: entry for entry in self.all(fresh=True)}
        return [there.get(folder.resolve()) for folder in folders]


def find_results(out: Path) -> list[ResultEntry]:
    """Return the results in and under a folder, sorted by name, then place."""
    if (own := _entry(out, out, running=False)) is not None:
        return [own]
    found = _walk(out, out, 0)
    finished = {entry.id for entry in found if not entry.running}
    for i, entry in enumerate(found):
        # A run keeps its id when it is finished, unless it is to replace a finished one.
        if entry.running and entry.id in finished:
            found[i] = replace(entry, id=_identity(entry.folder.relative_to(out).as_posix()))
    return sorted(found, key=lambda entry: (entry.name.casefold(), str(entry.folder)))


def _walk(out: Path, folder: Path, depth: int) -> list[ResultEntry]:
    found = []
    try:
        inner = sorted(one.name for one in os.scandir(folder) if one.is_dir(follow_symlinks=False))
    except OSError:  # not ours to read, or gone meanwhile
        return []
    for name in inner:
        path = folder / name
        if name.startswith("."):
            partial = name.endswith(PARTIAL) and len(name) > len(PARTIAL) + 1
            entry = _entry(out, path, running=True) if partial else None
        else:
            entry = _entry(out, path, running=False)
            if entry is None and depth < DEEPEST:
                found += _walk(out, path, depth + 1)
        if entry is not None:
            found.append(entry)
    return found


def _mark(folder: Path, running: bool) -> os.stat_result | None:
    """Return the state of the file that makes a folder one of results, None where there is none."""
    try:
        mark = (folder / (PLAN if running else MANIFEST)).lstat()
    except OSError:
        return None
    return mark if stat.S_ISREG(mark.st_mode) else None


def _version(mark: os.stat_result, running: bool) -> str:
    return f"{mark.st_mtime_ns:x}-{mark.st_size:x}{'r' if running else ''}"


def _entry(out: Path, folder: Path, *, running: bool) -> ResultEntry | None:
    mark = _mark(folder, running)
    if mark is None:
        return None
    last = mark.st_mtime
    if running:
        with suppress(OSError):  # no block is done yet
            last = (folder / JOURNAL).lstat().st_mtime
    name = folder.name[1 : -len(PARTIAL)] if running else folder.name
    place = (folder.parent / name).relative_to(out).as_posix() if folder != out else "."
    return ResultEntry(_identity(place), name, folder, running, _version(mark, running), last)


def _identity(place: str) -> str:
    return hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()[:16]
