"""Files behind a URL, through fsspec: what they are, pieces of them, and one line for whatever goes wrong.

Credentials, endpoints and regions come from the environment, as each library of `BACKENDS` looks them up.
fsspec is imported on use only, so that local files wait for nothing.
"""

from __future__ import annotations

import io
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from wsi_seg.core.errors import SlideError, WsiSegError
from wsi_seg.core.storage_errors import describe, is_final, reason_of, reported, storage_errors

# The package that fsspec needs for a scheme; all are in the extra `cloud`.
BACKENDS = {
    "http": "aiohttp",
    "https": "aiohttp",
    "s3": "s3fs",
    "gs": "gcsfs",
    "az": "adlfs",
}

# Pieces this close are fetched in one request: a request takes as long as some 100 KB.
GAP_BYTES = 65_536
# No request is larger, so that a long run of tiles is fetched by several at once.
REQUEST_BYTES = 2 * 2**20
REQUESTS_AT_ONCE = 8
ATTEMPTS = 4
PAUSE_SECONDS = 0.25

# What a file object fetches at a time, and how many of these it keeps.
BLOCK_BYTES = 262_144
BLOCKS_KEPT = 64

Piece = tuple[int, int]
"""First byte and the one after the last."""


def is_remote(path: str | Path) -> bool:
    """Tell whether a path is a URL."""
    return "://" in str(path)


@dataclass(frozen=True)
class RemoteFile:
    """A file behind a URL, as it was found. Threads may share it."""

    url: str
    size: int
    """In bytes."""
    version: str
    """The server's ETag, or where it gives none the time of the last change; "" where it gives neither."""
    ranged: bool
    """Whether pieces can be fetched; if not, only the whole."""
    file_system: Any = field(repr=False, compare=False)
    path: str = field(repr=False)
    """As `file_system` names it."""

    def read_pieces(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of each piece; neighbours are fetched together, requests run side by side.

        What fails or comes short is asked for again, `ATTEMPTS` times in all.

        Raises:
            SlideError: no permission, no such file any more, or a piece stays out.
        """
        groups = coalesce(pieces)
        bodies: dict[Piece, bytes] = {}
        wanted = [span for span, _ in groups]
        for attempt in range(ATTEMPTS):
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            failure = self._fetch(wanted, bodies)
            wanted = [span for span in wanted if span not in bodies]
            if not wanted:
                break
        else:
            raise SlideError(f"{describe(self.url, failure)} after {ATTEMPTS} attempts") from failure
        out = [b""] * len(pieces)
        for span, members in groups:
            for index in members:
                start, stop = pieces[index]
                out[index] = bodies[span][start - span[0] : stop - span[0]]
        return out

    def _fetch(self, wanted: Sequence[Piece], bodies: dict[Piece, bytes]) -> BaseException:
        """Fetch pieces into `bodies` and return why one is not there."""
        starts, stops = [start for start, _ in wanted], [stop for _, stop in wanted]
        failure: BaseException = OSError("nothing came")
        with reported(self.url, SlideError):
            found = self.file_system.cat_ranges(
                [self.path] * len(wanted), starts, stops, on_error="return", batch_size=REQUESTS_AT_ONCE
            )
        for (start, stop), body in zip(wanted, found, strict=True):
            if isinstance(body, bytes) and len(body) == stop - start:
                bodies[start, stop] = body
            elif isinstance(body, bytes):
                failure = OSError(f"{len(body)} of {stop - start} bytes came")
            elif not isinstance(body, storage_errors()):
                raise body
            elif is_final(body):
                raise SlideError(describe(self.url, body)) from body
            else:
                failure = body
        return failure

    def open(self) -> PositionedFile:
        """Return a file object of one thread that fetches blocks and keeps the last of them."""

        @lru_cache(BLOCKS_KEPT)
        def block(number: int) -> bytes:
            start = number * BLOCK_BYTES
            return self.read_pieces([(start, min(start + BLOCK_BYTES, self.size))])[0]

        def read_at(offset: int, count: int) -> bytes:
            first, last = offset // BLOCK_BYTES, (offset + count - 1) // BLOCK_BYTES
            joined = b"".join(map(block, range(first, last + 1)))
            return joined[offset - first * BLOCK_BYTES :][:count]

        return PositionedFile(self.url, self.size, read_at)

    def stream(self, block: int = 4 * REQUEST_BYTES) -> Iterator[bytes]:
        """Yield the whole file from start to end, in pieces of no particular size.

        Raises:
            SlideError: it cannot be read, or more or fewer bytes come than the server said.
        """
        if self.ranged:
            for start in range(0, self.size, block):
                stop = min(start + block, self.size)
                yield from self.read_pieces(
                    [(a, min(a + REQUEST_BYTES, stop)) for a in range(start, stop, REQUEST_BYTES)]
                )
            return
        count = 0
        with reported(self.url, SlideError), self.file_system.open(self.path, block_size=0) as file:
            while (piece := file.read(REQUEST_BYTES)) and count <= self.size:
                count += len(piece)
                yield piece
        if count != self.size:
            raise SlideError(f"{self.url}: {count} bytes came, not the {self.size} that the server promised")


class PositionedFile(io.RawIOBase):
    """A read-only file object for libraries that take one, over a function that reads at a place."""

    def __init__(self, name: str, size: int, read_at: Callable[[int, int], bytes]) -> None:
        """Make a file object at position 0.

        Args:
            name: shown in messages.
            size: of the file in bytes.
            read_at: returns the bytes at (offset, count), which lie inside the file.
        """
        self.name, self.size = name, size
        self._read_at = read_at
        self._at = 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._at

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        start = {io.SEEK_SET: 0, io.SEEK_CUR: self._at, io.SEEK_END: self.size}[whence]
        self._at = max(0, start + offset)
        return self._at

    def readinto(self, buffer: Any) -> int:
        view = memoryview(buffer).cast("B")
        count = max(0, min(len(view), self.size - self._at))
        if count:
            view[:count] = self._read_at(self._at, count)
            self._at += count
        return count


def coalesce(pieces: Sequence[Piece]) -> list[tuple[Piece, list[int]]]:
    """Return what to fetch for pieces of a file: spans, and the indices of the pieces that each covers.

    Pieces less than `GAP_BYTES` apart share a span of at most `REQUEST_BYTES`; a larger piece has its own.
    """
    groups: list[tuple[Piece, list[int]]] = []
    for index in sorted(range(len(pieces)), key=lambda index: pieces[index]):
        start, stop = pieces[index]
        if groups:
            (first, last), members = groups[-1]
            if start - last < GAP_BYTES and max(stop, last) - first <= REQUEST_BYTES:
                members.append(index)
                groups[-1] = (first, max(stop, last)), members
                continue
        groups.append(((start, stop), [index]))
    return groups


def open_remote(url: str) -> RemoteFile:
    """Look a file up; nothing of it is read.

    Raises:
        SlideError: the address is wrong, a package is missing, or the file is missing, empty or closed to us.
    """
    file_system, path = connect(url, SlideError)
    with reported(url, SlideError):
        file_system.invalidate_cache()
        facts = file_system.info(path)
    if facts["type"] != "file":
        raise SlideError(
            f"{url}: this is a folder; copy slides of several files (DICOM series, MRXS) to a local folder"
        )
    size = facts.get("size")
    if size is None:
        raise SlideError(f"{url}: the server does not say the size of the file; download it first")
    if size == 0:
        raise SlideError(f"{url}: the file is empty")
    found = RemoteFile(url, int(size), _version(facts), True, file_system, path)
    return found if not url.startswith("http") or _serves_ranges(found) else replace(found, ranged=False)


def connect(url: str, kind: type[WsiSegError]) -> tuple[Any, str]:
    """Return the file system behind a URL, and the file's path in it.

    Raises:
        WsiSegError: of the given kind, where the scheme is unknown or its package or account is missing.
    """
    scheme = url.partition("://")[0]
    if scheme not in BACKENDS:
        raise kind(f"{url}: unknown scheme {scheme!r}; use one of {', '.join(BACKENDS)}, or a local path")
    try:
        from fsspec.core import url_to_fs

        with reported(url, kind):
            file_system, path = url_to_fs(url)
    except ImportError as error:
        raise kind(
            f"{url}: this address needs {BACKENDS[scheme]}; install it with: pip install 'wsi-seg[cloud]'"
        ) from error
    except ValueError as error:  # of gcsfs and adlfs, where no account is given
        raise kind(f"{url}: cannot be reached ({reason_of(error)}); see docs/cloud.md") from error
    return file_system, path


def _version(facts: dict[str, Any]) -> str:
    for name in ("ETag", "etag", "LastModified", "last_modified", "Last-Modified", "mtime", "updated"):
        if facts.get(name):
            return str(facts[name]).strip('"')
    return ""


def _serves_ranges(file: RemoteFile) -> bool:
    """Ask a web server for the last byte: some send the whole file whatever they are asked for."""
    with reported(file.url, SlideError):
        try:
            with file.file_system.open(file.path, size=file.size, cache_type="none") as opened:
                opened.seek(file.size - 1)
                return len(opened.read(1)) == 1
        except ValueError:  # fsspec's word for an answer that is no part of the file
            return False
