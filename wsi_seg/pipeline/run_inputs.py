"""Files, model and settings of a run as a quick hash, by which finished slides are skipped unopened."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import wsi_seg
from wsi_seg.core.card import Task
from wsi_seg.core.errors import SlideError
from wsi_seg.core.files import reading, reason_of
from wsi_seg.core.storage import is_remote
from wsi_seg.core.versions import package_version
from wsi_seg.inference.models.formats import format_of
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.planning.plan import ModelFacts
from wsi_seg.results.matching import ExpectedResults, absolute
from wsi_seg.slides.identity import FileStamp, hashed_meanwhile, stamp_file, stamp_slide
from wsi_seg.slides.slide import SlideInfo
from wsi_seg.tissue.mask import METHODS

logger = logging.getLogger(__name__)

# Settings that change no byte of the results, the model, which counts by its digest, and formats, which are
# added to results that lack them; all others count.
NOT_DECIDING = ("model", "workers", "overwrite", "verify", "cache", "staging", "formats")


def made_with(model: ModelFacts) -> dict[str, str]:
    """Return the versions that distinguish results from those of other software; torch is not imported."""
    by = ("openvino",) if model.device == "openvino" else format_of(model.card).distributions
    packages = ("torch", *by)
    return {"wsi-seg": wsi_seg.__version__, **{name: package_version(name) for name in packages}}


class RunInputs:
    """A slide that is to be run with a model and settings, before it is opened."""

    def __init__(
        self,
        path: str | Path,
        model: ModelFacts,
        settings: RunSettings,
        finders: Mapping[Task, ModelFacts] | None = None,
    ) -> None:
        """Look at the slide's files; one that is missing is for `open_slide` to say.

        Args:
            path: of the slide.
            model: facts of the model.
            settings: of the run.
            finders: see `Finders.facts`.
        """
        self.path = absolute(path)
        self.versions = made_with(model)
        self._model, self._settings, self._finders = model, settings, finders or {}
        self._files: tuple[FileStamp, ...] = ()
        if not is_remote(self.path):
            with suppress(OSError):
                self._files = stamp_slide(self.path)

    def key(self, versions: Mapping[str, str]) -> str | None:
        """Return a hash of the stamps of the slide's files, the model, the settings and these versions.

        Equal hashes mean equal results. Different ones need not mean different results: a copy of a slide has
        another time of change, so then the slide is opened and its content decides
        (`pipeline.summary.run_key`).

        Returns:
            None for a URL, a missing file, or anything else that only opening it can show.
        """
        if not self._files:
            return None
        model, settings = self._model, self._settings
        settings = dataclasses.replace(settings, regions=settings.regions.of_model(model.card))
        finders = self._finders
        tissue: list[Any] = [(task, facts.digest, facts.precision) for task, facts in finders.items()]
        if settings.tissue not in METHODS and "tissue" not in finders:
            try:
                tissue += [dataclasses.astuple(stamp_file(Path(settings.tissue)))]
            except OSError:
                return None
        parts = (
            dict(versions),
            [dataclasses.astuple(file) for file in self._files],
            tissue,
            model.digest,
            model.device.split(":")[0],
            model.precision,
            model.tta,
            _deciding(settings),
        )
        return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()

    def expected(self, slide: SlideInfo, key_with: Callable[[Mapping[str, str]], str]) -> ExpectedResults:
        """Return what the run is about to make, now that its slide is open; see `ExpectedResults`.

        Raises:
            SlideError: the slide's files cannot be looked at.
        """
        with reading(self.path, SlideError):
            self._files = self._files or stamp_slide(self.path)
        return ExpectedResults(
            self.path,
            slide,
            self._files,
            self.versions,
            key_with,
            choices(self._model, self._settings, self._finders),
            self._settings.overwrite,
            self._settings.verify,
        )

    @contextmanager
    def hashing(self, known: str | None, keep: Callable[[str], None]) -> Iterator[Callable[[], str | None]]:
        """Hash all of a local slide meanwhile, unless its hash is known.

        `keep` is called with the hash in another thread, once it is there.

        Yields:
            A function that waits for the hash and returns it, None where there is none.
        """
        if known is not None or is_remote(self.path):
            yield lambda: known
            return
        with hashed_meanwhile(Path(self.path), keep) as future:

            def result() -> str | None:
                try:
                    return future.result()
                except OSError as error:  # what the network needs of it may be whole
                    logger.warning("%s: cannot be hashed as a whole (%s)", self.path, reason_of(error))
                    return None

            yield result

    def check_unchanged(self, expected: ExpectedResults) -> None:
        """Refuse a local slide whose files were changed while they were read.

        Raises:
            SlideError: they are others than at the beginning.
        """
        if is_remote(self.path):
            return
        try:
            now = stamp_slide(self.path)
        except OSError as error:
            logger.warning("%s: cannot be looked at any more (%s)", self.path, reason_of(error))
            return
        if now != expected.files:
            raise SlideError(
                f"{self.path}: was changed while it was run, so its results would be of both; "
                "run it again with --overwrite"
            )


def choices(model: ModelFacts, settings: RunSettings, finders: Mapping[Task, ModelFacts]) -> dict[str, Any]:
    """Return models and settings as a manifest says them, as far as each of them alone decides results."""
    chosen = _deciding(settings)
    del chosen["strict"], chosen["plan"]["batch"], chosen["plan"]["max_memory"]
    return {
        "model": {"digest": model.digest},
        "plan": {"precision": model.precision, "tta": model.tta, "device": model.device},
        "settings": chosen,
        "finders": {task: {"digest": facts.digest} for task, facts in finders.items()},
    }


def _deciding(settings: RunSettings) -> dict[str, Any]:
    """Return the settings that count, as JSON has them."""
    chosen = {k: v for k, v in dataclasses.asdict(settings).items() if k not in NOT_DECIDING}
    del chosen["plan"]["threads"]
    return dict(json.loads(json.dumps(chosen, default=str)))
