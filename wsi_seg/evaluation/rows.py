"""Rows of a confusion matrix: classes, groups of classes, or one class and the rest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from wsi_seg.core.assessed import assessed_codes
from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import RGB, ClassGroup, TissueClass
from wsi_seg.datasets.region import Targets, not_class
from wsi_seg.evaluation.metrics import NO_ROW

REST_COLOR: RGB = (205, 205, 210)


@dataclass(frozen=True, slots=True)
class Rows:
    """How targets, predicted channels and probabilities become rows."""

    names: tuple[str, ...]
    colors: tuple[RGB, ...]
    channels: tuple[tuple[int, ...], ...]
    """Output channels of each row; no channel is in two rows."""
    rest_of: int | None = None
    """None: truth tells all rows apart. A channel: row 0 is this class, row 1 all that is known not to be."""
    unassessed: frozenset[int] = frozenset()
    """Rows of which the model predicts no channel: they have no scores and are in no mean."""

    @classmethod
    def of_card(cls, card: ModelCard) -> tuple[Rows, ...]:
        """Return the rows of a model's classes and, where they say more, those of its groups."""
        found = (cls.of_classes(card.tissue_classes), cls.of_groups(card.class_groups, card.codes))
        known = {card.codes.index(code) for code in assessed_codes(card)}
        return tuple(
            replace(
                rows,
                unassessed=frozenset(
                    row for row, channels in enumerate(rows.channels) if known.isdisjoint(channels)
                ),
            )
            for rows in found
            if rows is not None
        )

    @classmethod
    def of_classes(cls, classes: Sequence[TissueClass]) -> Rows:
        """Return a row for each class of a model, in the order of its channels."""
        return cls(
            tuple(c.name for c in classes),
            tuple(c.color for c in classes),
            tuple((channel,) for channel in range(len(classes))),
        )

    @classmethod
    def of_groups(cls, groups: Sequence[ClassGroup], codes: Sequence[int]) -> Rows | None:
        """Return a row for each group of classes; None where groups say no more than classes, or overlap.

        `codes` are the label values of the channels.
        """
        channels = tuple(tuple(codes.index(code) for code in group.codes) for group in groups)
        listed = [channel for members in channels for channel in members]
        if len(groups) < 2 or len(set(listed)) < len(listed) or len(listed) == len(groups):
            return None
        return cls(tuple(g.name for g in groups), tuple(g.color for g in groups), channels)

    @classmethod
    def of_one_class(cls, classes: Sequence[TissueClass], channel: int) -> Rows:
        """Return two rows: a class, and everything that is known to be another."""
        one = classes[channel]
        rest = tuple(c for c in range(len(classes)) if c != channel)
        return cls((one.name, f"not {one.name}"), (one.color, REST_COLOR), ((channel,), rest), channel)

    @property
    def assessed(self) -> NDArray[np.bool_]:
        """Return which rows are assessed, (K,)."""
        return np.array([row not in self.unassessed for row in range(len(self.names))])

    def of_targets(self, target: Targets) -> NDArray[np.uint8]:
        """Return the row of each pixel's truth, NO_ROW where it is unknown or in no row."""
        rows = self.of_channels(np.where(target >= 0, target, NO_ROW).astype(np.uint8))
        if self.rest_of is not None:
            rows[target == not_class(self.rest_of)] = 1
        return rows

    def of_channels(self, channels: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Return the row of each pixel's channel; NO_ROW stays, and is that of channels in no row."""
        table = np.full(256, NO_ROW, np.uint8)
        for row, members in enumerate(self.channels):
            table[list(members)] = row
        return table[channels]

    def of_probabilities(self, probabilities: NDArray[np.float32]) -> NDArray[np.float32]:
        """Return (K, …) sums of the probabilities (C, …) of each row's channels."""
        if all(len(members) == 1 for members in self.channels):
            return probabilities[[members[0] for members in self.channels]]
        return np.stack([probabilities[list(members)].sum(axis=0) for members in self.channels])
