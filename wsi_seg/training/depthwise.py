"""Depthwise convolutions of a training in bfloat16 on the CPU, computed in float32.

oneDNN has no fast gradient of them in bfloat16. A step of the U-Net with EfficientNet-Lite0 (4 crops of 256
px) takes 0.86 s of processor time with them in float32, and 1.13 without (medians of three, interleaved,
one thread of an Intel Xeon with AMX, torch 2.14).
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn


def depthwise_in_float32(network: nn.Module) -> int:
    """Let the depthwise convolutions of a network leave autocast; return how many there are."""
    found = [m for m in network.modules() if isinstance(m, nn.Conv2d) and 1 < m.groups == m.in_channels]
    for module in found:
        module.forward = partial(_float32, module.forward)  # type: ignore[method-assign]
    return len(found)


def _float32(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    with torch.autocast(x.device.type, enabled=False):
        return forward(x.float())
