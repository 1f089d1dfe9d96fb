"""Artifacts that are made on clean tissue: the data set, its contract, and what it makes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image, ImageDraw
from pydantic import ValidationError
from scipy import ndimage

from wsi_seg.core.classes import TissueClass
from wsi_seg.core.errors import DataError
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.made_artifacts import ArtifactSource, MadeArtifacts
from wsi_seg.datasets.pasting import blur, fold, paste, read_cut_out
from wsi_seg.datasets.region import IGNORED, ArrayRegion
from wsi_seg.testing.datasets import CHECKS

NAMES = ("clean", "fold", "blur", "pen", "spot")
SCHEME = LabelScheme(tuple(TissueClass(i + 1, n, (9 * i, 90, 9)) for i, n in enumerate(NAMES)), 2.0)
PINK = (205, 120, 170)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two images of grainy tissue with a strip of glass, a round cut-out, and a pen stroke with a mask."""
    root = tmp_path_factory.mktemp("artifacts")
    random = np.random.default_rng(0)
    (root / "clean").mkdir()
    for number in range(2):
        pixels = np.clip(np.array(PINK) + random.normal(0, 25, (220, 260, 1)), 0, 255)
        pixels[:, 200:] = 244
        Image.fromarray(pixels.astype(np.uint8)).save(root / "clean" / f"TCGA-A{number}-A0XX-DX1.png")
    spot = Image.new("RGBA", (40, 40))
    ImageDraw.Draw(spot).ellipse((5, 5, 35, 35), fill=(10, 10, 10, 255))
    spot.save(root / "spot.png")
    pen, mask = Image.new("RGB", (30, 90), (240, 240, 240)), Image.new("1", (30, 90))
    for image, color in ((pen, (20, 120, 60)), (mask, 1)):
        ImageDraw.Draw(image).line((15, 0, 15, 89), fill=color, width=12)
    pen.save(root / "pen.png")
    mask.save(root / "pen_mask.png")
    return root


def data_set(folder: Path, **more: object) -> MadeArtifacts:
    values = {
        "name": "made",
        "folder": folder,
        "images": ["clean/*.png"],
        "mpp": 2.0,
        "side": 128,
        "copies": 6,
        "artifacts": {
            "fold": {"made": "fold"},
            "blur": {"made": "blur"},
            "pen": {"cut_outs": ["pen*.png"], "um": [200, 400], "ink": True},
            "spot": {"cut_outs": ["spot.png"], "um": [60, 120]},
        },
        **more,
    }
    return MadeArtifacts.model_validate(values)


@pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
def test_contract(check: object, folder: Path) -> None:
    assert callable(check)
    check(lambda: data_set(folder), SCHEME)


def test_images_of_each_patient_with_artifacts_of_all_classes(folder: Path) -> None:
    parts = data_set(folder, copies=30).parts(Path(), SCHEME)
    assert len(parts.training) == 60 and {r.patient for r in parts.training} == {
        "TCGA-A0-A0XX",
        "TCGA-A1-A0XX",
    }
    targets = [region.coarse_targets(1) for region in parts.training]
    assert set(np.unique(np.concatenate(targets))) == {IGNORED, *range(len(NAMES))}
    clean = sum(bool((target == 0).all()) for target in targets)
    assert 6 < clean < 27  # a quarter is asked for
    assert all(
        (region.files[0].parent.name, region.size.width) == ("clean", 128) for region in parts.training
    )
    (spots,) = {path for region in parts.training for path in region.files if path.name.startswith("spot")}
    assert spots == folder / "spot.png"
    all_clean = data_set(folder, clean_share=1).regions(folder, SCHEME)
    assert all((region.coarse_targets(1) == 0).all() for region in all_clean)


def test_a_seed_decides_everything(folder: Path) -> None:
    one, same, other = (data_set(folder, seed=seed).regions(folder, SCHEME) for seed in (1, 1, 2))

    def pixels(regions: object) -> np.ndarray:
        assert isinstance(regions, list)
        return np.stack([region.image for region in regions if isinstance(region, ArrayRegion)])

    assert np.array_equal(pixels(one), pixels(same))
    assert not np.array_equal(pixels(one), pixels(other))


def test_what_is_not_artifact_stays_as_it_was(folder: Path) -> None:
    ground = np.asarray(Image.open(folder / "clean/TCGA-A0-A0XX-DX1.png"), np.float32)
    for number in range(20):
        random = np.random.default_rng(number)
        cut_out = read_cut_out(folder / "spot.png", ink=False)
        made, alpha = paste(ground, cut_out, 30, random)
        assert alpha.max() > 0.9 and np.array_equal(made[alpha == 0], ground[alpha == 0])
        assert made[alpha == 1].max() < 20
        for change in (fold, blur):
            made, alpha = change(ground, 2.0, random)
            assert np.abs(made - ground)[alpha == 0].max(initial=0) == 0
            assert made.min() >= 0 and made.max() <= 255


def test_folds_are_darker_and_blur_is_smoother(folder: Path) -> None:
    ground = np.asarray(Image.open(folder / "clean/TCGA-A0-A0XX-DX1.png"), np.float32)[:, :180]
    rough = float(ndimage.laplace(ground[..., 1]).std())
    for number in range(8):
        random = np.random.default_rng(number)
        made, alpha = fold(ground, 2.0, random)
        assert made[alpha == 1].mean() < 0.85 * ground.mean()
        made, alpha = blur(ground, 2.0, random)
        assert ndimage.laplace(made[..., 1])[alpha > 0.999].std() < 0.2 * rough


def test_tissue_shines_through_ink(folder: Path) -> None:
    ground = np.asarray(Image.open(folder / "clean/TCGA-A0-A0XX-DX1.png"), np.float32)[:, :180]
    cut_out = read_cut_out(folder / "pen.png", ink=True)
    made, alpha = paste(ground, cut_out, 300, np.random.default_rng(3))
    inside = alpha > 0.999
    assert inside.sum() > 500 and (made[inside] <= ground[inside] + 1e-3).all()
    brightest = made[..., int(made[inside].mean(axis=0).argmax())][inside]
    assert np.corrcoef(brightest, ground[..., 1][inside])[0, 1] > 0.95


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ({}, "give either cut_outs or made"),
        ({"made": "fold", "cut_outs": ["x.png"]}, "give either cut_outs or made"),
        ({"cut_outs": ["x.png"]}, r"cut_outs need um: \[least, largest\]"),
        ({"cut_outs": ["x.png"], "um": [30, 20]}, "cut_outs need um"),
        ({"made": "hair"}, "'fold' or 'blur'"),
    ],
)
def test_sources_that_make_no_sense(source: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        ArtifactSource.model_validate(source)


def test_files_that_cannot_be_used(folder: Path, tmp_path: Path) -> None:
    Image.new("RGB", (9, 9)).save(tmp_path / "opaque.png")
    Image.new("RGBA", (9, 9)).save(tmp_path / "empty.png")
    (tmp_path / "damaged.png").write_bytes(b"no picture")
    Image.new("RGB", (9, 9)).save(tmp_path / "other.png")
    Image.new("1", (8, 9), 1).save(tmp_path / "other_mask.png")
    for name, message in (
        ("opaque", "neither transparency nor a mask; expected .*opaque_mask.png"),
        ("empty", "nothing of the cut-out is opaque"),
        ("damaged", "damaged.png: the cut-out cannot be read"),
        ("other", r"other_mask.png: \(8, 9\) pixels, but other.png has \(9, 9\)"),
    ):
        with pytest.raises(DataError, match=message):
            read_cut_out(tmp_path / f"{name}.png", ink=False)
    with pytest.raises(DataError, match=r"made: no file .*clean.*\.jpg"):
        data_set(folder, images=["clean/*.jpg"]).regions(folder, SCHEME)
    with pytest.raises(DataError, match="hair"):
        data_set(folder, artifacts={"hair": {"made": "fold"}}).regions(folder, SCHEME)
    with pytest.raises(ValidationError, match="known_class"):
        data_set(folder, known_class="fold")
