"""What all readers share: clipping to the slide, white outside, closing, alpha, fingerprints."""

from __future__ import annotations

import hashlib
import re
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from types import TracebackType
from typing import BinaryIO, Self

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.errors import SlideError
from wsi_seg.geometry import Box, Size
from wsi_seg.slide import WHITE, Level, SlideInfo, level_downsample

SAMPLE_BYTES = 65_536
SAMPLE_COUNT = 16


class LevelReader(ABC):
    """A `Slide` whose subclass only reads boxes that lie inside a level."""

    def __init__(self, info: SlideInfo) -> None:
        self._info = info
        self._closed = False

    @property
    def info(self) -> SlideInfo:
        return self._info

    def read_level(self, level: int, box: Box) -> NDArray[np.uint8]:
        """Read whole pixels of one level; see `wsi_seg.slide.Slide.read_level`."""
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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _unreadable(self, level: int, box: Box, error: BaseException) -> SlideError:
        reason = " ".join(str(error).split()) or type(error).__name__
        return SlideError(
            f"{self._info.path}: cannot read level {level}, columns {box.x0}–{box.x1}, "
            f"rows {box.y0}–{box.y1}: {reason}"
        )


def make_levels(sizes: Sequence[tuple[int, int]]) -> tuple[Level, ...]:
    """Return the levels of a pyramid from their (width, height), level 0 first."""
    all_sizes = [Size(int(width), int(height)) for width, height in sizes]
    return tuple(Level(size, level_downsample(all_sizes[0], size)) for size in all_sizes)


def read_bounds(properties: Mapping[str, str], prefix: str) -> Box | None:
    """Return the non-empty region in l0 pixels, or None unless all four `bounds-*` properties are there."""
    names = (f"{prefix}.bounds-{part}" for part in ("x", "y", "width", "height"))
    values = [properties.get(name) for name in names]
    numbers = [int(float(value)) for value in values if value is not None]
    return Box.at(*numbers) if len(numbers) == 4 else None


def over(image: Image.Image, background: tuple[int, int, int] = (WHITE, WHITE, WHITE)) -> NDArray[np.uint8]:
    """Lay an RGBA image over an opaque colour and return uint8 RGB (h, w, 3)."""
    if image.getchannel("A").getextrema() == (255, 255):
        return np.asarray(image)[..., :3].copy()
    ground = Image.new("RGBA", image.size, (*background, 255))
    return np.asarray(Image.alpha_composite(ground, image))[..., :3].copy()


def parse_colour(text: str | None) -> tuple[int, int, int]:
    """Return the RGB of six hex digits; white when there are none."""
    if text is None or not re.fullmatch(r"#?[0-9a-fA-F]{6}", text):
        return WHITE, WHITE, WHITE
    value = int(text.lstrip("#"), 16)
    return value >> 16, value >> 8 & 255, value & 255


def sampled_fingerprint(size: int, read_at: Callable[[int, int], bytes]) -> str:
    """Return a hash of a file's size and of 16 evenly spread pieces, head and tail included.

    Args:
        size: size of the file in bytes.
        read_at: returns the bytes at (offset, count).
    """
    digest = hashlib.sha256(str(size).encode())
    last = max(0, size - SAMPLE_BYTES)
    for offset in sorted({last * i // (SAMPLE_COUNT - 1) for i in range(SAMPLE_COUNT)}):
        digest.update(read_at(offset, min(SAMPLE_BYTES, size)))
    return f"sampled-sha256:{digest.hexdigest()}"


def file_fingerprint(file: BinaryIO) -> str:
    """Return `sampled_fingerprint` of an open binary file."""

    def read_at(offset: int, count: int) -> bytes:
        file.seek(offset)
        return file.read(count)

    return sampled_fingerprint(file.seek(0, 2), read_at)
