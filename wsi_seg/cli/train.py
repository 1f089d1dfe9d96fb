"""`wsi-seg train`: a model from annotated images."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from wsi_seg.cli.options import VerboseOption, output_option, set_up_logging
from wsi_seg.cli.output import say

if TYPE_CHECKING:
    from wsi_seg.training.config import TrainConfig


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/busi_unet.yaml.")],
    output: Annotated[Path, output_option("Folder for the model and its logs.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Resume an interrupted run after its last whole epoch.")
    ] = False,
    overwrite: Annotated[
        bool, typer.Option("--overwrite", help="Replace an earlier training in that folder.")
    ] = False,
    evaluate: Annotated[
        bool, typer.Option(help="Put the metrics of the held-out part into the model's card.")
    ] = True,
    verbose: VerboseOption = False,
) -> int:
    """Train a model and write it as a folder that `wsi-seg run --model` takes."""
    from wsi_seg.core.card import read_card
    from wsi_seg.training.config import read_train_config
    from wsi_seg.training.train import is_first_process, train_model

    set_up_logging(verbose)
    settings = read_train_config(config)
    folder = train_model(
        settings,
        output,
        resume=resume,
        overwrite=overwrite,
        evaluate=evaluate,
        report=_report,
    )
    if is_first_process():
        say(f"model written to {folder}; use it with: {_command(settings, folder)}")
        say(f"how good it is: {read_card(folder).held_out or 'not evaluated (--no-evaluate)'}")
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
