"""The pipeline: one slide from file to polygons, a batch of slides, and export from finished maps.

`run` is one slide and `batch` many; `settings` composes the settings of the other folders to `RunSettings`,
`run_inputs` and `summary` make the key by which results are known, `slide_table` reads tables of slides.
"""

__all__ = ["batch", "batch_table", "export", "finders", "inputs", "models", "run", "settings", "summary"]
