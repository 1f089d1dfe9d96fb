"""A trained model for benchmarks of maps: `trained_model.yaml`, trained by `wsi-seg train`, kept in `--work`.

    WSI_SEG_DATA=/folder/with/data python benchmarks/trained_model.py [--work FOLDER]

Maps of random weights, or of weights fitted for a few steps, hold noise in all channels, which maps of
trained models do not. It takes one to two minutes of two cores.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from bench_model import default_work

CONFIG = Path(__file__).with_suffix(".yaml")
DATA = "WSI_SEG_DATA"


class MissingDataError(Exception):
    """The data to train with are not at hand."""


def trained_model(work: Path) -> Path:
    """Return the folder of the trained model inside `work`; it is trained unless it is there.

    Raises:
        MissingDataError: it is not there, and neither are the data to train it with.
        subprocess.CalledProcessError: the training failed, for a reason that it has printed.
    """
    texts = [CONFIG.read_bytes(), (CONFIG.parents[1] / "configs" / "bcss_unet_resnet34.yaml").read_bytes()]
    folder = work / f"trained-{hashlib.sha256(b''.join(texts)).hexdigest()[:16]}"
    if folder.is_dir():
        return folder
    if not os.environ.get(DATA):
        raise MissingDataError(f"${DATA}, the folder of data to train it with, is not set")
    work.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=work) as temporary:
        made = Path(temporary) / "model"
        command = [sys.executable, "-m", "wsi_seg.cli", "train", CONFIG, "-o", made, "--no-evaluate"]
        subprocess.run(command, check=True)
        made.rename(folder)
    return folder


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--work", type=Path, default=default_work(), help="folder that keeps the model")
    try:
        print(trained_model(parser.parse_args().work))
    except MissingDataError as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
