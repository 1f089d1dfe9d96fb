"""Image folders with masks: which mask is of which image, what it says, and what is wrong."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from pydantic import ValidationError

from wsi_seg.core.classes import TissueClass
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Size
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.mask_files import MaskReader
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.region import ArrayRegion, not_class

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
    if mode == "P":  # what is seen counts, not the number of a color
        image = Image.fromarray((MASK == 0).astype(np.uint8)).convert("P")
        image.putpalette([255, 255, 255, 0, 0, 0])
        return image
    return image.convert(mode)


@pytest.mark.parametrize("mode", ["1", "L", "RGB", "RGBA", "LA", "P"])
@pytest.mark.parametrize("ending", ["png", "tif"])
def test_modes_of_masks(mode: str, ending: str, tmp_path: Path) -> None:
    path = tmp_path / f"a_mask.{ending}"
    stored(mode).save(path)
    mask = MaskReader("made").marked(path, "a.png", Size(3, 2))
    assert mask.dtype == bool and np.array_equal(mask, MASK > 0)


CLEAR = np.dstack([MASK, MASK, MASK, MASK])


@pytest.mark.parametrize(
    ("pixels", "message"),
    [
        (np.dstack([MASK, MASK, MASK // 2]), "the mask is colored; store it as gray levels"),
        (CLEAR, "the mask is transparent in places; store it opaque"),
        (MASK[:, :2], "the mask has 2×2 pixels but its image .*a.png 3×2"),
    ],
)
def test_unfit_masks(pixels: np.ndarray, message: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png", PIXELS)
    path = write(tmp_path, "a_mask.png", pixels)
    with pytest.raises(DataError, match=message) as caught:
        load(tmp_path)
    assert str(path) in str(caught.value) and "\n" not in str(caught.value)


def write_palette(path: Path, codes: np.ndarray, palette: dict[int, tuple[int, int, int]]) -> None:
    image = Image.fromarray(codes.astype(np.uint8), "P")
    colors = np.zeros((max(palette) + 1, 3), np.uint8)
    colors[list(palette)] = list(palette.values())
    image.putpalette(colors.ravel().tolist())
    image.save(path)


def gray(*levels: int) -> dict[int, tuple[int, int, int]]:
    return {i: (level, level, level) for i, level in enumerate(levels)}


RED, GREEN, NECROSIS = (200, 0, 0), (0, 200, 0), (50, 50, 50)


@pytest.mark.parametrize(
    ("codes", "palette", "expected"),
    [
        ([[0, 1, 2]], gray(0, 2, 7), [[0, 2, 7]]),  # as a lossless optimizer stores the gray mask 0, 2, 7
        ([[1, 1, 1]], gray(0, 2), [[2, 2, 2]]),
        ([[0, 1, 2]], gray(0, 1, 2) | {3: RED}, [[0, 1, 2]]),  # both readings agree
        ([[0, 1, 4]], {0: (255, 255, 255), 1: RED, 4: NECROSIS}, [[0, 1, 4]]),
        ([[0, 0, 0]], {0: (255, 255, 255), 1: RED, 4: NECROSIS}, [[0, 0, 0]]),
        ([[0, 4, 4]], {0: (255, 255, 255), 1: RED, 4: NECROSIS}, "gray levels 255, 50 at the indices 0, 4"),
    ],
)
def test_palettes_of_codes(codes: Any, palette: Any, expected: Any, tmp_path: Path) -> None:
    path = tmp_path / "a.png"
    write_palette(path, np.array(codes), palette)
    if isinstance(expected, str):
        with pytest.raises(DataError, match=expected):
            MaskReader("made").codes(path, "a")
    else:
        assert MaskReader("made").codes(path, "a", Size(3, 1)).tolist() == expected


def test_an_index_that_is_of_two_colors_is_no_code(tmp_path: Path) -> None:
    reader = MaskReader("made")
    write_palette(tmp_path / "a.png", np.array([[0, 1]]), {0: RED, 1: GREEN})
    write_palette(tmp_path / "b.png", np.array([[0, 1]]), {0: RED, 1: NECROSIS})
    reader.codes(tmp_path / "a.png", "a")
    with pytest.raises(DataError, match=r"b\.png: index 1 of its palette is the color \(50, 50, 50\), but"):
        reader.codes(tmp_path / "b.png", "b")


CODES = np.array([[0, 1, 7], [7, 2, 21]], np.uint8)


@pytest.mark.parametrize("mode", ["L", "LA", "RGB", "RGBA", "I;16", "I"])
def test_modes_of_codes(mode: str, tmp_path: Path) -> None:
    image = Image.fromarray(CODES.astype({"I;16": np.uint16, "I": np.int32}.get(mode, np.uint8)))
    (image if mode in ("I;16", "I") else image.convert(mode)).save(tmp_path / "a.tif")
    assert np.array_equal(MaskReader("made").codes(tmp_path / "a.tif", "a"), CODES)


def test_codes_turned_by_exif_and_codes_that_are_none(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[274] = 6  # a quarter turn clockwise
    Image.fromarray(np.rot90(CODES)).save(tmp_path / "turned.png", exif=exif)
    assert np.array_equal(MaskReader("made").codes(tmp_path / "turned.png", "a", Size(3, 2)), CODES)
    Image.fromarray(CODES).save(tmp_path / "a.jpg")
    Image.fromarray(CODES.astype(np.uint16) * 40).save(tmp_path / "deep.png")
    pages = [Image.fromarray(CODES)] * 2
    pages[0].save(tmp_path / "pages.tif", save_all=True, append_images=pages[1:])
    Image.fromarray(CODES.astype(np.float32)).save(tmp_path / "float.tif")
    for name, message in {
        "a.jpg": "JPEG changes codes",
        "deep.png": "the mask holds the value 840; codes are 0 … 255",
        "pages.tif": "holds 2 pages of one size",
        "float.tif": "not pixels of mode F",
    }.items():
        with pytest.raises(DataError, match=f"{name}: .*{message}"):
            MaskReader("made").codes(tmp_path / name, "a")


# --- what is black and white --------------------------------------------------------------------------


@pytest.mark.parametrize("values", [(0, 255), (0, 1), (1, 1), (0, 0), (0, 65535)])
def test_two_values_are_black_and_white(values: tuple[int, int], tmp_path: Path) -> None:
    pixels = np.array([values], np.uint16 if max(values) > 255 else np.uint8)
    write(tmp_path, "a.png", pixels)
    assert np.array_equal(MaskReader("made").marked(tmp_path / "a.png", "a", Size(2, 1)), pixels > 0)


DISC = np.hypot(*(np.mgrid[:64, :64] - 31.3)) < 20


def test_noise_and_soft_edges_are_read_from_half_on(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    for name in ("a", "b"):
        write(tmp_path, f"{name}.png", np.zeros((64, 64), np.uint8))
    Image.fromarray(DISC.astype(np.uint8) * 255).save(tmp_path / "a_mask.jpg", quality=80)
    soft = Image.fromarray(DISC.astype(np.uint8) * 255).resize((32, 32), Image.Resampling.BOX)
    soft.resize((64, 64), Image.Resampling.BICUBIC).save(tmp_path / "b_mask.png")
    assert len(np.unique(Image.open(tmp_path / "a_mask.jpg"))) > 20
    first, second = load(tmp_path, background_class="ground")
    assert np.array_equal(first.target == 1, DISC)
    assert ((second.target == 1) & DISC).sum() / ((second.target == 1) | DISC).sum() > 0.97
    (record,) = caplog.records
    assert record.levelname == "WARNING" and record.getMessage().startswith(
        f"made: {tmp_path}/a_mask.jpg is not"
    )


@pytest.mark.parametrize(
    ("values", "listed"),
    [((1, 2), "1, 2"), ((0, 200), "0, 200"), ((0, 128, 255), "0, 128, 255"), ((2, 2), "2")],
)
def test_other_values_need_to_be_named(values: tuple[int, ...], listed: str, tmp_path: Path) -> None:
    write(tmp_path, "a.png", np.zeros((1, len(values)), np.uint8))
    write(tmp_path, "a_mask.png", np.array([values], np.uint8))
    message = rf"a_mask\.png: the mask holds the values {listed}, but .* foreground: \[{values[-1]}\]"
    with pytest.raises(DataError, match=message):
        load(tmp_path, background_class="ground")
    (region,) = load(tmp_path, background_class="ground", foreground=[values[-1]])
    assert (region.target == 1).tolist() == [[value == values[-1] for value in values]]


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


def test_hidden_files_and_folders_are_passed_over(tmp_path: Path) -> None:
    for name in ("benign/a", ".cache/b", "lost+found/c"):
        write(tmp_path, f"{name}.png", PIXELS)
        write(tmp_path, f"{name}_mask.png", MASK)
    for name in ("._a.png", "benign/._a.png", "benign/._a_mask.png"):
        (tmp_path / name).write_bytes(b"\0\5\x16\7AppleDouble")
    assert [region.name for region in load(tmp_path)] == ["benign/a"]


def test_a_folder_that_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("benign/a", "malignant/b"):
        write(tmp_path, f"{name}.png", PIXELS)
        write(tmp_path, f"{name}_mask.png", MASK)
    listed = Path.iterdir

    def iterdir(folder: Path) -> Iterator[Path]:  # root may read everything
        if folder == tmp_path / "malignant":
            raise PermissionError(13, "Permission denied", str(folder))
        return listed(folder)

    monkeypatch.setattr(Path, "iterdir", iterdir)
    with pytest.raises(DataError, match="malignant: no permission to read it"):
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
