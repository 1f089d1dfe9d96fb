"""The user's folders: walks, what they pass over, which files make up a DICOM slide, caches, models."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from wsi_seg.core.files import reason_of
from wsi_seg.core.formats import (
    DICOM_DIRECTORY,
    DICOM_ENDINGS,
    DICOM_META,
    DICOM_SLIDE,
    dicom_class,
    is_dicom,
)

# Environment variable that names the folder of installed models.
MODELS_VARIABLE = "WSI_SEG_MODELS"
# Left behind by systems, besides all whose name begins with a dot (`._a.svs`, `.DS_Store`).
LEFT_BEHIND = (
    "thumbs.db", "desktop.ini", "lost+found", "$recycle.bin", "system volume information", "__macosx",
)  # fmt: skip

Kind = Literal["folder", "file", "other", "unreadable"]


def is_passed_over(name: str) -> bool:
    """Return whether walks pass over a file or folder of this name: it is hidden, or no user's data."""
    return name.startswith(".") or name.casefold() in LEFT_BEHIND


def list_folder(folder: Path) -> list[Path]:
    """Return what is in a folder, sorted by name, without what is passed over.

    Raises:
        OSError: the folder cannot be read.
    """
    return sorted(path for path in folder.iterdir() if not is_passed_over(path.name))


def walk_folders(
    folder: Path, deepest: int | None = None, *, skip_unreadable: bool = False
) -> Iterator[tuple[Path, list[Path]]]:
    """Yield a folder and all below it, each with the files in it, sorted; links to folders are not followed.

    Args:
        folder: where to begin.
        deepest: so many folders deep, 0 for this one alone; None for all.
        skip_unreadable: pass over folders that cannot be read.

    Raises:
        OSError: a folder cannot be read.
    """
    try:
        entries = list_folder(folder)
    except OSError:
        if not skip_unreadable:
            raise
        return
    kinds = {path: kind_of(path) for path in entries}
    yield folder, [path for path in entries if kinds[path] == "file"]
    if deepest != 0:
        below = None if deepest is None else deepest - 1
        for path in entries:
            if kinds[path] == "folder" and not path.is_symlink():
                yield from walk_folders(path, below, skip_unreadable=skip_unreadable)


def walk_files(folder: Path) -> Iterator[Path]:
    """Yield the files in a folder and all below it; see `walk_folders`."""
    for _, files in walk_folders(folder):
        yield from files


def kind_of(path: Path) -> Kind:
    """Return what lies at a path, links followed; `unreadable` where that cannot be found out.

    Unlike `Path.exists` and its kin it takes any text, also what is no path: too long, or with a null byte.
    """
    try:
        mode = path.stat().st_mode
    except (OSError, ValueError):
        return "unreadable"
    return "folder" if stat.S_ISDIR(mode) else "file" if stat.S_ISREG(mode) else "other"


def is_there(path: Path) -> bool:
    """Return whether anything lies at a path; see `kind_of`."""
    return kind_of(path) != "unreadable"


def cache_folder(name: str) -> Path:
    """Return `wsi_seg/<name>` in the user's cache folder: `$XDG_CACHE_HOME`, else `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "wsi_seg" / name


def models_folder() -> Path:
    """Return where models are installed: `$WSI_SEG_MODELS`, else `wsi_seg/models` in the user's data folder.

    That folder is `$XDG_DATA_HOME`, else `~/.local/share`.
    """
    if named := os.environ.get(MODELS_VARIABLE):
        return Path(named).expanduser()
    return Path(os.environ.get("XDG_DATA_HOME") or "~/.local/share").expanduser() / "wsi_seg" / "models"


def home_expanded(text: str) -> Path:
    """Return a path whose `~` or `~name` is the home of a user; as it stands where there is no such user."""
    try:
        return Path(text).expanduser()
    except RuntimeError:
        return Path(text)


def why_missing(path: Path, error: OSError) -> str:
    """Return in a few words why nothing can be read at a path."""
    if isinstance(error, FileNotFoundError):
        if path.is_symlink():
            return f"a link to {path.readlink()}, which does not exist"
        return "no such file"
    if isinstance(error, PermissionError):
        return "no permission to read it"
    return f"cannot be read ({reason_of(error)})"


def dicom_files(paths: Iterable[Path]) -> tuple[list[Path], list[Path]]:
    """Return which files are of DICOM whole-slide images, and which are other DICOM.

    A file that ends as DICOM does and is none counts as other; a DICOMDIR, the index of a medium, is neither.
    """
    slides: list[Path] = []
    others: list[Path] = []
    for path in paths:
        if path.suffix.lower() not in (*DICOM_ENDINGS, "") or kind_of(path) != "file":
            continue
        try:
            with path.open("rb") as file:
                head = file.read(DICOM_META)
        except OSError:
            head = b""
        found = dicom_class(head)
        if found == DICOM_SLIDE:
            slides.append(path)
        elif found != DICOM_DIRECTORY and (path.suffix or is_dicom(head)):
            others.append(path)
    return slides, others
