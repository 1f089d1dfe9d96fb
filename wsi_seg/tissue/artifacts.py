"""Artifacts in the tissue of a slide: folds, pen, blur and others, as a network finds them at low power."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace

import numpy as np

from wsi_seg.core.classes import TissueClass
from wsi_seg.core.geometry import RealBox
from wsi_seg.tissue.cells import Cells


@dataclass(frozen=True, eq=False)
class Artifacts:
    """Class codes of artifacts on a grid of cells."""

    cells: Cells
    """uint8 codes of `classes`; 0: no artifact."""
    classes: tuple[TissueClass, ...]
    source: str
    """Name and digest of the network, as in `TissueMask.source`."""
    excluded: bool = True
    """Artifacts are not analyzed; else they are marked alone."""

    def crop(self, box_l0: RealBox) -> Artifacts:
        """Return the part that answers for this box as the whole does."""
        return replace(self, cells=self.cells.crop(box_l0))

    def fill(self, box_l0: RealBox) -> bool:
        """Return whether every cell that meets the box is excluded, so that nothing is left to analyze."""
        found = self.cells.touching(box_l0)
        return self.excluded and found.size > 0 and bool(found.all())

    def digest(self) -> str:
        """Return a SHA-256 of codes, places, names and colors; that of the source is left out."""
        cells = self.cells
        what = (
            cells.values.shape,
            cells.l0_per_cell,
            cells.origin,
            [(c.code, c.name, *c.color) for c in self.classes],
            self.excluded,
        )
        content = np.ascontiguousarray(cells.values, np.uint8).tobytes()
        return hashlib.sha256(repr(what).encode() + content).hexdigest()
