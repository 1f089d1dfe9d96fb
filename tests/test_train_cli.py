"""`wsi-seg train` and `evaluate` as a user meets them: what they claim, and of whom."""

from __future__ import annotations

import csv
import json
import re
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from PIL import Image
from scipy import ndimage
from typer.testing import CliRunner

from wsi_seg.cli import app
from wsi_seg.core.card import ModelCard

UNKNOWN = "images of unknown patients: not independent"
NETWORK = {
    "encoder": "tu-test_resnet",
    "architecture_options": {"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
}
SIDE = 96


def call(*arguments: object) -> Any:
    return CliRunner().invoke(app, [str(a) for a in arguments])


def one_line(result: Any, code: int, *words: str) -> None:
    assert result.exit_code == code, result.output
    (line,) = result.stderr.strip().splitlines()
    assert line.startswith("error: ") and all(word in line for word in words), line


def tissue(seed: int, height: int, width: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
    """Return structures of a few pixels, as nuclei are, uint8 RGB."""
    noise = np.random.default_rng(seed).normal(0, 1, (height, width))
    smooth = ndimage.gaussian_filter(noise, 3)
    gray = np.clip(150 + 45 * smooth / smooth.std(), 0, 255)
    return np.stack([gray, gray * 0.7, gray * 0.9], axis=2).astype(np.uint8)


def write_image(folder: Path, name: str, pixels: np.ndarray[Any, Any], marked: np.ndarray[Any, Any]) -> None:
    """Write an image with its mask in the layout of BUSI."""
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(pixels).save(folder / f"{name}.png")
    Image.fromarray(marked).save(folder / f"{name}_mask.png")


def some_mask() -> np.ndarray[Any, np.dtype[np.bool_]]:
    mask = np.zeros((SIDE, SIDE), bool)
    mask[20:70, 30:60] = True
    return mask


def write_config(path: Path, *datasets: dict[str, Any], **others: Any) -> Path:
    """Write a training of one epoch or two for lesion against background; no group is called tumor."""
    classes = [
        {"code": 1, "name": "lesion", "color": [200, 0, 0]},
        {"code": 2, "name": "background", "color": [9, 9, 9]},
    ]
    groups = [{"name": c["name"], "codes": [c["code"]], "color": c["color"]} for c in classes]
    kind = {"kind": "masks", "mask_class": "lesion", "background_class": "background", "resize": SIDE}
    values = {
        "model": {
            "name": "made", "classes": classes, "groups": groups, "mpp": 1.0, "tile": SIDE, "overlap": 0,
            **NETWORK,
        },
        "datasets": [{**kind, **dataset} for dataset in datasets],
        "data_dir": str(path.parent), "crop": 64, "batch": 2, "epochs": 1, "steps_per_epoch": 1,
        "precision": "32-true", "accelerator": "cpu", **others,
    }  # fmt: skip
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="module")
def cut(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A configuration: 12 tiles cut edge to edge from one image, 6 other images, and 2 that are all lesion.

    The names of the tiles say nothing of where they were cut.
    """
    folder = tmp_path_factory.mktemp("cut")
    whole = tissue(0, 3 * SIDE, 4 * SIDE)
    for number in range(12):
        y, x = SIDE * (number // 4), SIDE * (number % 4)
        write_image(folder / "tiles", f"t{number:02d}", whole[y : y + SIDE, x : x + SIDE], some_mask())
    for number in range(12, 18):
        write_image(folder / "tiles", f"t{number:02d}", tissue(number, SIDE, SIDE), some_mask())
    for number in range(2):
        write_image(
            folder / "full", f"f{number}", tissue(50 + number, SIDE, SIDE), np.ones((SIDE, SIDE), bool)
        )
    return write_config(
        folder / "train.yaml",
        {"name": "tiles", "folder": "tiles", "split": {"validation": 0.3, "test": 0.3, "seed": 1}},
        {"name": "full", "folder": "full", "weight": 0},
        epochs=2,
    )


@pytest.fixture(scope="module")
def trained(cut: Path) -> Any:
    """The command's result; the model is in `model` besides the configuration."""
    result = call("train", cut, "-o", cut.parent / "model")
    assert result.exit_code == 0, result.output
    return result


def test_tiles_of_one_image_are_recognized_and_kept_together(trained: Any, cut: Path) -> None:
    assert "tiles: 12 of 18 images are tiles or copies of 1 larger image" in trained.stderr
    regions = json.loads((cut.parent / "model" / "data.json").read_text())["regions"]
    parts = {r["region"]: r["part"] for r in regions if r["dataset"] == "tiles"}
    assert set(parts.values()) == {"training", "validation", "test"}
    assert len({parts[f"t{number:02d}"] for number in range(12)}) == 1
    assert {r["patient"] for r in regions} == {None}


def test_tiles_of_one_image_are_of_one_patient(cut: Path, tmp_path: Path) -> None:
    tiles = {"name": "tiles", "folder": str(cut.parent / "tiles"), "patients": {"pattern": "(.+)"}}
    config = write_config(tmp_path / "train.yaml", {**tiles, "split": {"validation": 0.3, "test": 0.3}})
    refused = call("train", config, "-o", tmp_path / "model")
    assert refused.exit_code == 1 and not (tmp_path / "model").exists()
    (line,) = refused.stderr.strip().splitlines()[-1:]
    assert re.search(r"tiles: t\d+ and t\d+ are tiles or copies of one image.*correct `patients`", line)


def test_images_of_unknown_patients_claim_nothing(trained: Any, cut: Path) -> None:
    model = cut.parent / "model"
    card = json.loads((model / "card.json").read_text())
    metrics = json.loads((model / "evaluation" / "metrics.json").read_text())
    page = (model / "evaluation" / "report.html").read_text().lower()
    for text in (card["held_out"], trained.stdout.strip().splitlines()[-1], page):
        assert UNKNOWN in text
    assert "of unknown patients for training" in trained.stderr
    everything = json.dumps(card) + trained.output + page + json.dumps(metrics)
    assert "never trained on" not in everything and not re.search(r"\d+ patients", everything)
    for result in metrics["results"]:
        assert result["patients"] is None and result["overall_intervals"] is None
        assert all(row["intervals"] is None for row in result["classes"])
    assert card["metrics"]["held_out"]["data_sets"]["tiles"]["patients"] is None
    with (model / "evaluation" / "metrics.csv").open() as file:
        assert not any(row["dice_low"] for row in csv.DictReader(file))


def test_a_test_part_of_one_class_gives_no_headline(
    trained: Any, cut: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = cut.parent / "model"
    card = json.loads((model / "card.json").read_text())
    of_full = card["held_out"].partition("full: ")[2].partition("; ")[0]
    assert "none are background" in of_full and not re.search(r"\d\.\d", of_full)
    metrics = json.loads((model / "evaluation" / "metrics.json").read_text())
    full = next(result for result in metrics["results"] if result["name"] == "full")
    assert "none are background" in full["missing"][0]
    assert set(full["overall"].values()) == {None} and full["classes"][0]["dice"] is None
    page = (model / "evaluation" / "report.html").read_text()
    section = page.partition("<h2>full</h2>")[2].partition("</section>")[0]
    assert full["missing"][0] in section and not re.search(r"[01]\.\d\d\d", section)
    monkeypatch.setattr("wsi_seg.evaluation.model.SECONDS_PER_LINE", 0.0)
    told = call("evaluate", model, "--precision", "float32", "--baseline", "everything=lesion")
    assert told.exit_code == 0, told.output
    assert re.search(r"^evaluated (\d+) of \1 regions$", told.stderr, re.M)  # no terminal: lines
    table = told.stdout.partition("made on full: ")[2].partition("made on")[0]
    assert "No scores: all known pixels of this truth are lesion" in " ".join(table.split())
    assert "everything=lesion" in table and not re.search(r"\d\.\d\d\d", table), table


def test_without_a_terminal_training_prints_a_line_an_epoch(trained: Any) -> None:
    pattern = r"epoch (\d) of 2: loss \d+\.\d+, validation loss \d+\.\d+, validation dice \d\.\d+, \d+\.\d s"
    assert re.findall(pattern, trained.stderr) == ["1", "2"]


def test_the_printed_command_runs(trained: Any, cut: Path, tmp_path: Path) -> None:
    printed = re.search(r"use it with: (wsi-seg run .*?)(?: \(|$)", trained.stdout, re.M)
    assert printed is not None
    slide = {"SLIDE": str(cut.parent / "tiles" / "t00.png"), "OUT": str(tmp_path)}
    words = [slide.get(word, word) for word in shlex.split(printed[1])[1:]]
    done = call(*words)
    assert done.exit_code == 0, done.output
    manifest = json.loads((tmp_path / "t00" / "manifest.json").read_text())
    assert manifest["settings"]["regions"]["groups"] == ["lesion"]
    assert manifest["model"]["card"]["traced"] == ["lesion"]
    exported = call("export", tmp_path / "t00")
    assert exported.exit_code == 0 and (tmp_path / "t00" / "lesion_0.5.geojson").is_file()
    one_line(
        call(*words, "--groups", "tumor"), 2, "unknown group 'tumor'", "the model has lesion, background"
    )


@pytest.mark.parametrize(
    ("names", "said", "traced"),
    [
        (["stroma", "tumor", "other"], None, "tumor"),
        (["background", "vessel", "nerve", "other"], None, "vessel, nerve"),
        (["background"], None, "background"),
        ([], None, "tumor"),
        (["stroma", "vessel"], ["vessel"], "vessel"),
        (["stroma", "vessel"], ["necrosis_or_debris"], "necrosis_or_debris"),
    ],
)
def test_what_a_card_traces(
    names: list[str], said: list[str] | None, traced: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    groups = [{"name": name, "codes": [1], "color": [1, 2, 3]} for name in names]
    card = {**ModelCard(name="m").model_dump(mode="json"), "groups": groups, "traced": said}
    (tmp_path / "m").mkdir()
    (tmp_path / "m" / "card.json").write_text(json.dumps(card))
    monkeypatch.setattr("wsi_seg.inference.models.registry.BUNDLED", tmp_path)
    assert f"traced by default: {traced}\n" in call("models").stdout


def test_a_card_that_traces_what_it_does_not_have(tiny_model: Path, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes((tiny_model / "model.safetensors").read_bytes())
    card = json.loads((tiny_model / "card.json").read_text())
    (tmp_path / "card.json").write_text(json.dumps(card | {"traced": ["tumr"]}))
    result = call("run", "a.png", "-o", tmp_path / "out", "--model", tmp_path, "--mpp", 1)
    one_line(result, 1, "card.json", "traced names 'tumr', which is no group and no class of the model")


def test_one_image_alone_says_that_nothing_was_held_out(tmp_path: Path) -> None:
    write_image(tmp_path / "one", "a", tissue(3, SIDE, SIDE), some_mask())
    config = write_config(
        tmp_path / "train.yaml", {"name": "one", "folder": "one", "patients": {"pattern": "(.+)"}}
    )
    result = call("train", config, "-o", tmp_path / "model")
    assert result.exit_code == 0, result.output
    nothing = "no validation or test data"
    assert f"1 image of 1 patient for training; {nothing}" in result.stderr.splitlines()[0]
    assert nothing in result.stdout.strip().splitlines()[-1]
    assert nothing in json.loads((tmp_path / "model" / "card.json").read_text())["held_out"]


def test_what_one_data_set_trains_on_another_cannot_hold_out(cut: Path, tmp_path: Path) -> None:
    one = {"name": "one", "folder": "tiles"}
    config = write_config(cut.parent / "twice.yaml", one, {**one, "name": "two", "weight": 0})
    one_line(
        call("train", config, "-o", tmp_path / "model"), 1, "t00.png is held out here, but one trains on it"
    )
    folder = tmp_path / "data"
    for number in range(2):
        write_image(folder / f"d{number}", f"TCGA-A2-A0D2-{number}", tissue(number, SIDE, SIDE), some_mask())
    sets = [{"name": f"d{n}", "folder": f"data/d{n}", "weight": 1 - n} for n in range(2)]
    config = write_config(tmp_path / "train.yaml", *sets)
    one_line(call("train", config, "-o", tmp_path / "model"), 1, "d1: patient TCGA-A2-A0D2 is held out here")
    assert not (tmp_path / "model").exists()


# --- which patient ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def patients(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Eight images of four patients, whom folders, names and a table tell."""
    folder = tmp_path_factory.mktemp("patients")
    with (folder / "who.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["picture", "who"])
        for number in range(8):
            name = f"P{number % 4}/case{number}_of_{number % 4}"
            write_image(folder, name, tissue(number, SIDE, SIDE), some_mask())
            table.writerow([f"{name}.png" if number % 2 else Path(name).stem, f"p{number % 4}"])
    return folder


def evaluated(folder: Path, tiny_model: Path, patients: dict[str, Any] | None) -> Any:
    dataset = {
        "kind": "masks", "name": "d", "folder": ".", "mpp": 0.5, "mask_class": "tumor",
        "background_class": "stroma", **({} if patients is None else {"patients": patients}),
    }  # fmt: skip
    path = folder / "evaluate.yaml"
    path.write_text(yaml.safe_dump({"data_dir": str(folder), "datasets": [dataset]}))
    return call("evaluate", tiny_model, "-d", path, "--precision", "float32", "--json")


@pytest.mark.parametrize(
    "way",
    [{"pattern": r"_of_(\d)"}, {"folder": True}, {"table": "who.csv", "image": "picture", "column": "who"}],
)
def test_patients_are_named_by_a_pattern_a_folder_or_a_table(
    way: dict[str, Any], patients: Path, tiny_model: Path
) -> None:
    done = evaluated(patients, tiny_model, way)
    assert done.exit_code == 0, done.output
    (result,) = json.loads(done.stdout)["results"]
    assert (result["images"], result["patients"]) == (8, 4)
    assert (
        "bootstrap over 4 patients" in result["intervals"] and result["overall_intervals"]["pixel_accuracy"]
    )


def test_patients_that_no_one_names_are_unknown(patients: Path, tiny_model: Path) -> None:
    (result,) = json.loads(evaluated(patients, tiny_model, None).stdout)["results"]
    assert result["patients"] is None and UNKNOWN in result["intervals"]
    assert result["overall_intervals"] is None


@pytest.mark.parametrize(
    ("way", "code", "words"),
    [
        ({"pattern": r"slide(\d)"}, 1, ("case0_of_0.png", r"'slide(\\d)' finds no patient")),
        ({"pattern": r"of_\d"}, 2, ("has 0 groups",)),
        ({"pattern": "("}, 2, ("is no regular expression",)),
        ({}, 2, ("exactly one of pattern, table and folder",)),
        ({"table": "none.csv"}, 1, ("none.csv: cannot be read",)),
        ({"table": "who.csv"}, 1, ("who.csv: has no column 'image'", "picture, who")),
        (
            {"table": "bad.csv", "image": "picture", "column": "who"},
            1,
            ("case0_of_0.png: has no row in", "bad.csv"),
        ),
        ({"table": "two.csv", "image": "picture", "column": "who"}, 1, ("two.csv: row 3 says 'q' of", "'p'")),
        ({"table": "gap.csv", "image": "picture", "column": "who"}, 1, ("gap.csv: row 2 lacks the who",)),
    ],
)
def test_patients_that_cannot_be_told_are_one_line(
    way: dict[str, Any], code: int, words: Sequence[str], patients: Path, tiny_model: Path
) -> None:
    (patients / "bad.csv").write_text("picture,who\ncase7_of_3,p\n")
    (patients / "two.csv").write_text("picture,who\ncase7_of_3,p\ncase7_of_3,q\n")
    (patients / "gap.csv").write_text("picture,who\ncase7_of_3,\n")
    done = evaluated(patients, tiny_model, way)
    assert done.exit_code == code, done.output
    (line,) = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert all(word in line for word in words), line


@pytest.mark.parametrize(
    ("name", "parent"),
    [
        ("slide7_x100_y2000", "slide7"),
        ("b/core_r1_c2", "b/core"),
        ("b/tile_row1_col12", "b/tile"),
        ("slide 7 [x=512,y=0,w=256,h=180]", "slide 7"),
        ("s_xmin3_ymin4_MPP-0.2500", "s_MPP-0.2500"),
        ("s-y0-x224", "s"),
        ("x12y34", "tiles"),
        ("benign (1)", None),
        ("box3_day2", None),
        ("TCGA-A2-A0D2-01", None),
        ("img_x1", None),
    ],
)
def test_names_of_tiles(name: str, parent: str | None) -> None:
    from wsi_seg.datasets.tiles import parent_name

    found = parent_name(name)
    assert (found and found.replace("_", " ")) == (parent and parent.replace("_", " "))


@pytest.mark.parametrize("step", [SIDE, SIDE // 2, 1.5])
def test_borders_tell_tiles_from_other_images(step: float) -> None:
    """Edge to edge, overlapping, and, of no use to tell them, apart."""
    from wsi_seg.datasets.tiles import bordering

    stride = round(step if step > 2 else step * SIDE)
    whole = tissue(1, 2 * SIDE + stride, 3 * SIDE)
    tiles = [whole[y : y + SIDE, :SIDE] for y in (0, stride)]
    others = [tissue(seed, SIDE, SIDE) for seed in range(2, 40)]
    blank = [np.full((SIDE, SIDE, 3), 245, np.uint8)] * 2
    pairs = {frozenset(pair) for pair in bordering([*tiles, *others, *blank, tiles[0]]) if pair[0] != pair[1]}
    copies = {frozenset((0, 42))}
    assert pairs == (copies | {frozenset((0, 1)), frozenset((1, 42))} if stride <= SIDE else copies)
