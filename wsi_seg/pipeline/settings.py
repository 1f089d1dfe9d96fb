"""The settings of a run as one value, and how YAML, flags and tables become it.

Each setting is declared once, here or in the module `settings` of the folder that uses it; `SETTINGS` lists
all.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Self

from pydantic import AfterValidator, BeforeValidator, Field, TypeAdapter, ValidationError
from pydantic.dataclasses import dataclass

from wsi_seg.core.errors import UsageError
from wsi_seg.core.folders import is_there
from wsi_seg.core.geometry import Scale
from wsi_seg.core.settings import CONFIG, absolute_path, checked, find_settings, from_flat, setting
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.inference.settings import ModelSettings
from wsi_seg.planning.settings import DEFAULT_THREADS, GPU_THREADS, PlanSettings
from wsi_seg.regions.settings import RegionSettings
from wsi_seg.slides.local_copies import SlideCache

if TYPE_CHECKING:
    from wsi_seg.core.card import ModelCard
    from wsi_seg.core.classes import ClassGroup
    from wsi_seg.slides.slide import Slide

_MPP: TypeAdapter[float] = TypeAdapter(Annotated[float, Field(gt=0, allow_inf_nan=False)])


def _both_axes(value: Any) -> Any:
    """Return one number of microns per pixel as that of both axes."""
    if value is None or isinstance(value, Scale | Mapping):
        return value
    try:
        mpp = _MPP.validate_python(value)
    except ValidationError as error:
        raise ValueError(error.errors()[0]["msg"]) from error
    return Scale(mpp, mpp)


def _tissue_path(value: Any) -> Any:
    """Return the absolute path of a file of drawn regions; the name of a method stays, right or wrong."""
    from wsi_seg.annotations.reading import ENDINGS
    from wsi_seg.tissue.mask import METHODS

    if not isinstance(value, str | Path) or str(value) in METHODS:
        return value
    path = Path(value)
    is_mask = path.name.lower().endswith(ENDINGS) or is_there(path)
    return absolute_path(str(value)) if is_mask else str(value)


def _model_path(value: str | None) -> str | None:
    """Return the absolute path of a model's folder or file; a name stays."""
    return absolute_path(value) if value is not None and is_there(Path(value)) else value


def _known_formats(texts: tuple[str, ...]) -> tuple[str, ...]:
    """Return the formats, each once; ValueError where one is not known or its library is not installed."""
    from wsi_seg.exporters.table import choose_format

    for text in texts:
        try:
            choose_format(text)
        except UsageError as error:
            raise ValueError(str(error)) from error
    return tuple(dict.fromkeys(texts))


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class RunSettings:
    """Everything about a run but the slides and the place of the results.

    `segment_slide` gets its model loaded; `model` says which one the command line loads.
    """

    title: ClassVar = "Slide and results"

    mpp: Annotated[Scale | None, BeforeValidator(_both_axes)] = setting(
        None, "Microns per level-0 pixel, where the slide does not say or says it wrong.", unit="µm/px"
    )
    reader: str | None = setting(
        None, "Reader of the slide: tiff, openslide, tiffslide or image; null: the first that takes the file."
    )
    series: int | None = setting(
        None,
        "Number of the image in a TIFF file of several, as wsi-seg info lists them; null: the largest that "
        "is tiled or has levels.",
        ge=0,
    )
    tissue: Annotated[str, BeforeValidator(_tissue_path)] = setting(
        "otsu",
        "otsu, none (the whole slide), a file of the regions to analyze, such as QuPath GeoJSON, or a model "
        "that finds tissue (a name, folder or hf:// reference as for model).",
    )
    ignored_classes: tuple[str, ...] = setting(
        (),
        "Classes of drawn regions whose areas are left out besides Ignore*, separated by commas; "
        "Unclassified for areas without a class.",
        metavar="NAMES",
    )
    qc: Annotated[str | None, AfterValidator(_model_path)] = setting(
        None,
        "Model that finds artifacts (folds, pen, blur and others; a name, folder or hf:// reference as for "
        "model); null: none are looked for.",
        metavar="MODEL",
    )
    keep_artifacts: bool = setting(
        False, "Analyze artifacts that qc finds, too, and mark them alone, instead of leaving them out."
    )
    plan: PlanSettings = PlanSettings()
    regions: RegionSettings = RegionSettings()
    workers: WorkerSettings = WorkerSettings()
    formats: Annotated[tuple[str, ...], AfterValidator(_known_formats)] = setting(
        (),
        "Formats to write to RESULTS/exports, as export --to list names them, separated by commas; "
        "tiff-mask@2 is one at 2 µm/px.",
        metavar="NAMES",
    )
    strict: bool = setting(False, "Fail a slide if any part of it is unreadable, instead of leaving it out.")
    overwrite: bool = setting(
        False, "Replace results of the same slide with other settings, models or versions.", scope="command"
    )
    verify: bool = setting(
        False, "Compare all bytes of a slide with its results' record before skipping.", scope="command"
    )
    cache: Annotated[
        SlideCache | None, AfterValidator(lambda cache: cache if cache and cache.folder else None)
    ] = None
    """Folder of whole slides fetched from URLs; None: they are read piece by piece."""
    staging: Annotated[str | None, BeforeValidator(absolute_path)] = setting(
        None,
        "Local folder where results for a URL are built; null: wsi_seg/staging in the user's cache folder.",
        metavar="DIR",
        scope="run",
    )
    model: ModelSettings = ModelSettings()

    def open_slide(self, path: str | Path) -> Slide:
        """Open a slide as these settings say; see `open_slide` for what it raises."""
        from wsi_seg.slides.readers import open_slide

        return open_slide(path, reader=self.reader, mpp=self.mpp, series=self.series, cache=self.cache)

    def traced(self, card: ModelCard) -> tuple[ClassGroup, ...]:
        """Return the groups and classes whose regions a run with this model traces.

        Raises:
            UsageError: the model lacks one of them, or one that is to be stored; or one is to be traced by a
                probability that would not be stored.
        """
        from wsi_seg.planning.stored import check_traced

        groups = self.regions.resolve(card)
        by_probability = self.regions.trace.source == "probabilities"
        check_traced(self.plan.probabilities, card, groups if by_probability else ())
        return groups

    def for_workers(self, gpus: tuple[int, ...] = ()) -> Self:
        """Return the settings of each worker process: its threads, and its share of this machine's memory.

        `gpus` are the CUDA devices of this machine, for which `all` stands.

        Raises:
            UsageError: the worker processes cannot be shared out evenly among the GPUs.
        """
        asked = self.workers
        chosen = gpus if asked.gpus == "all" else asked.gpus
        count = asked.processes or max(1, len(chosen))
        if chosen and count % len(chosen):
            raise UsageError(
                f"workers {count} and {len(chosen)} GPUs: each GPU has as many workers; give a multiple of "
                f"{len(chosen)}, or leave workers out"
            )
        several = count > 1 or bool(chosen)
        bounded = self.plan.max_memory
        usual = GPU_THREADS if chosen else DEFAULT_THREADS
        workers = replace(
            asked,
            processes=count,
            threads=self.plan.threads or (1 if several and bounded is not None else usual),
            gpus=chosen,
        )
        plan = replace(
            self.plan,
            threads=self.plan.threads if workers.here else workers.threads,
            max_memory=bounded and bounded // (1 if workers.elsewhere else count),
        )
        return replace(self, workers=workers, plan=plan)


SETTINGS = {s.name: s for s in sorted(find_settings(RunSettings), key=lambda s: s.path[0] != "model")}
# Those that files and tables may give.
KEYS = {name: declared for name, declared in SETTINGS.items() if declared.scope != "command"}


def read_values(path: Path | None, flags: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Return the flat values of a YAML file, if any, with those of flags on top; `make_settings` checks.

    Raises:
        UsageError: the file cannot be read.
    """
    from wsi_seg.core.yaml_config import read_yaml

    values = read_yaml(path) if path is not None else {}
    return {**values, **(flags or {})}


def make_settings(values: Mapping[str, Any], where: object = None) -> RunSettings:
    """Return the settings of flat values, with defaults for the rest.

    Args:
        values: name to value or text, such as `{"tile": 1024, "groups": "tumor,stroma"}`.
        where: file that gave them, for messages.

    Raises:
        UsageError: a key is unknown, or a value is wrong.
    """
    return from_flat(RunSettings, KEYS, values, "settings" if where is None else str(where))
