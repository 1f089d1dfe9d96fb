"""Results: the folder of a slide, from the first byte to the manifest.

Names of files, the journal by which a run resumes, its `progress`, the lock (`claims`), upload to URLs,
comparison with earlier results (`matching`), the regions as arrays (`region_files`, and `saved_regions` of
files that another program has saved again), and report pages.
"""

__all__ = [
    "bottleneck", "claims", "files", "folder", "journal", "matching", "pages", "progress", "region_files",
    "saved_regions", "upload",
]  # fmt: skip
