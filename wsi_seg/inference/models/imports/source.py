"""A model that is to be imported: what its files tell, the original network, and how it is stored here."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from torch import Tensor

from wsi_seg.core.card import ModelCard

Program = Callable[[Tensor], Any]


@dataclass(frozen=True, slots=True)
class Source:
    """A model of another library."""

    kind: str
    """Such as "ONNX file"."""
    original: Callable[[ModelCard], Program]
    """Returns the network as its own library computes it, float32 on the CPU."""
    write: Callable[[ModelCard, Path], None]
    """Writes the weights that the card's format reads into a folder."""
    card: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the card that the source tells."""
    channels: int | None = None
    """Channels of the output, where the source tells them."""
    probe: Program | None = None
    """The network, where it can be had without a card: what it takes and returns is then found by trying."""
    output: Mapping[str, Any] = field(default_factory=dict)
    """Fields of the output's geometry that running the network does not show."""
    state_dict_only: bool = False
    """It holds tensors by name, and the network is the card's."""
    input_shape: tuple[int | None, ...] = (None, 3, None, None)
    """Sides that it was stored with; None: they may vary."""
    held: Any = None
    """Kept for as long as the source is, such as a temporary folder with its files."""
