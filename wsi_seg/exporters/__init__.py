"""Writers of results for other software: one module for each format, and the pictures of a result.

`table` lists the formats; each gets a result as `source` has it, with regions that `placed` has put where
other programs expect them, and `columns` has made rows of a table. `check` finds what QuPath would refuse
in GeoJSON. `overview` and `gradcam` are pictures, composed by `figure`. `pipeline` calls the writers, and
decides which files a run leaves.
"""

__all__ = [
    "check", "columns", "figure", "frames", "geojson", "gradcam", "overview", "placed", "source",
    "spatial_data", "table",
]  # fmt: skip
