"""`wsi-seg evaluate`: how good a model is on annotated data, or finished maps against annotations."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from textwrap import fill, indent
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from wsi_seg.cli.options import (
    JsonOption,
    VerboseOption,
    given_settings,
    output_option,
    set_up_logging,
    settings_of,
    takes_options,
    takes_settings,
)
from wsi_seg.cli.output import say
from wsi_seg.core.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.evaluation.evaluation import Evaluation
    from wsi_seg.evaluation.model import Progress

# Scores of the table on the terminal, and their headings.
SHOWN = {
    "dice": "Dice", "iou": "IoU", "precision": "prec.", "recall": "recall", "mcc": "MCC", "roc_auc": "AUC",
    "dice_mean_over_images": "Dice*", "iou_mean_over_images": "IoU*",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class EvaluateOptions:
    """Arguments and flags of `wsi-seg evaluate`, besides the settings that it shares with run."""

    subject: Annotated[
        str,
        typer.Argument(
            metavar="MODEL|RESULTS",
            help="A model as for run; or the results of a slide, OUT/SLIDE, or the maps.zarr in it.",
        ),
    ]
    data: Annotated[
        Path | None,
        typer.Option(
            "--data", "-d", help="YAML with data_dir and datasets; by default train.yaml of the model."
        ),
    ] = None
    part: Annotated[
        Literal["test", "validation", "training", "all"], typer.Option(help="Part of the data.")
    ] = "test"
    annotations: Annotated[
        Path | None,
        typer.Option(
            help="With results: drawn regions (QuPath GeoJSON and others), or an image or Zarr array of the "
            "codes of the whole slide."
        ),
    ] = None
    class_names: Annotated[
        str | None,
        typer.Option(
            help="Names of annotations where they differ: Carcinoma=tumor,Scar=stroma; of a mask, codes or "
            "colors: 0=stroma,255=tumor."
        ),
    ] = None
    mask_mpp: Annotated[
        float | None,
        typer.Option(min=0.001, help="Microns per pixel of a mask whose size is of no level of the slide."),
    ] = None
    origin: Annotated[
        Literal["bounds", "level0"], typer.Option(help="What positions in QuPath's GeoJSON count from.")
    ] = "bounds"
    baseline: Annotated[
        list[str] | None,
        typer.Option(
            metavar="KIND=CLASS", help="everything=CLASS or hematoxylin=CLASS[:THRESHOLD]; repeatable."
        ),
    ] = None
    output: Annotated[Path | None, output_option("Folder for report.html, figures and tables.")] = None
    batch: Annotated[int, typer.Option(min=1, help="Tiles per forward pass.")] = 1
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace another evaluation in the output folder.")
    ] = False
    json_: JsonOption = False
    verbose: VerboseOption = False


@takes_settings("ignored_classes", "device", "precision", "tta")
@takes_options(EvaluateOptions)
def evaluate(context: typer.Context, options: EvaluateOptions) -> int:
    """Score a model on annotated data, or finished maps against annotations.

    Regions are predicted as run predicts slides. Exit codes: 0 done, 1 failed, 2 wrong usage,
    130 interrupted.
    """
    from wsi_seg.evaluation.stored import is_results

    set_up_logging(options.verbose)
    score = _evaluate_maps if is_results(Path(options.subject)) else _evaluate_model
    evaluation = score(options, given_settings(context))
    if options.output is not None:
        from wsi_seg.evaluation.write import write_evaluation

        command = shlex.join(["wsi-seg", *context.find_root().obj])
        write_evaluation(evaluation, options.output, overwrite=options.overwrite, command=command)
    _print(evaluation.metrics, options.output, options.json_)
    return 0


def _refuse(other: str, given: dict[str, Any]) -> None:
    for flag, value in given.items():
        if value:
            raise UsageError(f"{flag} goes with {other}, which the first argument is not")


def _name_pairs(text: str | None) -> tuple[tuple[str, str], ...]:
    pairs = []
    for pair in (text or "").split(","):
        name, equals, own = pair.partition("=")
        if pair.strip() and not (equals and name.strip() and own.strip()):
            raise UsageError(f"--class-names {pair!r}: write NAME=CLASS, such as Carcinoma=tumor")
        if pair.strip():
            pairs.append((name.strip(), own.strip()))
    return tuple(pairs)


def _evaluate_model(options: EvaluateOptions, given: dict[str, Any]) -> Evaluation:
    from wsi_seg.evaluation.config import TRAIN_CONFIG, read_evaluate_config
    from wsi_seg.evaluation.evaluation import evaluation_key
    from wsi_seg.evaluation.model import EvaluateSettings, describe_data, evaluate_model, subject_of
    from wsi_seg.evaluation.write import check_output
    from wsi_seg.pipeline.models import load_model

    model_settings = settings_of(given).model
    of_results = {
        "--annotations": options.annotations, "--class-names": options.class_names,
        "--ignored-classes": given.get("ignored_classes"), "--mask-mpp": options.mask_mpp,
    }  # fmt: skip
    _refuse("the results of a slide", of_results)
    model = load_model(**{**asdict(model_settings), "reference": options.subject})
    card, subject = model.facts.card, subject_of(model)
    if card.notice:
        say(f"{card.name}: {card.notice}", err=True)
    if options.data is None and subject.folder is None:
        raise UsageError(f"{options.subject}: has no folder with data to evaluate it on; give --data FILE")
    path = options.data or (subject.folder or Path()) / TRAIN_CONFIG
    if options.data is None and not path.is_file():
        raise UsageError(f"{path}: the model has no such file that names data; give --data FILE")
    config = read_evaluate_config(path)
    settings = EvaluateSettings(options.part, tuple(options.baseline or ()), options.batch)
    if options.output is not None:
        key = evaluation_key(subject, describe_data(config, settings))
        check_output(options.output, key, options.overwrite)
    with _bar() as progress:
        return evaluate_model(model, config, settings, progress)


def _evaluate_maps(options: EvaluateOptions, given: dict[str, Any]) -> Evaluation:
    from wsi_seg.evaluation.evaluation import evaluation_key
    from wsi_seg.evaluation.stored import describe_maps, evaluate_maps, maps_subject, open_maps
    from wsi_seg.evaluation.truth import TruthFile
    from wsi_seg.evaluation.write import check_output

    ignored_classes = settings_of(given).ignored_classes
    of_model = {"--data": options.data, "--baseline": options.baseline, "--tta": given.get("tta")}
    _refuse("a model", of_model)
    path, annotations = Path(options.subject), options.annotations
    if annotations is None:
        raise UsageError(
            f"{options.subject}: what are these maps to be compared with? Give --annotations FILE"
        )
    truth = TruthFile(
        annotations,
        _name_pairs(options.class_names),
        options.origin,
        ignored_classes,
        mask_mpp=options.mask_mpp,
    )
    if options.output is not None:
        results = open_maps(path)
        key = evaluation_key(maps_subject(results), describe_maps(results, truth))
        check_output(options.output, key, options.overwrite)
    return evaluate_maps(path, truth)


@contextmanager
def _bar() -> Iterator[Progress]:
    """Draw a bar of regions on stderr; where that is no terminal, print a line now and then."""
    from rich.console import Console
    from rich.progress import Progress as Bars

    from wsi_seg.evaluation.model import progress_lines

    console = Console(stderr=True)
    if not console.is_terminal:
        yield progress_lines(partial(say, err=True))
        return
    with Bars(console=console) as bars:
        task = bars.add_task("regions", total=None)
        yield lambda name, done, total: bars.update(task, completed=done, total=total)


def _print(metrics: dict[str, Any], output: Path | None, as_json: bool) -> None:
    if as_json:
        say(json.dumps(metrics, indent=1))
        return
    say("\n\n".join(describe(metrics["model"], result) for result in metrics["results"]))
    if output is not None:
        say(f"\n→ {output / 'report.html'}")


def describe(model: dict[str, Any], result: dict[str, Any]) -> str:
    """Return the table of one data set for the terminal."""
    from wsi_seg.evaluation.sentences import explain_accuracy

    rows = [row for row in result["classes"] if row["pixels"]]
    groups = [row for row in (result["class_groups"] or {"classes": []})["classes"] if row["pixels"]]
    width = max([16, *(len(row["name"]) for row in [*rows, *groups])])
    scored = result["overall"]["pixel_accuracy"] is not None
    overall = {"name": "macro", "share": None, **_overall(result["overall"], "macro_")}
    lines = [
        f"{model['name']} on {result['name']}: {_images_of(result)}, {result['pixels']:,} pixels",
        f"  {'class':<{width}}   share " + "".join(f"{heading:>8}" for heading in SHOWN.values()),
        *(_line(row, width) for row in [*rows, *([overall] if scored else [])]),
    ]
    accuracy = explain_accuracy(result) or _accuracy(result)
    sentences = [
        *(
            [accuracy, "* is the mean over images; all other scores are pooled over pixels."]
            if scored
            else []
        ),
        *result["missing"],
        result["intervals"],
        *result["notes"],
    ]
    if groups:
        lines += ["  groups", *(_line(row, width) for row in groups)]
    for table in result["baselines"]:
        lines.append(f"  {table['class']} against baselines, called at a probability of 0.5")
        lines += [_line({"name": n, "share": None, **s}, width) for n, s in table["scores"].items()]
    if result["image_labels"]:
        labels = {k: _number(v) for k, v in result["image_labels"]["overall"].items() if v is not None}
        sentences += result["image_labels"]["missing"]
        scores = ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in labels.items())
        lines.append(f"  whole images: {scores or 'no scores'}")
    return "\n".join([*lines, *(indent(fill(text, 98), "  ") for text in sentences)])


def _accuracy(result: dict[str, Any]) -> str:
    return f"Pixel accuracy {_number(result['overall']['pixel_accuracy'])}."


def _images_of(result: dict[str, Any]) -> str:
    images, patients = _number_of(result["images"], "image", "images"), result["patients"]
    return f"{images} of " + (
        "unknown patients" if patients is None else _number_of(patients, "patient", "patients")
    )


def _number_of(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"


def _overall(scores: dict[str, Any], prefix: str) -> dict[str, Any]:
    return {score: scores.get(f"{prefix}{score}") for score in SHOWN}


def _line(row: dict[str, Any], width: int) -> str:
    share = "" if row["share"] is None else f"{100 * row['share']:.1f} %"
    head = f"  {row['name']:<{width}} {share:>7} "
    if not row.get("assessed", True):
        return f"{head}  not assessed"
    return head + "".join(f"{_number(row.get(s)):>8}" for s in SHOWN)


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"
