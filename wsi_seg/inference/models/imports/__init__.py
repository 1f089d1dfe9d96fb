"""Models as other libraries store them, turned into model folders.

`sources` recognizes what a reference is, and the module of its kind reads it; `write` completes the card,
tests the new folder against the original and puts it in place.
"""

__all__ = [
    "bioimage",
    "classes",
    "files",
    "geometry",
    "monai",
    "preprocessing",
    "smp",
    "source",
    "source_files",
    "sources",
    "transformers",
    "write",
]
