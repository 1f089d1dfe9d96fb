"""The folder of an evaluation: metrics.json, metrics.csv, figures and report.html, whole or not at all."""

from __future__ import annotations

import csv
import importlib.util
import io
import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from wsi_seg.core.errors import MissingExtraError, OutputError
from wsi_seg.core.files import writing
from wsi_seg.evaluation.evaluation import Evaluation
from wsi_seg.evaluation.metrics import SCORES
from wsi_seg.results.files import is_litter, read_record

METRICS = "metrics.json"
TABLE = "metrics.csv"
REPORT = "report.html"
CAPTIONS = {
    "confusion.png": "Confusion matrices: of the pixels of each true class, the share predicted as each.",
    "curves.png": "ROC and precision-recall curves of each class against all others.",
    "examples.png": "The first regions: image, truth and prediction.",
    "training.png": "The training of this model, as it was logged.",
}
COLUMNS = (
    "data_set",
    "kind",
    "name",
    "pixels",
    *(column for score in SCORES for column in (score, f"{score}_low", f"{score}_high")),
    "images",
    "dice_mean_over_images",
    "iou_mean_over_images",
    "accuracy",
)


def check_output(out: Path, key: str, overwrite: bool) -> None:
    """Refuse a folder that cannot be written to, before anything is predicted.

    An evaluation with the same key is replaced, and with `overwrite` any other.

    Raises:
        OutputError: the folder holds something else, or another evaluation that is not to be replaced.
        MissingExtraError: matplotlib is not installed.
    """
    if importlib.util.find_spec("matplotlib") is None:
        raise MissingExtraError(
            "figures and report need matplotlib; install it with: pip install 'wsi-seg[report]', or "
            "leave the output folder out"
        )
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return
    if not (out / METRICS).is_file() or not (out / REPORT).is_file():
        raise OutputError(f"{out}: exists but holds no evaluation; choose another output folder")
    check_own(out)
    if not overwrite and read_record(out / METRICS).get("key") != key:
        raise OutputError(
            f"{out}: holds another evaluation; choose another output folder, or pass --overwrite"
        )


def check_own(folder: Path) -> None:
    """Refuse to replace the folder of an evaluation that holds anything else; OutputError names it."""
    known = {METRICS, TABLE, REPORT, *CAPTIONS}
    foreign = sorted(path.name for path in folder.iterdir() if path.name not in known)
    foreign = [name for name in foreign if not is_litter(name)]
    if foreign:
        raise OutputError(
            f"{folder}: is to be replaced but also holds {foreign[0]}, which no evaluation has written; "
            "move that elsewhere, or choose another output folder"
        )


def write_evaluation(
    evaluation: Evaluation, out: Path, *, overwrite: bool = False, command: str | None = None
) -> None:
    """Write the folder of an evaluation, whole or not at all.

    Args:
        evaluation: what to write.
        out: the folder; one of the same evaluation is replaced.
        overwrite: replace another evaluation too.
        command: for the record.

    Raises:
        OutputError, MissingExtraError: see `check_output`; or the folder cannot be written.
        ModelError: the log of the model's training is damaged.
    """
    out = Path(out)
    metrics = {**evaluation.metrics, "command": command}
    check_output(out, metrics["key"], overwrite)
    files = {
        METRICS: (json.dumps(metrics, indent=1, ensure_ascii=False) + "\n").encode(),
        TABLE: table_of(metrics).encode(),
        **_figures_and_report(evaluation, metrics),
    }
    aside, old = (out.with_name(f".{out.absolute().name}.{state}") for state in ("partial", "old"))
    with writing(out):
        for leftover in (aside, old):
            if leftover.exists():
                check_own(leftover)
                shutil.rmtree(leftover)
        aside.mkdir(parents=True)
        for name, content in files.items():
            (aside / name).write_bytes(content)
        if out.exists():
            out.rename(old)
        aside.rename(out)
        if old.exists():
            shutil.rmtree(old)


def _figures_and_report(evaluation: Evaluation, metrics: dict[str, Any]) -> dict[str, bytes]:
    # Imported here: they need the extra `report` and slow down what does not draw.
    from wsi_seg.evaluation.html import PageFigure, render_report
    from wsi_seg.evaluation.plots import draw_confusion, draw_curves, draw_examples
    from wsi_seg.evaluation.training_log import LOG, draw_training, read_curves

    figures = {
        "confusion.png": draw_confusion(evaluation.sections),
        "curves.png": draw_curves(evaluation.sections),
        "examples.png": draw_examples(evaluation.examples),
    }
    folder = evaluation.subject.folder
    if folder is not None and (folder / LOG).is_file():
        figures["training.png"] = draw_training(read_curves(folder / LOG))
    page = render_report(metrics, [PageFigure(CAPTIONS[name], png) for name, png in figures.items()])
    return {**figures, REPORT: page.encode()}


def table_of(metrics: dict[str, Any]) -> str:
    """Return metrics.csv: a row for each class, group, mean and baseline; blank where undefined."""
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    for result in metrics["results"]:
        for row in _rows(result):
            writer.writerow({"data_set": result["name"], **row})
    return text.getvalue()


def _rows(result: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield from _level_rows("class", result)
    if result["class_groups"] is not None:
        yield from _level_rows("group", result["class_groups"])
    for table in result["baselines"]:
        for name, scores in table["scores"].items():
            yield {"kind": f"baseline for {table['class']}", **_scores({"name": name, **scores}, {})}


def _level_rows(kind: str, level: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for row in level["classes"]:
        yield {"kind": kind, **_scores(row, row["intervals"] or {})}
    overall, limits = level["overall"], level["overall_intervals"] or {}
    for name in ("pixel_accuracy", "one_against_rest_accuracy"):
        yield {"kind": f"{kind} mean", "name": name, "accuracy": overall[name]}
    for mean in ("macro", "micro"):
        values = {score: overall.get(f"{mean}_{score}") for score in SCORES}
        pairs = {score: limits[f"{mean}_{score}"] for score in SCORES if f"{mean}_{score}" in limits}
        yield {"kind": f"{kind} mean", **_scores({"name": mean, **values}, pairs)}


def _scores(row: dict[str, Any], limits: dict[str, Any]) -> dict[str, Any]:
    bounds: dict[str, Any] = {}
    for score, (low, high) in limits.items():
        bounds |= {f"{score}_low": low, f"{score}_high": high}
    return {name: value for name, value in {**row, **bounds}.items() if name in COLUMNS}
