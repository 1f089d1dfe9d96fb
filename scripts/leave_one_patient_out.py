"""Leave each data set of a training configuration out once: train on the others, test on the one left out.

    python scripts/leave_one_patient_out.py configs/bcss_unet_efficientnet_lite0.yaml runs/left_out

Each data set is meant to be one patient. For each one the folder gets a model and its report, with two
baselines for the class of --class next to it: everything is of that class, and a threshold on the optical
density of hematoxylin. `summary.md` and `summary.json` hold the table.
"""

from __future__ import annotations

import argparse
import json
import shlex
import statistics
import sys
from pathlib import Path
from typing import Any

from wsi_seg.datasets.split import Split
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model
from wsi_seg.evaluation.write import write_evaluation
from wsi_seg.pipeline.models import load_model
from wsi_seg.training.config import TrainConfig, read_train_config
from wsi_seg.training.fit import train
from wsi_seg.training.train import EVALUATION

SCORES = {
    "dice": "Dice",
    "iou": "IoU",
    "mcc": "MCC",
    "roc_auc": "AUC",
    "precision": "precision",
    "recall": "recall",
}


def left_out(config: TrainConfig, name: str) -> TrainConfig:
    """Return the configuration with one data set as test data and the others whole for training."""
    datasets = tuple(
        d.model_copy(update={"split": Split(test=1.0) if d.name == name else Split()})
        for d in config.datasets
    )
    return config.model_copy(update={"datasets": datasets})


def scores_without(
    config: TrainConfig, name: str, out: Path, class_name: str, resume: bool
) -> dict[str, Any]:
    """Train without one data set; return the scores of the model and the baselines on it."""
    folder = train(left_out(config, name), out / name, resume=resume)
    baselines = (f"everything={class_name}", f"hematoxylin={class_name}")
    evaluation = evaluate_model(
        load_model(str(folder)),
        read_evaluate_config(folder / TRAIN_CONFIG),
        EvaluateSettings("test", baselines),
    )
    write_evaluation(evaluation, folder / EVALUATION, overwrite=True, command=shlex.join(sys.argv))
    (result,) = evaluation.metrics["results"]
    training = json.loads((folder / "card.json").read_text())["metrics"]["training"]
    (table,) = result["baselines"]
    return {"pixels": result["pixels"], "training": training, "scores": table["scores"]}


def table_of(results: dict[str, Any]) -> str:
    """Return the scores as a Markdown table, with the mean over patients."""
    lines = [
        f"| left out | predicted by | {' | '.join(SCORES.values())} |",
        "|---|---|" + "---|" * len(SCORES),
    ]
    for name, result in results.items():
        lines += [f"| {name} | {who} | {_cells(scores)} |" for who, scores in result["scores"].items()]
    for who in next(iter(results.values()))["scores"]:
        of_all = [result["scores"][who] for result in results.values()]
        means = {s: _mean([scores[s] for scores in of_all]) for s in SCORES}
        lines.append(f"| mean | {who} | {_cells(means)} |")
    return "\n".join(lines)


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return statistics.fmean(known) if known else None


def _cells(scores: dict[str, float | None]) -> str:
    return " | ".join("" if scores[s] is None else f"{scores[s]:.3f}" for s in SCORES)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--class", dest="class_name", default="tumor")
    parser.add_argument("--resume", action="store_true", help="go on with interrupted trainings")
    arguments = parser.parse_args()
    config = read_train_config(arguments.config)
    results: dict[str, Any] = {}
    for dataset in config.datasets:
        results[dataset.name] = scores_without(
            config, dataset.name, arguments.out, arguments.class_name, arguments.resume
        )
        print(f"{dataset.name}: {results[dataset.name]['scores']}", flush=True)
    (arguments.out / "summary.json").write_text(json.dumps(results, indent=1) + "\n")
    (arguments.out / "summary.md").write_text(table_of(results) + "\n")
    print(table_of(results))


if __name__ == "__main__":
    main()
