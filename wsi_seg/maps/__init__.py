"""Maps: the OME-Zarr store of a slide.

Shards and their metadata, pyramid levels, fields that are read on demand, and maps at any resolution
(`resampling`). One block is one shard: one task, one writer, no lock. `foreign` opens the maps of other
software.
"""

__all__ = ["fields", "foreign", "maps", "ome", "pyramid", "resampling", "shards"]
