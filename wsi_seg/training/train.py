"""From a configuration to a model whose card says how good it is: train, and evaluate what was held out."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import Any

from wsi_seg.core.card import read_card
from wsi_seg.datasets.patients import UNKNOWN_PATIENTS
from wsi_seg.datasets.split import Part
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.evaluation import Evaluation
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model, progress_lines
from wsi_seg.evaluation.write import check_own, write_evaluation
from wsi_seg.pipeline.models import load_model
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.data import NOTHING_HELD_OUT
from wsi_seg.training.fit import Report, train

log = logging.getLogger(__name__)

EVALUATION = "evaluation"
KEPT_SCORES = ("pixels", "dice", "iou", "precision", "recall", "mcc", "roc_auc")
# What held-out scores are worth.
TEST = "test data"
NEVER_TRAINED_ON = "patients never trained on"
COLUMNS = "the right-most part of images whose other parts were trained on: optimistic"
VALIDATION = "validation data, by which the epoch was chosen: optimistic"
# Absent classes that a card's line names; more are counted.
MOST_NAMED = 4


def train_model(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    evaluate: bool = True,
    report: Report = log.info,
) -> Path:
    """Train a model, evaluate it on its test part, and write the result into its card.

    Without a test part the validation part is taken, and the card says that it was; without either the card
    says that nothing was held out.

    Args:
        config: see `read_train_config`.
        out: the model folder; `evaluation/` in it gets the report.
        resume: resume an interrupted run.
        overwrite: replace what is in `out`.
        evaluate: False leaves the card without held-out metrics.
        report: called with lines on what is trained on and on progress, see `training.fit.train`.

    Returns:
        `out`.

    Raises:
        WsiSegError: see `training.fit.train` and `evaluate_model`.
    """
    if evaluate and (out / EVALUATION).is_dir():
        check_own(out / EVALUATION)  # now, and not after hours of training
    folder = train(config, out, resume, overwrite, report)
    # Of several processes of a distributed run only the first one writes.
    if not is_first_process():
        return folder
    part = _held_out_part(config)
    if part is None:
        line = "" if config.model.held_out else NOTHING_HELD_OUT  # what is known of such models says more
        _write_held_out(folder, config, {"part": None, "note": NOTHING_HELD_OUT}, line)
    elif evaluate:
        report(f"evaluating the {part} part")
        evaluation = evaluate_model(
            load_model(str(folder)),
            read_evaluate_config(folder / TRAIN_CONFIG),
            EvaluateSettings(part),
            progress_lines(report),
        )
        write_evaluation(evaluation, folder / EVALUATION, overwrite=True)
        write_metrics(folder, part, config, evaluation)
    return folder


def is_first_process() -> bool:
    """Return True in the only process of a training, and in the first of several."""
    return os.environ.get("LOCAL_RANK", "0") == "0"


def _held_out_part(config: TrainConfig) -> Part | None:
    splits = [dataset.split for dataset in config.datasets]
    if any(split.test or split.by == "institute" for split in splits):
        return "test"
    if any(dataset.weight == 0 and not dataset.split.validation for dataset in config.datasets):
        return "test"  # of data sets that are for evaluation only, all is test data
    return "validation" if any(split.validation for split in splits) else None


def write_metrics(folder: Path, part: Part, config: TrainConfig, evaluation: Evaluation) -> None:
    """Put the scores of an evaluation into the card of a model, and one line of them into `held_out`."""
    results = evaluation.metrics["results"]
    known = all(result["patients"] is not None for result in results)
    note = _note(part, config, known)
    summaries = {result["name"]: _summary(result) for result in results}
    line = "; ".join(map(_one_line, results))
    held_out = {"part": part, "note": note, "data_sets": summaries}
    _write_held_out(folder, config, held_out, f"Dice on {note}: {line}")


def _note(part: Part, config: TrainConfig, known: bool) -> str:
    """Return what the scores are of, and why they may be too good."""
    by_columns = any(d.split.by == "columns" and d.split.test for d in config.datasets)
    if part == "test" and by_columns:
        note = COLUMNS
    elif part == "test":
        note = f"{TEST}, {NEVER_TRAINED_ON}" if known else TEST
    else:
        note = VALIDATION
    return note if known else f"{note} ({UNKNOWN_PATIENTS})"


def _write_held_out(folder: Path, config: TrainConfig, held_out: dict[str, Any], line: str) -> None:
    card = read_card(folder)
    metrics = {**card.metrics, "held_out": held_out}
    text = "; ".join(filter(None, (config.model.held_out, line)))
    card.model_copy(update={"metrics": metrics, "held_out": text}).write(folder)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a card keeps of one data set: classes with pixels, and image labels."""
    summary: dict[str, Any] = {
        "images": result["images"],
        "patients": result["patients"],
        "pixel_accuracy": result["overall"]["pixel_accuracy"],
        "classes": {
            row["name"]: {score: row[score] for score in KEPT_SCORES}
            for row in result["classes"]
            if row["pixels"]
        },
        "missing": result["missing"],
    }
    if result["image_labels"]:
        summary["image_labels"] = result["image_labels"]["overall"]
    return summary


def _one_line(result: dict[str, Any]) -> str:
    """Return the Dice of each class, and what the truth lacks; of a single class only the latter."""
    known = [f"{row['name']} {row['dice']:.2f}" for row in result["classes"] if row["dice"] is not None]
    absent = [row["name"] for row in result["classes"] if not row["pixels"]]
    if not known:
        return f"{result['name']}: {' '.join(result['missing'])}"
    if not absent:
        return f"{result['name']}: {', '.join(known)}"
    named = ", ".join(absent) if len(absent) <= MOST_NAMED else f"{len(absent)} classes"
    return f"{result['name']}: {', '.join(known)} (no pixel of {named})"
