"""A folder of whole slides, fetched once each, that never takes more than it is allowed.

    DIR/wsi-seg-slides/<hash>-<name>         a whole slide; `hash` is of its URL and version
    DIR/wsi-seg-slides/<hash>-<name>.part    one that is being fetched, of its final size from the start
    DIR/wsi-seg-slides/.wsi_seg.lock         held while room is made

Nothing else is counted or touched: DIR may hold other files, and 24 hexadecimal digits before a name are an
archive's identifier elsewhere. Slides that earlier versions kept in DIR itself stay there unused.
Processes and threads may share a folder. Whoever uses a file holds a shared lock on it (flock), whoever
fetches one an exclusive one; the kernel drops both when a process ends, however it ends. A file is removed
only by who holds the lock and gets an exclusive lock on the file: what is in use stays. What was used least
recently goes first; the time of use is set here, as many disks are mounted so that reading does not set it.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import os
import re
import stat
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Annotated, Any, ClassVar

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
        descriptor = self._acquire(file)
        try:
            yield self._path(file)
        finally:
            os.close(descriptor)  # and with it the lock

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

    def _acquire(self, file: RemoteFile) -> int:
        """Return a descriptor that holds a shared lock on the whole local copy."""
        path = self._path(file)
        with _disk(path):
            path.parent.mkdir(parents=True, exist_ok=True)
        while True:
            descriptor = _locked(path, os.O_RDONLY, fcntl.LOCK_SH)
            if descriptor is not None:
                os.utime(path, (time.time(), path.stat().st_mtime))
                return descriptor
            part = path.with_name(path.name + PART)
            descriptor = _locked(part, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
            if descriptor is None:
                continue  # who held it has renamed or removed it
            with ExitStack() as stack:
                stack.callback(os.close, descriptor)
                stack.callback(part.unlink, missing_ok=True)  # where fetching fails, or somebody was quicker
                if not path.exists():
                    self._fetch(file, part, descriptor)
                    with self._changing():
                        part.rename(path)

    def _fetch(self, file: RemoteFile, part: Path, descriptor: int) -> None:
        with _disk(part):
            os.ftruncate(descriptor, 0)
        self._reserve(file, descriptor)
        offset = 0
        for piece in file.stream():
            with _disk(part):
                offset += os.pwrite(descriptor, piece, offset)
        with _disk(part):
            os.fsync(descriptor)

    def _reserve(self, file: RemoteFile, descriptor: int) -> None:
        """Give a file its final size, after removing what was used least recently to make room for it."""
        with self._changing():
            taken = self._entries()
            for path in sorted(taken, key=lambda path: taken[path].st_atime_ns):
                if _total(taken) + file.size <= self.size:
                    break
                if _remove_unused(path):
                    del taken[path]
            if _total(taken) + file.size > self.size:
                raise SlideError(
                    f"{file.url}: the cache {self.folder} has no room for its {file.size / GB:.3g} GB: "
                    f"slides in use take {_total(taken) / GB:.3g} of {self.size / GB:.3g} GB; raise "
                    "--cache-size or run again later"
                )
            with _disk(self.own):
                os.ftruncate(descriptor, file.size)

    @contextmanager
    def _changing(self) -> Iterator[None]:
        """Keep other processes and threads from making room or renaming meanwhile."""
        path = self.own / LOCK
        descriptor = None
        while descriptor is None:
            descriptor = _locked(path, os.O_RDWR | os.O_CREAT, fcntl.LOCK_EX)
        try:
            yield
        finally:
            os.close(descriptor)

    def _entries(self) -> dict[Path, os.stat_result]:
        entries = {}
        for path in self.own.iterdir():
            if OWN_NAME.fullmatch(path.name):
                with suppress(FileNotFoundError):  # a fetch that failed meanwhile
                    facts = path.lstat()
                    if stat.S_ISREG(facts.st_mode):
                        entries[path] = facts
        return entries


def _total(entries: Mapping[Path, os.stat_result]) -> int:
    return sum(facts.st_size for facts in entries.values())


def _remove_unused(path: Path) -> bool:
    """Remove a file unless somebody uses or fetches it, and tell whether it is gone."""
    descriptor = _locked(path, os.O_RDONLY, fcntl.LOCK_EX | fcntl.LOCK_NB)
    if descriptor is None:
        return not path.exists()
    try:
        path.unlink()
    finally:
        os.close(descriptor)
    return True


def _locked(path: Path, flags: int, lock: int) -> int | None:
    """Open and lock a file; None where it is not there, no more there, or somebody else's."""
    try:
        with _disk(path):
            descriptor = os.open(path, flags, 0o644)
    except FileNotFoundError:
        return None
    with ExitStack() as stack:
        stack.callback(os.close, descriptor)
        with suppress(BlockingIOError, FileNotFoundError):
            with _disk(path):
                fcntl.flock(descriptor, lock)
            if os.fstat(descriptor).st_ino == path.stat().st_ino:
                stack.pop_all()
                return descriptor
    return None


@contextmanager
def _disk(path: Path) -> Iterator[None]:
    """Turn the operating system's refusals, but "not there" and "locked", into one clear line."""
    try:
        yield
    except (FileNotFoundError, BlockingIOError):
        raise
    except OSError as error:
        way_out = "make room" if error.errno == errno.ENOSPC else "choose another folder"
        raise OutputError(
            f"{path}: the slide cache cannot be written ({error.strerror}); {way_out}"
        ) from error
