"""Reviews as training data, and `wsi-seg train --from MODEL --reviews RESULTS`."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import shapely
import yaml

from tests.made.datasets import SCHEME, make_reviews, write_reviewed
from tests.made.pyramids import make_landmark_slide
from tests.test_train_cli import call, one_line
from wsi_seg.core.card import CardClass, ModelCard, read_card
from wsi_seg.core.classes import BCSS, IGNORED_CODES
from wsi_seg.core.errors import DataError, UsageError
from wsi_seg.core.geometry import Box, Scale, Size
from wsi_seg.datasets.hashes import file_hash
from wsi_seg.datasets.labels import LabelScheme
from wsi_seg.datasets.patients import Patients
from wsi_seg.datasets.region import IGNORED, not_class
from wsi_seg.datasets.reviews import ReviewedSlides
from wsi_seg.evaluation.calibration import ReliabilityCounter
from wsi_seg.evaluation.comparison import compare
from wsi_seg.evaluation.evaluation import Evaluation, Subject
from wsi_seg.evaluation.intervals import draw_groups, expanded_level, percentile_limits
from wsi_seg.evaluation.rows import Rows
from wsi_seg.evaluation.section import ImageTally, Section, count, pool
from wsi_seg.evaluation.tally import PredictedBlock
from wsi_seg.review.entries import ReviewEntry
from wsi_seg.review.places import review_folder
from wsi_seg.review.results import slides_with_review
from wsi_seg.review.store import ReviewStore
from wsi_seg.slides.readers import open_slide
from wsi_seg.training import retrain as retraining
from wsi_seg.training.data import load_data
from wsi_seg.training.retrain import retrain, retrain_config
from wsi_seg.training.settings import RetrainSettings

FULL = LabelScheme(BCSS, 0.5, ignored_codes=IGNORED_CODES)
CHANNEL = {tissue.name: i for i, tissue in enumerate(BCSS)}


def box(x0: int, y0: int, x1: int, y1: int) -> shapely.Polygon:
    return shapely.box(x0, y0, x1, y1)


def reviewed(folder: Path, *entries: dict[str, Any], groups: tuple[str, ...] = ("tumor",)) -> Path:
    """Write a slide of 400 × 300 pixels at 0.5 µm, and results with a review of these entries."""
    slide = make_landmark_slide(folder / "one.tiff", Size(400, 300), Scale(0.5, 0.5), [Box(0, 0, 9, 9)])
    with open_slide(slide) as opened:
        info = opened.info
    write_reviewed(folder / "results" / "one", info, ModelCard(name="made"), groups)
    facts = {"slide": info.fingerprint, "reviewer": "Ada"}
    made = [ReviewEntry(**{**facts, "region": f"r{i}", **entry}) for i, entry in enumerate(entries)]
    ReviewStore(review_folder(folder / "results")).append(info, made)
    return folder / "results"


def targets(results: Path, **values: Any) -> np.ndarray:
    """Return the targets of the whole slide, (300, 400)."""
    dataset = ReviewedSlides(name="made", folder=results, margin=400, **values)
    (region,) = dataset.parts(Path(), FULL).training
    assert region.size == Size(400, 300)
    return region.read(Box(0, 0, 400, 300))[1]


# --- the data set -------------------------------------------------------------------------------------


def test_each_verdict_says_what_the_reviewer_meant(tmp_path: Path) -> None:
    results = reviewed(
        tmp_path,
        {"verdict": "accepted", "geometry": box(0, 0, 50, 50), "class_name": "tumor"},
        {"verdict": "relabeled", "geometry": box(60, 0, 90, 50), "class_name": "stroma"},
        {"verdict": "rejected", "geometry": box(100, 0, 150, 50), "region_class": "tumor"},
        {"verdict": "reviewed-area", "geometry": box(0, 100, 200, 200)},
        {"verdict": "rejected", "geometry": box(10, 110, 30, 130), "region_class": "stroma"},
        {"verdict": "added", "geometry": box(50, 120, 80, 150), "class_name": "inflammatory"},
    )  # fmt: skip
    got = targets(results)
    assert (got[0:50, 0:50] == CHANNEL["tumor"]).all() and (got[0:50, 60:90] == CHANNEL["stroma"]).all()
    assert (got[0:50, 100:150] == not_class(CHANNEL["tumor"])).all()
    # A group that is no class counts as its first class.
    assert (got[120:150, 50:80] == CHANNEL["lymphocytic_infiltrate"]).all()
    # Tumor alone was traced, so unmarked ground of the area is not tumor, and of the rest nothing is known.
    area = got[100:200, 0:200]
    assert set(np.unique(area)) == {not_class(CHANNEL["tumor"]), CHANNEL["lymphocytic_infiltrate"]}
    assert (got[200:] == IGNORED).all() and (got[:100, 160:] == IGNORED).all()


def test_what_a_model_cannot_call_ground_says_nothing_of_it(tmp_path: Path) -> None:
    """Results of a model with other classes: that ground is not fat is no news to a model without fat."""
    results = reviewed(
        tmp_path,
        {"verdict": "rejected", "geometry": box(0, 0, 50, 50), "region_class": "fat"},
        {"verdict": "reviewed-area", "geometry": box(0, 100, 200, 200)},
        {"verdict": "added", "geometry": box(60, 0, 90, 50), "class_name": "stroma"},
        groups=("fat",),
    )  # fmt: skip
    two = LabelScheme(BCSS[:2], 0.5)
    (region,) = ReviewedSlides(name="made", folder=results, margin=400).parts(Path(), two).training
    got = region.read(Box(0, 0, 400, 300))[1]
    assert (got[0:50, 60:90] == 1).all() and (got == IGNORED).sum() == got.size - 50 * 30
    with pytest.raises(
        DataError, match=r"of class 'stroma', .* class_names or ignored_classes of a data set"
    ):
        ReviewedSlides(name="made", folder=results).parts(Path(), LabelScheme(BCSS[:1], 0.5))


def test_background_is_what_the_configuration_or_the_model_calls_so(tmp_path: Path) -> None:
    area = {"verdict": "reviewed-area", "geometry": box(0, 0, 100, 100)}
    results = reviewed(tmp_path, area, groups=("tumor", "stroma"))
    assert (targets(results)[:100, :100] == CHANNEL["other"]).all()
    assert (targets(results, background_class="fat")[:100, :100] == CHANNEL["fat"]).all()


def test_the_later_of_two_verdicts_and_an_undone_one(tmp_path: Path) -> None:
    first = {"verdict": "added", "geometry": box(0, 0, 100, 100), "class_name": "tumor", "entry": "a" * 32}
    later = {"verdict": "added", "geometry": box(50, 0, 150, 100), "class_name": "stroma"}
    undone = {"verdict": "added", "geometry": box(200, 0, 250, 50), "class_name": "tumor", "entry": "b" * 32}
    undo = {"verdict": "revoked", "supersedes": ("b" * 32,), "region": ""}
    got = targets(reviewed(tmp_path, first, later, undone, undo))
    assert (got[:100, :50] == CHANNEL["tumor"]).all() and (got[:100, 50:150] == CHANNEL["stroma"]).all()
    assert (got[:50, 200:250] == IGNORED).all()


def test_a_slide_that_moved_is_found_and_another_one_refused(tmp_path: Path) -> None:
    area = {"verdict": "reviewed-area", "geometry": box(0, 0, 100, 100)}
    results = reviewed(tmp_path, area)
    moved = tmp_path / "elsewhere" / "inner"
    moved.mkdir(parents=True)
    (tmp_path / "one.tiff").rename(moved / "one.tiff")
    with pytest.raises(DataError, match="the slide is not there"):
        targets(results)
    assert (targets(results, slides=tmp_path / "elsewhere")[:100, :100] == not_class(0)).all()
    make_landmark_slide(moved / "one.tiff", Size(400, 300), Scale(0.5, 0.5), [Box(9, 9, 99, 99)])
    with pytest.raises(DataError, match="is another slide"):
        targets(results, slides=tmp_path / "elsewhere")


def test_of_several_results_of_a_slide_those_that_were_reviewed_count(tmp_path: Path) -> None:
    accepted = {"verdict": "accepted", "geometry": box(0, 0, 50, 50), "class_name": "tumor", "model": "m"}
    results = reviewed(tmp_path, accepted)
    first = results / "by-another-model" / "one"  # comes first by its name
    shutil.copytree(results / "one", first)
    stated = json.loads((first / "manifest.json").read_text())
    (first / "manifest.json").write_text(json.dumps(stated | {"model": {**stated["model"], "digest": "n"}}))
    (one,) = slides_with_review(results, review_folder(results))
    assert (one.name, one.folder) == ("one", results / "one")


def test_results_without_a_review_are_an_error(tmp_path: Path) -> None:
    dataset = make_reviews(tmp_path / "made")
    for journal in (tmp_path / "made" / "results-review").rglob("*.jsonl"):
        journal.unlink()
    with pytest.raises(DataError, match="has no reviewed region"):
        dataset.parts(Path(), SCHEME)


def test_a_slide_whose_outlines_lie_between_pixels_is_not_reviewed(tmp_path: Path) -> None:
    """It would be held out, or stop the training early, with a loss of 0."""
    tiny = {"verdict": "added", "geometry": shapely.box(9.6, 9.6, 9.9, 9.9), "class_name": "tumor"}
    with pytest.raises(DataError, match=r"has no reviewed region with a pixel of 0\.5 µm"):
        targets(reviewed(tmp_path, tiny))


def test_patients_stay_together(tmp_path: Path) -> None:
    made = make_reviews(tmp_path / "made")
    dataset = made.model_copy(update={"patients": Patients(pattern="slide-[01]|(slide)")})
    with pytest.raises(DataError, match="finds no patient"):
        dataset.parts(Path(), SCHEME)
    regions = made.model_copy(update={"patients": Patients(pattern="(slide)")}).parts(Path(), SCHEME).training
    assert {region.patient for region in regions} == {"slide"} and len(regions) == 4


# --- the comparison -----------------------------------------------------------------------------------


def evaluated(*right: float, known: bool = True) -> Evaluation:
    """Return an evaluation of two classes; of each patient's pixels such a share is right."""
    rows = Rows.of_classes(BCSS[:2])
    by_group, reliability = {}, {}
    for i, share in enumerate(right):
        target = np.tile(np.repeat(np.array([0, 1], np.int16), 200), (8, 1))
        wrong = np.tile(np.arange(400) % 200 >= round(share * 200), (8, 1))
        channels = np.where(wrong, 1 - target, target).astype(np.uint8)
        probabilities = np.stack([channels == 0, channels == 1]).astype(np.float32) * 0.8 + 0.1
        counter = ReliabilityCounter(rows, (1.0, 1.0))
        block = PredictedBlock(Box(0, 0, 400, 8), target, channels, probabilities)
        by_group[f"p{i}"] = count(counter([block]), (rows,))
        reliability[f"p{i}"] = counter.total
    section = Section(
        name="review", rows=(rows,), by_group=by_group, images=tuple(ImageTally(g, g, ()) for g in by_group),
        files=1, digest="", notes=(), reliability_of=reliability, patients_known=known,
    )  # fmt: skip
    return Evaluation({}, (section,), (), Subject(ModelCard(name="m"), "d", {}))


OLD = (0.6, 0.7, 0.8, 0.75, 0.65)


@pytest.mark.parametrize(
    ("old", "new", "known", "verdict", "words"),
    [
        (OLD, (0.7, 0.8, 0.9, 0.85, 0.75), True, "better", "+0."),
        (OLD[:4], (0.7, 0.8, 0.9, 0.85), True, "cannot be told", "chance in one of 16 cases, hold out 5 or"),
        (OLD[:3], (0.5, 0.6, 0.7), True, "worse", "-0."),
        (OLD, (0.5, 0.6, 0.7, 0.65, 0.55), True, "worse", "-0."),
        (OLD, (0.9, 0.5, 0.9, 0.6, 0.7), True, "no difference shown", "includes zero"),
        (OLD, OLD, True, "no difference shown", "includes zero"),
        (
            OLD[:2],
            (0.9, 0.9),
            True,
            "cannot be told",
            "2 held-out patients, and an interval takes",
        ),
        (OLD, (0.9,) * 5, False, "cannot be told", "unknown patients"),
    ],
)
def test_a_model_is_better_only_where_that_is_shown(
    old: tuple[float, ...], new: tuple[float, ...], known: bool, verdict: str, words: str
) -> None:
    found = compare(evaluated(*old, known=known), evaluated(*new, known=known), "review")
    assert found.verdict == verdict and words in found.sentence, found.sentence
    (table,) = found.data_sets
    dice = table["overall"]["mean_dice"]
    assert dice["old"] == pytest.approx(np.mean(old)) and dice["new"] == pytest.approx(np.mean(new))
    tumor = table["classes"][0]
    assert tumor["false_share"]["new"] == pytest.approx(1 - np.mean(new))
    assert (dice["interval"] is None) == (len(old) < 3 or not known)
    assert table["overall"]["calibration_error"]["old"] == pytest.approx(abs(np.mean(old) - 0.9), abs=0.01)


@pytest.mark.parametrize("patients", [6, 10])
def test_chance_is_called_better_as_rarely_as_the_level_says(patients: int) -> None:
    """Plain percentiles of six patients called 7 % of differences around zero an improvement, not 2.5 %."""
    random = np.random.default_rng(0)
    differences = random.normal(0, 1, (2000, patients))
    means = draw_groups(patients, 500) @ differences.T / patients
    low = percentile_limits(means, expanded_level(patients))[:, 0]
    assert (low > 0).mean() < 0.045 < (percentile_limits(means)[:, 0] > 0).mean()


def test_a_pool_of_data_sets_is_compared_and_the_table_of_most_patients_decides() -> None:
    def named(found: Evaluation, name: str) -> Section:
        return replace(found.sections[0], name=name)

    good = (0.7, 0.8, 0.9, 0.85, 0.75)
    pools = [pool([named(evaluated(*one), name) for name in ("review", "old")], "all") for one in (OLD, good)]
    (table,) = compare(*(replace(evaluated(*OLD), sections=(one,)) for one in pools), "review").data_sets
    error = table["overall"]["calibration_error"]
    assert (table["patients"], table["verdict"]) == (5, "better") and error["interval"] is not None
    assert error["old"] == pytest.approx(abs(np.mean(OLD) - 0.9), abs=0.01)
    # The regions of one patient tell tumor from the rest alone, and come first.
    old, new = (
        replace(
            evaluated(0.5),
            sections=(named(evaluated(*one[:1]), "review: tumor"), evaluated(*one).sections[0]),
        )
        for one in (OLD, good)
    )
    found = compare(old, new, "review")
    assert (found.verdict, found.sentence[:8]) == ("better", "review: ")
    # A data set whose name begins alike decides nothing.
    others = [replace(evaluated(0.5), sections=(named(evaluated(0.5), "reviewers"),)) for _ in range(2)]
    assert "Nothing of review was held out" in compare(*others, "review").sentence


# --- the command --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model trained for a step on other slides, which its folder says."""
    root = tmp_path_factory.mktemp("start")
    data = make_reviews(root / "data").model_dump(mode="json", exclude_defaults=True)
    card = ModelCard(
        name="made", encoder="tu-test_resnet", mpp=0.5, tile=64, overlap=0, groups=(),
        architecture_options={"encoder_depth": 3, "decoder_channels": [16, 8, 8]},
        classes=tuple(CardClass(code=c.code, name=c.name, color=c.color) for c in BCSS[:2]),
    )  # fmt: skip
    data |= {"kind": "review", "name": "old", "patients": {"pattern": "slide-(.)"}, "split": {"test": ["0"]}}
    values = {
        "model": card.model_dump(mode="json"), "datasets": [data], "crop": 64, "batch": 2, "epochs": 1,
        "steps_per_epoch": 1, "precision": "32-true", "accelerator": "cpu", "assessed_pixels": 0,
    }  # fmt: skip
    (root / "train.yaml").write_text(yaml.safe_dump(values))
    result = call("train", root / "train.yaml", "-o", root / "model", "--no-evaluate")
    assert result.exit_code == 0, result.output
    # The slides of the tests are made alike, and stand for others.
    data = root / "model" / "data.json"
    data.write_text(json.dumps(json.loads(data.read_text()) | {"files_sha256": {}}))
    return root / "model"


def test_retraining_replays_old_data_and_compares_on_held_out_patients(start: Path, tmp_path: Path) -> None:
    make_reviews(tmp_path / "new")
    results, out = tmp_path / "new" / "results", tmp_path / "better"
    result = call(
        "train", "--from", start, "--reviews", results, "-o", out, "--patients", "(slide-.)",
        "--epochs", 1, "--steps", 1,
        *(part for i in range(3) for part in ("--held-out", f"slide-{i}")),
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "old data are replayed: old" in result.stderr
    assert "reviewed patients: 1 to train on, 0 to stop early, 3 to compare on" in result.stderr
    told = json.loads((out / "comparison.json").read_text())
    review, old = told["data_sets"]
    assert (review["name"], review["patients"], old["name"], old["patients"]) == ("review", 3, "old", 1)
    low, high = review["overall"]["mean_dice"]["interval"]
    expected = "cannot be told" if low > 0 else "worse" if high < 0 else "no difference shown"
    assert told["verdict"] == expected and told["sentence"] in result.stdout
    for score in ("mean_mcc", "calibration_error"):
        assert review["overall"][score]["interval"] is not None
    assert {"dice", "mcc", "false_share"} <= review["classes"][0].keys()
    assert f"wsi-seg run SLIDES -o {results}-better --model {out}" in result.stdout
    assert f"wsi-seg view {results.parent}\n" in result.stdout
    card = read_card(out)
    assert card.metrics["comparison"]["verdict"] == told["verdict"] and told["sentence"] in card.held_out
    assert card.temperature == read_card(start).temperature
    config = yaml.safe_load((out / "train.yaml").read_text())
    assert [d["name"] for d in config["datasets"]] == ["review", "old"]
    assert config["optimizer"]["learning_rate"] < 1e-3
    # No weight may be left as it was: the network did train.
    assert (out / "model.safetensors").read_bytes() != (start / "model.safetensors").read_bytes()


@pytest.mark.parametrize("known", [True, False])
def test_retraining_keeps_the_shift_to_the_prior(start: Path, tmp_path: Path, known: bool) -> None:
    make_reviews(tmp_path / "new")
    model = tmp_path / "shifted"
    shutil.copytree(start, model)
    card = read_card(model)
    names = [one.name for one in card.classes][:2]
    shares = dict(zip(names, (0.7, 0.3), strict=True))
    training = {"crop_shares": shares} if known else {}
    card.model_copy(update={"metrics": {**card.metrics, "training": training}}).write(model)
    values = yaml.safe_load((model / "train.yaml").read_text())
    prior = dict(zip(names, (0.4, 0.6), strict=True))
    (model / "train.yaml").write_text(yaml.safe_dump({**values, "prior": prior}))
    config, _ = retrain_config(
        str(model), tmp_path / "new" / "results", RetrainSettings(patients="(slide-.)")
    )
    assert (config.prior, config.crop_shares) == ((prior, shares) if known else (None, None))


def test_retraining_on_one_slide_trains_and_claims_nothing(start: Path, tmp_path: Path) -> None:
    make_reviews(tmp_path / "new")
    out = tmp_path / "better"
    model = tmp_path / "alone"
    model.mkdir()
    for name in ("card.json", "model.safetensors"):
        (model / name).write_bytes((start / name).read_bytes())
    result = call(
        "train", "--from", model, "--reviews", tmp_path / "new" / "results" / "slide-1", "-o", out,
        "--epochs", 1, "--steps", 1,
    )  # fmt: skip
    assert result.exit_code == 0, result.output
    assert "old data are not replayed" in result.stderr and "there is one alone" in result.stderr
    assert json.loads((out / "comparison.json").read_text())["verdict"] == "cannot be told"
    assert "cannot be told" in result.stdout and "better:" not in result.stdout


def test_what_cannot_be_retrained_is_one_line(start: Path, quick_model: Path, tmp_path: Path) -> None:
    make_reviews(tmp_path / "new")
    results, out = tmp_path / "new" / "results", tmp_path / "out"
    one_line(call("train", "-o", out), 2, "--from MODEL")
    one_line(call("train", "--from", start, "-o", out), 2, "--reviews RESULTS")
    one_line(call("train", tmp_path / "x.yaml", "--reviews", results, "-o", out), 2, "--reviews", "--from")
    one_line(call("train", "--from", quick_model, "--reviews", results, "-o", out), 2, "torchscript")
    asked = call("train", "--from", start, "--reviews", results, "-o", out, "--held-out", "nobody")
    one_line(asked, 2, "nobody", "slide-0")
    known = ("--patients", "slide-(.)", "--held-out", "1")
    asked = call("train", "--from", start, "--reviews", results, "-o", out, *known)
    one_line(asked, 2, "--held-out 1: the model was trained on it")
    asked = call("train", "--from", start, "--reviews", tmp_path / "nothing", "-o", out)
    assert asked.exit_code != 0 and "nothing-review" in asked.stderr
    assert not out.exists()
    asked = call("train", "--from", start, "--reviews", results, "-o", out, "--patients", "slide-.")
    one_line(asked, 2, "--patients: pattern 'slide-.' has 0 groups")
    assert not out.exists()
    asked = call("train", "--from", start, "--reviews", results, "-o", start, "--overwrite")
    assert asked.exit_code == 2 and f"{start}: is the model to start from" in asked.stderr
    assert (start / "model.safetensors").is_file() and (start / "train.yaml").is_file()


def test_a_second_round_holds_out_whom_the_model_has_not_seen(start: Path, tmp_path: Path) -> None:
    """On the same results, to which slides were added: their earlier review is no data set of its own."""
    model = shutil.copytree(start, tmp_path / "model")
    listing = json.loads((model / "data.json").read_text())
    listing["regions"] = [row for row in listing["regions"] if row["patient"] != "3"]  # slide-3 is new
    (model / "data.json").write_text(json.dumps(listing))
    results = start.parent / "data" / "results"
    asked = RetrainSettings(patients="slide-(.)", held_out=("3", "3"))
    config, notes = retrain_config(str(model), results, asked)
    assert [dataset.name for dataset in config.datasets] == ["review"]
    assert "old: not replayed, 4 of its 4 slides are in this review" in notes
    assert (config.datasets[0].split.test, config.datasets[0].split.validation) == (("3",), ("0",))
    load_data(config)
    with pytest.raises(UsageError, match="--held-out 1: the model was trained on it"):
        retrain_config(str(model), results, RetrainSettings(patients="slide-(.)", held_out=("1",)))
    moved = shutil.copytree(start.parent / "data", tmp_path / "moved")  # and patients are called otherwise
    listing["files_sha256"] = {f: file_hash(Path(f)) for f in {row["files"][0] for row in listing["regions"]}}
    (model / "data.json").write_text(json.dumps(listing))
    asked = RetrainSettings(patients="(slide-.)", held_out=("slide-1",), slides=moved / "slides")
    with pytest.raises(UsageError, match="--held-out slide-1: the model was trained on it"):
        retrain_config(str(model), moved / "results", asked)


def test_names_of_earlier_reviews_stay_distinct(start: Path, tmp_path: Path) -> None:
    make_reviews(tmp_path / "new")
    model = shutil.copytree(start, tmp_path / "model")
    values = yaml.safe_load((model / "train.yaml").read_text())
    (one,) = values["datasets"]
    values["datasets"] = [{**one, "name": name} for name in ("review", "earlier review")]
    values |= {"accelerator": "cuda", "devices": 4}  # of the machine that it was trained on
    (model / "train.yaml").write_text(yaml.safe_dump(values))
    config, _ = retrain_config(
        str(model), tmp_path / "new" / "results", RetrainSettings(patients="(slide-.)")
    )
    assert [d.name for d in config.datasets] == ["review", "earlier review 2", "earlier review"]
    assert (config.accelerator, config.devices) == ("auto", 1)


def test_a_review_that_grows_meanwhile_changes_no_comparison(
    start: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also a finished training that is resumed says once how the models compare."""
    make_reviews(tmp_path / "new")
    results, out = tmp_path / "new" / "results", tmp_path / "out"

    def training(config: Any, folder: Path, *_: Any) -> Path:
        if not folder.exists():
            shutil.copytree(start, folder)
        for journal in (tmp_path / "new" / "results-review").glob("slide-2*/*.jsonl"):
            journal.write_text("")  # all that was said of a held-out slide is taken back
        return folder

    monkeypatch.setattr(retraining, "train", training)
    asked = RetrainSettings(patients="(slide-.)", held_out=tuple(f"slide-{i}" for i in range(3)))
    found = retrain(str(start), results, out, asked).comparison
    assert found.verdict == "no difference shown" and found.data_sets[0]["patients"] == 3
    bare = shutil.copytree(start, tmp_path / "bare", ignore=shutil.ignore_patterns("train.yaml"))
    for _ in range(2):
        retrain(str(bare), results, tmp_path / "alone", RetrainSettings(patients="(slide)"))
    assert read_card(tmp_path / "alone").held_out.count("cannot be told") == 1
