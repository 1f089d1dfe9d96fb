"""The folder of a training run: what is needed to repeat it, to resume it, and to use its result."""

from __future__ import annotations

import json
import platform
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import yaml

from wsi_seg.core.card import CARD_NAME, WEIGHTS_NAME
from wsi_seg.core.errors import OutputError, UsageError
from wsi_seg.core.files import reason_of
from wsi_seg.core.versions import package_version
from wsi_seg.core.yaml_config import load_yaml
from wsi_seg.datasets.hashes import file_hashes
from wsi_seg.inference.models.registry import find_model
from wsi_seg.results.claims import Claim, claimed
from wsi_seg.training.config import TrainConfig, resolved
from wsi_seg.training.data import TrainingData
from wsi_seg.training.progress import LOG, claim_of

CONFIG = "train.yaml"
DATA = "data.json"
ENVIRONMENT = "environment.json"
CHECKPOINTS = "checkpoints"
LAST = "last.ckpt"
BEST = "best.ckpt"
OWN = (CONFIG, DATA, ENVIRONMENT, CHECKPOINTS, LOG, WEIGHTS_NAME, CARD_NAME)

# In the folders of checkpoints and logs.
WRITTEN = ("*.ckpt", "*.ckpt.tmp", "metrics*.csv", "hparams.yaml", "events.out.tfevents.*")

# What decides the result besides the configuration and the data.
PACKAGES = ("wsi-seg", "torch", "torchvision", "segmentation-models-pytorch", "timm", "lightning", "numpy")


class TrainingFolder:
    """The folder of one run."""

    def __init__(self, path: Path, writes: bool = True) -> None:
        """`writes` is False in all processes but one of a run on several devices."""
        self.path = path
        self.writes = writes
        self._claim: Claim | None = None

    @contextmanager
    def held(self) -> Iterator[None]:
        """Keep other trainings out of the folder.

        Raises:
            ClaimedError: one is at work there.
            OutputError: it cannot be written there.
        """
        if not self.writes:
            yield
            return
        with claimed(claim_of(self.path)) as self._claim:
            yield

    def confirm(self) -> None:
        """Return while the folder is this training's; OutputError where another one took it over."""
        if self._claim is not None:
            self._claim.confirm()

    @property
    def finished(self) -> bool:
        """True where the model is there, whole."""
        return (self.path / WEIGHTS_NAME).is_file() and (self.path / CARD_NAME).is_file()

    def begin(self, config: TrainConfig, data: TrainingData, resume: bool, overwrite: bool) -> Path | None:
        """Write what the run is, or check that an earlier one was the same.

        Returns:
            The checkpoint to resume from; None to start from the beginning.

        Raises:
            OutputError: the folder cannot be written, or holds something else than this run.
            UsageError: it is the model that the run starts from.
        """
        if not self.writes:
            return self._last() if resume else None
        if config.start_from is not None and find_model(config.start_from).resolve() == self.path.resolve():
            raise UsageError(f"{self.path}: is the model to start from; name another folder with --output")
        record = _record(config, data)
        try:
            if overwrite:
                self._clear()
            if resume and (self.path / CONFIG).is_file():
                self._refuse_if_other(record)
                return self._last()
            if not overwrite:
                self._refuse_if_taken()
            self.path.mkdir(parents=True, exist_ok=True)
            for name, text in record.items():
                (self.path / name).write_text(text, encoding="utf-8")
        except OSError as error:
            raise OutputError(f"{self.path}: cannot write there ({reason_of(error)})") from error
        return None

    def finish(self) -> None:
        """Drop what is only needed to resume."""
        with suppress(OSError):
            _remove_known(self.path / CHECKPOINTS)

    def _last(self) -> Path | None:
        last = self.path / CHECKPOINTS / LAST
        return last if last.is_file() else None

    def _refuse_if_other(self, record: dict[str, str]) -> None:
        paths = {name: self.path / name for name in (CONFIG, DATA)}
        there = {n: _parsed(p.read_text(encoding="utf-8")) if p.is_file() else None for n, p in paths.items()}
        now = {name: _parsed(record[name]) for name in paths}
        checks = [(CONFIG, "another configuration"), (DATA, "other data")]
        if changed := _changed_file(there[DATA], now[DATA]):  # which may be why the configuration is another
            checks.insert(0, (DATA, f"other data ({changed} is new, gone or has changed)"))
        for name, what in checks:
            if there[name] != now[name]:
                raise OutputError(
                    f"{paths[name]}: the run in this folder has {what}; give another folder, or replace it "
                    "with --overwrite"
                )

    def _refuse_if_taken(self) -> None:
        if any((self.path / name).exists() for name in OWN):
            way = "give another folder, or --overwrite to replace it"
            if not self.finished:
                way = f"resume it with --resume, {way}"
            state = "a finished training" if self.finished else "an unfinished training"
            raise OutputError(f"{self.path}: holds {state}; {way}")

    def _clear(self) -> None:
        """Remove an earlier training; the file that makes it one goes last, and nothing that is not of it."""
        there = [name for name in OWN if (self.path / name).exists()]
        if there and not (self.path / CONFIG).is_file():
            raise OutputError(
                f"{self.path}: holds {there[0]} but no training, which has a {CONFIG}; give another folder"
            )
        for name in reversed(there):
            path = self.path / name
            if path.is_dir():
                _remove_known(path)
            else:
                path.unlink(missing_ok=True)


def _remove_known(folder: Path) -> None:
    """Remove the checkpoints and logs in a folder and those below it, and each that is empty then."""
    if not folder.is_dir():
        return
    for path in folder.iterdir():
        if path.is_dir() and not path.is_symlink():
            _remove_known(path)
        elif any(fnmatch(path.name, pattern) for pattern in WRITTEN):
            path.unlink()
    if not any(folder.iterdir()):
        folder.rmdir()


def _changed_file(old: Any, new: Any) -> str | None:
    """Return the first file of which two contents of data.json have other hashes."""
    hashes = [one.get("files_sha256") or {} if isinstance(one, dict) else {} for one in (old, new)]
    files = sorted({*hashes[0], *hashes[1]})
    return next((file for file in files if hashes[0].get(file) != hashes[1].get(file)), None)


def _parsed(text: str) -> Any:
    return load_yaml(text)  # JSON is YAML too


def _record(config: TrainConfig, data: TrainingData) -> dict[str, str]:
    """Return the text of each file that says what the run is."""
    parts = [p for one in data.parts for p in (one.training, one.validation, one.test)]
    hashes = file_hashes([region for part in parts for region in part])
    return {
        CONFIG: yaml.safe_dump(resolved(config), sort_keys=False, allow_unicode=True),
        DATA: json.dumps({"files_sha256": hashes, "regions": data.listing()}, indent=1) + "\n",
        ENVIRONMENT: json.dumps(_environment(), indent=2) + "\n",
    }


def _environment() -> dict[str, Any]:
    packages = {name: package_version(name) for name in PACKAGES}
    return {"python": sys.version.split()[0], "platform": platform.platform(), "packages": packages}
