"""How far the review of results is, as reports say it."""

from __future__ import annotations

from pathlib import Path

from wsi_seg.core.errors import OutputError
from wsi_seg.review.carry import RegionKeys, carry_over
from wsi_seg.review.places import review_folder
from wsi_seg.review.results import find_reviewed, open_reviewed
from wsi_seg.review.state import fold
from wsi_seg.review.store import ReviewStore


def describe_review(results: Path, reviews: Path | str | None = None) -> str:
    """Return how many regions were reviewed, such as "37 of 120 regions reviewed"; "" where none was begun.

    Of several results of one slide, as those of a retrained model in a folder below, those count whose model
    most verdicts were given on, else the ones nearest to the top.

    Args:
        results: folder of the results of a slide, or of many, which are counted together.
        reviews: folder of the reviews; None: that next to the results, if there is one.

    Raises:
        OutputError: `reviews` is no folder, or results or a journal are damaged.
        UsageError: the folder of reviews is at a URL or in the results of a slide.
    """
    folder = review_folder(results, reviews)
    if not folder.is_dir():
        if reviews is not None:
            raise OutputError(f"{folder}: no such folder of reviews")
        return ""
    store, begun = ReviewStore(folder), False
    counted: dict[str, tuple[int, int, int]] = {}
    for one in sorted(find_reviewed(results), key=lambda folder: len(folder.parts)):
        reviewed = open_reviewed(one)
        entries = store.read(reviewed.slide).entries
        here = sum(entry.model == reviewed.model for entry in entries)
        before = counted.get(reviewed.slide.fingerprint)
        if before is None or here > before[0]:
            done = len(carry_over(fold(entries), RegionKeys(reviewed.regions)).verdicts)
            counted[reviewed.slide.fingerprint] = here, done, len(reviewed.regions.ids)
        begun = begun or bool(entries)
    done, total = (sum(count[i] for count in counted.values()) for i in (1, 2))
    return f"{done:,} of {total:,} regions reviewed" if begun else ""
