"""Runs that are started from the browser, of slides and models that are in tables of the server."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from wsi_seg.core.card import CARD_NAME, ModelCard, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.core.folders import dicom_files, is_passed_over, walk_folders
from wsi_seg.core.formats import SLIDE_ENDINGS
from wsi_seg.inference.models.registry import list_installed, list_models
from wsi_seg.results.files import MANIFEST
from wsi_seg.slides.slide import default_name
from wsi_seg.viewer.jobs import Command, Job, JobSlot
from wsi_seg.viewer.presets import PRESETS
from wsi_seg.viewer.responses import Refused

log = logging.getLogger(__name__)

# A folder that is opened for this is meant to hold them.
IMAGE_ENDINGS = (".png", ".jpg", ".jpeg")
DEEPEST = 8
MOST_SLIDES = 10_000
# Added to the name of the folder of results: models that were made of its reviews.
MODELS_SUFFIX = "-models"


@dataclass
class RunJob(Job):
    """A run of one slide or several."""

    finals: Sequence[Path]
    """Folders that the results will be in."""
    olds: Sequence[str] = ()
    """For each the id of other results of the slide, to be compared with."""

    def succeeded(self) -> bool:
        return bool(self.results())

    def results(self) -> list[dict[str, Any]]:
        """Return what the run has printed of slides that have results."""
        try:
            printed = json.loads(self.command.printed() or b"[]")
        except ValueError:  # it was ended while it printed
            return []
        return [one for one in printed if one.get("folder")]


@dataclass(frozen=True, slots=True)
class KnownModel:
    """A model that may be run."""

    card: ModelCard
    reference: str
    """Its name, or its folder."""


@dataclass(frozen=True, slots=True)
class RunChoice:
    """Choices of somebody who starts a run."""

    slide: str
    """Its place in the folder."""
    model: str
    groups: tuple[str, ...]
    threshold: float
    preset: str
    """Name of one of `PRESETS`."""
    mpp: float | None
    """Microns per level-0 pixel; None: those of the slide."""
    overwrite: bool
    """Replace results of the slide with other settings, models or versions."""


class Runs:
    """Starts runs on the slides of one folder, and with models that are known here."""

    def __init__(self, out: Path, folder: Path, slot: JobSlot) -> None:
        self.out, self.folder, self.slot = out.resolve(), folder.resolve(), slot
        whole = self.out.parent if self._of_one_slide() else self.out
        self.models_folder = whole.with_name(f"{whole.name}{MODELS_SUFFIX}")
        """Where models are that were made of the reviews of these results."""

    def _of_one_slide(self) -> bool:
        return (self.out / MANIFEST).is_file()

    def refuse_in_results(self) -> None:
        """Raise Refused, 409, where a run would write into the results of one slide."""
        if self._of_one_slide():
            raise Refused(409, "the results of one slide are open; open the folder of all results instead")

    def slides(self) -> dict[str, Path]:
        """Return the slides in the folder: by their place in it, the file or the folder of a DICOM series."""
        return dict(sorted(islice(_find_slides(self.folder).items(), MOST_SLIDES)))

    def models(self) -> dict[str, KnownModel]:
        """Return models of tissue classes: bundled, installed, and made of these reviews, by name."""
        found = {card.name: KnownModel(card, card.name) for card in list_models()}
        try:
            found |= {card.name: KnownModel(card, card.name) for card in list_installed()}
        except ModelError as error:  # bundled ones run all the same
            log.warning("%s", error)
        for name, card in _cards_in(self.models_folder).items():
            found.setdefault(name, KnownModel(card, str(self.models_folder / name)))
        return {
            name: known
            for name, known in found.items()
            if known.card.task == "segmentation" and known.card.groups
        }

    def slide(self, name: str) -> Path:
        """Return a slide in the folder by its place; raises Refused, 400, where there is none."""
        path = self.slides().get(name)
        if path is None:
            raise Refused(400, f"no slide {name[:80]!r} in the folder of --allow-run")
        return path

    def final(self, path: Path) -> Path:
        """Return the folder that the results of a slide will be in."""
        return self.out / (path.name if path.is_dir() else default_name(str(path)))

    def start(self, asked: RunChoice) -> RunJob:
        """Start a run.

        Raises:
            Refused: 400, the slide, model, preset or a group is none that may be run; 409, a job runs, or the
                results of one slide are open.
        """
        self.refuse_in_results()
        path, known, preset = (
            self.slide(asked.slide),
            self.models().get(asked.model),
            PRESETS.get(asked.preset),
        )
        if known is None:
            raise Refused(400, f"no model {asked.model[:80]!r}")
        if preset is None:
            raise Refused(400, f"no preset {asked.preset[:80]!r}; there are {', '.join(PRESETS)}")
        names = [group.name for group in known.card.groups]
        if not asked.groups or not set(asked.groups) <= set(names):
            raise Refused(400, f"groups must be one or more of {', '.join(names)}")
        arguments = [
            "run", str(path), f"--output={self.out}", f"--model={known.reference}",
            f"--groups={','.join(asked.groups)}", f"--threshold={asked.threshold:g}", *preset.flags, "--json",
            *([] if asked.mpp is None else [f"--mpp={asked.mpp!r}"]),
            *(["--overwrite"] if asked.overwrite else []),
        ]  # fmt: skip
        return self.slot.start(lambda: RunJob(Command.started(arguments), [self.final(path)]))

    def table_job(self, table: Path, out: Path, model: KnownModel, olds: Mapping[Path, str]) -> RunJob:
        """Launch a run of a table of slides, for `JobSlot.start`.

        Args:
            table: see `pipeline.rerun.write_table`.
            out: folder of its results.
            model: that all slides are run with.
            olds: folder of the results of each slide to the id of older ones of that slide.
        """
        arguments = ["run", str(table), f"--output={out}", f"--model={model.reference}", "--json"]
        return RunJob(Command.started(arguments), list(olds), list(olds.values()))


def _cards_in(folder: Path) -> dict[str, ModelCard]:
    """Return the cards of the models in a folder, by the names of theirs; links are passed over."""
    found = {}
    for path in sorted(folder.glob(f"*/{CARD_NAME}")):
        if path.is_symlink() or path.parent.is_symlink() or is_passed_over(path.parent.name):
            continue
        try:
            found[path.parent.name] = read_card(path.parent)
        except ModelError as error:  # the others can be run all the same
            log.warning("%s", error)
    return found


def _find_slides(root: Path) -> dict[str, Path]:
    """Return the slides in and under a folder by their place in it; links are followed to files within it."""
    found: dict[str, Path] = {}
    for folder, entries in walk_folders(root, DEEPEST, skip_unreadable=True):
        files = [path for path in entries if not path.is_symlink() or path.resolve().is_relative_to(root)]
        slides = [path for path in files if path.suffix.lower() in (*SLIDE_ENDINGS, *IMAGE_ENDINGS)]
        if folder != root and dicom_files(files)[0]:
            slides.append(folder)
        found |= {path.relative_to(root).as_posix(): path for path in slides}
        if len(found) >= MOST_SLIDES:
            break
    return found
