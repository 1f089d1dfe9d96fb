"""Maps of other software: label and probability maps in Zarr, TIFF and NumPy files, read piece by piece.

`opening` recognizes a file and returns its array as `stored` describes it; `zarr_files` (with `ome_zarr`),
`tiff_files` and `npy_files` read one format each. `pixels` reads boxes of any layout, `legend` finds the
classes, and `views` makes of both what `regions` traces.
"""

__all__ = ["legend", "opening", "stored", "views"]
