"""Opening slides: one verb, and the table of readers behind it.

A reader is a callable `(path: str, mpp: Scale | None) -> Slide`, named in `READERS` as "module:attribute" and
imported on first use. It must pass `wsi_seg.testing.readers`.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import cast

from wsi_seg.errors import SlideError, UsageError
from wsi_seg.formats import is_dicom
from wsi_seg.geometry import Scale
from wsi_seg.remote import is_remote
from wsi_seg.slide import Slide
from wsi_seg.slide_cache import SlideCache

READERS = {
    "tiff": "wsi_seg.readers.tiled_tiff:TiledTiffReader",
    "openslide": "wsi_seg.readers.openslide:OpenSlideReader",
    "tiffslide": "wsi_seg.readers.tiffslide:TiffSlideReader",
    "image": "wsi_seg.readers.image:ImageReader",
}
# Those that read a file piece by piece behind a URL.
REMOTE_READERS = ("tiff", "tiffslide")

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
# Tag (0020,000E), its type UI and the length of its value, as DICOM writes them into a file's head.
SERIES_UID_TAG = b"\x20\x00\x0e\x00UI"
DICOM_HEAD_BYTES = 65_536


def open_slide(
    path: str | Path,
    *,
    reader: str | None = None,
    mpp: Scale | float | None = None,
    cache: SlideCache | None = None,
) -> Slide:
    """Open a slide.

    Args:
        path: a file; a URL (`s3://`, `gs://`, `az://`, `https://`, `http://`); or a folder that holds one
            DICOM series.
        reader: a name of `READERS`. By default `tiff` for the tiled TIFFs that it understands in full,
            OpenSlide for all else that OpenSlide recognises, TiffSlide for other tiled TIFFs, and Pillow for
            plain images. Behind a URL only `tiff` and `tiffslide` read, piece by piece.
        mpp: microns per l0 pixel, in place of what the file says.
        cache: where to fetch slides behind URLs as a whole; they are then read as local ones are.

    Returns:
        An open slide for the use of one thread; a context manager. `info.mpp` is None where it is unknown.

    Raises:
        SlideError: the file is missing, damaged or not a slide.
        UsageError: there is no such reader, or the mpp is not positive.
    """
    if reader is not None and reader not in READERS:
        raise UsageError(f"unknown reader {reader!r}; choose one of {', '.join(READERS)}")
    scale = _mpp_scale(mpp)
    location = str(path)
    if is_remote(location) and cache is not None:
        from wsi_seg.readers.cached import CachedSlide

        return CachedSlide(location, cache, lambda local: open_slide(local, reader=reader, mpp=scale))
    if not is_remote(location):
        location = _find_file(Path(path))
    name = reader or choose_reader(location)
    if is_remote(location) and name not in REMOTE_READERS:
        raise SlideError(
            f"{location}: the reader {name} reads local files; fetch the slide whole: wsi-seg run --cache DIR"
        )
    return _load(name)(location, scale)


def _mpp_scale(mpp: Scale | float | None) -> Scale | None:
    scale = Scale(float(mpp), float(mpp)) if isinstance(mpp, int | float) else mpp
    if scale is not None and not all(math.isfinite(value) and value > 0 for value in (scale.x, scale.y)):
        raise UsageError(f"mpp must be a positive number of microns, got {scale.x:g}, {scale.y:g}")
    return scale


def _load(name: str) -> Callable[[str, Scale | None], Slide]:
    module, attribute = READERS[name].split(":")
    return cast(Callable[[str, Scale | None], Slide], getattr(import_module(module), attribute))


def choose_reader(path: str) -> str:
    """Return the name of the reader for a file or URL.

    Raises:
        SlideError: no reader takes this file.
    """
    if is_remote(path):
        return _choose_remote_reader(path)
    if _suits_openslide(path):
        return "tiff" if _suits_tiff(path) else "openslide"
    head = _read_head(Path(path), 16)
    if head.startswith(TIFF_MAGIC):
        return _choose_tiff_reader(path)
    if head.startswith(IMAGE_MAGIC):
        return "image"
    raise SlideError(
        f"{path}: not a slide or image that can be read (SVS, NDPI, MRXS, SCN, TIFF, DICOM, PNG, JPEG)"
    )


def _choose_remote_reader(url: str) -> str:
    from wsi_seg.readers.remote import open_head
    from wsi_seg.readers.tiled_tiff import why_not

    known = _suits_openslide(open_head(url).local)
    return "tiff" if known and why_not(url) is None else "tiffslide"


def _suits_openslide(path: str) -> bool:
    import openslide

    vendor = openslide.OpenSlide.detect_format(path)
    if vendor != "generic-tiff":
        return vendor is not None
    # Of these OpenSlide also claims some whose compression it cannot read, such as JPEG XL.
    try:
        openslide.OpenSlide(path).close()
    except openslide.OpenSlideError:
        return False
    return True


def _suits_tiff(path: str) -> bool:
    if not _read_head(Path(path), 16).startswith(TIFF_MAGIC):
        return False
    from wsi_seg.readers.tiled_tiff import why_not

    return why_not(path) is None


def _choose_tiff_reader(path: str) -> str:
    import tifffile

    from wsi_seg.readers.tiff import TIFF_ERRORS, check_whole

    try:
        with tifffile.TiffFile(path) as tiff:
            check_whole(path, tiff)
            pyramid = len(tiff.series[0].levels) > 1
            plain = len(tiff.pages) == 1 and not tiff.pages.first.is_tiled
    except TIFF_ERRORS as error:
        raise SlideError(f"{path}: damaged or incomplete TIFF: {' '.join(str(error).split())}") from error
    return "image" if plain and not pyramid else "tiffslide"


def _find_file(path: Path) -> str:
    """Return the file to open for a local path, which may be the folder of a DICOM series."""
    if path.is_dir():
        return str(_find_series(path))
    if not path.exists():
        raise SlideError(f"{path}: no such file")
    try:
        if path.stat().st_size == 0:
            raise SlideError(f"{path}: the file is empty")
        _read_head(path, 1)
    except PermissionError as error:
        raise SlideError(f"{path}: no permission to read this file") from error
    return str(path)


def _find_series(folder: Path) -> Path:
    heads = {path: _read_head(path, DICOM_HEAD_BYTES) for path in sorted(folder.iterdir()) if path.is_file()}
    series: dict[bytes, Path] = {}
    for path, head in heads.items():
        if is_dicom(head):
            series.setdefault(_series_uid(head), path)
    if not series:
        raise SlideError(f"{folder}: this folder holds no DICOM series; give a slide file")
    if len(series) > 1:
        raise SlideError(
            f"{folder}: this folder holds {len(series)} DICOM series; give a file of the one to open"
        )
    return next(iter(series.values()))


def _series_uid(head: bytes) -> bytes:
    at = head.find(SERIES_UID_TAG)
    if at < 0:
        return b""
    start = at + len(SERIES_UID_TAG) + 2
    return head[start : start + int.from_bytes(head[start - 2 : start], "little")].rstrip(b"\0 ")


def _read_head(path: Path, count: int) -> bytes:
    with path.open("rb") as file:
        return file.read(count)
