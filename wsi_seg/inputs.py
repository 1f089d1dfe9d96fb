"""What a run is given, as a list of slides: files, folders, patterns, tables and URLs."""

from __future__ import annotations

import csv
import glob
import itertools
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wsi_seg.errors import UsageError
from wsi_seg.formats import DICOM_ENDINGS, DICOM_HEAD, SLIDE_ENDINGS, WITH_FOLDER, is_dicom
from wsi_seg.results import BATCH, FAILED, LOGS, REPORT, results_name
from wsi_seg.slide import default_name

TABLE_COLUMNS = ("slide", "name")
# What a table of failed slides holds beside what was asked for.
IGNORED_COLUMNS = ("reason",)
# What a batch itself puts into the folder of all results; no slide's results are named so.
OWN_NAMES = (LOGS, BATCH, FAILED, REPORT)


@dataclass(frozen=True, slots=True)
class SlideInput:
    """One slide to run."""

    path: str
    """File, folder of a DICOM series, or URL."""
    name: str
    """Of its results; may hold folders."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """What a table says of this slide alone, as text."""


def find_slides(given: Sequence[str]) -> list[SlideInput]:
    """Return the slides that words of a command line stand for, in their order, each once.

    Args:
        given: slide files, folders (searched with all below them), patterns such as `scans/*.svs`, URLs, and
            CSV tables with a column `slide`.

    Raises:
        UsageError: a word stands for no slide, a table is wrong, two slides want the same name, or one has a
            name that is no text.
    """
    found: list[tuple[SlideInput, bool]] = []
    for word in given:
        found += _find(word)
    for slide, _ in found:
        shown = os.fsencode(slide.path).decode("utf-8", errors="backslashreplace")
        if shown != slide.path:
            raise UsageError(f"{shown}: its name is not UTF-8, so no result can say it; rename it")
    slides: dict[tuple[str, str | None], tuple[SlideInput, bool]] = {}
    for slide, named in found:
        place = slide.path if "://" in slide.path else str(Path(slide.path).resolve())
        # Several images of one file are several slides.
        before = slides.setdefault((place, slide.settings.get("series")), (slide, named))[0]
        if before.settings != slide.settings:
            raise UsageError(f"{slide.path}: given twice with different settings; leave one out")
    return _named_apart(list(slides.values()))


def _find(word: str) -> list[tuple[SlideInput, bool]]:
    """Return slides, and for each whether its name was given by hand."""
    path = Path(word)
    if "://" in word:
        return [(SlideInput(word, default_name(word)), False)]
    if path.suffix.lower() == ".csv":
        return list(_read_table(path))
    if path.is_dir():
        return [(slide, False) for slide in _search(path)]
    if not path.exists() and glob.has_magic(word):
        # pathlib cannot expand a pattern that begins with / or ~.
        matches = sorted(Path(match) for match in glob.glob(word, recursive=True))  # noqa: PTH207
        slides = [slide for match in matches for slide in _of_pattern(match)]
        if not slides:
            raise UsageError(f"{word}: no slide matches this pattern")
        return [(slide, False) for slide in slides]
    return [(SlideInput(word, default_name(word)), False)]


def _of_pattern(path: Path) -> list[SlideInput]:
    """Return the slides of one match of a pattern; other files than slides are passed over."""
    if path.is_dir():
        return list(_walk(path, PurePosixPath()))
    return [SlideInput(str(path), default_name(str(path)))] if _is_slide(path) else []


def _search(folder: Path) -> list[SlideInput]:
    if _holds_series(folder):
        return [SlideInput(str(folder), results_name(folder))]
    slides = list(_walk(folder, PurePosixPath()))
    if not slides:
        raise UsageError(
            f"{folder}: no slides in this folder or below it "
            f"(looked for {', '.join(SLIDE_ENDINGS)} and DICOM)"
        )
    return slides


def _walk(folder: Path, below: PurePosixPath) -> Iterator[SlideInput]:
    """Yield the slides of a folder and all below it, sorted; `below` is where it lies in the folder given."""
    entries = sorted(folder.iterdir())
    parts = {entry.with_suffix("") for entry in entries if entry.suffix.lower() in WITH_FOLDER}
    for entry in entries:
        if entry.name.startswith("."):
            continue
        if entry.is_dir():
            if entry in parts:  # the pixels of a slide that lies beside it
                continue
            if _holds_series(entry):
                yield SlideInput(str(entry), str(below / entry.name))
            else:
                yield from _walk(entry, below / entry.name)
        elif _is_slide(entry):
            yield SlideInput(str(entry), str(below / default_name(str(entry))))


def _is_slide(path: Path) -> bool:
    return path.is_file() and path.suffix.lower() in SLIDE_ENDINGS


def _holds_series(folder: Path) -> bool:
    """Return whether a folder holds DICOM files: one series counts as one slide."""
    return any(_is_dicom(file) for file in sorted(folder.iterdir()) if file.is_file())


def _is_dicom(path: Path) -> bool:
    if path.suffix.lower() not in (*DICOM_ENDINGS, ""):
        return False
    try:
        with path.open("rb") as file:
            return is_dicom(file.read(DICOM_HEAD))
    except OSError:
        return False


def _read_table(path: Path) -> Iterator[tuple[SlideInput, bool]]:
    """Yield the rows of a CSV table; paths in it are relative to its folder."""
    try:
        with path.open(newline="", encoding="utf-8-sig") as file:
            reader = csv.DictReader(file, strict=True)
            rows = [(reader.line_num, row) for row in reader]
            columns = [name.strip() for name in reader.fieldnames or ()]
    except OSError as error:
        raise UsageError(f"{path}: cannot be read ({error.strerror})") from error
    except (csv.Error, UnicodeDecodeError) as error:
        raise UsageError(f"{path}: no CSV table in UTF-8 ({error})") from error
    if "slide" not in columns:
        raise UsageError(f"{path}: has no column 'slide'; its first line is {', '.join(columns) or 'empty'}")
    for line, row in rows:
        if None in row or None in row.values():
            raise UsageError(f"{path}, line {line}: has {len(columns)} columns elsewhere, but not here")
        cells = {name.strip(): text.strip() for name, text in row.items()}
        yield _of_row(path, line, cells)


def _of_row(path: Path, line: int, cells: Mapping[str, str]) -> tuple[SlideInput, bool]:
    slide, name = cells["slide"], cells.get("name", "")
    if not slide:
        raise UsageError(f"{path}, line {line}: names no slide")
    if "://" not in slide:
        slide = str(path.parent / slide)
    if name:
        _check_name(f"{path}, line {line}", name)
    settings = {
        key: text for key, text in cells.items() if text and key not in (*TABLE_COLUMNS, *IGNORED_COLUMNS)
    }
    return SlideInput(slide, name or results_name(slide), settings), bool(name)


def _check_name(where: str, name: str) -> None:
    parts = PurePosixPath(name).parts
    if name.startswith("/") or "\\" in name or not parts or any(part.startswith(".") for part in parts):
        raise UsageError(
            f"{where}: {name!r} is no name for results; use names that do not begin with '.', as in a/b"
        )


def _named_apart(slides: list[tuple[SlideInput, bool]]) -> list[SlideInput]:
    """Give slides that are in each other's way longer names: with the file's ending, then with folders."""
    names = [slide.name for slide, _ in slides]
    free = [not by_hand for _, by_hand in slides]
    for depth in range(64):
        clashing = _clashing(names, free)
        if not clashing:
            return [SlideInput(s.path, n, s.settings) for (s, _), n in zip(slides, names, strict=True)]
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
