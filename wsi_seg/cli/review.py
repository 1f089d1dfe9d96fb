"""The commands of `wsi-seg review`: its status, GeoJSON for QuPath and back, agreement of two reviewers."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from wsi_seg.cli.options import JsonOption, output_option
from wsi_seg.cli.output import say
from wsi_seg.core.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.review.results import ReviewedResults
    from wsi_seg.review.store import SlideReview

ReviewsOption = Annotated[
    str | None,
    typer.Option(metavar="DIR", help="Folder of the reviews; by default RESULTS-review next to RESULTS."),
]
# Verdicts without a region that the status of a slide lists.
MOST_LISTED = 20
SlideArgument = Annotated[Path, typer.Argument(help="Folder of the results of one slide.")]


def review(context: typer.Context) -> int | None:
    """Review of regions: status, export, import, agreement.

    Regions are reviewed in `wsi-seg view RESULTS --allow-review`, or in QuPath. Reviews are kept next to the
    results, one folder for each slide; results are never changed.
    """
    if context.invoked_subcommand is None:
        say(context.get_help())
    return None if context.invoked_subcommand is not None else 0


def status(
    results: Annotated[Path, typer.Argument(help="Folder of all results, or of those of one slide.")],
    reviews: ReviewsOption = None,
    json_: JsonOption = False,
) -> int:
    """Show for each slide how many regions were reviewed, by verdict and reviewer.

    Verdicts on other results of a slide, as of another model, count for regions of the same class that
    overlap by IoU 0.5; those without such a region are listed.
    """
    from wsi_seg.review.places import review_folder
    from wsi_seg.review.results import find_reviewed, open_reviewed
    from wsi_seg.review.store import ReviewStore

    store = ReviewStore(review_folder(results, reviews))
    rows = []
    for folder in find_reviewed(results):
        reviewed = open_reviewed(folder)
        row = _status_of(reviewed, store.read(reviewed.slide))
        rows.append({"folder": str(folder), **row})
        if not json_:
            say(_status_lines(rows[-1]))
    if json_:
        say(json.dumps(rows, indent=2, ensure_ascii=False))
    return 0


def _status_of(reviewed: ReviewedResults, found: SlideReview) -> dict[str, Any]:
    from wsi_seg.review.carry import RegionKeys, carry_over
    from wsi_seg.review.state import fold

    state = fold(found.entries)
    carried = carry_over(state, RegionKeys(reviewed.regions))
    on_regions = [one.decision for one in carried.verdicts.values()]
    present = [*on_regions, *carried.drawn]
    mpp = reviewed.slide.mpp
    um2 = mpp.x * mpp.y if mpp is not None else float("nan")
    areas = [area.geometry.area for area in state.areas if area.geometry is not None]
    by = Counter(entry.reviewer for decision in present for entry in decision.entries)
    return {
        "slide": reviewed.slide.name,
        "regions": len(reviewed.regions.ids),
        "reviewed": len(on_regions),
        "verdicts": dict(Counter(decision.final.verdict for decision in present)),
        "reviewers": dict(sorted((by + Counter(dict.fromkeys(state.reviewers, 0))).items())),
        "disputed": sum(decision.disputed for decision in present),
        "reviewed_areas": len(areas),
        "reviewed_mm2": round(sum(areas) * um2 / 1e6, 4) if mpp is not None else None,
        "carried": sum(one.iou < 1 for one in carried.verdicts.values()),
        "not_carried": [
            {
                "region": one.decision.final.region,
                "verdict": one.decision.final.verdict,
                "reviewer": one.decision.final.reviewer,
                "reason": one.reason,
            }
            for one in carried.lost
        ],
        "notes": list(found.notes),
    }


def _status_lines(row: dict[str, Any]) -> str:
    verdicts = ", ".join(f"{count} {name}" for name, count in sorted(row["verdicts"].items()))
    lines = [
        f"{row['folder']}: {row['reviewed']} of {row['regions']} regions reviewed"
        + (f" ({verdicts})" if verdicts else "")
    ]
    if row["reviewers"]:
        lines.append("reviewers: " + ", ".join(f"{name} {count}" for name, count in row["reviewers"].items()))
    if row["disputed"]:
        lines.append(f"{row['disputed']} disputed: reviewers differ, and the latest verdict counts")
    if row["reviewed_areas"]:
        size = "" if row["reviewed_mm2"] is None else f", {row['reviewed_mm2']:g} mm²"
        lines.append(f"{row['reviewed_areas']} reviewed area{'s' * (row['reviewed_areas'] > 1)}{size}")
    if row["carried"]:
        lines.append(f"{row['carried']} carried over from other results by overlap")
    for one in row["not_carried"][:MOST_LISTED]:
        said = f"{one['verdict']} by {one['reviewer']}"
        lines.append(f"not carried over: {one['region']} ({said}): {one['reason']}")
    if (more := len(row["not_carried"]) - MOST_LISTED) > 0:
        lines.append(f"not carried over: {more} more, which --json lists")
    return "\n  ".join([*lines, *row["notes"]])


def export_(
    results: SlideArgument,
    output: Annotated[Path, output_option("A .geojson or .geojson.gz file to write.")],
    reviews: ReviewsOption = None,
    verdicts: Annotated[
        str,
        typer.Option(
            help="Comma-separated: accepted, rejected, relabeled, redrawn, added, reviewed-area; default all."
        ),
    ] = "",
    origin: Annotated[
        str, typer.Option(help="Positions count from the slide's bounds, as in QuPath, or from level0.")
    ] = "bounds",
) -> int:
    """Write the review of a slide as GeoJSON for QuPath.

    Rejected regions have the class Ignore*, and reviewed areas Region*.
    """
    from typing import cast, get_args

    from wsi_seg.core.geometry import Origin
    from wsi_seg.review.entries import Verdict
    from wsi_seg.review.exchange import write_review
    from wsi_seg.review.state import fold

    chosen = [part.strip() for part in verdicts.split(",") if part.strip()]
    known = [name for name in get_args(Verdict) if name != "revoked"]
    if unknown := [name for name in chosen if name not in known]:
        raise UsageError(f"--verdicts {unknown[0]}: must be of {', '.join(known)}")
    reviewed, found = _open(results, reviews)
    counts = write_review(
        fold(found.entries), reviewed, output, origin=cast(Origin, origin), verdicts=cast(Any, chosen)
    )
    say("\n".join([f"{output}: {_counted(counts)}", *found.notes]))
    return 0


def import_(
    results: SlideArgument,
    file: Annotated[Path, typer.Argument(help="GeoJSON that QuPath has saved.")],
    reviewer: Annotated[str, typer.Option(help="Name of who made the changes.")],
    reviews: ReviewsOption = None,
    accept_unchanged: Annotated[
        bool, typer.Option("--accept-unchanged", help="Accept regions that were not changed.")
    ] = False,
    reject_missing: Annotated[
        bool, typer.Option("--reject-missing", help="Reject regions that were deleted from FILE.")
    ] = False,
) -> int:
    """Add what was changed in QuPath to the review of a slide.

    Annotations are known by their ids: another class relabels a region, another outline redraws it, the class
    Ignore* rejects it, new annotations are added, and those of class Region* are reviewed areas. Importing a
    file again adds nothing.
    """
    from pydantic import TypeAdapter, ValidationError

    from wsi_seg.review.entries import Reviewer
    from wsi_seg.review.exchange import read_edits
    from wsi_seg.review.places import review_folder
    from wsi_seg.review.state import fold
    from wsi_seg.review.store import ReviewStore

    try:
        name = TypeAdapter(Reviewer).validate_python(reviewer)
    except ValidationError as error:
        raise UsageError(f"--reviewer {reviewer!r}: {error.errors()[0]['msg']}") from error
    reviewed, found = _open(results, reviews)
    edits = read_edits(
        file, reviewed, fold(found.entries), name,
        accept_unchanged=accept_unchanged, reject_missing=reject_missing,
    )  # fmt: skip
    ReviewStore(review_folder(results, reviews)).append(reviewed.slide, edits.entries)
    lines = [f"{file}: {_counted(Counter(entry.verdict for entry in edits.entries))}"]
    lines.append(f"{edits.unchanged} annotations say nothing new")
    if edits.unclassified:
        lines.append(f"{edits.unclassified} without a class, or new ones of class Ignore*, are left out")
    if edits.objects:
        lines.append(
            f"{edits.objects} cells, detections and other objects that are no annotations are left out"
        )
    if edits.missing and not reject_missing:
        lines.append(
            f"{edits.missing} regions are not in the file; "
            "--reject-missing rejects them, as for regions that were deleted in QuPath"
        )
    say("\n  ".join(lines))
    return 0


def agreement(
    results: SlideArgument,
    first: Annotated[str, typer.Argument(help="Name of a reviewer.")],
    second: Annotated[str, typer.Argument(help="Name of another reviewer.")],
    reviews: ReviewsOption = None,
    json_: JsonOption = False,
) -> int:
    """Show how two reviewers of a slide agree: Cohen's kappa of verdicts, Dice of areas by class."""
    from wsi_seg.review.agreement import agreement as agreement_of
    from wsi_seg.review.state import fold

    reviewed, found = _open(results, reviews)
    names = fold(found.entries).reviewers
    for name in (first, second):
        if name not in names:
            raise UsageError(f"{results}: no review by {name!r}; reviewers are {', '.join(names) or 'none'}")
    compared = agreement_of(fold(found.entries, first), fold(found.entries, second)).to_json()
    if json_:
        say(json.dumps({"slide": reviewed.slide.name, **compared}, indent=2, ensure_ascii=False))
        return 0
    kappa = "not defined" if compared["kappa"] is None else f"{compared['kappa']:.3f}"
    lines = [f"{compared['same']} of {compared['regions']} regions alike; Cohen's kappa {kappa}"]
    lines += [f"Dice {name}: {value:.3f}" for name, value in compared["dice"].items()]
    say("\n".join(lines))
    return 0


def _open(results: Path, reviews: str | None) -> tuple[ReviewedResults, SlideReview]:
    from wsi_seg.review.places import review_folder
    from wsi_seg.review.results import open_reviewed
    from wsi_seg.review.store import ReviewStore

    reviewed = open_reviewed(results)
    return reviewed, ReviewStore(review_folder(results, reviews)).read(reviewed.slide)


def _counted(counts: Counter[Any]) -> str:
    return ", ".join(f"{count} {name}" for name, count in sorted(counts.items())) or "nothing new"


# Commands of the group, in the order of its help.
COMMANDS: tuple[Callable[..., int], ...] = (status, export_, import_, agreement)
