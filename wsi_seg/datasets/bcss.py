"""BCSS regions, and tiles cut from them: images under `rgbs*/`, masks of class codes under `masks/`.

Breast Cancer Semantic Segmentation, Amgad et al. 2019, doi:10.1093/bioinformatics/btz083.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from wsi_seg.core.errors import DataError
from wsi_seg.datasets.base import IMAGE_ENDINGS, Dataset, list_files, list_folders, read_image
from wsi_seg.datasets.labels import LabelScheme, resample_codes
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.region import AnnotatedRegion, ArrayRegion


class BcssRegions(Dataset):
    """Images `rgbs*/NAME.png` with masks `masks/NAME.png` that hold a class code for each pixel.

    Tiles cut from regions are laid out the same. Files are named after the TCGA barcode of their slide, whose
    first three fields are the patient.
    """

    kind: Literal["bcss"] = "bcss"
    mpp: float = Field(default=0.25, gt=0)
    """Microns per pixel of images and masks."""

    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        within = [inner for inner in list_folders(folder) if inner.name.startswith("rgbs")]
        images = [path for inner in within for path in list_files(inner, IMAGE_ENDINGS)]
        if not images:
            raise DataError(f"{folder}: no images at rgbs*/*; set data_dir and folder to where the data lie")
        masks = MaskReader(self.name)
        return [self._region(path, folder, scheme, masks) for path in images]

    def _region(self, path: Path, folder: Path, scheme: LabelScheme, masks: MaskReader) -> AnnotatedRegion:
        image, frame, size = read_image(path, self.mpp, scheme)
        mask_path = folder / "masks" / f"{path.stem}.png"
        codes = resample_codes(masks.codes(mask_path, path, size), frame)
        if self.known_class is None:
            target = scheme.from_codes(codes, mask_path)
        else:
            channel = scheme.channel(self.known_class, self.name)
            target = scheme.from_known_class(codes, channel, mask_path)
        return ArrayRegion(path.stem, path.stem, image, target, scheme.mpp, files=(path, mask_path))
