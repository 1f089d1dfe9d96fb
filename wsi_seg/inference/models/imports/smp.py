"""Folders that `save_pretrained` of segmentation-models-pytorch made."""

from __future__ import annotations

import io
from contextlib import redirect_stdout
from pathlib import Path
from typing import Any

import segmentation_models_pytorch as smp
from torch import nn

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.imports.files import write_weights
from wsi_seg.inference.models.imports.source import Source
from wsi_seg.inference.models.loaded import UNREADABLE, short
from wsi_seg.inference.models.network import HEAD, build_network, load_weights

CLASS_KEY = "_model_class"
# Arguments that the card has elsewhere, or that decide nothing once there are weights.
NO_OPTIONS = (
    CLASS_KEY,
    "encoder_name",
    "encoder_weights",
    "in_channels",
    "classes",
    "activation",
    "aux_params",
)
HEADS = {None: None, "identity": None, "sigmoid": "sigmoid", "softmax": "softmax", "softmax2d": "softmax"}


def read_smp(folder: Path, config: dict[str, Any]) -> Source:
    """Read a folder with `config.json` and `model.safetensors`.

    Raises:
        ModelError: the network takes another input than RGB, has a second output or an unknown activation, or
            cannot be loaded.
    """
    path = folder / "config.json"
    activation = config.get("activation")
    if activation not in HEADS:
        raise ModelError(f"{path}: activation {activation!r}; none, sigmoid or softmax is expected")
    if config.get("in_channels", 3) != 3:
        raise ModelError(f"{path}: in_channels {config['in_channels']}; only networks of 3 (RGB) can be used")
    if config.get("aux_params"):
        raise ModelError(f"{path}: aux_params: a second output cannot be imported; save the network without")
    try:
        with redirect_stdout(io.StringIO()):  # the hub's library prints there
            original: nn.Module = smp.from_pretrained(str(folder)).eval()
    except UNREADABLE as error:
        raise ModelError(f"{folder}: segmentation-models-pytorch cannot load it ({short(error)})") from error
    # The head that the card names does what the activation does.
    original.get_submodule(HEAD)[-1] = nn.Identity()  # type: ignore[operator]
    card = {
        "architecture": str(config[CLASS_KEY]),
        "encoder": config["encoder_name"],
        "architecture_options": {key: value for key, value in config.items() if key not in NO_OPTIONS},
    }
    if HEADS[activation]:
        card["head"] = HEADS[activation]

    def write(card: ModelCard, target: Path) -> None:
        network = build_network(card)
        load_weights(network, card, original.state_dict(), folder)
        write_weights(network, target)

    return Source(
        "folder of segmentation-models-pytorch",
        lambda _: original,
        write,
        card,
        channels=int(config["classes"]),
    )
