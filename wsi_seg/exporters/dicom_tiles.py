"""Tiled DICOM images written tile by tile, so that memory does not grow with them.

highdicom takes an image only as a whole. Here it makes the header of an image of one pixel, which differs
from that of the whole image in its size, and in the places of its tiles where it lists them (TILED_SPARSE;
TILED_FULL does not: PS3.3, C.7.6.17.3). Tiles are compressed without loss by JPEG-LS, as highdicom does it,
into a temporary file, which pydicom copies behind the header.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryFile
from typing import Any, Protocol

import numpy as np
from highdicom import PlanePositionSequence
from highdicom.frame import encode_frame
from highdicom.spatial import compute_tile_positions_per_frame
from numpy.typing import NDArray
from pydicom import Dataset
from pydicom.encaps import itemize_frame
from pydicom.uid import JPEGLSLossless

from wsi_seg.core.geometry import Size
from wsi_seg.core.threads import map_ahead
from wsi_seg.exporters.dicom_slide import TILE

# Rows that are read at a time, a multiple of `TILE`: stored chunks of labels are as high.
BAND = 2 * TILE
# Above this many bytes of pixels, offsets may not fit the basic table, whose entries have 32 bits.
BASIC_TABLE_MOST = 2**31

TILED: dict[str, Any] = {
    "transfer_syntax_uid": JPEGLSLossless,
    "tile_pixel_array": True,
    "tile_size": (TILE, TILE),
}
"""Arguments of highdicom's images whose header is for `write_tiled`, besides one pixel that is 0."""


class Pixels(Protocol):
    """Array (y, x) of one level of a map, uint8 or uint16, read piece by piece."""

    @property
    def shape(self) -> tuple[int, ...]: ...

    def __getitem__(self, key: tuple[slice, slice], /) -> NDArray[np.uint8] | NDArray[np.uint16]: ...


def write_tiled(path: Path, header: Dataset, pixels: Pixels) -> None:
    """Write an image of the header's kind with these pixels.

    Args:
        path: file to write.
        header: an image that highdicom made of one pixel with `TILED`; it is changed.
        pixels: of the header's number of bits.

    Raises:
        OSError: the file cannot be written.
    """
    height, width = pixels.shape
    size = Size(-(-width // TILE), -(-height // TILE))
    count, bits = size.width * size.height, int(header.BitsAllocated)
    header.TotalPixelMatrixColumns, header.TotalPixelMatrixRows = width, height
    header.NumberOfFrames = count
    if header.DimensionOrganizationType != "TILED_FULL":
        header.PerFrameFunctionalGroupsSequence = list(_frame_groups(header))
    extended = count * TILE * TILE * bits // 8 > BASIC_TABLE_MOST
    with TemporaryFile(dir=path.parent) as file:
        file.write(bytes(8 if extended else 8 + 4 * count))  # room for the table
        lengths = [file.write(item) for item in _items(pixels, bits)]
        offsets = np.cumsum([0, *lengths[:-1]], dtype=np.uint64)
        table = b"" if extended else offsets.astype("<u4").tobytes()
        if extended:
            header.ExtendedOffsetTable = offsets.astype("<u8").tobytes()
            header.ExtendedOffsetTableLengths = (np.array(lengths, "<u8") - 8).astype("<u8").tobytes()
        file.seek(0)
        file.write(b"\xfe\xff\x00\xe0" + struct.pack("<L", len(table)) + table)
        file.seek(0)
        header.PixelData = file
        header.save_as(path, enforce_file_format=True)


def _frame_groups(header: Dataset) -> Iterator[Dataset]:
    """Yield the functional groups of each tile: its place, in the order of `_tiles`."""
    origin = header.TotalPixelMatrixOriginSequence[0]
    for (column, row), position in compute_tile_positions_per_frame(
        rows=TILE,
        columns=TILE,
        total_pixel_matrix_rows=header.TotalPixelMatrixRows,
        total_pixel_matrix_columns=header.TotalPixelMatrixColumns,
        total_pixel_matrix_image_position=[
            float(origin[f"{axis}OffsetInSlideCoordinateSystem"].value) for axis in "XYZ"
        ],
        image_orientation=header.ImageOrientationSlide,
        pixel_spacing=header.SharedFunctionalGroupsSequence[0].PixelMeasuresSequence[0].PixelSpacing,
    ):
        content, groups = Dataset(), Dataset()
        content.DimensionIndexValues = [row // TILE + 1, column // TILE + 1]
        groups.FrameContentSequence = [content]
        groups.PlanePositionSlideSequence = PlanePositionSequence("SLIDE", position, (column, row))
        yield groups


def _items(pixels: Pixels, bits: int) -> Iterator[bytes]:
    """Yield the compressed tiles as items (PS3.5, A.4), from left to right, then from top to bottom."""

    def item(tile: NDArray[np.uint8] | NDArray[np.uint16]) -> bytes:
        encoded = encode_frame(
            tile,
            transfer_syntax_uid=JPEGLSLossless,
            bits_allocated=bits,
            bits_stored=bits,
            photometric_interpretation="MONOCHROME2",
        )
        return b"".join(itemize_frame(encoded))

    empty = item(np.zeros((TILE, TILE), f"u{bits // 8}"))
    yield from map_ahead(lambda tile: item(tile) if tile.any() else empty, _tiles(pixels))


def _tiles(pixels: Pixels) -> Iterator[NDArray[np.uint8] | NDArray[np.uint16]]:
    """Yield tiles (TILE, TILE), with 0 beyond the edge."""
    height, width = pixels.shape
    for top in range(0, height, BAND):
        band = pixels[top : min(top + BAND, height), 0:width]
        for y in range(0, band.shape[0], TILE):
            for x in range(0, width, TILE):
                part = band[y : y + TILE, x : x + TILE]
                tile = np.zeros((TILE, TILE), band.dtype)
                tile[: part.shape[0], : part.shape[1]] = part
                yield tile
