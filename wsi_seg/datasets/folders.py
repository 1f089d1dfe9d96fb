"""Images in folders, perhaps one for each class, with an annotation file for each or for all."""

from __future__ import annotations

import re
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray
from pydantic import Field, model_validator

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.base import IMAGE_ENDINGS, Dataset, list_files, list_folders, read_image
from wsi_seg.datasets.labels import LabelScheme, resample_codes
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, ArrayRegion, not_class

# `mask_class` that stands for the class named like the folder of the image.
FOLDER = "folder"

MASK_NAME = re.compile(r"(?P<image>.+)_mask(_\d+)?")


@dataclass(frozen=True, slots=True)
class Annotated:
    """The annotation of one image."""

    codes: NDArray[np.uint8]
    """(H, W) of the image itself: indices into `targets`."""
    targets: Sequence[int]
    files: tuple[Path, ...]


Annotate = Callable[[Path, Size], Annotated]


class ImageFolder(Dataset):
    """Images `NAME.png` in a folder, or `CLASS/NAME.png` in folders named after classes.

    The folder is the label of the whole image where the model has `image_labels`. Gray images become RGB.
    """

    background_class: str | None = None
    """Class outside all masks or outlines. None: where `mask_class` is given, only that it is not of that
    class; otherwise nothing."""
    resize: int | None = Field(default=None, gt=0)
    """Stretch image and mask to a square of so many pixels; they have no physical scale then."""
    mpp: float | None = Field(default=None, gt=0)
    """Microns per pixel of the images, in place of `resize`."""
    exclude: tuple[str, ...] = ()
    """Images that are left out, by their path in the folder without ending: `benign/benign (4)`."""

    @model_validator(mode="after")
    def _one_scale(self) -> Self:
        if (self.resize is None) == (self.mpp is None):
            raise ValueError("give either resize (pixels a side) or mpp (microns per pixel of the images)")
        if self.known_class is not None:
            raise ValueError("known_class is said here by mask_class without a background_class")
        return self

    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        images = _find_images(folder)
        annotate = self._annotator(folder, images, scheme)
        names = {path: image_name(path, folder) for path in images}
        unknown = next((name for name in self.exclude if name not in names.values()), None)
        if unknown is not None:
            raise DataError(f"{self.name}: exclude names {unknown!r}, but there is no such image in {folder}")
        chosen = [path for path, name in names.items() if name not in self.exclude]
        regions = [self._region(path, folder, scheme, annotate) for path in chosen]
        return sorted(regions, key=lambda region: region.name)

    @abstractmethod
    def _annotator(self, folder: Path, images: Sequence[Path], scheme: LabelScheme) -> Annotate:
        """Return the function that reads the annotation of an image, given its size.

        Args:
            folder: that of the data set.
            images: all in it, those that are left out too.
            scheme: classes of the model.
        """

    def _region(self, path: Path, folder: Path, scheme: LabelScheme, annotate: Annotate) -> AnnotatedRegion:
        image, frame, size = read_image(path, self.mpp, scheme, self.resize)
        found = annotate(path, size)
        target = np.array(found.targets, np.int16)[resample_codes(found.codes, frame)]
        name = image_name(path, folder)
        label = None
        if scheme.image_labels and path.parent != folder:
            label = scheme.image_label(path.parent.name, str(path))
        return ArrayRegion(name, name, image, target, scheme.mpp, label=label, files=(path, *found.files))

    def _sides(
        self, mask_class: str, marked: bool, path: Path, folder: Path, scheme: LabelScheme
    ) -> tuple[int, int]:
        """Return the targets outside and inside the masks of an image; `marked`: there is an inside."""
        ground = self._ground(scheme)
        if ground != IGNORED and not marked:
            return ground, IGNORED  # its folder, such as `normal`, may be no class of the model
        if mask_class != FOLDER:
            inside = scheme.channel(mask_class, self.name)
        elif path.parent != folder:
            inside = scheme.channel(path.parent.name, str(path))
        else:
            raise DataError(f"{path}: mask_class is {FOLDER!r}, but the image lies in no folder of a class")
        return (not_class(inside) if ground == IGNORED else ground), inside

    def _ground(self, scheme: LabelScheme) -> int:
        """Return the target of the background class, or IGNORED."""
        if self.background_class is None:
            return IGNORED
        return scheme.channel(self.background_class, self.name)


def image_name(path: Path, folder: Path) -> str:
    """Return the name of a region: the path of its image in the folder, without the ending."""
    return path.relative_to(folder).with_suffix("").as_posix()


def find_masks(folder: Path) -> dict[str, list[Path]]:
    """Return the masks in a folder and those inside it, by the name (`image_name`) of their image."""
    masks: dict[str, list[Path]] = {}
    for path in _files(folder):
        match = MASK_NAME.fullmatch(path.stem)
        if match:
            masks.setdefault(image_name(path.with_name(match["image"] + ".png"), folder), []).append(path)
    return masks


def _find_images(folder: Path) -> list[Path]:
    images = [path for path in _files(folder) if not MASK_NAME.fullmatch(path.stem)]
    if not images:
        raise DataError(f"{folder}: no images; set data_dir and folder to where the data lie")
    return images


def _files(folder: Path) -> list[Path]:
    """Return the images and masks in a folder and in those inside it, sorted."""
    return sorted(
        path for within in (folder, *list_folders(folder)) for path in list_files(within, IMAGE_ENDINGS)
    )
