"""Bundles of MONAI: `configs/metadata.json`, the network of `configs/inference.json`, and `models/`."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import nn

from wsi_seg.core.errors import MissingExtraError, ModelError
from wsi_seg.inference.models.imports import files
from wsi_seg.inference.models.imports.classes import classes_of
from wsi_seg.inference.models.imports.preprocessing import Step, normalization_of, rescaling
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.imports.source_files import read_json_object
from wsi_seg.inference.models.loaded import UNREADABLE, short

METADATA = "configs/metadata.json"
CONFIGS = ("configs/inference.json", "configs/inference.yaml", "configs/inference.yml")
SCRIPT, WEIGHTS = "models/model.ts", "models/model.pt"
NETWORK, PREPROCESSING, POSTPROCESSING = "network_def", "preprocessing", "postprocessing"
NETWORKS = "monai.networks.nets"
# Transforms, less the "d" of dictionaries, that change no value.
NO_STEPS = {
    "LoadImage", "EnsureChannelFirst", "AsChannelFirst", "EnsureType", "ToTensor", "CastToType", "SelectItems"
}  # fmt: skip


def read_monai(folder: Path, trust: bool) -> Source:
    """Read an unpacked bundle.

    The TorchScript file is taken where there is one. Otherwise MONAI builds the network that the
    configuration names.

    Args:
        folder: of the bundle.
        trust: also build a network by expressions, references or classes of other packages, which can run
            any code.

    Raises:
        MissingExtraError: monai is needed and not installed.
        ModelError: the network takes no RGB image, or cannot be read.
    """
    metadata = read_json_object(folder / METADATA)
    config = next((read_json_object(folder / name) for name in CONFIGS if (folder / name).is_file()), {})
    card = _card(metadata, config, folder / METADATA)
    if (folder / SCRIPT).is_file():
        source = files.read_torchscript(folder / SCRIPT)
    else:
        source = files.module_source(_network(folder, config, trust), str(folder))
    return replace(source, kind="MONAI bundle", card={**source.card, **card})


def _card(metadata: Mapping[str, Any], config: Mapping[str, Any], path: Path) -> dict[str, Any]:
    """Return the fields of the card that a bundle tells."""
    try:
        described = metadata["network_data_format"]
        (image,) = described["inputs"].values()
        (output, *_) = described["outputs"].values()
        sides = image["spatial_shape"]
        channels, found = image["num_channels"], output["num_channels"]
        names = output.get("channel_def") or {}
        labels = [str(names[key]) for key in sorted(names, key=int)]
    except (KeyError, ValueError, TypeError, AttributeError) as error:
        raise ModelError(
            f"{path}: network_data_format describes no network of one image ({type(error).__name__}: {error})"
        ) from error
    if channels != 3 or len(sides) != 2:
        raise ModelError(
            f"{path}: the network takes {channels} channels and {len(sides)} dimensions; only networks of "
            "RGB images, 3 channels and 2 dimensions, can be used"
        )
    card: dict[str, Any] = {
        key: metadata[key] for key in ("description", "version") if isinstance(metadata.get(key), str)
    }
    if len(labels) == found:
        card["classes"] = classes_of(labels)
    if isinstance(sides[0], int) and sides[0] == sides[1]:
        card["tile"] = sides[0]
    normalization = normalization_of(_step(one) for one in _transforms(config, PREPROCESSING))
    if normalization is not None and _transforms(config, PREPROCESSING):
        card["normalization"] = normalization
    for one in _transforms(config, POSTPROCESSING):
        for head in ("softmax", "sigmoid"):
            if _name(one) == "Activations" and one.get(head) is True:
                card["head"] = head
    return card


def _transforms(config: Mapping[str, Any], key: str) -> list[dict[str, Any]]:
    found = config.get(key)
    found = found.get("transforms") if isinstance(found, dict) else None
    steps = found if isinstance(found, list) else []
    # What is no transform, such as a reference to one, is kept as one of an unknown name.
    plain = [one if isinstance(one, dict) else {"_target_": str(one)} for one in steps]
    return [one for one in plain if one.get("_disabled_") is not True]


def _name(transform: Mapping[str, Any]) -> str:
    """Return the name of a transform without its package and the "d" or "Dict" of dictionaries."""
    return re.sub(r"(d|D|Dict)$", "", str(transform.get("_target_")).rpartition(".")[2])


def _step(transform: Mapping[str, Any]) -> Step | None:
    name = _name(transform)
    try:
        if name in NO_STEPS:
            return 1.0, 0.0
        if name == "ScaleIntensityRange":
            return rescaling(*(transform[key] for key in ("a_min", "a_max", "b_min", "b_max")))
        if name == "NormalizeIntensity" and not transform.get("nonzero"):
            low, width = transform["subtrahend"], transform["divisor"]
            return [1 / w for w in _row(width)], [-a / w for a, w in zip(_row(low), _row(width), strict=True)]
    except (KeyError, TypeError, ValueError, ArithmeticError):
        return None
    return None


def _row(value: Any) -> list[float]:
    return [float(v) for v in value] if isinstance(value, list) else [float(value)] * 3


def _network(folder: Path, config: Mapping[str, Any], trust: bool) -> nn.Module:
    """Return the network that a bundle's configuration describes, with its weights."""
    where = f"{folder}: {NETWORK}"
    described = config.get(NETWORK)
    if not isinstance(described, dict):
        raise ModelError(f"{where} is missing in {' or '.join(CONFIGS)}, and there is no {SCRIPT}")
    target = str(described.get("_target_")).removeprefix(f"{NETWORKS}.")
    code = [text for text in _texts(described) if text[:1] in ("$", "@", "%")]
    if not trust and (code or "." in target or _nested(described)):
        raise ModelError(
            f"{where} runs code to build the network ({(code or [target])[0]!r}); --trust allows that, where "
            "you know who made it"
        )
    try:
        from monai.bundle.config_parser import ConfigParser
    except ImportError as error:
        raise MissingExtraError(
            f"{folder}: a bundle without {SCRIPT} needs monai; install it with: pip install 'wsi-seg[monai]'"
        ) from error
    parts = config if trust else {NETWORK: {**described, "_target_": f"{NETWORKS}.{target}"}}
    try:
        network = ConfigParser(dict(parts)).get_parsed_content(NETWORK)
        network.load_state_dict(files.read_tensors(folder / WEIGHTS, trust))
    except UNREADABLE as error:
        raise ModelError(f"{where}: MONAI cannot build it ({short(error)})") from error
    return network.eval()  # type: ignore[no-any-return]


def _texts(value: Any) -> Iterable[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for part in value.values() if isinstance(value, dict) else value:
            yield from _texts(part)


def _nested(described: Mapping[str, Any]) -> bool:
    """Return True where an argument is an object to be built."""
    return "'_target_'" in repr({key: value for key, value in described.items() if key != "_target_"})
