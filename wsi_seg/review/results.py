"""Results as a review needs them: the slide, the classes that a reviewer may give, and the regions."""

from __future__ import annotations

import uuid
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.annotations.annotation import is_named
from wsi_seg.core.card import ModelCard
from wsi_seg.core.classes import ClassGroup, canonical_name
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.exporters.placed import ID_NAMESPACE
from wsi_seg.pipeline.export import manifest_part
from wsi_seg.pipeline.qupath.regions import finished_results
from wsi_seg.results.files import MANIFEST, POLYGONS, read_record
from wsi_seg.results.region_files import Regions
from wsi_seg.results.saved_regions import open_regions
from wsi_seg.review.entries import geometry_hash, snapped
from wsi_seg.review.state import ReviewState, fold
from wsi_seg.review.store import ReviewStore
from wsi_seg.slides.slide import SlideInfo


@dataclass(frozen=True)
class ReviewedResults:
    """Finished results of one slide."""

    folder: Path
    slide: SlideInfo
    model: str
    """Digest of the model."""
    groups: tuple[ClassGroup, ...]
    """Groups of the model, then its classes: what a reviewer may call a region."""
    regions: Regions
    """In the order of the file of regions."""


@dataclass(frozen=True)
class SlideWithReview:
    """A slide that was reviewed, and those of its results that the review is about."""

    name: str
    """Place of the results in the folder of all results; the slide's name where they are that folder."""
    folder: Path
    """The results."""
    slide: SlideInfo
    manifest: dict[str, Any]
    state: ReviewState


def region_id(regions: Regions, index: int) -> str:
    """Return the id of a region; of one without an id in its file, a UUID of its outline."""
    known = regions.ids[index]
    return known or str(uuid.uuid5(ID_NAMESPACE, geometry_hash(regions.shapes[index])))


def region_values(regions: Regions, index: int) -> dict[str, Any]:
    """Return the values of a `ReviewEntry` on a region of results that are facts of the region."""
    return {
        "region": region_id(regions, index),
        "region_hash": geometry_hash(regions.shapes[index]),
        "region_class": regions.groups[regions.group[index]].name,
        "geometry": snapped(regions.shapes[index]),
    }


def nameable(groups: Iterable[ClassGroup], classes: Iterable[ClassGroup]) -> tuple[ClassGroup, ...]:
    """Return groups, then classes of other names: all that a reviewer may call a region."""
    found: dict[str, ClassGroup] = {}
    for group in (*groups, *classes):
        found.setdefault(canonical_name(group.name), group)
    return tuple(found.values())


def group_named(name: str, groups: Iterable[ClassGroup]) -> ClassGroup:
    """Return the first group or class of a name, as our files or QuPath spell it; raises UsageError."""
    groups = tuple(groups)
    for group in groups:
        if is_named(name, (group.name, group.qupath_name)):
            return group
    known = ", ".join(dict.fromkeys(group.qupath_name for group in groups))
    raise UsageError(f"unknown class {name[:80]!r}; the model has {known}")


def open_reviewed(folder: Path) -> ReviewedResults:
    """Open finished results of one slide.

    Raises:
        OutputError: it holds none, or they are damaged.
    """
    if not (folder / MANIFEST).is_file():
        raise OutputError(
            f"{folder}: holds no finished results of a slide; give the folder of one, such as results/slide"
        )
    manifest = read_record(folder / MANIFEST)
    card: ModelCard = manifest_part(ModelCard, manifest, folder, "model", "card")
    slide: SlideInfo = manifest_part(SlideInfo, manifest, folder, "slide")
    classes = (ClassGroup(c.name, (c.code,), c.color) for c in card.tissue_classes)
    path = next((p for p in (folder / POLYGONS, folder / f"{POLYGONS}.gz") if p.is_file()), folder / POLYGONS)
    return ReviewedResults(
        folder,
        slide,
        manifest_part(str, manifest, folder, "model", "digest"),
        nameable(card.class_groups, classes),
        open_regions(path, slide.bounds, card.class_groups),
    )


def find_reviewed(results: Path) -> Iterator[Path]:
    """Yield the folders of the finished results in and below a folder.

    Raises:
        OutputError: there are none.
    """
    found = list(finished_results(results))
    if not found:
        raise OutputError(f"{results}: holds no finished results; run wsi-seg run SLIDE -o {results} first")
    yield from found


def slides_with_review(results: Path, reviews: Path) -> list[SlideWithReview]:
    """Return the reviewed slides of a folder of results, in the order of their folders.

    Of several results of one slide those are meant whose model most verdicts were given on, or the first.

    Args:
        results: folder of all results, or that of one slide.
        reviews: folder of the reviews, see `places.review_folder`.

    Raises:
        OutputError: there are no finished results, or results or journals are damaged.
    """
    store, found = ReviewStore(reviews), dict[str, list[tuple[int, SlideWithReview]]]()
    for folder in find_reviewed(results):
        manifest = read_record(folder / MANIFEST)
        slide: SlideInfo = manifest_part(SlideInfo, manifest, folder, "slide")
        entries = store.read(slide).entries
        state = fold(entries)
        if not (state.decisions or state.areas):
            continue
        inner = folder.relative_to(results).as_posix()
        one = SlideWithReview(slide.name if inner == "." else inner, folder, slide, manifest, state)
        models = Counter(entry.model for entry in entries)
        digest: str = manifest_part(str, manifest, folder, "model", "digest")
        found.setdefault(slide.fingerprint, []).append((models[digest], one))
    return [max(several, key=lambda known: known[0])[1] for several in found.values()]
