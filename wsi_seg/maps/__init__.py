"""Maps: the OME-Zarr store of a slide.

Shards and their metadata, pyramid levels, and fields that are read on demand. One block is one shard: one
task, one writer, no lock. `foreign` opens the maps of other software.
"""

__all__ = ["fields", "foreign", "maps", "ome", "pyramid", "shards"]
