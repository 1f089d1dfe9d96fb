"""Scores as plain values for metrics.json; what is not defined is None, never 0 or 1."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from wsi_seg.datasets.patients import UNKNOWN_PATIENTS
from wsi_seg.evaluation.calibration import calibration_table
from wsi_seg.evaluation.intervals import (
    LEAST_GROUPS,
    LEVEL,
    RESAMPLES,
    SEED,
    Intervals,
    bootstrap,
    class_scores,
    overall_scores,
    single_row,
)
from wsi_seg.evaluation.metrics import BRIEF_SCORES, Counts, count_classes, mean_score, rank_scores, rounded
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.section import ImageLabel, ImageTally, Section, sum_tallies
from wsi_seg.evaluation.sentences import explain_missing, explain_unassessed
from wsi_seg.evaluation.tally import Tally

Table = dict[str, Any]
THIS_MODEL = "this model"


def section_table(section: Section, labels: Sequence[str]) -> Table:
    """Return all scores of a data set; `labels` are the model's classes of whole images."""
    groups = list(section.by_group.values())
    independent = groups if section.patients_known else []
    scored = single_row(section.tallies[0].counts) is None
    levels = []
    for index, rows in enumerate(section.rows):
        limits = bootstrap([tallies[index] for tallies in independent], assessed=rows.assessed)
        images = [image.counts[index] for image in section.images]
        levels.append(_level(section.tallies[index], rows, images, limits))
    classes, *of_groups = levels
    return {
        "name": section.name,
        "notes": list(section.notes),
        "images": len(section.images),
        "groups": len(groups),
        "patients": len(groups) if section.patients_known else None,
        "files": section.files,
        "files_sha256": section.digest,
        "pixels": int(section.tallies[0].counts.total),
        "intervals": interval_note(len(groups) if section.patients_known else None),
        "missing": _missing(levels),
        **classes,
        "class_groups": of_groups[0] if of_groups else None,
        "per_group": [_brief_group(section, name, scored) for name in section.by_group],
        "per_image": [_brief_image(image, section.rows[0], scored) for image in section.images],
        "image_labels": _label_table(section, labels) if section.labels else None,
        "calibration": calibration_table(section.reliability) if section.reliability and scored else None,
        "baselines": _baseline_tables(section),
        "seconds": round(section.seconds, 1),
    }


def _missing(levels: Sequence[Table]) -> list[str]:
    """Return what the truth lacks of the classes, and of the groups where that is all but one of these."""
    classes, *groups = (
        explain_missing(level, what) for level, what in zip(levels, ("classes", "groups"), strict=False)
    )
    blank = [level["overall"]["pixel_accuracy"] is None for level in levels]
    unassessed = explain_unassessed(levels[0])
    return unassessed + classes + [text for texts in groups for text in texts if blank[1] and not blank[0]]


def interval_note(patients: int | None) -> str:
    """Return the sentence on confidence intervals; the number of patients is None where they are unknown."""
    if patients is None:
        return (
            f"No confidence interval is given ({UNKNOWN_PATIENTS}). With `patients` a data set says which "
            "images are of one patient."
        )
    if patients < LEAST_GROUPS:
        return (
            f"No confidence interval can be given: that takes at least {LEAST_GROUPS} patients, to see how "
            f"much they differ, and the number here is {patients}."
        )
    return (
        f"{100 * LEVEL:.0f} % confidence intervals: bootstrap over {patients} patients, expanded "
        f"percentiles of {RESAMPLES} resamples, seed {SEED}; none for classes that "
        f"fewer than {LEAST_GROUPS} of them have."
    )


def _level(tally: Tally, rows: Rows, images: Sequence[Counts], limits: Intervals | None) -> Table:
    """Return the scores of one choice of rows, each and all together; of a single row in the truth, none."""
    counts = tally.counts
    scored = single_row(counts) is None
    limits = limits if scored else None
    scores = class_scores(tally, rows.assessed)
    table = []
    for k, name in enumerate(rows.names):
        assessed = k not in rows.unassessed
        table.append(
            {
                "name": name,
                "color": list(rows.colors[k]),
                "pixels": int(counts.support[k]),
                "share": rounded(counts.support[k] / counts.total if counts.total else np.nan),
                "predicted_pixels": int(counts.predicted[k]),
                **{score: rounded(values[k]) for score, values in scores.items()},
                "images": sum(int(image.support[k] > 0) for image in images),
                "dice_mean_over_images": _mean([image.dice[k] for image in images], scored and assessed),
                "iou_mean_over_images": _mean([image.iou[k] for image in images], scored and assessed),
                "intervals": None if limits is None else _row_limits(limits, k),
                **({} if assessed else {"assessed": False}),
            }
        )
    means = overall_scores(counts, rows.assessed)
    overall = {name: rounded(value) if scored else None for name, value in means.items()}
    overall["macro_roc_auc"] = rounded(mean_score(tally.scores.roc_auc[rows.assessed]))
    return {
        "overall": overall,
        "overall_intervals": None if limits is None else _pairs(limits.overall),
        "classes": table,
        "confusion": {
            "truth": list(counts.names),
            "predicted": [*counts.names, "none of these"],
            "matrix": counts.matrix.tolist(),
        },
    }


def _mean(values: Sequence[float], scored: bool) -> float | None:
    return rounded(mean_score(np.array(values))) if scored else None


def _row_limits(limits: Intervals, k: int) -> Table | None:
    return _pairs({name: values[k] for name, values in limits.classes.items()})


def _pairs(limits: dict[str, NDArray[np.float64]]) -> Table | None:
    """Return [lower, upper] of the scores that have limits; None when none has."""
    pairs = {
        name: [rounded(pair[0]), rounded(pair[1])] for name, pair in limits.items() if not np.isnan(pair[0])
    }
    return pairs or None


def _brief(tally: Tally, k: int) -> Table:
    scores = class_scores(tally)
    return {name: rounded(scores[name][k]) for name in BRIEF_SCORES}


def _at_half(tally: Tally, k: int) -> Table:
    """Return the scores of one class against the rest, called at a probability of 0.5 as regions are."""
    counts = tally.scores.at_half(k)
    if single_row(counts) is not None:
        return dict.fromkeys(BRIEF_SCORES)
    scores = {name: getattr(counts, name)[0] for name in BRIEF_SCORES if name != "roc_auc"}
    return {name: rounded({**scores, "roc_auc": tally.scores.roc_auc[k]}[name]) for name in BRIEF_SCORES}


def _brief_group(section: Section, group: str, scored: bool) -> Table:
    tally, rows = section.by_group[group][0], section.rows[0]
    counts = tally.counts
    overall = overall_scores(counts, rows.assessed)
    return {
        "name": group,
        "images": sum(image.group == group for image in section.images),
        "pixels": int(counts.total),
        **{
            name: rounded(overall[name]) if scored else None
            for name in ("pixel_accuracy", "macro_dice", "macro_iou")
        },
        "classes": {
            counts.names[k]: _brief(tally, k)
            for k in np.flatnonzero(rows.assessed & (counts.support > 0)).tolist()
        },
    }


def _brief_image(image: ImageTally, rows: Rows, scored: bool) -> Table:
    counts = image.counts[0]
    return {
        "name": image.name,
        "group": image.group,
        "pixels": int(counts.total),
        "pixel_accuracy": rounded(counts.accuracy) if scored else None,
        "classes": {
            counts.names[k]: {
                name: rounded(getattr(counts, name)[k]) if scored else None for name in ("dice", "iou")
            }
            for k in np.flatnonzero(rows.assessed & (counts.support > 0)).tolist()
        },
    }


def _baseline_tables(section: Section) -> list[Table]:
    """Return, for each class that has baselines, the model's scores next to theirs."""
    names = section.rows[0].names
    tables: list[Table] = []
    for class_name in dict.fromkeys(baseline.class_name for baseline in section.baselines):
        row = names.index(class_name)
        rivals = [b for b in section.baselines if b.class_name == class_name]
        whole = {b.name: _brief(sum_tallies(b.by_group.values(), ())[0], 0) for b in rivals}
        tables.append(
            {
                "class": class_name,
                "scores": {THIS_MODEL: _at_half(section.tallies[0], row), **whole},
                "per_group": [
                    {
                        "name": group,
                        "scores": {
                            THIS_MODEL: _at_half(tallies[0], row),
                            **{b.name: _brief(b.by_group[group][0], 0) for b in rivals},
                        },
                    }
                    for group, tallies in section.by_group.items()
                ],
            }
        )
    return tables


def _label_table(section: Section, names: Sequence[str]) -> Table:
    """Return how well whole images are classified: the label with the highest mean over an image's tiles."""
    labels = section.labels
    by_group: dict[str, list[ImageLabel]] = {}
    for label in labels:
        by_group.setdefault(label.group, []).append(label)
    parts = by_group.values() if section.patients_known else ()
    groups = [_label_tally(part, names) for part in parts]
    whole = _label_tally(labels, names)
    counts, auc = whole.counts, rank_scores(*_truth_and_scores(labels), tuple(names)).roc_auc
    scored = single_row(counts) is None
    limits = bootstrap(groups) if scored else None
    kept = {"pixel_accuracy": "accuracy", "macro_recall": "balanced_accuracy", "macro_dice": "macro_f1"}
    overall = overall_scores(counts)
    pairs = {} if limits is None else _pairs({new: limits.overall[old] for old, new in kept.items()})
    columns = {"precision": counts.precision, "recall": counts.recall, "f1": counts.dice, "roc_auc": auc}
    rows = [
        {
            "name": name,
            "images": int(counts.support[k]),
            **{column: rounded(values[k]) if scored else None for column, values in columns.items()},
        }
        for k, name in enumerate(names)
    ]
    return {
        "images": len(labels),
        "overall": {new: rounded(overall[old]) if scored else None for old, new in kept.items()},
        "overall_intervals": pairs or None,
        "missing": explain_missing({"classes": rows}, "labels of images"),
        "classes": rows,
        "confusion": {
            "truth": list(names),
            "predicted": [*names, "none of these"],
            "matrix": counts.matrix.tolist(),
        },
        "per_image": [_labeled_image(label, names) for label in labels],
    }


def _labeled_image(label: ImageLabel, names: Sequence[str]) -> Table:
    return {
        "name": label.name,
        "group": label.group,
        "truth": names[label.truth],
        "predicted": names[int(label.probabilities.argmax())],
        "probabilities": [rounded(p) for p in label.probabilities],
    }


def _truth_and_scores(labels: Sequence[ImageLabel]) -> tuple[NDArray[np.uint8], NDArray[np.float32]]:
    truth = np.array([label.truth for label in labels], np.uint8)
    return truth, np.stack([label.probabilities for label in labels], axis=1).astype(np.float32)


def _label_tally(labels: Sequence[ImageLabel], names: Sequence[str]) -> Tally:
    truth, scores = _truth_and_scores(labels)
    predicted = scores.argmax(axis=0).astype(np.uint8)
    counts = count_classes(truth, predicted, tuple(range(len(names))), tuple(names))
    # The bootstrap takes labels alone: ranks of different groups do not add up.
    return Tally(counts, rank_scores(truth, np.zeros_like(scores), tuple(names)))
