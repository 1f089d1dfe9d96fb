"""Stored maps as Dask arrays, for those who compute with them."""

from __future__ import annotations

import dask.array

from wsi_seg.maps.shards import ShardedArray


def as_dask(array: ShardedArray) -> dask.array.Array:
    """Return a map as a Dask array, a chunk for each shard, read when it is computed."""
    lazy: dask.array.Array = dask.array.from_array(array, chunks=array.shard, name=False)
    return lazy
