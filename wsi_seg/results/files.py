"""The files of a slide's results: their names, how JSON is read and written, and what no run has written."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from textwrap import shorten
from typing import Any

from pydantic import BaseModel, ValidationError

from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.files import atomic_path, reading

MAPS = "maps.zarr"
POLYGONS = "polygons.geojson"
OVERVIEW = "overview.png"
THUMBNAIL = "thumbnail.jpg"
REPORT = "report.html"
# Written by `wsi-seg report`, not by a run.
REPORT_PDF = "report.pdf"
SUMMARY = "summary.json"
MANIFEST = "manifest.json"
PLAN = "plan.json"
JOURNAL = "blocks.jsonl"
CONTENT = "content.json"
# Folder of the formats that a run writes besides, see `pipeline.run_exports`.
EXPORTS = "exports"
# Member of a manifest: formats that cannot hold the results, by path, with the reason of each.
LEFT_OUT = "formats_left_out"
LONGEST_REASON = 500
RESULTS = (MAPS, POLYGONS, f"{POLYGONS}.gz", OVERVIEW, THUMBNAIL, REPORT, SUMMARY, MANIFEST)
# Folder of regions that are traced and not joined yet, see `pipeline.tracing`.
TRACED = "traced"
# Folder of the contours in each block, see `regions.block_contours`.
CONTOURS = "contours"
WORKING = (PLAN, JOURNAL, CONTENT, TRACED, CONTOURS)
# In the folder of all results.
BATCH = "batch.csv"
FAILED = "failed.csv"
LOGS = "logs"
# In it, a folder for the tables of each share of a job array.
SHARES = "shares"

# Bytes of the longest file name that filesystems in use take, and those that may be added to a slide's name
# (as in `.NAME.claim.` with the 32 digits of a UUID).
LONGEST_NAME = 255
NAME_AFFIXES = 48


class _RegionFacts(BaseModel):
    count: int
    area_mm2: float


class _CoverageFacts(BaseModel):
    unread_mm2: float
    other_level_mm2: float


class _DomainFacts(BaseModel):
    notice: str


class _SummaryFacts(BaseModel):
    """The parts that every summary has; it may hold others."""

    status: str
    mpp: tuple[float, float]
    mpp_source: str
    reader: str
    tissue_area_mm2: float
    class_area_mm2: dict[str, float]
    regions: dict[str, _RegionFacts]
    coverage: _CoverageFacts
    domain: _DomainFacts | None = None


# Files of the maps.
_OF_MAPS = re.compile(
    r"(labels/(classes|tissue|coverage)/)?(zarr\.json|\d+/(zarr\.json|c(/\d+)+(\.[0-9a-f]{32}\.partial)?))"
    r"|labels/zarr\.json"
)
_LITTER = re.compile(r"\.DS_Store|Thumbs\.db|desktop\.ini|\._.*")
# A file under a temporary name while it is written.
_TEMPORARY = re.compile(r"\.?(?P<name>.+?)(\.[0-9a-f]{32})?\.(tmp|partial)")


def write_json(path: Path, value: Any) -> None:
    """Write JSON, whole or not at all; OutputError where that is refused."""
    text = json.dumps(value, indent=2, ensure_ascii=False) + "\n"
    with atomic_path(path) as temporary:
        # Names of files that are no text hold halves of characters, which JSON writes in this way.
        temporary.write_bytes(text.encode(errors="backslashreplace"))


def read_json(path: Path) -> Any:
    """Read a JSON file of a results folder.

    Raises:
        OutputError: it is missing or damaged.
    """
    try:
        with reading(path, OutputError):
            return json.loads(path.read_text(encoding="utf-8"))
    except (ValueError, RecursionError) as error:
        raise OutputError(f"{path}: is damaged ({error}); remove its folder and run again") from error


def read_record(path: Path) -> dict[str, Any]:
    """Read a JSON file of a results folder that holds an object; OutputError as for `read_json`."""
    return as_record(read_json(path), path)


def as_record(value: Any, place: Path | str) -> dict[str, Any]:
    """Return JSON that is an object; OutputError where it is something else."""
    if not isinstance(value, dict):
        raise OutputError(f"{place}: is damaged (no JSON object); remove its folder and run again")
    return value


def unlike_notice(summary: Mapping[str, Any]) -> str:
    """Return the line of a summary that marks the slide as unlike the training data; "" where it is not."""
    found = summary.get("domain")
    return str(found.get("notice", "")) if isinstance(found, dict) else ""


def as_summary(value: Any, place: Path | str) -> dict[str, Any]:
    """Return JSON that is a summary; OutputError where something is missing or of another kind."""
    summary = as_record(value, place)
    try:
        _SummaryFacts.model_validate(summary)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(str(part) for part in first["loc"])
        raise OutputError(
            f"{place}: is damaged ({where}: {first['msg']}); remove its folder and run again"
        ) from error
    return summary


def earlier_batch_of(record: Mapping[str, Any]) -> int | None:
    """Return the batch size that a plan says; None where it says none."""
    batch = record.get("batch")
    return batch if isinstance(batch, int) else None


def listed_files(record: Mapping[str, Any] | None) -> list[str]:
    """Return the files that a manifest lists; of None, results on their way, what they may hold besides."""
    if record is None:
        return [EXPORTS]
    listed = record.get("files")
    return [name for name in listed if isinstance(name, str)] if isinstance(listed, list) else []


def is_export(name: str) -> bool:
    """Return whether a path in a results folder is that of a format: `EXPORTS`, the format and the file."""
    parts = PurePosixPath(name).parts
    return len(parts) == 3 and parts[0] == EXPORTS and ".." not in parts


def left_out_files(record: Mapping[str, Any] | None) -> dict[str, str]:
    """Return the files that cannot hold the results of a manifest, with the reason of each in one line."""
    found = None if record is None else record.get(LEFT_OUT)
    if not isinstance(found, dict):
        return {}
    return {
        name: shorten(reason, LONGEST_REASON, placeholder=" …")
        for name, reason in found.items()
        if isinstance(reason, str)
    }


def missing_files(manifest: Path) -> list[str]:
    """Return the files that a manifest lists and its folder lacks, one line each."""
    try:
        record = read_record(manifest)
    except OutputError as error:
        return [str(error)]
    return [
        f"{manifest}: lists {name}, which is missing"
        for name in listed_files(record)
        if not (manifest.parent / name).exists()
    ]


def short_name(name: str) -> str:
    """Return the name under which temporary files and logs of results of this name lie next to each other.

    It is the name itself, or of a very long one its beginning and a hash: filesystems take 255 bytes, some of
    which go before and after the name.
    """
    encoding = sys.getfilesystemencoding()
    encoded = name.encode(encoding, "replace")  # a log's name is no reason to fail, see `check_name`
    if len(encoded) <= LONGEST_NAME - NAME_AFFIXES:
        return name
    digest = hashlib.sha256(name.encode(errors="surrogatepass")).hexdigest()[:16]
    room = LONGEST_NAME - NAME_AFFIXES - len(digest) - 1
    return f"{encoded[:room].decode(encoding, 'ignore')}-{digest}"


def check_name(name: str) -> None:
    """Check that folders can have the name of results; OutputError where they cannot."""
    try:
        longest = max((len(os.fsencode(part)) for part in Path(name).parts), default=0)
    except UnicodeEncodeError as error:
        raise OutputError(
            f"{name}: the encoding of this locale, {error.encoding}, lacks a character of this name; "
            "set another one, such as LC_ALL=C.UTF-8"
        ) from error
    if longest > LONGEST_NAME:
        raise OutputError(
            f"{name}: a name of {longest} bytes, where a folder has at most {LONGEST_NAME}; "
            "give a shorter one in the column name of a table"
        )


def is_manifest(content: bytes) -> bool:
    """Return whether a file is the manifest of a slide's results, and not just one of that name."""
    try:
        record = json.loads(content)
    except (ValueError, RecursionError):
        return False
    return isinstance(record, dict) and "maps_key" in record


def is_litter(name: str) -> bool:
    """Return whether a file of this name is what a file browser puts into folders that it shows."""
    return _LITTER.fullmatch(name) is not None


def foreign_files(names: Iterable[str], listed: Iterable[str] = ()) -> list[str]:
    """Return those of the files in a results folder that no run has written, sorted, as paths with `/`.

    `listed` are files and folders that the folder's manifest lists besides the known ones; all that is below
    them is ours.
    """
    known = {*RESULTS, REPORT_PDF, *WORKING, *listed}

    def ours(name: str) -> bool:
        top, _, rest = name.partition("/")
        if is_litter(PurePosixPath(name).name):
            return True
        if top == MAPS:
            return _OF_MAPS.fullmatch(rest) is not None
        path = PurePosixPath(name)
        places = [place.as_posix() for place in (path, *path.parents)]
        return any(final_name(place) in known for place in places)

    return sorted(name for name in names if not ours(name))


def final_name(place: str) -> str:
    """Return the path of a file or folder without what is in its name while it is written."""
    folder, slash, name = place.rpartition("/")
    temporary = _TEMPORARY.fullmatch(name)
    return place if temporary is None else f"{folder}{slash}{temporary['name']}"


def files_below(folder: Path) -> Iterator[str]:
    """Yield the relative path of each file and link below a folder; no link is followed."""
    for root, folders, files in os.walk(folder):
        links = [name for name in folders if Path(root, name).is_symlink()]
        yield from (Path(root, name).relative_to(folder).as_posix() for name in (*files, *links))


def refuse_results(path: Path, *but: str) -> None:
    """Refuse to write over a file of results, of a slide or a batch, unless it has one of these names.

    Raises:
        UsageError: it is one.
    """
    folder = path.absolute().parent
    files = {*RESULTS, BATCH, FAILED} if any((folder / name).is_file() for name in (MANIFEST, BATCH)) else {}
    if path.name in files and path.name not in but:
        raise UsageError(f"{path}: is a file of results, which stay as they are; name another with --output")


def check_own(folder: Path) -> None:
    """Refuse to remove a folder that holds anything but what a run has written."""
    if folder.is_symlink() or not folder.is_dir():
        raise OutputError(f"{folder}: is no folder that a run has made; move it elsewhere and run again")
    manifest = folder / MANIFEST
    record = read_record(manifest) if manifest.is_file() else None
    foreign = foreign_files(files_below(folder), listed_files(record))
    if foreign:
        raise OutputError(
            f"{folder}: is to be replaced but also holds {foreign[0]}, which no run has written; "
            "move that elsewhere, or choose another output folder"
        )
