"""Choice of the image of a TIFF file that is the slide, and a check that its pixels are brightfield.

This is decided once, when the file is opened and before any reader is chosen, so that all readers agree.
Slides are 8-bit RGB, or what a reader converts to it exactly: YCbCr, palette, CMYK. Gray is read of plain
images alone (one page in strips, as PNG and JPEG are), for models trained on gray pictures: a gray channel of
a tiled or many-page file is as a rule one of fluorescence.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import IO, Literal

import numpy as np
import tifffile
from PIL import Image

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Size
from wsi_seg.slides.readers.base import FileImage, make_levels
from wsi_seg.slides.readers.tiff import TIFF_ERRORS, check_whole

GENERIC = "generic-tiff"
TOP_LEFT = 1

# Photometric interpretations that are converted to RGB, and the samples per pixel that go with them.
COLORS = {"RGB": (3, 4), "YCBCR": (3,), "PALETTE": (1,), "SEPARATED": (4,)}
# Bit of NewSubfileType (TIFF 6.0): a reduced version of another image of the file.
REDUCED = 1
GRAY = ("MINISBLACK", "MINISWHITE")

# Stored pieces of a level that are looked at to see whether a channel is empty.
PIECES = 16


def find_image(path: str, source: str | IO[bytes], vendor: str | None, asked: int | None) -> FileImage:
    """Return the image of a TIFF file that is the slide.

    That is the largest of those that are tiled or have levels; without such, the largest. Files in a
    scanner's format hold one slide, which their readers know from its label and macro images.

    Args:
        path: of the file, for errors.
        source: the file, or its path.
        vendor: format by OpenSlide's name; None where OpenSlide does not know it.
        asked: number of the image to take instead.

    Raises:
        SlideError: there is no such image; the file is damaged; its pixels are not those of a brightfield
            slide.
    """
    try:
        with tifffile.TiffFile(source) as tiff:
            return _find_image(path, tiff, vendor, asked)
    except TIFF_ERRORS as error:
        if vendor is not None:  # OpenSlide may read more of a damaged file than tifffile; it checks it itself
            return FileImage(vendor=vendor)
        raise SlideError(f"{path}: damaged or incomplete TIFF: {' '.join(str(error).split())}") from error


def _find_image(path: str, tiff: tifffile.TiffFile, vendor: str | None, asked: int | None) -> FileImage:
    images = dict(enumerate(tiff.series))
    if not images:
        check_whole(path, tiff)
    _refuse_false_tables(path, tiff)
    number = max(images, key=lambda n: _rank(images[n]))
    if vendor not in (None, GENERIC):
        refuse_other_series(path, asked)
        refuse_unfit_pixels(path, images[number], plain=False)
        return FileImage(vendor=vendor)
    if asked is not None:
        if asked not in images:
            held = "one image" if len(images) == 1 else f"{len(images)} images"
            raise SlideError(f"{path}: has no image {asked}; it holds {held}, counted from 0 (wsi-seg info)")
        number = asked
    if vendor is None:
        check_whole(path, tiff, number)
    series = images[number]
    page = series.keyframe
    levels = [(_size(level), level.keyframe.index) for level in series.levels[1:]]
    plain = len(tiff.pages) == 1 and len(series.levels) == 1 and not page.is_tiled
    refuse_unfit_pixels(path, series, plain)
    _refuse_gray_levels(path, series, [other for n, other in images.items() if n != number])
    _refuse_large_strips(path, page)
    return FileImage(
        number=number,
        size=_size(series),
        vendor=vendor,
        first=page.index == 0,
        planes=_planes(series),
        plain=plain,
        special=_why_special(page),
        fourth=_fourth_channel(tiff, series),
        others=(
            *((_size(other), _describe(n, other)) for n, other in images.items() if n != number),
            *((size, f"page {index}, {size} px") for size, index in levels),
        ),
    )


def _refuse_false_tables(path: str, tiff: tifffile.TiffFile) -> None:
    """Raise SlideError where a page lists too few tiles, or pieces larger than the file.

    OpenSlide shows what is not listed as glass, and ends the process where it has no memory for a piece.
    """
    size = tiff.filehandle.size
    for number, page in enumerate(tiff.pages):
        largest = max(page.databytecounts, default=0)
        if largest > size:
            raise SlideError(
                f"{path}: damaged TIFF; page {number} has a piece of {largest} bytes in a file of {size}"
            )
        whole, listed = page.aspage(), len(page.dataoffsets)
        if whole.is_tiled and listed < (tiles := math.prod(whole.chunked)):
            raise SlideError(
                f"{path}: damaged TIFF; page {number}, of {whole.imagewidth} × {whole.imagelength} px, "
                f"lists {listed} of its {tiles} tiles"
            )


def _rank(series: tifffile.TiffPageSeries) -> tuple[bool, int]:
    page = series.keyframe
    full = not page.is_reduced and not page.is_mask and (page.is_tiled or len(series.levels) > 1)
    return full, page.imagewidth * page.imagelength


def _describe(number: int, series: tifffile.TiffPageSeries) -> str:
    name = " ".join(str(series.name).split())
    return f"image {number}{f' ({name})' if name else ''}, {_size(series)} px"


def _size(series: tifffile.TiffPageSeries) -> Size:
    return Size(series.keyframe.imagewidth, series.keyframe.imagelength)


def _planes(series: tifffile.TiffPageSeries) -> int:
    """Return how many pictures of one size a series holds."""
    page = series.keyframe
    picture = page.imagewidth * page.imagelength * page.samplesperpixel
    return max(1, int(np.prod(series.shape, dtype=np.int64)) // picture)


def refuse_other_series(path: str, asked: int | None) -> None:
    """Raise SlideError where another than the only slide of a file is asked for."""
    if asked:
        raise SlideError(
            f"{path}: has no image {asked}: a file of this format holds one slide; leave out --series"
        )


def _refuse_gray_levels(
    path: str, slide: tifffile.TiffPageSeries, others: Sequence[tifffile.TiffPageSeries]
) -> None:
    """Raise SlideError where what is stored as a reduced level of an RGB slide, and fits it, is gray.

    OpenSlide takes it for a level, and tissue would be sought in it.
    """
    if _name(slide.keyframe.photometric) in GRAY:
        return
    size = _size(slide)
    for other in others:
        page, small = other.keyframe, _size(other)
        fits = len(make_levels([(size.width, size.height), (small.width, small.height)]).levels) == 2
        if page.subfiletype & REDUCED and page.is_tiled and fits and _name(page.photometric) in GRAY:
            raise SlideError(
                f"{path}: page {page.index} ({small.width} × {small.height} px) is stored as a reduced level "
                "of the slide, but is gray; write the levels again from the full image"
            )


def refuse_unfit_pixels(path: str, series: tifffile.TiffPageSeries, plain: bool) -> None:
    """Raise SlideError unless the pixels of a series become 8-bit RGB as they are.

    A plain image may be gray, turned or mirrored.
    """
    page = series.keyframe
    samples, photometric = page.samplesperpixel, _name(page.photometric)
    bits = f"{page.bitspersample}-bit {'float' if page.dtype is not None and page.dtype.kind == 'f' else ''}"
    gray = photometric in GRAY
    if page.dtype is None or page.dtype.kind not in "bu" or page.bitspersample > 8:
        fault = f"{bits.strip()} {'gray' if gray else photometric} pixels"
    elif gray and not (plain and samples == 1):
        channels = samples * _planes(series)
        fault = "one gray channel" if channels == 1 else f"{channels} gray channels, as of fluorescence,"
    elif not gray and samples not in COLORS.get(photometric, ()):
        fault = f"{samples} channels of kind {photometric}"
    else:
        orientation = _orientation(page)
        if orientation != TOP_LEFT and not plain:
            raise SlideError(
                f"{path}: its pixels are stored turned or mirrored (TIFF orientation {orientation}), which "
                "only plain images may be; convert it to an upright TIFF"
            )
        return
    raise SlideError(
        f"{path}: {fault} {'is' if fault == 'one gray channel' else 'are'} not a brightfield slide, which is "
        "8-bit RGB; export it as 8-bit RGB"
    )


def _orientation(page: tifffile.TiffPage) -> int:
    return int(page.tags.valueof("Orientation", default=TOP_LEFT))


def _why_special(page: tifffile.TiffPage) -> str:
    if _name(page.photometric) in GRAY:
        return "a plain gray image"
    return "a turned or mirrored plain image" if _orientation(page) != TOP_LEFT else ""


def _refuse_large_strips(path: str, page: tifffile.TiffPage) -> None:
    """Raise SlideError for an image in strips that is too large to be held in memory, as it has to be."""
    limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
    if limit and not page.is_tiled and page.imagewidth * page.imagelength > limit:
        raise SlideError(
            f"{path}: {page.imagewidth} × {page.imagelength} px stored in strips is too large for a plain "
            f"image (more than {limit / 1e6:.0f} million pixels); convert it to a tiled, pyramidal TIFF"
        )


def _fourth_channel(
    tiff: tifffile.TiffFile, series: tifffile.TiffPageSeries
) -> Literal["none", "straight", "associated", "empty"]:
    """Return the meaning of a fourth channel; transparency that hides a picture everywhere is empty."""
    page = series.keyframe
    if page.samplesperpixel != 4 or _name(page.photometric) != "RGB":
        return "none"
    kind = _name(page.extrasamples[0]) if page.extrasamples else ""
    if kind not in ("UNASSALPHA", "ASSOCALPHA") or _hides_everything(tiff, series.levels[-1].keyframe):
        return "empty"
    return "associated" if kind == "ASSOCALPHA" else "straight"


def _hides_everything(tiff: tifffile.TiffFile, page: tifffile.TiffPage) -> bool:
    """Return whether pieces all over a page are transparent throughout, with a picture below."""
    darkest, lightest = 255, 0
    last = len(page.dataoffsets) - 1
    for index in sorted({last * i // max(1, PIECES - 1) for i in range(PIECES)}):
        if not page.databytecounts[index]:
            continue
        tiff.filehandle.seek(page.dataoffsets[index])
        stored = tiff.filehandle.read(min(page.databytecounts[index], tiff.filehandle.size))
        pixels, _, _ = page.decode(stored, index, jpegtables=page.jpegtables)
        if pixels is None or pixels.shape[-1] != 4 or pixels[..., 3].any():
            return False
        darkest = min(darkest, int(pixels[..., :3].min()))
        lightest = max(lightest, int(pixels[..., :3].max()))
    return darkest < lightest


def _name(value: object) -> str:
    return str(getattr(value, "name", value))
