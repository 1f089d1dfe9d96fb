"""Checkpoints turned into model folders."""

from __future__ import annotations

import pickle
import shutil
import uuid
from collections.abc import Mapping
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import torch
from safetensors.torch import save
from torch import Tensor, nn

from wsi_seg.core.card import WEIGHTS_NAME, ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import reason_of
from wsi_seg.inference.models.formats import format_of
from wsi_seg.inference.models.network import HEAD_KEY, build_network, load_weights, read_weights

SAFETENSORS = ".safetensors"
NESTED_KEYS = ("state_dict", "model_state_dict", "model")


def convert_checkpoint(checkpoint: Path, card: ModelCard, folder: Path) -> None:
    """Write the model folder of a checkpoint; it appears whole or not at all.

    Args:
        checkpoint: see `checkpoint_network`.
        card: what the checkpoint is.
        folder: the model folder to make.

    Raises:
        ModelError: see `checkpoint_network`; or the folder cannot be written.
    """
    network = checkpoint_network(checkpoint, card)
    weights = {name: tensor.contiguous() for name, tensor in network.state_dict().items()}
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        part = folder.with_name(f".{folder.name}-{uuid.uuid4().hex}")
        part.mkdir()
        try:
            # safetensors' own `save_file` makes files that only their owner may read.
            (part / WEIGHTS_NAME).write_bytes(save(weights, metadata={"format": "pt"}))
            card.write(part)
            part.replace(folder)
        finally:
            shutil.rmtree(part, ignore_errors=True)
    except OSError as error:
        if not folder.is_dir():  # else another process made the same folder first
            raise ModelError(f"{folder}: cannot write the converted model ({reason_of(error)})") from error


def checkpoint_network(checkpoint: Path, card: ModelCard) -> nn.Module:
    """Return the network of a checkpoint with its weights, in evaluation mode.

    Args:
        checkpoint: safetensors file, or one made by `torch.save` of a state dict or of a mapping that holds
            one under `state_dict`; names may have a common prefix such as `module.` or `network.`.
        card: what the checkpoint is.

    Raises:
        ModelError: the file is no state dict, holds code, or does not fit the card.
    """
    found = read_weights(checkpoint) if checkpoint.suffix == SAFETENSORS else read_checkpoint(checkpoint)
    network = build_network(card)
    rename = format_of(card).rename
    weights = resolve_name(rename)(network, card, found, checkpoint) if rename else found
    load_weights(network, card, weights, checkpoint)
    return network.eval()


def read_checkpoint(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a PyTorch checkpoint without running any code in it.

    Raises:
        ModelError: the file cannot be read, holds code, or holds no state dict.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ModelError(
            f"{path}: refused, since it is no plain file of tensors and may hold code; save it again with "
            "torch.save(network.state_dict(), …), or trust its maker: wsi-seg models import --trust"
        ) from error
    except (OSError, RuntimeError, EOFError, LookupError, ValueError, TypeError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise ModelError(f"{path}: no readable PyTorch checkpoint ({reason})") from error
    tensors = tensors_of(content)
    if not tensors:
        raise ModelError(
            f"{path}: holds no state dict; save it again with torch.save(network.state_dict(), …)"
        )
    return without_prefix(tensors)


def tensors_of(content: Any) -> dict[str, Tensor]:
    """Return the tensors of a checkpoint by name; none where it is no state dict and holds none."""
    if not isinstance(content, Mapping):
        return {}
    for key in NESTED_KEYS:
        if isinstance(content.get(key), Mapping):
            return tensors_of(content[key])
    return {str(name): value for name, value in content.items() if isinstance(value, Tensor)}


def without_prefix(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Drop what a wrapper (DataParallel, a Lightning module) put before the names, and its own tensors."""
    prefix = next((name.removesuffix(HEAD_KEY) for name in tensors if name.endswith(HEAD_KEY)), "")
    return {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
