"""The settings by which tiles become maps: overlap, blending, and what is stored of the probabilities."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any, get_args

from wsi_seg.core.errors import UsageError
from wsi_seg.planning.grid import INPUT_MULTIPLE, Grid
from wsi_seg.planning.settings import Blend, PlanSettings, ProbabilityDtype

_DEFAULTS = PlanSettings()


@dataclass(frozen=True, slots=True)
class StitchSettings:
    """Settings of the way from tiles to maps."""

    grid: Grid
    blend: Blend = _DEFAULTS.blend
    """`crop` keeps each tile's core; `gaussian` and `mean` average overlapping tiles."""
    probability_downsample: int = _DEFAULTS.probability_downsample
    """Map pixels per probability pixel on each axis."""
    probability_dtype: ProbabilityDtype = _DEFAULTS.probability_dtype
    uncertainty: bool = _DEFAULTS.uncertainty
    """Add a channel with the normalized entropy of the class probabilities, see `normalized_entropy`."""
    assessed: int | None = None
    """Number of classes that share the probability, for `uncertainty`; None: all of the network's."""
    stored: tuple[tuple[int, ...], ...] | None = None
    """Outputs of the network that add up to each stored probability; None: each is stored by itself."""

    @property
    def margin(self) -> int:
        """Pixels at each side of a tile whose prediction is not used."""
        return self.grid.halo if self.blend == "crop" and self.grid.cut else self.grid.margin

    @property
    def key(self) -> dict[str, Any]:
        """The settings as plain data; what older versions did not know is left out where it is unused."""
        plain = asdict(self)
        if self.grid.margin == 0 and self.grid.multiple == INPUT_MULTIPLE:
            del plain["grid"]["margin"], plain["grid"]["multiple"]
        for name in ("assessed", "stored"):
            if plain[name] is None:
                del plain[name]
        return plain

    def __post_init__(self) -> None:
        if self.blend not in get_args(Blend):
            raise UsageError(f"unknown blend {self.blend!r}; use one of {', '.join(get_args(Blend))}")
        if self.probability_downsample < 1 or self.grid.stride % self.probability_downsample:
            raise UsageError(
                f"probability_downsample {self.probability_downsample} must divide "
                f"tile - overlap = {self.grid.stride}"
            )
