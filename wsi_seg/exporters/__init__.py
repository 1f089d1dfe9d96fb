"""Writers of results for other software: one module for each format, and the pictures of a result.

`geojson` writes regions for QuPath, and `check` finds what QuPath would refuse. `overview` and `gradcam` are
pictures, composed by `figure`. `pipeline` calls the writers of regions, and decides which files a run leaves.
"""

__all__ = ["check", "figure", "geojson", "gradcam", "overview"]
