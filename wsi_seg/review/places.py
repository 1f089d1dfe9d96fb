"""Places of reviews: a folder next to that of all results, and in it one for each slide."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from pathlib import Path

from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import kind_of, list_folder
from wsi_seg.core.storage import is_remote
from wsi_seg.results.files import MANIFEST, short_name
from wsi_seg.slides.slide import SlideInfo

# Added to the name of the folder of results.
SUFFIX = "-review"
JOURNAL_ENDING = ".jsonl"
# Digits of a hash of the fingerprint in a folder's name; entries hold the fingerprint itself.
DIGITS = 12


def review_folder(results: Path | str, given: Path | str | None = None) -> Path:
    """Return the folder of the reviews of results, whether it is there or not.

    Args:
        results: folder of all results, or that of one slide.
        given: another folder that the user names; it may hold reviews of several folders of results.

    Returns:
        `RESULTS-review` next to the folder `RESULTS` of all results, or `given`.

    Raises:
        UsageError: it is at a URL, is a file, or lies in the folder of a slide's results.
    """
    for place in (results, given):
        if place is not None and is_remote(str(place)):
            raise UsageError(f"{place}: reviews are kept in local folders; copy the results to this machine")
    whole = Path(results).resolve()
    if (whole / MANIFEST).is_file():
        whole = whole.parent
    folder = whole.with_name(f"{whole.name}{SUFFIX}") if given is None else Path(given).resolve()
    if kind_of(folder) in ("file", "other"):
        raise UsageError(f"{folder}: is a file; name a folder for reviews")
    for above in (folder, *folder.parents):
        if (above / MANIFEST).is_file():
            raise UsageError(f"{folder}: lies in the results of a slide; name a folder outside of {above}")
    return folder


def slide_folder(folder: Path, slide: SlideInfo) -> Path:
    """Return the folder in which new journals of a slide are made, whether it is there or not."""
    return folder / f"{short_name(slide.name)}{_ending(slide)}"


def journals_of(folder: Path, slide: SlideInfo) -> Iterator[Path]:
    """Yield the journals that may hold entries on a slide, also of one that was renamed.

    Raises:
        OutputError: a folder cannot be read.
    """
    if not folder.is_dir():
        return
    with reading(folder, OutputError):
        for inner in list_folder(folder):
            if inner.name.endswith(_ending(slide)) and kind_of(inner) == "folder":
                yield from (path for path in list_folder(inner) if path.suffix == JOURNAL_ENDING)


def _ending(slide: SlideInfo) -> str:
    return f"-{hashlib.sha256(slide.fingerprint.encode()).hexdigest()[:DIGITS]}"
