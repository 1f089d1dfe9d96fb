"""Batch normalization folded into the convolutions before it, for inference.

A convolution and the normalization of its output are one linear map, so the weights of one convolution can do
both (Jacob et al. 2018, doi:10.1109/CVPR.2018.00286, section 3.2). That saves a pass over memory for each of
them. It is for float32 and float16: bfloat16 has too few digits for the scaled weights.
"""

from __future__ import annotations

import copy
import logging
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from wsi_seg.inference.models.network import forward

SIDE = 64  # of the input that shows which layer follows which
# Largest difference that rounding in float32 makes, in the largest logit.
TOLERANCE = 1e-3

logger = logging.getLogger(__name__)


@torch.no_grad()
def fold_batch_norm(network: nn.Module) -> nn.Module:
    """Return a network in which convolutions do the normalization of their outputs as well.

    Args:
        network: float32, on the CPU, in evaluation mode, as `network.build_network` makes it; left as it is.

    Returns:
        A copy, of which the outputs are the same but for rounding. Normalizations of anything else than the
        output of a convolution stay. `network` itself where a convolution's output has another use, too.
    """
    probe = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    folded = copy.deepcopy(network)
    pairs, expected = _followed(folded, probe)
    for (name, convolution), (other, normalization) in pairs:
        _put(folded, name, fuse_conv_bn_eval(convolution, normalization))
        _put(folded, other, _rest(normalization))
    found = forward(folded, probe)[0]
    if float((found - expected).abs().max()) > TOLERANCE * float(expected.abs().max()):
        logger.info("batch normalization is left as it is: the network needs what goes into it elsewhere")
        return network
    return folded


def _followed(
    network: nn.Module, probe: Tensor
) -> tuple[list[tuple[tuple[str, nn.Conv2d], tuple[str, nn.BatchNorm2d]]], Tensor]:
    """Return the named convolutions with the normalization that takes their output, and the logits."""
    made: dict[int, tuple[tuple[str, nn.Conv2d], Tensor]] = {}  # holds the tensors, so that ids stay theirs
    pairs = []
    hooks = []
    for name, module in network.named_modules():

        def after(module: nn.Module, inputs: Any, output: Any, name: str = name) -> None:
            if isinstance(module, nn.Conv2d):
                made[id(output)] = ((name, module), output)
            elif isinstance(module, nn.BatchNorm2d) and id(inputs[0]) in made:
                pairs.append((made[id(inputs[0])][0], (name, module)))

        if isinstance(module, nn.Conv2d | nn.BatchNorm2d):
            hooks.append(module.register_forward_hook(after))
    logits = forward(network, probe)[0]
    for hook in hooks:
        hook.remove()
    return pairs, logits


def _rest(normalization: nn.BatchNorm2d) -> nn.Module:
    """Return what a layer does besides the normalization: some of timm's have an activation of their own."""
    rest: nn.Module = getattr(normalization, "act", nn.Identity())
    return rest


def _put(network: nn.Module, name: str, module: nn.Module) -> None:
    parent, _, own = name.rpartition(".")
    setattr(network.get_submodule(parent), own, module)
