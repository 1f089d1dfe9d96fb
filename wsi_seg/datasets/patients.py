"""The patient of an image: from a table, a pattern or the folder; a TCGA barcode is recognized by itself."""

from __future__ import annotations

import csv
import re
from collections.abc import Callable
from pathlib import Path
from typing import Self

from pydantic import BaseModel, ConfigDict, model_validator

from wsi_seg.core.errors import DataError
from wsi_seg.core.files import reading

UNKNOWN_PATIENTS = "images of unknown patients: not independent"

TCGA_PATIENT = re.compile(r"(?<![A-Za-z0-9])TCGA-[A-Z0-9]{2}-[A-Z0-9]{4}(?![A-Za-z0-9])")

PatientOf = Callable[[Path], str | None]
"""From the path of an image or slide to its patient; None where it is unknown."""


class Patients(BaseModel):
    """How the patient of an image is found; exactly one of `pattern`, `table` and `folder`.

    Every image must have a patient then. The pattern (.+) says that each image is of another patient.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    pattern: str | None = None
    """Regular expression with one group, sought in the file name: the group is the patient."""
    table: Path | None = None
    """CSV file, relative to the data set's folder, with a row for each image."""
    image: str = "image"
    """Column of the table with the image: its path in the folder or its file name, with or without ending."""
    column: str = "patient"
    """Column of the table with the patient."""
    folder: bool = False
    """The patient is named like the folder that the image lies in."""

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if (self.pattern is not None) + (self.table is not None) + self.folder != 1:
            raise ValueError("give exactly one of pattern, table and folder: true")
        if self.pattern is not None:
            try:
                groups = re.compile(self.pattern).groups
            except re.error as error:
                raise ValueError(f"pattern {self.pattern!r} is no regular expression ({error})") from error
            if groups != 1:
                raise ValueError(f"pattern {self.pattern!r} has {groups} groups; the patient is its only one")
        return self

    def finder(self, folder: Path) -> PatientOf:
        """Return the function that finds the patient of each image in the data set's folder.

        Raises:
            DataError: the table cannot be read or contradicts itself; so does the function where an image has
                no patient.
        """
        if self.pattern is not None:
            return _by_pattern(re.compile(self.pattern))
        if self.table is not None:
            return _by_table(folder / self.table, folder, self.image, self.column)
        return _by_folder(folder)


def patient_by_name(path: Path) -> str | None:
    """Return the patient of a TCGA barcode in the name (its first three fields); None without one."""
    found = TCGA_PATIENT.search(path.name)
    return found[0] if found else None


def _by_pattern(pattern: re.Pattern[str]) -> PatientOf:
    def patient_of(path: Path) -> str:
        found = pattern.search(path.name)
        if found is None or not found[1]:
            raise DataError(
                f"{path}: the pattern {pattern.pattern!r} finds no patient in this name; correct it"
            )
        return found[1]

    return patient_of


def _by_folder(folder: Path) -> PatientOf:
    def patient_of(path: Path) -> str:
        if path.parent == folder:
            raise DataError(f"{path}: patients are named by folders, but this image lies in none")
        return path.parent.relative_to(folder).as_posix()

    return patient_of


def _by_table(table: Path, folder: Path, image: str, column: str) -> PatientOf:
    patients = _read_table(table, image, column)
    used: dict[str, Path] = {}

    def patient_of(path: Path) -> str:
        inside = path.relative_to(folder)
        names = (inside.as_posix(), inside.with_suffix("").as_posix(), path.name, path.stem)
        name = next((name for name in names if name in patients), None)
        if name is None:
            raise DataError(f"{path}: has no row in {table}; add one, with its patient")
        if used.setdefault(name, path) != path:
            raise DataError(f"{table}: {name!r} may be {used[name]} or {path}; write the path in the folder")
        return patients[name]

    return patient_of


def _read_table(path: Path, image: str, column: str) -> dict[str, str]:
    try:
        with reading(path, DataError), path.open(encoding="utf-8-sig", newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            columns = list(reader.fieldnames or ())
    except (csv.Error, UnicodeDecodeError) as error:
        raise DataError(f"{path}: no valid CSV ({error})") from error
    for name in (image, column):
        if name not in columns:
            raise DataError(f"{path}: has no column {name!r}; its columns are {', '.join(columns) or 'none'}")
    patients: dict[str, str] = {}
    for number, row in enumerate(rows, start=2):
        name, patient = ((row[key] or "").strip() for key in (image, column))
        if not name or not patient:
            raise DataError(f"{path}: row {number} lacks the {column if name else image}; fill it in")
        if patients.setdefault(name, patient) != patient:
            raise DataError(
                f"{path}: row {number} says {patient!r} of {name!r}, another row {patients[name]!r}"
            )
    return patients
