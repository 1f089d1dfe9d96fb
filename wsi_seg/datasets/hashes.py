"""Hashes of the files of a training run, to find out whether they are still the same."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
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
    return {str(path): _sha256(path) for path in sorted(paths)}


def _files(path: Path) -> Iterator[Path]:
    if path.is_dir():
        with reading(path, DataError):
            yield from walk_files(path)
    else:
        yield path


def _sha256(path: Path) -> str:
    with reading(path, DataError), path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
