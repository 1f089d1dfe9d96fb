"""Opening a map file of other software, whatever its format."""

from __future__ import annotations

import stat
from pathlib import Path

from wsi_seg.core.errors import MapError
from wsi_seg.core.files import reading
from wsi_seg.core.formats import TIFF_MAGIC
from wsi_seg.maps.foreign.stored import StoredMap

NPY_MAGIC = b"\x93NUMPY"
ZIP_MAGIC = b"PK\x03\x04"


def open_map(path: Path, inner: str | None = None) -> StoredMap:
    """Open a map; its pixels are read later, box by box.

    Args:
        path: folder or zip file of a Zarr store (formats 2 and 3), or of an array or OME-Zarr image in one; a
            TIFF file; or a NumPy `.npy` file.
        inner: array or image in the store, such as `labels/classes`; number of the image in a TIFF file.

    Raises:
        MapError: there is none, it is damaged, of another format, or claims a size that no map has.
    """
    with reading(path, MapError):
        mode = path.stat().st_mode
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise MapError(f"{path}: is neither a file nor a folder")
        head = b""
        if stat.S_ISREG(mode):
            with path.open("rb") as file:
                head = file.read(8)
    if stat.S_ISDIR(mode) or head.startswith(ZIP_MAGIC):
        from wsi_seg.maps.foreign.zarr_files import open_zarr

        stored = open_zarr(path, inner)
    elif head.startswith(NPY_MAGIC):
        from wsi_seg.maps.foreign.npy_files import open_npy

        if inner is not None:
            raise MapError(f"{path}: a .npy file holds one array; leave --array out")
        stored = open_npy(path)
    elif head.startswith(TIFF_MAGIC):
        from wsi_seg.maps.foreign.tiff_files import open_tiff

        stored = open_tiff(path, inner)
    else:
        raise MapError(f"{path}: neither Zarr (a folder or zip file), nor TIFF, nor NumPy (.npy)")
    stored.check()
    return stored
