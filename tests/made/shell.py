"""The published network SHELL, which sees stains instead of RGB: preprocessing as a part of a user's module.

Its own package estimates the stains of each slide; here they are fixed, those of Ruifrok and Johnston 2001.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

import wsi_seg
from wsi_seg.core.card import CardClass, ModelCard, Normalization
from wsi_seg.inference.models.onnx import OnnxNetwork

HEMATOXYLIN, EOSIN = (0.65, 0.70, 0.29), (0.07, 0.99, 0.11)
WHITE = 240.0
FULL = (0.45, 0.55, 0.5)  # eosin, hematoxylin and mean optical density that count as 1
CLASSES = (("other", (200, 200, 200)), ("epithelium", (200, 0, 0)), ("stroma", (0, 120, 200)))


class Stained(nn.Module):
    """RGB 0 … 1 -> logits of a network that takes eosin, hematoxylin and optical density."""

    inverse: Tensor

    def __init__(self, network: nn.Module) -> None:
        super().__init__()
        self.network = network
        vectors = [np.array(HEMATOXYLIN), np.array(EOSIN), np.cross(HEMATOXYLIN, EOSIN)]
        stains = np.stack([vector / np.linalg.norm(vector) for vector in vectors], axis=1)
        self.register_buffer("inverse", torch.from_numpy(np.linalg.inv(stains)).to(torch.float32))

    def forward(self, rgb: Tensor) -> Tensor:
        density = -torch.log10((rgb * 255).clamp(1, WHITE) / WHITE)
        hematoxylin, eosin, _ = torch.einsum("sc,nchw->snhw", self.inverse, density)
        channels = torch.stack([eosin, hematoxylin, density.mean(1)], dim=1)
        out: Tensor = self.network((channels / torch.tensor(FULL).reshape(3, 1, 1)).clamp(0, 1))
        return out


def shell(path: Path) -> wsi_seg.Network:
    """Return the network of an ONNX file of SHELL."""
    classes = tuple(CardClass(code=i + 1, name=name, color=color) for i, (name, color) in enumerate(CLASSES))
    normalization = Normalization(mean=(0, 0, 0), std=(1, 1, 1))
    card = ModelCard(name="shell", license="MIT", classes=classes, groups=(), mpp=1, tile=512,
                     normalization=normalization)  # fmt: skip
    return wsi_seg.Network(Stained(OnnxNetwork(path)), card)
