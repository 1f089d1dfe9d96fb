"""The configuration of a run: YAML and flags in, `RunSettings` out. Nothing below knows of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal, get_args, get_origin

from pydantic import (
    BaseModel,
    ByteSize,
    ConfigDict,
    Field,
    ValidationInfo,
    field_validator,
    model_validator,
)

from wsi_seg.core.errors import UsageError
from wsi_seg.core.folders import is_there
from wsi_seg.core.geometry import Scale
from wsi_seg.core.yaml_config import read_yaml, validated
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.pipeline.settings import Origin, RegionSettings, RunSettings
from wsi_seg.planning.map_layout import ProbabilityDtype
from wsi_seg.planning.plan import DEFAULT_THREADS, GPU_THREADS, PlanSettings
from wsi_seg.planning.stitch_settings import Blend
from wsi_seg.regions.polygons import TraceSettings
from wsi_seg.slides.local_copies import GB, SlideCache
from wsi_seg.tissue.mask import MASK_ENDINGS, METHODS

_TRACE = TraceSettings()


class RunConfig(BaseModel):
    """Everything a run can be told, flat, as in `configs/run.yaml`; a flag wins over the file."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    model: str = "bcss-demo"
    mpp: float | None = Field(default=None, gt=0)
    reader: str | None = None
    series: int | None = Field(default=None, ge=0)
    tissue: str = "otsu"
    ignored_classes: tuple[str, ...] = ()
    origin: Origin = "bounds"
    groups: tuple[str, ...] | None = None
    classes: tuple[str, ...] = ()
    threshold: float = _TRACE.threshold
    min_area_um2: float = _TRACE.min_area_um2
    min_hole_um2: float = _TRACE.min_hole_um2
    tolerance_um: float = _TRACE.tolerance_um
    source: Literal["probabilities", "labels"] = _TRACE.source
    tile: int | None = Field(default=None, gt=0)
    overlap: int | None = Field(default=None, ge=0)
    block: int | None = Field(default=None, gt=0)
    blend: Blend = "crop"
    batch: int | None = Field(default=None, ge=1)
    device: str = "auto"
    precision: str = "auto"
    tta: bool = False
    strict: bool = False
    scheduler: str = "threads"
    workers: int = Field(default=1, ge=1)
    threads: int | None = Field(default=None, ge=1)
    gpus: tuple[int, ...] | Literal["all"] = ()
    cluster: Path | None = None
    max_memory: ByteSize | None = None
    cache: str | None = None
    cache_size: ByteSize = Field(default=ByteSize(50 * GB), gt=0)
    staging: str | None = None
    probability_downsample: int = Field(default=4, ge=1)
    probability_dtype: ProbabilityDtype = "uint8"
    uncertainty: bool = False
    allow_upsampling: bool = False

    @model_validator(mode="before")
    @classmethod
    def _split_lists(cls, values: dict[str, Any]) -> dict[str, Any]:
        """Split what is text, as in a flag or a table, where the setting is a list: `tumor,stroma`."""
        return {key: _split(value) if _is_list(cls, key, value) else value for key, value in values.items()}

    @field_validator("tissue", "cluster", "cache", "staging")
    @classmethod
    def _make_absolute(cls, value: str | Path | None, info: ValidationInfo) -> str | Path | None:
        """Make paths absolute, as workers and later commands may run in other folders; links stay."""
        if value is None or "://" in str(value):
            return value
        path = Path(value)
        if info.field_name == "tissue" and not _is_mask(path):
            return value
        return path.absolute() if isinstance(value, Path) else str(path.absolute())

    def region_settings(self) -> RegionSettings:
        """Return what is traced and how."""
        trace = TraceSettings(
            threshold=self.threshold,
            min_area_um2=self.min_area_um2,
            min_hole_um2=self.min_hole_um2,
            tolerance_um=self.tolerance_um,
            source=self.source,
        )
        return RegionSettings(self.groups, self.classes, trace, self.origin)

    def run_settings(
        self, overwrite: bool = False, gpus: tuple[int, ...] = (), *, verify: bool = False
    ) -> RunSettings:
        """Return the settings of a run; `gpus` are those of this machine that "all" stands for."""
        workers = self.worker_settings(gpus)
        # Several processes of this machine share its memory.
        share = (
            None
            if self.max_memory is None
            else self.max_memory // (1 if workers.elsewhere else workers.processes)
        )
        plan = PlanSettings(
            tile=self.tile,
            overlap=self.overlap,
            block=self.block,
            blend=self.blend,
            batch=self.batch,
            threads=workers.threads if not workers.here else self.threads,
            max_memory=share,
            probability_downsample=self.probability_downsample,
            probability_dtype=self.probability_dtype,
            uncertainty=self.uncertainty,
            allow_upsampling=self.allow_upsampling,
        )
        return RunSettings(
            mpp=None if self.mpp is None else Scale(self.mpp, self.mpp),
            reader=self.reader,
            series=self.series,
            tissue=self.tissue,
            ignored_classes=self.ignored_classes,
            plan=plan,
            regions=self.region_settings(),
            workers=workers,
            strict=self.strict,
            overwrite=overwrite,
            verify=verify,
            cache=None if self.cache is None else SlideCache(self.cache, self.cache_size),
            staging=self.staging,
        )

    def worker_settings(self, gpus: tuple[int, ...] = ()) -> WorkerSettings:
        """Return where blocks are computed."""
        chosen = gpus if self.gpus == "all" else self.gpus
        if chosen and self.workers > 1 and self.workers % len(chosen):
            raise UsageError(
                f"workers {self.workers} and {len(chosen)} GPUs: each GPU has as many workers; give a "
                f"multiple of {len(chosen)}, or leave workers out for one each"
            )
        several = self.workers > 1 or bool(chosen)
        usual = GPU_THREADS if chosen else DEFAULT_THREADS
        return WorkerSettings(
            scheduler=self.scheduler,
            processes=max(len(chosen), self.workers),
            threads=self.threads or (1 if several and self.max_memory is not None else usual),
            gpus=chosen,
            cluster=self.cluster,
        )


def _is_mask(path: Path) -> bool:
    return str(path) not in METHODS and (path.name.lower().endswith(MASK_ENDINGS) or is_there(path))


def _is_list(cls: type[BaseModel], key: str, value: object) -> bool:
    """Return whether a setting takes a list and its value is text, but none of the words it also takes."""
    if key not in cls.model_fields or not isinstance(value, str):
        return False
    annotation = cls.model_fields[key].annotation
    kinds = [annotation] if get_origin(annotation) is tuple else get_args(annotation)
    words = [word for kind in kinds if get_origin(kind) is Literal for word in get_args(kind)]
    return any(get_origin(kind) is tuple for kind in kinds) and value not in words


def _split(text: str) -> list[str]:
    inside = text.strip().removeprefix("[").removesuffix("]")
    return [part.strip() for part in inside.split(",") if part.strip()]


def read_run_config(path: Path | None, flags: dict[str, Any] | None = None) -> RunConfig:
    """Return the configuration of a file, if any, with flags on top; flags that are None were not given.

    Raises:
        UsageError: the file cannot be read, a key is unknown, or a value is wrong.
    """
    values = read_yaml(path) if path is not None else {}
    given = {key: value for key, value in (flags or {}).items() if value is not None}
    return validated(RunConfig, {**values, **given}, str(path) if path is not None else "settings")
