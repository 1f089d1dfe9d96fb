"""How regions are divided into training, validation and test, so that no patient is in two of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.region import AnnotatedRegion

# Institutes whose slides are the test set of BCSS (Amgad et al. 2019): second field of the TCGA barcode.
BCSS_TEST_INSTITUTES = ("OL", "LL", "E2", "EW", "GM", "S3")

Part = Literal["training", "validation", "test"]
PARTS: tuple[Part, ...] = get_args(Part)
Share = float | tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Parts:
    """The regions of one data set by what they are used for."""

    training: tuple[AnnotatedRegion, ...] = ()
    validation: tuple[AnnotatedRegion, ...] = ()
    test: tuple[AnnotatedRegion, ...] = ()
    notes: tuple[str, ...] = ()
    """Sentences on the regions that a user must know."""

    def of(self, part: Part) -> tuple[AnnotatedRegion, ...]:
        return {"training": self.training, "validation": self.validation, "test": self.test}[part]


class Split(BaseModel):
    """Regions kept out of training.

    `validation` and `test` are a share of the groups (0 … 1), or the names of groups
    (`AnnotatedRegion.group`). A share is drawn at random, within each image label alike where regions have
    labels.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    by: Literal["group", "institute", "columns"] = "group"
    """group: whole patients or slides. institute: as group, but the test set is that of BCSS.
    columns: the right-most share of every image is the test set, the share before it validation; the rest of
    the same patients is trained on, which makes figures optimistic."""
    validation: Share = 0.0
    test: Share = 0.0
    seed: int = Field(default=0, ge=0)

    @field_validator("validation", "test")
    @classmethod
    def _a_share(cls, value: Share) -> Share:
        if isinstance(value, float) and not 0 <= value <= 1:
            raise ValueError("a share of the groups lies between 0 and 1")
        return value

    def divide(self, regions: Sequence[AnnotatedRegion], where: str) -> Parts:
        """Divide regions.

        Args:
            regions: of one data set.
            where: its name, for messages.

        Raises:
            DataError: a part that was asked for is empty, or a named group does not exist.
        """
        parts = self._by_columns(regions, where) if self.by == "columns" else self._by_group(regions, where)
        for name in ("validation", "test"):
            share = getattr(self, name)
            if (share or (name == "test" and self.by == "institute")) and not parts.of(name):
                groups = len({region.group for region in regions})
                raise DataError(
                    f"{where}: the split asks for a {name} part ({name}: {share!r}), but none of its "
                    f"{groups} groups falls into it (images of one patient, and tiles of one image, are one "
                    f"group; there are {len(regions)} regions); give a larger share or names"
                )
        return parts

    def _by_group(self, regions: Sequence[AnnotatedRegion], where: str) -> Parts:
        label_of = {region.group: region.label for region in regions}
        groups = sorted(label_of)
        if self.by == "institute":
            test = {g for g in groups if _institute(g, where) in BCSS_TEST_INSTITUTES}
        else:
            test = self._chosen(self.test, groups, label_of.__getitem__, 1, where)
        rest = [g for g in groups if g not in test]
        # A share is one of all groups, whatever was taken for the test before.
        of_all = len(groups) / len(rest) if rest and self.by == "group" else 1.0
        validation = self._chosen(self.validation, rest, label_of.__getitem__, of_all, where)
        return Parts(
            tuple(r for r in regions if r.group not in test | validation),
            tuple(r for r in regions if r.group in validation),
            tuple(r for r in regions if r.group in test),
        )

    def _chosen(
        self,
        share: Share,
        groups: list[str],
        label_of: Callable[[str], int | None],
        of_all: float,
        where: str,
    ) -> set[str]:
        if isinstance(share, tuple):
            unknown = sorted(set(share) - set(groups))
            if unknown:
                raise DataError(
                    f"{where}: the split names {unknown[0]!r}, which is no group left to choose from "
                    f"({', '.join(groups[:8])}{', …' if len(groups) > 8 else ''})"
                )
            return set(share)
        random = np.random.default_rng(self.seed)
        chosen: set[str] = set()
        for label in sorted({label_of(g) for g in groups}, key=str):
            alike = [g for g in groups if label_of(g) == label]
            count = round(min(1.0, share * of_all) * len(alike))
            chosen.update(alike[i] for i in random.permutation(len(alike))[:count])
        return chosen

    def _by_columns(self, regions: Sequence[AnnotatedRegion], where: str) -> Parts:
        if isinstance(self.validation, tuple) or isinstance(self.test, tuple):
            raise DataError(f"{where}: a split by columns takes shares, not names")
        shares = (1 - self.validation - self.test, self.validation, self.test)
        if shares[0] < 0:
            raise DataError(
                f"{where}: validation {self.validation:g} and test {self.test:g} exceed the whole"
            )
        parts: list[list[AnnotatedRegion]] = [[], [], []]
        for region in regions:
            width, height = region.size.width, region.size.height
            cuts = (0, round(width * shares[0]), round(width * (shares[0] + shares[1])), width)
            for part, x0, x1 in zip(parts, cuts, cuts[1:], strict=False):
                if x1 > x0:
                    part.append(region.part(Box(x0, 0, x1, height)))
        training, validation, test = map(tuple, parts)
        return Parts(training, validation, test)


def _institute(group: str, where: str) -> str:
    fields = group.split("-")
    if len(fields) < 3 or fields[0] != "TCGA":
        raise DataError(f"{where}: {group!r} is no TCGA barcode, so it has no institute; split by group")
    return fields[1]
