"""CSV tables of slides: one row for each, with a name and settings of its own where wanted.

Cells are text: what they mean is up to the setting that their column is named after. Relative paths in a
table start in its folder, those of slides and those of models and drawn regions alike.
"""

from __future__ import annotations

import csv
import difflib
import io
import os
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from wsi_seg.annotations.reading import ENDINGS
from wsi_seg.core.errors import UsageError
from wsi_seg.core.files import check_plain, reading
from wsi_seg.core.folders import is_there
from wsi_seg.inference.models.registry import HUB_PREFIX, bundled_names, installed_names
from wsi_seg.tissue.mask import METHODS

TABLE_COLUMNS = ("slide", "name")
# What a table of failed slides holds besides what was asked for.
IGNORED_COLUMNS = ("reason",)
# Columns whose names begin so are passed on and mean nothing to a run.
NOTE = "note:"
SAVE_AS = "save it as CSV UTF-8, with commas between the columns"
# Characters of the longest path that Linux takes.
LONGEST_CELL = 4096
# Files of spreadsheets, and tables that are no CSV.
SPREADSHEETS = (".xlsx", ".xls", ".xlsm", ".ods", ".tsv")


@dataclass(frozen=True, slots=True)
class TableRow:
    """One slide of a table."""

    where: str
    """FILE, line N: for messages."""
    slide: str
    """Absolute path, or URL."""
    name: str
    """Of the results; empty where the table gives none."""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Cells of columns named after settings, without empty ones; paths in them are absolute."""
    notes: Mapping[str, str] = field(default_factory=dict)
    """Cells of columns that begin with `note:`, without empty ones."""


def read_table(path: Path, settings: Collection[str] | None = None) -> list[TableRow]:
    """Return the rows of a table that are not empty.

    Args:
        path: CSV in UTF-8 with a line of column names, `slide` among them.
        settings: names that other columns may have; None: any.

    Raises:
        UsageError: the table cannot be read, has a column or a cell that means nothing, or names no slide.
    """
    lines = _read_lines(path)
    if not lines:
        raise UsageError(f"{path}: is empty; its first line names the columns, slide among them")
    columns = [name.strip() for name in lines[0][1]]
    _check_columns(path, columns, settings)
    rows = []
    for number, cells in lines[1:]:
        where = f"{path}, line {number}"
        longest = max(map(len, cells))
        if longest > LONGEST_CELL:
            raise UsageError(f"{where}: has a cell of {longest} characters, longer than any path; {SAVE_AS}")
        if not any(cells):
            continue
        if len(cells) != len(columns):
            raise UsageError(f"{where}: has {len(cells)} columns, but the first line has {len(columns)}")
        unnamed = next((cell for name, cell in zip(columns, cells, strict=True) if cell and not name), None)
        if unnamed is not None:
            raise UsageError(f"{where}: {unnamed!r} is in a column without a name; name it in the first line")
        rows.append(_row(path, where, dict(zip(columns, cells, strict=True))))
    if not rows:
        raise UsageError(f"{path}: names no slide below its first line; add a row for each slide")
    return rows


def _read_lines(path: Path) -> list[tuple[int, list[str]]]:
    """Return the lines that hold something, each with its number and its cells without white space around."""
    with reading(path, UsageError):
        check_plain(path, UsageError)
        data = path.read_bytes()
    if data.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise UsageError(f"{path}: is a table in UTF-16; {SAVE_AS}")
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise UsageError(f"{path}: no CSV table in UTF-8 (line {line}); {SAVE_AS}") from error
    if "\0" in text:
        line = text.count("\n", 0, text.index("\0")) + 1
        raise UsageError(f"{path}: no CSV table (line {line} holds a null byte); {SAVE_AS}")
    reader = csv.reader(io.StringIO(text, newline=""), strict=True)
    try:
        return [(reader.line_num, [cell.strip() for cell in row]) for row in reader if row]
    except csv.Error as error:
        raise UsageError(f"{path}: no CSV table (line {reader.line_num}: {error}); {SAVE_AS}") from error


def _check_columns(path: Path, columns: Sequence[str], settings: Collection[str] | None) -> None:
    if "slide" not in columns:
        line = ",".join(columns)
        sign = next((sign for sign in ";\t" if sign in line), None)
        if sign is not None:
            raise UsageError(f"{path}: its columns are separated by {sign!r}; {SAVE_AS}")
        raise UsageError(f"{path}: has no column 'slide'; its first line is {line[:200] or 'empty'}")
    twice = next((name for name in columns if name and columns.count(name) > 1), None)
    if twice is not None:
        raise UsageError(f"{path}: column {twice!r} is there twice; leave one out")
    known = (*TABLE_COLUMNS, *IGNORED_COLUMNS, *(settings or ()))
    for name in columns:
        if name and settings is not None and name not in known and not name.startswith(NOTE):
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean {near[0]!r}? Else " if near else ""
            raise UsageError(
                f"{path}: column {name!r} is no setting of a run; {hint}call it {NOTE + name!r} to keep it"
            )


def _row(path: Path, where: str, cells: Mapping[str, str]) -> TableRow:
    slide, name = cells["slide"], cells.get("name", "")
    if not slide:
        raise UsageError(f"{where}: names no slide")
    if "://" not in slide:
        slide = str(path.absolute().parent / slide)
    if name:
        _check_name(where, name)
    notes = {key: text for key, text in cells.items() if text and key.startswith(NOTE)}
    left = {*TABLE_COLUMNS, *IGNORED_COLUMNS, *notes}
    settings = {key: text for key, text in cells.items() if text and key not in left}
    if "tissue" in settings:
        settings["tissue"] = _tissue(path, where, slide, settings["tissue"])
    for key in ("model", "qc"):
        if key in settings and is_there(path.absolute().parent / settings[key]):
            settings[key] = str(path.absolute().parent / settings[key])
    return TableRow(where, slide, name, settings, notes)


def _tissue(path: Path, where: str, slide: str, text: str) -> str:
    """Return a way to find tissue, the name of a model, or the absolute path of regions or of a model."""
    if text in METHODS or text in (*bundled_names(), *installed_names()) or text.startswith(HUB_PREFIX):
        return text
    file = path.absolute().parent / text
    if is_there(file):
        return str(file)
    if "://" not in slide and is_there(Path(slide).parent / text):
        raise UsageError(
            f"{where}: tissue {text!r} lies next to the slide, but paths in a table start in the table's "
            f"folder; write {os.path.relpath(Path(slide).parent / text, path.absolute().parent)!r}"
        )
    if text.lower().endswith(ENDINGS):
        return str(file)  # it is missing for this slide, which fails, and not for the others
    raise UsageError(
        f"{where}: tissue {text!r} is neither {' nor '.join(METHODS)} nor a model's name, and there is no "
        f"file {file}"
    )


def _check_name(where: str, name: str) -> None:
    parts = PurePosixPath(name).parts
    hidden = any(part.startswith(".") for part in parts)
    if name.startswith("/") or "\\" in name or not parts or hidden or not name.isprintable():
        raise UsageError(
            f"{where}: {name!r} is no name for results; use names that do not begin with '.', as in a/b"
        )
