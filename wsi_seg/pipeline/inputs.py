"""The inputs of a run as a list of slides: files, folders, patterns, tables and URLs.

Whatever looks like a slide and cannot be run is in the list too: a dangling link, a folder without
permission, a DICOM file of another kind. It fails when it is opened, and so gets its row, its message and its
exit code.
"""

from __future__ import annotations

import glob
import itertools
import logging
import os
import sys
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path, PurePosixPath

from wsi_seg.core.errors import UsageError
from wsi_seg.core.folders import Kind, dicom_files, is_passed_over, kind_of, list_folder
from wsi_seg.core.formats import DICOM_ENDINGS, SLIDE_ENDINGS, UNREAD_ENDINGS, WITH_FOLDER
from wsi_seg.pipeline.slide_table import SPREADSHEETS, TableRow, read_table
from wsi_seg.results.files import BATCH, FAILED, LOGS, REPORT, SHARES
from wsi_seg.slides.slide import default_name

# What is named where it is found; links and special files of these endings, and DICOM, too.
NAMED_ENDINGS = (*SLIDE_ENDINGS, *UNREAD_ENDINGS)
# What a batch itself puts into the folder of all results; no slide's results are named so.
OWN_NAMES = (LOGS, SHARES, BATCH, FAILED, REPORT)

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide to run."""

    path: str
    """Absolute path of a file or of the folder of a DICOM series, links not resolved; or URL."""
    name: str
    """Of its results; may hold folders."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Settings that a table gives for this slide alone, as text."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Columns of a table that mean nothing to the run, as text."""
    where: str = field(default="", compare=False)
    """The line of the table, for messages."""
    refusal: str = field(default="", compare=False)
    """Reason why it cannot be run, known before it is opened."""
    same_as: str = field(default="", compare=False)
    """Path of the slide that is the same file, by way of a link, and is run in its place."""


def find_slides(given: Sequence[str], settings: Collection[str] | None = None) -> list[SlideInput]:
    """Return the slides that words of a command line stand for, in their order.

    Each is run once, unless tables give it several names. Those that are not run, as they are the same file
    as another or have a name that is no text, say so.

    Args:
        given: slide files, folders (searched with all below them), patterns such as `scans/*.svs`, URLs, and
            CSV tables with a column `slide`.
        settings: names that other columns of tables may have; None: any.

    Raises:
        UsageError: a word stands for no slide, a table is wrong, or two slides want the same name.
    """
    found: list[tuple[SlideInput, bool]] = []
    for word in given:
        found += _find(word, settings)
    slides, links = _each_once([(_as_text(slide), by_hand) for slide, by_hand in found])
    named = _named_apart(slides)
    taken = {slide.name.casefold() for slide in named}
    for link in links:
        names = (link.name, *(_longer_name(link, depth) for depth in range(64)))
        name = next((name for name in names if name.casefold() not in taken), link.path)
        taken.add(name.casefold())
        named.append(replace(link, name=name))
    return named


def _as_text(slide: SlideInput) -> SlideInput:
    """Return a slide whose path is text; bytes that this locale does not know are refused."""
    try:
        slide.path.encode()
    except UnicodeEncodeError:
        name = os.fsencode(slide.path)
        shown = name.decode(errors="backslashreplace")
        if shown.encode() == name:
            reason = (
                f"{shown}: the encoding of this locale, {sys.getfilesystemencoding()}, lacks a character of "
                "its name; set another one, such as LC_ALL=C.UTF-8"
            )
        else:
            reason = f"{shown}: its name is not UTF-8, so no result can say it; rename it"
        as_named = os.fsencode(slide.name).decode(errors="backslashreplace")
        return replace(slide, path=shown, name=as_named, refusal=reason)
    return slide


def _each_once(
    found: Sequence[tuple[SlideInput, bool]],
) -> tuple[list[tuple[SlideInput, bool]], list[SlideInput]]:
    """Return the slides without those that are there already, under the same name or under none.

    Of the latter, those of another path are returned too: links to a file that is run.
    """
    links: list[SlideInput] = []
    kept: dict[tuple[str, str | None], list[tuple[SlideInput, bool]]] = {}
    for slide, by_hand in found:
        place = slide.path if "://" in slide.path else os.path.realpath(slide.path)
        # Several images of one file are several slides.
        others = kept.setdefault((place, slide.settings.get("series")), [])
        same = [i for i, one in enumerate(others) if _is_same(slide, by_hand, *one)]
        if not same:
            others.append((slide, by_hand))
            continue
        other, named = others[same[0]]
        if other.settings != slide.settings:
            raise UsageError(
                f"{slide.path}: given twice with different settings; leave one out, or give each a name"
            )
        if by_hand and not named:
            others[same[0]] = slide, by_hand
            slide, other = other, slide
        if other.path != slide.path and all(link.path != slide.path for link in links):
            links.append(replace(slide, same_as=other.path))
    return [one for others in kept.values() for one in others], links


def _is_same(slide: SlideInput, by_hand: bool, other: SlideInput, named: bool) -> bool:
    return not (by_hand and named) or slide.name == other.name


def _find(word: str, settings: Collection[str] | None) -> list[tuple[SlideInput, bool]]:
    """Return slides, and for each whether its name was given by hand."""
    if "://" in word:
        return [(SlideInput(word, default_name(word)), False)]
    path = Path(word).absolute()
    kind, ending = kind_of(path), path.suffix.lower()
    if ending in SPREADSHEETS and kind == "file":
        raise UsageError(f"{word}: a table of slides is a CSV file; save this one as CSV UTF-8 with commas")
    if ending == ".csv":
        return [found for row in read_table(Path(word), settings) for found in _of_row(row)]
    if kind == "folder":
        slides = list(_walk(path))
        if not slides:
            raise UsageError(
                f"{word}: no slides in this folder or below it "
                f"(looked for {', '.join(SLIDE_ENDINGS)} and DICOM)"
            )
        return [(slide, False) for slide in slides]
    if not os.path.lexists(path) and glob.has_magic(word):
        return [(slide, False) for slide in _of_pattern(word)]
    return [(SlideInput(str(path), default_name(str(path))), False)]


def _of_row(row: TableRow) -> list[tuple[SlideInput, bool]]:
    """Return the slide of a row of a table; of a folder that is none itself, those in it."""
    path = Path(row.slide)
    folder = "://" not in row.slide and kind_of(path) == "folder"
    name = row.name or (path.name if folder else default_name(row.slide))
    found = list(_walk(path, PurePosixPath(name))) if folder else []
    if not found or found[0].path == str(path):
        found = [SlideInput(row.slide, name)]
    return [
        (replace(slide, settings=row.settings, notes=row.notes, where=row.where), bool(row.name))
        for slide in found
    ]


def _of_pattern(word: str) -> list[SlideInput]:
    """Return the slides that a pattern matches; other files than slides are passed over."""
    # pathlib cannot expand a pattern that begins with / or ~.
    matches = sorted(Path(match).absolute() for match in glob.glob(word, recursive=True))  # noqa: PTH207
    slides = list(_among([path for path in matches if not is_passed_over(path.name)]))
    if not slides:
        raise UsageError(f"{word}: no slide matches this pattern")
    return slides


def _walk(
    folder: Path, below: PurePosixPath | None = None, above: tuple[str, ...] = ()
) -> Iterator[SlideInput]:
    """Yield the slides of a folder and all below it, sorted.

    Args:
        folder: absolute path.
        below: its place in the names of results; None: they begin below it.
        above: the real paths of the folders that it lies in.
    """
    real = os.path.realpath(folder)
    if real in above:  # a link back to where it lies
        return
    try:
        entries = list_folder(folder)
    except OSError:  # its slides cannot be listed: it fails as one when it is opened
        yield SlideInput(str(folder), str(below or folder.name))
    else:
        yield from _among(entries, below, (*above, real))


def _among(
    entries: Sequence[Path], below: PurePosixPath | None = None, above: tuple[str, ...] = ()
) -> Iterator[SlideInput]:
    """Yield the slides among files and folders, and all below these; see `_walk`."""
    series, others = dicom_files(entries)
    # DICOM of another kind is named: file by file, or many by their folder.
    if not series and len(others) > 1:
        series, others = others, []
    for folder in dict.fromkeys(path.parent for path in series):
        yield SlideInput(str(folder), str(below or folder.name))
    parts = {entry.with_suffix("") for entry in entries if entry.suffix.lower() in WITH_FOLDER}
    inner = below or PurePosixPath()
    for entry in entries:
        kind = kind_of(entry)
        if kind == "folder":
            if entry not in parts:  # the pixels of a slide that lies next to it
                # In a pattern's matches, names begin below each folder, as where the folder itself is given.
                yield from _walk(entry, inner / entry.name if above else None, above)
        elif entry in others or _is_named(entry, kind):
            yield SlideInput(str(entry), str(inner / default_name(str(entry))))


def _is_named(path: Path, kind: Kind) -> bool:
    """Return whether a path that is no folder is named: by its ending, or as it may have been a folder."""
    ending = path.suffix.lower()
    if kind == "unreadable":
        return ending in (*NAMED_ENDINGS, *DICOM_ENDINGS, "")
    return ending in NAMED_ENDINGS


def _named_apart(slides: list[tuple[SlideInput, bool]]) -> list[SlideInput]:
    """Give slides that are in each other's way longer names: with the file's ending, then with folders."""
    names = [slide.name for slide, _ in slides]
    free = [not by_hand for _, by_hand in slides]
    for depth in range(64):
        clashing = _clashing(names, free)
        if not clashing:
            return [replace(s, name=n) for (s, _), n in zip(slides, names, strict=True)]
        for i, other in clashing.items():
            if not free[i]:
                raise UsageError(_refusal(slides[i][0].path, names[i], other))
            names[i] = _longer_name(slides[i][0], depth)
    first = slides[next(iter(clashing))][0].path
    raise UsageError(f"{first}: no name for its results differs from the others'")


def _clashing(names: Sequence[str], free: Sequence[bool]) -> dict[int, str]:
    """Return the numbers of the names that cannot stay, and for each a name that is in its way.

    Those are equal names, but for case; of a name and one below it, as `p` and `p/q`, the first one, as the
    folder of its results would hold those of the other; and what a batch calls its own files. A name that is
    not free stays where the other one can change.
    """
    places: dict[tuple[str, ...], list[int]] = {}
    for i, name in enumerate(names):
        places.setdefault(PurePosixPath(name.casefold()).parts, []).append(i)
    clashing: dict[int, str] = {}
    for place, equal in places.items():
        if place[0] in OWN_NAMES:
            clashing |= dict.fromkeys(equal, place[0])
        if len(equal) > 1:
            clashing |= dict.fromkeys([i for i in equal if free[i]] or equal, names[equal[0]])
        above = [i for depth in range(1, len(place)) for i in places.get(place[:depth], [])]
        for i, j in itertools.product(above, equal):
            changed, other = (i, j) if free[i] or not free[j] else (j, i)
            clashing[changed] = names[other]
    return clashing


def _refusal(path: str, name: str, other: str) -> str:
    if other in OWN_NAMES:
        return f"{path}: {name!r} is no name for results, as {other!r} is the batch's own; give another name"
    if name.casefold() == other.casefold():
        return f"{path}: two slides are to be named {name!r}; give them different names"
    return (
        f"{path}: its results are to be named {name!r}, another slide's {other!r}, and one would lie within "
        "the other; give them different names"
    )


def _longer_name(slide: SlideInput, depth: int) -> str:
    """Return the name with the file's ending, and with `depth` more of the folders that it lies in."""
    below = PurePosixPath(slide.name).parent
    if depth == 0:
        return str(below / PurePosixPath(slide.path.rstrip("/")).name)
    path = PurePosixPath(
        slide.path.split("://", 1)[-1] if "://" in slide.path else Path(slide.path).absolute()
    )
    parts = [part for part in path.parts if part != "/"]
    return "/".join(parts[-(depth + len(below.parts) + 1) :])
