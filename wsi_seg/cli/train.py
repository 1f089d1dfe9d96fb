"""`wsi-seg train`: a model from annotated images."""

from __future__ import annotations

import shlex
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.options import VerboseOption, output_option, set_up_logging, takes_options
from wsi_seg.cli.output import say
from wsi_seg.core.errors import UsageError

if TYPE_CHECKING:
    from wsi_seg.training.config import TrainConfig


@dataclass(frozen=True)
class TrainOptions:
    """Options of the command."""

    output: Annotated[Path, output_option("Folder for the model and its logs.")]
    config: Annotated[
        Path | None, typer.Argument(help="YAML file, such as configs/busi_unet.yaml; none with --from.")
    ] = None
    start: Annotated[
        str | None, typer.Option("--from", metavar="MODEL", help="Model to train further on --reviews.")
    ] = None
    reviews: Annotated[
        Path | None, typer.Option(metavar="RESULTS", help="Results whose regions were reviewed.")
    ] = None
    review_folder: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Folder of the reviews, if not next to the results.")
    ] = None
    slides: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Where reviewed slides are now, if they were moved.")
    ] = None
    replay: Annotated[
        Path | None,
        typer.Option(metavar="YAML", help="Training configuration of the old data, if not in MODEL."),
    ] = None
    patients: Annotated[
        str | None,
        typer.Option(metavar="REGEX", help="Patient in the name of a reviewed slide: its one group."),
    ] = None
    held_out: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Reviewed patient or slide to compare on; repeatable."),
    ] = None
    epochs: Annotated[int | None, typer.Option(min=1, help="Epochs of --from.")] = None
    steps: Annotated[int | None, typer.Option(min=1, help="Steps of an epoch of --from.")] = None
    seed: Annotated[int | None, typer.Option(min=0, help="Seed of --from.")] = None
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run after its last whole epoch.")
    ] = False
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier training in that folder.")
    ] = False
    evaluate: Annotated[
        bool, typer.Option(help="Put the metrics of the held-out part into the model's card.")
    ] = True
    verbose: VerboseOption = False


ONLY_RETRAINING = (
    "reviews", "review_folder", "slides", "replay", "patients", "held_out", "epochs", "steps", "seed",
)  # fmt: skip


@takes_options(TrainOptions)
def train(context: typer.Context, options: TrainOptions) -> int:
    """Train a model and write it as a folder that `wsi-seg run --model` takes.

    With --from and --reviews a model is trained further on reviewed results, and compared with the old one
    on slides that were held out.
    """
    set_up_logging(options.verbose)
    if options.start is not None:
        return _retrain(options, options.start)
    given = next((name for name in ONLY_RETRAINING if getattr(options, name) is not None), None)
    if given is not None:
        raise UsageError(f"--{given.replace('_', '-')}: needs --from MODEL, the model to train further")
    if options.config is None:
        raise UsageError("give a YAML file, or --from MODEL with --reviews RESULTS")
    return _train(options, options.config)


def _train(options: TrainOptions, config: Path) -> int:
    from wsi_seg.core.card import read_card
    from wsi_seg.training.config import read_train_config
    from wsi_seg.training.train import is_first_process, train_model

    settings = read_train_config(config)
    folder = train_model(
        settings,
        options.output,
        resume=options.resume,
        overwrite=options.overwrite,
        evaluate=options.evaluate,
        report=_report,
    )
    if is_first_process():
        say(f"model written to {folder}; use it with: {_command(settings, folder)}")
        say(f"how good it is: {read_card(folder).held_out or 'not evaluated (--no-evaluate)'}")
    return 0


def _retrain(options: TrainOptions, model: str) -> int:
    from wsi_seg.core.yaml_config import validated
    from wsi_seg.evaluation.comparison import comparison_lines
    from wsi_seg.training.retrain import retrain
    from wsi_seg.training.settings import COMPARISON, RetrainSettings

    if options.config is not None:
        raise UsageError(f"{options.config}: give a YAML file or --from, not both; --replay names old data")
    if options.reviews is None:
        raise UsageError("--from: needs --reviews RESULTS, results whose regions were reviewed")
    if not options.evaluate:
        raise UsageError("--no-evaluate: --from compares the models; leave it out")
    values = {name: getattr(options, name) for name in RetrainSettings.model_fields if hasattr(options, name)}
    given = {name: value for name, value in values.items() if value is not None}
    settings = validated(RetrainSettings, given, "options")
    done = retrain(
        model,
        options.reviews,
        options.output,
        settings,
        resume=options.resume,
        overwrite=options.overwrite,
        report=_report,
    )
    for line in comparison_lines(done.comparison):
        say(line)
    old = Path(options.reviews)
    new = old.with_name(f"{old.resolve().name}-{done.folder.name}")
    folder, beside, parent = (shlex.quote(str(path)) for path in (done.folder, new, new.parent))
    say(f"model written to {folder}, comparison to {folder}/{COMPARISON}; see its map next to the old one:")
    say(f"  wsi-seg run SLIDES -o {beside} --model {folder}")
    say(f"  wsi-seg view {parent}")
    return 0


def _report(text: str) -> None:
    say(text, err=True)


def _command(config: TrainConfig, folder: Path) -> str:
    """Return the command that runs the model; images without a scale are given one."""
    from wsi_seg.datasets.folders import ImageFolder

    command = f"wsi-seg run SLIDE -o OUT --model {shlex.quote(str(folder))}"
    trained = [dataset for dataset in config.datasets if dataset.weight > 0]
    sides = {d.resize for d in trained if isinstance(d, ImageFolder) and d.resize is not None}
    if not all(isinstance(d, ImageFolder) and d.resize is not None for d in trained):
        return command
    stretched = " or ".join(f"{side} × {side}" for side in sorted(sides))
    return f"{command} --mpp {config.model.mpp:g} (images stretched to {stretched} pixels, as in training)"
