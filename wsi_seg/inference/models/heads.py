"""Heads: from the output of a network to the probabilities of its classes, at the resolution of its input."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.blocks import without_margin
from wsi_seg.inference.stitch import STRIP_ROWS


class Head:
    """Callable: output of a network (N, channels, h, w) -> float32 probabilities (N, C, H - 2 m, W - 2 m)."""

    def __init__(self, card: ModelCard) -> None:
        self._card = card
        self._assessed = card.assessed_channels

    def __call__(self, output: Tensor, input_size: tuple[int, int], margin: int) -> Tensor:
        """Return the probabilities of a batch.

        Args:
            output: of the network, as `ModelCard.output` places it.
            input_size: H, W of the tiles.
            margin: m, pixels of the input to leave out at each side; at least that of the output.

        Raises:
            ModelError: the output has other channels or another size than the card says.
        """
        geometry = self._card.output
        self._check(output, input_size)
        if margin < geometry.margin:
            raise ValueError(
                f"a margin of {margin} pixels, of which the network leaves out {geometry.margin}"
            )
        if geometry.stride == 1:
            return self._probabilities(without_margin(output, margin - geometry.margin))
        if geometry.of == "logits":
            return self._probabilities(self._cut(self._enlarged(output), margin))
        return self._cut(self._enlarged(self._probabilities(output)), margin)

    def _check(self, output: Tensor, input_size: tuple[int, int]) -> None:
        card = self._card
        expected = tuple((side - 2 * card.output.margin) // card.output.stride for side in input_size)
        if output.ndim != 4 or output.shape[1] != card.channels or tuple(output.shape[2:]) != expected:
            raise ModelError(
                f"model {card.name!r}: the network returned an array {tuple(output.shape)} for tiles of "
                f"{input_size[1]}×{input_size[0]} pixels, and its card says (batch, {card.channels}, "
                f"{expected[0]}, {expected[1]}); correct `classes`, `head` or `output` in the card"
            )

    def _enlarged(self, maps: Tensor) -> Tensor:
        geometry = self._card.output
        smooth = geometry.interpolation == "bilinear"
        return functional.interpolate(
            maps.to(torch.float32),
            scale_factor=geometry.stride,
            mode=geometry.interpolation,
            align_corners=False if smooth else None,
        )

    def _cut(self, maps: Tensor, margin: int) -> Tensor:
        return without_margin(maps, margin - self._card.output.margin)

    def _probabilities(self, output: Tensor) -> Tensor:
        kind = self._card.head
        if kind == "softmax" and self._assessed is not None:
            return self._of_assessed(output)
        if kind == "none":
            return output.to(torch.float32)
        if kind == "sigmoid":
            each = self._cooled(output).to(torch.float32).sigmoid()
            return torch.cat([each, 1 - each.amax(dim=1, keepdim=True)], dim=1)
        shares = softmax(self._cooled(output))
        return (1 - shares).div_(shares.shape[1] - 1) if kind == "argmin" else shares

    def _of_assessed(self, output: Tensor) -> Tensor:
        """Return the softmax over the classes that are predicted, and 0 for the others."""
        assert self._assessed is not None
        shares = softmax(self._cooled(output[:, self._assessed]))
        shape = (output.shape[0], len(self._card.classes), *output.shape[2:])
        all_classes = torch.zeros(shape, dtype=torch.float32, device=output.device)
        all_classes[:, self._assessed] = shares
        return all_classes

    def _cooled(self, logits: Tensor) -> Tensor:
        temperature = self._card.temperature
        return logits if temperature == 1 else logits.to(torch.float32) / temperature


def softmax(logits: Tensor) -> Tensor:
    """Return the float32 softmax over the channels of (N, C, H, W)."""
    if logits.device.type == "cpu":
        return planar(logits).softmax(dim=1, dtype=torch.float32)
    # The network leaves the classes of a pixel side by side in memory; they stay so on a GPU, where softmax
    # and argmax then take a third of the time, and are seen as (N, C, H, W) again.
    return logits.permute(0, 2, 3, 1).softmax(dim=-1, dtype=torch.float32).permute(0, 3, 1, 2)


def planar(maps: Tensor) -> Tensor:
    """Return (N, C, H, W) on the CPU with each channel's map contiguous, copied if it was not.

    So is softmax over the channels faster there, and all that is done with the classes of a pixel afterwards.
    """
    if maps.stride(3) == 1:
        return maps
    out, source = np.empty(tuple(maps.shape), np.float32), maps.float().numpy()
    for y in range(0, maps.shape[2], STRIP_ROWS):  # what fits into the cache of a core
        out[:, :, y : y + STRIP_ROWS] = source[:, :, y : y + STRIP_ROWS]
    return torch.from_numpy(out)
