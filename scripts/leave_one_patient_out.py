"""Leave each data set of a training configuration out once, for several seeds, and test on it.

    python scripts/leave_one_patient_out.py configs/bcss_demo.yaml runs/left_out --seeds 0 1 2

Each data set is meant to be one patient. Every fold ends in a small JSON file in --results; folds that have
one are not repeated, and interrupted ones resume. `summary.md` next to them holds the tables: means over
patients and seeds, and how far the seeds spread. Two baselines stand next to the class of --class: everything
is of that class, and a threshold on the optical density of hematoxylin.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import shlex
import statistics
import sys
import tempfile
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from wsi_seg.core.card import CARD_NAME, read_card
from wsi_seg.datasets.split import Split
from wsi_seg.evaluation.calibration import TEMPERATURES, Reliability, best_temperature
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model
from wsi_seg.evaluation.write import write_evaluation
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.results.files import MAPS
from wsi_seg.training.config import TrainConfig, read_train_config
from wsi_seg.training.fit import train
from wsi_seg.training.train import EVALUATION

SCORES = {"dice": "Dice", "mcc": "MCC", "roc_auc": "AUC", "precision": "precision", "recall": "recall"}
MODEL = "this model"
Fold = dict[str, Any]


def left_out(config: TrainConfig, name: str, seed: int) -> TrainConfig:
    """Return the configuration with one data set as test data and the others whole for training."""
    datasets = tuple(
        d.model_copy(update={"split": Split(test=1.0) if d.name == name else Split()})
        for d in config.datasets
    )
    return config.model_copy(update={"datasets": datasets, "seed": seed})


def digest(config: TrainConfig) -> str:
    """Return a hash of what decides a fold's result: not where the data lie, nor the card's sentences.

    Values that are left at their default are not part of it, so that a key added later changes no hash.
    """
    values = config.model_dump(mode="json", exclude_defaults=True)
    for key in ("data_dir", "threads", "loader_workers"):
        values.pop(key, None)
    for key in ("name", "version", "description", "training_data", "metrics", "held_out", "notice"):
        values["model"].pop(key, None)
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()


def run_fold(config: TrainConfig, name: str, out: Path, class_name: str) -> Fold:
    """Train without one data set and score the result on it; an interrupted training resumes."""
    folder = train(config, out, resume=True, report=lambda line: print(f"  {line}", flush=True))
    started = time.monotonic()
    evaluation = evaluate_model(
        load_model(str(folder)),
        read_evaluate_config(folder / TRAIN_CONFIG),
        EvaluateSettings(
            "test", (f"everything={class_name}", f"hematoxylin={class_name}"), temperatures=TEMPERATURES
        ),
    )
    write_evaluation(evaluation, folder / EVALUATION, overwrite=True, command=shlex.join(sys.argv))
    (result,), (section,) = evaluation.metrics["results"], evaluation.sections
    assert section.reliability is not None
    card = read_card(folder)
    (table,) = result["baselines"]
    painted = section.reliability.painted / max(1, section.reliability.painted.sum())
    return {
        "left_out": name,
        "seed": config.seed,
        "config": digest(config),
        "training": card.metrics["training"],
        "evaluation_seconds": round(time.monotonic() - started),
        "trained_pixels": {k: v for k, v in (card.trained_pixels or {}).items() if v},
        "assessed": card.assessed,
        "pixels": result["pixels"],
        "pixel_accuracy": result["overall"]["pixel_accuracy"],
        "classes": {
            row["name"]: {"share": row["share"], **{score: row[score] for score in SCORES}}
            for row in result["classes"]
            if row["pixels"]
        },
        "painted": {
            c.name: round(float(share), 5) for c, share in zip(card.classes, painted, strict=True) if share
        },
        "scores": table["scores"],
        "reliability": {
            "bins": section.reliability.bins[2:].round(3).tolist(),
            "loss": section.reliability.loss[2:].round(3).tolist(),
        },
    }


def painted_on(slide: Path, folder: Path) -> dict[str, float]:
    """Return the share of a slide's tissue that the model of a fold paints as each class."""
    model = load_model(str(folder))
    with tempfile.TemporaryDirectory() as out:
        result = segment_slide(slide, Path(out), model, RunSettings())
        labels = np.asarray(Maps.open(Path(result.folder) / MAPS).labels[:])
    counts = np.bincount(labels[labels > 0], minlength=256)
    shares = counts / max(1, counts.sum())
    return {c.name: round(float(shares[c.code]), 5) for c in model.facts.card.classes if counts[c.code]}


# --- tables -------------------------------------------------------------------------------------------


def reliability_of(fold: Fold) -> Reliability:
    """Return the sums of a fold at `TEMPERATURES`."""
    sums = fold["reliability"]
    return Reliability(TEMPERATURES, np.array(sums["bins"]), np.array(sums["loss"]), np.zeros(1, np.int64))


def crossed_temperature(folds: Sequence[Fold], name: str) -> float:
    """Return the temperature fitted on the folds that leave out others than `name`, and so not on it."""
    parts = [reliability_of(fold) for fold in folds if fold["left_out"] != name]
    return best_temperature(parts) if parts else 1.0


def calibration_errors(fold: Fold, temperature: float) -> tuple[float, float]:
    """Return the expected calibration error at temperature 1 and at another of `TEMPERATURES`."""
    errors = reliability_of(fold).expected_calibration_error
    nearest = int(np.abs(np.log(TEMPERATURES)).argmin())
    return float(errors[nearest]), float(errors[TEMPERATURES.index(temperature)])


def tables_of(folds: Sequence[Fold], class_name: str) -> str:
    """Return the Markdown tables of finished folds."""
    names = list(dict.fromkeys(fold["left_out"] for fold in folds))
    by_name = {name: [fold for fold in folds if fold["left_out"] == name] for name in names}
    return "\n\n".join(
        (_one_class(by_name, class_name), _classes(by_name), _painted(by_name), _calibration(by_name, folds))
    )


def _one_class(by_name: dict[str, list[Fold]], class_name: str) -> str:
    rows = []
    for who in next(iter(by_name.values()))[0]["scores"]:
        means: dict[str, list[float]] = {score: [] for score in SCORES}
        for name, folds in by_name.items():
            values = {s: [fold["scores"][who][s] for fold in folds] for s in SCORES}
            rows.append([name, who, str(len(folds)), *(_spread(values[s]) for s in SCORES)])
            for s in SCORES:
                known = [v for v in values[s] if v is not None]
                means[s] += [statistics.fmean(known)] if known else []
        rows.append(["mean", who, "", *(_spread(means[s], False) for s in SCORES)])
    return f"{class_name} against everything else, called at 0.5:\n\n" + _table(
        ["left out", "predicted by", "seeds", *SCORES.values()], rows
    )


def _classes(by_name: dict[str, list[Fold]]) -> str:
    rows = []
    for name, folds in by_name.items():
        for label in folds[0]["classes"]:
            of = [fold["classes"][label] for fold in folds]
            names = folds[0]["assessed"]
            assessed = names is None or label in names or label.startswith("not ")
            scores = [_spread([o[s] for o in of]) for s in SCORES] if assessed else ["not assessed"]
            rows.append([name, label, f"{of[0]['share']:.1%}", *scores, *[""] * (len(SCORES) - len(scores))])
    return "Most probable class:\n\n" + _table(["left out", "class", "share", *SCORES.values()], rows)


def _painted(by_name: dict[str, list[Fold]]) -> str:
    labels = list(dict.fromkeys(c for folds in by_name.values() for fold in folds for c in fold["painted"]))
    rows = [[name, *(_share(folds, label) for label in labels)] for name, folds in by_name.items()]
    folds = [fold for of in by_name.values() for fold in of]
    for slide in dict.fromkeys(slide for fold in folds for slide in fold.get("slides", ())):
        shares = [fold["slides"][slide] for fold in folds if slide in fold.get("slides", ())]
        cells = (_percent([100 * share.get(label, 0.0) for share in shares]) for label in labels)
        rows.append([f"{slide} (all folds)", *cells])
    note = "Share of the annotated pixels painted as each class; **bold**: the annotation has none of it.\n\n"
    return note + _table(["left out", *labels], rows)


def _share(folds: list[Fold], label: str) -> str:
    text = _percent([100 * fold["painted"].get(label, 0.0) for fold in folds])
    known = folds[0]["classes"]
    complete = not any(name.startswith("not ") for name in known)
    return f"**{text}**" if complete and label not in known else text


def _percent(shares: list[float]) -> str:
    spread = f" ± {statistics.stdev(shares):.1f}" if len(shares) > 1 else ""
    return f"{statistics.fmean(shares):.1f} %{spread}"


def _calibration(by_name: dict[str, list[Fold]], folds: Sequence[Fold]) -> str:
    rows, after_all = [], []
    for name, of in by_name.items():
        temperature = crossed_temperature(folds, name)
        errors = [calibration_errors(fold, temperature) for fold in of]
        before, after = ([pair[i] for pair in errors] for i in (0, 1))
        after_all.append(statistics.fmean(after))
        rows.append([name, f"{temperature:.2f}", _spread(before), _spread(after)])
    rows.append(["mean", "", "", _spread(after_all, False)])
    best = best_temperature([reliability_of(fold) for fold in folds])
    note = (
        "Expected calibration error of the most probable class, 15 bins, before and after a temperature "
        f"fitted on the other left-out patients. Fitted on all of them it is {best:.2f}.\n\n"
    )
    return note + _table(["left out", "temperature", "before", "after"], rows)


def _spread(values: Iterable[float | None], deviation: bool = True) -> str:
    known = [value for value in values if value is not None]
    if not known:
        return ""
    text = f"{statistics.fmean(known):.3f}"
    return f"{text} ± {statistics.stdev(known):.3f}" if deviation and len(known) > 1 else text


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = ["| " + " | ".join(header) + " |", "|" + "---|" * len(header)]
    return "\n".join([*lines, *("| " + " | ".join(row) + " |" for row in rows)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("out", type=Path, help="folder of the trainings")
    parser.add_argument("--results", type=Path, help="folder of the folds' JSON; OUT without it")
    parser.add_argument("--class", dest="class_name", default="tumor")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0])
    parser.add_argument(
        "--slides", type=Path, nargs="*", default=[], help="paint these with every fold's model"
    )
    parser.add_argument("--only", nargs="+", help="leave out these data sets alone")
    arguments = parser.parse_args()
    config = read_train_config(arguments.config)
    results = arguments.results or arguments.out
    results.mkdir(parents=True, exist_ok=True)
    names = [d.name for d in config.datasets]
    folds = []
    for seed in arguments.seeds:
        for name in names if arguments.only is None else arguments.only:
            of_fold, file = left_out(config, name, seed), results / f"{name}-seed{seed}.json"
            if file.is_file():
                fold = json.loads(file.read_text())
                if fold["config"] != digest(of_fold):
                    parser.error(f"{file}: is of another configuration; give another --results folder")
            else:
                print(f"{name}, seed {seed}", flush=True)
                fold = run_fold(of_fold, name, arguments.out / f"{name}-seed{seed}", arguments.class_name)
            folder = arguments.out / file.stem
            for slide in arguments.slides:
                if slide.name not in fold.setdefault("slides", {}) and (folder / CARD_NAME).is_file():
                    fold["slides"][slide.name] = painted_on(slide, folder)
            file.write_text(json.dumps(fold) + "\n")
            print(f"{name}, seed {seed}: {fold['scores'][MODEL]}", flush=True)
            folds.append(fold)
    (results / "summary.md").write_text(tables_of(folds, arguments.class_name) + "\n")
    print(tables_of(folds, arguments.class_name))


if __name__ == "__main__":
    main()
