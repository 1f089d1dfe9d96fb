"""Grad-CAM: the places of an image whose features speak for a class, found by the gradients of a network.

Selvaraju et al. 2017, doi:10.1109/ICCV.2017.74, as captum computes it. A segmentation network has a score for
each pixel; what is explained is the sum of the class's logit over the pixels predicted as that class
(Seg-Grad-CAM, Vinogradova et al. 2020, doi:10.1609/aaai.v34i10.7244).
"""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from wsi_seg.core.card import ModelCard, read_card
from wsi_seg.core.errors import MissingExtraError, ModelError, UsageError
from wsi_seg.inference.models.loaded import LoadedNetwork, map_of
from wsi_seg.inference.models.network import load_network, normalized
from wsi_seg.inference.models.own import named_network
from wsi_seg.inference.models.registry import find_model

# A forward pass over this much of the image shows what each layer gives.
PROBE_SIDE = 128
SHOWN = 3  # layers named in an error message


@dataclass(frozen=True, slots=True)
class Explanation:
    """Evidence for a class in one image of H × W pixels."""

    heat: NDArray[np.float32]
    """(H, W): Grad-CAM, enlarged bilinearly from the layer's resolution; 0 or more, in no unit."""
    predicted: NDArray[np.bool_]
    """(H, W): pixels whose most probable class is asked about."""
    layer: str


def open_model(reference: str) -> tuple[ModelCard, Callable[[], nn.Module]]:
    """Return the card of a model, and the function that loads its network in evaluation mode.

    Args:
        reference: as for `load_model`.

    Raises:
        ModelError: the model is missing or damaged; the function says so of its weights.
    """
    own = named_network(reference)
    if own is not None:
        return own.own_card, own.module.eval
    folder = find_model(reference)
    return read_card(folder), lambda: load_network(folder)


def grad_cam(
    network: nn.Module,
    card: ModelCard,
    pixels: NDArray[np.uint8],
    codes: tuple[int, ...],
    layer: str | None = None,
    inside: tuple[slice, slice] = (slice(None), slice(None)),
) -> Explanation:
    """Explain the prediction of a class, or of a group of classes.

    The score of a group in a pixel is log Σ exp of the logits of its classes: the logit of "any of them".

    Args:
        network: in evaluation mode; float (N, 3, H, W) -> logits (N, C, H, W), alone or with others.
        card: the network's classes and normalization.
        pixels: uint8 RGB (H, W, 3), H and W multiples of 32.
        codes: label values of the classes asked about.
        layer: name of a module of the network that gives one tensor (N, channels, h, w); by default the last
            of the encoder, whose features have seen most of the image and mean most.
        inside: rows and columns that count; the rest of the image is context.

    Raises:
        MissingExtraError: captum is not installed.
        UsageError: there is no such layer, or it gives no such tensor.
        ModelError: the network was loaded whole, without layers; or the device has not enough memory.
    """
    if isinstance(network, LoadedNetwork):
        raise ModelError(
            f"model {card.name!r}: a network of format {card.format} has no layers to look into; explaining "
            "needs one of format smp, or module:factory"
        )
    try:
        from captum.attr import LayerAttribution, LayerGradCam
    except ImportError as error:
        raise MissingExtraError(
            "explaining needs captum; install it with: pip install 'wsi-seg[explain]'"
        ) from error
    where = next(network.parameters()).device
    inputs = normalized(torch.from_numpy(np.ascontiguousarray(pixels)[None]).to(where), card.normalization)
    name = find_layer(network, inputs, layer)
    channels = [i for i, code in enumerate(card.codes) if code in codes]
    try:
        predicted = _predicted(network, inputs, channels, card)
        target = _target_pixels(predicted, inside)

        def score(images: Tensor) -> Tensor:
            logits = map_of(network(images))[:, channels].logsumexp(dim=1)
            return logits[:, target].sum(dim=1)

        cam = LayerGradCam(score, network.get_submodule(name)).attribute(inputs, relu_attributions=True)
    except torch.OutOfMemoryError as error:
        raise ModelError(
            f"{where}: not enough memory to explain {pixels.shape[1]} × {pixels.shape[0]} pixels; "
            "give a smaller --box, or --device cpu"
        ) from error
    heat = LayerAttribution.interpolate(cam.detach(), pixels.shape[:2], interpolate_mode="bilinear")
    return Explanation(heat[0, 0].cpu().numpy(), predicted.cpu().numpy(), name)


@torch.no_grad()
def _predicted(network: nn.Module, inputs: Tensor, channels: list[int], card: ModelCard) -> Tensor:
    """Return bool (H, W): where one of the channels has the largest logit of the assessed classes."""
    logits = map_of(network(inputs))[0]
    if card.assessed_channels is not None:
        others = torch.ones(len(logits), dtype=torch.bool, device=logits.device)
        others[list(card.assessed_channels)] = False
        logits = logits.masked_fill(others[:, None, None], -torch.inf)
    best = logits.argmax(dim=0)
    return torch.isin(best, torch.tensor(channels, device=best.device))


def _target_pixels(predicted: Tensor, inside: tuple[slice, slice]) -> Tensor:
    """Return bool (H, W): the predicted pixels that count, or all that count when there are none."""
    counted = torch.zeros_like(predicted)
    counted[inside] = True
    return predicted & counted if bool(predicted[inside].any()) else counted


def find_layer(network: nn.Module, inputs: Tensor, name: str | None = None) -> str:
    """Return the name of the layer to explain: the one asked for, or the last of the encoder.

    Raises:
        UsageError: there is no such layer, it gives no feature map, or none is asked for and there is no
            encoder whose last feature map comes out of a module.
    """
    maps, last = _feature_maps(network, inputs[..., :PROBE_SIDE, :PROBE_SIDE])
    if name is None and last is None:
        inner = [layer for layer in maps if not layer.startswith("segmentation_head")]
        raise UsageError(
            "which layer of this network's encoder is the last cannot be told; "
            f"name one with --layer, such as {', '.join(inner[-SHOWN:])}"
        )
    found = name or last
    if found in maps:
        return str(found)
    layers = [layer for layer, _ in network.named_modules() if layer]
    near = difflib.get_close_matches(str(found), maps, n=SHOWN, cutoff=0.0)
    problem = "gives no feature map" if found in layers else "is not in this network"
    raise UsageError(f"layer {found!r} {problem}; did you mean {', '.join(near)}?")


@torch.no_grad()
def _feature_maps(network: nn.Module, inputs: Tensor) -> tuple[list[str], str | None]:
    """Return the modules that give one (N, channels, h, w), as computed, and the encoder's last of them."""
    maps: dict[str, Tensor] = {}
    deepest: list[Tensor] = []

    def record(name: str, out: object) -> None:
        if name == "encoder" and isinstance(out, list | tuple):
            deepest.append(out[-1])
        if name and isinstance(out, Tensor) and out.ndim == inputs.ndim:
            maps[name] = out

    hooks = [
        module.register_forward_hook(lambda module, given, out, name=name: record(name, out))
        for name, module in network.named_modules()
    ]
    try:
        network(inputs)
    finally:
        for hook in hooks:
            hook.remove()
    # Modules end from the inside out: the outermost that hands this very tensor on is the last to do so.
    same = [
        name
        for name, out in maps.items()
        if name.startswith("encoder.") and any(out is one for one in deepest)
    ]
    return list(maps), same[-1] if same else None
