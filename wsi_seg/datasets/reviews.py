"""Reviewed results: what people have accepted, corrected and rejected on slides, see `wsi_seg.review`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import shapely
from pydantic import Field

from wsi_seg.annotations.annotation import is_named
from wsi_seg.annotations.drawing import Drawing
from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, canonical_name
from wsi_seg.core.errors import DataError, OutputError, SlideError, UsageError
from wsi_seg.core.folders import is_there, walk_files
from wsi_seg.datasets.areas import annotated_boxes
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.names import NamedClasses
from wsi_seg.datasets.patients import PatientOf, patient_by_name
from wsi_seg.datasets.region import IGNORED, AnnotatedRegion, not_class
from wsi_seg.datasets.slide_region import SlideRegion, companions
from wsi_seg.execution.tasks import SlideRecipe
from wsi_seg.pipeline.export import manifest_part
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.review.places import journals_of, review_folder
from wsi_seg.review.results import slides_with_review
from wsi_seg.review.state import ReviewState
from wsi_seg.slides.readers import reopen_slide
from wsi_seg.slides.slide import SlideInfo, map_frame

# Classes that unmarked ground of a reviewed area may be, where the results have several kinds of regions.
BACKGROUNDS = ("background", "other")


@dataclass(frozen=True, slots=True)
class _Reviewed:
    """Results with a review, and their slide."""

    name: str
    path: Path
    slide: SlideInfo
    card: ModelCard
    traced: tuple[str, ...]
    """Groups and classes of which the run traced regions."""
    state: ReviewState
    journals: tuple[Path, ...]


class ReviewedSlides(Dataset, NamedClasses):
    """Results with a review, made by `wsi-seg view --allow-review` or `wsi-seg review import`.

    `folder` holds the results of a slide or of many; results without a verdict are passed over. Accepted
    and corrected regions are of their class. A rejected region is not of the class that it had. Unmarked
    ground of a reviewed area is background; all other ground is ignored. Of regions that overlap the one
    that was judged later wins.
    """

    kind: Literal["review"] = "review"
    reviews: Path | None = None
    """Folder of the reviews, relative to `folder`; None: that next to the results."""
    slides: Path | None = None
    """Folder, relative to `folder`, in or below which the slides lie now; None: where they were run."""
    background_class: str | None = None
    """Class of unmarked ground in reviewed areas. None: where the run traced one class or group, all that is
    not of it; else the model's class `background`, or `other`; without any such class it is ignored."""
    margin: int = Field(default=128, ge=0)
    """Map pixels around a reviewed place that belong to the region, so that crops show what lies around."""

    def regions(self, folder: Path, scheme: LabelScheme) -> Sequence[AnnotatedRegion]:
        regions = [region for one in self._reviewed(folder) for region in self._of_slide(one, scheme)]
        if not regions:
            raise DataError(
                f"{folder}: has no reviewed region with a pixel of {scheme.mpp:g} µm; review some first: "
                f"wsi-seg view {folder} --allow-review"
            )
        return sorted(regions, key=lambda region: region.name)

    def patient_finder(self, folder: Path) -> PatientOf:
        if self.patients is None:
            return patient_by_name
        if self.patients.pattern is None and self.slides is None:
            raise DataError(
                f"{self.name}: a table or folders of patients need slides: FOLDER, as they go by it"
            )
        return self.patients.finder(folder if self.slides is None else folder / self.slides)

    def _reviewed(self, folder: Path) -> Iterator[_Reviewed]:
        """Yield the slides that have a review, see `slides_with_review`."""
        try:
            given = None if self.reviews is None else folder / self.reviews
            reviews = review_folder(folder, given)
            if not reviews.is_dir():
                raise DataError(
                    f"{reviews}: no such folder of reviews; review the results first: "
                    f"wsi-seg view {folder} --allow-review"
                )
            for one in slides_with_review(folder, reviews):
                yield _Reviewed(
                    one.name,
                    self._find_slide(one.slide, folder),
                    one.slide,
                    manifest_part(ModelCard, one.manifest, one.folder, "model", "card"),
                    _traced(one.manifest, one.folder),
                    one.state,
                    tuple(journals_of(reviews, one.slide)),
                )
        except (OutputError, UsageError) as error:
            raise DataError(str(error)) from error

    def _find_slide(self, slide: SlideInfo, folder: Path) -> Path:
        """Return where the slide of results is, which is the very same; DataError where it is not found."""
        stated = Path(slide.path)
        found = [stated] if "://" not in slide.path and is_there(stated) else []
        if self.slides is not None:
            within = folder / self.slides
            direct = [within / stated.name] if is_there(within / stated.name) else []
            below = (
                [path for path in walk_files(within) if path.name == stated.name] if within.is_dir() else []
            )
            found = [*direct, *below, *found]
        problems = [
            f"{slide.path}: the slide is not there; --slides DIR (slides of a data set) says where it is"
        ]
        for path in dict.fromkeys(found):
            try:
                with reopen_slide(slide, path) as opened:
                    if opened.info.fingerprint == slide.fingerprint:
                        return path
                problems.append(
                    f"{path}: is another slide than the one that was reviewed; --slides DIR (slides of a "
                    "data set) says where that one is"
                )
            except SlideError as error:
                problems.append(str(error))
        raise DataError(problems[-1])

    def _of_slide(self, one: _Reviewed, scheme: LabelScheme) -> list[SlideRegion]:
        info = one.slide
        if info.mpp is None:
            raise DataError(
                f"{one.path}: its results do not say its microns per pixel; run it again with --mpp"
            )
        frame = map_frame(info, scheme.mpp)
        shapes, targets = self._drawn(one, scheme)
        known = [i for i, target in enumerate(targets) if target != IGNORED]
        if not known:
            return []
        per_l0 = np.array([1 / frame.l0_per_map.x, 1 / frame.l0_per_map.y])
        polygons_map = shapely.transform(np.array(shapes, object), lambda xy: xy * per_l0)
        boxes = annotated_boxes([polygons_map[i] for i in known], frame.box, self.margin)
        recipe = SlideRecipe(str(one.path), info.reader, info.mpp, series=info.series)
        drawing = Drawing.in_order(polygons_map, targets)
        files = (one.path, *companions(one.path), *one.journals)
        regions = [
            SlideRegion(f"{one.name}_x{box.x0}_y{box.y0}", one.name, recipe, frame, box, drawing, files=files)
            for box in boxes
        ]
        return [region for region in regions if region.is_labeled]  # not of outlines between pixels alone

    def _drawn(self, one: _Reviewed, scheme: LabelScheme) -> tuple[list[Any], list[int]]:
        """Return outlines in l0 pixels and their targets, of which the later wins.

        In a reviewed area a rejected region is background as all that is unmarked, so areas come after it.
        """
        drawn = [
            (shape, self._not(name, one, scheme)) for shape, name in one.state.rejected if name is not None
        ]
        ground = self._ground(one, scheme)
        areas = [area.geometry for area in one.state.areas if area.geometry is not None]
        drawn += [(area, ground) for area in areas if ground != IGNORED]
        drawn += [(shape, self._target(name, one, scheme)) for shape, name in one.state.marked]
        return [shape for shape, _ in drawn], [target for _, target in drawn]

    def _not(self, name: str, one: _Reviewed, scheme: LabelScheme) -> int:
        if self.known_class is None and not self._is_class(self._own_name(name, one, scheme), scheme):
            return IGNORED  # a class that the model lacks: that the ground is not of it says nothing
        target = self._target(name, one, scheme)
        if self.known_class is not None and target != scheme.channel(self.known_class, self.name):
            return IGNORED  # not this other class: it may be the known one
        return target if target < 0 else not_class(target)

    def _ground(self, one: _Reviewed, scheme: LabelScheme) -> int:
        """Return the target of unmarked ground in reviewed areas."""
        if self.background_class is not None:
            channel = scheme.channel(self.background_class, self.name)
            known = channel if self.known_class is None else scheme.channel(self.known_class, self.name)
            return channel if channel == known else not_class(known)
        if self.known_class is not None:
            return not_class(scheme.channel(self.known_class, self.name))
        if len(one.traced) == 1:
            return self._not(one.traced[0], one, scheme)
        names = [canonical_name(tissue.name) for tissue in scheme.classes]
        return next((names.index(name) for name in BACKGROUNDS if name in names), IGNORED)

    def _target(self, name: str, one: _Reviewed, scheme: LabelScheme) -> int:
        """Return the target of a class or group; of a group that is no class, of its first class."""
        options = ("class_names", "ignored_classes of a data set of kind review")
        own, what = self._own_name(name, one, scheme), f"{one.name}: a reviewed region"
        return self.target_of(own, scheme, what, self.known_class, options=options)

    def _own_name(self, name: str, one: _Reviewed, scheme: LabelScheme) -> str:
        """Return a name as the model has it: of a group that is no class, its first class."""
        channels = [canonical_name(tissue.name) for tissue in scheme.classes]
        group = next((g for g in one.card.class_groups if is_named(name, (g.name, g.qupath_name))), None)
        if group is None or is_named(name, (*self.class_names, *self.ignored_classes)):
            return name
        if canonical_name(group.name) in channels:
            return name
        own = [canonical_name(member) for member in _members(group, one.card)]
        return next((member for member in own if member in channels), name)


def _members(group: ClassGroup, card: ModelCard) -> list[str]:
    """Return the classes of a group, those that the model predicts first."""
    members = [tissue.name for tissue in card.tissue_classes if tissue.code in group.codes]
    assessed = [name for name in members if card.assessed is None or name in card.assessed]
    return [*assessed, *(name for name in members if name not in assessed)]


def _traced(manifest: dict[str, Any], results: Path) -> tuple[str, ...]:
    settings: RegionSettings = manifest_part(RegionSettings, manifest, results, "settings", "regions")
    return (*(settings.groups or ()), *settings.classes)
