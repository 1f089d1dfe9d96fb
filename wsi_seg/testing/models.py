"""Contract of every model: run each of `CHECKS` on its folder.

    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_my_model(check, tmp_path):
        check(my_model_folder, tmp_path)

Each check takes the model folder and an empty folder to write in, and raises AssertionError where the
contract is broken. All run on the CPU.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

from wsi_seg.core.card import WEIGHTS_NAME, CardClass, ModelCard, read_card
from wsi_seg.core.errors import ModelError
from wsi_seg.inference.models import checks
from wsi_seg.inference.models.checks import LEAST_SIDE, some_tiles
from wsi_seg.inference.models.network import (
    build_network,
    load_network,
    load_weights,
    normalized,
    read_weights,
    save_network,
)

SIDE = LEAST_SIDE
__all__ = ["CHECKS", "random_model", "some_tiles"]


def check_card(folder: Path, scratch: Path) -> None:
    """The card survives being written."""
    _keeps(checks.card, folder)
    card = read_card(folder)
    card.write(scratch)
    assert read_card(scratch) == card


def check_probabilities(folder: Path, scratch: Path) -> None:
    """Output is float32 (N, C, H, W), finite, and adds up to 1 in every pixel, in each CPU precision."""
    _keeps(checks.probabilities, folder)


def check_repeatable(folder: Path, scratch: Path) -> None:
    """The same batch gives the same bytes, also from a model that is loaded again."""
    _keeps(checks.repeatable, folder)


def check_independent_of_neighbors(folder: Path, scratch: Path) -> None:
    """A tile's result does not depend on what else is in its batch, nor on its place in it."""
    _keeps(checks.independent_of_neighbors, folder)


def check_round_trip(folder: Path, scratch: Path) -> None:
    """A network that is loaded, saved and loaded again predicts the same."""
    save_network(load_network(folder), read_card(folder), scratch)
    tiles = some_tiles(1)
    assert torch.equal(checks.predictor(scratch)(tiles), checks.predictor(folder)(tiles))


def check_wrong_tensors(folder: Path, scratch: Path) -> None:
    """Weights that do not fit are refused by an error of one line that names the tensors."""
    card, weights = read_card(folder), read_weights(folder / WEIGHTS_NAME)
    first, *_, last = (name for name, tensor in weights.items() if tensor.ndim == 4)
    reshaped = weights | {first: weights[first][:-1].contiguous()}
    missing = {name: tensor for name, tensor in weights.items() if name != last}
    extra = weights | {"some.other.weight": torch.zeros(3)}
    network = build_network(card)
    for wrong, named in ((reshaped, first), (missing, last), (extra, "some.other.weight")):
        message = _message(partial(load_weights, network, card, wrong, scratch))
        assert named in message and str(scratch) in message, message


def check_wrong_channels(folder: Path, scratch: Path) -> None:
    """A card with other classes than the network has outputs is told so in plain words."""
    card = read_card(folder)
    code = next(code for code in range(255, 0, -1) if code not in card.codes)
    classes = (*card.classes, CardClass(code=code, name="one too many", color=(0, 0, 0)))
    card.model_copy(update={"classes": classes}).write(scratch)
    shutil.copy(folder / WEIGHTS_NAME, scratch)
    message = _message(lambda: load_network(scratch))
    assert f"{len(card.classes)} classes" in message and str(len(classes)) in message, message
    assert str(scratch) in message, message


def check_damaged_weights(folder: Path, scratch: Path) -> None:
    """A truncated or missing weights file is named."""
    whole = (folder / WEIGHTS_NAME).read_bytes()
    read_card(folder).write(scratch)
    for content in (None, b"", whole[: len(whole) // 2]):
        (scratch / WEIGHTS_NAME).unlink(missing_ok=True)
        if content is not None:
            (scratch / WEIGHTS_NAME).write_bytes(content)
        message = _message(lambda: load_network(scratch))
        assert str(scratch / WEIGHTS_NAME) in message, message


CHECKS: tuple[Callable[[Path, Path], None], ...] = (
    check_card,
    check_probabilities,
    check_repeatable,
    check_independent_of_neighbors,
    check_round_trip,
    check_wrong_tensors,
    check_wrong_channels,
    check_damaged_weights,
)


def random_model(folder: Path, **card: Any) -> Path:
    """Write a small model of random weights, the same each time; its batch statistics are those of noise.

    It is named after its folder; `card` are fields of its card.
    """
    torch.manual_seed(0)
    made = ModelCard(**{"name": folder.name, "encoder": "timm-tf_efficientnet_lite0", "tile": SIDE, **card})
    network = build_network(made).train()
    with torch.no_grad():
        for _ in range(3):
            network(normalized(torch.from_numpy(some_tiles(2)), made.normalization))
    save_network(network, made, folder)
    return folder


def _keeps(check: Callable[[Path], str], folder: Path) -> None:
    try:
        check(folder)
    except ModelError as error:
        raise AssertionError(str(error)) from error


def _message(action: Callable[[], object]) -> str:
    """Return the one line with which `action` refuses."""
    try:
        action()
    except ModelError as error:
        assert "\n" not in str(error), str(error)
        return str(error)
    raise AssertionError("accepted although it is wrong")
