"""Where models are found. Free of torch: a card can be read and a run planned without it.

A model is a folder with a file of weights, by default `model.safetensors`, and `card.json`. A reference to
one is the name of a bundled or an installed model, a path to a folder, `hf://owner/name[@revision]`, or a
`.pth` or `.pt` state dict that has a card next to it.
"""

from __future__ import annotations

import difflib
import hashlib
import importlib
import re
from pathlib import Path

from wsi_seg.core.card import CARD_NAME, ModelCard, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import reading
from wsi_seg.core.folders import cache_folder, home_expanded, is_passed_over, kind_of, models_folder
from wsi_seg.inference.models.formats import FORMATS, weights_path

BUNDLED = Path(__file__).parent / "bundled"
CHECKPOINT_SUFFIXES = (".pth", ".pt")
HUB_PREFIX = "hf://"
_HUB_REFERENCE = re.compile(r"hf://(?P<repo>[^/@]+/[^/@]+)(@(?P<revision>.+))?")


def find_model(reference: str) -> Path:
    """Return the folder of a model; one on the Hugging Face hub is downloaded, a checkpoint is converted.

    Raises:
        ModelError: there is no such model, it is incomplete, or it cannot be downloaded or converted.
    """
    if reference in bundled_names():
        return BUNDLED / reference
    if reference in installed_names():
        return models_folder() / reference
    if reference.startswith(HUB_PREFIX):
        patterns = [CARD_NAME, *{known.weights for known in FORMATS.values() if known.weights}]
        return _complete(download(reference, patterns), reference)
    path = home_expanded(reference)
    if kind_of(path) == "folder":
        return _complete(path, reference)
    if path.suffix.lower() in CHECKPOINT_SUFFIXES:
        return _converted(path)
    if kind_of(path) == "file":
        raise ModelError(
            f"{reference}: no model folder, which has a {CARD_NAME}; a model of another library becomes one "
            f"by: {import_command(reference)}"
        )
    raise ModelError(f"{reference}: {_unknown(reference)}")


def import_command(reference: str) -> str:
    """Return the command that makes a model folder of what another library stored."""
    return f"wsi-seg models import {reference} -o FOLDER"


def list_models() -> list[ModelCard]:
    """Return the cards of the bundled models, sorted by name.

    Raises:
        ModelError: a card is damaged.
    """
    return [read_card(BUNDLED / name) for name in bundled_names()]


def bundled_names() -> list[str]:
    """Return the names of the models that ship with the package, sorted."""
    return sorted(path.parent.name for path in BUNDLED.glob(f"*/{CARD_NAME}"))


def list_installed() -> list[ModelCard]:
    """Return the cards of the installed models, sorted by name; the name of each is that of its folder.

    Raises:
        ModelError: a card is damaged.
    """
    folder = models_folder()
    return [read_card(folder / name).model_copy(update={"name": name}) for name in installed_names()]


def installed_names() -> list[str]:
    """Return the names of the models in `models_folder`, sorted, without those of bundled models."""
    found = {path.parent.name for path in models_folder().glob(f"*/{CARD_NAME}")}
    return sorted(name for name in found - set(bundled_names()) if not is_passed_over(name))


def model_hash(folder: Path) -> str:
    """Return the SHA-256 (hex) of the model's weights and card.

    Raises:
        ModelError: one of the files is missing or cannot be read.
    """
    return _digest(weights_path(folder), folder / CARD_NAME)


def _unknown(reference: str) -> str:
    bundled, installed = bundled_names(), installed_names()
    near = difflib.get_close_matches(reference, bundled + installed, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    more = f"installed: {', '.join(installed)}; " if installed else ""
    return (
        f"no such model; {hint}bundled: {', '.join(bundled) or 'none'}; {more}else give a model folder, "
        "hf://owner/name[@revision], or a .pth state dict with a card"
    )


def _complete(folder: Path, reference: str) -> Path:
    if not (folder / CARD_NAME).is_file():
        raise ModelError(
            f"{reference}: no model folder; it lacks {CARD_NAME} ({folder}); a model of another library "
            f"becomes one by: {import_command(reference)}"
        )
    weights = weights_path(folder)
    if not weights.is_file():
        raise ModelError(f"{reference}: no model folder; it lacks {weights.name} ({folder})")
    return folder


def hub_repository(reference: str) -> tuple[str, str | None]:
    """Return the repository (`owner/name`) and the revision, None for the newest, of an `hf://` reference.

    Raises:
        ModelError: it is none.
    """
    match = _HUB_REFERENCE.fullmatch(reference)
    if match is None:
        raise ModelError(f"{reference}: expected hf://owner/name or hf://owner/name@revision")
    return match["repo"], match["revision"]


def download(reference: str, patterns: list[str]) -> Path:
    """Return the folder of a repository of the hub, with the files whose names match.

    Raises:
        ModelError: the reference is wrong, or it cannot be downloaded.
    """
    repository, revision = hub_repository(reference)
    # Imported here: it is slow to import, and most runs need no hub.
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HFValidationError, HTTPError  # type: ignore[attr-defined]

    try:
        folder = snapshot_download(repository, revision=revision, allow_patterns=patterns)
    except (HTTPError, HFValidationError, OSError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(f"{reference}: cannot be downloaded from the Hugging Face hub: {reason}") from error
    return Path(folder)


def _converted(checkpoint: Path) -> Path:
    if kind_of(checkpoint) != "file":
        raise ModelError(f"{checkpoint}: no such file")
    card = _card_of(checkpoint)
    folder = cache_folder("models") / f"{checkpoint.stem}-{_digest(checkpoint, card)[:16]}"
    if not (folder / CARD_NAME).is_file():
        # By name and on use: converting needs torch, looking up must not.
        importlib.import_module("wsi_seg.inference.models.convert").convert_checkpoint(
            checkpoint, read_card(card), folder
        )
    return folder


def _card_of(checkpoint: Path) -> Path:
    candidates = (checkpoint.with_suffix(".json"), checkpoint.parent / CARD_NAME)
    for path in candidates:
        if path.is_file():
            return path
    raise ModelError(
        f"{checkpoint}: lacks {CARD_NAME}, which says what a checkpoint is; put one at {candidates[0]} "
        f"or {candidates[1]}, or give its contents to: {import_command(str(checkpoint))}"
    )


def _digest(*paths: Path) -> str:
    digest = hashlib.sha256()
    for path in paths:
        with reading(path, ModelError), path.open("rb") as file:
            digest.update(hashlib.file_digest(file, "sha256").digest())
    return digest.hexdigest()
