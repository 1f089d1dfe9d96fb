"""Improve a model by reviews of its results, and compare both on what was held out."""

from __future__ import annotations

import json
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from wsi_seg.core.card import ModelCard, read_card
from wsi_seg.core.classes import IGNORED_CODES
from wsi_seg.core.errors import DataError, OutputError, UsageError, WsiSegError
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.core.yaml_config import validated
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.patients import Patients
from wsi_seg.datasets.region import AnnotatedRegion
from wsi_seg.datasets.reviews import ReviewedSlides
from wsi_seg.datasets.split import Split
from wsi_seg.evaluation.comparison import Comparison, compare, not_compared
from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model, progress_lines
from wsi_seg.evaluation.write import check_own, write_evaluation
from wsi_seg.inference.models.registry import find_model
from wsi_seg.pipeline.models import load_model
from wsi_seg.results.files import read_record
from wsi_seg.training.config import OptimizerConfig, TrainConfig, read_train_config, resolved
from wsi_seg.training.data import NOTHING_HELD_OUT
from wsi_seg.training.fit import Report, train
from wsi_seg.training.folder import DATA
from wsi_seg.training.settings import COMPARISON, RetrainSettings
from wsi_seg.training.train import EVALUATION, write_metrics

log = logging.getLogger(__name__)

REVIEW = "review"
# Of the patients or slides with a review: the share that is held out for the comparison, from how many on it
# is at least as many as an interval takes, and from how many left over another one stops the training early.
TEST_SHARE = 0.3
ENOUGH, LEAST_TEST = 6, 3
ENOUGH_TO_STOP = 3
STOP_SHARE = 0.15
PATIENCE = 3
LARGEST_CROP = 256


@dataclass(frozen=True, slots=True)
class Retrained:
    """A finished retraining."""

    folder: Path
    comparison: Comparison


def retrain(
    model: str,
    results: Path,
    out: Path,
    settings: RetrainSettings | None = None,
    *,
    resume: bool = False,
    overwrite: bool = False,
    report: Report = log.info,
) -> Retrained:
    """Train a model further on reviews of results, and compare the new model with the old one.

    Args:
        model: bundled name or folder, of segmentation-models-pytorch.
        results: folder of results with reviews.
        out: folder of the new model; gets `comparison.json` too.
        settings: by default small and careful steps.
        resume: resume an interrupted run.
        overwrite: replace what is in `out`.
        report: called with lines on what is done.

    Returns:
        The folder and the comparison.

    Raises:
        UsageError: the model cannot be trained here.
        WsiSegError: as of `training.fit.train` and `evaluate_model`.
    """
    if (out / EVALUATION).is_dir():
        check_own(out / EVALUATION)
    config, notes = retrain_config(model, results, settings or RetrainSettings())
    for note in notes:
        report(note)
    folder = train(config, out, resume, overwrite, report)
    comparison = _compare(model, folder, config, report)
    _write(folder, model, comparison)
    return Retrained(folder, comparison)


def retrain_config(model: str, results: Path, settings: RetrainSettings) -> tuple[TrainConfig, list[str]]:
    """Return the configuration of a retraining, and lines on what it does; raises as `retrain`."""
    folder = find_model(model)
    card = read_card(folder)
    if card.format != "smp":
        raise UsageError(
            f"{model}: is stored as {card.format}, and only networks of segmentation-models-pytorch can be "
            "trained here; retrain it where it was made"
        )
    old, replayed, notes = _replay(folder, card, settings.replay)
    ignored = IGNORED_CODES if old is None else old.ignored_codes
    scheme = LabelScheme(card.tissue_classes, card.mpp, ignored, card.image_labels)
    review = ReviewedSlides(
        name=REVIEW,
        folder=results.resolve(),
        reviews=_absolute(settings.review_folder),
        slides=_absolute(settings.slides),
        patients=None if settings.patients is None else Patients(pattern=settings.patients),
        weight=sum(dataset.weight for dataset in replayed) or 1.0,
    )
    regions = review.parts(Path(), scheme).training
    known = _trained_on(folder) | {
        key
        for dataset in replayed
        for region in dataset.parts(_root(old), scheme).training
        for key in _keys(region)
    }
    split, note = _split(regions, known, settings)
    review = review.model_copy(update={"split": split})
    notes.append(note)
    return _config(folder, card, old, (review, *replayed), settings), notes


def _config(
    folder: Path,
    card: ModelCard,
    old: TrainConfig | None,
    datasets: Sequence[Dataset],
    settings: RetrainSettings,
) -> TrainConfig:
    """Return small and careful steps from a model, otherwise trained as before."""
    told = f"{card.training_data} Trained further on reviewed results.".strip()
    fresh = {"metrics": {}, "held_out": "", "training_data": told, "name": f"{card.name}-retrained"}
    values: dict[str, Any] = {} if old is None else resolved(old)
    shares = card.metrics.get("training", {}).get("crop_shares")
    early = any(dataset.split.validation for dataset in datasets)
    crop = min(LARGEST_CROP, card.tile - card.tile % 32) if old is None else old.crop
    return validated(
        TrainConfig,
        values
        | {
            "model": card.model_copy(update=fresh).model_dump(mode="json"),
            "start_from": str(folder.resolve()),
            "encoder_weights": None,
            "datasets": [dataset.model_dump(mode="json") for dataset in datasets],
            "allow_missing_classes": True,
            "keep_assessed": True,
            "temperature": card.temperature,
            # The shift to the prior stays the old one: another moves scores more than reviews do.
            "prior": values.get("prior") if shares else None,
            "crop_shares": shares,
            "sampling": "classes",
            "crop": crop,
            "epochs": settings.epochs,
            "steps_per_epoch": settings.steps,
            "patience": PATIENCE if early else None,
            "monitor": "validation_loss",
            "keep": "best",
            "freeze_encoder": False,
            "unfreeze_epoch": None,
            "ema_decay": None,
            "average_epochs": None,
            "optimizer": OptimizerConfig(learning_rate=settings.learning_rate).model_dump(mode="json"),
            "seed": settings.seed,
        },
        "retraining",
    )


def _replay(
    folder: Path, card: ModelCard, given: Path | None
) -> tuple[TrainConfig | None, list[Any], list[str]]:
    """Return the old training configuration, those of its data sets that are there, and lines on that."""
    path = folder / TRAIN_CONFIG if given is None else given
    if given is None and not path.is_file():
        return (
            None,
            [],
            [f"{folder.name}: holds no training configuration, so old data are not replayed (--replay)"],
        )
    old = read_train_config(path)
    if [c.name for c in old.model.classes] != [c.name for c in card.classes]:
        raise UsageError(
            f"{path}: is of a model with other classes than {card.name}; give its own configuration"
        )
    scheme, found, notes = old.scheme, [], []
    for dataset in old.datasets:
        try:
            dataset.parts(old.data_dir, scheme)
        except WsiSegError as error:
            notes.append(f"{dataset.name}: old data are not replayed ({error})")
            continue
        name = dataset.name if dataset.name != REVIEW else f"earlier {REVIEW}"
        found.append(dataset.model_copy(update={"name": name}))
    if found:
        notes.append(f"old data are replayed: {', '.join(dataset.name for dataset in found)}")
    return old, found, notes


def _split(
    regions: Sequence[AnnotatedRegion], known: set[str], settings: RetrainSettings
) -> tuple[Split, str]:
    """Return who is held out of the reviews, and a line on that."""
    groups = sorted({region.group for region in regions})
    free = [g for g in groups if not any(known & set(_keys(r)) for r in regions if r.group == g)]
    patients = all(region.patient is not None for region in regions)
    what = "patients" if patients else "slides (their patients are not known)"
    if settings.held_out:
        unknown = next((name for name in settings.held_out if name not in groups), None)
        if unknown is not None:
            raise UsageError(
                f"--held-out {unknown}: no reviewed patient or slide; there are {', '.join(groups)}"
            )
        seen = next((name for name in settings.held_out if name not in free), None)
        if seen is not None:
            raise UsageError(
                f"--held-out {seen}: the model was trained on it, which would favor the old one; name others"
            )
        test = list(settings.held_out)
    else:
        order = np.random.default_rng(settings.seed).permutation(len(free))
        count = min(
            len(groups) - 1, max(1, round(TEST_SHARE * len(groups)), LEAST_TEST * (len(groups) >= ENOUGH))
        )
        test = [free[i] for i in order[:count]]
    if len(test) >= len(groups):
        raise UsageError("--held-out: nobody is left to train on; hold out fewer, or review more slides")
    rest = [g for g in free if g not in test]
    left = len(groups) - len(test)
    stop = rest[: max(1, round(STOP_SHARE * len(groups)))] if left >= ENOUGH_TO_STOP else []
    parts = [f"{left - len(stop)} to train on", f"{len(stop)} to stop early", f"{len(test)} to compare on"]
    note = f"reviewed {what}: {', '.join(parts)}"
    if not test:
        why = "there is one alone" if len(groups) == 1 else "the model was trained on all of them"
        note += f"; nobody is held out, as {why}"
    return Split(validation=tuple(stop) or 0.0, test=tuple(test) or 0.0), note


def _compare(model: str, folder: Path, config: TrainConfig, report: Report) -> Comparison:
    """Evaluate both models on the test part, and write the evaluation of the new one."""
    if not any(dataset.split.test or dataset.split.by == "institute" for dataset in config.datasets):
        return not_compared(NOTHING_HELD_OUT)
    data = read_evaluate_config(folder / TRAIN_CONFIG)
    held_out = EvaluateSettings("test")
    report("evaluating the old model on what was held out")
    before = evaluate_model(load_model(model), data, held_out, progress_lines(report))
    report("evaluating the new model on the same")
    after = evaluate_model(load_model(str(folder)), data, held_out, progress_lines(report))
    write_evaluation(after, folder / EVALUATION, overwrite=True)
    write_metrics(folder, "test", config, after)
    return compare(before, after, REVIEW)


def _write(folder: Path, model: str, comparison: Comparison) -> None:
    """Write the comparison, and its sentence into the card."""
    old, card = read_card(find_model(model)), read_card(folder)
    names = {"old": {"name": old.name, "version": old.version, "model": model}, "new": {"name": card.name}}
    path = folder / COMPARISON
    with writing(path), atomic_path(path) as temporary:
        temporary.write_text(json.dumps(names | comparison.to_json(), indent=1) + "\n", encoding="utf-8")
    brief = {"verdict": comparison.verdict, "sentence": comparison.sentence, "from": old.name}
    text = "; ".join(filter(None, (card.held_out, f"compared with {old.name}: {comparison.sentence}")))
    card.model_copy(update={"metrics": {**card.metrics, "comparison": brief}, "held_out": text}).write(folder)


def _trained_on(folder: Path) -> set[str]:
    """Return the patients and files that a model was trained on, as far as its folder says."""
    path = folder / DATA
    if not path.is_file():
        return set()
    try:
        rows = read_record(path)["regions"]
        return {
            key
            for row in rows
            if row["part"] == "training"
            for key in (row["patient"] and f"patient {row['patient']}", *row["files"][:1])
            if key
        }
    except (OutputError, KeyError, TypeError) as error:
        raise DataError(f"{path}: is damaged; copy the model again") from error


def _keys(region: AnnotatedRegion) -> Iterable[str]:
    file = str(region.files[0])
    return (file,) if region.patient is None else (file, f"patient {region.patient}")


def _root(old: TrainConfig | None) -> Path:
    return Path() if old is None else old.data_dir


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()
