"""Check that a TIFF file is whole, before any of it is read."""

from __future__ import annotations

import logging
import struct

import tifffile

from wsi_seg.core.errors import SlideError

# tifffile logs what it finds wrong; unless the application listens, that goes to stderr with our own error.
logging.getLogger("tifffile").addHandler(logging.NullHandler())

# What tifffile raises on damaged files, besides its own error: it divides by sizes that may be 0, reads names
# off tags that may be plain numbers, and parses XML, whose ParseError is a SyntaxError.
TIFF_ERRORS = (
    tifffile.TiffFileError, OSError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError,
    AttributeError, SyntaxError, struct.error,
)  # fmt: skip


def check_whole(path: str, tiff: tifffile.TiffFile, number: int = 0) -> None:
    """Check that the file holds all pages it lists and all pixels of one pyramid, by default its first.

    Raises:
        SlideError: the file ends too early.
    """
    size = tiff.filehandle.size
    if not len(tiff.pages):
        raise SlideError(f"{path}: incomplete TIFF; the file ends after {size} bytes, before its page table")
    if not tiff.is_ndpi and _next_page(tiff) != 0:
        raise SlideError(f"{path}: incomplete TIFF; the file ends after {size} bytes, within its page table")
    for level in tiff.series[number].levels:
        page = level.pages[0]
        if page is None:
            continue
        end = max(
            (at + count for at, count in zip(page.dataoffsets, page.databytecounts, strict=True)), default=0
        )
        if end > size:
            raise SlideError(
                f"{path}: incomplete TIFF; pixels end at byte {end}, the file after {size} bytes"
            )


def _next_page(tiff: tifffile.TiffFile) -> int:
    """Return the offset of a page beyond the last one found; 0 at the proper end of the table."""
    at = tiff.pages.next_page_offset
    if at is None:
        return 0
    tiff.filehandle.seek(at)
    return int.from_bytes(
        tiff.filehandle.read(tiff.tiff.offsetsize), "little" if tiff.byteorder == "<" else "big"
    )
