"""The first bytes of DICOM files, which say of what kind they are."""

from __future__ import annotations

from pathlib import Path

# SOP classes: whole-slide image, CT image, index of a medium.
WHOLE_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
CT = "1.2.840.10008.5.1.4.1.1.2"
DIRECTORY = "1.2.840.10008.1.3.10"


def write_dicom(path: Path, sop_class: str) -> None:
    """Write the first bytes of a DICOM file: its meta information."""
    value = sop_class.encode() + b"\0" * (len(sop_class) % 2)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(
        b"\0" * 128 + b"DICM"
        + b"\2\0\0\0UL\4\0\0\0\0\0"
        + b"\2\0\1\0OB\0\0\2\0\0\0\0\1"
        + b"\2\0\2\0UI" + len(value).to_bytes(2, "little") + value
    )  # fmt: skip
