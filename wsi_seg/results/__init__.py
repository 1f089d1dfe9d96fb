"""Results: the folder of a slide, from the first byte to the manifest.

Names of files, the journal by which a run resumes, its `progress`, the lock (`claims`), upload to URLs,
comparison with earlier results (`matching`), and report pages.
"""

__all__ = ["bottleneck", "claims", "files", "folder", "journal", "matching", "pages", "progress", "upload"]
