"""Training data: loading, held-out strips, and random crops."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from PIL import Image

from wsi_seg.card import ModelCard
from wsi_seg.errors import DataError
from wsi_seg.training.config import DatasetConfig, TrainConfig
from wsi_seg.training.datasets import (
    IGNORED,
    Crops,
    Dataset,
    Region,
    load_dataset,
    not_class,
    reduce_image,
    reduce_labels,
)

# --- loading ------------------------------------------------------------------------------------------


def write_pair(folder: Path, image: np.ndarray, codes: np.ndarray, name: str = "one") -> None:
    for part, pixels in (("rgbs", image), ("masks", codes)):
        (folder / part).mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(folder / part / f"{name}.png")


def config_for(tmp_path: Path, model_mpp: float = 0.5, **dataset) -> TrainConfig:
    values = {"name": "made", "folder": Path("made"), "mpp": 0.5, **dataset}
    return TrainConfig(
        model=ModelCard(name="m", mpp=model_mpp), data_dir=tmp_path, datasets=(DatasetConfig(**values),)
    )


def load(config: TrainConfig) -> Dataset:
    return load_dataset(config.datasets[0], config)


CODES = np.array([[0, 1, 2, 3], [7, 15, 20, 21]], np.uint8)
RGB = np.arange(24, dtype=np.uint8).reshape(2, 4, 3)


def test_codes_become_channels_and_ignored_ones_have_no_weight(tmp_path):
    write_pair(tmp_path / "made", RGB, CODES)
    (region,) = load(config_for(tmp_path)).training
    assert region.target.tolist() == [[IGNORED, 0, 1, 2], [IGNORED, IGNORED, 19, 20]]
    assert np.array_equal(region.image, RGB) and region.name == "one"


def test_a_mask_of_one_known_class(tmp_path):
    write_pair(tmp_path / "made", RGB, CODES % 2)
    (region,) = load(config_for(tmp_path, known_class="stroma")).training
    assert set(np.unique(region.target)) == {not_class(1), 1}
    assert np.array_equal(region.target == 1, CODES % 2 == 1)


def test_holdout_is_cut_off_at_the_right(tmp_path):
    image = np.repeat(np.arange(10, dtype=np.uint8)[None, :, None], 3, 2).repeat(4, 0)
    write_pair(tmp_path / "made", image, np.ones((4, 10), np.uint8))
    made = load(config_for(tmp_path, holdout=0.3))
    assert made.training[0].image[0, :, 0].tolist() == [0, 1, 2, 3, 4, 5, 6]
    assert made.heldout[0].image[0, :, 0].tolist() == [7, 8, 9]
    assert load(config_for(tmp_path)).heldout == ()


def test_resolution_is_the_models(tmp_path):
    write_pair(tmp_path / "made", np.zeros((8, 12, 3), np.uint8), np.ones((8, 12), np.uint8))
    (region,) = load(config_for(tmp_path, mpp=0.25)).training
    assert region.image.shape == (4, 6, 3) and region.target.shape == (4, 6)


def test_an_image_smaller_than_a_pixel_of_the_model(tmp_path):
    write_pair(tmp_path / "made", RGB, CODES)
    with pytest.raises(DataError, match=r"one\.png: smaller than one pixel of 2 µm; is mpp 0\.5 right\?"):
        load(config_for(tmp_path, model_mpp=2))


@pytest.mark.parametrize("fault", ["missing", "size", "kind", "code"])
def test_bad_masks(fault, tmp_path):
    codes = {
        "size": np.ones((2, 5), np.uint8),
        "kind": RGB,
        "code": np.full((2, 4), 22, np.uint8),
        "missing": CODES,
    }[fault]
    message = {
        "missing": "cannot read the image or its mask",
        "size": "not an 8-bit mask of 4×2 pixels",
        "kind": "not an 8-bit mask of 4×2 pixels",
        "code": "mask code 22 is neither a class",
    }[fault]
    write_pair(tmp_path / "made", RGB, codes)
    mask = tmp_path / "made" / "masks" / "one.png"
    if fault == "missing":
        mask.unlink()
    with pytest.raises(DataError, match=message) as caught:
        load(config_for(tmp_path))
    assert str(mask) in str(caught.value) and "\n" not in str(caught.value)


def test_folder_without_images(tmp_path):
    with pytest.raises(DataError, match="made: no images under rgbs"):
        load(config_for(tmp_path))


@given(st.data(), st.integers(1, 4))
def test_labels_shrink_by_majority(data, factor):
    shape = (data.draw(st.integers(factor, 9)), data.draw(st.integers(factor, 9)))
    codes = data.draw(arrays(np.uint8, shape, elements=st.sampled_from([0, 1, 2, 200])))
    out = reduce_labels(codes, factor)
    assert out.shape == (shape[0] // factor, shape[1] // factor)
    for (y, x), code in np.ndenumerate(out):
        votes = np.bincount(
            codes[y * factor : (y + 1) * factor, x * factor : (x + 1) * factor].ravel(), minlength=256
        )
        assert votes[code] == votes.max()


def test_images_shrink_by_the_area_mean():
    image = np.random.default_rng(0).integers(0, 256, (7, 10, 3), np.uint8)
    mean = image[:6, :10].reshape(3, 2, 5, 2, 3).mean(axis=(1, 3))
    out = reduce_image(Image.fromarray(image), 2)
    assert np.abs(out - mean).max() <= 1  # Pillow rounds after each axis


@given(st.integers(5, 40), st.integers(5, 40), st.floats(0.1, 5))
@settings(max_examples=50)
def test_image_and_labels_keep_the_same_size(width, height, factor):
    image = reduce_image(Image.new("RGB", (width, height)), factor)
    labels = reduce_labels(np.zeros((height, width), np.uint8), factor)
    assert image.shape[:2] == labels.shape


# --- crops --------------------------------------------------------------------------------------------


def region_of(target: np.ndarray) -> Region:
    """A region whose red channel tells its target."""
    image = np.zeros((*target.shape, 3), np.uint8)
    image[..., 0] = np.clip(target, 0, None) * 50
    return Region("made", image, target.astype(np.int16))


def dataset_of(*targets: np.ndarray, weight: float = 1.0, name: str = "made") -> Dataset:
    return Dataset(name, None, weight, tuple(map(region_of, targets)), ())


def blobs(height: int, width: int) -> np.ndarray:
    return np.kron(np.random.default_rng(1).integers(0, 3, (height // 16, width // 16)), np.ones((16, 16)))


def test_crops_keep_image_and_labels_together():
    for image, target in islice(Crops([dataset_of(blobs(96, 160))], 64, 0.3, 0), 40):
        assert image.shape == (64, 64, 3) and image.dtype == np.uint8
        assert target.shape == (64, 64) and target.dtype == np.int16
        agree = image[..., 0] == target * 50
        assert agree.mean() > 0.8  # all but the blurred borders of magnified crops


def test_crops_without_magnification_are_exact():
    seen = {crop[1].tobytes() for crop in islice(Crops([dataset_of(blobs(96, 96))], 32, 0.0, 0), 30)}
    for image, target in islice(Crops([dataset_of(blobs(96, 96))], 32, 0.0, 0), 30):
        assert np.array_equal(image[..., 0], target * 50)
        assert target.tobytes() in seen  # the same seed draws the same crops
    assert len(seen) > 25


def test_crops_never_show_held_out_pixels(tmp_path):
    image = np.full((96, 128, 3), 40, np.uint8)
    image[:, 96:] = 255
    write_pair(tmp_path / "made", image, np.ones((96, 128), np.uint8))
    made = load(config_for(tmp_path, holdout=0.25))
    for crop, _ in islice(Crops([made], 32, 0.3, 0), 300):
        assert (crop == 40).all()


def test_rare_classes_and_light_data_sets_get_their_share():
    rare = np.zeros((128, 128))
    rare[60:68, 60:68] = 1
    crops = Crops([dataset_of(rare, weight=3), dataset_of(np.full((128, 128), 2), weight=1)], 16, 0.0, 0)
    targets = [target for _, target in islice(crops, 800)]
    other = np.mean([(t == 2).any() for t in targets])
    assert other == pytest.approx(0.25, abs=0.06)
    with_rare = np.mean([(t == 1).any() for t in targets if not (t == 2).any()])
    assert with_rare > 0.4  # its share of the pixels is 0.4 %


def test_a_region_smaller_than_a_crop_is_padded_with_ignored_white():
    (image, target) = next(iter(Crops([dataset_of(np.ones((20, 24)))], 64, 0.0, 0)))
    assert (target == 1).sum() == 20 * 24 and (target == IGNORED).sum() == 64 * 64 - 20 * 24
    assert (image[target == IGNORED] == 255).all() and (image[target == 1, 0] == 50).all()


def test_data_sets_of_weight_zero_are_not_drawn():
    crops = Crops([dataset_of(np.ones((64, 64))), dataset_of(np.zeros((64, 64)), weight=0)], 32, 0.0, 0)
    assert all((target == 1).all() for _, target in islice(crops, 30))


def test_nothing_but_ignored_codes():
    with pytest.raises(DataError, match="'empty': its masks hold nothing but ignored codes"):
        Crops([dataset_of(np.full((64, 64), IGNORED), name="empty")], 32, 0.0, 0)
