"""Retraining from the browser: `wsi-seg train --from MODEL --reviews OUT`, and a run with the new model."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import writing
from wsi_seg.datasets.patients import patient_by_name
from wsi_seg.inference.models.registry import find_model, model_hash
from wsi_seg.pipeline.export import manifest_part
from wsi_seg.pipeline.rerun import settings_texts, write_table
from wsi_seg.results.files import read_record
from wsi_seg.review.results import SlideWithReview, slides_with_review
from wsi_seg.training.progress import TrainingProgress, is_on_its_way, read_progress
from wsi_seg.training.settings import COMPARISON, RetrainSettings
from wsi_seg.viewer.jobs import Command, Job
from wsi_seg.viewer.responses import Refused
from wsi_seg.viewer.runs import KnownModel, RunJob, Runs
from wsi_seg.viewer.state import ViewerState

# Slides that a new model was run on; its folder of results is known by this file.
TABLE = "slides.csv"
# Names of folders, and of nothing else.
NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
# That each slide is another patient's.
EACH_ITS_OWN = "(.+)"

Whose = Literal["names", "slides"]
"""Patients are known by TCGA barcodes in the names of slides, or each slide is another patient's."""


@dataclass
class TrainJob(Job):
    """A retraining."""

    folder: Path
    """Folder of the new model."""
    arguments: Sequence[str]
    steps: int
    """At most; it may stop early."""

    def succeeded(self) -> bool:
        return self.command.process.poll() == 0

    def progress(self) -> TrainingProgress:
        return read_progress(self.folder)

    def comparison(self) -> dict[str, Any]:
        """Return the content of the comparison of old and new model; OutputError where it cannot be read."""
        return read_record(self.folder / COMPARISON)

    def command_line(self, *more: str) -> str:
        """Return the command for a terminal."""
        return shlex.join(["wsi-seg", *self.arguments, *more])


class Retrainings:
    """Starts trainings on the reviews of the results that the server shows."""

    def __init__(self, state: ViewerState, runs: Runs, reviews: Path) -> None:
        self.state, self.runs, self.reviews = state, runs, reviews

    def slides(self) -> list[SlideWithReview]:
        """Return the slides that were reviewed.

        Raises:
            OutputError: results or reviews are damaged.
        """
        if not self.state.folders.all():
            return []
        return slides_with_review(self.runs.out, self.reviews)

    def models(self) -> dict[str, KnownModel]:
        """Return the models that can be trained here, by name."""
        return {name: known for name, known in self.runs.models().items() if known.card.format == "smp"}

    def usual_model(self, slides: Sequence[SlideWithReview]) -> str | None:
        """Return the name of the model that made the results; None where it is not known here."""
        digests = [manifest_part(str, one.manifest, one.folder, "model", "digest") for one in slides]
        for name, known in self.models().items():
            try:
                if model_hash(find_model(known.reference)) in digests:
                    return name
            except ModelError:  # it is said when it is chosen
                continue
        return None

    def free_name(self) -> str:
        """Return a name that no model and no folder of results has."""
        return next(name for name in _names() if self._taken(name) is None)

    def elsewhere(self) -> list[str]:
        """Return the names of models in training that this server did not start, or before it was killed."""
        job = self.runs.slot.last(TrainJob)
        folders = sorted(self.runs.models_folder.glob("*/"))
        others = [path for path in folders if job is None or path != job.folder]
        return [path.name for path in others if is_on_its_way(path)]

    def start(self, model: str, name: str, steps: int, whose: Whose, held_out: Sequence[str]) -> TrainJob:
        """Start a training.

        Raises:
            Refused: 400, the model, the name or a held-out slide or patient is none; 409, the name is taken,
                nothing is reviewed, or a job runs.
            OutputError: results or reviews are damaged.
        """
        known = self.models().get(model)
        if known is None:
            raise Refused(400, f"no model {model[:80]!r} that can be trained here")
        self._check_name(name)
        slides = self.slides()
        if not slides:
            raise Refused(409, "nothing is reviewed yet: judge regions first, or mark an area as reviewed")
        groups = {group_of(one, whose) for one in slides}
        unknown = next((one for one in held_out if one not in groups), None)
        if unknown is not None:
            raise Refused(400, f"no reviewed slide or patient {unknown[:80]!r} to hold out")
        return self.runs.slot.start(lambda: self._launch(known, name, steps, whose, held_out))

    def _launch(
        self, model: KnownModel, name: str, steps: int, whose: Whose, held_out: Sequence[str]
    ) -> TrainJob:
        folder = self.runs.models_folder / name
        epochs = max(1, round(steps / RetrainSettings().steps))
        each = -(-steps // epochs)
        arguments = [
            "train", f"--from={model.reference}", f"--reviews={self.runs.out}",
            f"--review-folder={self.reviews}", f"--slides={self.state.places.slides or self.runs.folder}",
            f"--output={folder}", f"--epochs={epochs}", f"--steps={each}",
            *([f"--patients={EACH_ITS_OWN}"] if whose == "slides" else []),
            *(f"--held-out={one}" for one in held_out),
        ]  # fmt: skip
        return TrainJob(Command.started(arguments), folder, arguments, epochs * each)

    def run(self, name: str) -> RunJob:
        """Start a run of the reviewed slides with a model that was trained here, in a folder of its name.

        Each is run with the settings of its reviewed results, so that the maps can be compared.

        Raises:
            Refused: 400, there is no such model; 409, the folder is taken, no slide is there, or a job runs.
            OutputError: results are damaged, or the folder cannot be written.
        """
        if not NAME.fullmatch(name) or not (model := self._trained(name)):
            raise Refused(400, f"no model {name[:80]!r} was trained here")
        out = self.runs.out / name
        table = out / TABLE
        self.runs.refuse_in_results()
        if out.is_symlink() or (out.exists() and not table.is_file()):
            raise Refused(409, f"{name}: is there already, and nothing in it is overwritten")
        entries = {entry.folder: entry.id for entry in self.state.folders.all()}
        rows, olds = [], {}
        for one in self.slides():
            place = self.state.finder.find(one.slide)
            if place.path is not None and one.folder in entries:
                texts = settings_texts(one.manifest, one.folder)
                rows.append({"slide": str(place.path.absolute()), "name": one.name, **texts})
                olds[out / one.name] = entries[one.folder]
        if not rows:
            raise Refused(409, "no reviewed slide is where it was; say where with --slides DIR")

        def launch() -> RunJob:
            with writing(out):
                out.mkdir(exist_ok=True)
            write_table(table, rows)
            return self.runs.table_job(table, out, model, olds)

        return self.runs.slot.start(launch)

    def _trained(self, name: str) -> KnownModel | None:
        known = self.runs.models().get(name)
        return known if known and Path(known.reference) == self.runs.models_folder / name else None

    def _check_name(self, name: str) -> None:
        if not NAME.fullmatch(name):
            raise Refused(
                400, f"{name[:80]!r} is no name for a model; use letters, digits, dot, dash and underscore"
            )
        taken = self._taken(name)
        if taken is not None:
            raise Refused(409, f"{taken}: is there already, and nothing is overwritten; give another name")

    def _taken(self, name: str) -> Path | str | None:
        """Return what has a name already: a folder, or a model that is known by it."""
        folders = (self.runs.models_folder / name, self.runs.out / name)
        there = next((path for path in folders if path.exists() or path.is_symlink()), None)
        return there or (name if name in self.runs.models() else None)


def group_of(one: SlideWithReview, whose: Whose) -> str:
    """Return the patient of a slide, or its name where the patient is not known, as `train` calls it."""
    file = Path(one.slide.path)
    if whose == "slides":
        return file.name
    return patient_by_name(file) or one.name


def _names() -> Iterator[str]:
    number = 1
    while True:
        yield f"retrained-{number}"
        number += 1
