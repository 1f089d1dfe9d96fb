"""`wsi-seg train`: a model from annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import VerboseOption, set_up_logging
from wsi_seg.cli.output import say


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/busi_unet.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model and its logs.")],
    resume: Annotated[
        bool, typer.Option("--resume", help="Go on after the last whole epoch of an interrupted run.")
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
    from wsi_seg.train import train_model
    from wsi_seg.training.config import read_train_config

    set_up_logging(verbose)
    folder = train_model(
        read_train_config(config), output, resume=resume, overwrite=overwrite, evaluate=evaluate
    )
    say(f"model written to {folder}; use it with: wsi-seg run SLIDE -o OUT --model {folder}")
    return 0
