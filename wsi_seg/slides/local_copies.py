"""A folder of whole slides, fetched once each, that never takes more than it is allowed.

    DIR/wsi-seg-slides/<hash>-<name>         a whole slide; `hash` is of its URL and version
    DIR/wsi-seg-slides/<hash>-<name>.part    one that is being fetched, or was by a process that was killed
    DIR/wsi-seg-slides/.wsi_seg.lock         held while room is made and a slide is fetched, one at a time

Nothing else is counted or touched: DIR may hold other files, and 24 hexadecimal digits before a name are an
archive's identifier elsewhere. Slides that earlier versions kept in DIR itself stay there unused.
Processes and threads may share a folder. Whoever uses a file holds a shared lock on it (flock), which the
kernel drops when a process ends, however it ends. A file is removed only by who gets an exclusive lock on it:
what is in use stays. What was used least recently goes first; the time of use is set here, as many disks are
mounted so that reading does not set it.

fsspec's file caches (`filecache`, `simplecache`) cannot stand in: they know no bound and no files in use.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any, BinaryIO, ClassVar

from pydantic import BeforeValidator
from pydantic.dataclasses import dataclass

from wsi_seg.core.errors import OutputError, SlideError
from wsi_seg.core.formats import DICOM_ENDINGS, DICOM_HEAD, WITH_FOLDER, is_dicom
from wsi_seg.core.settings import CONFIG, Bytes, absolute_path, checked, setting
from wsi_seg.core.storage import RemoteFile, open_remote

OWN = "wsi-seg-slides"
PART = ".part"
LOCK = ".wsi_seg.lock"
# Names that this module gives: see `SlideCache._path`.
OWN_NAME = re.compile(r"[0-9a-f]{24}-.*")
GB = 10**9


def _folder(value: Any) -> Any:
    return "" if value is None else absolute_path(value)


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class SlideCache:
    """Where whole slides are kept, and how much room they get; the folder may hold the user's files too."""

    title: ClassVar = "Slides behind URLs"

    folder: Annotated[str, BeforeValidator(_folder)] = setting(
        "", "Folder that keeps whole slides fetched from URLs; null: they are read piece by piece.",
        key="cache", metavar="DIR", scope="run",
    )  # fmt: skip
    size: Bytes = setting(
        50 * GB, "Room in that folder, such as 50GB; the least recently used slides go first.",
        key="cache_size", metavar="SIZE", scope="run", gt=0,
    )  # fmt: skip

    @property
    def own(self) -> Path:
        """Folder of what this cache fetched."""
        return Path(self.folder) / OWN

    @contextmanager
    def lease(self, url: str) -> Iterator[Path]:
        """Give the local copy of a remote slide, fetched now where it is not here; it stays while in use.

        Raises:
            SlideError: the slide cannot be fetched, is larger than the cache, or slides in use leave no room.
            OutputError: the folder cannot be written.
        """
        file = open_remote(url)
        self._check(file)
        path = self._path(file)
        with _disk(path):
            copy = _hold(path)
        with copy or self._fetch(file, path):
            yield path

    def _check(self, file: RemoteFile) -> None:
        if file.size > self.size:
            raise SlideError(
                f"{file.url}: its {file.size / GB:.3g} GB are more than the whole cache of "
                f"{self.size / GB:.3g} GB; raise --cache-size"
            )
        several = file.url.lower().endswith((*WITH_FOLDER, *DICOM_ENDINGS))
        if not several and file.ranged and file.size > DICOM_HEAD:
            several = is_dicom(file.read_pieces([(0, DICOM_HEAD)])[0])
        if several:
            raise SlideError(f"{file.url}: a slide of several files; copy all of them to a local folder")

    def _path(self, file: RemoteFile) -> Path:
        digest = hashlib.sha256(f"{file.url}\0{file.version}\0{file.size}".encode()).hexdigest()[:24]
        # The ending tells OpenSlide what it is.
        name = file.url.partition("?")[0].rsplit("/", 1)[-1][-80:]
        return self.own / f"{digest}-{name}"

    def _fetch(self, file: RemoteFile, path: Path) -> BinaryIO:
        """Return the whole local copy, held, after fetching it unless somebody was quicker."""
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            lock = (path.parent / LOCK).open("a")
        with lock, _disk(path):
            fcntl.flock(lock, fcntl.LOCK_EX)
            copy = _hold(path)
            if copy is not None:
                return copy
            part = path.with_name(path.name + PART)
            self._make_room(file)
            try:
                with part.open("wb") as target:
                    for piece in file.stream():
                        target.write(piece)
                    target.flush()
                    os.fsync(target.fileno())
                part.rename(path)
            finally:
                part.unlink(missing_ok=True)
            copy = path.open("rb")
            fcntl.flock(copy, fcntl.LOCK_SH)
            return copy

    def _make_room(self, file: RemoteFile) -> None:
        """Remove what was used least recently and is in nobody's use, until a file finds room."""
        entries = []
        for path in self.own.iterdir():
            facts = path.lstat()
            if not OWN_NAME.fullmatch(path.name) or not stat.S_ISREG(facts.st_mode):
                continue
            # Nobody else fetches meanwhile: a part was left by a process that was killed.
            if not path.name.endswith(PART) or not _remove_unused(path):
                entries.append((facts.st_atime_ns, facts.st_size, path))
        taken = sum(size for _, size, _ in entries)
        for _, size, path in sorted(entries):
            if taken + file.size <= self.size:
                return
            if _remove_unused(path):
                taken -= size
        if taken + file.size > self.size:
            raise SlideError(
                f"{file.url}: the cache {self.folder} has no room for its {file.size / GB:.3g} GB: "
                f"slides in use take {taken / GB:.3g} of {self.size / GB:.3g} GB; raise "
                "--cache-size or run again later"
            )


def _hold(path: Path) -> BinaryIO | None:
    """Open a whole slide with a shared lock, as used now; None where there is none."""
    try:
        file = path.open("rb")
    except FileNotFoundError:
        return None
    fcntl.flock(file, fcntl.LOCK_SH)
    facts = os.fstat(file.fileno())
    if facts.st_nlink == 0:  # removed before the lock was held
        file.close()
        return None
    os.utime(file.fileno(), (time.time(), facts.st_mtime))
    return file


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody uses it, and return whether it is gone."""
    with path.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        path.unlink()
    return True


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals into one clear line."""
    try:
        yield
    except OSError as error:
        way_out = "make room" if error.errno == errno.ENOSPC else "choose another folder"
        raise OutputError(
            f"{path}: the slide cache cannot be written ({error.strerror}); {way_out}"
        ) from error
