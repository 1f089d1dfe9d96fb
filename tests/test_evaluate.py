"""Evaluation of a model and of finished maps: the labels of `wsi-seg run`, and counts that fit them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import sklearn.metrics as sk
import zarr
from PIL import Image

from wsi_seg.core.card import CardClass, CardGroup, read_card
from wsi_seg.core.classes import BCSS
from wsi_seg.core.errors import DataError, OutputError
from wsi_seg.core.geometry import Scale
from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.region import AnnotatedRegion
from wsi_seg.datasets.split import Split
from wsi_seg.evaluation.config import EvaluateConfig, read_evaluate_config
from wsi_seg.evaluation.metrics import NO_ROW, count_classes
from wsi_seg.evaluation.model import EvaluateSettings, evaluate_model
from wsi_seg.evaluation.predict import predict_region
from wsi_seg.evaluation.stored import evaluate_maps
from wsi_seg.evaluation.truth import TruthFile
from wsi_seg.execution.tasks import load_predictor
from wsi_seg.maps.maps import Maps
from wsi_seg.pipeline.models import Model, load_model
from wsi_seg.pipeline.run import segment_slide
from wsi_seg.pipeline.settings import RunSettings
from wsi_seg.testing.models import random_model

CODES = (1, 2, 3, 4)
NAMES = tuple(c.name for c in BCSS[:4])


def picture(seed: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Blobs of several colors and sizes, so that an untrained network calls all classes somewhere."""
    random = np.random.default_rng(seed)
    coarse = Image.fromarray(random.integers(0, 256, (height // 40 + 2, width // 40 + 2, 3), np.uint8))
    fine = Image.fromarray(random.integers(0, 256, (height // 8 + 1, width // 8 + 1, 3), np.uint8))
    parts = [
        np.asarray(image.resize((width, height), Image.Resampling.BICUBIC), np.float32)
        for image in (coarse, fine)
    ]
    return np.clip(0.75 * parts[0] + 0.25 * parts[1], 0, 255).astype(np.uint8)


def write_bcss(folder: Path, sizes: Sequence[tuple[int, int]], codes: Sequence[int] = CODES) -> Path:
    """Write images with masks of random codes in blocks of 20 pixels; their names are TCGA barcodes."""
    for name in ("rgbs", "masks"):
        (folder / name).mkdir(parents=True, exist_ok=True)
    for seed, (height, width) in enumerate(sizes):
        random = np.random.default_rng(100 + seed)
        small = random.choice(np.array(codes, np.uint8), (height // 20 + 1, width // 20 + 1))
        mask = np.kron(small, np.ones((20, 20), np.uint8))[:height, :width]
        name = f"TCGA-A2-A00{seed}-DX1_x{seed}.png"
        Image.fromarray(picture(seed, height, width)).save(folder / "rgbs" / name)
        Image.fromarray(mask).save(folder / "masks" / name)
    return folder


@pytest.fixture(scope="module")
def model_folder(smooth_model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model with tiles that overlap."""
    folder = tmp_path_factory.mktemp("overlapping") / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_bytes((smooth_model / "model.safetensors").read_bytes())
    read_card(smooth_model).model_copy(update={"overlap": 64}).write(folder)
    return folder


@pytest.fixture(scope="module")
def model(model_folder: Path) -> Model:
    return load_model(str(model_folder), "cpu", "float32")


def labels_of(region: AnnotatedRegion, model: Model) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Class codes as `evaluate` predicts them."""
    out = np.zeros((region.size.height, region.size.width), np.uint8)
    codes = np.zeros(256, np.uint8)
    codes[: len(CODES)] = CODES
    for block in predict_region(region, load_predictor(model.predictor), model.facts.card):
        rows, columns = block.box.within(block.box.__class__(0, 0, 0, 0))
        out[rows, columns] = codes[block.channels]
        best = block.probabilities.argmax(0)
        assert np.array_equal(best, block.channels)
        assert np.abs(block.probabilities.sum(0) - 1).max() <= 1e-5
    return out


def run_labels(path: Path, out: Path, model: Model, mpp: float) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Class codes as `wsi-seg run --tissue none` stores them."""
    settings = RunSettings(mpp=Scale(mpp, mpp), reader="image", tissue="none")
    result = segment_slide(path, out, model, settings)
    return np.asarray(Maps.open(result.folder / "maps.zarr").labels[:])


def regions_of(folder: Path, model: Model, mpp: float) -> Sequence[AnnotatedRegion]:
    card = model.facts.card
    dataset = BcssRegions(name="d", folder=folder, mpp=mpp)
    return dataset.regions(folder, LabelScheme(card.tissue_classes, card.mpp))


# --- one path ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("mpp", "size"),
    [(0.5, (333, 470)), (0.25, (333, 470)), (0.3, (333, 470)), (0.5, (75, 100)), (0.5, (75, 300))],
)
def test_an_image_gets_the_labels_that_run_gives_it(
    tmp_path: Path, model: Model, mpp: float, size: tuple[int, int]
) -> None:
    """The model's resolution is 0.5: the image's own, half of it, and an odd share of it; its tile 128 px."""
    folder = write_bcss(tmp_path / "data", [size])
    (region,) = regions_of(folder, model, mpp)
    path = next((folder / "rgbs").glob("*.png"))
    expected = run_labels(path, tmp_path / "out", model, mpp)
    ours = labels_of(region, model)
    assert len(np.unique(expected)) >= 3
    # `run` leaves out a last row or column of which no more than half lies on the slide.
    analyzed = expected > 0
    assert analyzed[:-1, :-1].all()
    if mpp == 0.3:
        # Resampled by an odd factor, the image leaves a trace in the first pixel beyond its border.
        assert (ours == expected)[analyzed].mean() > 0.999
    else:
        assert np.array_equal(ours[analyzed], expected[analyzed])


@pytest.mark.parametrize("mpp", [pytest.param(0.5, marks=pytest.mark.long), 0.3])
def test_a_slide_made_of_the_images_gets_the_same_labels(tmp_path: Path, model: Model, mpp: float) -> None:
    """Images lie apart in white; tiles that begin elsewhere in an image than alone change next to nothing."""
    folder = write_bcss(tmp_path / "data", [(500, 620), (380, 520), (240, 240)])
    factor = 0.5 / mpp
    starts_map = [(0, 0), (768, 128), (128, 640)]
    mosaic = np.full((round(900 * factor), round(1300 * factor), 3), 255, np.uint8)
    for path, (x, y) in zip(sorted((folder / "rgbs").glob("*.png")), starts_map, strict=True):
        pixels = np.asarray(Image.open(path))
        left, top = round(x * factor), round(y * factor)
        mosaic[top : top + pixels.shape[0], left : left + pixels.shape[1]] = pixels
    slide = tmp_path / "mosaic.png"
    Image.fromarray(mosaic).save(slide)
    expected = run_labels(slide, tmp_path / "out", model, mpp)
    same = pixels_in_all = 0
    for region, (x, y) in zip(regions_of(folder, model, mpp), starts_map, strict=True):
        ours = labels_of(region, model)
        theirs = expected[y : y + ours.shape[0], x : x + ours.shape[1]]
        same += int((ours == theirs).sum())
        pixels_in_all += ours.size
    assert same / pixels_in_all >= 0.995


def test_unknown_blocks_are_not_predicted(
    tmp_path: Path, model: Model, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of a large region only blocks with some truth are predicted, and what they give does not change."""
    monkeypatch.setattr("wsi_seg.evaluation.predict.BLOCK_TARGET", 128)
    folder = write_bcss(tmp_path / "data", [(256, 384)])
    path = next((folder / "masks").glob("*.png"))
    mask = np.zeros((256, 384), np.uint8)
    mask[100:128, 200:384] = 2
    Image.fromarray(mask).save(path)
    (region,) = regions_of(folder, model, 0.5)
    blocks = list(predict_region(region, load_predictor(model.predictor), model.facts.card))
    assert [(b.box.x0, b.box.y0, b.box.width, b.box.height) for b in blocks] == [
        (128, 0, 128, 128),
        (256, 0, 128, 128),
    ]
    whole = run_labels(next((folder / "rgbs").glob("*.png")), tmp_path / "out", model, 0.5)
    for block in blocks:
        rows, columns = block.box.within(block.box.__class__(0, 0, 0, 0))
        assert np.array_equal(block.channels + 1, whole[rows, columns])


# --- counts -----------------------------------------------------------------------------------------------


def config(folder: Path, *datasets: Any, ignored: tuple[int, ...] = (0,)) -> EvaluateConfig:
    return EvaluateConfig(data_dir=folder, datasets=datasets, ignored_codes=ignored)


def bcss(folder: str = "d", **others: Any) -> BcssRegions:
    return BcssRegions(**{"name": folder, "folder": folder, "mpp": 0.5, "weight": 0, **others})


def test_counts_are_those_of_the_labels_that_run_gives(tmp_path: Path, model: Model) -> None:
    folder = write_bcss(tmp_path / "d", [(200, 260), (130, 150)], (0, 1, 2, 4, 7))
    evaluation = evaluate_model(model, config(tmp_path, bcss(), ignored=(0, 7)))
    expected = np.zeros((4, 5), np.uint64)
    for path in sorted((folder / "rgbs").glob("*.png")):
        labels = run_labels(path, tmp_path / "out", model, 0.5)
        truth = np.asarray(Image.open(folder / "masks" / path.name))
        expected += count_classes(truth, labels, CODES, NAMES).matrix
    (result,) = evaluation.metrics["results"]
    assert result["confusion"]["matrix"] == expected.tolist()
    assert (result["images"], result["groups"], result["files"]) == (2, 2, 4)
    assert result["classes"][2]["dice"] is None  # code 3 is not in the masks
    assert [row["name"] for row in result["class_groups"]["classes"]] == ["tumor", "other"]
    assert result["class_groups"]["confusion"]["matrix"][0][0] == expected[0, 0]
    assert evaluation.metrics["model"]["digest"] == model.facts.digest
    assert [example.name for example in evaluation.examples] == ["TCGA-A2-A000-DX1_x0", "TCGA-A2-A001-DX1_x1"]
    example = evaluation.examples[1]
    assert example.image is not None
    assert np.array_equal(example.image, np.asarray(Image.open(path)))
    assert np.array_equal(example.channels + 1, labels)


def test_full_data_sets_are_pooled_and_partial_ones_stay_apart(tmp_path: Path, model: Model) -> None:
    for name, codes in {"one": (1, 2), "two": (2, 3), "known": (0, 1)}.items():
        write_bcss(tmp_path / name, [(100, 100), (64, 64)], codes)
    data = config(tmp_path, bcss("one"), bcss("two"), bcss("known", known_class="tumor"))
    settings = EvaluateSettings(baselines=("everything=tumor", "hematoxylin=tumor", "everything=stroma"))
    results = {r["name"]: r for r in evaluate_model(model, data, settings).metrics["results"]}
    assert list(results) == ["one", "two", "known", "all data sets"]
    matrices = {name: np.array(r["confusion"]["matrix"]) for name, r in results.items()}
    assert np.array_equal(matrices["one"] + matrices["two"], matrices["all data sets"])
    assert results["known"]["confusion"]["truth"] == ["tumor", "not tumor"]
    assert results["known"]["class_groups"] is None
    assert results["all data sets"]["groups"] == 2 and results["all data sets"]["images"] == 4
    tumor, stroma = results["one"]["baselines"]
    assert list(tumor["scores"]) == ["this model", "everything=tumor", "hematoxylin=tumor"]
    everything = tumor["scores"]["everything=tumor"]
    share = results["one"]["classes"][0]["share"]
    assert (everything["recall"], everything["mcc"], everything["roc_auc"]) == (1, None, 0.5)
    assert everything["precision"] == pytest.approx(share, abs=1e-4)
    for table, row in ((tumor, 0), (stroma, 1)):
        assert table["scores"]["this model"]["roc_auc"] == results["one"]["classes"][row]["roc_auc"]
    alone = results["known"]["baselines"][0]["scores"]["this model"]
    assert alone["dice"] == results["known"]["classes"][0]["dice"]
    assert [group["name"] for group in stroma["per_group"]] == ["TCGA-A2-A000", "TCGA-A2-A001"]
    # Of the partly known data set only the known class has baselines.
    assert [table["class"] for table in results["known"]["baselines"]] == ["tumor"]


def test_the_part_decides_what_is_evaluated(tmp_path: Path, model: Model) -> None:
    write_bcss(tmp_path / "d", [(64, 64)] * 4)
    split = Split(test=("TCGA-A2-A003",), validation=("TCGA-A2-A000",))
    data = config(tmp_path, bcss(split=split, weight=1))

    def images(part: Any) -> list[str]:
        evaluation = evaluate_model(model, data, EvaluateSettings(part))
        return [image["group"] for image in evaluation.metrics["results"][0]["per_image"]]

    assert images("test") == ["TCGA-A2-A003"]
    assert images("validation") == ["TCGA-A2-A000"]
    assert images("training") == ["TCGA-A2-A001", "TCGA-A2-A002"]
    assert sorted(images("all")) == [f"TCGA-A2-A00{i}" for i in range(4)]
    with pytest.raises(DataError, match="d: no region is in the test part; choose another with --part"):
        evaluate_model(model, config(tmp_path, bcss(weight=1)))
    halves = bcss(split=Split(by="columns", test=0.5), weight=1)
    (result,) = evaluate_model(model, config(tmp_path, halves)).metrics["results"]
    assert result["pixels"] == 4 * 64 * 32 and "optimistic" in " ".join(result["notes"])


def test_masks_of_folders_and_classes_of_whole_images(tmp_path: Path) -> None:
    card = {
        "classes": (
            CardClass(code=1, name="lesion", color=(200, 0, 0)),
            CardClass(code=2, name="background", color=(90, 90, 90)),
        ),
        "groups": (),
        "image_labels": ("benign", "malignant"),
        "overlap": 0,
    }
    model = load_model(str(random_model(tmp_path / "m", **card)), "cpu", "float32")
    for seed in range(6):
        folder = tmp_path / "busi" / ("benign", "malignant")[seed % 2]
        folder.mkdir(parents=True, exist_ok=True)
        mask = np.zeros((80, 100), bool)
        mask[20:50, 30:70] = seed > 1
        Image.fromarray(picture(seed, 80, 100)).save(folder / f"{seed}.png")
        Image.fromarray(mask).save(folder / f"{seed}_mask.png")
    kept = {"name": "busi", "folder": "busi", "resize": 64, "weight": 0, "mask_class": "lesion"}
    whole = MaskedImages(**kept, background_class="background")
    evaluation = evaluate_model(model, config(tmp_path, whole))
    (result,) = evaluation.metrics["results"]
    lesion = result["classes"][0]
    assert (result["images"], lesion["images"]) == (6, 4)
    with_lesion = [image for image in result["per_image"] if "lesion" in image["classes"]]
    mean = np.mean([image["classes"]["lesion"]["iou"] for image in with_lesion])
    assert lesion["iou_mean_over_images"] == pytest.approx(mean, abs=1e-3)
    labels = result["image_labels"]
    assert labels["images"] == 6 and [row["images"] for row in labels["classes"]] == [3, 3]
    predictor = load_predictor(model.predictor)
    pixels = evaluation.examples[0].image
    assert pixels is not None and pixels.shape == (64, 64, 3)
    direct = predictor.classify(pixels[None])[0].numpy()  # type: ignore[attr-defined]
    assert labels["per_image"][0]["probabilities"] == pytest.approx(direct, abs=1e-4)
    # An image of several tiles: the mean over them.
    large = MaskedImages(**{**kept, "resize": 128}, background_class="background")
    evaluation = evaluate_model(model, config(tmp_path, large))
    pixels = evaluation.examples[2].image
    assert pixels is not None
    tiles = np.stack([pixels[y : y + 64, x : x + 64] for y in (0, 64) for x in (0, 64)])
    direct = predictor.classify(tiles).mean(0).numpy()  # type: ignore[attr-defined]
    labels = evaluation.metrics["results"][0]["image_labels"]
    assert labels["per_image"][2]["probabilities"] == pytest.approx(direct, abs=1e-3)
    # Without a class for the rest, the masks tell the lesion from everything else.
    partial = MaskedImages(**kept)
    (result,) = evaluate_model(model, config(tmp_path, partial)).metrics["results"]
    assert result["name"] == "busi" and result["confusion"]["truth"] == ["lesion", "not lesion"]


# --- finished maps ----------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def results(model: Model, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Results of a run on a picture of 300 × 400 pixels at the model's own resolution, tissue left of 350."""
    folder = tmp_path_factory.mktemp("results")
    pixels = picture(9, 300, 400)
    pixels[:, 350:] = 250
    Image.fromarray(pixels).save(folder / "slide.png")
    square = {"type": "Polygon", "coordinates": [[[0, 0], [350, 0], [350, 300], [0, 300], [0, 0]]]}
    (folder / "tissue.geojson").write_text(json.dumps([{"type": "Feature", "geometry": square}]))
    settings = RunSettings(mpp=Scale(0.5, 0.5), reader="image", tissue=str(folder / "tissue.geojson"))
    return segment_slide(folder / "slide.png", folder / "out", model, settings).folder


def write_geojson(path: Path, shapes: Sequence[tuple[str, shapely.Geometry]], **top: Any) -> Path:
    features = [
        {
            "type": "Feature",
            "properties": {"classification": {"name": name, "color": [1, 2, 3]}},
            "geometry": json.loads(shapely.to_geojson(shape)),
        }
        for name, shape in shapes
    ]
    path.write_text(json.dumps({"type": "FeatureCollection", "features": features, **top}))
    return path


def test_maps_against_annotations(tmp_path: Path, results: Path) -> None:
    shapes = [
        ("Carcinoma", shapely.box(20, 30, 180, 200)),
        ("Stroma", shapely.box(60, 60, 100, 100)),  # inside the larger one: it wins
        ("Ignore*", shapely.box(20, 180, 180, 200)),
        ("Necrosis", shapely.box(300, 10, 390, 120)),  # reaches into what was left out as background
    ]
    truth = np.zeros((300, 400), np.uint8)
    truth[30:200, 20:180], truth[60:100, 60:100], truth[180:200, 20:180], truth[10:120, 300:390] = 1, 2, 0, 4
    path = write_geojson(tmp_path / "truth.geojson", shapes)
    asked = TruthFile(path, (("carcinoma", "tumor"),))
    evaluation = evaluate_maps(results, asked)
    labels = np.asarray(Maps.open(results / "maps.zarr").labels[:])
    expected = count_classes(truth, labels, CODES, NAMES).matrix
    (result,) = evaluation.metrics["results"]
    assert result["confusion"]["matrix"] == expected.tolist()
    assert expected[3, -1] == (labels[10:120, 300:390] == 0).sum() > 110 * 30  # not analyzed: missed
    assert (result["name"], result["groups"], result["images"]) == ("slide", 1, 2)
    assert "No confidence interval" in result["intervals"]
    assert all(example.image is not None for example in evaluation.examples)
    assert evaluate_maps(results / "maps.zarr", asked).metrics["key"] == evaluation.metrics["key"]
    moved = write_geojson(
        tmp_path / "moved.geojson",
        [(name, shapely.affinity.translate(shape, -11, -7)) for name, shape in shapes],
        wsi_seg={"subtracted_l0": [11, 7]},
    )
    again = evaluate_maps(results, TruthFile(moved, (("Carcinoma", "tumor"),))).metrics["results"][0]
    assert again["confusion"] == result["confusion"]


def test_maps_against_a_mask_of_their_size(tmp_path: Path, results: Path) -> None:
    random = np.random.default_rng(5)
    truth = np.kron(random.choice(np.array([0, 1, 2, 3], np.uint8), (30, 40)), np.ones((10, 10), np.uint8))
    Image.fromarray(truth).save(tmp_path / "truth.png")
    array = zarr.create_array(tmp_path / "truth.zarr", shape=truth.shape, dtype="uint8", chunks=(64, 64))
    array[:] = truth
    maps = Maps.open(results / "maps.zarr")
    expected = count_classes(truth, np.asarray(maps.labels[:]), CODES, NAMES).matrix.tolist()
    for name in ("truth.png", "truth.zarr"):
        (result,) = evaluate_maps(results, TruthFile(tmp_path / name)).metrics["results"]
        assert result["confusion"]["matrix"] == expected
    # The same truth in another numbering, and in colors.
    Image.fromarray(truth * 20 + 5).save(tmp_path / "own.png")
    colors = np.zeros((*truth.shape, 3), np.uint8)
    colors[..., 1] = truth * 20 + 5
    Image.fromarray(colors).save(tmp_path / "colors.png")
    for name, key in (("own.png", "{}"), ("colors.png", "#00{:02x}00")):
        keys = [key.format(code * 20 + 5) for code in range(4)]
        names = tuple(zip(keys[1:], [c.name for c in BCSS[:3]], strict=True))
        asked = TruthFile(tmp_path / name, names, ignored_classes=(keys[0],))
        assert evaluate_maps(results, asked).metrics["results"][0]["confusion"]["matrix"] == expected
    # Stored probabilities count for all map pixels that they cover.
    stored = np.asarray(maps.probabilities[0]).repeat(4, 0).repeat(4, 1)[:300, :400]
    auc = sk.roc_auc_score(truth[truth > 0] == 1, stored[truth > 0])
    assert result["classes"][0]["roc_auc"] == pytest.approx(auc, abs=1e-4)


def test_truth_that_does_not_fit_the_maps(tmp_path: Path, results: Path) -> None:
    wrong_size, wrong_code = tmp_path / "size.png", tmp_path / "code.png"
    Image.fromarray(np.ones((300, 401), np.uint8)).save(wrong_size)
    Image.fromarray(np.full((300, 400), 99, np.uint8)).save(wrong_code)
    small = zarr.create_array(tmp_path / "small.zarr", shape=(3, 4), dtype="uint8")
    small[:] = 1
    (tmp_path / "empty").mkdir()
    box = shapely.box(0, 0, 50, 50)
    unknown = write_geojson(tmp_path / "unknown.geojson", [("Gristle", box)])
    ignored = write_geojson(tmp_path / "ignored.geojson", [("Ignore*", box)])
    outside = write_geojson(tmp_path / "outside.geojson", [("Tumor", shapely.box(390, 0, 900, 50))])
    for path, words in {
        wrong_size: r"401×300 pixels, which is the size neither of the map \(400×300\) nor of a level",
        wrong_code: "code.png: mask code 99",
        tmp_path / "small.zarr": "4×3 pixels, which is the size neither of the map",
        tmp_path / "empty": "no Zarr array",
        tmp_path / "absent.geojson": "absent.geojson: no such file",
        unknown: "polygon 1 is of class 'Gristle'",
        ignored: "all of its annotations are of ignored classes",
        outside: "polygon 1 lies outside its image",
    }.items():
        with pytest.raises(DataError, match=words):
            evaluate_maps(results, TruthFile(path))
    with pytest.raises(
        DataError, match=r"code\.png: 'a' in --class-names or --ignored-classes is not a code"
    ):
        evaluate_maps(results, TruthFile(wrong_code, (("a", "tumor"),)))
    drawn = [
        end for end in (".xml", ".annotations", ".json", ".csv", ".tif") if TruthFile(Path("a" + end)).drawn
    ]
    assert drawn == [".xml", ".annotations", ".json", ".csv"]
    with pytest.raises(OutputError, match="holds no finished results"):
        evaluate_maps(tmp_path / "empty", TruthFile(wrong_code))


def test_a_slide_that_has_gone_is_said_so(tmp_path: Path, results: Path) -> None:
    slide = results.parent.parent / "slide.png"
    hidden = slide.rename(slide.with_name("hidden"))
    try:
        path = write_geojson(tmp_path / "truth.geojson", [("Tumor", shapely.box(0, 0, 99, 99))])
        evaluation = evaluate_maps(results, TruthFile(path))
    finally:
        hidden.rename(slide)
    assert evaluation.examples[0].image is None
    assert "could not be opened for pictures" in " ".join(evaluation.metrics["results"][0]["notes"])


# --- configuration ----------------------------------------------------------------------------------------


def test_a_training_configuration_names_data_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PLACE", "here")
    datasets = "datasets:\n  - {kind: bcss, name: d, folder: d, weight: 0.5}\n"
    path = tmp_path / "train.yaml"
    path.write_text(f"model: {{name: m}}\ndata_dir: ${{PLACE}}/x\nignored_codes: [0]\nepochs: 3\n{datasets}")
    training = read_evaluate_config(path)
    assert training.data_dir == tmp_path / "here" / "x" and training.ignored_codes == (0,)
    assert training.datasets[0].weight == 0.5
    path.write_text(datasets.replace(", weight: 0.5", ""))
    own = read_evaluate_config(path)
    assert own.data_dir == tmp_path and own.datasets[0].weight == 0  # for evaluation only
    assert NO_ROW not in own.ignored_codes


def test_groups_that_are_the_classes_make_no_table(tmp_path: Path) -> None:
    classes = tuple(CardClass(code=c, name=f"c{c}", color=(c, c, c)) for c in (1, 2))
    groups = tuple(CardGroup(name=f"g{c}", codes=(c,), color=(c, c, c)) for c in (1, 2))
    model = load_model(str(random_model(tmp_path / "m", classes=classes, groups=groups)), "cpu")
    write_bcss(tmp_path / "d", [(64, 64)], (1, 2))
    (result,) = evaluate_model(model, config(tmp_path, bcss())).metrics["results"]
    assert result["class_groups"] is None and len(result["classes"]) == 2
