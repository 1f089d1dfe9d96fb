"""Evaluate a model on annotated data."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any, cast

from wsi_seg.datasets.hashes import file_hashes
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.region import AnnotatedRegion
from wsi_seg.evaluation.baselines import Baseline, parse_baseline
from wsi_seg.evaluation.calibration import ReliabilityCounter
from wsi_seg.evaluation.choice import Choice, PartChoice, choose_regions
from wsi_seg.evaluation.config import EvaluateConfig
from wsi_seg.evaluation.evaluation import Evaluation, Subject, finish
from wsi_seg.evaluation.predict import Classifier, classify_region, picture_of, predict_region
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.section import (
    BaselineTally,
    Example,
    ImageLabel,
    ImageTally,
    Sampler,
    Section,
    Tallies,
    count,
    joint_digest,
    merge,
    pool,
)
from wsi_seg.execution.tasks import load_predictor
from wsi_seg.inference.models.formats import PYTHON
from wsi_seg.pipeline.models import Model

EXAMPLES = 10
POOLED = "all data sets"


@dataclass(frozen=True, slots=True)
class EvaluateSettings:
    """Settings of an evaluation."""

    part: PartChoice = "test"
    baselines: tuple[str, ...] = ()
    """`everything=CLASS`, `hematoxylin=CLASS` or `hematoxylin=CLASS:THRESHOLD`."""
    batch: int = 1
    """Tiles per forward pass."""
    temperatures: tuple[float, ...] = ()
    """Relative to the model's, at which the calibration is measured too."""


Progress = Callable[[str, int, int], None]
"""Called with the name of a region that is done, how many are done, and how many there are."""
SECONDS_PER_LINE = 30.0


def progress_lines(report: Callable[[str], object]) -> Progress:
    """Return progress as lines, one every 30 s, for where no bar can be drawn."""
    last = time.monotonic()

    def progress(name: str, done: int, total: int) -> None:
        nonlocal last
        if time.monotonic() - last >= SECONDS_PER_LINE:
            last = time.monotonic()
            report(f"evaluated {done} of {total} regions")

    return progress


def evaluate_model(
    model: Model,
    data: EvaluateConfig,
    settings: EvaluateSettings | None = None,
    progress: Progress = lambda name, done, total: None,
    choices: Sequence[Choice] | None = None,
) -> Evaluation:
    """Predict annotated regions as `wsi-seg run` predicts slides, and score the result.

    Args:
        model: from `load_model`.
        data: where the annotated data lie.
        settings: part of the data, baselines; by default the test part.
        progress: told of each region that is done.
        choices: of `choose_regions`, for several models on the very same regions; None: they are loaded.

    Returns:
        Counts and scores of each data set, and of those pooled whose annotations tell all classes apart;
        `write_evaluation` makes a folder of it.

    Raises:
        DataError: an image or annotation is missing or inconsistent, or the part holds nothing.
        UsageError: a baseline is none, or names a class that the model does not have.
        SlideError, ModelError: the pixels or the model cannot be read.
    """
    started = datetime.now(UTC)
    settings = settings or EvaluateSettings()
    run = _Run(model, data, settings, progress, choices)
    sections = tuple(run.section(choice) for choice in run.choices)
    full = [section for section in sections if section.rows[0].rest_of is None]
    if len(full) > 1:
        sections = (*sections, pool(full, POOLED))
    return finish(
        subject_of(model),
        sections,
        tuple(run.examples),
        data=describe_data(data, settings),
        started=started,
    )


def subject_of(model: Model) -> Subject:
    """Return what an evaluation says of a model."""
    facts = model.facts
    made_with = {"device": facts.device.split(":")[0], "precision": facts.precision, "tta": facts.tta}
    folder = None if facts.card.format == PYTHON else dict(model.predictor.arguments).get("reference")
    return Subject(facts.card, facts.digest, made_with, None if folder is None else Path(folder))


def describe_data(data: EvaluateConfig, settings: EvaluateSettings) -> dict[str, Any]:
    """Return what a model is evaluated on, and how, as JSON values."""
    plain = data.model_dump(mode="json")
    return {"part": settings.part, "baselines": list(settings.baselines), **plain}


class _Run:
    """One model on its way through the data."""

    def __init__(
        self,
        model: Model,
        data: EvaluateConfig,
        settings: EvaluateSettings,
        progress: Progress,
        choices: Sequence[Choice] | None,
    ) -> None:
        self.card = card = model.facts.card
        self.settings, self.progress = settings, progress
        self.baselines = [parse_baseline(text, card) for text in settings.baselines]
        scheme = LabelScheme(card.tissue_classes, card.mpp, data.ignored_codes, card.image_labels)
        # All data are read before anything is predicted, so that what is wrong is said at once.
        self.choices = choose_regions(data, scheme, settings.part) if choices is None else choices
        self.predictor = load_predictor(model.predictor)
        self.examples: list[Example] = []
        self.pictures = share_examples({choice.name: len(choice.regions) for choice in self.choices})
        self.total = sum(len(c.regions) * (1 + len(self._baselines_of(c))) for c in self.choices)
        self.done = 0

    def section(self, choice: Choice) -> Section:
        """Evaluate the regions of one choice."""
        start = time.perf_counter()
        rows = self._rows(choice)
        by_group: dict[str, Tallies] = {}
        images = []
        pictures = self.pictures[choice.name]
        temperatures = (1.0, 1 / self.card.temperature, *self.settings.temperatures)
        reliability: dict[str, ReliabilityCounter] = {}
        for index, region in enumerate(choice.regions):
            sampler = Sampler(region.size)
            blocks = predict_region(region, self.predictor, self.card, self.settings.batch)
            counter = reliability.setdefault(region.group, ReliabilityCounter(rows[0], temperatures))
            tallies = count(counter(sampler.watch(blocks)), rows)
            merge(by_group, region.group, tallies)
            images.append(ImageTally(region.name, region.group, tuple(t.counts for t in tallies)))
            if index < pictures:
                picture = picture_of(region, sampler.step, sampler.size)
                self.examples.append(sampler.example(region.name, picture, rows[0]))
            self._tell(region)
        hashes = file_hashes(choice.regions)
        return Section(
            name=choice.name,
            rows=rows,
            by_group=by_group,
            images=tuple(images),
            files=len(hashes),
            digest=joint_digest(hashes.values()),
            patients_known=all(region.patient is not None for region in choice.regions),
            notes=choice.notes,
            labels=tuple(self._labels(choice)),
            baselines=tuple(self._baselines(choice)),
            reliability=reduce(add, (counter.total for counter in reliability.values())),
            reliability_of={group: counter.total for group, counter in reliability.items()},
            seconds=time.perf_counter() - start,
        )

    def _tell(self, region: AnnotatedRegion) -> None:
        self.done += 1
        self.progress(region.name, self.done, self.total)

    def _rows(self, choice: Choice) -> tuple[Rows, ...]:
        if choice.known is not None:
            return (Rows.of_one_class(self.card.tissue_classes, choice.known),)
        return Rows.of_card(self.card)

    def _labels(self, choice: Choice) -> Iterator[ImageLabel]:
        if not self.card.image_labels:
            return
        classifier = cast(Classifier, self.predictor)
        for region in choice.regions:
            if region.label is not None:
                probabilities = classify_region(region, classifier, self.card, self.settings.batch)
                yield ImageLabel(region.name, region.group, region.label, probabilities)

    def _baselines_of(self, choice: Choice) -> list[Baseline]:
        """Return the baselines whose class the annotations know."""
        return [b for b in self.baselines if choice.known in (None, b.channel)]

    def _baselines(self, choice: Choice) -> Iterator[BaselineTally]:
        for baseline in self._baselines_of(choice):
            predictor = baseline.predictor(choice.regions, self.card)
            rows = (Rows.of_one_class(self.card.tissue_classes, baseline.channel),)
            by_group: dict[str, Tallies] = {}
            for region in choice.regions:
                blocks = predict_region(region, predictor, self.card, self.settings.batch)
                merge(by_group, region.group, count(blocks, rows))
                self._tell(region)
            yield BaselineTally(baseline.name, baseline.class_name, by_group)


def share_examples(regions: dict[str, int], most: int = EXAMPLES) -> dict[str, int]:
    """Return how many of the examples each data set gets: as equal a share as its regions allow."""
    shares = dict.fromkeys(regions, 0)
    for _ in range(most):
        open_names = [name for name in regions if shares[name] < regions[name]]
        if open_names:
            shares[min(open_names, key=lambda name: shares[name])] += 1
    return shares
