"""Folders that `save_pretrained` of transformers made, of networks for semantic segmentation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import reading
from wsi_seg.inference.models.imports.classes import classes_of
from wsi_seg.inference.models.imports.files import write_weights
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.loaded import UNREADABLE, short
from wsi_seg.inference.models.network import build_network, load_weights
from wsi_seg.inference.models.transformers import Transformer, check_transformers, refuse_code

KIND_KEY = "model_type"
PREPROCESSOR = "preprocessor_config.json"
# Keys of config.json that do not describe the network.
NO_OPTIONS = (KIND_KEY, "architectures", "transformers_version", "dtype", "torch_dtype", "_name_or_path")


def read_transformers(folder: Path, config: dict[str, Any]) -> Source:
    """Read a folder with `config.json` and `model.safetensors`.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the network is none for segmentation of RGB images, needs code, or cannot be loaded.
    """
    path = folder / "config.json"
    check_transformers()
    from transformers import AutoModelForSemanticSegmentation

    refuse_code(config, str(path))
    if config.get("num_channels", 3) != 3:
        raise ModelError(
            f"{path}: num_channels {config['num_channels']}; only networks of 3 (RGB) can be used"
        )
    try:
        loaded = AutoModelForSemanticSegmentation.from_pretrained(
            str(folder), local_files_only=True, use_safetensors=True, trust_remote_code=False
        )
    except (*UNREADABLE, StrictDataclassError) as error:
        raise ModelError(
            f"{folder}: transformers cannot load it for segmentation ({short(error)})"
        ) from error
    original = Transformer(loaded.float()).eval()
    labels = {int(key): str(name) for key, name in (config.get("id2label") or {}).items()}
    names = [labels[key] for key in sorted(labels)]
    card: dict[str, Any] = {
        "format": "transformers",
        "architecture": str(config[KIND_KEY]),
        "architecture_options": {key: value for key, value in config.items() if key not in NO_OPTIONS},
    }
    if names and not all(name.startswith("LABEL_") for name in names):  # so it calls those without a name
        card["classes"] = classes_of(names)
    if (folder / PREPROCESSOR).is_file():
        card |= _normalization(folder / PREPROCESSOR)

    def write(card: ModelCard, target: Path) -> None:
        network = build_network(card)
        load_weights(network, card, original.state_dict(), folder)
        write_weights(network, target)

    return Source(
        "folder of transformers", lambda _: original, write, card, probe=original, output={"of": "logits"}
    )


def _normalization(path: Path) -> dict[str, Any]:
    with reading(path, ModelError):
        text = path.read_bytes()
    try:
        plain = json.loads(text)
        scale = 1 / plain.get("rescale_factor", 1 / 255) if plain.get("do_rescale", True) else 1
        if not plain.get("do_normalize", True):
            return {"normalization": {"scale": scale, "mean": (0, 0, 0), "std": (1, 1, 1)}}
        return {"normalization": {"scale": scale, "mean": plain["image_mean"], "std": plain["image_std"]}}
    except (ValueError, KeyError, TypeError, AttributeError, ZeroDivisionError) as error:
        raise ModelError(f"{path}: tells no normalization ({type(error).__name__}: {error})") from error
