"""Label masks as files: the one reader of training, evaluation and the truth of finished maps.

A pixel says its value as a gray level. How a file stores that does not matter: gray with 1, 8 or 16 bits,
RGB or a palette whose entries are gray, with an opaque alpha channel, turned by an EXIF tag. Of a palette of
colors the index is the value.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Size
from wsi_seg.slides.readers.image import upright

# What Pillow raises on damaged or much too large files.
MASK_DAMAGE = (OSError, ValueError, SyntaxError, TypeError, Image.DecompressionBombError)
# Formats that change values a little.
LOSSY = ("JPEG", "MPO")
# Modes of Pillow and the largest value that a pixel has.
DEPTHS = {"1": 1, "L": 255, "I;16": 65535, "I;16B": 65535, "I;16L": 65535, "I": 65535}

# A binary mask with other values than two is one of noise or soft edges where this share of its pixels lies
# within this share of the range of black or of white.
CLEAR_SHARE = 0.9
CLEAR_RANGE = 0.1

Values = NDArray[np.integer[Any]]

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class MaskReader:
    """Reader of all masks of a data set, which must agree with each other."""

    name: str
    """Of the data set, for warnings."""
    foreground: Sequence[int] = ()
    """Values of binary masks that are marked; none: white, or 1."""
    threshold: float | None = None
    """Share of white above which a pixel of a soft binary mask is marked; None: see `marked`."""
    per_image: float = 1.0
    """Mask pixels along a pixel of the image."""
    _colors: dict[int, tuple[int, int, int]] = field(default_factory=dict)
    _warned: bool = False

    def codes(self, path: Path, image: object, size: Size | None = None) -> NDArray[np.uint8]:
        """Read a mask of class codes.

        Args:
            path: the mask.
            image: what it belongs to, for messages.
            size: of the image; None: any.

        Returns:
            uint8 (h, w).

        Raises:
            DataError: it is missing, damaged, of another size, lossy, colored, transparent or ambiguous.
        """
        opened, lossy = _open(path, image)
        if lossy:
            raise DataError(f"{path}: JPEG changes codes; store the mask as PNG or lossless TIFF")
        self._check_size(path, opened.size, image, size)
        values = self._of_colors(opened, path) if _is_colored_palette(opened) else _gray(opened, path)[0]
        if values.max(initial=0) > 255 or values.min(initial=0) < 0:
            raise DataError(f"{path}: the mask holds the value {values.max()}; codes are 0 … 255")
        return values.astype(np.uint8, copy=False)

    def colors(self, path: Path, image: object, size: Size | None = None) -> NDArray[np.uint32]:
        """Read a mask whose colors are its classes; arguments as of `codes`.

        Returns:
            uint32 (h, w), 0xrrggbb.

        Raises:
            DataError: it is missing, damaged, of another size, lossy or transparent.
        """
        opened, lossy = _open(path, image)
        if lossy:
            raise DataError(f"{path}: JPEG changes colors; store the mask as PNG or lossless TIFF")
        self._check_size(path, opened.size, image, size)
        if opened.mode not in ("1", "L", "LA", "P", "PA", "RGB", "RGBA"):
            raise DataError(f"{path}: has no 8-bit colors but pixels of mode {opened.mode}; convert it")
        pixels = np.asarray(opened.convert("RGBA")).astype(np.uint32)
        if pixels[..., 3].min(initial=255) < 255:
            raise DataError(f"{path}: the mask is transparent in places; store it opaque")
        return np.asarray(pixels[..., 0] << 16 | pixels[..., 1] << 8 | pixels[..., 2], np.uint32)

    def marked(self, path: Path, image: object, size: Size) -> NDArray[np.bool_]:
        """Read a mask that says yes or no.

        White, or 1, is yes. Soft masks and those in JPEG are read by the threshold. Without one, those of
        which most pixels are almost black or almost white are read as yes above half of the range, with a
        warning once a data set.

        Args:
            path: the mask.
            image: what it belongs to, for messages.
            size: of the image.

        Returns:
            bool (h, w).

        Raises:
            DataError: it is missing, damaged, of another size, colored, transparent, or not black and white.
        """
        opened, lossy = _open(path, image)
        self._check_size(path, opened.size, image, size)
        if _is_colored_palette(opened):
            raise DataError(f"{path}: the mask is colored; store it in black and white")
        values, white = _gray(opened, path)
        found: Values = np.unique(values)
        if self.foreground:
            return np.isin(values, self.foreground)
        for top in {white} if lossy else {1, 255, white}:
            if np.isin(found, (0, top)).all():
                return np.asarray(values == top)
        if self.threshold is not None:
            return np.asarray(values > self.threshold * white)
        if found[0] <= CLEAR_RANGE * white and found[-1] >= (1 - CLEAR_RANGE) * white:
            between = (values > CLEAR_RANGE * white) & (values < (1 - CLEAR_RANGE) * white)
            if between.mean() <= 1 - CLEAR_SHARE:
                self._warn(path, found, white)
                return np.asarray(values > white / 2)
        raise DataError(
            f"{path}: the mask holds the values {_listed(found)}, but black and white are 0 and {white}, "
            f"or 0 and 1; say which are marked, such as foreground: [{found[-1]}], or above which share of "
            "white, such as threshold: 0.5"
        )

    def _check_size(self, path: Path, found: tuple[int, int], image: object, size: Size | None) -> None:
        if size is None:
            return
        expected = Size(round(size.width * self.per_image), round(size.height * self.per_image))
        slack = 0 if self.per_image == 1 else 1
        if max(abs(found[0] - expected.width), abs(found[1] - expected.height)) > slack:
            at = "" if slack == 0 else f", {expected.width}×{expected.height} at the mask's resolution"
            way = f" (set mask_mpp: {found[0] / size.width:.4g} times as fine as the image)"
            whole = slack == 0 and abs(found[0] * size.height - found[1] * size.width) <= max(found)
            raise DataError(
                f"{path}: the mask has {found[0]}×{found[1]} pixels but its image {image} "
                f"{size.width}×{size.height}{at}{way if whole else ''}"
            )

    def _warn(self, path: Path, found: Values, white: int) -> None:
        if not self._warned:
            logger.warning(
                "%s: %s is not pure black and white (%d values, as of JPEG noise or soft edges); it and "
                "others like it are read as marked above %g",
                self.name,
                path,
                len(found),
                white / 2,
            )
        self._warned = True

    def _of_colors(self, opened: Image.Image, path: Path) -> NDArray[np.uint8]:
        """Return the indices of a palette of colors; each must stand for one color in all masks."""
        index, palette = _palette(opened)
        used = np.unique(index)
        gray = (palette[used] == palette[used, :1]).all(axis=1)
        if len(used) > 1 and gray.all() and (palette[used, 0] != used).any():
            raise DataError(
                f"{path}: its palette holds colors, but the mask uses only gray levels "
                f"{_listed(palette[used, 0])} at the indices {_listed(used)}: either may be the codes; "
                "store the codes as gray levels, without a palette"
            )
        for i in used.tolist():
            red, green, blue = palette[i].tolist()
            known = self._colors.setdefault(i, (red, green, blue))
            if known != (red, green, blue):
                raise DataError(
                    f"{path}: index {i} of its palette is the color {red, green, blue}, but {known} in "
                    "another mask, so indices are no codes; store the codes as gray levels, without a palette"
                )
        return index


def _open(path: Path, image: object) -> tuple[Image.Image, bool]:
    """Return a decoded mask, upright, and whether its format changes values."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", Image.DecompressionBombWarning)
            with Image.open(path) as opened:
                _refuse_pages(opened, path)
                lossy = opened.format in LOSSY or opened.info.get("compression") == "jpeg"
                opened.load()
                return upright(opened), lossy
    except FileNotFoundError as error:
        raise DataError(f"{image}: has no mask; expected {path}") from error
    except MASK_DAMAGE as error:
        raise DataError(f"{path}: the mask cannot be read ({' '.join(str(error).split())})") from error


def _refuse_pages(opened: Image.Image, path: Path) -> None:
    """Refuse several masks in one file; smaller pages are those of a pyramid."""
    size, pages = opened.size, getattr(opened, "n_frames", 1)
    if pages > 1:
        opened.seek(1)
        if opened.size == size:
            raise DataError(f"{path}: holds {pages} pages of one size; store each mask in a file of its own")
        opened.seek(0)


def _palette(opened: Image.Image) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """Return the indices (h, w) and the colors (256, 3) of a palette image."""
    colors = np.zeros((256, 3), np.uint8)
    listed = np.array(opened.getpalette("RGB"), np.uint8).reshape(-1, 3)
    colors[: len(listed)] = listed
    index = np.asarray(opened)
    return (index[..., 0] if index.ndim == 3 else index), colors


def _is_colored_palette(opened: Image.Image) -> bool:
    if opened.mode not in ("P", "PA"):
        return False
    _, colors = _palette(opened)
    return bool((colors != colors[:, :1]).any())


def _gray(opened: Image.Image, path: Path) -> tuple[Values, int]:
    """Return the gray levels (h, w) of a mask and that of white."""
    if opened.mode in ("P", "PA"):
        opened = opened.convert("RGBA" if "transparency" in opened.info or opened.mode == "PA" else "RGB")
    pixels = np.asarray(opened)
    if opened.mode in ("LA", "RGBA"):
        if pixels[..., -1].min() < 255:
            raise DataError(f"{path}: the mask is transparent in places; store it opaque, as gray levels")
        pixels = pixels[..., :-1]
    if opened.mode in ("RGB", "RGBA", "LA"):
        if (pixels != pixels[..., :1]).any():
            raise DataError(f"{path}: the mask is colored; store it as gray levels")
        return pixels[..., 0], 255
    if opened.mode not in DEPTHS:
        raise DataError(f"{path}: a mask holds gray levels, not pixels of mode {opened.mode}; convert it")
    return pixels.astype(np.uint8) if opened.mode == "1" else pixels, DEPTHS[opened.mode]


def _listed(values: Values) -> str:
    return ", ".join(map(str, values[:6].tolist())) + (", …" if len(values) > 6 else "")
