"""Maps: the OME-Zarr store of a slide.

Shards and their metadata, pyramid levels, and fields that are read on demand. One block is one shard: one
task, one writer, no lock.
"""

__all__ = ["fields", "maps", "pyramid"]
