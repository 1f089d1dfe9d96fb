"""The contract of data sets, on made data of every kind and on real data."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError

from tests.made.datasets import (
    COUNT,
    MADE,
    SCHEME,
    corners,
    feature,
    scene,
    tumor_mask,
    write_features,
)
from wsi_seg.core.classes import BCSS, IGNORED_CODES, TissueClass
from wsi_seg.core.errors import DataError
from wsi_seg.core.geometry import Box
from wsi_seg.datasets.base import Dataset
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.hashes import file_hashes
from wsi_seg.datasets.kinds import AnyDataset
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.region import not_class
from wsi_seg.datasets.slides import AnnotatedSlides
from wsi_seg.datasets.split import Split
from wsi_seg.testing.datasets import CHECKS

Check = Callable[[Callable[[], Dataset], LabelScheme], None]
each_check = pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
BCSS_SCHEME = LabelScheme(classes=BCSS, mpp=0.5, ignored_codes=IGNORED_CODES)
LESION = LabelScheme(
    classes=(TissueClass(1, "lesion", (255, 0, 0)),),
    mpp=1.0,
    image_labels=("benign", "malignant", "normal"),
)


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Dataset]:
    root = tmp_path_factory.mktemp("made")
    return {kind: make(root / kind) for kind, make in MADE.items()}


# --- made data ----------------------------------------------------------------------------------------


@each_check
@pytest.mark.parametrize("mpp", [0.5, 0.4, 1.3])
@pytest.mark.parametrize("kind", MADE)
def test_contract(check: Check, kind: str, mpp: float, made: dict[str, Dataset]) -> None:
    check(lambda: made[kind], LabelScheme(SCHEME.classes, mpp, image_labels=SCHEME.image_labels))


@each_check
def test_contract_of_stretched_images(check: Check, made: dict[str, Dataset]) -> None:
    check(lambda: made["masks"].model_copy(update={"mpp": None, "resize": 64}), SCHEME)


@pytest.mark.parametrize("kind", MADE)
def test_every_kind_tells_the_tumor_where_it_is(kind: str, made: dict[str, Dataset]) -> None:
    regions = made[kind].parts(Path(), SCHEME).training
    assert len(regions) == COUNT
    for number, region in enumerate(sorted(regions, key=lambda r: r.name.split("(")[-1])):
        image, box = scene(number)
        margin = (region.size.width - image.shape[1]) // 2  # a slide shows blank ground around
        inner = Box(0, 0, image.shape[1], image.shape[0]).shifted(margin, margin)
        pixels, target = region.read(inner)
        np.testing.assert_array_equal(target, np.where(tumor_mask(box) > 0, 0, 1))
        np.testing.assert_allclose(pixels.astype(int), image, atol=1)


@pytest.mark.parametrize("kind", MADE)
def test_tiles_hold_each_pixel_once_and_stay_in_their_part(kind: str, made: dict[str, Dataset]) -> None:
    split = made[kind].model_copy(update={"split": Split(test=0.5)})
    whole, tiled = split.parts(Path(), SCHEME), split.model_copy(update={"tile": 32}).parts(Path(), SCHEME)
    for part in ("training", "test"):
        regions, tiles = whole.of(part), tiled.of(part)  # type: ignore[arg-type]
        assert {t.group for t in tiles} == {r.group for r in regions}
        assert len({t.name for t in tiles}) == len(tiles)
        assert all(max(t.size.width, t.size.height) <= 32 for t in tiles)
        shown = [(r.coarse_targets(1) == 0).sum() for r in (*regions, *tiles)]
        assert sum(shown[: len(regions)]) == sum(shown[len(regions) :]) > 0
        assert sum(t.size.width * t.size.height for t in tiles) == sum(
            r.size.width * r.size.height for r in regions
        )


def test_groups_and_image_labels(made: dict[str, Dataset]) -> None:
    of = {kind: made[kind].parts(Path(), SCHEME).training for kind in MADE}
    assert [r.group for r in of["bcss"]] == [f"TCGA-A{i}-A0XX" for i in range(COUNT)]
    assert [(r.name, r.label) for r in of["masks"]] == [
        ("benign/case (0)", 0), ("benign/case (2)", 0), ("malignant/case (1)", 1), ("malignant/case (3)", 1),
    ]  # fmt: skip
    assert {r.label for r in (*of["outlines"], *of["slides"])} == {None}
    assert [r.group for r in of["slides"]] == [f"slide-{i}" for i in range(COUNT)]
    unlabeled = made["masks"].parts(Path(), LabelScheme(SCHEME.classes, 0.5)).training
    assert {r.label for r in unlabeled} == {None}


def test_kinds_are_told_apart_by_their_word(made: dict[str, Dataset]) -> None:
    adapter: TypeAdapter[Dataset] = TypeAdapter(AnyDataset)
    for kind, dataset in made.items():
        values = dataset.model_dump(mode="json")
        assert values["kind"] == kind
        assert adapter.validate_python(values) == dataset
    with pytest.raises(ValidationError, match="'bcss', 'masks', 'outlines', 'slides'"):
        adapter.validate_python({"kind": "tiles", "name": "x", "folder": "y"})


def test_two_regions_of_one_name(tmp_path: Path) -> None:
    dataset = MADE["bcss"](tmp_path / "made")
    shutil.copytree(tmp_path / "made" / "rgbs", tmp_path / "made" / "rgbs_colorNormalized")
    with pytest.raises(
        DataError, match=r"made-bcss: two regions are called 'TCGA-A0-A0XX-DX1_xmin0'; rename"
    ):
        dataset.parts(Path(), SCHEME)


# --- hashes -------------------------------------------------------------------------------------------


def test_hashes_of_all_files(made: dict[str, Dataset]) -> None:
    regions = made["masks"].parts(Path(), SCHEME).training
    hashes = file_hashes([*regions, *regions])
    folder = made["masks"].folder
    assert set(hashes) == {str(path) for path in folder.rglob("*.png")}
    assert len(hashes) == 4 + 4 + 2
    path = folder / "benign" / "case (0).png"
    told = subprocess.run(["sha256sum", str(path)], capture_output=True, text=True, check=True).stdout
    assert hashes[str(path)] == told.split()[0]


def test_a_file_that_is_gone_has_no_hash(tmp_path: Path) -> None:
    regions = MADE["masks"](tmp_path / "made").parts(Path(), SCHEME).training
    gone = tmp_path / "made" / "benign" / "case (2)_mask.png"
    gone.unlink()
    with pytest.raises(DataError, match="cannot be read") as caught:
        file_hashes(regions)
    assert str(gone) in str(caught.value)


# --- real data ----------------------------------------------------------------------------------------

REAL = {
    "bcss": (BcssRegions(name="a", folder=Path("bcss")), BCSS_SCHEME),
    "tiles": (BcssRegions(name="b", folder=Path("bcss_tiles")), BCSS_SCHEME),
    "tumour": (BcssRegions(name="c", folder=Path("bcss_tumour"), known_class="tumor"), BCSS_SCHEME),
    "busi": (
        # The second mask of this image is of another copy of it, in another size.
        MaskedImages(
            name="d", folder=Path("busi"), mask_class="lesion", resize=256, exclude=("benign/benign (4)",)
        ),
        LESION,
    ),
}


@pytest.fixture(scope="module")
def few_busi(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Three images of each class, with their masks."""
    folder = tmp_path_factory.mktemp("busi")
    for of_class in ("benign", "malignant", "normal"):
        (folder / of_class).mkdir()
        images = sorted(p for p in (data_dir / "busi" / of_class).glob("*.png") if "_mask" not in p.stem)
        for image in images[:3]:
            for path in image.parent.glob(f"{image.stem}*.png"):
                (folder / of_class / path.name).symlink_to(path)
    return folder


@pytest.fixture(scope="module")
def bcss_parts(data_dir: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A part of each image and mask of the two BCSS folders with a whole region, under their names."""
    root = tmp_path_factory.mktemp("bcss")
    for folder in ("bcss", "bcss_tumour"):
        for path in (data_dir / folder).glob("*/*.png"):
            (root / folder / path.parent.name).mkdir(parents=True, exist_ok=True)
            with Image.open(path) as image:
                image.crop((1200, 700, 1701, 1103)).save(root / folder / path.parent.name / path.name)
    return root


@each_check
@pytest.mark.parametrize("name", REAL)
def test_contract_on_real_data(
    check: Check, name: str, data_dir: Path, few_busi: Path, bcss_parts: Path
) -> None:
    dataset, scheme = REAL[name]
    home = bcss_parts if name in ("bcss", "tumour") else data_dir
    few = {"folder": few_busi, "exclude": ()} if name == "busi" else {"folder": home / dataset.folder}
    check(lambda: dataset.model_copy(update=few), scheme)


def test_real_bcss(data_dir: Path) -> None:
    (region,) = REAL["bcss"][0].parts(data_dir, BCSS_SCHEME).training
    assert (region.group, region.size.width, region.size.height) == ("TCGA-A2-A0D2", 1696, 1209)
    target = region.coarse_targets(4)
    assert {0, 1, 3} <= set(np.unique(target).tolist())
    assert (target == 0).mean() == pytest.approx(0.5, abs=0.05)
    assert not (target == 6).any()  # code 7, exclude, is ignored
    (partial,) = REAL["tumour"][0].parts(data_dir, BCSS_SCHEME).training
    assert set(np.unique(partial.coarse_targets(4)).tolist()) == {0, not_class(0)}


def test_real_busi(data_dir: Path) -> None:
    dataset = REAL["busi"][0].model_copy(update={"split": Split(validation=0.2, test=0.2)})
    parts = dataset.parts(data_dir, LESION)
    for part, per_label in (
        (parts.training, (17, 18, 9)),
        (parts.validation, (6, 6, 3)),
        (parts.test, (6, 6, 3)),
    ):
        assert np.bincount([r.label for r in part]).tolist() == list(per_label)
    for region in (*parts.training, *parts.validation, *parts.test):
        target = region.coarse_targets(1)
        assert (region.size.width, region.size.height) == (256, 256)
        assert set(np.unique(target).tolist()) == ({not_class(0)} if region.label == 2 else {not_class(0), 0})
        assert len(region.files) == (3 if region.name in ("benign/benign (25)", "benign/benign (4)") else 2)


@pytest.mark.parametrize("name", ["CMU-1-Small-Region.svs", "CMU-1-Small-Region-dicom"])
@each_check
def test_contract_on_a_real_slide(check: Check, name: str, data_dir: Path, tmp_path: Path) -> None:
    slide = data_dir / "slides" / name
    (tmp_path / "slides").mkdir()
    (tmp_path / "slides" / name).symlink_to(slide)
    (tmp_path / "drawn").mkdir()
    boxes = [Box(100, 200, 700, 900), Box(1500, 2000, 2000, 2600)]
    features = [feature(corners(box), "Tumor") for box in boxes]
    write_features(tmp_path / "drawn" / f"{slide.stem}.geojson", features)
    dataset = AnnotatedSlides(name="real", folder=tmp_path / "slides", annotations=Path("../drawn"))
    check(lambda: dataset, LabelScheme(BCSS, 0.5))
