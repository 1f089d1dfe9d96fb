"""Segmentation networks of TIAToolbox, by the names that its list of pretrained models gives them.

Written from their published layout: Pocock et al. 2022, doi:10.1038/s43856-022-00186-5; for GrandQC Weng et
al. 2024, doi:10.1038/s41467-024-54769-y. `benchmarks/tiatoolbox_networks.py` compares them with TIAToolbox.

The U-Net's encoder is ResNet-50. Its decoder adds features instead of joining them, and ends at half the
resolution of the input: the card says `output: {stride: 2}`. TIAToolbox uses the central half of a tile only,
which a card says by an `overlap` of half the tile. GrandQC's network is a U-Net++ with EfficientNet-B0.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

import segmentation_models_pytorch as smp
from torch import Tensor, nn
from torch.nn import functional

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.network import describe_difference

# Sizes of the convolutions in each block of the U-Net's decoder.
UNETS: dict[str, tuple[int, ...]] = {"fcn_resnet50_unet-bcss": (3, 3), "fcn-tissue_mask": (3,)}
GRANDQC = "grandqc_tissue_detection"
ARCHITECTURES = (*UNETS, GRANDQC)

# What the parts of the U-Net are called in TIAToolbox's state dicts, and here.
_PARTS = (("backbone.", "encoder."), ("conv1x1.", "bottleneck."), ("uplist.", "decoder."),
          ("clf.", "segmentation_head.0."))  # fmt: skip
# In its state dicts without being used: the classifier of ResNet, and a constant.
_UNUSED = ("backbone.fc.", "upsample2x.")


class AddingUnet(nn.Module):
    """Network, normalized float (N, 3, H, W) -> logits (N, classes, H / 2, W / 2); H, W multiples of 32."""

    def __init__(self, kernels: tuple[int, ...], classes: int) -> None:
        """Build it with random weights.

        Args:
            kernels: sides of the convolutions in each block of the decoder, odd.
            classes: channels of the output.
        """
        super().__init__()
        self.encoder = smp.encoders.get_encoder("resnet50", in_channels=3, depth=5, weights=None)
        deepest, *skips = self.encoder.out_channels[:0:-1]  # 2048, then 1024, 512, 256, 64
        self.bottleneck = nn.Conv2d(deepest, skips[0], 1, bias=False)
        self.decoder = nn.ModuleList(
            nn.Sequential(*_block(kernels, channels, following))
            for channels, following in zip(skips, [*skips[1:], skips[-1]], strict=True)
        )
        self.segmentation_head = nn.Sequential(nn.Conv2d(skips[-1], classes, 1))

    def forward(self, pixels: Tensor) -> Tensor:
        """Return the logits."""
        *skips, deepest = self.encoder(pixels)[1:]
        found = self.bottleneck(deepest)
        for block, skip in zip(self.decoder, reversed(skips), strict=True):
            found = block(functional.interpolate(found, scale_factor=2.0, mode="nearest") + skip)
        logits: Tensor = self.segmentation_head(found)
        return logits


def _block(kernels: tuple[int, ...], channels: int, out: int) -> Iterator[nn.Module]:
    """Yield the layers of a block: each convolution has its normalization and activation before it."""
    for kernel in kernels:
        yield nn.BatchNorm2d(channels)
        yield nn.ReLU()
        yield nn.Conv2d(channels, out, kernel, padding=kernel // 2, bias=False)
        channels = out


def build_tiatoolbox(card: ModelCard) -> nn.Module:
    """Build the network of a card of the format `tiatoolbox`, with random weights.

    Args:
        card: its architecture is one of `ARCHITECTURES`.

    Returns:
        A module, normalized float (N, 3, H, W) -> logits (N, classes, H / stride, W / stride).

    Raises:
        ModelError: the architecture is unknown.
    """
    if card.architecture in UNETS:
        return AddingUnet(UNETS[card.architecture], len(card.classes))
    if card.architecture == GRANDQC:
        network: nn.Module = smp.UnetPlusPlus(
            "timm-efficientnet-b0", encoder_weights=None, classes=len(card.classes)
        )
        return network
    raise ModelError(
        f"model {card.name!r}: unknown architecture {card.architecture!r} of the format tiatoolbox; use "
        f"{', '.join(ARCHITECTURES)}"
    )


def rename_tensors(
    network: nn.Module, card: ModelCard, weights: Mapping[str, Tensor], path: Path
) -> dict[str, Tensor]:
    """Return TIAToolbox's state dict of a network with the names of tensors that they have here.

    Args:
        network: from `build_tiatoolbox`.
        card: of the network.
        weights: state dict; what the network does not use may be missing.
        path: where it is from, for the message.

    Raises:
        ModelError: names the tensors that do not fit, as the state dict calls them.
    """
    names = {_name_there(name, card): name for name in network.state_dict()}
    expected = {there: network.state_dict()[here] for there, here in names.items()}
    found = {name: tensor for name, tensor in weights.items() if not name.startswith(_UNUSED)}
    if difference := describe_difference(expected, found):
        raise ModelError(f"{path}: the weights do not fit TIAToolbox's {card.architecture}: {difference}")
    return {here: found[there] for there, here in names.items()}


def _name_there(name: str, card: ModelCard) -> str:
    """Return what TIAToolbox calls a tensor of a network."""
    if card.architecture in UNETS:
        for there, here in _PARTS:
            if name.startswith(here):
                return there + name.removeprefix(here)
    return name
