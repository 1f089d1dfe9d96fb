"""Ordinary images through Pillow: PNG, JPEG and plain TIFF, held in memory as a slide of one level."""

from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_seg.errors import SlideError
from wsi_seg.geometry import Box, Scale
from wsi_seg.readers.base import LevelReader, file_fingerprint, make_levels, over
from wsi_seg.slide import SlideInfo, default_name, resolve_mpp

FORMATS = ("PNG", "JPEG", "TIFF")
TIFF_UNITS = {2: "inch", 3: "centimeter"}
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, TILE_WIDTH = 282, 283, 296, 322
# What Pillow raises on damaged files.
DAMAGE = (OSError, ValueError, SyntaxError, TypeError)

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class ImageReader(LevelReader):
    """A small image as a slide; decoded as a whole on the first read."""

    def __init__(self, path: str, mpp: Scale | None = None) -> None:
        self._pixels: NDArray[np.uint8] | None = None
        try:
            with _open(path) as image:
                _refuse_unfit(path, image)
                info = _describe(path, image, mpp)
        except DAMAGE as error:
            raise SlideError(f"{path}: cannot be opened as an image: {error}") from error
        super().__init__(info)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        if self._pixels is None:
            try:
                with _open(self._info.path) as image:
                    self._pixels = _decode(image)
            except DAMAGE as error:
                raise self._unreadable(level, box, error) from error
        return self._pixels[box.y0 : box.y1, box.x0 : box.x1].copy()

    def _release(self) -> None:
        self._pixels = None


def _open(path: str) -> Image.Image:
    try:
        with warnings.catch_warnings():
            # Pillow warns of "decompression bombs" at half the size where it refuses; we go by the latter.
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            return Image.open(path, formats=FORMATS)
    except FileNotFoundError as error:
        raise SlideError(f"{path}: no such file") from error
    except Image.DecompressionBombError as error:
        limit = 2 * (Image.MAX_IMAGE_PIXELS or 0)
        raise SlideError(
            f"{path}: too large for a plain image (more than {limit / 1e6:.0f} million pixels); "
            "convert it to a pyramidal TIFF"
        ) from error
    except UnidentifiedImageError as error:
        raise SlideError(f"{path}: not a PNG, JPEG or TIFF image, or damaged") from error


def _refuse_unfit(path: str, image: Image.Image) -> None:
    if image.mode not in EIGHT_BIT_MODES:
        raise SlideError(f"{path}: pixels of mode {image.mode} are not 8-bit; convert the image")
    if image.format != "TIFF":
        return
    pages = int(getattr(image, "n_frames", 1))
    tiled = TILE_WIDTH in image.tag_v2  # type: ignore[attr-defined]
    if pages > 1 or tiled:
        kind = "tiled" if tiled else "many-page"
        raise SlideError(
            f"{path}: a {kind} TIFF of {pages} page(s) is not a plain image; "
            "open it with the reader openslide or tiffslide"
        )


def _describe(path: str, image: Image.Image, mpp: Scale | None) -> SlideInfo:
    resolved, source = resolve_mpp(mpp, _resolution_tags(image))
    levels = make_levels([image.size])
    with Path(path).open("rb") as file:
        fingerprint = file_fingerprint(file)
    return SlideInfo(
        path=path,
        name=default_name(path),
        reader="image",
        vendor=str(image.format).lower(),
        size=levels[0].size,
        levels=levels,
        mpp=resolved,
        mpp_source=source,
        bounds=None,
        fingerprint=fingerprint,
    )


def _resolution_tags(image: Image.Image) -> dict[str, str]:
    if image.format != "TIFF":
        return {}
    tags = image.tag_v2  # type: ignore[attr-defined]
    unit = TIFF_UNITS.get(tags.get(RESOLUTION_UNIT, 2))
    if unit is None or X_RESOLUTION not in tags or Y_RESOLUTION not in tags:
        return {}
    return {
        "tiff.ResolutionUnit": unit,
        "tiff.XResolution": str(float(tags[X_RESOLUTION])),
        "tiff.YResolution": str(float(tags[Y_RESOLUTION])),
    }


def _decode(image: Image.Image) -> NDArray[np.uint8]:
    if image.mode in ("LA", "PA", "RGBA") or "transparency" in image.info:
        return over(image.convert("RGBA"))
    return np.asarray(image.convert("RGB"))
