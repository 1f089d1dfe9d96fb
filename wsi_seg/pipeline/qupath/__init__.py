"""QuPath: scripts for its script editor, and what answers them.

`scripts` writes the Groovy scripts from `templates`. Each of their steps is a request, JSON on the standard
input of `wsi-seg qupath --request`, here or on another computer. `requests` answers it, with `runs`, which go
on when QuPath is closed, and `regions`, which finds results and moves them to QuPath's origin.
"""

__all__ = ["regions", "requests", "runs", "scripts"]
