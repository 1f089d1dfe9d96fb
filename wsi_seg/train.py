"""From a configuration to a model whose card says how good it is: train, and evaluate what was held out."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

from wsi_seg.card import read_card
from wsi_seg.datasets.split import Part
from wsi_seg.evaluate.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluate.evaluation import Evaluation
from wsi_seg.evaluate.model import EvaluateSettings, evaluate_model
from wsi_seg.evaluate.write import write_evaluation
from wsi_seg.run import load_model
from wsi_seg.training.config import TrainConfig
from wsi_seg.training.fit import train

EVALUATION = "evaluation"
KEPT_SCORES = ("pixels", "dice", "iou", "precision", "recall", "mcc", "roc_auc")
OPTIMISTIC = {
    "columns": "the right-most part of images whose other parts were trained on: optimistic",
    "validation": "validation data, by which the epoch was chosen: optimistic",
    "test": "test data, never trained on",
}


def train_model(
    config: TrainConfig,
    out: Path,
    *,
    resume: bool = False,
    overwrite: bool = False,
    evaluate: bool = True,
) -> Path:
    """Train a model, evaluate it on its test part, and write the result into its card.

    Without a test part the validation part is taken, and the card says that it was; without either the card
    has no metrics.

    Args:
        config: see `read_train_config`.
        out: the model folder; `evaluation/` in it gets the report.
        resume: go on with an interrupted run.
        overwrite: replace what is in `out`.
        evaluate: False leaves the card without held-out metrics.

    Returns:
        `out`.

    Raises:
        WsiSegError: see `training.fit.train` and `evaluate_model`.
    """
    folder = train(config, out, resume, overwrite)
    part = _held_out_part(config)
    # Of several processes of a distributed run only the first one writes.
    if evaluate and part is not None and os.environ.get("LOCAL_RANK", "0") == "0":
        evaluation = evaluate_model(
            load_model(str(folder)), read_evaluate_config(folder / TRAIN_CONFIG), EvaluateSettings(part)
        )
        write_evaluation(evaluation, folder / EVALUATION, overwrite=True)
        write_metrics(folder, part, config, evaluation)
    return folder


def _held_out_part(config: TrainConfig) -> Part | None:
    splits = [dataset.split for dataset in config.datasets]
    if any(split.test or split.by == "institute" for split in splits):
        return "test"
    if any(dataset.weight == 0 and not dataset.split.validation for dataset in config.datasets):
        return "test"  # of data sets that are for evaluation only, all is test data
    return "validation" if any(split.validation for split in splits) else None


def write_metrics(folder: Path, part: Part, config: TrainConfig, evaluation: Evaluation) -> None:
    """Put the scores of an evaluation into the card of a model, and one line of them into `held_out`."""
    by_columns = any(d.split.by == "columns" and d.split.test for d in config.datasets)
    note = OPTIMISTIC["columns" if part == "test" and by_columns else part]
    results = evaluation.metrics["results"]
    scores = {result["name"]: _summary(result) for result in results}
    card = read_card(folder)
    line = "; ".join(_one_line(name, summary) for name, summary in scores.items())
    metrics = {**card.metrics, "held_out": {"part": part, "note": note, "data_sets": scores}}
    held_out = "; ".join(filter(None, (config.model.held_out, f"Dice on {note}: {line}")))
    card.model_copy(update={"metrics": metrics, "held_out": held_out}).write(folder)


def _summary(result: dict[str, Any]) -> dict[str, Any]:
    """Return what a card keeps of one data set: classes with pixels, and image labels."""
    summary: dict[str, Any] = {
        "images": result["images"],
        "patients_or_slides": result["groups"],
        "pixel_accuracy": result["overall"]["pixel_accuracy"],
        "classes": {
            row["name"]: {score: row[score] for score in KEPT_SCORES}
            for row in result["classes"]
            if row["pixels"]
        },
    }
    if result["image_labels"]:
        summary["image_labels"] = result["image_labels"]["overall"]
    return summary


def _one_line(name: str, summary: dict[str, Any]) -> str:
    scores = ((c, s["dice"]) for c, s in summary["classes"].items())
    return f"{name}: " + ", ".join(f"{c} {dice:.2f}" for c, dice in scores if dice is not None)
