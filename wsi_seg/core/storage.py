"""Files behind a URL, through fsspec: facts, pieces, whole files, and one line for whatever goes wrong.

Credentials, endpoints and regions come from the environment, as each library of `BACKENDS` looks them up.
fsspec is imported on use only, so that local files wait for nothing.

Two things are done here that fsspec leaves to its callers. `merge`: its `cat_ranges` takes no `max_gap` for
any of these stores, and its `merge_offset_ranges` (2025.12) left pieces out in 1,379 of 3,000 random lists
with overlaps. `RemoteFile.read_pieces`: over http fsspec asks once, and takes what comes short.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from io import BufferedReader
from pathlib import Path
from typing import Any, cast

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
    """Return whether a path is a URL."""
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
    """True where pieces can be fetched; else only the whole file."""
    file_system: Any = field(repr=False, compare=False)
    path: str = field(repr=False)
    """As `file_system` names it."""

    def read_pieces(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of each piece; neighbors are fetched together, requests run side by side.

        What fails or comes short is asked for again, `ATTEMPTS` times in all.

        Raises:
            SlideError: no permission, no such file any more, or a piece stays out.
        """
        spans = merge(pieces)
        bodies: dict[Piece, bytes] = {}
        failure: BaseException = OSError("nothing came")
        for attempt in range(ATTEMPTS):
            missing = [span for span in spans if span not in bodies]
            if not missing:
                break
            if attempt:
                time.sleep(PAUSE_SECONDS * 2 ** (attempt - 1))
            failure = self._fetch(missing, bodies)
        if len(bodies) < len(spans):
            raise SlideError(f"{describe(self.url, failure)} after {ATTEMPTS} attempts") from failure
        found = []
        for start, stop in pieces:
            first, body = next((a, bodies[a, b]) for a, b in spans if a <= start and stop <= b)
            found.append(body[start - first : stop - first])
        return found

    def _fetch(self, spans: Sequence[Piece], bodies: dict[Piece, bytes]) -> BaseException:
        """Fetch spans into `bodies` and return why one is not there."""
        starts, stops = [start for start, _ in spans], [stop for _, stop in spans]
        failure: BaseException = OSError("nothing came")
        with reported(self.url, SlideError):
            found = self.file_system.cat_ranges(
                [self.path] * len(spans), starts, stops, on_error="return", batch_size=REQUESTS_AT_ONCE
            )
            for (start, stop), body in zip(spans, found, strict=True):
                if not isinstance(body, bytes):
                    if is_final(body) or not isinstance(body, storage_errors()):
                        raise body
                    failure = body
                elif len(body) == stop - start:
                    bodies[start, stop] = body
                else:
                    failure = OSError(f"{len(body)} of {stop - start} bytes came")
        return failure

    def open(self) -> BufferedReader:
        """Return a file object of one thread that fetches blocks and keeps the last of them."""
        from fsspec.caching import BlockCache

        def fetch(start: int, stop: int) -> bytes:
            return self.read_pieces([(start, min(stop, self.size))])[0]

        return self.as_file(BlockCache(BLOCK_BYTES, fetch, self.size, maxblocks=BLOCKS_KEPT))

    def as_file(self, cache: Any) -> BufferedReader:
        """Return a read-only file object of one thread over a cache of `fsspec.caching`."""
        from fsspec.spec import AbstractBufferedFile

        file = AbstractBufferedFile(self.file_system, self.path, size=self.size, cache_type="none")
        file.cache = cache
        return cast(BufferedReader, file)

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


def merge(pieces: Sequence[Piece]) -> list[Piece]:
    """Return what to fetch for pieces of a file: sorted spans, in one of which each piece lies.

    Pieces less than `GAP_BYTES` apart share a span of at most `REQUEST_BYTES`; a larger piece has its own.
    """
    spans: list[Piece] = []
    for start, stop in sorted(pieces):
        if spans:
            first, last = spans[-1]
            if stop <= last or (start - last < GAP_BYTES and stop - first <= REQUEST_BYTES):
                spans[-1] = first, max(stop, last)
                continue
        spans.append((start, stop))
    return spans


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
