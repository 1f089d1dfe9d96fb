"""What a user may choose about a run, as frozen values; the command line and YAML are turned into these."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Literal, Self

from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, canonical_name, find_classes, find_groups
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Scale
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.polygons import TraceSettings
from wsi_seg.slides.local_copies import SlideCache

Origin = Literal["bounds", "level0"]


@dataclass(frozen=True, slots=True)
class RegionSettings:
    """Which regions become polygons, and how."""

    groups: tuple[str, ...] | None = None
    """Class groups of the model card; None: what the card names as traced."""
    classes: tuple[str, ...] = ()
    """Single classes of the model card, traced as well."""
    trace: TraceSettings = field(default_factory=TraceSettings)
    origin: Origin = "bounds"
    """Frame of the GeoJSON: `bounds` subtracts the slide's bounds as QuPath does, `level0` does not."""

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


@dataclass(frozen=True, slots=True)
class RunSettings:
    """Everything about a run but the slide, the model and the place of the results."""

    mpp: Scale | None = None
    """Microns per l0 pixel, where the slide does not say or says it wrong."""
    reader: str | None = None
    series: int | None = None
    """Number of the image in a TIFF file of several; None: the largest that is tiled or has levels."""
    tissue: str = "otsu"
    """`otsu`, `none`, or a QuPath GeoJSON file of regions to analyze."""
    ignored_classes: tuple[str, ...] = ()
    """Classes of that file that are cut out, besides Ignore*."""
    plan: PlanSettings = field(default_factory=PlanSettings)
    regions: RegionSettings = field(default_factory=RegionSettings)
    workers: WorkerSettings = field(default_factory=WorkerSettings)
    strict: bool = False
    """Whether a slide fails where any of its pixels cannot be read as they should."""
    overwrite: bool = False
    verify: bool = False
    """Compare all bytes of a slide, not only its time of change, before skipping it."""
    cache: SlideCache | None = None
    """Where slides behind URLs are fetched as a whole; None: they are read piece by piece."""
    staging: str | None = None
    """Local folder where results for a URL are built; None: in the user's cache folder."""
