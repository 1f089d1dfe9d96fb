"""Two models on the same regions: how much better the new one is, and whether that can be told.

The bootstrap over patients is paired: each resample draws the same patients for both models, and the interval
is one of the difference (Efron & Tibshirani 1993, chapter 8), widened for few patients. The new model is
called better only where the interval of the mean Dice lies above zero, and of five patients or more: all of
fewer improve by chance too often (all of three in one of eight cases), which no interval shows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from wsi_seg.datasets.patients import UNKNOWN_PATIENTS
from wsi_seg.evaluation.evaluation import Evaluation
from wsi_seg.evaluation.intervals import (
    LEAST_GROUPS,
    LEVEL,
    RESAMPLES,
    SEED,
    StackedTallies,
    draw_groups,
    expanded_level,
    percentile_limits,
    single_row,
)
from wsi_seg.evaluation.metrics import Counts, mean_score, rounded
from wsi_seg.evaluation.section import Section

Verdict = Literal["better", "worse", "no difference shown", "cannot be told"]
Values = NDArray[np.float64]
CLASS_SCORES = ("dice", "mcc", "false_share")
OVERALL_SCORES = ("mean_dice", "mean_mcc", "calibration_error")
# With so many patients all improve by chance in one of 32 cases.
LEAST_FOR_BETTER = 5
CALIBRATION_BINS = slice(0, 1)  # the first temperature is the model's own


@dataclass(frozen=True, slots=True)
class Comparison:
    """Comparison of two models."""

    verdict: Verdict
    sentence: str
    """The verdict in a sentence, with its reason."""
    data_sets: tuple[dict[str, Any], ...]
    """JSON values of each data set, the reviewed one first."""

    def to_json(self) -> dict[str, Any]:
        """Return the content of comparison.json without the names of the models."""
        bootstrap = {"level": LEVEL, "resamples": RESAMPLES, "seed": SEED, "paired": True, "expanded": True}
        return {
            "verdict": self.verdict,
            "sentence": self.sentence,
            "bootstrap": bootstrap,
            "data_sets": list(self.data_sets),
        }


def not_compared(reason: str) -> Comparison:
    """Return the comparison of models for which there is nothing held out."""
    return Comparison("cannot be told", f"Whether the new model is better cannot be told: {reason}.", ())


def compare(old: Evaluation, new: Evaluation, first: str) -> Comparison:
    """Compare two evaluations on the same data.

    Args:
        old: of the model to start from.
        new: of the model made from it.
        first: name of the data set that decides; the others can only show that the new model is worse. Of
            several tables of it, as annotations of its regions tell different classes apart, the one of most
            patients decides.
    """
    olds = {section.name: section for section in old.sections}
    pairs = [(olds[section.name], section) for section in new.sections if section.name in olds]
    pairs.sort(key=lambda pair: not _is_of(first, pair[1].name))
    tables = tuple(_compared(*pair) for pair in pairs)
    deciding = [table for table in tables if _is_of(first, table["name"])]
    if not deciding:
        return Comparison("cannot be told", f"Nothing of {first} was held out, so nothing decides.", tables)
    worse = next((table for table in tables if table["verdict"] == "worse"), None)
    chosen = worse or max(deciding, key=lambda table: (table["patients"] or 0, table["images"]))
    return Comparison(chosen["verdict"], f"{chosen['name']}: {chosen['sentence']}", tables)


def _is_of(data_set: str, section: str) -> bool:
    """Return whether a section is of a data set, see `choice.choose_regions`."""
    return section == data_set or section.startswith(f"{data_set}: ")


def _compared(old: Section, new: Section) -> dict[str, Any]:
    rows = new.rows[0]
    # A class that one model cannot predict counts for both, or the model that can would be at a disadvantage.
    scored = old.rows[0].assessed | rows.assessed
    if rows.rest_of is not None:
        scored = np.arange(len(rows.names)) == 0
    groups = sorted(new.by_group)
    parts = [_Groups(section, groups, scored) for section in (old, new)]
    ones = np.ones(len(groups))
    values = [part.scores(ones) for part in parts]
    limits = _limits(parts, groups) if new.patients_known and len(groups) >= LEAST_GROUPS else None
    verdict, sentence = _verdict(new, values, limits)
    support = new.tallies[0].counts.support
    if limits is not None:
        rare = sum(new.by_group[group][0].counts.support > 0 for group in groups) < LEAST_GROUPS
        for score in CLASS_SCORES:
            limits[score][rare] = np.nan

    def told(score: str, k: int) -> dict[str, Any]:
        before, after = (float(value[score][k]) for value in values)
        pair = None if limits is None or np.isnan(limits[score][k]).any() else limits[score][k]
        return {
            "old": rounded(before),
            "new": rounded(after),
            "difference": rounded(after - before),
            "interval": None if pair is None else [rounded(pair[0]), rounded(pair[1])],
        }

    return {
        "name": new.name,
        "patients": len(groups) if new.patients_known else None,
        "images": len(new.images),
        "verdict": verdict,
        "sentence": sentence,
        "overall": {score: told(score, 0) for score in OVERALL_SCORES},
        "classes": [
            {"name": name, "pixels": int(support[k]), **{score: told(score, k) for score in CLASS_SCORES}}
            for k, name in enumerate(rows.names)
            if scored[k] and (support[k] or any(value["painted"][k] for value in values))
        ],
    }


class _Groups:
    """Counts of one model by patient, for resampling."""

    def __init__(self, section: Section, groups: Sequence[str], scored: NDArray[np.bool_]) -> None:
        self._stacked = StackedTallies([section.by_group[group][0] for group in groups])
        self._bins = np.stack([section.reliability_of[group].bins[CALIBRATION_BINS][0] for group in groups])
        self._scored = scored

    def scores(self, weights: Values) -> dict[str, Values]:
        """Return the scores where each patient counts so often: (K,) of classes, (1,) of all together."""
        counts = self._stacked.weighted(weights).counts
        dice, mcc, false = _of_classes(counts, self._scored)
        pixels, probability, right = np.tensordot(weights, self._bins, axes=1).T
        error = np.abs(right - probability).sum() / pixels.sum() if pixels.sum() else np.nan
        means = (mean_score(dice), mean_score(mcc), error)
        overall = {name: np.array([value]) for name, value in zip(OVERALL_SCORES, means, strict=True)}
        return {"dice": dice, "mcc": mcc, "false_share": false, "painted": counts.predicted, **overall}


def _of_classes(counts: Counts, scored: NDArray[np.bool_]) -> tuple[Values, Values, Values]:
    """Return Dice, MCC and the share of what is painted as a class that is none of it, (K,) each."""
    painted, right = counts.predicted, counts.true_positive
    false = np.divide(painted - right, painted, out=np.full(len(painted), np.nan), where=painted > 0)
    if single_row(counts) is not None:
        return np.full(len(painted), np.nan), np.full(len(painted), np.nan), np.where(scored, false, np.nan)
    # Never or always painted: no correlation.
    mcc = np.where((counts.support > 0) & np.isnan(counts.mcc), 0.0, counts.mcc)
    return tuple(np.where(scored, value, np.nan) for value in (counts.dice, mcc, false))  # type: ignore[return-value]


def _limits(parts: Sequence[_Groups], groups: Sequence[str]) -> dict[str, Values]:
    """Return the intervals (…, 2) of the difference of each score."""
    old, new = parts
    drawn = [
        (old.scores(weights), new.scores(weights)) for weights in draw_groups(len(groups)).astype(np.float64)
    ]
    names, level = (*CLASS_SCORES, *OVERALL_SCORES), expanded_level(len(groups))
    return {name: percentile_limits(np.array([b[name] - a[name] for a, b in drawn]), level) for name in names}


def _verdict(
    section: Section, values: Sequence[dict[str, Values]], limits: dict[str, Values] | None
) -> tuple[Verdict, str]:
    before, after = (float(value["mean_dice"][0]) for value in values)
    told = f"mean Dice {before:.3f} before, {after:.3f} after"
    if np.isnan(after - before):
        return "cannot be told", "the held-out truth has a single class, so there is no Dice"
    if not section.patients_known:
        return "cannot be told", f"{told}; no interval ({UNKNOWN_PATIENTS}): say whose the slides are"
    if limits is None:
        patients = len(section.by_group)
        return (
            "cannot be told",
            f"{told}; {patients} held-out patient{'s' * (patients != 1)}, and an interval takes at least "
            f"{LEAST_GROUPS}",
        )
    low, high = limits["mean_dice"][0]
    patients = len(section.by_group)
    told += f", difference {after - before:+.3f} ({low:+.3f} … {high:+.3f})"
    if low > 0 and patients < LEAST_FOR_BETTER:
        return (
            "cannot be told",
            f"all of so few patients improve by chance in one of {2**patients} cases, hold out "
            f"{LEAST_FOR_BETTER} or more: {told}",
        )
    if low > 0:
        return "better", f"the new model is better: {told}"
    if high < 0:
        return "worse", f"the new model is worse: {told}"
    return "no difference shown", f"the interval includes zero: {told}"


def comparison_lines(comparison: Comparison) -> list[str]:
    """Return the comparison as lines of a table for the terminal."""
    lines = []
    for table in comparison.data_sets:
        lines.append(f"{table['name']}: {table['images']} held-out images, old → new")
        lines += [_line(score, value) for score, value in table["overall"].items()]
        for row in table["classes"]:
            lines += [_line(f"{row['name']} {score}", row[score]) for score in CLASS_SCORES]
    return [*lines, comparison.sentence]


def _line(name: str, value: dict[str, Any]) -> str:
    old, new = ("–" if value[key] is None else f"{value[key]:.3f}" for key in ("old", "new"))
    limits = value["interval"]
    interval = "" if limits is None else f"  ({limits[0]:+.3f} … {limits[1]:+.3f})"
    return f"  {name.replace('_', ' '):<40} {old} → {new}{interval}"
