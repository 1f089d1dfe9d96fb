"""Images with masks next to them, laid out as BUSI is.

Breast Ultrasound Images, Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.folders import Annotate, Annotated, ImageFolder, find_masks, image_name
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.mask_files import MaskReader


class MaskedImages(ImageFolder):
    """Images `CLASS/NAME.png` with masks `CLASS/NAME_mask.png`, `CLASS/NAME_mask_1.png` and so on, united.

    A mask has the size of its image and is white, or 1, on what is marked. An image with nothing to mark has
    a mask that is 0 everywhere.
    """

    kind: Literal["masks"] = "masks"
    mask_class: str
    """Class of what is marked, or `folder`: the class named like the folder of the image."""
    foreground: tuple[int, ...] = ()
    """Values that are marked, where masks are not black and white, such as (2,) for masks of 1 and 2."""

    def _annotator(self, folder: Path, images: Sequence[Path], scheme: LabelScheme) -> Annotate:
        masks, reader = find_masks(folder), MaskReader(self.name, self.foreground)
        names = {image_name(path, folder) for path in images}
        for name, paths in masks.items():
            if name not in names:
                raise DataError(f"{paths[0]}: a mask without image; expected {folder / name}.png")

        def annotate(path: Path, size: Size) -> Annotated:
            missing = path.with_name(f"{path.stem}_mask.png")
            files = masks.get(image_name(path, folder), [missing])
            marked = np.any([reader.marked(mask, path, size) for mask in files], axis=0)
            targets = self._sides(self.mask_class, bool(marked.any()), path, folder, scheme)
            return Annotated(marked.astype(np.uint8), targets, tuple(files))

        return annotate
