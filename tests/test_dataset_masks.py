"""Image folders with masks: which mask is of which image, what it says, and what is wrong."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from wsi_seg.classes import TissueClass
from wsi_seg.datasets.base import read_binary_mask
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.region import ArrayRegion, not_class
from wsi_seg.errors import DataError
from wsi_seg.geometry import Size

CLASSES = tuple(
    TissueClass(i + 1, name, (0, 0, 0)) for i, name in enumerate(("ground", "benign", "malignant"))
)
SCHEME = LabelScheme(CLASSES, 1.0, image_labels=("benign", "malignant", "normal"))
MASK = np.array([[0, 255, 255], [0, 0, 255]], np.uint8)
PIXELS = np.arange(6, dtype=np.uint8).reshape(2, 3)


def write(folder: Path, name: str, pixels: np.ndarray) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(path)
    return path


def load(folder: Path, **values) -> tuple[ArrayRegion, ...]:
    dataset = MaskedImages(name="made", folder=folder, **{"mpp": 1.0, "mask_class": "benign", **values})
    return dataset.parts(Path(), SCHEME).training  # type: ignore[return-value]


def test_several_masks_of_an_image_are_united(tmp_path: Path) -> None:
    write(tmp_path, "benign/a (1).png", PIXELS)
    masks = []
    for number, ending in enumerate(("_mask", "_mask_1", "_mask_2")):
        one = np.zeros((2, 3), bool)
        one[number % 2, number] = True
        masks.append(write(tmp_path, f"benign/a (1){ending}.png", one))
    (region,) = load(tmp_path, background_class="ground")
    assert region.target.tolist() == [[1, 0, 1], [0, 1, 0]]
    assert np.array_equal(region.image, np.dstack([PIXELS] * 3))
    assert set(region.files) == {tmp_path / "benign/a (1).png", *masks}
    assert (region.name, region.label) == ("benign/a (1)", 0)


@pytest.mark.parametrize(
    ("mask_class", "background", "expected"),
    [
        ("malignant", "ground", [[0, 2, 2], [0, 0, 2]]),
        ("malignant", None, [[-4, 2, 2], [-4, -4, 2]]),
        ("folder", "ground", [[0, 1, 1], [0, 0, 1]]),
        ("folder", None, [[-3, 1, 1], [-3, -3, 1]]),
    ],
)
def test_classes_of_mask_and_background(
    mask_class: str, background: str | None, expected: list[list[int]], tmp_path: Path
) -> None:
    assert (not_class(1), not_class(2)) == (-3, -4)
    write(tmp_path, "benign/a.png", PIXELS)
    write(tmp_path, "benign/a_mask.png", MASK)
    (region,) = load(tmp_path, mask_class=mask_class, background_class=background)
    assert region.target.tolist() == expected


def test_a_folder_of_images_without_marks_need_not_be_a_class(tmp_path: Path) -> None:
    write(tmp_path, "normal/a.png", PIXELS)
    mask = write(tmp_path, "normal/a_mask.png", MASK * 0)
    (region,) = load(tmp_path, mask_class="folder", background_class="ground")
    assert (region.target == 0).all() and region.label == 2
    with pytest.raises(DataError, match=r"a\.png: the model has no class 'normal'"):
        load(tmp_path, mask_class="folder")
    Image.fromarray(MASK).save(mask)
    with pytest.raises(DataError, match=r"a\.png: the model has no class 'normal'"):
        load(tmp_path, mask_class="folder", background_class="ground")


def test_a_flat_folder_has_no_labels(tmp_path: Path) -> None:
    write(tmp_path, "TCGA-A1-A0SK-DX1_x.jpg", PIXELS)
    write(tmp_path, "TCGA-A1-A0SK-DX1_x_mask.tif", MASK)
    write(tmp_path, "b.png", PIXELS)
    write(tmp_path, "b_mask.png", MASK)
    first, second = load(tmp_path)
    assert (first.name, first.group, first.label) == ("TCGA-A1-A0SK-DX1_x", "TCGA-A1-A0SK", None)
    assert (second.name, second.group) == ("b", "b")
    with pytest.raises(DataError, match=r"x\.jpg: mask_class is 'folder', but the image lies in no folder"):
        load(tmp_path, mask_class="folder")


def test_stretched_masks_stay_with_their_images(tmp_path: Path) -> None:
    image = np.zeros((30, 50, 3), np.uint8)
    image[10:20, 20:40] = 250
    write(tmp_path, "a.png", image)
    write(tmp_path, "a_mask.png", image[..., 0])
    (region,) = load(tmp_path, mpp=None, resize=64, background_class="ground")
    assert region.target.shape == (64, 64)
    assert np.array_equal(region.target == 1, region.image[..., 0] > 125)
    ys, xs = np.nonzero(region.target == 1)
    assert (ys.min(), ys.max() + 1) == (21, 43) and (xs.min(), xs.max() + 1) == (26, 51)  # 64/30, 64/50


def test_left_out_images(tmp_path: Path) -> None:
    for name in ("benign/a", "benign/b"):
        write(tmp_path, f"{name}.png", PIXELS)
        write(tmp_path, f"{name}_mask.png", MASK)
    (tmp_path / "benign/a_mask.png").unlink()
    assert [r.name for r in load(tmp_path, exclude=("benign/a",))] == ["benign/b"]
    with pytest.raises(DataError, match="made: exclude names 'a', but there is no such image"):
        load(tmp_path, exclude=("a",))


# --- how masks are stored -----------------------------------------------------------------------------


def stored(mode: str) -> Image.Image:
    image = Image.fromarray(MASK)
    if mode == "P":  # what is seen counts, not the number of a colour
        image = Image.fromarray((MASK == 0).astype(np.uint8)).convert("P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_modes_of_masks(mode: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a_mask.{ending}"
    stored(mode).save(path)
    mask = read_binary_mask(path, tmp_path / "a.png", Size(3, 2))
    assert mask.dtype == bool and np.array_equal(mask, MASK > 0)


def test_any_value_above_zero_is_marked(tmp_path: Path) -> None:
    path = write(tmp_path, "a_mask.png", np.array([[0, 1, 128]], np.uint8))
    assert read_binary_mask(path, path, Size(3, 1)).tolist() == [[False, True, True]]


CLEAR = np.dstack([MASK, MASK, MASK, MASK])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.dstack([MASK, MASK, MASK // 2]), "the mask is coloured; store it in black and white"),
        (CLEAR, "the mask is transparent in places; store it opaque"),
        (MASK.astype(np.uint16), "a mask has 1 or 8 bits per channel; this one is uint16"),
        (MASK[:, :2], "the mask has 2×2 pixels but its image .*a.png 3×2"),
    ],
)
def test_unfit_masks(pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png", PIXELS)
    path = write(tmp_path, "a_mask.png", pixels)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


# --- bad input ----------------------------------------------------------------------------------------


def test_an_image_without_mask_and_a_mask_without_image(tmp_path: Path) -> None:
    image = write(tmp_path, "benign/a.png", PIXELS)
    with pytest.raises(DataError, match=r"has no mask; expected .*a_mask\.png") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(image))
    write(tmp_path, "benign/a_mask.png", MASK)
    orphan = write(tmp_path, "benign/b_mask_1.png", MASK)
    with pytest.raises(DataError, match=r"a mask without image; expected .*b\.png") as caught:
        load(tmp_path)
    assert str(caught.value).startswith(str(orphan))


def test_unknown_names(tmp_path: Path) -> None:
    write(tmp_path, "other/a.png", PIXELS)
    write(tmp_path, "other/a_mask.png", MASK)
    with pytest.raises(DataError, match=r"a\.png: the model has no image label 'other'; did you mean"):
        load(tmp_path)
    with pytest.raises(DataError, match="made: the model has no class 'beningn'; did you mean 'benign'"):
        load(tmp_path, mask_class="beningn")
    with pytest.raises(DataError, match="made: the model has no class 'grund'; did you mean 'ground'"):
        load(tmp_path, background_class="grund")


def test_two_images_of_one_name(tmp_path: Path) -> None:
    for ending in ("png", "jpg"):
        write(tmp_path, f"a.{ending}", PIXELS)
    write(tmp_path, "a_mask.png", MASK)
    with pytest.raises(DataError, match="made: two regions are called 'a'; rename one"):
        load(tmp_path)


def test_a_damaged_image(tmp_path: Path) -> None:
    image = write(tmp_path, "a.png", PIXELS)
    write(tmp_path, "a_mask.png", MASK)
    image.write_bytes(image.read_bytes()[:50])
    with pytest.raises(DataError) as caught:
        load(tmp_path)
    assert str(image) in str(caught.value) and "\n" not in str(caught.value)


def test_an_empty_folder(tmp_path: Path) -> None:
    write(tmp_path, "a_mask.png", MASK)
    with pytest.raises(DataError, match="no images; set data_dir and folder"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mpp": None}, "give either resize .* or mpp"),
        ({"resize": 64}, "give either resize .* or mpp"),
        ({"known_class": "benign"}, "known_class is said here by mask_class without a background_class"),
        ({"mask_clas": "benign"}, "Extra inputs are not permitted"),
    ],
)
def test_unfit_settings(values: dict[str, object], message: str, tmp_path: Path) -> None:
    with pytest.raises(ValidationError, match=message):
        load(tmp_path, **values)
