"""Slides through TiffSlide: TIFF-family files, local or by URL."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from dataclasses import replace
from functools import cached_property
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import tiffslide
from numpy.typing import NDArray
from PIL import Image

from wsi_seg.core.errors import SlideError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.core.storage import is_remote
from wsi_seg.core.storage_errors import reason_of, storage_errors
from wsi_seg.slides.about import AssociatedImage, describe_file
from wsi_seg.slides.mpp import resolve_mpp
from wsi_seg.slides.readers.base import (
    ONLY_IMAGE,
    FileImage,
    LevelReader,
    file_fingerprint,
    make_levels,
    over,
    read_bounds,
    read_tile_sizes,
)
from wsi_seg.slides.readers.remote import CACHE_HINT, open_head
from wsi_seg.slides.readers.tiff import TIFF_ERRORS, check_whole
from wsi_seg.slides.slide import WHITE, SlideInfo, default_name

if TYPE_CHECKING:
    import zarr

PHOTOMETRICS = ("RGB", "YCBCR")
BRIGHTFIELD = "brightfield"
ASSOCIATED = ("label", "macro", "thumbnail")


class _OneImage(tiffslide.TiffSlide):
    """TiffSlide on one image of a file; what it reads follows from `properties`, which are of the first."""

    number = 0

    @cached_property
    def properties(self) -> dict[str, Any]:
        if self.number == 0:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", UserWarning)  # that it reads some of NDPI's properties only
                return super().properties
        series = self.ts_tifffile.series[self.number]
        if series.axes != "YXS":
            raise ValueError(f"image {self.number} has axes {series.axes}, not YXS")
        found = {
            "tiff.ImageDescription": self.ts_tifffile.pages.first.description,
            "tiffslide.series-index": self.number,
            "tiffslide.series-axes": series.axes,
        }
        tags = series.keyframe.tags
        if all(name in tags for name in ("XResolution", "YResolution")) and "ResolutionUnit" in tags:
            found["tiff.ResolutionUnit"] = getattr(tags["ResolutionUnit"].value, "name", "")
            for name in ("XResolution", "YResolution"):
                dividend, divisor = tags[name].value
                found[f"tiff.{name}"] = dividend / divisor if divisor else 0.0
        for level, (height, width) in enumerate(level.shape[:2] for level in series.levels):
            found |= {f"tiffslide.level[{level}].width": width, f"tiffslide.level[{level}].height": height}
        return found


class TiffSlideReader(LevelReader):
    """A slide that TiffSlide reads; gives exactly the stored pixels of every level."""

    def __init__(self, path: str, mpp: Scale | None = None, image: FileImage = ONLY_IMAGE) -> None:
        self._handle = _open(path)
        self._handle.number = image.number
        self._fourth = image.fourth
        try:
            check_whole(path, self._handle.ts_tifffile, image.number)
            properties = {
                key: str(value) for key, value in self._handle.properties.items() if value is not None
            }
            _refuse_unfit(path, self._handle, properties)
            self._stored = make_levels(self._handle.level_dimensions).stored
            info = _describe(path, self._handle, properties, mpp, image)
            self._scanned = _scanned_regions(self._handle)
            self._tiles = read_tile_sizes(properties, "tiffslide", self._handle.level_dimensions)
        except _errors() as error:
            self._handle.close()
            raise SlideError(f"{path}: damaged or unsupported TIFF: {reason_of(error)}") from error
        except SlideError:
            self._handle.close()
            raise
        about = describe_file(properties, info.vendor, info.name, images=1 + len(image.others))
        super().__init__(info, replace(about, associated=_associated_images(self._handle, info.vendor)))

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        try:
            pixels = self._to_rgb(self._read_stored(self._stored[level], box))
        except _errors() as error:
            raise self._unreadable(level, box, error, self._tiles[self._stored[level]]) from error
        if self._scanned is None:
            return pixels
        out = np.full(pixels.shape, WHITE, np.uint8)
        for region in self._scanned[self._stored[level]]:
            part = region.intersect(box)
            if not part.empty:
                out[part.within(box)] = pixels[part.within(box)]
        return out

    def _load_associated(self, name: str, size: Size) -> Image.Image:
        try:
            return Image.fromarray(self._handle.associated_images.series_map[name].asarray())
        except _errors() as error:
            raise SlideError(f"{self._info.path}: its {name} cannot be read: {reason_of(error)}") from error

    def _to_rgb(self, pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Lay what is transparent over white; leave an empty fourth channel out."""
        if self._fourth == "straight":
            return over(Image.fromarray(np.ascontiguousarray(pixels)))
        if self._fourth == "associated":  # the colors are multiplied by their opacity already
            white = np.uint8(WHITE) - pixels[..., 3:]
            return np.asarray(pixels[..., :3] + np.minimum(white, np.uint8(WHITE) - pixels[..., :3]))
        return np.ascontiguousarray(pixels[..., :3])

    def _read_stored(self, level: int, box: Box) -> NDArray[Any]:
        location = (self._locate(level, 0, box.x0), self._locate(level, 1, box.y0))
        stored = self._handle.read_region(location, level, (box.width, box.height), as_array=True)
        return np.asarray(stored)

    def _locate(self, level: int, axis: int, position: int) -> int:
        """Return a level-0 position that TiffSlide, which divides and truncates, maps to `position`."""
        step = self._handle.level_downsamples[level]
        location = int(position * step)
        while int(location / step) < position:
            location += 1
        return location

    def _release(self) -> None:
        self._handle.close()


def _open(path: str) -> _OneImage:
    try:
        return _OneImage(open_head(path).file.open() if is_remote(path) else path)
    except FileNotFoundError as error:
        raise SlideError(f"{path}: no such file") from error
    except _errors() as error:
        hint = f"; {CACHE_HINT}" if is_remote(path) else ""
        raise SlideError(f"{path}: cannot be opened as a TIFF: {reason_of(error)}{hint}") from error


def _errors() -> tuple[type[BaseException], ...]:
    """Return what tifffile, its codecs, TiffSlide, zarr and the network raise on bad data."""
    return (*TIFF_ERRORS, *storage_errors())


def _associated_images(handle: _OneImage, vendor: str) -> tuple[AssociatedImage, ...]:
    """Return label, macro and thumbnail where tifffile tells them from other images, sorted by name."""
    if vendor != "aperio":
        return ()
    found = handle.associated_images.series_map.items()
    return tuple(
        AssociatedImage(name, Size(series.shape[1], series.shape[0]))
        for name, series in sorted(found)
        if name in ASSOCIATED and series.axes == "YXS" and series.dtype == np.uint8 and series.shape[2] == 3
    )


def _refuse_unfit(path: str, handle: _OneImage, properties: Mapping[str, str]) -> None:
    """Raise SlideError for colors that TiffSlide does not convert, and light that is not brightfield."""
    photometric = getattr(handle.ts_tifffile.series[handle.number].keyframe.photometric, "name", "unknown")
    if photometric not in PHOTOMETRICS:
        raise SlideError(f"{path}: the reader tiffslide does not convert {photometric} to RGB; use openslide")
    light = properties.get("leica.illumination-source", BRIGHTFIELD)
    if light != BRIGHTFIELD:
        raise SlideError(f"{path}: a slide in {light} light is not a brightfield slide; choose one that is")


def _describe(
    path: str,
    handle: tiffslide.TiffSlide,
    properties: Mapping[str, str],
    mpp: Scale | None,
    image: FileImage,
) -> SlideInfo:
    pyramid = make_levels(handle.level_dimensions)
    size = pyramid.levels[0].size
    resolved, source = resolve_mpp(mpp, properties, prefix="tiffslide", size=size)
    return SlideInfo(
        path=path,
        name=default_name(path),
        reader="tiffslide",
        vendor=properties.get("tiffslide.vendor", "generic-tiff"),
        size=size,
        levels=pyramid.levels,
        mpp=resolved,
        mpp_source=source,
        bounds=read_bounds(properties, "tiffslide"),
        fingerprint=image.fingerprint(file_fingerprint(handle.ts_tifffile.filehandle)),
        series=image.number,
        left_out=image.left_out(pyramid),
    )


def _scanned_regions(handle: tiffslide.TiffSlide) -> list[list[Box]] | None:
    """Return the regions of each level that hold pixels, or None where all of it does.

    Between them TiffSlide gives black.
    """
    composition = handle.properties.get("tiffslide.series-composition")
    if composition is None:
        return None
    group = handle.zarr_group
    regions: list[list[Box]] = []
    for level in range(handle.level_count):
        boxes = []
        for series, offsets in composition["located_series"].items():
            height, width = cast("zarr.Array[Any]", group[f"{series}/{level}"]).shape[:2]
            y, x = offsets[level][:2]
            boxes.append(Box.at(x, y, width, height))
        regions.append(boxes)
    return regions
