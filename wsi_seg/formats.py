"""How slide files are known by their names and first bytes; what is in them is for the readers to tell."""

from __future__ import annotations

# Endings of slides as they are searched for in folders. Plain images are taken only where they are named.
SLIDE_ENDINGS = (
    ".svs", ".tif", ".tiff", ".btf", ".ndpi", ".scn", ".bif", ".svslide", ".czi", ".mrxs", ".vms", ".vmu",
)  # fmt: skip
# Of these, those that keep pixels in a folder of the same name beside the file.
WITH_FOLDER = (".mrxs", ".vms", ".vmu")
# One file of a DICOM series, whose other files lie in the same folder.
DICOM_ENDINGS = (".dcm", ".dicom")
DICOM_HEAD = 132


def is_dicom(head: bytes) -> bool:
    """Return whether a file with these first bytes, at least `DICOM_HEAD`, is DICOM (PS3.10, 7.1)."""
    return head[DICOM_HEAD - 4 : DICOM_HEAD] == b"DICM"
