"""Clean tissue with artifacts made on it: folds, blur, and cut-outs of pen, bubbles and others.

Whoever trains a model that finds artifacts seldom has them outlined, but has tissue without any.
"""

from __future__ import annotations

import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal, Self

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_seg.core.errors import DataError
from wsi_seg.datasets.base import Dataset, read_image
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.pasting import LEAST_ALPHA, CutOut, blur, fold, glass, paste, read_cut_out
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, ArrayRegion, Pixels, Targets

# Artifacts in a made image that is not clean, at most.
MOST = 3


class ArtifactSource(BaseModel):
    """Origin of the artifacts of one class; exactly one of `cut_outs` and `made`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    cut_outs: tuple[str, ...] = ()
    """Patterns of files below the data set's folder: RGBA images, or `NAME.png` with `NAME_mask.png`."""
    um: tuple[float, float] | None = None
    """Least and largest length of a cut-out in microns; the scale of cut-outs is rarely known."""
    ink: bool = False
    """Tissue shines through the cut-outs as through ink, whose color channels are exchanged at random."""
    made: Literal["fold", "blur"] | None = None
    """Made of the tissue itself."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if bool(self.cut_outs) == (self.made is not None):
            raise ValueError("give either cut_outs or made (fold, blur)")
        if self.cut_outs and (self.um is None or not 0 < self.um[0] <= self.um[1]):
            raise ValueError("cut_outs need um: [least, largest] length in microns")
        return self


class MadeArtifacts(Dataset):
    """Images of clean tissue, each several times: cut out at random, with other artifacts each time."""

    kind: Literal["made_artifacts"] = "made_artifacts"
    images: tuple[str, ...] = Field(min_length=1)
    """Patterns of images below `folder`, all without artifacts."""
    mpp: float = Field(gt=0)
    """Microns per pixel of the images."""
    artifacts: dict[str, ArtifactSource] = Field(min_length=1)
    """By class."""
    clean_class: str = "clean"
    """Class of what holds none."""
    clean_share: float = Field(default=0.25, ge=0, le=1)
    """Share of the made images that stay clean."""
    copies: int = Field(default=8, ge=1)
    """Made images of each image."""
    side: int = Field(default=256, ge=32)
    """Side of a made image in pixels at the model's resolution; less where the image is smaller."""
    seed: int = Field(default=0, ge=0)

    @model_validator(mode="after")
    def _no_known_class(self) -> Self:
        if self.known_class is not None:
            raise ValueError("known_class: made artifacts are known completely; leave it out")
        return self

    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        sources = {name: self._cut_outs(folder, source) for name, source in self.artifacts.items()}
        channels = {name: scheme.channel(name, self.name) for name in (self.clean_class, *sources)}
        regions: list[AnnotatedRegion] = []
        for path in _find(folder, self.images, self.name):
            image = read_image(path, self.mpp, scheme)[0]
            name = path.relative_to(folder).with_suffix("").as_posix()
            for copy in range(self.copies):
                random = np.random.default_rng([self.seed, zlib.crc32(name.encode()), copy])
                made, target, files = self._make(image, sources, channels, scheme.mpp, random)
                regions.append(
                    ArrayRegion(f"{name}_made{copy:04}", name, made, target, scheme.mpp, files=(path, *files))
                )
        return sorted(regions, key=lambda region: region.name)

    def _cut_outs(self, folder: Path, source: ArtifactSource) -> list[tuple[Path, CutOut]]:
        paths = _find(folder, source.cut_outs, self.name) if source.cut_outs else []
        return [(path, read_cut_out(path, ink=source.ink)) for path in paths if not _is_mask(path)]

    def _make(
        self,
        image: Pixels,
        sources: Mapping[str, Sequence[tuple[Path, CutOut]]],
        channels: Mapping[str, int],
        mpp: float,
        random: np.random.Generator,
    ) -> tuple[Pixels, Targets, tuple[Path, ...]]:
        """Return a part of an image with artifacts, its targets, and the files of its cut-outs."""
        height, width = (min(self.side, side) for side in image.shape[:2])
        y, x = (random.integers(side - n + 1) for side, n in zip(image.shape, (height, width), strict=False))
        made = image[y : y + height, x : x + width].astype(np.float32)
        target = np.full((height, width), channels[self.clean_class], np.int16)
        files: list[Path] = []
        count = 0 if random.random() < self.clean_share else int(random.integers(1, MOST + 1))
        for name in random.choice(list(sources), count).tolist():
            source, blank = self.artifacts[name], None
            if source.made is not None:
                blank = glass(made, mpp)  # nobody can tell glass that is folded or out of focus
                made, alpha = {"fold": fold, "blur": blur}[source.made](made, mpp, random)
            else:
                path, cut_out = sources[name][int(random.integers(len(sources[name])))]
                least, largest = source.um or (0.0, 0.0)
                longest = least * (largest / least) ** random.random() / mpp
                made, alpha = paste(made, cut_out, longest, random)
                files.append(path)
            seen = alpha > LEAST_ALPHA
            target[seen] = channels[name]
            if blank is not None:
                target[seen & blank] = IGNORED
        return np.clip(made + 0.5, 0, 255).astype(np.uint8), target, tuple(dict.fromkeys(files))


def _find(folder: Path, patterns: Sequence[str], name: str) -> list[Path]:
    """Return the files of some patterns, sorted; DataError where one finds none."""
    found: set[Path] = set()
    for pattern in patterns:
        paths = [path for path in folder.glob(pattern) if path.is_file()]
        if not paths:
            raise DataError(f"{name}: no file {folder / pattern}; set data_dir to where the data lie")
        found.update(paths)
    return sorted(found)


def _is_mask(path: Path) -> bool:
    return path.stem.endswith("_mask")
