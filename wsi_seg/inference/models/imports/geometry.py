"""Geometry of a network: the place of its output in its input, found by running it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch

from wsi_seg.core.card import OutputGeometry
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.imports.source import Program
from wsi_seg.inference.models.loaded import UNREADABLE, map_of, short

STEP = 64  # by which a second input is longer


@dataclass(frozen=True, slots=True)
class Found:
    """A network as it behaves."""

    channels: int
    card: dict[str, Any]
    """`tile`, `input_multiple`, `batch` and `output`; without `output` where one size leaves it open."""
    sums_to_one: bool
    """The output is probabilities over the channels."""
    output_side: int


def find_geometry(network: Program, shape: tuple[int | None, ...], tile: int, where: str) -> Found:
    """Run a network on tiles of one size, and of another if it takes one.

    Args:
        network: on the CPU.
        shape: sides of the input that it was stored with, None for those that may vary.
        tile: side of the input where that may vary.
        where: names the network in errors.

    Raises:
        ModelError: it takes no such input, or returns no map.
    """
    batch, _, height, width = shape
    if (height or width or tile) != (width or height or tile):
        raise ModelError(f"{where}: takes inputs of {width}×{height} pixels, and only squares can be tiles")
    side = height or width or tile
    first = _run(network, batch or 1, side, where)
    larger = None if height or width else _try(network, batch or 1, side + STEP, where)
    card: dict[str, Any] = {"tile": side}
    if larger is None:
        card["input_multiple"] = side
    card["batch"] = batch if batch is not None or _try(network, 2, side, where) is not None else 1
    out = first.shape[2]
    if first.shape[2] != first.shape[3]:
        raise ModelError(f"{where}: returned a map of {first.shape[3]}×{out} pixels for a square tile")
    if larger is not None and larger.shape[2] > out:
        stride = round(STEP / (larger.shape[2] - out))
        margin, odd = divmod(side - stride * out, 2)
        if odd or margin < 0 or stride * (larger.shape[2] - out) != STEP:
            raise ModelError(
                f"{where}: returned {out} pixels for a tile of {side}, and {larger.shape[2]} for "
                f"{side + STEP}; no stride and margin explain that"
            )
        card["output"] = OutputGeometry(margin=margin, stride=stride).model_dump()
    elif out == side:
        card["output"] = OutputGeometry().model_dump()
    sums = first.sum(dim=1)
    probabilities = bool((first >= 0).all()) and bool(((sums - 1).abs() < 1e-3).all()) and first.shape[1] > 1
    return Found(first.shape[1], card, probabilities, out)


def _run(network: Program, batch: int, side: int, where: str) -> torch.Tensor:
    noise = torch.rand(batch, 3, side, side, generator=torch.Generator().manual_seed(0))
    try:
        with torch.inference_mode():
            return map_of(network(noise))
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error
    except UNREADABLE as error:
        raise ModelError(
            f"{where}: fails for an input ({batch}, 3, {side}, {side}): {short(error)}; give the size that "
            "it takes with --tile"
        ) from error


def _try(network: Program, batch: int, side: int, where: str) -> torch.Tensor | None:
    """Return the map, None where the network takes no such input."""
    try:
        return _run(network, batch, side, where)
    except ModelError:
        return None
