"""The identity of a slide's content: what the filesystem says of its files, and a hash of all their bytes.

Fingerprints of readers hash samples of a file, so that they cost nothing, and miss what lies between. A slide
is therefore known by its files' sizes, times of change and inodes; where these differ, as they do for a copy,
the SHA-256 of everything decides.
"""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_seg.core.folders import dicom_files, list_folder, walk_files
from wsi_seg.core.formats import DICOM_ENDINGS, WITH_FOLDER
from wsi_seg.core.storage import is_remote, open_remote
from wsi_seg.slides.dicomweb import parse_series, stamp_series

PIECE = 2**20


@dataclass(frozen=True, slots=True)
class FileStamp:
    """A file as its filesystem or server knows it; equal stamps mean equal bytes."""

    name: str
    """Within the slide; "" for a slide of one file, wherever it lies, and the URL of a remote one."""
    size: int
    """In bytes."""
    version: str
    """Time of change and inode of a local file; the ETag or time of change of a remote one."""


@dataclass(frozen=True, slots=True)
class Content:
    """The content of a slide, as a run has found it."""

    files: tuple[FileStamp, ...]
    sha256: str | None = None
    """See `content_hash`; None where it is not known."""

    def to_json(self) -> dict[str, Any]:
        return {"files": [[f.name, f.size, f.version] for f in self.files], "sha256": self.sha256}

    @classmethod
    def from_json(cls, plain: Any) -> Content:
        """Return the content of which `plain` is the JSON; one without files where it is something else."""
        try:
            files = tuple(FileStamp(str(n), int(s), str(v)) for n, s, v in plain["files"])
            return cls(files, None if plain["sha256"] is None else str(plain["sha256"]))
        except (LookupError, TypeError, ValueError):
            return cls(())


def slide_files(path: Path) -> dict[str, Path]:
    """Return the files that make up a local slide, by name within it, sorted.

    Raises:
        OSError: there are none.
    """
    if path.is_dir():
        return _below(path, dicom_files(list_folder(path))[0])
    if path.suffix.lower() in DICOM_ENDINGS:
        return slide_files(path.parent)
    if path.suffix.lower() in WITH_FOLDER and path.with_suffix("").is_dir():
        return {"": path, **_below(path.with_suffix(""), walk_files(path.with_suffix("")))}
    return {"": path}


def _below(folder: Path, files: Iterable[Path]) -> dict[str, Path]:
    return dict(sorted((file.relative_to(folder).as_posix(), file) for file in files))


def stamp_file(path: Path, name: str = "") -> FileStamp:
    """Return the stamp of a local file; OSError where there is none."""
    status = path.stat()
    return FileStamp(name, status.st_size, f"{status.st_mtime_ns} {status.st_ino}")


def stamp_slide(path: str | Path) -> tuple[FileStamp, ...]:
    """Return the stamps of a slide's files, of the one file behind a URL, or of a DICOMweb series.

    Of the last, `size` counts instances.

    Raises:
        OSError: a local file is missing.
        SlideError: a remote file cannot be reached.
    """
    if (address := parse_series(path)) is not None:
        count, version = stamp_series(address)
        return (FileStamp(address.url, count, version),)
    if is_remote(path):
        file = open_remote(str(path))
        return (FileStamp(file.url, file.size, file.version),)
    return tuple(stamp_file(file, name) for name, file in slide_files(Path(path)).items())


def content_hash(path: Path, stop: threading.Event | None = None) -> str | None:
    """Return the SHA-256 of all bytes of a local slide; None when `stop` was set meanwhile.

    That of a slide of one file is what `sha256sum` prints; that of several is the SHA-256 of the lines that
    `sha256sum` prints for their names within the slide.

    Raises:
        OSError: a file cannot be read.
    """
    lines = []
    for name, file in slide_files(path).items():
        digest = hashlib.sha256()
        with file.open("rb", buffering=0) as opened:
            while piece := opened.read(PIECE):
                digest.update(piece)
                if stop is not None and stop.is_set():
                    return None
        lines.append((name, digest.hexdigest()))
    if [name for name, _ in lines] == [""]:
        return lines[0][1]
    return hashlib.sha256("".join(f"{value}  {name}\n" for name, value in lines).encode()).hexdigest()


@contextmanager
def hashed_meanwhile(path: Path, keep: Callable[[str], None]) -> Iterator[Future[str | None]]:
    """Compute `content_hash` in a thread, which calls `keep` with it and stops when the block is left."""
    stop = threading.Event()

    def compute() -> str | None:
        found = content_hash(path, stop)
        if found is not None:
            keep(found)
        return found

    with ThreadPoolExecutor(1, "hash") as pool:
        try:
            yield pool.submit(compute)
        finally:
            stop.set()


Verdict = Literal["same", "changed", "unknown"]


def compare_content(
    path: str | Path, now: tuple[FileStamp, ...], before: Content, *, verify: bool = False
) -> Verdict:
    """Return whether a slide, whose samples are equal to those of before, has all the bytes of before.

    All of it is read only where the stamps do not tell, or to verify.

    Returns:
        "unknown" where too little was recorded.

    Raises:
        OSError: the slide cannot be read.
    """
    if before.files == now and not (verify and not is_remote(path)):
        return "same"
    if is_remote(path):
        names = {file.name for file in before.files} == {file.name for file in now}
        return "changed" if names else "unknown"
    if before.sha256 is None:
        return "unknown"
    if _sizes(before.files) != _sizes(now):
        return "changed"
    return "same" if content_hash(Path(path)) == before.sha256 else "changed"


def _sizes(files: tuple[FileStamp, ...]) -> Mapping[str, int]:
    return {file.name: file.size for file in files}
