"""Images with masks, next to them as in BUSI, or where patterns say.

Breast Ultrasound Images, Al-Dhabyani et al. 2020, doi:10.1016/j.dib.2019.104863.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from numpy.typing import NDArray
from pydantic import model_validator

from wsi_seg.core.errors import DataError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import walk_files
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.base import IMAGE_ENDINGS
from wsi_seg.datasets.folders import Annotate, ImageFolder, files_of, image_name
from wsi_seg.datasets.labels import LabelScheme, resample_codes
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.mask_settings import MaskSettings, mask_frame, read_classes
from wsi_seg.datasets.region import Targets
from wsi_seg.slides.slide import MapFrame

NAME = "{name}"
MASK_NAME = re.compile(r"(?P<name>.+)_mask(_\d+)?")


class MaskedImages(ImageFolder, MaskSettings):
    """Images `CLASS/NAME.png` with masks `CLASS/NAME_mask.png`, `CLASS/NAME_mask_1.png` and so on, united.

    `masks` and `images` are patterns for other layouts. With `mask_class` a mask is white, or 1, on what is
    marked; an image with nothing to mark has a mask that is 0 everywhere. Without, it holds a code or color
    for each pixel, and each image has one mask.
    """

    kind: Literal["masks"] = "masks"
    images: str | None = None
    """Pattern of the images, relative to `folder`, such as 'images/{name}.png'; * stands for any letters."""
    masks: str | None = None
    """Pattern of the masks, relative to `folder`, such as 'masks/{name}_*.png' with the same {name}. None:
    masks are next to images, as above."""
    mask_class: str | None = None
    """Class of what is marked, or `folder`: the class named like the folder of the image. None: masks tell
    several classes, by codes or by `class_names`."""

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for pattern in (self.images, self.masks):
            if pattern is not None and pattern.count(NAME) != 1:
                raise ValueError(f"the pattern {pattern!r} has not one {NAME}; as in 'masks/{NAME}.png'")
        if self.images is not None and self.masks is None:
            raise ValueError("give the pattern of the masks too, such as masks: 'masks/{name}.png'")
        if self.mask_class is not None and (self.class_names or self.ignored_classes):
            raise ValueError("class_names and ignored_classes are for masks without a mask_class")
        if self.mask_class is None and self.background_class is not None:
            raise ValueError(
                "background_class goes with mask_class; map the value of the ground in class_names"
            )
        if self.mask_mpp is not None and self.mpp is None:
            raise ValueError("mask_mpp goes with mpp, not with resize")
        return self

    def _images(self, folder: Path) -> dict[Path, str]:
        if self.masks is None:
            found = {path: image_name(path, folder) for path in files_of(folder)}
            return {path: name for path, name in found.items() if not MASK_NAME.fullmatch(path.stem)}
        masks = _matching(folder, self.masks)
        if self.images is not None:
            found = _matching(folder, self.images)
        else:
            found = {path: image_name(path, folder) for path in files_of(folder)}
        return {path: name for path, name in found.items() if path not in masks}

    def _annotator(self, folder: Path, names: Mapping[Path, str], scheme: LabelScheme) -> Annotate:
        masks = find_masks(folder, self.masks)
        for name, paths in masks.items():
            if name not in names.values():
                expected = (self.images or f"{NAME}.png").replace(NAME, name)
                raise DataError(f"{paths[0]}: a mask without image; expected {folder / expected}")
        reader = self.mask_reader(self.name, self.mpp)
        values = self.mask_values(scheme, self.name)

        def annotate(path: Path, size: Size, frame: MapFrame) -> tuple[Targets, tuple[Path, ...]]:
            name = names[path]
            missing = folder / (self.masks or f"{NAME}_mask.png").replace(NAME, name)
            files = masks.get(name, [missing])
            if self.mask_class is None:
                if len(files) > 1:
                    raise DataError(
                        f"{files[1]}: {path} has the mask {files[0]} too; give mask_class or one mask"
                    )
                return read_classes(reader, values, files[0], path, size, frame), tuple(files)
            marked = _united(reader, files, path, size)
            sides = self._sides(self.mask_class, bool(marked.any()), path, name, scheme)
            target = np.array(sides, np.int16)[resample_codes(marked, mask_frame(frame, reader))]
            return target, tuple(files)

        return annotate


def find_masks(folder: Path, pattern: str | None = None) -> dict[str, list[Path]]:
    """Return the masks in a folder by the name of their image; see `MaskedImages`."""
    masks: dict[str, list[Path]] = {}
    if pattern is not None:
        for path, name in _matching(folder, pattern).items():
            masks.setdefault(name, []).append(path)
        return masks
    for path in files_of(folder):
        match = MASK_NAME.fullmatch(path.stem)
        if match:
            masks.setdefault(image_name(path.with_name(match["name"] + ".png"), folder), []).append(path)
    return masks


def _united(reader: MaskReader, files: Sequence[Path], image: Path, size: Size) -> NDArray[np.uint8]:
    """Return what any of the masks of an image marks, uint8 0 or 1 (H, W)."""
    masks = [reader.marked(file, image, size) for file in files]
    for file, mask in zip(files, masks, strict=True):
        if mask.shape != masks[0].shape:
            raise DataError(f"{file}: not of the size of {files[0]}, another mask of {image}")
    return np.asarray(np.any(masks, axis=0), np.uint8)


def _matching(folder: Path, pattern: str) -> dict[Path, str]:
    """Return the images and masks below a folder that fit a pattern, sorted, and the {name} in each."""
    name, star = re.escape(NAME), re.escape("*")
    wanted = re.compile(re.escape(pattern).replace(name, "(?P<name>.+)").replace(star, "[^/]*"))
    with reading(folder, DataError):
        files = [path for path in walk_files(folder) if path.name.lower().endswith(IMAGE_ENDINGS)]
    fits = {path: wanted.fullmatch(path.relative_to(folder).as_posix()) for path in sorted(files)}
    return {path: fit["name"] for path, fit in fits.items() if fit}
