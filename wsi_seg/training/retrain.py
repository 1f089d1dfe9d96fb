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
from wsi_seg.datasets.hashes import file_hash
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.patients import Patients
from wsi_seg.datasets.region import AnnotatedRegion
from wsi_seg.datasets.reviews import ReviewedSlides
from wsi_seg.datasets.split import PARTS, Split
from wsi_seg.evaluation.choice import Choice, choose_regions
from wsi_seg.evaluation.comparison import LEAST_FOR_BETTER, Comparison, compare, not_compared
from wsi_seg.evaluation.config import TRAIN_CONFIG, EvaluateConfig
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
# is at least as many as "better" takes, and from how many left over another one stops the training early.
TEST_SHARE = 0.3
ENOUGH, LEAST_TEST = 10, LEAST_FOR_BETTER
ENOUGH_TO_STOP = 3
STOP_SHARE = 0.15
PATIENCE = 3
LARGEST_CROP = 256
# Begin of the key of a file by its content.
CONTENT = "sha256 "


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
    held_out = _held_out(config)  # now: the review may grow while this trains
    folder = train(config, out, resume, overwrite, report)
    comparison = _compare(model, folder, config, held_out, report)
    _write(folder, model, config, comparison)
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
    old = _old_config(folder, card, settings.replay)
    ignored = IGNORED_CODES if old is None else old.ignored_codes
    scheme = LabelScheme(card.tissue_classes, card.mpp, ignored, card.image_labels)
    by_name = {"pattern": settings.patients}
    review = ReviewedSlides(
        name=REVIEW,
        folder=results.resolve(),
        reviews=_absolute(settings.review_folder),
        slides=_absolute(settings.slides),
        patients=None if settings.patients is None else validated(Patients, by_name, "--patients"),
    )
    regions = review.parts(Path(), scheme).training
    if old is None:
        notes = [f"{folder.name}: holds no training configuration, so old data are not replayed (--replay)"]
        replayed, known = list[Any](), _trained_on(folder)
    else:
        replayed, known, notes = _replay(old, regions, _trained_on(folder))
    split, note = _split(regions, known, settings)
    weight = sum(dataset.weight for dataset in replayed) or 1.0
    review = review.model_copy(update={"split": split, "weight": weight})
    return _config(folder, card, old, (review, *replayed), settings), [*notes, note]


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
            # The old model may have been trained on another machine.
            "accelerator": "cpu" if values.get("accelerator") == "cpu" else "auto",
            "devices": 1,
            "optimizer": OptimizerConfig(learning_rate=settings.learning_rate).model_dump(mode="json"),
            "seed": settings.seed,
        },
        "retraining",
    )


def _old_config(folder: Path, card: ModelCard, given: Path | None) -> TrainConfig | None:
    """Return the configuration of the old training; None where the model's folder has none."""
    path = folder / TRAIN_CONFIG if given is None else given
    if given is None and not path.is_file():
        return None
    old = read_train_config(path)
    if [c.name for c in old.model.classes] != [c.name for c in card.classes]:
        raise UsageError(
            f"{path}: is of a model with other classes than {card.name}; give its own configuration"
        )
    return old


def _replay(
    old: TrainConfig, reviewed: Sequence[AnnotatedRegion], known: set[str]
) -> tuple[list[Any], set[str], list[str]]:
    """Return the old data sets that are there, what is known to have been trained on, and lines on that.

    An earlier review of the same slides is not replayed: the new one holds its verdicts and later ones.
    """
    slides = {region.files[0] for region in reviewed}
    found: list[Any] = []
    trained, notes = set(known), []
    for dataset in old.datasets:
        try:
            parts = dataset.parts(old.data_dir, old.scheme)
        except WsiSegError as error:
            notes.append(f"{dataset.name}: old data are not replayed ({error})")
            continue
        own = {region.files[0] for part in PARTS for region in parts.of(part)}
        again = isinstance(dataset, ReviewedSlides) and len(own & slides)
        if again:
            notes.append(f"{dataset.name}: not replayed, {again} of its {len(own)} slides are in this review")
        else:
            found.append(dataset.model_copy(update={"name": _name_of_old(dataset.name, old)}))
        if not (again and known):  # by now it may have slides that the model has not seen
            trained.update(key for region in parts.training for key in _keys(region))
    if found:
        notes.append(f"old data are replayed: {', '.join(dataset.name for dataset in found)}")
    return found, trained, notes


def _name_of_old(name: str, old: TrainConfig) -> str:
    """Return the name of an old data set: another one where the new review has it."""
    if name != REVIEW:
        return name
    taken = {dataset.name for dataset in old.datasets}
    names = (f"earlier {REVIEW}{number}" for number in ("", *(f" {n}" for n in range(2, len(taken) + 2))))
    return next(one for one in names if one not in taken)


def _split(
    regions: Sequence[AnnotatedRegion], known: set[str], settings: RetrainSettings
) -> tuple[Split, str]:
    """Return who is held out of the reviews, and a line on that."""
    groups = sorted({region.group for region in regions})
    trained = _trained_groups(regions, known)
    free = [group for group in groups if group not in trained]
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
        test = list(dict.fromkeys(settings.held_out))
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


def _held_out(config: TrainConfig) -> list[Choice]:
    """Return the test part, on which both models are compared; empty where nothing is held out."""
    if not any(dataset.split.test or dataset.split.by == "institute" for dataset in config.datasets):
        return []
    return choose_regions(_evaluated(config), config.scheme, "test")


def _evaluated(config: TrainConfig) -> EvaluateConfig:
    values = {name: getattr(config, name) for name in EvaluateConfig.model_fields}
    return EvaluateConfig(**values)


def _compare(
    model: str, folder: Path, config: TrainConfig, held_out: Sequence[Choice], report: Report
) -> Comparison:
    """Evaluate both models on the same regions, and write the evaluation of the new one."""
    if not held_out:
        return not_compared(NOTHING_HELD_OUT)
    data, part = _evaluated(config), EvaluateSettings("test")
    report("evaluating the old model on what was held out")
    before = evaluate_model(load_model(model), data, part, progress_lines(report), held_out)
    report("evaluating the new model on the same")
    after = evaluate_model(load_model(str(folder)), data, part, progress_lines(report), held_out)
    write_evaluation(after, folder / EVALUATION, overwrite=True)
    write_metrics(folder, "test", config, after)
    return compare(before, after, REVIEW)


def _write(folder: Path, model: str, config: TrainConfig, comparison: Comparison) -> None:
    """Write the comparison, and its sentence into the card."""
    old, card = read_card(find_model(model)), read_card(folder)
    names = {"old": {"name": old.name, "version": old.version, "model": model}, "new": {"name": card.name}}
    path = folder / COMPARISON
    with writing(path), atomic_path(path) as temporary:
        temporary.write_text(json.dumps(names | comparison.to_json(), indent=1) + "\n", encoding="utf-8")
    brief = {"verdict": comparison.verdict, "sentence": comparison.sentence, "from": old.name}
    scores = (
        card.held_out if comparison.data_sets else config.model.held_out
    )  # a resumed run has its sentence
    text = "; ".join(filter(None, (scores, f"compared with {old.name}: {comparison.sentence}")))
    card.model_copy(update={"metrics": {**card.metrics, "comparison": brief}, "held_out": text}).write(folder)


def _trained_on(folder: Path) -> set[str]:
    """Return the patients and files that a model was trained on, as far as its folder says, as keys."""
    path = folder / DATA
    if not path.is_file():
        return set()
    try:
        record = read_record(path)
        hashes: dict[str, str] = record["files_sha256"]
        rows = [row for row in record["regions"] if row["part"] == "training"]
        files = {row["files"][0] for row in rows}
        patients = {f"patient {row['patient']}" for row in rows if row["patient"]}
        return files | patients | {f"{CONTENT}{hashes[file]}" for file in files & hashes.keys()}
    except (OutputError, KeyError, TypeError, IndexError) as error:
        raise DataError(f"{path}: is damaged; copy the model again") from error


def _trained_groups(regions: Sequence[AnnotatedRegion], known: set[str]) -> set[str]:
    """Return the groups with a patient or slide that was trained on, also where the slide has moved."""
    trained = {region.group for region in regions if known & set(_keys(region))}
    if any(key.startswith(CONTENT) for key in known):
        others = {region.files[0]: region.group for region in regions if region.group not in trained}
        files = ((file, group) for file, group in others.items() if file.is_file())
        trained |= {group for file, group in files if f"{CONTENT}{file_hash(file)}" in known}
    return trained


def _keys(region: AnnotatedRegion) -> Iterable[str]:
    file = str(region.files[0])
    return (file,) if region.patient is None else (file, f"patient {region.patient}")


def _absolute(path: Path | None) -> Path | None:
    return None if path is None else path.resolve()
