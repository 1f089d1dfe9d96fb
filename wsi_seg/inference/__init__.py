"""Inference: from the pixels of a block to its labels and probabilities.

`blocks` reads, tiles and predicts, on threads that share a network; `stitch` blends; `models` finds, loads
and runs networks and is, with training, the only home of torch. A new blending goes into `stitch`.
"""

__all__ = ["blocks", "failures", "models", "settings", "stitch"]
