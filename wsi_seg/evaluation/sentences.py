"""Sentences that keep the figures from being misread."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any


def explain_accuracy(result: dict[str, Any]) -> str:
    """Return the sentence on the one-against-rest accuracy; "" where it says nothing new."""
    classes, overall = len(result["classes"]), result["overall"]
    accuracy, against_rest = overall["pixel_accuracy"], overall["one_against_rest_accuracy"]
    if accuracy is None or classes < 3 or not all(map(_assessed, result["classes"])):
        return ""
    return (
        f"{100 * accuracy:.1f} % of the pixels have the right class. The one-against-rest accuracy of the "
        f"same labels is {100 * against_rest:.1f} %: it is the mean of (TP + TN) / N over {classes} classes, "
        "and looks high because a wrong pixel is wrong for two classes and counts as right for the other "
        f"{classes - 2}. It is given because many reports print it as their accuracy."
    )


def explain_unassessed(level: dict[str, Any]) -> list[str]:
    """Return the sentence on rows that the model does not assess; none where it assesses all."""
    rows = [row for row in level["classes"] if not _assessed(row)]
    if not rows:
        return []
    share = sum(row["share"] or 0 for row in rows)
    return [
        f"Not assessed by the model, for lack of training data, and so without scores and in no mean: "
        f"{_listed(row['name'] for row in rows)}. {100 * share:.1f} % of the known pixels are of them; pixel "
        "accuracy and the precision of other classes count these as wrong."
    ]


def _assessed(row: dict[str, Any]) -> bool:
    return bool(row.get("assessed", True))


def explain_missing(level: dict[str, Any], what: str) -> list[str]:
    """Return sentences on what the truth lacks, so that scores of it would say nothing or cannot be given.

    Args:
        level: with the rows as `classes`, each with `name`, and `pixels` or `images` of it in the truth.
        what: the rows are, such as "classes".
    """
    rows = level["classes"]
    unit = "images" if rows and "pixels" not in rows[0] else "pixels"
    present = [row["name"] for row in rows if row[unit]]
    absent = [row for row in rows if not row[unit] and _assessed(row)]
    if not present:
        return [f"No scores: the truth has no known {unit}."]
    if len(present) == 1:
        others = _listed(row["name"] for row in absent) or f"other {what}"
        return [
            f"No scores: all known {unit} of this truth are {_plain(present[0])}, none are {others}. Without "
            f"them a model that calls everything {_plain(present[0])} would look perfect."
        ]
    if not absent:
        return []
    called = _listed(row["name"] for row in absent if row.get("predicted_pixels"))
    return [
        f"Not in this truth, and so without scores: {_listed(row['name'] for row in absent)}."
        + (f" Predicted nevertheless: {called}." if called else "")
    ]


def _listed(names: Iterable[str]) -> str:
    return ", ".join(map(_plain, names))


def _plain(name: str) -> str:
    return name.replace("_", " ")


def explain_rows(result: dict[str, Any]) -> list[str]:
    """Return the sentences on how the tables count."""
    sentences = [
        "Dice (the same as F1), IoU and the other scores of a class are pooled: true and false pixels are "
        "summed over all images first, so that large images weigh more. The mean over images takes the score "
        "of each image that has the class; papers on ultrasound and other small images usually print that.",
        "Macro is the mean over the classes that have a value, rare ones as much as common ones. Micro sums "
        "true and false pixels over the classes first; where every pixel gets one class, micro precision, "
        "recall and Dice all equal the pixel accuracy.",
        "Areas under the curves and average precision rank the probabilities of one class against all other "
        "known pixels; they do not depend on a threshold.",
        result["intervals"],
    ]
    sentences += result["missing"]
    if result["class_groups"]:
        sentences.append(
            "A group's label is that of its most probable class; its probability is the sum over its classes."
        )
    return sentences
