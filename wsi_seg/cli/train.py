"""`wsi-seg train`: a model from annotated images."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import VerboseOption, set_up_logging


def train(
    config: Annotated[Path, typer.Argument(help="YAML file, such as configs/train_bcss_demo.yaml.")],
    output: Annotated[Path, typer.Option("--output", "-o", help="Folder for the model and its logs.")],
    verbose: VerboseOption = False,
) -> int:
    """Train a model and write it as a folder that `wsi-seg run --model` takes."""
    from wsi_seg.training.config import read_train_config
    from wsi_seg.training.fit import train as fit

    set_up_logging(verbose)
    folder = fit(read_train_config(config), output)
    typer.echo(f"model written to {folder}; use it with: wsi-seg run SLIDE -o OUT --model {folder}")
    return 0
