"""DICOM slides through wsidicom: those that OpenSlide refuses, such as JPEG-LS, and those of servers.

https://github.com/imi-bigpicture/wsidicom decodes with imagecodecs, Pillow and pydicom. Its pixels of a file
are those of OpenSlide; through DICOMweb they are those of the file.
"""

from __future__ import annotations

import logging
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pydicom
from numpy.typing import NDArray
from PIL import Image
from pydicom.errors import InvalidDicomError
from pydicom.uid import JPEG2000TransferSyntaxes, JPEGLSTransferSyntaxes, JPEGTransferSyntaxes
from wsidicom import WsiDicom
from wsidicom.config import Settings, use_settings
from wsidicom.errors import (
    WsiDicomError,
    WsiDicomFileError,
    WsiDicomMatchError,
    WsiDicomNoResolutionError,
    WsiDicomNotFoundError,
    WsiDicomNotSupportedError,
    WsiDicomOutOfBoundsError,
    WsiDicomUidDuplicateError,
)
from wsidicom.file import WsiDicomFileSource
from wsidicom.geometry import Point
from wsidicom.web import WsiDicomWebClient

from wsi_seg.core.errors import SlideError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import dicom_files, list_folder
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.core.lru import LRUCache
from wsi_seg.core.storage_errors import reason_of
from wsi_seg.slides.dicomweb import SeriesAddress, connect, hash_instances, parse_series, read_heads, why
from wsi_seg.slides.mpp import resolve_mpp
from wsi_seg.slides.readers.base import ONLY_IMAGE, FileImage, LevelReader, make_levels
from wsi_seg.slides.readers.dicom_instances import READ, Instances, requested_syntaxes, sort_instances
from wsi_seg.slides.readers.dicom_streams import open_levels, open_streams
from wsi_seg.slides.slide import SlideInfo, default_name

if TYPE_CHECKING:
    from wsidicom.instance import WsiInstance

# Both log what they leave out, with tracebacks; what matters is raised here.
for _library in ("wsidicom", "dicomweb_client"):
    logging.getLogger(_library).addHandler(logging.NullHandler())

# What wsidicom, pydicom, the codecs and the network raise over damaged data; RuntimeErrors are imagecodecs'.
DAMAGE = (
    OSError, RuntimeError, ValueError, LookupError, TypeError, ArithmeticError, AttributeError, StopIteration,
    EOFError, struct.error, InvalidDicomError, Image.DecompressionBombError, WsiDicomError, WsiDicomFileError,
    WsiDicomMatchError, WsiDicomNoResolutionError, WsiDicomNotFoundError, WsiDicomNotSupportedError,
    WsiDicomOutOfBoundsError, WsiDicomUidDuplicateError,
)  # fmt: skip

# Of decoded tiles that a slide keeps, as OpenSlide does.
CACHE_BYTES = 32 * 2**20
SETTINGS = Settings(
    strict_tile_size_check=False,  # it would leave out the levels of other tiles than level 0 has
    decoded_frame_cache_size=0,
    encoded_frame_cache_size=0,
    open_web_threads=4,
)
END_OF_IMAGE = b"\xff\xd9"
# Of JPEG, JPEG-LS and JPEG 2000: each frame ends with this marker.
WITH_END = (*JPEGTransferSyntaxes, *JPEGLSTransferSyntaxes, *JPEG2000TransferSyntaxes)
# Frames that are asked for in one request of a server.
FRAMES_AT_ONCE = 32


@dataclass(frozen=True, slots=True)
class _Level:
    """The focal plane of one level that is read."""

    image: Any
    """`ImageData` of wsidicom."""
    size: Size
    tile: Size
    plane: float
    path: str


class DicomReader(LevelReader):
    """A DICOM slide that wsidicom reads: the files of a series in one folder, or a series of a server."""

    def __init__(self, path: str, mpp: Scale | None = None, image: FileImage = ONLY_IMAGE) -> None:
        address = parse_series(path)
        with _damage(path):
            self._slide, instances = _open_web(address) if address else _open_files(path)
        try:
            with _damage(path):
                levels, others = _find_levels(path, self._slide, instances)
                info, stored = _describe(path, levels, others, instances, mpp)
                about = instances.describe(info.name)
        except SlideError:
            self._slide.close()
            raise
        self._levels = [levels[number] for number in stored]
        self._kept = _cache(CACHE_BYTES)
        self._client_error = why if address else reason_of
        super().__init__(info, about)

    def _read_inside(self, level: int, box: Box) -> NDArray[np.uint8]:
        stored = self._levels[level]
        out = np.empty((box.height, box.width, 3), np.uint8)
        try:
            for point, pixels in self._tiles(level, box):
                corner = (point.x * stored.tile.width, point.y * stored.tile.height)
                place = Box.at(*corner, stored.tile.width, stored.tile.height)
                part = place.intersect(box)
                out[part.within(box)] = pixels[part.within(place)]
        except DAMAGE as error:
            raise self._unreadable(level, box, _Said(self._client_error(error)), stored.tile) from error
        return out

    def _tiles(self, level: int, box: Box) -> Iterator[tuple[Point, NDArray[np.uint8]]]:
        """Yield column and row of each stored tile that meets a box, and its pixels, white if missing."""
        stored, points = self._levels[level], _points(self._levels[level], box)
        for start in range(0, len(points), FRAMES_AT_ONCE):
            group = points[start : start + FRAMES_AT_ONCE]
            kept = {point: self._kept.get((level, point)) for point in group}
            wanted = [
                point
                for point, pixels in kept.items()
                if pixels is None and not stored.image.is_sparse(point, stored.plane, stored.path)
            ]
            streams = stored.image.get_encoded_tiles(wanted, stored.plane, stored.path) if wanted else ()
            for point, stream in zip(wanted, streams, strict=True):
                kept[point] = pixels = _decode(stored, stream)
                self._kept.put((level, point), pixels)
            for point, known in kept.items():
                yield point, stored.image.blank_tile if known is None else known

    def _load_associated(self, name: str, size: Size) -> Image.Image:
        try:
            if name == "thumbnail":
                return Image.fromarray(self._slide.read_thumbnail((size.width, size.height), as_array=True))
            read = self._slide.read_label if name == "label" else self._slide.read_overview
            return Image.fromarray(read(as_array=True))
        except DAMAGE as error:
            reason = self._client_error(error)
            raise SlideError(f"{self._info.path}: its {name} cannot be read: {reason}") from error

    def _release(self) -> None:
        self._kept = _cache(0)
        self._slide.close()


class _Said(Exception):
    """Reason of an error in our words."""


@contextmanager
def _damage(path: str) -> Iterator[None]:
    """Turn what libraries raise over a damaged slide or a failed request into a SlideError in one line."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # pydicom's, of values that break the standard
            yield
    except SlideError:
        raise
    except WsiDicomNoResolutionError as error:
        raise SlideError(
            f"{path}: a level does not state its pixel spacing, so levels cannot be told apart"
        ) from error
    except DAMAGE as error:
        reason = (
            why(error) if parse_series(path) else f"damaged or unsupported DICOM slide: {reason_of(error)}"
        )
        raise SlideError(f"{path}: {reason}") from error


def _open_files(path: str) -> tuple[WsiDicom, Instances]:
    """Open all files of the series of a file, which lie in its folder."""
    asked = _read_head(path, Path(path))
    heads: dict[Path, pydicom.Dataset] = {}
    with reading(path, SlideError):
        files = dicom_files(list_folder(Path(path).parent))[0]
    for file in files:
        head = asked if file == Path(path) else _read_head(path, file)
        if head.get("SeriesInstanceUID") == asked.get("SeriesInstanceUID"):
            heads[file] = head
    if Path(path) not in heads:  # of another ending than DICOM files have
        heads[Path(path)] = asked
    instances = sort_instances(path, {file.name: head for file, head in heads.items()}, files=True)
    untold = [file for file in heads if file.name in instances.untold]
    told = [file for file in heads if file.name not in instances.untold]
    with use_settings(SETTINGS):
        source = WsiDicomFileSource(chain(open_streams(told), open_levels(untold)))
        return WsiDicom(source, settings=SETTINGS), instances


def _read_head(path: str, file: Path) -> pydicom.Dataset:
    with _damage(path):
        return pydicom.dcmread(file, stop_before_pixels=True, specific_tags=list(READ))


def _open_web(address: SeriesAddress) -> tuple[WsiDicom, Instances]:
    client = connect(address)
    heads = read_heads(address, client)
    named = {f"instance {n}": head for n, head in enumerate(heads, 1)}
    instances = sort_instances(address.url, named, files=False)
    syntaxes = requested_syntaxes(instances.base)
    slide = WsiDicom.open_web(
        WsiDicomWebClient(client), address.study, address.series, syntaxes, settings=SETTINGS
    )
    return slide, instances


def _find_levels(path: str, slide: WsiDicom, instances: Instances) -> tuple[list[_Level], list[str]]:
    """Return the levels of the largest pyramid, the largest first, and what else there is.

    Raises:
        SlideError: wsidicom left an instance of a level out.
    """
    pyramids = sorted(slide.pyramids, key=lambda one: one.size.width * one.size.height, reverse=True)
    opened: set[str] = set()
    levels: list[_Level] = []
    others: list[str] = []
    for number, pyramid in enumerate(pyramids):
        for group in sorted(pyramid.levels, key=lambda one: one.size.width, reverse=True):
            found: list[WsiInstance] = list(group.instances.values())
            opened |= {str(dataset.uids.instance) for one in found for dataset in one.datasets}
            chosen = group.default_instance
            size = Size(group.size.width, group.size.height)
            if number:
                others.append(f"{size} px, a level of another pyramid of the series")
                continue
            planes = sum(len(one.focal_planes) * len(one.optical_paths) for one in found)
            if planes > 1 and not levels:
                others.append(f"{planes - 1} more of {size} px")
            tile = Size(chosen.tile_size.width, chosen.tile_size.height)
            image = chosen.image_data
            levels.append(_Level(image, size, tile, chosen.default_z, chosen.default_path))
    if missing := sorted(instances.uids - opened):
        raise SlideError(
            f"{path}: instance {missing[0]} of the series, one of {len(missing)}, cannot be read: it is "
            "damaged, or of a kind or transfer syntax that wsidicom does not know"
        )
    return levels, others


def _describe(
    path: str, levels: list[_Level], others: list[str], instances: Instances, mpp: Scale | None
) -> tuple[SlideInfo, tuple[int, ...]]:
    """Return the facts about the slide, and the number of each of its levels among those that are stored."""
    pyramid = make_levels([(level.size.width, level.size.height) for level in levels])
    spacing = levels[0].image.pixel_spacing
    properties = {"dicom.mpp-x": str(spacing.width * 1000), "dicom.mpp-y": str(spacing.height * 1000)}
    resolved, source = resolve_mpp(mpp, properties, prefix="dicom")
    address = parse_series(path)
    left_out = [f"{name}, {size} px" for name, size in instances.associated]
    return SlideInfo(
        path=path,
        name=address.series if address else default_name(path),
        reader="wsidicom",
        vendor="dicom",
        size=pyramid.levels[0].size,
        levels=pyramid.levels,
        mpp=resolved,
        mpp_source=source,
        bounds=None,
        fingerprint=f"dicom-instances-sha256:{hash_instances(instances.uids)}",
        left_out=(
            *left_out,
            *instances.left_out,
            *others,
            *(f"{size} px, {reason}" for size, reason in pyramid.left_out),
        ),
        assumed=instances.assumed,
    ), pyramid.stored


def _cache(most_bytes: int) -> LRUCache[NDArray[np.uint8]]:
    return LRUCache(most_bytes, lambda pixels: pixels.nbytes)


def _points(level: _Level, box: Box) -> list[Point]:
    """Return column and row of each stored tile that meets a box of the level."""
    width, height = level.tile.width, level.tile.height
    return [
        Point(x, y)
        for y in range(box.y0 // height, -(-box.y1 // height))
        for x in range(box.x0 // width, -(-box.x1 // width))
    ]


def _decode(level: _Level, stream: bytes) -> NDArray[np.uint8]:
    """Return the pixels of a stored frame, uint8 RGB of the tile's full size; raises one of `DAMAGE`."""
    # Without the marker, decoders of JPEG fill up with gray, and CharLS takes five seconds to say so.
    if level.image.transfer_syntax in WITH_END and bytes(stream).rfind(END_OF_IMAGE) < 0:
        raise ValueError("premature end of a frame")
    pixels: NDArray[np.uint8] = level.image.decoder.decode(stream)
    if pixels.shape != (level.tile.height, level.tile.width, 3) or pixels.dtype != np.uint8:
        raise ValueError(f"a frame decodes to {pixels.dtype} {pixels.shape}, not to {level.tile} px of RGB")
    return pixels
