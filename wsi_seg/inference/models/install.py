"""Installation of published models: downloaded from the Hugging Face hub, checked, converted, tested.

Nothing of a checkpoint is run: pickles are read as tensors only (see `convert.read_checkpoint`).
"""

from __future__ import annotations

import hashlib
import json
import re
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch
from huggingface_hub import get_hf_file_metadata, hf_hub_url
from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]
from huggingface_hub.file_download import http_get
from huggingface_hub.utils import build_hf_headers  # type: ignore[attr-defined]
from torch import nn

from wsi_seg.core.card import read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import writing
from wsi_seg.core.folders import is_there, models_folder
from wsi_seg.inference.models.catalog import CatalogEntry
from wsi_seg.inference.models.convert import checkpoint_network, convert_checkpoint
from wsi_seg.inference.models.heads import Head
from wsi_seg.inference.models.network import as_jpeg, normalized
from wsi_seg.inference.models.predictor import load_predictor
from wsi_seg.inference.models.registry import hub_repository

ORIGIN = "origin.json"  # in the folder of an installed model
TOLERANCE = 1e-4  # of probabilities, between the checkpoint and the installed model
_SHA256 = re.compile("[0-9a-f]{64}")


@dataclass(frozen=True)
class HubFile:
    """A checkpoint on the hub, as the hub describes it."""

    url: str
    revision: str
    """Commit of the repository."""
    sha256: str
    """Of the file, in hex."""
    size: int
    """In bytes."""


def look_up(entry: CatalogEntry) -> HubFile:
    """Ask the hub about the checkpoint of an entry.

    Raises:
        ModelError: there is a folder of this name already; the hub cannot be reached, lacks the file or does
            not tell its SHA-256; or that is not the one of the catalog.
    """
    name = entry.card.name
    folder = models_folder() / name
    if is_there(folder):
        raise ModelError(f"{name}: installed already; remove {folder} to install it again")
    repository, revision = hub_repository(entry.source)
    with _asking_hub(entry):
        url = hf_hub_url(repository, entry.file, revision=revision)
        found = get_hf_file_metadata(url)
        if found.size is None or found.commit_hash is None or found.etag is None:
            raise ModelError(f"{name}: {url} gives no size, revision or checksum; it is no hub's file")
        pinned = hf_hub_url(repository, entry.file, revision=found.commit_hash)
    if not _SHA256.fullmatch(found.etag):
        raise ModelError(
            f"{name}: the hub gives no SHA-256 of {url} (but {found.etag}); it is not downloaded"
        )
    if entry.sha256 not in (None, found.etag):
        raise ModelError(
            f"{name}: {url} has the SHA-256 {found.etag} and not {entry.sha256} as this version of wsi-seg "
            "expects; the file has been replaced since"
        )
    return HubFile(pinned, found.commit_hash, found.etag, found.size)


def install(entry: CatalogEntry, remote: HubFile) -> Path:
    """Download a checkpoint and install it as a model; what was downloaded before an interruption is used.

    Args:
        entry: of the catalog.
        remote: from `look_up`.

    Returns:
        The model's folder in `models_folder`, which appears whole or not at all.

    Raises:
        ModelError: the download fails or has another checksum; it is no state dict, holds code, does not fit
            the card, or does not pass its test.
        OutputError: the folder cannot be written.
    """
    folder = models_folder() / entry.card.name
    unfinished = folder.with_name(f".{folder.name}.download")
    made = unfinished / "model"
    with writing(unfinished):
        unfinished.mkdir(parents=True, exist_ok=True)
        if made.exists():
            shutil.rmtree(made)
    checkpoint = unfinished / f"{remote.sha256}{Path(entry.file).suffix}"
    _download(entry, remote, checkpoint)
    convert_checkpoint(checkpoint, entry.card, made)
    difference = _difference(checkpoint_network(checkpoint, entry.card), made)
    if not difference <= TOLERANCE:
        raise ModelError(f"{folder.name}: the converted model differs from {entry.file} by {difference:.2g}")
    origin = {"source": entry.source, "file": entry.file, **asdict(remote), "license": entry.card.license}
    with writing(folder):
        (made / ORIGIN).write_text(json.dumps(origin, indent=2) + "\n", encoding="utf-8")
        made.replace(folder)
        shutil.rmtree(unfinished)
    return folder


def _difference(network: nn.Module, folder: Path) -> float:
    """Return by how much probabilities of a network and of its model folder differ, for one tile of noise."""
    card = read_card(folder)
    tile = np.random.default_rng(0).integers(0, 256, (1, card.tile, card.tile, 3), np.uint8)
    found = load_predictor(str(folder), "cpu", "float32")(tile, card.output.margin)
    if card.normalization.jpeg_quality:
        tile = as_jpeg(tile, card.normalization.jpeg_quality)
    with torch.inference_mode():
        output = network(normalized(torch.from_numpy(tile), card.normalization))
        expected = Head(card)(output, (card.tile, card.tile), card.output.margin)
    return float((found - expected).abs().max())


def _download(entry: CatalogEntry, remote: HubFile, path: Path) -> None:
    """Fetch what is missing of a file, and check the whole of it."""
    with writing(path), path.open("ab") as file:
        if file.tell() > remote.size:
            file.truncate(0)
        if file.tell() < remote.size:
            with _asking_hub(entry):
                http_get(
                    remote.url,
                    file,
                    resume_size=file.tell(),
                    headers=build_hf_headers(),
                    expected_size=remote.size,
                    displayed_filename=entry.file,
                )
    with writing(path), path.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != remote.sha256:
        path.unlink()
        raise ModelError(
            f"{entry.card.name}: what was downloaded from {remote.url} has the SHA-256 {found} and not "
            f"{remote.sha256}; it is removed, try again"
        )


@contextmanager
def _asking_hub(entry: CatalogEntry) -> Iterator[None]:
    """Report a hub that cannot be reached, or that refuses, in one line."""
    try:
        yield
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"{entry.card.name}: cannot be downloaded from {entry.source}, {entry.file}: {reason}; what has "
            "arrived is kept, so that the next try goes on from there"
        ) from error
