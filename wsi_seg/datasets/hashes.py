"""Hashes of the files of a training run, to find out whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path

from wsi_seg.core.errors import DataError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import walk_files
from wsi_seg.datasets.region import AnnotatedRegion


def file_hashes(regions: Iterable[AnnotatedRegion]) -> dict[str, str]:
    """Return the SHA-256, in hexadecimal, of each file that regions were read from, by its path.

    Of a folder, such as that of a DICOM series, each file in it is listed. Files are read piece by piece.

    Raises:
        DataError: a file cannot be read.
    """
    paths = {file for region in regions for path in region.files for file in _files(path)}
    return {str(path): file_hash(path) for path in sorted(paths)}


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        with reading(path, DataError):
            yield from walk_files(path)
    else:
        yield path


def file_hash(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal; DataError where it cannot be read.

    A file that is as it was is read once in a process: slides are large.
    """
    with reading(path, DataError):
        state = path.stat()
        return _read_hash(path, state.st_size, state.st_mtime_ns)


@lru_cache(maxsize=4096)
def _read_hash(path: Path, _size: int, _mtime_ns: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
