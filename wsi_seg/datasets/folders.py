"""Images in folders, perhaps one for each class, with an annotation file for each or for all."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Self

from pydantic import Field, model_validator

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.base import IMAGE_ENDINGS, Dataset, list_files, list_folders, read_image
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, ArrayRegion, Targets, not_class
from wsi_seg.slides.slide import MapFrame

# `mask_class` that stands for the class named like the folder of the image.
FOLDER = "folder"

Annotate = Callable[[Path, Size, MapFrame], tuple[Targets, tuple[Path, ...]]]
"""From an image, its size, and its frame at the model's resolution: targets (h, w) of the frame, and the
files that say them."""


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
        names = self._images(folder)
        if not names:
            raise DataError(f"{folder}: no images; set data_dir and folder to where the data lie")
        annotate = self._annotator(folder, names, scheme)
        unknown = next((name for name in self.exclude if name not in names.values()), None)
        if unknown is not None:
            raise DataError(f"{self.name}: exclude names {unknown!r}, but there is no such image in {folder}")
        chosen = {path: name for path, name in names.items() if name not in self.exclude}
        regions = [self._region(path, name, scheme, annotate) for path, name in chosen.items()]
        return sorted(regions, key=lambda region: region.name)

    def _images(self, folder: Path) -> dict[Path, str]:
        """Return the images of the data set and their names."""
        return {path: image_name(path, folder) for path in files_of(folder)}

    @abstractmethod
    def _annotator(self, folder: Path, names: Mapping[Path, str], scheme: LabelScheme) -> Annotate:
        """Return the function that reads the annotation of an image.

        Args:
            folder: that of the data set.
            names: of all images in it, those that are left out too.
            scheme: classes of the model.
        """

    def _region(self, path: Path, name: str, scheme: LabelScheme, annotate: Annotate) -> AnnotatedRegion:
        image, frame, size = read_image(path, self.mpp, scheme, self.resize)
        target, files = annotate(path, size, frame)
        label, of_class = None, class_folder(name)
        if scheme.image_labels and of_class:
            label = scheme.image_label(of_class, str(path))
        return ArrayRegion(name, name, image, target, scheme.mpp, label=label, files=(path, *files))

    def _sides(
        self, mask_class: str, marked: bool, path: Path, name: str, scheme: LabelScheme
    ) -> tuple[int, int]:
        """Return the targets outside and inside the masks of an image; `marked`: there is an inside."""
        ground, of_class = self._ground(scheme), class_folder(name)
        if ground != IGNORED and not marked:
            return ground, IGNORED  # its folder, such as `normal`, may be no class of the model
        if mask_class != FOLDER:
            inside = scheme.channel(mask_class, self.name)
        elif of_class:
            inside = scheme.channel(of_class, str(path))
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


def class_folder(name: str) -> str:
    """Return the last folder in the name of a region, which may be that of its class; '' without one."""
    return PurePosixPath(name).parent.name


def files_of(folder: Path) -> list[Path]:
    """Return the images and masks in a folder and in those inside it, sorted."""
    return sorted(
        path for within in (folder, *list_folders(folder)) for path in list_files(within, IMAGE_ENDINGS)
    )
