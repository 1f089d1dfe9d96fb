"""Networks of a user's own Python code: `Network` objects, and functions `module:factory` that return one.

Only who starts a run can name such a function. A card cannot: a model folder holds no Python.
"""

from __future__ import annotations

import hashlib
import importlib
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from wsi_seg.core.card import ModelCard
from wsi_seg.core.errors import ModelError, UsageError
from wsi_seg.core.folders import home_expanded, is_there
from wsi_seg.inference.models.activations import activation_bytes, kept_activations
from wsi_seg.inference.models.devices import Precision
from wsi_seg.inference.models.formats import PYTHON
from wsi_seg.inference.models.loaded import LoadedNetwork, map_of
from wsi_seg.inference.models.predictor import NetworkPredictor

_FACTORY = re.compile(r"(?P<module>[A-Za-z_]\w+(\.[A-Za-z_]\w*)*):(?P<name>[A-Za-z_]\w*)")


@dataclass(frozen=True, eq=False)
class Network:
    """A network of torch with its card, which `segment_slide` and `load_model` take in place of a model."""

    module: nn.Module
    """Float32 (N, 3, H, W), normalized as the card says -> its output, as `ModelCard.output` places it."""
    card: ModelCard
    """Its description; `format` counts as `python`."""

    @property
    def digest(self) -> str:
        """SHA-256 (hex) of the card, the class's name and all tensors; other code changes nothing in it."""
        kind = type(self.module)
        digest = hashlib.sha256(f"{kind.__module__}.{kind.__qualname__}\n".encode())
        digest.update(self.own_card.model_dump_json().encode())
        for name, tensor in sorted(self.module.state_dict().items()):
            digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
            digest.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().tobytes())
        return digest.hexdigest()

    @property
    def own_card(self) -> ModelCard:
        """The card with the format of such networks."""
        return self.card.model_copy(update={"format": PYTHON})

    @property
    def weights_bytes(self) -> int:
        """Bytes of all tensors."""
        return sum(tensor.numel() * tensor.element_size() for tensor in self.module.state_dict().values())


class OwnNetwork(LoadedNetwork):
    """The module of a `Network`, which computes in float32."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self.module = module

    def forward(self, inputs: Tensor) -> Tensor:
        return map_of(self.module(inputs))

    def on_device(self, device: str) -> Callable[[Tensor], Tensor]:
        self.module.to(device)
        return self

    def for_openvino(self, shape: tuple[int, ...]) -> Any:
        import openvino

        return openvino.convert_model(torch.export.export(self.module, (torch.zeros(shape),)))


def is_factory(reference: str) -> bool:
    """Return True for `module:factory`; a drive such as `C:model` is none."""
    return _FACTORY.fullmatch(reference) is not None


def named_network(reference: str) -> Network | None:
    """Return the network of `module:factory`; None for a reference of another kind, or to something there.

    Raises:
        ModelError: there is no such function, or it returns no `Network`.
    """
    if not is_factory(reference) or is_there(home_expanded(reference)):
        return None
    return make_network(reference)


@lru_cache(maxsize=2)
def make_network(reference: str) -> Network:
    """Return what a function `module:factory` returns; what it raises itself is not caught.

    Raises:
        ModelError: there is no such function, or it returns no `Network`.
    """
    name, _, attribute = reference.partition(":")
    try:
        module = importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is None or not (name == error.name or name.startswith(f"{error.name}.")):
            raise
        raise ModelError(
            f"{reference}: there is no module {error.name!r}; put its folder on PYTHONPATH"
        ) from error
    factory = getattr(module, attribute, None)
    made = factory() if callable(factory) else None
    if not isinstance(made, Network):
        what = (
            f"{attribute}() returned {type(made).__name__}"
            if callable(factory)
            else f"no function {attribute!r}"
        )
        raise ModelError(
            f"{reference}: {what}; expected a function that returns wsi_seg.Network(module, card)"
        )
    return made


def activations_of_network(network: Network) -> float:
    """Return the most bytes of tensors alive at once in a forward pass on the CPU, per input pixel; kept.

    Raises:
        ModelError: the network fails for a tile of the card.
    """
    card = network.own_card

    def find() -> float:
        try:
            return activation_bytes(network.module.eval(), card.tile, torch.float32, "cpu", card.batch or 1)
        except (RuntimeError, ValueError, TypeError, AssertionError) as error:
            reason = " ".join(str(error).split())[:200]
            raise ModelError(
                f"model {card.name!r}: the network fails for an input ({card.batch or 1}, 3, {card.tile}, "
                f"{card.tile}): {reason}"
            ) from error

    return kept_activations(f"{network.digest[:16]}-float32", find)


_networks: dict[str, Network] = {}  # by their digest, of this process


def keep(network: Network) -> str:
    """Keep a network for `predictor_of`, and return its digest."""
    digest = network.digest
    _networks[digest] = network
    return digest


def predictor_of(digest: str, device: str, precision: Precision, tta: bool) -> NetworkPredictor:
    """Return the predictor of a network that this process keeps.

    Raises:
        UsageError: this process keeps none.
    """
    if digest not in _networks:
        raise UsageError(
            "a network that is given as an object can be used in its own process only; use one process, or "
            "name a function that returns it, as module:factory"
        )
    return _predictor(_networks[digest], device, precision, tta)


def predictor_from(reference: str, device: str, precision: Precision, tta: bool) -> NetworkPredictor:
    """Return the predictor of `module:factory`; see `make_network` for what it raises."""
    return _predictor(make_network(reference), device, precision, tta)


def _predictor(network: Network, device: str, precision: Precision, tta: bool) -> NetworkPredictor:
    return NetworkPredictor(OwnNetwork(network.module.eval()), network.own_card, device, precision, tta)
