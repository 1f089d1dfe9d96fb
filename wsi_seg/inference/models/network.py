"""Networks: built from a card, saved to and loaded from a model folder."""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Callable, Mapping
from functools import lru_cache
from pathlib import Path
from pkgutil import resolve_name
from typing import Any

import numpy as np
import torch
from imagecodecs import jpeg8_decode, jpeg8_encode
from numpy.typing import NDArray
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import Tensor, nn
from torch.nn import functional

from wsi_seg.core.card import WEIGHTS_NAME, ModelCard, Normalization, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.core.files import atomic_path, writing
from wsi_seg.inference.models.formats import format_of, weights_path

HEAD = "segmentation_head"  # name of the last layers in every network of the library
HEAD_KEY = f"{HEAD}.0.weight"
LABEL_HEAD_KEY = "classification_head.3.weight"
RESERVED_OPTIONS = ("activation", "aux_params")  # a network here returns logits, as its card says
LABEL_DROPOUT = 0.2  # of the encoder's pooled features, in training
# Weights of R, G and B in luma: ITU-R BT.601, as in JPEG.
LUMA = (0.299, 0.587, 0.114)
SHOWN = 3  # tensors named in an error message


def build_network(card: ModelCard) -> nn.Module:
    """Build the network that a card describes, with random weights.

    Returns:
        A module float (N, 3, H, W) -> output (N, card.channels, h, w) as `card.output` places it; for a card
        with image labels a pair of these and logits (N, len(card.image_labels)). Call it by `forward`.

    Raises:
        ModelError: the format builds none; the architecture, the encoder or an option is unknown or wrong.
    """
    spec = format_of(card).build
    if not spec:
        raise ModelError(f"model {card.name!r}: a network of format {card.format} is loaded whole, not built")
    network: nn.Module = resolve_name(spec)(card)
    return network


def build_smp(card: ModelCard, encoder_weights: str | None = None) -> nn.Module:
    """Build a network of segmentation-models-pytorch.

    Args:
        card: architecture, encoder, options and classes.
        encoder_weights: None for random weights; a name such as "imagenet" makes
            segmentation-models-pytorch download them.

    Returns:
        A module float (N, 3, H, W) -> logits (N, card.channels, H, W), H and W multiples of 32; for a
        card with image labels a pair of these and logits (N, len(card.image_labels)). Call it by `forward`.

    Raises:
        ModelError: the architecture, the encoder or an option is unknown or wrong.
    """
    # Imported only now: with timm and torchvision it takes longer than torch, and other formats do without.
    import segmentation_models_pytorch

    head = {"classes": len(card.image_labels), "pooling": "avg", "dropout": LABEL_DROPOUT}
    try:
        network: nn.Module = segmentation_models_pytorch.create_model(
            card.architecture,
            encoder_name=card.encoder,
            encoder_weights=encoder_weights,
            in_channels=3,
            classes=card.channels,
            aux_params=head if card.image_labels else None,
            **card.architecture_options,
        )
    except (KeyError, ValueError, TypeError, RuntimeError) as error:
        reason = " ".join(str(error).split())[:300]
        raise ModelError(
            f"model {card.name!r}: cannot build architecture {card.architecture!r} with encoder "
            f"{card.encoder!r}: {reason}"
        ) from error
    _check_options(network, card)
    return network


def forward(network: Callable[[Tensor], Any], inputs: Tensor) -> tuple[Tensor, Tensor | None]:
    """Return the logits of pixels (N, C, H, W) and of whole images (N, L), None where there are no labels.

    Args:
        network: from `build_network`, or one that stands in for it.
        inputs: normalized float (N, 3, H, W).
    """
    return as_pair(network(inputs))


def as_pair(out: Any) -> tuple[Tensor, Tensor | None]:
    """Return what a network returned as the logits of pixels and of whole images, None where it has none."""
    return out if isinstance(out, tuple) else (out, None)


def _check_options(network: nn.Module, card: ModelCard) -> None:
    """Refuse options that would be taken without being used, or that change what the network returns."""
    known = set(inspect.signature(type(network).__init__).parameters) - {"self", "kwargs", *RESERVED_OPTIONS}
    passed_on = card.encoder.startswith("tu-")  # timm checks the rest itself
    for name in card.architecture_options:
        if name in RESERVED_OPTIONS or (name not in known and not passed_on):
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.0)
            raise ModelError(
                f"model {card.name!r}: architecture {card.architecture!r} has no option {name!r}; "
                f"did you mean {near[0]!r}?"
            )


def load_network(folder: Path) -> nn.Module:
    """Build the network of a model folder and load its weights, as float32, in evaluation mode.

    Raises:
        ModelError: card or weights are missing or damaged, or the weights do not fit the card.
    """
    card = read_card(folder)
    spec = format_of(card).load
    if spec:
        loaded: nn.Module = resolve_name(spec)(weights_path(folder), card)
        return loaded.eval()
    weights = read_weights(folder / WEIGHTS_NAME)
    network = build_network(card)
    load_weights(network, card, weights, folder / WEIGHTS_NAME)
    return network.eval()


def read_weights(path: Path) -> dict[str, Tensor]:
    """Read the tensors of a safetensors file.

    Raises:
        ModelError: the file is missing or damaged.
    """
    if not path.is_file():
        raise ModelError(f"{path}: there is no such weights file")
    try:
        return dict(load_file(path))
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{path}: the weights cannot be read ({error}); copy the model again") from error


def load_weights(network: nn.Module, card: ModelCard, weights: Mapping[str, Tensor], path: Path) -> None:
    """Load `weights` into `network`; every tensor must fit.

    Raises:
        ModelError: names the tensors that differ.
    """
    expected = network.state_dict()
    head = weights.get(HEAD_KEY)
    if head is not None and HEAD_KEY in expected and head.shape[0] != expected[HEAD_KEY].shape[0]:
        raise ModelError(
            f"{path}: the weights predict {head.shape[0]} classes but the card of {card.name!r} names "
            f"{card.channels}; correct `classes` in the card"
        )
    difference = describe_difference(expected, weights)
    if difference:
        raise ModelError(
            f"{path}: the weights do not fit {card.architecture} with encoder {card.encoder}: {difference}"
        )
    network.load_state_dict({name: tensor.to(expected[name].dtype) for name, tensor in weights.items()})


def describe_difference(expected: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    """Return in words how the names and shapes of two sets of tensors differ; "" when they agree."""
    missing = [name for name in expected if name not in found]
    unexpected = [name for name in found if name not in expected]
    shapes = [
        f"{name} is {_shape(found[name])} instead of {_shape(expected[name])}"
        for name in expected
        if name in found and found[name].shape != expected[name].shape
    ]
    parts = []
    for what, names in (("missing", missing), ("unexpected", unexpected), ("of another shape", shapes)):
        if names:
            more = ", …" if len(names) > SHOWN else ""
            parts.append(f"{len(names)} {what} ({', '.join(names[:SHOWN])}{more})")
    return "; ".join(parts)


def load_encoder(network: nn.Module, path: Path) -> None:
    """Load a safetensors file of encoder weights, a classifier's `fc.*` left out.

    Raises:
        ModelError: the file cannot be read or does not fit.
    """
    weights = {name: t for name, t in read_weights(path).items() if not name.startswith("fc.")}
    encoder = network.get_submodule("encoder")
    expected = encoder.state_dict()
    difference = describe_difference(expected, weights)
    if difference:
        raise ModelError(f"{path}: the weights do not fit the encoder: {difference}")
    encoder.load_state_dict({name: t.to(expected[name].dtype) for name, t in weights.items()})


def save_network(network: nn.Module, card: ModelCard, folder: Path) -> None:
    """Write a model folder: the card, and the weights in bfloat16.

    A run in bfloat16 then computes with the very weights of one in float32. Normalization layers, which keep
    float32 in every run, are stored in float32.

    Raises:
        ModelError: weights are not finite, as after a training that diverged.
        OutputError: the folder cannot be written.
    """
    wrong = [name for name, tensor in network.state_dict().items() if not tensor.isfinite().all()]
    if wrong:
        raise ModelError(
            f"{folder}: the training diverged, weights are not numbers ({wrong[0]}); lower the learning_rate "
            "of its optimizer and train again with --overwrite"
        )
    with writing(folder):
        folder.mkdir(parents=True, exist_ok=True)
    exact = {
        f"{name}.{key}" if name else key
        for name, module in network.named_modules()
        if isinstance(module, nn.BatchNorm2d)
        for key in module.state_dict()
    }
    weights = {
        name: _stored(tensor, torch.float32 if name in exact else torch.bfloat16)
        for name, tensor in network.state_dict().items()
    }
    # safetensors' own `save_file` makes files that only their owner may read.
    with atomic_path(folder / WEIGHTS_NAME, shared=True) as temporary:
        temporary.write_bytes(save(weights, metadata={"format": "pt"}))
    card.write(folder)


def _stored(tensor: Tensor, dtype: torch.dtype) -> Tensor:
    tensor = tensor.detach().cpu().contiguous()
    return tensor.to(dtype) if tensor.is_floating_point() else tensor


def _shape(tensor: Tensor) -> str:
    return "×".join(str(side) for side in tensor.shape) or "scalar"


def as_jpeg(tiles: NDArray[np.uint8], quality: int) -> NDArray[np.uint8]:
    """Return tiles (N, H, W, 3) as they come out of JPEG, colors at half the resolution."""
    return np.stack(
        [jpeg8_decode(jpeg8_encode(np.ascontiguousarray(tile), quality, subsampling="420")) for tile in tiles]
    )


def normalized(tiles: Tensor, normalization: Normalization) -> Tensor:
    """Turn uint8 (N, H, W, 3) tiles into the network's float32 (N, 3, H, W) input, on their device."""
    mean = _constant(normalization.mean, tiles.device)
    std = _constant(normalization.std, tiles.device)
    pixels = tiles.to(torch.float32) / normalization.scale
    if normalization.chroma_box > 1:
        pixels = _smooth_chroma(pixels, normalization.chroma_box)
    if normalization.channel_order == "bgr":
        pixels = pixels.flip(-1)
    # Dimensions are swapped last, so the result lies in memory as channels-last convolutions want it.
    return ((pixels - mean) / std).permute(0, 3, 1, 2)


@lru_cache(maxsize=64)
def _constant(values: tuple[float, ...], device: torch.device) -> Tensor:
    """Return float32 values on a device, where they stay: to copy them again would wait for the device."""
    with torch.inference_mode(False):  # or trainings could not use what an earlier prediction had made
        return torch.tensor(values, device=device)


def _smooth_chroma(pixels: Tensor, side: int) -> Tensor:
    """Average what is not luma over side × side pixels of float (N, H, W, 3) images; fewer at the border."""
    luma = (pixels * _constant(LUMA, pixels.device)).sum(-1, keepdim=True)
    chroma = (pixels - luma).permute(0, 3, 1, 2)
    for box in ((1, side), (side, 1)):
        around = (box[0] // 2, box[1] // 2)
        chroma = functional.avg_pool2d(chroma, box, stride=1, padding=around, count_include_pad=False)
    return luma + chroma.permute(0, 2, 3, 1)
