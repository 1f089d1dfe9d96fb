"""BCSS regions, and tiles cut from them: images under `rgbs*/`, masks of class codes under `masks/`.

Breast Cancer Semantic Segmentation, Amgad et al. 2019, doi:10.1093/bioinformatics/btz083.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from wsi_seg.core.errors import DataError
from wsi_seg.datasets.base import IMAGE_ENDINGS, Dataset, list_files, list_folders, read_image
from wsi_seg.datasets.labels import LabelScheme, MaskValues, resample_codes
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.mask_settings import MaskSettings, mask_frame, read_classes
from wsi_seg.datasets.region import AnnotatedRegion, ArrayRegion, not_class


class BcssRegions(Dataset, MaskSettings):
    """Images `rgbs*/NAME.png` with masks `masks/NAME.png` that hold a class code for each pixel.

    Tiles cut from regions are laid out the same. Files are named after the TCGA barcode of their slide, whose
    first three fields are the patient. With `known_class`, and no `class_names`, masks are marked or not.
    """

    kind: Literal["bcss"] = "bcss"
    mpp: float = Field(default=0.25, gt=0)
    """Microns per pixel of the images."""

    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        within = [inner for inner in list_folders(folder) if inner.name.startswith("rgbs")]
        images = [path for inner in within for path in list_files(inner, IMAGE_ENDINGS)]
        if not images:
            raise DataError(f"{folder}: no images at rgbs*/*; set data_dir and folder to where the data lie")
        reader = self.mask_reader(self.name, self.mpp)
        values = self.mask_values(scheme, self.name, self.known_class)
        return [self._region(path, folder, scheme, reader, values) for path in images]

    def _region(
        self, path: Path, folder: Path, scheme: LabelScheme, reader: MaskReader, values: MaskValues
    ) -> AnnotatedRegion:
        image, frame, size = read_image(path, self.mpp, scheme)
        mask = folder / "masks" / f"{path.stem}.png"
        if self.known_class is None or self.class_names:
            target = read_classes(reader, values, mask, path, size, frame)
        else:
            channel = scheme.channel(self.known_class, self.name)
            marked = reader.marked(mask, path, size).astype(np.uint8)
            sides = np.array([not_class(channel), channel], np.int16)
            target = sides[resample_codes(marked, mask_frame(frame, reader))]
        return ArrayRegion(path.stem, path.stem, image, target, scheme.mpp, files=(path, mask))
