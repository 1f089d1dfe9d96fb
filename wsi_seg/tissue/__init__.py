"""Tissue: where a slide is worth analyzing.

`mask.find_tissue` detects it at low power (`stain`) or takes drawn regions; the result is a `TissueMask` in
l0, which may hold `artifacts`. Both are grids of `cells`. A new detector is a module next to `stain`, named
in `mask.METHODS`. `domain` compares the stain of tissue with a model's training data.
"""

__all__ = ["artifacts", "cells", "domain", "mask", "stain"]
