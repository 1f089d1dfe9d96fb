"""Tissue classes: BCSS codes, the five groups, colors, and the names that QuPath knows.

Codes and groups are those of the Breast Cancer Semantic Segmentation data set (Amgad et al. 2019,
doi:10.1093/bioinformatics/btz083). Code 0 (outside the annotated region) is no class: it has zero
weight in training and metrics, and in our label maps it means "not analyzed".
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from wsi_seg.core.errors import UsageError

RGB = tuple[int, int, int]

NOT_ANALYZED = 0
IGNORED_CODES = (0, 7, 15)  # outside_roi, exclude, undetermined


@dataclass(frozen=True, slots=True)
class TissueClass:
    """One class of a model or data set."""

    code: int
    """Value in label maps, 1 … 255."""
    name: str
    color: RGB

    @property
    def alone(self) -> ClassGroup:
        """The class as a group of its own."""
        return ClassGroup(self.name, (self.code,), self.color)


@dataclass(frozen=True, slots=True)
class ClassGroup:
    """One or more classes that are traced and measured as one region class."""

    name: str
    codes: tuple[int, ...]
    color: RGB

    @property
    def qupath_name(self) -> str:
        """The class name for QuPath: its own spelling where it has a default color."""
        return QUPATH_NAMES.get(self.name, self.name.replace("_", " ").capitalize())


BCSS: tuple[TissueClass, ...] = (
    TissueClass(1, "tumor", (200, 0, 0)),
    TissueClass(2, "stroma", (150, 200, 150)),
    TissueClass(3, "lymphocytic_infiltrate", (160, 90, 160)),
    TissueClass(4, "necrosis_or_debris", (50, 50, 50)),
    TissueClass(5, "glandular_secretions", (230, 160, 60)),
    TissueClass(6, "blood", (120, 0, 40)),
    TissueClass(7, "exclude", (180, 180, 180)),
    TissueClass(8, "metaplasia_NOS", (240, 110, 170)),
    TissueClass(9, "fat", (250, 230, 140)),
    TissueClass(10, "plasma_cells", (90, 60, 200)),
    TissueClass(11, "other_immune_infiltrate", (120, 150, 230)),
    TissueClass(12, "mucoid_material", (130, 220, 220)),
    TissueClass(13, "normal_acinus_or_duct", (40, 130, 220)),
    TissueClass(14, "lymphatics", (0, 190, 190)),
    TissueClass(15, "undetermined", (140, 140, 140)),
    TissueClass(16, "nerve", (230, 230, 60)),
    TissueClass(17, "skin_adnexa", (170, 110, 60)),
    TissueClass(18, "blood_vessel", (230, 70, 40)),
    TissueClass(19, "angioinvasion", (255, 0, 150)),
    TissueClass(20, "dcis", (255, 120, 0)),
    TissueClass(21, "other", (255, 200, 0)),
)

BCSS_GROUPS: tuple[ClassGroup, ...] = (
    ClassGroup("tumor", (1, 19, 20), (200, 0, 0)),
    ClassGroup("stroma", (2,), (150, 200, 150)),
    ClassGroup("inflammatory", (3, 10, 11), (160, 90, 160)),
    ClassGroup("necrosis", (4,), (50, 50, 50)),
    ClassGroup("other", (5, 6, 7, 8, 9, 12, 13, 14, 15, 16, 17, 18, 21), (255, 200, 0)),
)

QUPATH_NAMES = {
    "tumor": "Tumor",
    "stroma": "Stroma",
    "lymphocytic_infiltrate": "Immune cells",
    "inflammatory": "Immune cells",
    "necrosis_or_debris": "Necrosis",
    "necrosis": "Necrosis",
    "other": "Other",
}


def hex_code(color: RGB) -> str:
    """Return `#rrggbb`."""
    return "#{:02x}{:02x}{:02x}".format(*color)


def canonical_name(name: str) -> str:
    """Return `name` as it stands in the tables; British spelling, case and spaces do not matter."""
    return name.strip().lower().replace(" ", "_").replace("tumour", "tumor")


# A model's groups or classes of these names are not traced unless someone asks for them.
NOT_TRACED = ("background", "other", "exclude", "undetermined", "ignore", "unlabeled")


def traced_by_default(groups: Iterable[ClassGroup]) -> tuple[ClassGroup, ...]:
    """Return what is traced of a model that does not say.

    `tumor` if there is such a group; else all but those of `NOT_TRACED`; all where that leaves none.
    """
    groups = tuple(groups)
    tumor = tuple(g for g in groups if canonical_name(g.name) == "tumor")
    return tumor or tuple(g for g in groups if canonical_name(g.name) not in NOT_TRACED) or groups


def find_classes(names: Iterable[str], classes: Iterable[TissueClass]) -> tuple[ClassGroup, ...]:
    """Return one group for each class name, in the order asked.

    Raises:
        UsageError: a name is not in `classes`; the message names those that are.
    """
    table = {canonical_name(c.name): c.alone for c in classes}
    return tuple(_lookup(name, table, "class") for name in names)


def find_groups(names: Iterable[str], groups: Iterable[ClassGroup]) -> tuple[ClassGroup, ...]:
    """Return the groups of these names, in the order asked.

    Raises:
        UsageError: a name is not in `groups`; the message names those that are.
    """
    table = {canonical_name(g.name): g for g in groups}
    return tuple(_lookup(name, table, "group") for name in names)


def find_class_or_group(
    name: str, classes: Iterable[TissueClass], groups: Iterable[ClassGroup]
) -> ClassGroup:
    """Return the class of this name as a group of its own, or else the group of this name.

    Raises:
        UsageError: there is neither; the message names those that there are.
    """
    table = {canonical_name(g.name): g for g in groups}
    table |= {canonical_name(c.name): c.alone for c in classes}
    return _lookup(name, table, "class or group")


def find_channels(channels: Iterable[Iterable[int]], codes: Iterable[int]) -> tuple[int, ...] | None:
    """Return the channels whose sum is the probability of some classes, None where no channels add up to it.

    Args:
        channels: codes of the classes that each holds the sum of; none where it holds something else.
        codes: of the classes.
    """
    wanted, held = set(codes), [set(members) for members in channels]
    if wanted in held:
        return (held.index(wanted),)
    found = []
    for index in sorted(range(len(held)), key=lambda index: -len(held[index])):
        if held[index] and held[index] <= wanted:
            found.append(index)
            wanted -= held[index]
    return tuple(sorted(found)) if found and not wanted else None


# How results come by probabilities that they lack.
RUN_AGAIN = "run again with --probabilities all, or with names"


def not_stored(name: str, channels: Sequence[ClassGroup]) -> str:
    """Return the line that says that maps lack the probability of a group or class, and the way out."""
    held = ", ".join(channel.name for channel in channels if channel.codes) or "none"
    return f"the probability of {name!r} is not stored (stored: {held}); {RUN_AGAIN}"


def _lookup(name: str, table: dict[str, ClassGroup], kind: str) -> ClassGroup:
    found = table.get(canonical_name(name))
    if found is not None:
        return found
    near = difflib.get_close_matches(canonical_name(name), table, n=1)
    hint = f"; did you mean {near[0]}?" if near else ";"
    known = f"the model has {', '.join(g.name for g in table.values())}" if table else "the model has none"
    raise UsageError(f"unknown {kind} {name!r}{hint} {known}")
