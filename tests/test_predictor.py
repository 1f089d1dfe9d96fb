"""Predictors: probabilities, devices, precisions, threads."""

from __future__ import annotations

import io
import shutil
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from pydantic import ValidationError
from torch import nn

from wsi_seg.core.card import CardClass, ModelCard, Normalization, read_card
from wsi_seg.core.errors import DeviceMemoryError
from wsi_seg.inference.models.heads import planar
from wsi_seg.inference.models.network import load_network, normalized
from wsi_seg.inference.models.predictor import (
    DTYPES,
    NetworkPredictor,
    _cast,
    cpu_threads,
    load_predictor,
)
from wsi_seg.testing.models import random_model, some_tiles

CLASSES = tuple(CardClass(code=code, name=f"class {code}", color=(code, 0, 0)) for code in (1, 2, 3))


@pytest.fixture(scope="module")
def model_folder(tmp_path_factory) -> Path:
    return random_model(tmp_path_factory.mktemp("model") / "tiny")


def test_predictor_says_what_it_is(model_folder):
    made = load_predictor(str(model_folder), device="cpu", precision="bf16")
    assert (made.card, made.device, made.precision) == (read_card(model_folder), "cpu", "bf16")


def test_predictor_equals_the_plain_network(model_folder):
    card, tiles = read_card(model_folder), some_tiles(2)
    with torch.no_grad():
        logits = load_network(model_folder)(normalized(torch.from_numpy(tiles), card.normalization))
    exact = logits.softmax(1)
    assert torch.allclose(load_predictor(str(model_folder), "cpu", "float32")(tiles), exact, atol=1e-5)
    half = load_predictor(str(model_folder), "cpu", "bf16")(tiles)
    assert not torch.equal(half, exact)
    assert float((half - exact).abs().max()) < 0.1
    assert float((half - exact).abs().mean()) < 0.005


def test_the_maps_of_channels_lie_one_after_the_other_for_what_comes_next(model_folder):
    maps = torch.rand(2, 5, 70, 33)
    assert planar(maps) is maps
    found = planar(maps.to(memory_format=torch.channels_last)[..., 3:-3, 4:-5])
    assert torch.equal(found, maps[..., 3:-3, 4:-5]) and found.is_contiguous()
    assert load_predictor(str(model_folder), "cpu", "bf16")(some_tiles(2), margin=4).is_contiguous()


def eight_views(tiles: np.ndarray) -> list[np.ndarray]:
    """A tile (N, H, W, …) turned and flipped in all ways, one transposition or reversal at a time."""
    views = []
    for swapped in (tiles, tiles.swapaxes(1, 2)):
        for rows in (1, -1):
            for columns in (1, -1):
                views.append(swapped[:, ::rows, ::columns])
    return views


def test_augmentation_at_test_time_is_the_mean_of_eight_views_turned_back(model_folder):
    plain = load_predictor(str(model_folder), "cpu", "float32")
    tiles = some_tiles(2)
    total = np.zeros((2, 64, 64, 21))
    for swap in (False, True):
        for rows in (1, -1):
            for columns in (1, -1):
                view = (tiles.swapaxes(1, 2) if swap else tiles)[:, ::rows, ::columns]
                out = plain(view).numpy().transpose(0, 2, 3, 1)[:, ::rows, ::columns]
                total += out.swapaxes(1, 2) if swap else out
    made = load_predictor(str(model_folder), "cpu", "float32", tta=True)
    found = made(tiles)
    assert made.tta and not plain.tta
    assert found.dtype == torch.float32
    assert np.allclose(found.numpy().transpose(0, 2, 3, 1), total / 8, atol=1e-5)
    assert float((found - plain(tiles)).abs().max()) > 0.01
    assert torch.equal(found, made(tiles))


def test_augmented_predictions_turn_with_the_input(model_folder):
    made = load_predictor(str(model_folder), "cpu", "float32", tta=True)
    tiles = some_tiles(1)
    found = made(tiles).numpy().transpose(0, 2, 3, 1)
    for view, expected in zip(eight_views(tiles), eight_views(found), strict=True):
        assert np.allclose(made(view).numpy().transpose(0, 2, 3, 1), expected, atol=1e-5)
    long = made(np.ascontiguousarray(tiles[:, :32]))  # an image need not be square
    assert long.shape == (1, 21, 32, 64)


def test_augmentation_changes_nothing_where_the_network_turns_with_its_input():
    """A network that looks at single pixels gives the same with and without."""
    card = ModelCard(name="pointwise", groups=(), classes=CLASSES, normalization=Normalization())
    torch.manual_seed(0)
    network = nn.Conv2d(3, len(CLASSES), 1)
    plain, augmented = (NetworkPredictor(network, card, "cpu", "float32", tta) for tta in (False, True))
    tiles = some_tiles(2)
    assert torch.allclose(augmented(tiles), plain(tiles), atol=1e-6)


def test_image_labels_are_averaged_over_the_views(tmp_path):
    folder = random_model(tmp_path / "labels", image_labels=("benign", "malignant"))
    plain, augmented = (load_predictor(str(folder), "cpu", "float32", tta) for tta in (False, True))
    tiles = some_tiles(2)
    mean = torch.stack([plain.classify(view) for view in eight_views(tiles)]).mean(0)
    assert torch.allclose(augmented.classify(tiles), mean, atol=1e-5)


def test_predictor_takes_any_memory_layout(model_folder):
    made = load_predictor(str(model_folder), "cpu", "float32")
    tiles = some_tiles(2)
    turned = np.ascontiguousarray(tiles[:, ::-1])[:, ::-1]
    turned.setflags(write=False)
    assert torch.equal(made(turned), made(tiles))


def test_threads_share_a_predictor(model_folder: Path) -> None:
    made = load_predictor(str(model_folder), "cpu", "float32")
    batches = [np.roll(some_tiles(1), i, axis=1) for i in range(6)]
    expected = [made(batch) for batch in batches]
    with ThreadPoolExecutor(3) as pool:
        assert all(map(torch.equal, pool.map(made, batches), expected))


def test_passes_share_the_cores_until_they_are_given_back(model_folder: Path) -> None:
    made = load_predictor(str(model_folder), "cpu", "float32")
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(4)
        with ThreadPoolExecutor(2, initializer=made.share, initargs=(2,)) as pool:
            assert pool.submit(torch.get_num_threads).result() == 2
            # Who shares again, in whatever thread, shares all that there was.
            assert pool.submit(made.share, 4).result() is None
            assert cpu_threads() == 4
        made.unshare()
        assert cpu_threads() == torch.get_num_threads() == 4
    finally:
        torch.set_num_threads(before)


def test_out_of_memory_leads_to_fewer_tiles_at_a_time_and_then_to_an_error(model_folder, caplog):
    tiles = some_tiles(5)
    made = load_predictor(str(model_folder), "cpu", "float32")
    whole, most = made(tiles, margin=4), 3

    def fail(_, inputs):
        if len(inputs[0]) > most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried …")

    made._network.register_forward_pre_hook(fail)
    with pytest.raises(DeviceMemoryError, match="not enough memory for a batch of 5 tiles"):
        made.logits(tiles)  # which is to be timed as it is
    parts = made(tiles, margin=4)
    assert made.most_tiles == 2 and parts.shape == whole.shape
    assert torch.allclose(parts, whole, atol=1e-6)
    assert "cpu: not enough memory for 5 tiles at a time; 2 from now on" in caplog.text
    most = 0
    with pytest.raises(DeviceMemoryError, match=r"a single tile of 64×64 pixels; use smaller tiles \(--set"):
        made(tiles)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("precision", ["float32", "bf16", "fp16"])
def test_cuda_agrees_with_the_cpu(precision, model_folder):
    tiles = some_tiles(3)
    made = load_predictor(str(model_folder), "cuda", precision)
    out = made(tiles)
    assert out.dtype == torch.float32 and out.device.type == "cuda"
    assert torch.equal(out, made(tiles))
    exact = load_predictor(str(model_folder), "cpu", "float32")(tiles)
    assert float((out.cpu() - exact).abs().mean()) < (1e-4 if precision == "float32" else 0.005)


@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_batch_statistics_keep_their_digits(precision, model_folder):
    network = load_network(model_folder)
    exact = {name: t.clone() for name, t in network.state_dict().items() if "running" in name}
    narrow = _cast(network, DTYPES[precision]).state_dict()
    assert exact and all(torch.equal(narrow[name], t) for name, t in exact.items())


def test_color_is_averaged_and_brightness_is_not() -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (1, 12, 15, 3), np.uint8)
    plain = Normalization(mean=(0, 0, 0), std=(1, 1, 1))
    out = normalized(torch.from_numpy(pixels), plain.model_copy(update={"chroma_box": 5}))[0].numpy()
    values = pixels[0] / 255
    weights = np.array([0.299, 0.587, 0.114])
    luma = values @ weights
    for y, x in np.ndindex(12, 15):
        box = (slice(max(0, y - 2), y + 3), slice(max(0, x - 2), x + 3))
        expected = luma[y, x] + (values[box] - luma[box][..., None]).mean(axis=(0, 1))
        assert out[:, y, x] == pytest.approx(expected, abs=1e-5)
    same = normalized(torch.from_numpy(pixels), plain)[0].numpy()
    assert np.allclose(same, values.transpose(2, 0, 1))
    with pytest.raises(ValidationError, match="chroma_box 4 must be odd"):
        Normalization(chroma_box=4)


def test_tiles_are_compressed_as_jpeg_where_the_card_says_so(model_folder, tmp_path):
    card = read_card(model_folder)
    tiles = some_tiles(2)
    normalization = card.normalization.model_copy(update={"jpeg_quality": 80})
    shutil.copytree(model_folder, tmp_path / "jpeg")
    card.model_copy(update={"normalization": normalization}).write(tmp_path / "jpeg")
    files = [io.BytesIO() for _ in tiles]
    for tile, file in zip(tiles, files, strict=True):
        Image.fromarray(tile).save(file, "JPEG", quality=80)
    compressed = np.stack([np.asarray(Image.open(file)) for file in files])
    plain = load_predictor(str(model_folder), "cpu", "float32")
    found = load_predictor(str(tmp_path / "jpeg"), "cpu", "float32")(tiles)
    assert torch.equal(found, plain(compressed)) and not torch.equal(found, plain(tiles))
