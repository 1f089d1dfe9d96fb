"""Results: the folder of a slide, from the first byte to the manifest.

Names, atomic writing, the journal by which a run resumes, the lock, upload to URLs, comparison with earlier
results, and report pages.
"""

__all__ = ["bottleneck", "claims", "files", "folder", "journal", "matching", "pages", "upload"]
