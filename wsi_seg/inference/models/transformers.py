"""Segmentation networks of Hugging Face transformers, such as SegFormer. Extra `transformers`.

The card holds the configuration: `architecture` is its `model_type`, `architecture_options` the rest. Code
from the hub is never used.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from torch import Tensor, nn

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import MissingExtraError, ModelError
from wsi_seg.inference.models.loaded import UNREADABLE, map_of, short

# Keys of a configuration that name code to be fetched, or another number format.
REFUSED = ("auto_map", "attn_implementation", "_attn_implementation", "quantization_config")


class Transformer(nn.Module):
    """A network of transformers as a module float (N, 3, H, W) -> logits (N, C, h, w)."""

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network

    def forward(self, inputs: Tensor) -> Tensor:
        return map_of(self.network(inputs))


def build_transformers(card: ModelCard) -> nn.Module:
    """Build the network that a card describes, with random weights.

    Raises:
        MissingExtraError: transformers is not installed.
        ModelError: the configuration is wrong, or names code.
    """
    check_transformers()
    from transformers import AutoConfig, AutoModelForSemanticSegmentation

    refuse_code(card.architecture_options, f"model {card.name!r}")
    try:
        config = AutoConfig.for_model(card.architecture, **card.architecture_options)
        model: Any = AutoModelForSemanticSegmentation
        network = model.from_config(config, trust_remote_code=False)
    except (*UNREADABLE, StrictDataclassError) as error:
        raise ModelError(
            f"model {card.name!r}: transformers cannot build {card.architecture!r} for segmentation "
            f"({short(error)})"
        ) from error
    return Transformer(network.float())


def check_transformers() -> None:
    """Return if transformers is installed.

    Raises:
        MissingExtraError: it is not.
    """
    if importlib.util.find_spec("transformers") is None:
        raise MissingExtraError(
            "a model of format transformers needs its library; install it with: pip install "
            "'wsi-seg[transformers]'"
        )


def refuse_code(config: Mapping[str, Any], where: str) -> None:
    """Refuse a configuration that names code or a quantization.

    Raises:
        ModelError: it does.
    """
    found = [name for name in REFUSED if config.get(name) is not None]
    if found:
        raise ModelError(
            f"{where}: the configuration has {', '.join(found)}, which is not supported; leave it out"
        )
