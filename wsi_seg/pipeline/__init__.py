"""The pipeline: one slide from file to polygons, a batch of slides, and export from finished maps.

It joins the folders above and decides nothing that they decide. Settings of a run are declared here.
"""

__all__ = ["batch", "batch_table", "export", "inputs", "models", "run", "settings", "summary"]
