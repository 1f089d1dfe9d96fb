"""Opening slides: one verb, and the table of readers behind it.

A reader is a callable `(path: str, mpp: Scale | None, image: FileImage) -> Slide`, named in `READERS` as
"module:attribute" and imported on first use. It must pass `wsi_seg.testing.readers`. Which image of a file is
the slide, and whether a TIFF file holds brightfield pixels at all, is settled before, in `tiff_images`.
"""

from __future__ import annotations

import math
import stat
from collections.abc import Callable
from pathlib import Path
from pkgutil import resolve_name
from typing import IO, cast

from wsi_seg.core.errors import SlideError, UsageError
from wsi_seg.core.folders import dicom_files, list_folder, why_missing
from wsi_seg.core.formats import DICOM_META, DICOM_SLIDE, TIFF_MAGIC, dicom_class, is_dicom
from wsi_seg.core.geometry import Scale
from wsi_seg.core.storage import is_remote
from wsi_seg.slides.dicomweb import EXTRA_HINT, SCHEME, parse_series
from wsi_seg.slides.local_copies import SlideCache
from wsi_seg.slides.readers.base import ONLY_IMAGE, FileImage
from wsi_seg.slides.slide import Slide, SlideInfo

Reader = Callable[[str, Scale | None, FileImage], Slide]

READERS = {
    "tiff": "wsi_seg.slides.readers.tiled_tiff:TiledTiffReader",
    "openslide": "wsi_seg.slides.readers.openslide:OpenSlideReader",
    "tiffslide": "wsi_seg.slides.readers.tiffslide:TiffSlideReader",
    "image": "wsi_seg.slides.readers.image:ImageReader",
    "wsidicom": "wsi_seg.slides.readers.dicom:DicomReader",
}
# Those that read a file piece by piece behind a URL.
REMOTE_READERS = ("tiff", "tiffslide")

IMAGE_MAGIC = (b"\x89PNG", b"\xff\xd8\xff")
# Tag (0020,000E), its type UI and the length of its value, as DICOM writes them into a file's head.
SERIES_UID_TAG = b"\x20\x00\x0e\x00UI"
DICOM_HEAD_BYTES = 65_536


def open_slide(
    path: str | Path,
    *,
    reader: str | None = None,
    mpp: Scale | float | None = None,
    series: int | None = None,
    cache: SlideCache | None = None,
) -> Slide:
    """Open a slide.

    Args:
        path: a file; a URL (`s3://`, `gs://`, `az://`, `https://`, `http://`); a series of a DICOMweb server
            (see `wsi_seg.slides.dicomweb`); or a folder that holds one DICOM series.
        reader: a name of `READERS`. By default `tiff` for the tiled TIFFs that it understands in full,
            OpenSlide for all else that OpenSlide recognizes, wsidicom for other DICOM slides, TiffSlide for
            other tiled TIFFs, and Pillow for plain images. Behind a URL only `tiff` and `tiffslide` read,
            piece by piece; of a DICOMweb server wsidicom alone.
        mpp: microns per l0 pixel, in place of what the file says.
        series: number of the image in a TIFF file of several, counted from 0. By default the largest of those
            that are tiled or have levels.
        cache: where to fetch slides behind URLs as a whole; they are then read as local ones are. Those of
            DICOMweb servers are read frame by frame all the same.

    Returns:
        An open slide for the use of one thread; a context manager. `info.mpp` is None where it is unknown.

    Raises:
        SlideError: the file is missing, damaged or not a slide; it has no image of that number; or its pixels
            are not those of a brightfield slide, which are 8-bit RGB (plain images may be gray).
        UsageError: there is no such reader, or the mpp is not positive.
    """
    if reader is not None and reader not in READERS:
        raise UsageError(f"unknown reader {reader!r}; choose one of {', '.join(READERS)}")
    scale = _mpp_scale(mpp)
    location = str(path)
    if parse_series(location) is not None or location.startswith(SCHEME):
        return _open_dicomweb(location, reader, scale, series)
    if is_remote(location) and cache is not None:
        from wsi_seg.slides.readers.cached import CachedSlide

        return CachedSlide(
            location, cache, lambda local: open_slide(local, reader=reader, mpp=scale, series=series)
        )
    if not is_remote(location):
        location = _find_file(Path(path))
    elif reader not in (None, *REMOTE_READERS):
        raise SlideError(
            f"{location}: the reader {reader} reads local files; fetch the slide whole: "
            "wsi-seg run --cache DIR"
        )
    image = _find_image(location, series)
    name = reader or _choose_reader(location, image)
    unfit = image.unfit_for(name)
    if unfit is not None:
        raise SlideError(f"{location}: {unfit}")
    return _load(name, location)(location, scale, image)


def _open_dicomweb(url: str, reader: str | None, mpp: Scale | None, series: int | None) -> Slide:
    """Open a series of a DICOMweb server; raises SlideError."""
    if parse_series(url) is None:
        raise SlideError(f"{url}: no DICOMweb series; give {SCHEME}HOST/BASE/studies/UID/series/UID")
    if reader not in (None, "wsidicom") or series:
        given = "--series" if series else f"the reader {reader}"
        raise SlideError(f"{url}: a DICOMweb series is one slide, read by wsidicom; leave out {given}")
    return _load("wsidicom", url)(url, mpp, ONLY_IMAGE)


def reopen_slide(info: SlideInfo, path: str | Path | None = None) -> Slide:
    """Open a slide again as it was, by default where it was; raises SlideError."""
    return open_slide(path or info.path, reader=info.reader, mpp=info.mpp, series=info.series)


def _find_image(location: str, series: int | None) -> FileImage:
    """Return the image of a file or URL that is the slide; all that is not TIFF holds one."""
    source: str | IO[bytes] = location
    local = location
    if is_remote(location):
        from wsi_seg.slides.readers.remote import open_head

        head = open_head(location)
        local, source = head.local, head.open()
    elif not _read_head(Path(location), 16).startswith(TIFF_MAGIC):
        if series:
            raise SlideError(f"{location}: has no image {series}: it holds one; leave out --series")
        return ONLY_IMAGE
    import openslide

    from wsi_seg.slides.readers.tiff_images import find_image

    return find_image(location, source, openslide.OpenSlide.detect_format(local), series)


def _mpp_scale(mpp: Scale | float | None) -> Scale | None:
    scale = Scale(float(mpp), float(mpp)) if isinstance(mpp, int | float) else mpp
    if scale is not None and not all(math.isfinite(value) and value > 0 for value in (scale.x, scale.y)):
        raise UsageError(f"mpp must be a positive number of microns, got {scale.x:g}, {scale.y:g}")
    return scale


def _load(name: str, location: str) -> Reader:
    """Return a reader; raises SlideError where its package is missing, which only wsidicom's can be."""
    try:
        return cast(Reader, resolve_name(READERS[name]))
    except ModuleNotFoundError as error:
        if name != "wsidicom":
            raise
        raise SlideError(
            f"{location}: needs the reader wsidicom, which is not installed; install it with: {EXTRA_HINT}"
        ) from error


def _choose_reader(path: str, image: FileImage) -> str:
    """Return the name of the reader for the slide of a file or URL.

    Raises:
        SlideError: no reader takes this file.
    """
    if is_remote(path):
        return "tiff" if _suits_tiff(path, image) else "tiffslide"
    if image.plain and image.unfit_for("image") is None:
        return "image"
    if image.unfit_for("openslide") is None and _suits_openslide(path, image):
        return "tiff" if _suits_tiff(path, image) else "openslide"
    head = _read_head(Path(path), 16)
    if head.startswith(TIFF_MAGIC):
        return "tiffslide"
    if dicom_class(_read_head(Path(path), DICOM_META)) == DICOM_SLIDE:
        return "wsidicom"
    if head.startswith(IMAGE_MAGIC):  # after OpenSlide: the main file of a MIRAX slide is a JPEG
        return "image"
    if is_dicom(meta := _read_head(Path(path), DICOM_META)):
        what = dicom_class(meta) or "unknown"
        raise SlideError(
            f"{path}: DICOM, but no whole-slide image (SOP class {what}); move it out of the folder of slides"
        )
    raise SlideError(
        f"{path}: not a slide or image that can be read (SVS, NDPI, MRXS, SCN, TIFF, DICOM, PNG, JPEG)"
    )


def _suits_openslide(path: str, image: FileImage) -> bool:
    import openslide

    vendor = openslide.OpenSlide.detect_format(path)
    if vendor not in ("generic-tiff", "dicom"):
        return vendor is not None
    # Of these OpenSlide also claims some whose compression it cannot read, such as JPEG XL and JPEG-LS.
    try:
        with openslide.OpenSlide(path) as handle:
            return image.is_of(handle.dimensions)
    except openslide.OpenSlideError:
        return False


def _suits_tiff(path: str, image: FileImage) -> bool:
    if image.vendor is None or image.unfit_for("tiff") is not None:
        return False
    from wsi_seg.slides.readers.tiled_tiff import why_not

    return why_not(path, image) is None


def _find_file(path: Path) -> str:
    """Return the absolute path of the file to open; `path` may be the folder of a DICOM series.

    Links stay as they are. Workers and later commands may run in other folders than this process.
    """
    path = path.absolute()
    try:
        mode = path.stat().st_mode
        if stat.S_ISDIR(mode):
            return str(_find_series(path))
        if not stat.S_ISREG(mode):
            raise SlideError(f"{path}: neither a file nor a folder; give a slide file")
        if path.stat().st_size == 0:
            raise SlideError(f"{path}: the file is empty")
        _read_head(path, 1)
    except OSError as error:
        raise SlideError(f"{path}: {why_missing(path, error)}") from error
    return str(path)


def _find_series(folder: Path) -> Path:
    """Return the first file of the DICOM series in a folder; OSError where it cannot be read."""
    slides, others = dicom_files(list_folder(folder))
    series: dict[bytes, Path] = {}
    for path in slides:
        series.setdefault(_series_uid(_read_head(path, DICOM_HEAD_BYTES)), path)
    if not series:
        held = f"{len(others)} DICOM files but no whole-slide image" if others else "no DICOM series"
        raise SlideError(f"{folder}: this folder holds {held}; give a slide file")
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
