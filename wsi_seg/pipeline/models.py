"""Finding a model for a run: its card, where it runs, and the recipe from which workers load it."""

from __future__ import annotations

import os
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_seg.core.card import read_card
from wsi_seg.core.errors import UsageError
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import PredictorRecipe, load_predictor
from wsi_seg.inference.models.formats import format_of, precision_for, weights_path
from wsi_seg.inference.models.registry import find_model, model_hash
from wsi_seg.planning.plan import ModelFacts

if TYPE_CHECKING:
    from wsi_seg.inference.models.calibrate import Calibration
    from wsi_seg.inference.models.predictor import NetworkPredictor

PREDICTOR = "wsi_seg.inference.models.predictor:load_predictor"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as a run needs it: facts for the plan, a recipe for the workers."""

    facts: ModelFacts
    predictor: PredictorRecipe


def load_model(
    reference: str,
    device: str = "auto",
    precision: str = "auto",
    *,
    tta: bool = False,
    workers: WorkerSettings | None = None,
) -> Model:
    """Find a model and read its card; the weights are loaded by the workers.

    Args:
        reference: bundled name, model folder, `hf://owner/name[@revision]`, or `.pth` file with a card.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 where the device computes it in hardware), `float32`, `bf16` or `fp16`.
        tta: average the predictions of the eight flips and turns of each tile; eight times the time.
        workers: where it will run, if not in this process. Workers with a GPU see only that one, as `cuda:0`.
            For workers elsewhere the device is `cpu` or `cuda`; there CUDA runs `fp16` by default.

    Raises:
        ModelError: there is no such model, or its card is wrong.
        UsageError: the device or precision is unknown or not available.
    """
    from wsi_seg.inference.models.calibrate import Calibration
    from wsi_seg.inference.models.devices import device_elsewhere, resolve_device, resolve_precision
    from wsi_seg.inference.models.predictor import activations_of, most_passes, pass_pixels

    folder = find_model(reference)
    card = read_card(folder)
    precision = precision_for(card, precision)
    if workers is not None and workers.elsewhere:
        where, number = device_elsewhere(device, precision)
    else:
        where = resolve_device("cuda" if workers is not None and workers.gpus else device)
        number = resolve_precision(precision, where)
    size = weights_path(folder).stat().st_size
    digest = model_hash(folder)
    activations = activations_of(folder, digest, number)
    batches = Calibration(digest, where, number, tta).best_batches()
    facts = ModelFacts(
        card,
        digest,
        size,
        activations,
        bool(format_of(card).load),
        where,
        number,
        tta,
        passes=max(1, most_passes(where) // (workers.processes if workers is not None else 1)),
        pass_pixels=pass_pixels(where, activations, workers is not None and workers.elsewhere),
        batches=tuple(sorted(batches.items())),
    )
    reference = str(folder.absolute())
    arguments = (("reference", reference), ("device", where), ("precision", number), ("tta", tta))
    return Model(facts, PredictorRecipe(PREDICTOR, arguments))


def cuda_devices() -> tuple[int, ...]:
    """Return the numbers of the CUDA devices of this machine.

    Raises:
        UsageError: there is none.
    """
    from wsi_seg.inference.models.devices import cuda_devices as found

    devices = found()
    if not devices:
        listed = os.environ.get("CUDA_VISIBLE_DEVICES")
        why = "" if listed is None else f" (CUDA_VISIBLE_DEVICES={listed!r})"
        raise UsageError(f"--gpus: no CUDA device is available on this machine{why}; leave it out")
    return devices


def calibration(model: Model) -> Calibration:
    """Return where the speed of a model on its device is kept."""
    from wsi_seg.inference.models.calibrate import Calibration

    facts = model.facts
    return Calibration(facts.digest, facts.device, facts.precision, facts.tta)


def open_predictor(model: Model) -> NetworkPredictor:
    """Load the network of a model into this process, or return it where it is loaded already."""
    from wsi_seg.inference.models.predictor import NetworkPredictor

    predictor = load_predictor(model.predictor)
    if not isinstance(predictor, NetworkPredictor):
        raise TypeError(f"{model.predictor.factory} makes no network of torch")
    return predictor
