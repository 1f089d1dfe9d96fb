"""Formats of slide files by their names and first bytes; their content is up to the readers."""

from __future__ import annotations

# Endings of slides as they are searched for in folders. Plain images are taken only where they are named.
SLIDE_ENDINGS = (
    ".svs", ".tif", ".tiff", ".btf", ".qptiff", ".ndpi", ".scn", ".bif", ".svslide", ".czi", ".mrxs", ".vms",
    ".vmu",
)  # fmt: skip
# Slides that no reader takes: where they are found, they are named rather than passed over.
UNREAD_ENDINGS = (".isyntax", ".i2syntax", ".vsi", ".lif", ".zvi", ".sdpc", ".kfb", ".tmap")
# Of these, those that keep pixels in a folder of the same name next to the file.
WITH_FOLDER = (".mrxs", ".vms", ".vmu")
# One file of a DICOM series, whose other files lie in the same folder.
DICOM_ENDINGS = (".dcm", ".dicom")
DICOM_HEAD = 132
# First bytes of gzip and ZIP; of TIFF and BigTIFF, in both byte orders.
GZIP_MAGIC = b"\x1f\x8b"
ZIP_MAGIC = b"PK\x03\x04"
TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
# So much of a file holds the attributes that say what it is.
DICOM_META = 4096
DICOM_SLIDE = "1.2.840.10008.5.1.4.1.1.77.1.6"
"""SOP class of VL Whole Slide Microscopy Image Storage (PS3.4, B.5)."""
DICOM_DIRECTORY = "1.2.840.10008.1.3.10"
"""SOP class of a DICOMDIR, the index of a medium."""
# Value representations whose length has four bytes after two that are reserved (PS3.5, 7.1.2).
LONG_VALUES = (b"OB", b"OW", b"OF", b"OD", b"OL", b"OV", b"SQ", b"UC", b"UN", b"UR", b"UT", b"SV", b"UV")


def is_dicom(head: bytes) -> bool:
    """Return whether a file with these first bytes, at least `DICOM_HEAD`, is DICOM (PS3.10, 7.1)."""
    return head[DICOM_HEAD - 4 : DICOM_HEAD] == b"DICM"


def dicom_class(head: bytes) -> str | None:
    """Return the SOP class in a file's first `DICOM_META` bytes (PS3.10, 7.1), None where there is none."""
    at = DICOM_HEAD
    while is_dicom(head) and head[at : at + 2] == b"\2\0":
        element, kind = head[at + 2 : at + 4], head[at + 4 : at + 6]
        start = at + (12 if kind in LONG_VALUES else 8)
        length = int.from_bytes(head[start - (4 if kind in LONG_VALUES else 2) : start], "little")
        if element == b"\2\0":
            return head[start : start + length].rstrip(b"\0 ").decode("ascii", "replace")
        at = start + length
    return None
