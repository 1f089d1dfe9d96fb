"""Contract of a model folder, which `wsi-seg models check` and `testing.models` check.

Each of `CHECKS` takes a model folder, returns what it found in a few words, and raises ModelError where the
contract is broken. All run on the CPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray

from wsi_seg.core.card import CARD_NAME, ModelCard, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models.formats import format_of
from wsi_seg.inference.models.predictor import NetworkPredictor, load_predictor

LEAST_SIDE = 64
SUM_TOLERANCE = 1e-5
ROUNDING = 1e-5  # of probabilities


def card(folder: Path) -> str:
    """The card can be read, and stays the same when it is written again."""
    found = read_card(folder)
    if ModelCard.model_validate_json(found.model_dump_json()) != found:
        raise ModelError(f"{folder / CARD_NAME}: does not stay the same when it is written and read again")
    return f"{found.name}, format {found.format}, {len(found.classes)} classes, {found.mpp:g} µm/px"


def probabilities(folder: Path) -> str:
    """Output is float32 (N, C, H, W), finite, 0 … 1, and adds up to 1, in each number format of the CPU."""
    about = read_card(folder)
    tiles = some_tiles(_batch(about, 2), side_of(about))
    side = tiles.shape[1] - 2 * about.output.margin
    expected = (len(tiles), len(about.classes), side, side)
    formats = precisions(about)
    for precision in formats:
        out = predictor(folder, precision)(tiles, margin=about.output.margin)
        if tuple(out.shape) != expected or out.dtype != torch.float32:
            raise ModelError(f"{folder}: returned {out.dtype} {tuple(out.shape)}, not float32 {expected}")
        if not bool(torch.isfinite(out).all()):
            raise ModelError(f"{folder}: some probabilities are no numbers, in {precision}")
        if float(out.min()) < 0 or float(out.max()) > 1 + SUM_TOLERANCE:
            raise ModelError(
                f"{folder}: probabilities reach from {float(out.min()):.3g} to {float(out.max()):.3g}, in "
                f"{precision}; correct `head` in the card"
            )
        off = float((out.sum(dim=1) - 1).abs().max())
        if about.head != "sigmoid" and off >= SUM_TOLERANCE:
            raise ModelError(
                f"{folder}: the probabilities of a pixel add up to 1 ± {off:.2g}, in {precision}; correct "
                "`head` in the card"
            )
    return f"{'×'.join(map(str, expected))} for tiles of {tiles.shape[1]} px, in {' and '.join(formats)}"


def repeatable(folder: Path) -> str:
    """The same batch gives the same bytes, also from a model that is loaded again."""
    about = read_card(folder)
    tiles = some_tiles(_batch(about, 2), side_of(about))
    loaded = predictor(folder)
    first = loaded(tiles, margin=about.output.margin)
    for again in (loaded, predictor(folder)):
        if not torch.equal(first, again(tiles, margin=about.output.margin)):
            raise ModelError(f"{folder}: the same tiles give other probabilities the next time")
    return "the same tiles give the same bytes"


def independent_of_neighbors(folder: Path) -> str:
    """A tile's result does not depend on what else is in its batch, nor on its place in it.

    To the byte; in a network that was loaded whole but for rounding, as its library shares out the work.
    """
    about = read_card(folder)
    count = _batch(about, 3)
    if count == 1:
        return "one tile at a time"
    margin, loaded, tiles = about.output.margin, predictor(folder), some_tiles(count, side_of(about))
    alone = np.zeros_like(tiles)
    alone[1] = tiles[1]
    expected = loaded(tiles, margin=margin)[1]
    others = (loaded(alone, margin=margin)[1], loaded(np.roll(tiles, -1, axis=0), margin=margin)[0])
    difference = max(float((other - expected).abs().max()) for other in others)
    if difference > (ROUNDING if format_of(about).load else 0):
        raise ModelError(
            f"{folder}: the prediction of a tile depends on the others of its batch; results would depend on "
            "how a slide is cut. Set `batch` to 1 in the card"
        )
    return f"a tile alone and among others differ by {difference:.1g} at most"


CHECKS: dict[str, Callable[[Path], str]] = {
    "card": card,
    "probabilities": probabilities,
    "repeatable": repeatable,
    "independent of neighbors": independent_of_neighbors,
}


def some_tiles(count: int, side: int = LEAST_SIDE) -> NDArray[np.uint8]:
    """Return tiles of noise, uint8 (count, side, side, 3), the same each time."""
    return np.random.default_rng(0).integers(0, 256, (count, side, side, 3), np.uint8)


def side_of(about: ModelCard) -> int:
    """Return a small side of a tile that the network takes."""
    margin, stride = about.output.margin, about.output.stride
    for side in range(about.input_multiple, about.tile, about.input_multiple):
        inside = side - 2 * margin
        if side >= LEAST_SIDE and inside >= about.input_multiple and inside % stride == 0:
            return side
    return about.tile


def precisions(about: ModelCard) -> tuple[str, ...]:
    """Return the number formats that the network computes in on a CPU."""
    return ("float32",) if format_of(about).load else ("float32", "bf16")


def predictor(folder: Path, precision: str = "float32") -> NetworkPredictor:
    """Return a model on the CPU."""
    return load_predictor(str(folder.absolute()), device="cpu", precision=precision)


def _batch(about: ModelCard, usual: int) -> int:
    return about.batch or usual
