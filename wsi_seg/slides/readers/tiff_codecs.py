"""Decoding of one stored TIFF tile to RGB; the codecs are imagecodecs', which decode outside the GIL.

The color space comes from the TIFF tags and not from the JPEG stream, as in OpenSlide: Aperio's JPEG/RGB
tiles do not say that they are RGB.

A tile that was cut off raises. Bytes that were overwritten within a JPEG tile can decode to wrong pixels, as
in every reader; where libjpeg notices and only warns, OpenSlide raises and imagecodecs does not tell.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import imagecodecs
import numpy as np
import tifffile
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.geometry import Size

RGB = NDArray[np.uint8]
Decoder = Callable[[bytes], RGB]
"""Turns the bytes of one stored tile into uint8 RGB (tile height, tile width, 3).

Raises RuntimeError or ValueError where the bytes are damaged.
"""

# What the codecs raise on damaged data: all errors of imagecodecs are RuntimeErrors.
CODEC_ERRORS = (RuntimeError, ValueError)

JPEG_COLORS: dict[int, str] = {
    tifffile.PHOTOMETRIC.RGB: "RGB",
    tifffile.PHOTOMETRIC.YCBCR: "YCBCR",
}
END_OF_IMAGE = b"\xff\xd9"
Unpacker = Callable[[bytes], bytes | bytearray]
UNPACK: dict[int, Unpacker] = {
    tifffile.COMPRESSION.NONE: bytes,
    tifffile.COMPRESSION.LZW: imagecodecs.lzw_decode,
    tifffile.COMPRESSION.ADOBE_DEFLATE: imagecodecs.zlib_decode,
    tifffile.COMPRESSION.DEFLATE: imagecodecs.zlib_decode,
}
SIZ = b"\xff\x4f\xff\x51"  # start of a JPEG 2000 codestream: SOC, then SIZ, whose 38 bytes of sizes follow
SIZ_COMPONENTS = 42


def find_decoder(page: tifffile.TiffPage) -> Decoder | str:
    """Return what decodes the tiles of a page of 8-bit RGB, or why nothing here does."""
    tile = Size(page.tilewidth, page.tilelength)
    compression, photometric = page.compression, page.photometric
    if compression == tifffile.COMPRESSION.JPEG and photometric in JPEG_COLORS:
        return partial(_decode_jpeg, tile=tile, tables=page.jpegtables, color=JPEG_COLORS[photometric])
    if compression == tifffile.COMPRESSION.APERIO_JP2000_RGB:
        return partial(_decode_jpeg2000, tile=tile)
    if compression == tifffile.COMPRESSION.APERIO_JP2000_YCBC:
        return partial(_decode_jpeg2000_ycbcr, tile=tile)
    if compression in UNPACK and photometric == tifffile.PHOTOMETRIC.RGB and page.predictor in (1, 2):
        return partial(_decode_packed, tile=tile, unpack=UNPACK[compression], differences=page.predictor == 2)
    names = [str(getattr(value, "name", value)) for value in (compression, photometric)]
    return f"it does not decode tiles of {names[0]}, {names[1]}, predictor {page.predictor}"


def is_subsampled(codestream: bytes) -> bool:
    """Return True if a JPEG 2000 codestream stores channels of different sizes, which imagecodecs refuses."""
    if not codestream.startswith(SIZ) or len(codestream) < SIZ_COMPONENTS + 9:
        return False  # damaged; reading it will say so
    steps = codestream[SIZ_COMPONENTS : SIZ_COMPONENTS + 9]
    return any(step != 1 for at, step in enumerate(steps) if at % 3)


def _decode_jpeg(data: bytes, *, tile: Size, tables: bytes | None, color: str) -> RGB:
    # libjpeg fills what is missing with gray and only warns, which imagecodecs does not pass on.
    if data.rfind(END_OF_IMAGE) < 0:
        raise ValueError("premature end of JPEG data")
    pixels = imagecodecs.jpeg8_decode(data, tables=tables, colorspace=color, outcolorspace="RGB")
    return _checked(pixels, tile)


def _decode_jpeg2000(data: bytes, *, tile: Size) -> RGB:
    return _checked(imagecodecs.jpeg2k_decode(data), tile)


def _decode_jpeg2000_ycbcr(data: bytes, *, tile: Size) -> RGB:
    pixels = _decode_jpeg2000(data, tile=tile)
    return np.asarray(Image.fromarray(pixels, "YCbCr").convert("RGB"))


def _decode_packed(data: bytes, *, tile: Size, unpack: Unpacker, differences: bool) -> RGB:
    pixels = np.frombuffer(unpack(data), np.uint8).reshape(tile.height, tile.width, 3)
    return imagecodecs.delta_decode(pixels, axis=-2) if differences else pixels


def _checked(pixels: RGB, tile: Size) -> RGB:
    expected = (tile.height, tile.width, 3)
    if pixels.shape != expected or pixels.dtype != np.uint8:
        raise ValueError(f"the tile decodes to {pixels.dtype} {pixels.shape}, not to uint8 {expected}")
    return pixels
