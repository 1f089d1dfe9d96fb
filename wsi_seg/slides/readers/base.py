"""Common code of the readers: levels, clipping to the slide, white outside, closing, alpha, fingerprints."""

from __future__ import annotations

import hashlib
import math
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Literal, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.about import SlideAbout
from wsi_seg.slides.slide import WHITE, Level, SlideInfo, UnreadableError, level_downsample

if TYPE_CHECKING:
    from tifffile import FileHandle

SAMPLE_BYTES = 65_536
SAMPLE_COUNT = 16
# Of a stored tile that is larger than its level.
MOST_TILE_PIXELS = 2**26
# Of a picture that is stored with a slide: three times those of scanners, and 128 MiB once decoded.
MOST_ASSOCIATED_PIXELS = 2**25
NOTHING_STATED = SlideAbout()


@dataclass(frozen=True, slots=True)
class FileImage:
    """The one image of a file that is read as the slide; the defaults are those of a file that holds one."""

    number: int = 0
    """Position among the images (series) of the file."""
    size: Size | None = None
    """Of its level 0, in pixels; None where only the reader knows."""
    vendor: str | None = None
    """Format by OpenSlide's name, where OpenSlide knows it."""
    first: bool = True
    """True where it begins with the first page of the file, from which OpenSlide starts."""
    planes: int = 1
    """Pictures of the same size, such as focal planes, of which the first is read."""
    plain: bool = False
    """True for the only page of a TIFF file, stored in strips."""
    special: str = ""
    """Reason why only the image reader converts it to upright RGB; empty where others do too."""
    fourth: Literal["none", "straight", "associated", "empty"] = "none"
    """Meaning of a fourth channel next to RGB: transparency, of two kinds, or nothing."""
    others: tuple[tuple[Size, str], ...] = ()
    """The other images of the file: size and description."""

    def unfit_for(self, reader: str) -> str | None:
        """Return why a reader would not show it, and which one would; None where it does."""
        if self.special and reader != "image":
            return f"{self.special}; use the reader image"
        if self.size is not None and self.vendor is None and reader in ("tiff", "openslide"):
            return "OpenSlide does not know this kind of TIFF; leave the reader out, or use another"
        if not self.first and reader in ("tiff", "openslide"):
            return f"the reader {reader} sees only the first image, not image {self.number}; use tiffslide"
        if self.fourth == "empty" and reader in ("openslide", "image"):
            return f"the reader {reader} takes its empty fourth channel for transparency; use tiffslide"
        if self.planes > 1 and reader == "tiffslide":
            return f"the reader tiffslide does not read one of {self.planes} planes; use openslide"
        return None

    def is_of(self, size: tuple[int, int]) -> bool:
        """Return whether a reader that finds this (width, height) means the same image."""
        return self.size is None or self.size == Size(*size)

    def left_out(self, pyramid: Pyramid) -> tuple[str, ...]:
        """Return what is in the file and not in the pyramid, a line each."""
        known, why = {level.size for level in pyramid.levels}, dict(pyramid.left_out)
        others = [
            f"{text}{f', {why.pop(size)}' if size in why else ''}"
            for size, text in self.others
            if size not in known
        ]
        planes = [f"{self.planes - 1} more of {pyramid.levels[0].size} px"] if self.planes > 1 else []
        return (*others, *planes, *(f"{size} px, {reason}" for size, reason in why.items()))

    def fingerprint(self, of_file: str) -> str:
        """Return the fingerprint of the slide, given that of the file."""
        return of_file if self.first else f"{of_file}:series {self.number}"


ONLY_IMAGE = FileImage()


class LevelReader(ABC):
    """A `Slide` whose subclass only reads boxes that lie inside a level."""

    def __init__(self, info: SlideInfo, about: SlideAbout = NOTHING_STATED) -> None:
        self._info, self._about = info, about
        self._closed = False

    @property
    def info(self) -> SlideInfo:
        return self._info

    @property
    def about(self) -> SlideAbout:
        """Facts that the file states besides its pixels."""
        return self._about

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read whole pixels of one level; see `wsi_seg.slides.slide.Slide.read_level`."""
        path = self._info.path
        if self._closed:
            raise SlideError(f"{path}: the slide was closed; open it again to read from it")
        if not 0 <= level < len(self._info.levels):
            raise SlideError(f"{path}: no level {level}; it has levels 0 to {len(self._info.levels) - 1}")
        size = self._info.levels[level].size
        inside = box.intersect(Box(0, 0, size.width, size.height))
        if inside == box and not box.empty:
            return self._read_inside(level, box)
        out = np.full((max(0, box.height), max(0, box.width), 3), WHITE, np.uint8)
        if not inside.empty:
            out[inside.within(box)] = self._read_inside(level, inside)
        return out

    @abstractmethod
    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read a non-empty box that lies inside the level, uint8 RGB (box.height, box.width, 3)."""

    def read_associated(self, name: str, most_side: int) -> NDArray[np.uint8]:
        """Read a picture that is stored with the slide.

        Args:
            name: of one of `about.associated`. A label names the patient as a rule, and a macro shows it.
            most_side: longest side of what is returned; a larger picture is reduced.

        Returns:
            uint8 RGB (h, w, 3).

        Raises:
            SlideError: the slide was closed; it has no such picture; that is damaged, or too large to be
                decoded.
        """
        path = self._info.path
        if self._closed:
            raise SlideError(f"{path}: the slide was closed; open it again to read from it")
        sizes = {one.name: one.size for one in self._about.associated}
        size = sizes.get(name)
        if size is None:
            held = ", ".join(sizes) or "none"
            raise SlideError(f"{path}: no associated image {name[:40]!r}; it holds {held}")
        if size.width * size.height > MOST_ASSOCIATED_PIXELS:
            most = f"{MOST_ASSOCIATED_PIXELS / 1e6:.0f} million"
            raise SlideError(
                f"{path}: its {name}, of {size} px, is larger than {most} pixels; it is not read"
            )
        image = self._load_associated(name, size)
        if image.size != (size.width, size.height):
            raise SlideError(
                f"{path}: its {name} is damaged: {image.width} × {image.height} px, not {size} px"
            )
        image = image.convert("RGB")
        image.thumbnail((most_side, most_side))
        return np.array(image)

    def _load_associated(self, name: str, size: Size) -> Image.Image:
        """Read a picture of `about.associated`, whose size is bounded; raises SlideError."""
        raise SlideError(f"{self._info.path}: the reader {self._info.reader} reads no associated images")

    @abstractmethod
    def _release(self) -> None:
        """Let go of the file."""

    def close(self) -> None:
        """Let go of the file; closing twice is fine, reading afterwards raises SlideError."""
        if not self._closed:
            self._closed = True
            self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def _unreadable(
        self, level: int, box: Box, error: BaseException, tile: Size | None = None
    ) -> UnreadableError:
        """Return the error of a box that cannot be read; `tile`: see `UnreadableError`."""
        reason = " ".join(str(error).split()) or type(error).__name__
        return UnreadableError(
            f"{self._info.path}: cannot read level {level}, columns {box.x0}–{box.x1}, "
            f"rows {box.y0}–{box.y1}: {reason}",
            box,
            tile,
        )


@dataclass(frozen=True, slots=True)
class Pyramid:
    """The levels of a slide, out of all that a file stores as such."""

    levels: tuple[Level, ...]
    stored: tuple[int, ...]
    """Position of each level among those of the file."""
    left_out: tuple[tuple[Size, str], ...] = ()
    """Images stored as levels that are none: the size of each, and the reason."""


def make_levels(sizes: Sequence[tuple[int, int]]) -> Pyramid:
    """Return the levels of a pyramid from the (width, height) that a file lists, level 0 first.

    A level whose x and y factors disagree by more than its size was rounded is another picture, such as a
    macro image; one that is not smaller than the level before shows nothing new. Neither is a level.
    """
    base = Size(*map(int, sizes[0]))
    levels, stored, left_out = [Level(base, Scale(1.0, 1.0))], [0], []
    for position, (width, height) in enumerate(sizes[1:], start=1):
        size = Size(int(width), int(height))
        if not _is_reduced_copy(base, size):
            factors = f"{base.width / max(1, width):.4g} × {base.height / max(1, height):.4g}"
            left_out.append((size, f"stored as a level, but of another shape ({factors} times smaller)"))
            continue
        downsample, last = level_downsample(base, size), levels[-1]
        if downsample.x > last.downsample.x and downsample.y > last.downsample.y:
            levels.append(Level(size, downsample))
            stored.append(position)
        else:
            left_out.append((size, f"stored as a level, but not smaller than that of {last.size} px"))
    return Pyramid(tuple(levels), tuple(stored), tuple(left_out))


def _is_reduced_copy(base: Size, level: Size) -> bool:
    """Return whether one factor explains both sides of a level, each rounded by less than a pixel."""
    sides = ((base.width, level.width), (base.height, level.height))
    if min(level.width, level.height) < 1:
        return False
    least = max(full / (part + 1) for full, part in sides)
    most = min(full / (part - 1) if part > 1 else math.inf for full, part in sides)
    return least <= most


def read_bounds(properties: Mapping[str, str], prefix: str) -> Box | None:
    """Return the non-empty region in l0 pixels, or None unless all four `bounds-*` properties are there."""
    names = (f"{prefix}.bounds-{part}" for part in ("x", "y", "width", "height"))
    values = [properties.get(name) for name in names]
    numbers = [int(float(value)) for value in values if value is not None]
    return Box.at(*numbers) if len(numbers) == 4 else None


def read_tile_sizes(
    properties: Mapping[str, Any], prefix: str, levels: Sequence[tuple[int, int]]
) -> list[Size | None]:
    """Return the size of the stored tiles of each stored level; None where they are of no one size.

    Of the properties those count whose names begin with `prefix`.

    Raises:
        ValueError: tiles are far larger than their level, as a damaged file may say. OpenSlide ends the
            process where it has no memory for a tile.
    """
    tiles: list[Size | None] = []
    for number, (width, height) in enumerate(levels):
        name = f"{prefix}.level[{number}].tile-"
        tile = Size(*(int(properties.get(f"{name}{side}") or 0) for side in ("width", "height")))
        beyond = tile.width > width or tile.height > height
        if beyond and tile.width * tile.height > MOST_TILE_PIXELS:
            raise ValueError(f"level {number}, of {width} × {height} px, has stored tiles of {tile} px")
        tiles.append(tile if tile.width > 0 and tile.height > 0 else None)
    return tiles


def over(image: Image.Image, background: tuple[int, int, int] = (WHITE, WHITE, WHITE)) -> NDArray[np.uint8]:
    """Lay an RGBA image over an opaque color and return uint8 RGB (h, w, 3)."""
    if image.getchannel("A").getextrema() == (255, 255):
        return np.asarray(image)[..., :3].copy()
    ground = Image.new("RGBA", image.size, (*background, 255))
    return np.asarray(Image.alpha_composite(ground, image))[..., :3].copy()


def parse_color(text: str | None) -> tuple[int, int, int]:
    """Return the RGB of six hex digits; white when there are none."""
    if text is None or not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        return WHITE, WHITE, WHITE
    value = int(text.lstrip("#"), 16)
    return value >> 16, value >> 8 & 255, value & 255


def file_fingerprint(file: IO[bytes] | FileHandle) -> str:
    """Return a hash of the size of an open file and of 16 evenly spread pieces, head and tail included."""
    size = file.seek(0, 2)
    digest = hashlib.sha256(str(size).encode())
    last = max(0, size - SAMPLE_BYTES)
    for offset in sorted({last * i // (SAMPLE_COUNT - 1) for i in range(SAMPLE_COUNT)}):
        file.seek(offset)
        digest.update(file.read(SAMPLE_BYTES))
    return f"sampled-sha256:{digest.hexdigest()}"
