"""The settings of regions: which classes are traced, and how."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

from pydantic import Field
from pydantic.dataclasses import dataclass

from wsi_seg.core.classes import ClassGroup, canonical_name, find_classes, find_groups
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Origin
from wsi_seg.core.settings import CONFIG, checked, setting

if TYPE_CHECKING:
    from wsi_seg.core.card import ModelCard

Threshold = Annotated[float, Field(gt=0, le=1)]


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class TraceSettings:
    """How regions are cut out of the maps.

    At a threshold of one half, groups without a common class cannot overlap. The default areas are those of
    about five tumor cells; less is noise to a network that sees 0.5 µm per pixel. The default tolerance is
    far below a cell and half a probability pixel of the default maps, and leaves a few percent of the
    vertices.
    """

    title: ClassVar = "Regions"

    threshold: Threshold = setting(
        0.5, "Minimum probability for a pixel to belong to a region; unused with source labels."
    )
    min_area_um2: float = setting(
        1000.0, "Minimum area of a region; smaller ones are dropped.", unit="µm²", ge=0
    )
    min_hole_um2: float = setting(
        1000.0, "Minimum area of a hole; smaller ones are filled.", unit="µm²", ge=0
    )
    tolerance_um: float = setting(
        1.0, "Distance by which simplifying may move an outline; 0: not simplified.", unit="µm", ge=0
    )
    source: Literal["probabilities", "labels"] = setting(
        "probabilities",
        "Trace group probabilities (smooth outlines) or the most probable class of each pixel.",
    )


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class RegionSettings:
    """Choice of regions that become polygons, and how they are traced."""

    title: ClassVar = "Regions"

    groups: tuple[str, ...] | None = setting(
        None,
        "Class groups to trace, separated by commas; null: those that the model card names.",
        metavar="NAMES",
    )
    classes: tuple[str, ...] = setting(
        (),
        "Single classes to trace, besides the groups if there are any, separated by commas.",
        metavar="NAMES",
    )
    trace: TraceSettings = TraceSettings()
    origin: Origin = setting(
        "bounds",
        "Origin of coordinates of regions: the corner of the slide's bounds, as in QuPath, or of level 0. "
        "`export --to` defaults to what the format's programs count from.",
    )

    def of_model(self, card: ModelCard) -> Self:
        """Return the settings with the card's choice in place of `groups` that are None."""
        if self.groups is not None:
            return self
        known = {canonical_name(group.name) for group in card.groups}
        groups = tuple(name for name in card.traced_names if canonical_name(name) in known)
        classes = tuple(name for name in card.traced_names if canonical_name(name) not in known)
        return replace(self, groups=groups, classes=tuple(dict.fromkeys((*classes, *self.classes))))

    def resolve(self, card: ModelCard) -> tuple[ClassGroup, ...]:
        """Return the groups and classes to trace.

        Raises:
            UsageError: the model has no group or class of a name, or none was asked for.
        """
        asked = self.of_model(card)
        found = find_groups(asked.groups or (), card.class_groups)
        found += find_classes(asked.classes, card.tissue_classes)
        if not found:
            raise UsageError(
                "no groups and no classes to trace; name at least one with --groups or --classes"
            )
        return found
