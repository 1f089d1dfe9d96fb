"""Finding a model for a run: its card, where it runs, and the recipe from which workers load it."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

from wsi_seg.core.card import ModelCard, read_card
from wsi_seg.core.errors import UsageError
from wsi_seg.core.gpus import CUDA_DEVICES
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.execution.tasks import PredictorRecipe, load_predictor
from wsi_seg.inference.models.formats import format_of, precision_for, weights_path
from wsi_seg.inference.models.registry import HUB_PREFIX, find_model, model_hash
from wsi_seg.planning.plan import ModelFacts

if TYPE_CHECKING:
    from wsi_seg.inference.models.calibrate import Calibration
    from wsi_seg.inference.models.devices import Precision
    from wsi_seg.inference.models.own import Network
    from wsi_seg.inference.models.predictor import NetworkPredictor

logger = logging.getLogger(__name__)

PREDICTOR = "wsi_seg.inference.models.predictor:load_predictor"


@dataclass(frozen=True, slots=True)
class Model:
    """A model as a run needs it: facts for the plan, a recipe for the workers."""

    facts: ModelFacts
    predictor: PredictorRecipe


def load_model(
    reference: str | Network,
    device: str = "auto",
    precision: str = "auto",
    *,
    tta: bool = False,
    workers: WorkerSettings | None = None,
) -> Model:
    """Find a model and read its card; the weights are loaded by the workers.

    Args:
        reference: bundled name, model folder, `hf://owner/name[@revision]`, `.pth` file with a card,
            `module:factory` of a function that returns a `Network`, or a `Network`.
        device: `auto`, `cpu`, `cuda` or `cuda:N`.
        precision: `auto` (bf16 where the device computes it in hardware), `float32`, `bf16` or `fp16`.
        tta: average the predictions of the eight flips and turns of each tile; eight times the time.
        workers: where it will run, if not in this process. Workers with a GPU see only that one, as `cuda:0`.
            For workers elsewhere the device is `cpu` or `cuda`; there CUDA runs `fp16` by default.

    Raises:
        ModelError: there is no such model, or its card is wrong.
        UsageError: the device or precision is unknown or not available; or a `Network` is to run in other
            processes, which only a function can bring there.
    """
    found = _find(reference, workers)
    from wsi_seg.inference.models.calibrate import Calibration
    from wsi_seg.inference.models.devices import device_elsewhere, resolve_device, resolve_precision
    from wsi_seg.inference.models.predictor import most_passes, pass_pixels

    card, digest = found.card, found.digest
    precision = precision_for(card, precision)
    if workers is not None and workers.elsewhere:
        where, number = device_elsewhere(device, precision)
    else:
        where = resolve_device("cuda" if workers is not None and workers.gpus else device)
        number = resolve_precision(precision, where)
    activations = found.activations(number)
    batches = Calibration(digest, where, number, tta).best_batches()
    facts = ModelFacts(
        card,
        digest,
        found.weights_bytes,
        activations,
        found.measured,
        where,
        number,
        tta,
        passes=max(1, most_passes(where) // (workers.count if workers is not None else 1)),
        pass_pixels=pass_pixels(where, activations, workers is not None and workers.elsewhere),
        batches=tuple(sorted(batches.items())),
    )
    arguments = (found.argument, ("device", where), ("precision", number), ("tta", tta))
    return Model(facts, PredictorRecipe(found.factory, arguments))


@dataclass(frozen=True, slots=True)
class _Found:
    """A model before its device is chosen."""

    card: ModelCard
    digest: str
    weights_bytes: int
    activations: Callable[[Precision], float]
    measured: bool
    factory: str
    """Function of the recipe."""
    argument: tuple[str, str]
    """Of that function, which names the model."""


def _find(reference: str | Network, workers: WorkerSettings | None) -> _Found:
    if isinstance(reference, str) and not (":" in reference and not reference.startswith(HUB_PREFIX)):
        return _find_folder(reference)
    from wsi_seg.inference.models.own import activations_of_network, keep, named_network

    if isinstance(reference, str):
        named = named_network(reference)
        if named is None:
            return _find_folder(reference)
        network, factory, argument = named, "predictor_from", ("reference", reference)
    else:
        if workers is not None and not workers.here:
            raise UsageError(
                f"model {reference.card.name!r}: a network that is given as an object runs in this process "
                "only; leave out workers, gpus and scheduler, or name a function that returns it, as "
                "module:factory"
            )
        network, factory, argument = reference, "predictor_of", ("digest", keep(reference))
    return _Found(
        network.own_card,
        network.digest,
        network.weights_bytes,
        lambda _: activations_of_network(network),
        False,
        f"wsi_seg.inference.models.own:{factory}",
        argument,
    )


def _find_folder(reference: str) -> _Found:
    from wsi_seg.inference.models.predictor import activations_of

    folder = find_model(reference)
    card, digest = read_card(folder), model_hash(folder)
    return _Found(
        card,
        digest,
        weights_path(folder).stat().st_size,
        lambda precision: activations_of(folder, digest, precision),
        bool(format_of(card).load),
        PREDICTOR,
        ("reference", str(folder.absolute())),
    )


def cuda_devices() -> tuple[int, ...]:
    """Return the numbers of the CUDA devices that this process was given; warn where its mask names more.

    Raises:
        UsageError: there is none.
    """
    from wsi_seg.inference.models.devices import cuda_devices as found

    devices, listed = found(), os.environ.get(CUDA_DEVICES)
    if not devices:
        why = "" if listed is None else f" ({CUDA_DEVICES}={listed!r})"
        raise UsageError(f"--gpus: no CUDA device is available on this machine{why}; leave it out")
    if listed is not None and len(entries := listed.split(",")) > len(devices):
        logger.warning("%s=%r: CUDA takes %d of %d entries", CUDA_DEVICES, listed, len(devices), len(entries))
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
