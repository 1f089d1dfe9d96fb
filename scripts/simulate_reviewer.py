"""A simulated reviewer: how much reviewing the most uncertain regions of a new patient improves a model.

    python scripts/leave_one_patient_out.py configs/bcss_demo.yaml runs/left_out --only A0D2 --seeds 0 1 2
    python scripts/simulate_reviewer.py configs/bcss_demo.yaml runs/left_out runs/reviewer

The model was trained without the patient. It segments the left half of the patient's region; the reviewer
looks at the most uncertain regions of the result and says what the annotation says: accepts, relabels, or
redraws and adds. `wsi_seg.training.retrain` trains on that and replays the other patients, and both models
are scored on the right half. Both halves are of one patient and one slide: the curve says what reviewing a
slide does for that slide, not for other patients. As many steps on the other patients alone tell what the
reviews add to more training.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import shapely
import yaml
from numpy.typing import NDArray
from PIL import Image
from shapely import MultiPolygon, Polygon

from wsi_seg.annotations.drawing import Drawing
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.evaluation.config import EvaluateConfig
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model
from wsi_seg.pipeline.models import load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RegionSettings, RunSettings
from wsi_seg.planning.plan import PlanSettings
from wsi_seg.regions.polygons import TraceSettings
from wsi_seg.results.region_files import Regions
from wsi_seg.review.entries import ReviewEntry, own_region, snapped
from wsi_seg.review.places import review_folder
from wsi_seg.review.results import ReviewedResults, open_reviewed, region_values
from wsi_seg.review.store import ReviewStore
from wsi_seg.training.config import TrainConfig, read_train_config, resolved
from wsi_seg.training.fit import train
from wsi_seg.training.retrain import REVIEW, retrain, retrain_config
from wsi_seg.training.settings import RetrainSettings

SIZES = (20, 50, 100)
# A region of which so much is of one class is accepted or relabeled as a whole; of a mixed one each part that
# is at least so large is drawn, on a grid of so many pixels.
PURE, PART, STEP = 0.8, 0.1, 4
SMALLEST_UM2 = 50.0
Codes = NDArray[np.uint8]


def halves(source: BcssRegions, root: Path, out: Path) -> tuple[Path, Codes, Path]:
    """Write both halves; return the slide and codes of the left one, and the data set folder of the right."""
    folder = root / source.folder
    mask = next(path for path in sorted((folder / "masks").glob("*.png")))
    image = next(path for path in sorted(folder.glob(f"rgbs*/{mask.name}")))
    pixels, codes = np.asarray(Image.open(image).convert("RGB")), np.asarray(Image.open(mask))
    middle = codes.shape[1] // 2
    patient = "-".join(mask.name.split("-")[:3])
    left, right = out / "left" / f"{patient}-left.png", out / "right"
    for path, part in (
        (left, pixels[:, :middle]),
        (right / "rgbs" / mask.name, pixels[:, middle:]),
        (right / "masks" / mask.name, codes[:, middle:]),
    ):
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(part).save(path)
    return left, codes[:, :middle], right


def most_uncertain(regions: Regions) -> list[int]:
    """Return the regions, most uncertain first."""
    figures = [json.loads(text)["measurements"]["Mean uncertainty"] for text in regions.properties]
    return np.argsort(-np.array(figures, float), kind="stable").tolist()


def cell_shape(inside: NDArray[np.bool_], corner: tuple[int, int]) -> Polygon | MultiPolygon:
    """Return the outline of cells of STEP pixels; `corner` is (x, y) of the first in l0 pixels."""
    rows, columns = np.nonzero(inside)
    x, y = corner[0] + columns * STEP, corner[1] + rows * STEP
    return snapped(shapely.union_all(shapely.box(x, y, x + STEP, y + STEP)))


def verdicts(
    one: ReviewedResults, index: int, codes: Codes, names: dict[int, str], ignored: set[int]
) -> list[ReviewEntry]:
    """Return what the reviewer says of a region, nothing where the annotation says nothing."""
    facts = region_values(one.regions, index)
    shape = facts["geometry"]
    x0, y0, x1, y1 = (int(v) for v in (*np.floor(shape.bounds[:2]), *np.ceil(shape.bounds[2:])))
    box = Box(x0, y0, min(x1, codes.shape[1]), min(y1, codes.shape[0]))
    inside = Drawing.of([shape], [1]).paint(box, STEP, ground=0) == 1
    truth = codes[box.slices][STEP // 2 :: STEP, STEP // 2 :: STEP]
    known = inside & ~np.isin(truth, list(ignored))
    counts = np.bincount(truth[known], minlength=256)
    if 2 * known.sum() < inside.sum() or not known.any():
        return []
    common = {"slide": one.slide.fingerprint, "model": one.model, "reviewer": "simulated"}
    main = int(counts.argmax())
    if counts[main] >= PURE * counts.sum():
        group = next(g.name for g in one.groups if main in g.codes)
        same = group == facts["region_class"]
        verdict, name = ("accepted", group) if same else ("relabeled", names[main])
        return [ReviewEntry(verdict=verdict, class_name=name, **common, **facts)]
    entries = []
    for code in np.argsort(-counts)[: int((counts >= PART * counts.sum()).sum())].tolist():
        part = cell_shape(known & (truth == code), (x0, y0))
        if code == main:
            redrawn = facts | {"geometry": part}
            entries.append(ReviewEntry(verdict="redrawn", class_name=names[code], **common, **redrawn))
        else:
            entry = ReviewEntry(
                verdict="added", class_name=names[code], geometry=part, region="new", **common
            )
            entries.append(entry.model_copy(update={"region": own_region(entry.entry)}))
    return entries


def score(model: Path | str, right: Path, ignored: tuple[int, ...]) -> dict[str, Any]:
    """Return the scores of a model on the right half."""
    data = EvaluateConfig(
        datasets=(BcssRegions(name="right", folder=right.resolve(), mpp=0.25, weight=0.0),),
        ignored_codes=ignored,
    )
    (result,) = evaluate_model(load_model(str(model)), data, EvaluateSettings("all")).metrics["results"]
    rows = [row for row in result["classes"] if row["pixels"]]
    dice = {row["name"]: row["dice"] or 0.0 for row in rows}
    return {
        "mean_dice": round(statistics.fmean(dice.values()), 4),
        "dice": dice,
        "mcc": {row["name"]: row["mcc"] or 0.0 for row in rows},
        "pixel_accuracy": result["overall"]["pixel_accuracy"],
        "calibration_error": result["calibration"]["expected_calibration_error"],
    }


def without(config: TrainConfig, name: str, path: Path) -> Path:
    """Write the configuration without the data of the new patient."""
    kept = tuple(dataset for dataset in config.datasets if dataset.name != name)
    path.write_text(yaml.safe_dump(resolved(config.model_copy(update={"datasets": kept}))))
    return path


def train_without_reviews(model: Path, results: Path, out: Path, steps: RetrainSettings) -> Path:
    """Take the steps of a retraining on the replayed data alone; return the folder of the model."""
    config, _ = retrain_config(str(model), results, steps)
    old = tuple(dataset for dataset in config.datasets if dataset.name != REVIEW)
    return train(config.model_copy(update={"datasets": old}), out, report=print)


def run_seed(config: TrainConfig, name: str, seed: int, arguments: argparse.Namespace, path: Path) -> None:
    """Write the curve of one seed, again after each of its points."""
    source = next(dataset for dataset in config.datasets if dataset.name == name)
    assert isinstance(source, BcssRegions)
    model, out = arguments.left_out / f"{name}-seed{seed}", arguments.out / f"{name}-seed{seed}"
    if out.exists():
        sys.exit(f"{out}: exists; remove it, or name another folder")
    slide, codes, right = halves(source, config.data_dir, out)
    loaded = load_model(str(model))
    groups = tuple(group.name for group in loaded.facts.card.groups)
    settings = RunSettings(
        reader="image",
        mpp=0.25,
        tissue="none",
        plan=PlanSettings(uncertainty=True),
        regions=RegionSettings(groups, trace=TraceSettings(min_area_um2=SMALLEST_UM2)),
    )
    results = Path(segment_slide(slide, out / "results", loaded, settings).folder)
    one = open_reviewed(results)
    names = {c.code: c.name for c in loaded.facts.card.classes}
    order = most_uncertain(one.regions)
    said = [verdicts(one, i, codes, names, set(config.ignored_codes)) for i in order]
    said = [entries for entries in said if entries]
    print(f"{name}, seed {seed}: {len(order)} regions, {len(said)} of them on annotated ground", flush=True)
    replay = without(config, name, out / "replay.yaml")
    curve = [{"reviewed": 0, **score(model, right, config.ignored_codes)}]
    facts = {"patient": name, "seed": seed, "regions": len(order), "annotated": len(said)}
    facts |= {"epochs": arguments.epochs, "steps": arguments.steps}
    for size in dict.fromkeys(min(size, len(said)) for size in arguments.sizes):
        entries = [entry for group in said[:size] for entry in group]
        reviews = out / f"review-{size}"
        ReviewStore(review_folder(results.parent, reviews)).append(one.slide, entries)
        steps = RetrainSettings(
            review_folder=reviews, replay=replay, epochs=arguments.epochs, steps=arguments.steps, seed=seed
        )
        started = time.monotonic()
        done = retrain(str(model), results.parent, out / f"model-{size}", steps, report=print)
        seconds = round(time.monotonic() - started)
        kinds = {v: sum(e.verdict == v for e in entries) for v in sorted({e.verdict for e in entries})}
        point = {"reviewed": size, "verdicts": kinds, "seconds": seconds}
        curve.append(point | score(done.folder, right, config.ignored_codes))
        print(f"{name}, seed {seed}: {curve[-1]}", flush=True)
        path.write_text(json.dumps(facts | {"curve": curve}, indent=1) + "\n", encoding="utf-8")
    started = time.monotonic()
    alone = train_without_reviews(model, results.parent, out / "model-control", steps)
    facts["control"] = {"seconds": round(time.monotonic() - started)}
    facts["control"] |= score(alone, right, config.ignored_codes)
    print(f"{name}, seed {seed}: {facts}", flush=True)
    path.write_text(json.dumps(facts | {"curve": curve}, indent=1) + "\n", encoding="utf-8")


def table(runs: list[dict[str, Any]], sizes: Sequence[int]) -> str:
    """Return the curve as a Markdown table: means over seeds ± their standard deviation.

    Where results have fewer regions than a size, the point at all of them counts for it.
    """
    classes = list(runs[0]["curve"][0]["dice"])
    lines = [f"| reviewed | seeds | mean Dice | {' | '.join(classes)} | calibration error |"]
    lines.append("|" + "---|" * (4 + len(classes)))
    rows = [(str(size), [p for r in runs for p in r["curve"] if p["reviewed"] == min(size, r["annotated"])])
            for size in (0, *sizes)]  # fmt: skip
    rows.insert(1, ("0, as many steps", [r["control"] for r in runs]))
    for name, points in rows:
        if points:
            values = [[p["mean_dice"] for p in points]]
            values += [[p["dice"].get(one, 0.0) for p in points] for one in classes]
            values.append([p["calibration_error"] for p in points])
            lines.append(f"| {name} | {len(points)} | {' | '.join(map(_spread, values))} |")
    return "\n".join(lines)


def _spread(values: list[float]) -> str:
    deviation = f" ± {statistics.stdev(values):.3f}" if len(values) > 1 else ""
    return f"{statistics.fmean(values):.3f}{deviation}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("config", type=Path)
    parser.add_argument("left_out", type=Path, help="folder of scripts/leave_one_patient_out.py")
    parser.add_argument("out", type=Path, help="folder of results and models")
    parser.add_argument("--results", type=Path, help="folder of the curves' JSON; OUT without it")
    parser.add_argument("--patient", default="A0D2", help="data set of kind bcss that was left out")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--steps", type=int, default=20)
    arguments = parser.parse_args()
    config = read_train_config(arguments.config)
    results = arguments.results or arguments.out
    results.mkdir(parents=True, exist_ok=True)
    runs = []
    for seed in arguments.seeds:
        path = results / f"{arguments.patient}-seed{seed}.json"
        if not path.is_file():
            run_seed(config, arguments.patient, seed, arguments, path)
        runs.append(json.loads(path.read_text(encoding="utf-8")))
    print(table(runs, arguments.sizes))


if __name__ == "__main__":
    main()
