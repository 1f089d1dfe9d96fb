"""Slides that are open: found where a result says, lent to one thread at a time, and closed."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path

from wsi_seg.core.errors import SlideError
from wsi_seg.core.files import reason_of
from wsi_seg.core.folders import kind_of, walk_folders
from wsi_seg.slides.readers import reopen_slide
from wsi_seg.slides.slide import Slide, SlideInfo
from wsi_seg.slides.tolerant import TolerantPixels
from wsi_seg.viewer.limits import THREADS

# Files of --slides that are looked through, at most.
MOST_FILES = 200_000
# Gray of what no level shows: no slide is so all over.
UNREAD = 128


@dataclass(frozen=True, slots=True)
class SlidePlace:
    """Where the slide of a result is, or why it cannot be shown."""

    path: Path | None
    problem: str | None = None


class SlideFinder:
    """Finds the slide of a result: where the manifest says, or by its name in the folder of --slides."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = None if folder is None else folder.resolve()
        self._lock = threading.Lock()
        self._by_name: dict[str, list[Path]] | None = None
        self._checked: dict[tuple[Path, int, int, str], str | None] = {}

    def find(self, info: SlideInfo) -> SlidePlace:
        """Return where the slide is; nothing else than this file is ever opened."""
        candidates = self._candidates(info.path)
        if not candidates:
            return SlidePlace(None, f"{info.path}: the slide is not there; say where with --slides DIR")
        problems = []
        for path in candidates:
            problem = self._problem(path, info)
            if problem is None:
                return SlidePlace(path)
            problems.append(problem)
        return SlidePlace(None, problems[0])

    def is_present(self, path: str) -> bool:
        """Tell whether there is a file where the slide of a result is looked for; it is not opened."""
        return bool(self._candidates(path))

    def _candidates(self, path: str) -> list[Path]:
        if "://" in path:  # this server asks no other
            return self._named(path.rsplit("/", 1)[-1])
        stated = Path(path)
        return [*self._named(stated.name), *([stated] if kind_of(stated) == "file" else [])]

    def _named(self, name: str) -> list[Path]:
        if self._folder is None:
            return []
        with self._lock:
            if self._by_name is None:
                self._by_name = _files_by_name(self._folder)
            return self._by_name.get(name, [])

    def _problem(self, path: Path, info: SlideInfo) -> str | None:
        """Return why this file is not the slide of the result; looked at once as long as it stays."""
        try:
            state = path.stat()
        except OSError as error:
            return f"{path}: cannot be read ({reason_of(error)})"
        key = (path, state.st_mtime_ns, state.st_size, info.fingerprint)
        with self._lock:
            if key in self._checked:
                return self._checked[key]
        try:
            with reopen_slide(info, path) as slide:
                same = slide.info.fingerprint == info.fingerprint and slide.info.size == info.size
            problem = None if same else f"{path}: is another slide than the one that was segmented"
        except SlideError as error:
            problem = str(error)
        with self._lock:
            self._checked[key] = problem
        return problem


def _files_by_name(folder: Path) -> dict[str, list[Path]]:
    found: dict[str, list[Path]] = {}
    walked = walk_folders(folder, skip_unreadable=True)
    for path in islice(chain.from_iterable(files for _, files in walked), MOST_FILES):
        if not path.is_symlink() or path.resolve().is_relative_to(folder):
            found.setdefault(path.name, []).append(path)
    return found


class SlidePool:
    """Open slides, each lent to one thread at a time; what is idle too long makes room for others."""

    def __init__(self, most: int = THREADS) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._idle: list[tuple[Path, Slide]] = []

    @contextmanager
    def lend(self, path: Path, info: SlideInfo) -> Iterator[TolerantPixels]:
        """Lend an open slide that is read around its damage; what no level shows is `UNREAD` gray.

        Raises:
            SlideError: the slide cannot be opened.
        """
        slide = self._take(path, info.series) or reopen_slide(info, path)
        with ExitStack() as stack:
            stack.callback(slide.close)
            tolerant = TolerantPixels(slide, UNREAD)
            yield tolerant
            if not tolerant.lost:  # else opened again next time, as it may be repaired by then
                stack.pop_all()
                self._give_back(path, slide)

    def close(self) -> None:
        """Close all that are idle."""
        with self._lock:
            idle, self._idle = self._idle, []
        for _, slide in idle:
            slide.close()

    def _take(self, path: Path, series: int) -> Slide | None:
        with self._lock:
            for i in range(len(self._idle) - 1, -1, -1):  # the last used first: its cache is warm
                if self._idle[i][0] == path and self._idle[i][1].info.series == series:
                    return self._idle.pop(i)[1]
        return None

    def _give_back(self, path: Path, slide: Slide) -> None:
        with self._lock:
            self._idle.append((path, slide))
            surplus = [self._idle.pop(0)[1] for _ in range(len(self._idle) - self._most)]
        for one in surplus:
            one.close()
