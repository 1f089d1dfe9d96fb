"""TIFF slides behind a URL: a local copy of their page tables alone, and tiles in few, parallel requests.

OpenSlide, which tells the facts about a slide, and tifffile, which tells where its tiles are, read no more of
it than the page tables and the smallest level. These are put at their places into a sparse local file; both
find in it what they find in the slide itself, so that facts, fingerprint and tiles are the same as those of
a local copy. Pixels never go through it, so it takes little room.

fsspec's own sparse copy (`caching.MMapCache`) cannot stand in: it notes blocks as present before they have
come, so that after a failed request they read as zeros.
"""

from __future__ import annotations

import os
import tempfile
import threading
from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import lru_cache
from io import BufferedReader

import tifffile

from wsi_seg.core.errors import SlideError
from wsi_seg.core.formats import TIFF_MAGIC
from wsi_seg.core.storage import Piece, RemoteFile, open_remote
from wsi_seg.slides.readers.base import file_fingerprint
from wsi_seg.slides.readers.tiff import TIFF_ERRORS
from wsi_seg.slides.slide import SlideInfo, default_name

BLOCK = 65_536

# OpenSlide makes a hash of the smallest level unless it is larger, see its `hash_tiff_tiles`.
HASHED_BYTES = 5 * 2**20

# Heads that a process keeps, so that its threads and a reopened slide do not fetch them again.
HEADS = 16
_one_at_a_time = threading.Lock()

CACHE_HINT = "fetch it whole: wsi-seg run --cache DIR"


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

    def open(self) -> BufferedReader:
        """Return a file object for the use of one thread."""
        from fsspec.caching import BaseCache

        return self.file.as_file(BaseCache(BLOCK, self._read, self.file.size))

    def read_pieces(self, pieces: Sequence[Piece]) -> list[bytes]:
        """Return the bytes of each piece; those that are not in the sparse file do not come into it.

        Raises:
            SlideError: a piece stays out.
        """
        away = [piece for piece in pieces if not _blocks(piece) <= self._present]
        fetched = dict(zip(away, self.file.read_pieces(away), strict=True))
        return [fetched[piece] if piece in fetched else self._read(*piece) for piece in pieces]

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
            fingerprint = file_fingerprint(self.open())
        return replace(facts, path=self.file.url, name=default_name(self.file.url), fingerprint=fingerprint)

    def _read(self, start: int, stop: int) -> bytes:
        stop = min(stop, self.file.size)
        self.fetch([(start, stop)])
        return os.pread(self._copy.fileno(), stop - start, start)


def _blocks(piece: Piece) -> set[int]:
    start, stop = piece
    return set(range(start // BLOCK, -(-stop // BLOCK))) if stop > start else set()


def open_head(url: str) -> Head:
    """Fetch what OpenSlide and tifffile read when they open a TIFF slide, or take what this process has.

    Raises:
        SlideError: the file cannot be reached, is no TIFF, is damaged, or is of a kind that needs all of it.
    """
    file = open_remote(url)
    with _one_at_a_time:
        return _fetch_head(file)


@lru_cache(HEADS)
def _fetch_head(file: RemoteFile) -> Head:
    if not file.ranged:
        raise SlideError(f"{file.url}: the server sends no parts of files, only the whole; {CACHE_HINT}")
    head = Head(file)
    if not head.open().read(4).startswith(TIFF_MAGIC):
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
