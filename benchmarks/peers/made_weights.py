"""Weights made from the names of tensors, so that two programs have the same without passing a file."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor

CONSTANTS = ("unpool_mat", "num_batches_tracked")


def made_weights(state: Mapping[str, Tensor], head: str, gain: float) -> dict[str, Tensor]:
    """Return other values for a state dict; each tensor depends on its name and shape alone.

    Args:
        state: as the network has it.
        head: beginning of the names of the last layer.
        gain: factor on the weights of that layer, by which classes differ in probability.
    """
    made = {}
    for name, tensor in state.items():
        if name.endswith(CONSTANTS):
            made[name] = tensor.clone()
            continue
        uniform = np.random.default_rng(zlib.crc32(name.encode())).random(tuple(tensor.shape), np.float32)
        if tensor.ndim > 1:
            fan_in = tensor[0].numel()
            uniform = (2 * uniform - 1) * np.float32(np.sqrt(3 / fan_in))
        elif name.endswith(("weight", "running_var")):
            uniform = uniform * np.float32(0.5) + np.float32(0.75)
        else:
            uniform = (2 * uniform - 1) * np.float32(0.1)
        if name.startswith(head) and name.endswith("weight"):
            uniform = uniform * np.float32(gain)
        made[name] = torch.from_numpy(uniform)
    return made
