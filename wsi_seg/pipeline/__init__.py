"""The pipeline: one slide from file to polygons, batches, and export from finished maps and those of others.

`run` is one slide, `result` its outcome, `batch` many and `shares` those of a job array; `settings` composes
the settings of the other folders to `RunSettings`, `run_inputs` and `summary` make the key by which results
are known, `slide_table` reads tables of slides, `report` writes reports again, and `qupath` lets scripts in
QuPath start runs and import their results.
"""

__all__ = [
    "batch", "batch_table", "export", "finders", "gpu_workers", "inputs", "join", "models", "qupath",
    "report", "rerun", "result", "run", "settings", "shares", "summary", "trace",
]  # fmt: skip
