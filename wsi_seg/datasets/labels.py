"""Meaning of the outputs of a model, and masks of class codes turned into targets."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import TissueClass, canonical_name
from wsi_seg.core.errors import DataError
from wsi_seg.datasets.region import IGNORED, Targets
from wsi_seg.slides.slide import MapFrame

Values = TypeVar("Values", bound=np.integer[Any])


@dataclass(frozen=True, slots=True)
class LabelScheme:
    """The classes of a model and the resolution at which it looks."""

    classes: tuple[TissueClass, ...]
    """Channel i of the network is `classes[i]`."""
    mpp: float
    """Microns per pixel of the network's input."""
    ignored_codes: tuple[int, ...] = (0,)
    """Mask codes of zero weight."""
    image_labels: tuple[str, ...] = ()
    """Classes of whole images."""

    def channel(self, name: str, where: str) -> int:
        """Return the output channel of a class.

        Raises:
            DataError: the model has no such class; `where` (a file, a data set) starts the message.
        """
        return _find(name, [c.name for c in self.classes], "class", where)

    def image_label(self, name: str, where: str) -> int:
        """Return the index of a class of whole images; raises as `channel`."""
        return _find(name, self.image_labels, "image label", where)

    def from_codes(self, codes: NDArray[np.uint8], path: Path) -> Targets:
        """Turn class codes into targets.

        Raises:
            DataError: a code is neither a class of the model nor an ignored one.
        """
        return MaskValues(self.targets_of_codes()).read(codes, path)

    def targets_of_codes(self) -> dict[int, int]:
        """Return the target of each code of the model's classes, and of those that are ignored."""
        channels = {tissue.code: channel for channel, tissue in enumerate(self.classes)}
        return channels | dict.fromkeys(self.ignored_codes, IGNORED)


@dataclass(frozen=True, slots=True)
class MaskValues:
    """The meaning of the values of masks that tell several classes."""

    targets: Mapping[int, int]
    """Of each code (0 … 255), or of each color (0xrrggbb)."""
    colored: bool = False
    """True where the values are colors."""
    lacking: str = "is neither a class of the model nor an ignored code"
    """Said of a value that has no target."""

    def read(self, values: NDArray[np.unsignedinteger[Any]], path: Path) -> Targets:
        """Return the target of each value, of the same shape; DataError where one has none."""
        if values.dtype == np.uint8:
            known, index = np.arange(256), values
            used = np.bincount(values.ravel(), minlength=256) > 0
        else:
            known, index = np.unique(values, return_inverse=True)
            used = np.ones(len(known), bool)
        unknown = [value for value in known[used].tolist() if value not in self.targets]
        if unknown:
            raise DataError(f"{path}: mask {self._text(unknown[-1])} {self.lacking}")
        table = np.array([self.targets.get(value, IGNORED) for value in known.tolist()], np.int16)
        targets: Targets = table[index].reshape(values.shape)
        return targets

    def _text(self, value: int) -> str:
        return f"color '#{value:06x}'" if self.colored else f"code {value}"


def _find(name: str, names: Sequence[str], kind: str, where: str) -> int:
    known = [canonical_name(n) for n in names]
    if canonical_name(name) in known:
        return known.index(canonical_name(name))
    near = difflib.get_close_matches(canonical_name(name), known, n=1, cutoff=0.0)
    hint = f"; did you mean {near[0]!r}?" if near else ""
    raise DataError(f"{where}: the model has no {kind} {name!r}{hint}")


def resample_codes(codes: NDArray[Values], frame: MapFrame) -> NDArray[Values]:
    """Return the code of each map pixel; by majority for a whole factor, else by the pixel at its center.

    A map pixel is the mean of factor × factor pixels, so its label is what most of them are. A pick of one
    of them would shift the labels by half a source pixel when the factor is even; it only breaks ties,
    without favor for any code.

    Args:
        codes: (H, W) codes or targets of the slide or image that `frame` is the map of, one per l0 pixel.
        frame: the map.

    Returns:
        (frame.size.height, frame.size.width), of the same type.
    """
    width, height = frame.size.width, frame.size.height
    fx, fy = frame.l0_per_map.x, frame.l0_per_map.y
    whole_x, whole_y = max(1, round(fx)), max(1, round(fy))
    if max(abs(fx - whole_x), abs(fy - whole_y)) > 1e-6:
        rows = np.minimum((np.arange(height) + 0.5) * fy, codes.shape[0] - 1).astype(np.intp)
        columns = np.minimum((np.arange(width) + 0.5) * fx, codes.shape[1] - 1).astype(np.intp)
        picked: NDArray[Values] = codes[rows[:, None], columns]
        return picked
    missing = (max(0, height * whole_y - codes.shape[0]), max(0, width * whole_x - codes.shape[1]))
    padded = np.pad(codes, ((0, missing[0]), (0, missing[1])), mode="edge")
    cells = padded[: height * whole_y, : width * whole_x].reshape(height, whole_y, width, whole_x)
    best = np.zeros((height, width), np.int32)
    out = np.zeros((height, width), codes.dtype)
    for code in np.unique(codes):
        is_code = cells == code
        votes = 2 * is_code.sum(axis=(1, 3), dtype=np.int32) + is_code[:, whole_y // 2, :, whole_x // 2]
        out[votes > best] = code
        best = np.maximum(best, votes)
    return out
