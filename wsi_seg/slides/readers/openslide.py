"""Slides through OpenSlide: SVS, NDPI, MRXS, SCN, Philips, Ventana, Trestle, generic tiled TIFF, DICOM."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import openslide
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.slides.about import SlideAbout, describe_file
from wsi_seg.slides.mpp import resolve_mpp
from wsi_seg.slides.readers.base import (
    ONLY_IMAGE,
    FileImage,
    LevelReader,
    file_fingerprint,
    make_levels,
    over,
    parse_color,
    read_bounds,
    read_tile_sizes,
)
from wsi_seg.slides.slide import SlideInfo, default_name

# OpenSlide places a read by a level-0 location divided by its own, averaged downsample. Where that is no
# whole number, most level pixels lie between two locations and OpenSlide interpolates. Such levels are read
# in cells of this many level pixels, each from the location nearest to its corner, so that a pixel comes out
# the same whatever box it is read with; it is then off by at most half a level-0 pixel.
CELL = 256

# Of a generic TIFF file it takes the widest tiled page for level 0, which can be a macro image.
OTHER_IMAGE = "OpenSlide takes another image of this file for the slide"

# What is raised over a damaged file: by OpenSlide, and over numbers in its properties.
DAMAGE = (openslide.OpenSlideError, OSError, ValueError, ArithmeticError)

ASSOCIATED = r"openslide\.associated\.(.+)\.width"


class OpenSlideReader(LevelReader):
    """A slide that OpenSlide reads; reopens the file after a read error, which spoils OpenSlide's handle."""

    def __init__(self, path: str, mpp: Scale | None = None, image: FileImage = ONLY_IMAGE) -> None:
        self._handle: openslide.OpenSlide | None = None
        with _opened(path) as handle:
            self._steps = [float(step) for step in handle.level_downsamples]
            if not image.is_of(handle.dimensions):
                raise SlideError(f"{path}: {OTHER_IMAGE}; use the reader tiffslide")
            facts = _facts(path, handle, mpp, image)
            self._handle = handle
        self._background, self._stored, self._tiles = facts.background, facts.stored, facts.tiles
        super().__init__(facts.info, facts.about)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        stored = self._stored[level]
        exact = self._steps[stored].is_integer()
        try:
            if self._handle is None:
                self._handle = openslide.OpenSlide(self._info.path)
            if exact:
                return self._read_at(self._handle, stored, box)
            return self._read_cells(self._handle, stored, box)
        except (openslide.OpenSlideError, OSError) as error:
            self._release()
            raise self._unreadable(level, box, error, self._tiles[stored] if exact else None) from error

    def _read_at(self, handle: openslide.OpenSlide, stored: int, box: Box) -> NDArray[np.uint8]:
        step = self._steps[stored]
        location_l0 = (round(box.x0 * step), round(box.y0 * step))
        return over(handle.read_region(location_l0, stored, (box.width, box.height)), self._background)

    def _read_cells(self, handle: openslide.OpenSlide, stored: int, box: Box) -> NDArray[np.uint8]:
        out = np.empty((box.height, box.width, 3), np.uint8)
        for y in range(box.y0 // CELL * CELL, box.y1, CELL):
            for x in range(box.x0 // CELL * CELL, box.x1, CELL):
                part = Box.at(x, y, CELL, CELL).intersect(box)
                from_corner = Box(x, y, part.x1, part.y1)
                out[part.within(box)] = self._read_at(handle, stored, from_corner)[part.within(from_corner)]
        return out

    def _load_associated(self, name: str, size: Size) -> Image.Image:
        return load_associated(self._info.path, name)

    def _release(self) -> None:
        if self._handle is not None:
            self._handle.close()
            self._handle = None


@dataclass(frozen=True, slots=True)
class OpenSlideInfo:
    """Facts about a slide from OpenSlide."""

    info: SlideInfo
    about: SlideAbout
    background: tuple[int, int, int]
    """RGB where nothing was scanned."""
    stored: tuple[int, ...]
    """OpenSlide's number of each level of `info`."""
    tiles: tuple[Size | None, ...]
    """Size of the stored tiles of each level that OpenSlide lists; None where they are of no one size."""
    smallest_kept: bool
    """True where the smallest level, of which OpenSlide makes its hash, is a level of `info`."""


def read_openslide_info(path: str, mpp: Scale | None = None, image: FileImage = ONLY_IMAGE) -> OpenSlideInfo:
    """Return what OpenSlide says about a slide.

    Raises:
        SlideError: OpenSlide does not open the file.
    """
    with _opened(path) as handle:
        facts = _facts(path, handle, mpp, image)
    handle.close()
    return facts


def load_associated(path: str, name: str) -> Image.Image:
    """Return a picture that is stored with a slide, RGB.

    Raises:
        SlideError: there is none of this name, or it is damaged.
    """
    with _opened(path) as handle:
        if name not in handle.associated_images:
            raise SlideError(f"{path}: no associated image {name[:40]!r}")
        image = Image.fromarray(over(handle.associated_images[name]))
    handle.close()
    return image


@contextmanager
def _opened(path: str) -> Iterator[openslide.OpenSlide]:
    """Open a file, and close it again where what is read of it raises.

    Raises:
        SlideError: it is damaged, or OpenSlide does not know it.
    """
    with ExitStack() as stack:
        try:
            handle = stack.enter_context(openslide.OpenSlide(path))
            yield handle
        except openslide.OpenSlideUnsupportedFormatError as error:
            raise SlideError(
                f"{path}: OpenSlide does not know this format; leave the reader out, or use another"
            ) from error
        except DAMAGE as error:
            reason = " ".join(str(error).split()) or type(error).__name__
            raise SlideError(f"{path}: damaged or incomplete slide; OpenSlide says: {reason}") from error
        stack.pop_all()


def _facts(path: str, handle: openslide.OpenSlide, mpp: Scale | None, image: FileImage) -> OpenSlideInfo:
    properties = _properties(handle)
    pyramid = make_levels(handle.level_dimensions)
    resolved, source = resolve_mpp(mpp, properties, size=pyramid.levels[0].size)
    info = SlideInfo(
        path=path,
        name=default_name(path),
        reader="openslide",
        vendor=properties.get(openslide.PROPERTY_NAME_VENDOR, "unknown"),
        size=pyramid.levels[0].size,
        levels=pyramid.levels,
        mpp=resolved,
        mpp_source=source,
        bounds=read_bounds(properties, "openslide"),
        fingerprint=image.fingerprint(_fingerprint(path, properties)),
        series=image.number,
        left_out=(*_associated_images(properties), *image.left_out(pyramid)),
    )
    background = parse_color(properties.get(openslide.PROPERTY_NAME_BACKGROUND_COLOR))
    tiles = tuple(read_tile_sizes(properties, "openslide", handle.level_dimensions))
    about = describe_file(properties, info.vendor, info.name, images=1 + len(image.others))
    return OpenSlideInfo(
        info, about, background, pyramid.stored, tiles, pyramid.stored[-1] == len(handle.level_dimensions) - 1
    )


def _properties(handle: openslide.OpenSlide) -> dict[str, str]:
    """Return the properties of a slide; of a damaged one, those whose names are UTF-8."""
    found = {name: handle.properties.get(name) for name in handle.properties}
    return {name: value for name, value in found.items() if value is not None}


def _associated_images(properties: Mapping[str, str]) -> list[str]:
    """Return the label, macro and other images that a scanner stored with the slide."""
    found = sorted(match[1] for name in properties if (match := re.fullmatch(ASSOCIATED, name)))
    return [f"{name}, {' × '.join(_sides(properties, name))} px" for name in found]


def _sides(properties: Mapping[str, str], name: str) -> list[str]:
    return [properties.get(f"openslide.associated.{name}.{side}", "?") for side in ("width", "height")]


def _fingerprint(path: str, properties: Mapping[str, str]) -> str:
    quickhash = properties.get(openslide.PROPERTY_NAME_QUICKHASH1)
    if quickhash:
        return f"quickhash1:{quickhash}"
    with Path(path).open("rb") as file:
        return file_fingerprint(file)
