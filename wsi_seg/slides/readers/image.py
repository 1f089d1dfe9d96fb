"""Ordinary images through Pillow: PNG, JPEG and plain TIFF, held in memory as a slide of one level.

They are shown upright, as their EXIF orientation says and as every viewer shows them. Gray ones are read too.
"""

from __future__ import annotations

import os
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, UnidentifiedImageError

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale
from wsi_seg.slides.about import describe_file
from wsi_seg.slides.mpp import DESCRIPTION, resolve_mpp
from wsi_seg.slides.readers.base import (
    ONLY_IMAGE,
    FileImage,
    LevelReader,
    file_fingerprint,
    make_levels,
    over,
)
from wsi_seg.slides.slide import SlideInfo, default_name

FORMATS = ("PNG", "JPEG", "TIFF")
TIFF_UNITS = {2: "inch", 3: "centimeter"}
IMAGE_DESCRIPTION, ORIENTATION = 270, 274
X_RESOLUTION, Y_RESOLUTION, RESOLUTION_UNIT, TILE_WIDTH = 282, 283, 296, 322
# How to turn a picture upright that is stored in another orientation than 1, and the orientations in which a
# stored row is a column of the picture.
UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
TURNED = (5, 6, 7, 8)
# Bytes before the first chunk of a PNG file, and how texts in which Pillow finds an orientation begin.
PNG_SIGNATURE = 8
PNG_TEXT_WITH_EXIF = (b"Raw profile type exif", b"XML:com.adobe.xmp")
# What Pillow raises on damaged files.
DAMAGE = (OSError, EOFError, ValueError, SyntaxError, TypeError, LookupError, ArithmeticError, struct.error)

EIGHT_BIT_MODES = ("1", "L", "LA", "P", "PA", "RGB", "RGBA", "CMYK", "YCbCr")


class ImageReader(LevelReader):
    """A small image as a slide; decoded as a whole on the first read."""

    def __init__(self, path: str, mpp: Scale | None = None, image: FileImage = ONLY_IMAGE) -> None:
        self._pixels: NDArray[np.uint8] | None = None
        try:
            with _quiet(), _open(path) as opened:
                _refuse_unfit(path, opened)
                info = _describe(path, opened, mpp)
        except DAMAGE as error:
            raise SlideError(f"{path}: cannot be opened as an image: {error}") from error
        super().__init__(info, describe_file({}, info.vendor, info.name))

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        if self._pixels is None:
            try:
                with _quiet(), _open(self._info.path) as image:
                    self._pixels = _decode(image)
            except DAMAGE as error:
                raise self._unreadable(level, box, error) from error
        return self._pixels[box.y0 : box.y1, box.x0 : box.x1].copy()

    def _release(self) -> None:
        self._pixels = None


@contextmanager
def _quiet() -> Iterator[None]:
    with warnings.catch_warnings():
        # Pillow warns of "decompression bombs" at half the size where it refuses; we go by the latter.
        warnings.simplefilter("ignore", Image.DecompressionBombWarning)
        warnings.simplefilter("ignore", UserWarning)  # of EXIF blocks and TIFF tags that are cut off
        yield


def _open(path: str) -> Image.Image:
    try:
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
    # Of deeper channels Pillow keeps the high byte, which of a 12-bit image is nearly black.
    if image.format == "PNG" and (depth := _png_depth(path)) > 8:
        raise SlideError(f"{path}: channels of {depth} bits are not 8-bit; convert the image")
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


def _png_chunks(path: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield the name of each chunk of a PNG file and the first bytes of what it holds."""
    with Path(path).open("rb") as file:
        file.seek(PNG_SIGNATURE)
        while len(head := file.read(8)) == 8:
            length, name = struct.unpack(">I4s", head)
            start = file.read(min(length, 32))
            yield name, start
            file.seek(length - len(start) + 4, os.SEEK_CUR)  # the rest, and a checksum


def _png_depth(path: str) -> int:
    """Return the bits of a channel, which the first chunk states after the two sides."""
    return next((start[8] for name, start in _png_chunks(path) if name == b"IHDR"), 0)


def _may_have_exif(path: str, image: Image.Image) -> bool:
    """Return whether to look; in a PNG it may stand at the end, and Pillow decodes all before it."""
    return image.format != "PNG" or any(
        name == b"eXIf" or start.startswith(PNG_TEXT_WITH_EXIF) for name, start in _png_chunks(path)
    )


def _describe(path: str, image: Image.Image, mpp: Scale | None) -> SlideInfo:
    # Of TIFF Pillow tells the upright size.
    turned = image.format != "TIFF" and _may_have_exif(path, image) and _orientation(image) in TURNED
    levels = make_levels([image.size[::-1] if turned else image.size]).levels
    resolved, source = resolve_mpp(mpp, _resolution_tags(image), size=levels[0].size)
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


def _orientation(image: Image.Image) -> int:
    """Return the orientation of a PNG or JPEG image; 1 where its EXIF block says none or is damaged."""
    try:
        with _quiet():
            value = image.getexif().get(ORIENTATION)
    except DAMAGE:
        return 1
    return value if value in UPRIGHT else 1


def upright(image: Image.Image) -> Image.Image:
    """Turn an image as its EXIF block says; those of TIFF are turned by Pillow as they are loaded.

    `ImageOps.exif_transpose` rewrites the block besides, and fails where other parts of it are damaged.
    """
    if image.format == "TIFF" or (orientation := _orientation(image)) == 1:
        return image
    return image.transpose(UPRIGHT[orientation])


def _resolution_tags(image: Image.Image) -> dict[str, str]:
    if image.format != "TIFF":
        return {}
    tags = image.tag_v2  # type: ignore[attr-defined]
    found = {
        DESCRIPTION: str(tags.get(IMAGE_DESCRIPTION, "")),
        "tiff.ResolutionUnit": TIFF_UNITS.get(tags.get(RESOLUTION_UNIT, 2), "none"),
    }
    # Of a picture that lies on its side the tags name the axes as stored.
    axes = "YX" if tags.get(ORIENTATION) in TURNED else "XY"
    for axis, tag in zip(axes, (X_RESOLUTION, Y_RESOLUTION), strict=True):
        found[f"tiff.{axis}Resolution"] = str(float(tags.get(tag, 0)))
    return found


def _decode(image: Image.Image) -> NDArray[np.uint8]:
    """Return upright uint8 RGB; transparent parts are white, unless all is and hides a picture."""
    image = upright(image)
    if image.mode not in ("LA", "PA", "RGBA") and "transparency" not in image.info:
        return np.asarray(image.convert("RGB"))
    pixels = np.asarray(image.convert("RGBA"))
    hidden = not pixels[..., 3].any() and pixels[..., :3].min() < pixels[..., :3].max()
    return pixels[..., :3].copy() if hidden else over(Image.fromarray(pixels))
