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
    store = ReviewStore(folder)
    begun, done, total = False, 0, 0
    for one in find_reviewed(results):
        reviewed = open_reviewed(one)
        entries = store.read(reviewed.slide).entries
        begun = begun or bool(entries)
        done += len(carry_over(fold(entries), RegionKeys(reviewed.regions)).verdicts)
        total += len(reviewed.regions.ids)
    return f"{done:,} of {total:,} regions reviewed" if begun else ""
