"""How the networks of model folders are stored: the table of formats. Free of torch.

A format either builds a network from the card, with weights of its own names in `model.safetensors`, or loads
it whole, code and all, from one file. A new one is a line of `FORMATS` and a module that it names.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from wsi_seg.core.card import WEIGHTS_NAME, ModelCard, read_card
from wsi_seg.core.errors import ModelError, UsageError


@dataclass(frozen=True, slots=True)
class Format:
    """One way to store a network in a model folder."""

    weights: str = WEIGHTS_NAME
    """Name of the file with the weights."""
    build: str = ""
    """`module:function` that returns the network of a card, with random weights: card -> nn.Module."""
    load: str = ""
    """`module:function` that returns the network of a file, with its weights: path, card -> nn.Module. Such a
    network computes in float32 only."""
    distributions: tuple[str, ...] = ()
    """Packages that compute it, besides torch; results name their versions."""
    rename: str = ""
    """`module:function` that gives the tensors of a published state dict the names that they have in the
    network: network, card, tensors by name, path -> tensors by name. Empty: they have them."""
    automatic_bf16: bool = False
    """Precision `auto` computes in bf16 where the device has it; else float32, and bf16 where asked for."""


PYTHON = "python"  # networks of a user's own code, which no model folder can hold

FORMATS = {
    "smp": Format(build="wsi_seg.inference.models.network:build_smp", automatic_bf16=True),
    "torchscript": Format("model.pt", load="wsi_seg.inference.models.loaded:load_torchscript"),
    "torch-export": Format("model.pt2", load="wsi_seg.inference.models.loaded:load_exported"),
    "onnx": Format(
        "model.onnx", load="wsi_seg.inference.models.onnx:load_onnx", distributions=("onnxruntime",)
    ),
    "transformers": Format(
        build="wsi_seg.inference.models.transformers:build_transformers", distributions=("transformers",)
    ),
    PYTHON: Format("", load="wsi_seg.inference.models.own:OwnNetwork"),
    "tiatoolbox": Format(
        build="wsi_seg.inference.models.tiatoolbox:build_tiatoolbox",
        rename="wsi_seg.inference.models.tiatoolbox:rename_tensors",
    ),
}


def format_of(card: ModelCard) -> Format:
    """Return the format of a model.

    Raises:
        ModelError: it is unknown.
    """
    if card.format not in FORMATS:
        raise ModelError(
            f"model {card.name!r}: unknown format {card.format!r}; use one of {', '.join(sorted(FORMATS))}"
        )
    return FORMATS[card.format]


def precision_for(card: ModelCard, asked: str) -> str:
    """Return the precision to resolve on the device: what is asked for, or what the format makes of `auto`.

    Raises:
        UsageError: the network computes in float32 only.
    """
    known = format_of(card)
    if known.load and asked not in ("auto", "float32"):
        raise UsageError(
            f"precision {asked!r}: model {card.name!r} of format {card.format} computes in float32 only"
        )
    return "float32" if asked == "auto" and not known.automatic_bf16 else asked


def weights_path(folder: Path) -> Path:
    """Return the file with the weights of a model folder.

    Raises:
        ModelError: the card is missing or wrong, or names an unknown format, or that of Python code.
    """
    known = format_of(read_card(folder))
    if not known.weights:
        raise ModelError(
            f"{folder}: format {PYTHON} is for networks of Python code, which no model folder can name; give "
            "module:factory to --model, or make a folder of it with wsi-seg models import"
        )
    return folder / known.weights
