"""`wsi-seg evaluate`: what it prints and writes, and what bad input leaves behind."""

from __future__ import annotations

import importlib.util
import json
import re
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import yaml
from PIL import Image
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.results.pages.check import check_page

FILES = {"metrics.json", "metrics.csv", "confusion.png", "curves.png", "examples.png", "report.html"}


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, ["evaluate", *(str(a) for a in arguments)])


def refused(result: Any, code: int, *words: str) -> None:
    """One clear line on stderr with these words, this exit code, and no traceback."""
    assert result.exit_code == code, result.output
    lines = [line for line in result.stderr.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1, result.stderr
    for word in words:
        assert word in lines[0], lines[0]


def data_set(name: str, **others: Any) -> dict[str, Any]:
    return {"kind": "bcss", "name": name, "folder": "d", "mpp": 0.5, **others}


def write_yaml(path: Path, **values: Any) -> Path:
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration with two images of one patient."""
    folder = tmp_path_factory.mktemp("evaluated")
    for name in ("rgbs", "masks"):
        (folder / "d" / name).mkdir(parents=True)
    random = np.random.default_rng(0)
    for index in range(2):
        name = f"TCGA-A2-A000-DX1_x{index}.png"
        Image.fromarray(random.integers(0, 256, (96, 128, 3), np.uint8)).save(folder / "d" / "rgbs" / name)
        mask = np.kron(random.integers(0, 4, (6, 8), np.uint8), np.ones((16, 16), np.uint8))
        Image.fromarray(mask).save(folder / "d" / "masks" / name)
    return write_yaml(folder / "data.yaml", data_dir=".", datasets=[data_set("pictures")])


def test_a_model_is_evaluated_into_a_folder(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    done = call(tiny_model, "-d", data, "-o", out, "--baseline", "everything=tumor", "--precision", "float32")
    assert done.exit_code == 0, done.output
    for words in ("tiny on pictures: 2 images", "Dice", "macro", "everything=tumor", "one-against-rest",
                  "No confidence interval", str(out / "report.html")):  # fmt: skip
        assert words in " ".join(done.stdout.split())
    assert {path.name for path in out.iterdir()} == FILES
    assert [path.name for path in tmp_path.iterdir()] == ["out"]
    metrics = json.loads((out / "metrics.json").read_text(encoding="utf-8"))
    assert metrics["model"]["name"] == "tiny" and len(metrics["model"]["digest"]) == 64
    assert metrics["data"]["part"] == "test" and metrics["data"]["datasets"][0]["name"] == "pictures"
    assert metrics["command"].startswith(f"wsi-seg evaluate {tiny_model} -d {data} ")
    assert metrics["versions"]["numpy"] and metrics["seconds"] > 0
    (result,) = metrics["results"]
    assert result["files"] == 4 and len(result["files_sha256"]) == 64
    assert result["classes"][3]["dice"] is None  # no such code in the masks
    page = (out / "report.html").read_text(encoding="utf-8")
    assert check_page(out / "report.html") == []
    assert "untrained" in page and page.count("data:image/png;base64,") == 3
    assert not re.search(r"<script|https?://|<link|@import|url\(", page)
    for path in out.glob("*.png"):
        with Image.open(path) as picture:
            assert picture.format == "PNG" and min(picture.size) > 200
    assert (out / "metrics.csv").read_text(encoding="utf-8").startswith("data_set,kind,name,pixels,dice,")


def test_json_is_json_alone_and_nothing_is_written(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    done = call(tiny_model, "-d", data, "--json", "--tta", "--precision", "float32")
    assert done.exit_code == 0, done.output
    metrics = json.loads(done.stdout)
    assert metrics["model"]["tta"] is True and metrics["results"][0]["pixels"] > 0
    assert list(tmp_path.iterdir()) == []


def test_hidden_files_are_passed_over_and_a_link_to_nowhere_is_named(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    folder = shutil.copytree(data.parent, tmp_path / "copy")
    images = folder / "d" / "rgbs"
    for name in ("._TCGA-A2-A000-DX1_x0.png", ".DS_Store", "Thumbs.db"):
        (images / name).write_bytes(b"\0\5\x16\7AppleDouble")
    shutil.copytree(images, folder / "d" / ".rgbs")
    done = call(tiny_model, "-d", folder / "data.yaml", "--precision", "float32")
    assert done.exit_code == 0 and "tiny on pictures: 2 images" in done.stdout, done.output
    (images / "gone.png").symlink_to("/nowhere/gone.png")
    result = call(tiny_model, "-d", folder / "data.yaml")
    refused(result, 1, "gone.png: a link to /nowhere/gone.png, which does not exist")


def too_late(*_arguments: Any) -> None:
    raise AssertionError("what can be refused at once is refused before anything is predicted")


def test_only_the_same_evaluation_is_replaced(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "out"
    first = (tiny_model, "-d", data, "-o", out, "--precision", "float32")
    assert call(*first).exit_code == 0
    (out / "note.txt").write_text("mine")
    for way in ((), ("--overwrite",)):
        refused(call(*first, *way), 1, str(out), "also holds note.txt")
    assert (out / "note.txt").read_text() == "mine"
    (out / "note.txt").unlink()
    assert call(*first).exit_code == 0
    assert {path.name for path in out.iterdir()} == FILES
    other = (*first, "--part", "all")
    before = (out / "metrics.json").read_bytes()
    with monkeypatch.context() as patch:
        patch.setattr("wsi_seg.evaluation.model.evaluate_model", too_late)
        refused(call(*other), 1, str(out), "another evaluation", "--overwrite")
    assert (out / "metrics.json").read_bytes() == before
    assert call(*other, "--overwrite").exit_code == 0
    assert json.loads((out / "metrics.json").read_text())["data"]["part"] == "all"
    foreign = tmp_path / "foreign"
    foreign.mkdir()
    (foreign / "thesis.tex").write_text("all of it")
    refused(call(tiny_model, "-d", data, "-o", foreign, "--overwrite"), 1, "holds no evaluation")
    assert (foreign / "thesis.tex").exists()
    refused(call(tiny_model, "-d", data, "-o", foreign / "thesis.tex"), 1, "holds no evaluation")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["foreign", "out"]


def test_the_model_names_its_own_data_and_shows_its_training(
    data: Path, tiny_model: Path, tmp_path: Path
) -> None:
    model = tmp_path / "model"
    (model / "log").mkdir(parents=True)
    for name in ("model.safetensors", "card.json"):
        (model / name).write_bytes((tiny_model / name).read_bytes())
    refused(call(model), 2, "train.yaml", "--data")
    write_yaml(
        model / "train.yaml", model={"name": "tiny"}, data_dir=str(data.parent), epochs=2,
        datasets=[data_set("own", weight=1, split={"by": "columns", "test": 0.5})],
    )  # fmt: skip
    (model / "log" / "metrics.csv").write_text(
        "epoch,step,loss,validation_dice\n0,1,2.0,\n0,1,,0.3\n1,2,1.5,\n"
    )
    done = call(model, "-o", tmp_path / "out", "--precision", "float32")
    assert done.exit_code == 0, done.output
    assert {path.name for path in (tmp_path / "out").iterdir()} == FILES | {"training.png"}
    metrics = json.loads((tmp_path / "out" / "metrics.json").read_text())
    assert "optimistic" in " ".join(metrics["results"][0]["notes"])


def test_finished_maps_are_evaluated(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = next((data.parent / "d" / "rgbs").glob("*.png"))
    run = ["run", picture, "-o", tmp_path / "runs", "--model", tiny_model, "--mpp", 0.5, "--tissue", "none"]
    assert CliRunner().invoke(app, [str(a) for a in run]).exit_code == 0
    results = tmp_path / "runs" / picture.stem
    box = [[[5, 5], [60, 5], [60, 70], [5, 70], [5, 5]]]
    feature = {"type": "Feature", "geometry": {"type": "Polygon", "coordinates": box},
               "properties": {"classification": {"name": "Krebs"}}}  # fmt: skip
    truth = tmp_path / "truth.geojson"
    truth.write_text(json.dumps({"type": "FeatureCollection", "features": [feature]}))
    refused(call(results), 2, "--annotations")
    refused(
        call(results, "--annotations", truth), 1, "Krebs", "put it into --class-names or --ignored-classes"
    )
    refused(call(results, "--annotations", truth, "--class-names", "Krebs"), 2, "NAME=CLASS")
    refused(call(results, "--annotations", truth, "-d", data), 2, "--data goes with a model")
    unnamed = {**feature, "properties": {}}
    ignored = {**feature, "properties": {"classification": {"name": "Ignore*"}}}
    other = tmp_path / "other.geojson"
    other.write_text(json.dumps([feature, unnamed, ignored]))
    krebs = ("--annotations", other, "--class-names", "krebs=tumor")
    refused(call(results, *krebs), 1, "polygon 2 has no class", "put Unclassified into --ignored-classes")
    refused(
        call(tiny_model, "-d", data, "--ignored-classes", "a"), 2, "--ignored-classes goes with the results"
    )
    nothing = call(results, *krebs, "--ignored-classes", "Unclassified")
    refused(nothing, 1, "no pixel is of a known class, so there is nothing to score")
    out = tmp_path / "out"
    maps = results / "maps.zarr"
    done = call(maps, "--annotations", truth, "--class-names", "krebs=tumor", "-o", out)
    assert done.exit_code == 0, done.output
    assert {path.name for path in out.iterdir()} == FILES
    (result,) = json.loads((out / "metrics.json").read_text())["results"]
    assert result["pixels"] == 55 * 65 and [r["name"] for r in result["classes"] if r["pixels"]] == ["tumor"]
    truth.write_text(truth.read_text().replace("70", "40"))
    assert call(results, "--annotations", truth, "--class-names", "krebs=tumor", "-o", out).exit_code == 0
    other.write_bytes(truth.read_bytes())
    monkeypatch.setattr("wsi_seg.evaluation.stored.evaluate_maps", too_late)
    again = call(results, "--annotations", other, "--class-names", "krebs=tumor", "-o", out)
    refused(again, 1, "another evaluation")


def test_a_mask_of_the_slide_itself_is_brought_to_the_map(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    picture = next((data.parent / "d" / "rgbs").glob("*.png"))  # 128 × 96
    run = ["run", picture, "-o", tmp_path, "--model", tiny_model, "--mpp", 0.25, "--tissue", "none"]
    assert CliRunner().invoke(app, [str(a) for a in run]).exit_code == 0
    results = tmp_path / picture.stem
    codes = np.kron(np.random.default_rng(1).integers(0, 5, (12, 16), np.uint8), np.ones((8, 8), np.uint8))
    support = np.bincount(codes[1::2, 1::2].ravel(), minlength=5)[1:]

    def pixels_of(mask: Path, *options: object) -> Any:
        done = call(results, "--annotations", mask, "--json", *options)
        assert done.exit_code == 0, done.output
        (result,) = json.loads(done.stdout)["results"]
        return result

    Image.fromarray(codes).save(tmp_path / "plain.png")
    plain = pixels_of(tmp_path / "plain.png")
    assert [row["pixels"] for row in plain["classes"]] == support.tolist()
    assert "The mask has 0.25 µm/px (level 0 of the slide)" in " ".join(plain["notes"])
    # The same mask as a lossless optimizer stores it: a palette of the gray levels in use.
    levels, index = np.unique(np.where(codes == 1, 0, codes), return_inverse=True)
    twin = Image.fromarray(index.reshape(codes.shape).astype(np.uint8), "P")
    twin.putpalette(np.repeat(levels, 3).tolist())
    twin.save(tmp_path / "twin.png")
    optimized = pixels_of(tmp_path / "twin.png")["classes"]
    assert [row["pixels"] for row in optimized] == [0, *support[1:].tolist()]
    monkeypatch.setattr("wsi_seg.evaluation.truth.LARGE", 0)
    tifffile.imwrite(tmp_path / "large.tif", codes, tile=(32, 32), compression="zlib", bigtiff=True)
    assert pixels_of(tmp_path / "large.tif")["classes"] == plain["classes"]
    small = tmp_path / "small.png"
    Image.fromarray(codes[2::4, 2::4]).save(small)
    refused(call(results, "--annotations", small), 1, "small.png: the mask has 32×24 pixels", "64×48",
            "128×96", "--mask-mpp 1")  # fmt: skip
    refused(call(results, "--annotations", small, "--mask-mpp", 0.7), 1, "has 46×34 pixels", "--mask-mpp 1")
    assert [row["pixels"] for row in pixels_of(small, "--mask-mpp", 1)["classes"]] == [
        4 * (codes[2::4, 2::4] == code).sum() for code in (1, 2, 3, 4)
    ]


def test_bad_input_is_one_line(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    here = {"data_dir": str(data.parent)}
    bad = tmp_path / "bad.yaml"

    def with_data(**values: Any) -> tuple[object, ...]:
        return (tiny_model, "-d", write_yaml(bad, **values), "-o", tmp_path / "out")

    one = [data_set("a")]
    refused(call(tiny_model, "-d", tmp_path / "absent.yaml"), 2, "absent.yaml", "No such file")
    refused(call("bcss-dem", "-d", data), 1, "did you mean 'bcss-demo'")
    refused(call(*with_data(**here, datasets=one, ignore_codes=[0])), 2, "ignore_codes", "'ignored_codes'")
    refused(call(*with_data(**here)), 2, "'datasets' is missing")
    refused(call(*with_data(**here, datasets=[*one, *one])), 2, "distinct names")
    refused(call(*with_data(**here, datasets=[data_set("a", folder="nowhere")])), 1, "nowhere", "data_dir")
    refused(call(*with_data(data_dir="$NO_SUCH_PLACE/x", datasets=one)), 2, "NO_SUCH_PLACE is not set")
    refused(call(*with_data(**here, datasets=[data_set("a", known_class="tumr")])), 1, "'tumor'")
    refused(call(*with_data(**here, datasets=[data_set("a", weight=1)])), 1, "test part", "--part")
    refused(call(*with_data(**here, datasets=one, ignored_codes=[])), 1, "mask code 0")
    refused(call(tiny_model, "-d", data, "--baseline", "everything"), 2, "everything=CLASS")
    refused(call(tiny_model, "-d", data, "--baseline", "everything=blood"), 2, "unknown class 'blood'")
    refused(call(tiny_model, "-d", data, "--annotations", bad), 2, "--annotations goes with the results")
    refused(call(tiny_model, "-d", data, "--device", "tpu"), 2, "tpu")
    assert call(tiny_model, "-d", data, "--part", "exam").exit_code == 2
    assert [path.name for path in tmp_path.iterdir()] == ["bad.yaml"]


def test_a_mask_of_another_size_is_named(data: Path, tiny_model: Path, tmp_path: Path) -> None:
    for name in ("rgbs", "masks"):
        (tmp_path / "d" / name).mkdir(parents=True)
    Image.fromarray(np.zeros((40, 50, 3), np.uint8)).save(tmp_path / "d" / "rgbs" / "x.png")
    Image.fromarray(np.zeros((40, 51), np.uint8)).save(tmp_path / "d" / "masks" / "x.png")
    config = write_yaml(tmp_path / "c.yaml", datasets=[data_set("a")])
    refused(call(tiny_model, "-d", config), 1, "masks/x.png", "51×40", "50×40")


def test_a_mask_of_the_values_1_and_2_is_not_guessed_at(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    marked = np.arange(1500).reshape(30, 50) % 50 < 20
    Image.fromarray(np.zeros((30, 50, 3), np.uint8)).save(tmp_path / "d" / "x.png")
    Image.fromarray(marked.astype(np.uint8) + 1).save(tmp_path / "d" / "x_mask.png")
    masks = data_set("a", kind="masks", mask_class="tumor", background_class="stroma")
    config = write_yaml(tmp_path / "c.yaml", datasets=[masks])
    refused(
        call(tiny_model, "-d", config), 1, "x_mask.png: the mask holds the values 1, 2", "foreground: [2]"
    )
    write_yaml(config, datasets=[{**masks, "foreground": [2]}])
    done = call(tiny_model, "-d", config, "--json")
    assert done.exit_code == 0, done.output
    rows = json.loads(done.stdout)["results"][0]["classes"]
    assert {row["name"]: row["pixels"] for row in rows if row["pixels"]} == {"tumor": 600, "stroma": 900}


def test_figures_need_the_extra(
    data: Path, tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == "matplotlib" else real(name, *rest)
    )
    refused(call(tiny_model, "-d", data, "-o", tmp_path / "out"), 1, "matplotlib", "wsi-seg[report]")
    assert not (tmp_path / "out").exists()
    assert call(tiny_model, "-d", data).exit_code == 0
