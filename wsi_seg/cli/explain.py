"""`wsi-seg explain`: what the network looked at."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from wsi_seg.cli.options import given_settings, output_option, set_up_logging, settings_of, takes_settings
from wsi_seg.cli.output import say


@takes_settings("mpp", "allow_upsampling")
def explain(
    context: typer.Context,
    model: Annotated[
        str,
        typer.Argument(help="Bundled name, folder, hf://owner/name, .pth with a card, or module:factory."),
    ],
    image: Annotated[str, typer.Argument(help="PNG, JPEG or TIFF image, slide, or URL.")],
    class_: Annotated[
        str, typer.Option("--class", help="Class of the model, or group where no class has this name.")
    ],
    box: Annotated[
        str | None, typer.Option(help="Part of a slide: x,y,width,height in level-0 pixels.")
    ] = None,
    layer: Annotated[
        str | None, typer.Option(help="Module of the network; by default the encoder's last.")
    ] = None,
    output: Annotated[
        Path | None,
        output_option("PNG file; by default IMAGE_gradcam_CLASS.png in the working folder."),
    ] = None,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1, …")] = "auto",
) -> int:
    """Show where the features lie that speak for a class (Grad-CAM); needs pip install 'wsi-seg[explain]'."""
    from wsi_seg.evaluation.explain import ExplainSettings, explain_image, parse_box

    set_up_logging(verbose=False)
    box_l0 = None if box is None else parse_box(box)
    chosen = settings_of(given_settings(context))
    mpp = None if chosen.mpp is None else chosen.mpp.x
    settings = ExplainSettings(class_, box_l0, mpp, layer, device, chosen.plan.allow_upsampling)
    done = explain_image(image, model, settings, output)
    target = (
        f"logits summed over the {done.predicted:,} of {done.pixels:,} pixels predicted as {done.name}"
        if done.predicted
        else f"no pixel is predicted as {done.name}, so logits are summed over all {done.pixels:,}"
    )
    silent = f"; nothing in this layer speaks for {done.name}" if done.silent else ""
    say(f"{image}: {target}; layer {done.layer}{silent} → {done.path}")
    return 0
