"""The maps as one file: OME-Zarr in a zip, as RFC-9 has it (https://ngff.openmicroscopy.org/rfc/9/).

Of the draft's recommended variant: the root of the archive is that of the hierarchy; entries are not
compressed by zip, as shards are by Zarr; all are in the ZIP64 format; every `zarr.json` comes first, breadth
first, that of the root at the head; the archive's comment is null-terminated JSON with the version of
OME-Zarr. Any Zarr library that reads zip opens it, such as zarr's ZipStore.

The maps begin at the corner of level 0, also of a slide with bounds, as in the folder that they come from.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from zipfile import ZIP_STORED, ZipFile, ZipInfo

from wsi_seg.core.errors import OutputError
from wsi_seg.core.files import atomic_path, reading
from wsi_seg.core.folders import walk_files
from wsi_seg.exporters.source import Exported, ExportSource
from wsi_seg.maps.ome import OME_VERSION
from wsi_seg.maps.shards import NODE, PARTIAL

COPIED = 2**20
# The earliest that zip can say: equal maps give equal bytes.
DATE = (1980, 1, 1, 0, 0, 0)


def export(source: ExportSource, path: Path) -> Exported:
    """Write the maps of a result as one zip, whole or not at all, a piece of a shard at a time.

    Raises:
        OutputError: the maps cannot be read, or the file cannot be written.
    """
    folder, count = source.maps.path, 0
    with atomic_path(path) as temporary, ZipFile(temporary, "w", ZIP_STORED) as archive:
        archive.comment = json.dumps({"ome": {"version": OME_VERSION}}).encode() + b"\0"
        for count, file in enumerate(_entries(folder), 1):  # noqa: B007
            entry = ZipInfo(file.relative_to(folder).as_posix(), DATE)
            entry.external_attr = 0o644 << 16
            with reading(file, OutputError), file.open("rb") as stored:
                with archive.open(entry, "w", force_zip64=True) as copy:
                    shutil.copyfileobj(stored, copy, COPIED)
    return Exported(path, f"{count} entries")


def _entries(folder: Path) -> Iterator[Path]:
    """Yield the files of a store in the order of the archive; OutputError where a folder cannot be read."""
    with reading(folder, OutputError):
        files = [file for file in walk_files(folder) if not file.name.endswith(PARTIAL)]
    yield from sorted(files, key=lambda file: (file.name != NODE, len(file.parts), file))
