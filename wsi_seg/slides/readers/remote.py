"""TIFF slides behind a URL: a local copy of their page tables alone, and tiles in few, parallel requests.

OpenSlide, which tells the facts about a slide, and tifffile, which tells where its tiles are, read no more of
it than the page tables and the smallest level. These are put at their places into a sparse local file; both
find in it what they find in the slide itself, so that facts, fingerprint and tiles are the same as those of
a local copy. Pixels never go through it.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import IO, Protocol, cast

import tifffile

from wsi_seg.core.errors import SlideError
from wsi_seg.core.formats import TIFF_MAGIC
from wsi_seg.core.storage import Piece, PositionedFile, RemoteFile, open_remote
from wsi_seg.slides.readers.base import sampled_fingerprint
from wsi_seg.slides.readers.tiff import TIFF_ERRORS
from wsi_seg.slides.slide import SlideInfo, default_name

BLOCK = 65_536

# OpenSlide makes a hash of the smallest level unless it is larger, see its `hash_tiff_tiles`.
HASHED_BYTES = 5 * 2**20

# Heads that a process keeps, so that its threads and a reopened slide do not fetch them again.
HEADS = 16
_heads: OrderedDict[tuple[str, str, int], Head] = OrderedDict()
_heads_lock = threading.Lock()

CACHE_HINT = "fetch it whole: wsi-seg run --cache DIR"


class TileBytes(Protocol):
    """Where the bytes of stored tiles come from."""

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Make ready for reading these pieces next."""
        ...

    def read(self, offset: int, count: int) -> bytes:
        """Return up to `count` bytes from `offset`; fewer where the file ends."""
        ...

    def close(self) -> None: ...


class LocalBytes:
    """Stored tiles of a local file."""

    def __init__(self, path: str) -> None:
        self._file = Path(path).open("rb", buffering=0)  # noqa: SIM115 - closed in close

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Do nothing: the operating system reads ahead."""

    def read(self, offset: int, count: int) -> bytes:
        # Room is made for all that is asked for, and a damaged file may say any number.
        left = os.fstat(self._file.fileno()).st_size - offset
        # Reads at a place leave no file position behind that another thread could move.
        return os.pread(self._file.fileno(), min(count, left), offset) if left > 0 else b""

    def close(self) -> None:
        self._file.close()


class RemoteBytes:
    """Stored tiles of a remote file, for one thread; the last `keep` bytes of them are kept."""

    def __init__(self, head: Head, keep: int) -> None:
        self._head, self._keep = head, keep
        self._kept: OrderedDict[Piece, bytes] = OrderedDict()
        self._size = 0

    def expect(self, pieces: Sequence[Piece]) -> None:
        """Fetch the pieces that are not here, neighbours together and several at a time.

        Raises:
            SlideError: a piece stays out.
        """
        missing = [piece for piece in pieces if piece not in self._kept]
        for piece, body in zip(missing, self._head.read_pieces(missing), strict=True):
            self._kept[piece] = body
            self._size += len(body)
        for piece in pieces:
            self._kept.move_to_end(piece)
        while self._size > self._keep and len(self._kept) > len(pieces):
            self._size -= len(self._kept.popitem(last=False)[1])

    def read(self, offset: int, count: int) -> bytes:
        piece = (offset, offset + count)
        self.expect([piece])
        return self._kept[piece]

    def close(self) -> None:
        self._kept.clear()
        self._size = 0


class Head:
    """The sparse local copy of a remote file; what is read through it is fetched first, block by block."""

    def __init__(self, file: RemoteFile) -> None:
        self.file = file
        self._copy = tempfile.NamedTemporaryFile(prefix="wsi-seg-head-", suffix=".tiff")  # noqa: SIM115
        self._copy.truncate(file.size)
        self._present: set[int] = set()
        self._lock = threading.Lock()

    @property
    def local(self) -> str:
        """Path of the sparse file; zeros stand where nothing was fetched."""
        return self._copy.name

    def open(self) -> IO[bytes]:
        """Return a file object for the use of one thread."""
        return cast(IO[bytes], PositionedFile(self.file.url, self.file.size, self.read_at))

    def read_at(self, offset: int, count: int) -> bytes:
        """Return bytes that lie inside the file."""
        self.fetch([(offset, offset + count)])
        return os.pread(self._copy.fileno(), count, offset)

    def read_pieces(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of each piece; those that are not in the sparse file do not come into it."""
        away = [piece for piece in pieces if not _blocks(piece) <= self._present]
        fetched = dict(zip(away, self.file.read_pieces(away), strict=True))
        return [fetched[a, b] if (a, b) in fetched else self.read_at(a, b - a) for a, b in pieces]

    def fetch(self, pieces: Sequence[Piece]) -> None:
        """Make sure that these pieces are in the sparse file.

        Raises:
            SlideError: they cannot be read.
        """
        with self._lock:
            blocks = set().union(*map(_blocks, pieces))
            missing = sorted(blocks - self._present)
            spans = [(block * BLOCK, min((block + 1) * BLOCK, self.file.size)) for block in missing]
            for (start, _), body in zip(spans, self.file.read_pieces(spans), strict=True):
                os.pwrite(self._copy.fileno(), body, start)
            self._present |= blocks

    def describe(self, facts: SlideInfo) -> SlideInfo:
        """Return what was read from the sparse file as facts about the remote one."""
        fingerprint = facts.fingerprint
        if not fingerprint.startswith("quickhash1:"):
            fingerprint = sampled_fingerprint(self.file.size, self.read_at)
        return replace(facts, path=self.file.url, name=default_name(self.file.url), fingerprint=fingerprint)


def _blocks(piece: Piece) -> set[int]:
    start, stop = piece
    return set(range(start // BLOCK, -(-stop // BLOCK))) if stop > start else set()


def open_head(url: str) -> Head:
    """Fetch what OpenSlide and tifffile read when they open a TIFF slide, or take what this process has.

    Raises:
        SlideError: the file cannot be reached, is no TIFF, is damaged, or is of a kind that needs all of it.
    """
    file = open_remote(url)
    key = (url, file.version, file.size)
    with _heads_lock:
        if key not in _heads:
            _heads[key] = _fetch_head(file)
        _heads.move_to_end(key)
        while len(_heads) > HEADS:
            _heads.popitem(last=False)
        return _heads[key]


def _fetch_head(file: RemoteFile) -> Head:
    if not file.ranged:
        raise SlideError(f"{file.url}: the server sends no parts of files, only the whole; {CACHE_HINT}")
    head = Head(file)
    if not head.read_at(0, min(4, file.size)).startswith(TIFF_MAGIC):
        raise SlideError(f"{file.url}: only TIFF slides are read piece by piece; {CACHE_HINT}")
    try:
        with tifffile.TiffFile(head.open()) as tiff:
            if tiff.is_ndpi:
                raise SlideError(f"{file.url}: NDPI slides are not read piece by piece; {CACHE_HINT}")
            head.fetch(list(_tables(tiff)))
    except TIFF_ERRORS as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise SlideError(f"{file.url}: damaged or incomplete TIFF: {reason}") from error
    return head


def _tables(tiff: tifffile.TiffFile) -> Iterator[Piece]:
    """Yield where the tags of all pages and their values are."""
    for page in _pages(tiff):
        length = tiff.tiff.tagnosize + len(page.tags) * tiff.tiff.tagsize + tiff.tiff.offsetsize
        yield page.offset, min(page.offset + length, tiff.filehandle.size)
        for tag in page.tags:
            yield tag.valueoffset, min(tag.valueoffset + tag.valuebytecount, tiff.filehandle.size)


def _pages(tiff: tifffile.TiffFile) -> Iterator[tifffile.TiffPage]:
    for page in tiff.pages:
        whole = page.aspage()
        yield whole
        for inner in whole.pages or ():
            yield inner.aspage()
