"""The plan of a slide, as frozen data, before anything is computed.

The global tile grid and its blocks, the cut of the maps into levels and shards, which probabilities they
hold, stitch settings, and the projected memory; how many processes share a GPU. Plain arithmetic: no torch,
no Dask, no files.
"""

__all__ = [
    "gpu_processes",
    "grid",
    "map_layout",
    "plan",
    "resolution",
    "settings",
    "stitch_settings",
    "stored",
]
