"""One data set as it was evaluated: counts by patient, slide or image, and of each image."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import reduce
from operator import add

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.classes import RGB
from wsi_seg.core.geometry import Box, Size
from wsi_seg.datasets.region import IGNORED, Targets
from wsi_seg.evaluation.calibration import Reliability
from wsi_seg.evaluation.metrics import NO_ROW, Counts
from wsi_seg.evaluation.predict import Canvas
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.tally import PredictedBlock, Tally, empty_tally, tally_block

# Longest side of a picture in examples.png.
EXAMPLE_SIDE = 448
PAPER: RGB = (255, 255, 255)

Tallies = tuple[Tally, ...]
"""One tally for each of a section's `rows`."""


@dataclass(frozen=True, slots=True)
class ImageTally:
    """One region."""

    name: str
    group: str
    counts: tuple[Counts, ...]
    """For each of the section's `rows`."""


@dataclass(frozen=True, slots=True, eq=False)
class ImageLabel:
    """The class of one whole image."""

    name: str
    group: str
    truth: int
    """Index into the model's `image_labels`."""
    probabilities: NDArray[np.float64]
    """(L,)"""


@dataclass(frozen=True, slots=True, eq=False)
class Example:
    """A region to look at; all arrays have one size."""

    name: str
    image: NDArray[np.uint8] | None
    """RGB (h, w, 3); None where there is no image at hand."""
    target: Targets
    """(h, w)"""
    channels: NDArray[np.uint8]
    """(h, w), NO_ROW where nothing was predicted."""
    rows: Rows

    def truth_colors(self) -> NDArray[np.uint8]:
        """Return the truth as RGB (h, w, 3), white where it is unknown."""
        return _colored(self.rows, self.rows.of_targets(self.target))

    def predicted_colors(self) -> NDArray[np.uint8]:
        """Return the prediction as RGB (h, w, 3), white where there is none."""
        return _colored(self.rows, self.rows.of_channels(self.channels))

    def shown_rows(self) -> set[int]:
        """Return the rows that occur in truth or prediction."""
        both = np.concatenate([self.rows.of_targets(self.target), self.rows.of_channels(self.channels)])
        return set(np.unique(both).tolist()) - {NO_ROW}


def _colored(rows: Rows, index: NDArray[np.uint8]) -> NDArray[np.uint8]:
    table = np.full((256, 3), PAPER, np.uint8)
    table[: len(rows.colors)] = rows.colors
    return table[index]


@dataclass(frozen=True, slots=True)
class BaselineTally:
    """Scores of a baseline, for its class against everything else."""

    name: str
    class_name: str
    by_group: dict[str, Tallies]


@dataclass(frozen=True, slots=True)
class Section:
    """Everything counted of one data set, or of several pooled."""

    name: str
    rows: tuple[Rows, ...]
    """Classes first, then groups of classes where there are any."""
    by_group: dict[str, Tallies]
    """By group of the regions: the patient where that is known."""
    images: tuple[ImageTally, ...]
    files: int
    """How many files were read."""
    digest: str
    """Hash of what is in them."""
    notes: tuple[str, ...]
    """Sentences that a reader of the figures must know."""
    labels: tuple[ImageLabel, ...] = ()
    baselines: tuple[BaselineTally, ...] = ()
    seconds: float = 0.0
    reliability: Reliability | None = None
    """None where the probabilities are not at hand."""
    reliability_of: dict[str, Reliability] = field(default_factory=dict)
    """The same by group, where it is known."""
    patients_known: bool = False
    """Every group is a patient; only then are groups independent of each other."""

    @property
    def tallies(self) -> Tallies:
        """Of all groups together."""
        return sum_tallies(self.by_group.values(), self.rows)


def sum_tallies(parts: Iterable[Tallies], rows: Sequence[Rows]) -> Tallies:
    """Return the sums; of nothing, tallies of nothing."""
    columns = list(zip(*parts, strict=True)) or [(empty_tally(r),) for r in rows]
    return tuple(reduce(add, column) for column in columns)


def pool(sections: Sequence[Section], name: str) -> Section:
    """Return sections of the same rows as one; a patient in several of them counts once."""
    by_group: dict[str, Tallies] = {}
    reliability_of: dict[str, Reliability] = {}
    for section in sections:
        for group, tallies in section.by_group.items():
            merge(by_group, group, tallies)
        for group, sums in section.reliability_of.items():
            reliability_of[group] = reliability_of[group] + sums if group in reliability_of else sums
    return Section(
        name=name,
        rows=sections[0].rows,
        by_group=by_group,
        images=tuple(image for section in sections for image in section.images),
        files=sum(section.files for section in sections),
        digest=joint_digest(section.digest for section in sections),
        patients_known=all(section.patients_known for section in sections),
        notes=(f"The data sets {', '.join(s.name for s in sections)} pooled.",),
        labels=tuple(label for section in sections for label in section.labels),
        reliability=_sum_reliability(section.reliability for section in sections),
        reliability_of=reliability_of,
        seconds=sum(section.seconds for section in sections),
    )


def _sum_reliability(parts: Iterable[Reliability | None]) -> Reliability | None:
    known = [part for part in parts if part is not None]
    return reduce(add, known) if known else None


def joint_digest(digests: Iterable[str]) -> str:
    """Return one SHA-256 of several, in any order."""
    return hashlib.sha256("".join(sorted(digests)).encode()).hexdigest()


def merge(by_group: dict[str, Tallies], group: str, tallies: Tallies) -> None:
    """Add tallies to those of a group."""
    old = by_group.get(group)
    by_group[group] = tallies if old is None else tuple(map(add, old, tallies))


def count(blocks: Iterable[PredictedBlock], rows: Sequence[Rows]) -> Tallies:
    """Return the tallies of all blocks of a region."""
    return sum_tallies((tuple(tally_block(block, r) for r in rows) for block in blocks), rows)


class Sampler:
    """Hands blocks on, and keeps a small copy of their labels for a picture."""

    def __init__(self, size: Size) -> None:
        whole = Box(0, 0, size.width, size.height)
        self.step = max(1, -(-max(size.width, size.height) // EXAMPLE_SIDE))
        self._target = Canvas(whole, self.step, IGNORED)
        self._channels = Canvas(whole, self.step, NO_ROW)

    def watch(self, blocks: Iterable[PredictedBlock]) -> Iterator[PredictedBlock]:
        """Yield the blocks as they are."""
        for block in blocks:
            self._target.put(block.box, block.target)
            self._channels.put(block.box, block.channels)
            yield block

    def example(self, name: str, image: NDArray[np.uint8] | None, rows: Rows) -> Example:
        """Return what was kept, with an image of the same size."""
        channels = self._channels.pixels.astype(np.uint8)
        return Example(name, image, self._target.pixels, channels, rows)

    @property
    def size(self) -> Size:
        """Of the example."""
        height, width = self._target.pixels.shape
        return Size(width, height)
