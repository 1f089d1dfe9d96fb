"""Inference: from the pixels of a block to its labels and probabilities.

`blocks` reads, tiles and predicts; `stitch` blends; `forward_pool` shares a network among blocks; `models`
finds, loads and runs networks and is, with training, the only home of torch. A new blending goes into
`stitch`.
"""

__all__ = ["blocks", "forward_pool", "models", "stitch"]
