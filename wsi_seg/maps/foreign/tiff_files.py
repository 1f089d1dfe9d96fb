"""TIFF, BigTIFF and OME-TIFF files: tiles and strips decoded by tifffile, plain ones mapped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree.ElementTree import ParseError

import numpy as np
import tifffile
import zarr
from defusedxml import DefusedXmlException
from defusedxml.ElementTree import fromstring

from wsi_seg.core.classes import RGB
from wsi_seg.core.errors import MapError, SlideError
from wsi_seg.core.geometry import Scale, Size
from wsi_seg.maps.foreign.npy_files import SIDE, MappedArray
from wsi_seg.maps.foreign.stored import StoredMap, ValueName
from wsi_seg.maps.foreign.zarr_files import ZARR_ERRORS
from wsi_seg.slides.mpp import DESCRIPTION, resolve_mpp
from wsi_seg.slides.readers.tiff import TIFF_ERRORS, check_whole

# Axes as tifffile names them: samples of a pixel, and channels.
CLASS_AXES = {"S": "c", "C": "c"}
# Those of which it does not know what they count.
NAMELESS = {"Q", "I"}


def open_tiff(path: Path, inner: str | None) -> StoredMap:
    """Open the finest level of an image in a TIFF file, by default its first; see `open_map`."""
    try:
        tiff = tifffile.TiffFile(path)
        count = len(tiff.series)
        if inner is not None and not (inner.isdecimal() and int(inner) < count):
            raise MapError(f"{path}: has no image {inner!r}; it has {count}, counted from 0")
        number = int(inner or 0)
        check_whole(str(path), tiff, number)
        return _stored(path, tiff, number)
    except SlideError as error:
        raise MapError(str(error)) from error
    except TIFF_ERRORS as error:
        raise MapError(f"{path}: damaged TIFF ({' '.join(str(error).split()):.200})") from error


def _stored(path: Path, tiff: tifffile.TiffFile, number: int) -> StoredMap:
    series = tiff.series[number]
    page = series.keyframe
    axes = None
    if NAMELESS.isdisjoint(series.axes):
        axes = "".join(CLASS_AXES.get(axis, axis.lower()) for axis in series.axes)
    if page.photometric in (tifffile.PHOTOMETRIC.RGB, tifffile.PHOTOMETRIC.YCBCR):
        raise MapError(f"{path}: a color picture; maps hold class codes, or one channel for each class")
    array: Any
    if series.dataoffset is not None:
        dtype = np.dtype(series.dtype).newbyteorder(tiff.byteorder)
        array = MappedArray(path, series.dataoffset, tuple(series.shape), dtype)
        chunks = tuple(min(length, SIDE) for length in array.shape)
    else:
        array = zarr.open(series.aszarr(level=0), mode="r")
        if not isinstance(array, zarr.Array):
            raise MapError(f"{path}: its levels cannot be read")
        chunks = tuple(array.chunks)
    mpp, source = _mpp(tiff, page, Size(page.imagewidth, page.imagelength))
    name = str(path) if number == 0 else f"{path}, image {number}"
    return StoredMap(
        name,
        array,
        chunks,
        axes,
        mpp,
        source,
        values=dict(_palette(page)),
        channels=dict(_ome_channels(tiff, number)),
        errors=(*ZARR_ERRORS, *TIFF_ERRORS),
    )


def _mpp(tiff: tifffile.TiffFile, page: tifffile.TiffPage, size: Size) -> tuple[Scale | None, str]:
    properties = {DESCRIPTION: (tiff.ome_metadata if tiff.is_ome else None) or page.description}
    unit = page.tags.valueof("ResolutionUnit")
    properties["tiff.ResolutionUnit"] = str(getattr(unit, "name", unit)).lower()
    for axis in "XY":
        value = page.tags.valueof(f"{axis}Resolution")
        if value is not None and value[1]:
            properties[f"tiff.{axis}Resolution"] = str(value[0] / value[1])
    return resolve_mpp(None, properties, size=size)


def _palette(page: tifffile.TiffPage) -> Iterator[tuple[int, ValueName]]:
    """Yield the color of each value of a picture with a palette, of 16 bits a channel."""
    if page.photometric == tifffile.PHOTOMETRIC.PALETTE and page.colormap is not None:
        for value, color in enumerate((np.asarray(page.colormap).T >> 8).tolist()):
            yield value, ValueName(None, tuple(color))


def _ome_channels(tiff: tifffile.TiffFile, number: int) -> Iterator[tuple[int, ValueName]]:
    """Yield the channels that the OME-XML of an OME-TIFF describes."""
    if not tiff.is_ome or not tiff.ome_metadata:
        return
    try:
        root = fromstring(tiff.ome_metadata)
    except (ParseError, DefusedXmlException, ValueError):
        return  # tifffile has read of it what it needs, and names are no more than names
    images = [item for item in root.iter() if item.tag.rpartition("}")[2] == "Image"]
    if number >= len(images):
        return
    channels = [item for item in images[number].iter() if item.tag.rpartition("}")[2] == "Channel"]
    for index, channel in enumerate(channels):
        yield index, ValueName(channel.get("Name") or None, _ome_color(channel.get("Color")))


def _ome_color(text: str | None) -> RGB | None:
    """Return a color that OME-XML writes as a signed number of 32 bits: red, green, blue, alpha."""
    if text is None or not text.lstrip("-").isdecimal():
        return None
    value = int(text) & 0xFFFFFFFF
    return value >> 24, value >> 16 & 255, value >> 8 & 255
