"""Coded concepts: what classes mean, in terms that hospitals exchange (DICOM PS3.3, section 8.8).

The table holds codes of SNOMED CT that the DICOM standard itself lists (PS3.16), so that their meaning is
beyond doubt. A class that is not in it keeps its name under the private scheme `PRIVATE_SCHEME`, unless the
model card states a concept.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, StringConstraints

from wsi_seg.core.classes import canonical_name

# Designators that begin with 99 are private (PS3.3, 8.2).
PRIVATE_SCHEME = "99WSISEG"

Category = Literal["tissue", "morphologically abnormal structure", "anatomical structure", "body substance"]
"""Kind of thing, of CID 7150 (PS3.16)."""

# A backslash parts values in DICOM.
_Short = Annotated[str, StringConstraints(pattern=r"^[^\\\x00-\x1f]{1,16}$")]
_Long = Annotated[str, StringConstraints(pattern=r"^[^\\\x00-\x1f]{1,64}$")]


class Concept(BaseModel):
    """Meaning of a class in a coding scheme."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    scheme: _Short
    """Designator of the coding scheme: `SCT` for SNOMED CT, `NCIt`, `UBERON`, …"""
    value: _Long
    """Code in the scheme, such as `108369006`."""
    meaning: _Long
    """The scheme's own text for the code, such as `Neoplasm`."""
    category: Category = "tissue"
    """Kind of thing, which DICOM asks for besides."""


def _abnormal(value: str, meaning: str) -> Concept:
    return Concept(scheme="SCT", value=value, meaning=meaning, category="morphologically abnormal structure")


def _tissue(value: str, meaning: str) -> Concept:
    return Concept(scheme="SCT", value=value, meaning=meaning)


# By canonical name of a class or group; meanings as PS3.16 spells them.
CONCEPTS = {
    "tumor": _abnormal("108369006", "Neoplasm"),
    "inflammatory": _abnormal("409774005", "Inflammation"),
    "necrosis": _abnormal("6574001", "Necrosis"),
    "necrosis_or_debris": _abnormal("6574001", "Necrosis"),
    "dcis": _abnormal("1162814007", "Non-infiltrating intraductal carcinoma"),
    "blood": _tissue("87612001", "Blood"),
    "blood_vessel": _tissue("59820001", "Blood Vessel"),
    "fat": _tissue("55603005", "Fat"),
    "lymphatics": _tissue("83555006", "Lymphatic vessel"),
    "nerve": _tissue("91728009", "Nerve"),
    "tissue": _tissue("85756007", "Tissue"),
}


def concept_of(name: str, stated: Concept | None = None) -> Concept:
    """Return the concept of a class or group: what the card states, else of the table, else a private one."""
    if stated is not None:
        return stated
    known = CONCEPTS.get(canonical_name(name))
    if known is not None:
        return known
    text = dicom_text(name, 64)
    return Concept(scheme=PRIVATE_SCHEME, value=text, meaning=text)


def dicom_text(text: str, most: int) -> str:
    """Return text as a DICOM value: at most `most` characters, no backslashes or control characters."""
    plain = "".join(
        " " if character == "\\" or not character.isprintable() else character for character in text
    )
    return plain[:most].strip() or "unnamed"
