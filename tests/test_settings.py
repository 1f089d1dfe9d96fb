"""Settings: declared once, and from there in flags, YAML, tables, docs and the record of a run."""

from __future__ import annotations

import dataclasses
import pickle
from collections.abc import Callable
from typing import Any, ClassVar

import pytest
import typer.main
from pydantic.dataclasses import dataclass

from scripts.make_reference import cli_markdown, settings_markdown
from wsi_seg.cli import app
from wsi_seg.core.errors import UsageError
from wsi_seg.core.geometry import Scale
from wsi_seg.core.settings import CONFIG, Bytes, checked, find_settings, from_flat, setting
from wsi_seg.core.yaml_config import validated
from wsi_seg.execution.settings import WorkerSettings
from wsi_seg.pipeline.run_inputs import _deciding
from wsi_seg.pipeline.settings import KEYS, SETTINGS, RunSettings, make_settings
from wsi_seg.pipeline.summary import settings_json
from wsi_seg.planning.settings import PlanSettings
from wsi_seg.planning.stitch_settings import StitchSettings
from wsi_seg.regions.settings import RegionSettings, TraceSettings
from wsi_seg.training.config import LossConfig


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class Inner:
    title: ClassVar = "Inside"

    size: Bytes = setting(2 * 10**9, "Room.", key="room", unit="bytes", gt=0)
    names: tuple[str, ...] = setting((), "Names.")


@checked
@dataclass(frozen=True, slots=True, config=CONFIG)
class Outer:
    title: ClassVar = "Outside"

    share: float = setting(0.5, "Share.", ge=0, le=1)
    inner: Inner = Inner()
    derived: int = 3


def test_one_declaration_holds_everything() -> None:
    found = {declared.name: declared for declared in find_settings(Outer)}
    assert list(found) == ["share", "room", "names"]
    room = found["room"]
    assert (room.path, room.title, room.flag) == (("inner", "size"), "Inside", "--room")
    assert (room.default_text, room.unit, room.limits, room.type_text) == ("2GB", "bytes", ("> 0",), "size")
    assert found["share"].limits == ("≥ 0", "≤ 1") and found["names"].is_list
    made = from_flat(Outer, found, {"share": "0.25", "room": "1kB", "names": "a, b"}, "x")
    assert made == Outer(0.25, Inner(1000, ("a", "b")))
    with pytest.raises(UsageError, match=r"^my\.yaml: room: Input should be greater than 0 \(got '0'\)$"):
        from_flat(Outer, found, {"room": "0"}, "my.yaml")
    with pytest.raises(UsageError, match=r"^my\.yaml: unknown key 'rom'; did you mean 'room'\?$"):
        from_flat(Outer, found, {"rom": 3}, "my.yaml")


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: PlanSettings(tile=0), r"tile: .*greater than 0 \(got 0\)"),
        (lambda: PlanSettings(blend="median"), "blend: .*'crop'.* \\(got 'median'\\)"),  # type: ignore[arg-type]
        (lambda: PlanSettings(tiel=3), "unknown key 'tiel'; did you mean 'tile'"),  # type: ignore[call-arg]
        (lambda: RegionSettings(groups="tumor"), r"groups: .* \(got 'tumor'\)"),  # type: ignore[arg-type]
        (lambda: dataclasses.replace(RunSettings(), series=-1), r"series: .* \(got -1\)"),
        (lambda: make_settings({"mpp": "nan"}), r"settings: mpp: .*finite number \(got 'nan'\)"),
        (lambda: make_settings({"cache_size": 0}), r"settings: cache_size: .*greater than 0 \(got 0\)"),
        (lambda: make_settings({"overwrite": True}), "unknown key 'overwrite'"),
    ],
)
def test_a_wrong_value_is_one_line(make: Any, message: str) -> None:
    with pytest.raises(UsageError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_settings_are_plain_frozen_values() -> None:
    settings = RunSettings(mpp=Scale(0.25, 0.5), plan=PlanSettings(tile=512))
    assert pickle.loads(pickle.dumps(settings)) == settings
    assert make_settings({"tile": "512"}) == RunSettings(plan=PlanSettings(512))
    assert make_settings({"mpp": 0.5}).mpp == Scale(0.5, 0.5)
    assert make_settings({"cache": None, "cache_size": "1GB"}).cache is None
    with pytest.raises(dataclasses.FrozenInstanceError):
        settings.plan.tile = 3  # type: ignore[misc]


def test_each_setting_is_a_flag_a_key_and_a_line_of_the_docs() -> None:
    group: Any = typer.main.get_command(app)
    command = group.get_command(None, "run")
    flags = {flag for parameter in command.get_params(command.make_context("run", [], resilient_parsing=True))
             for flag in parameter.opts}  # fmt: skip
    settings, commands = settings_markdown(), cli_markdown()
    for declared in SETTINGS.values():
        assert declared.flag in flags and f"`{declared.flag}`" in settings and declared.flag in commands
        assert declared.help.endswith(".") and len(declared.help) < 200, declared.name
        assert (f"| `{declared.name}` |" in settings) == (declared.name in KEYS)
    with pytest.raises(UsageError, match="unknown key"):
        make_settings({"verify": True})


OTHERWISE = {
    "mpp": 0.3, "reader": "tiff", "series": 1, "tissue": "none", "ignored_classes": "a", "groups": "a",
    "classes": "a", "origin": "level0", "source": "labels", "blend": "mean", "probability_dtype": "float32",
    "probabilities": "groups", "probability_downsample": 2,
    "threshold": 0.3, "min_area_um2": 1, "min_hole_um2": 1, "tolerance_um": 2,
    "tile": 64, "overlap": 32, "block": 64, "batch": 2, "max_memory": "1GB", "uncertainty": True,
    "allow_upsampling": True, "strict": True, "qc": "m", "keep_artifacts": True,
}  # fmt: skip
# They change no byte of the results, or count otherwise: the model by its digest.
NOT_IN_THE_KEY = {
    "model", "device", "precision", "tta", "scheduler", "workers", "threads", "gpus", "cluster", "cache",
    "cache_size", "staging", "formats",
}  # fmt: skip


def test_each_setting_counts_in_the_record_unless_it_is_known_not_to() -> None:
    assert set(OTHERWISE) | NOT_IN_THE_KEY == set(KEYS)
    usual = _deciding(RunSettings())
    for name, value in OTHERWISE.items():
        assert _deciding(make_settings({name: value})) != usual, name
    other = make_settings(
        {"workers": 3, "threads": 4, "cache": "c", "staging": "s", "device": "cpu", "tta": True}
    )
    assert _deciding(other) == usual
    assert "model" not in settings_json(other) and settings_json(other)["workers"]["processes"] == 3


def test_maps_are_stitched_as_planned_by_default() -> None:
    plan = PlanSettings()
    for field in ("blend", "probability_downsample", "probability_dtype", "uncertainty"):
        assert StitchSettings.__dataclass_fields__[field].default == getattr(plan, field)
    assert RunSettings().regions.trace == TraceSettings()


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: WorkerSettings(gpus=("GPU-5f2c",)), "gpus: must be all|0,1 (got 'GPU-5f2c')"),
        (lambda: RunSettings(workers={"gpus": 0}), "workers.gpus: must be all|0,1 (got 0)"),
        (lambda: make_settings({"gpus": 0}), "settings: gpus: must be all|0,1 (got 0)"),
        (lambda: PlanSettings(probabilities=3), "probabilities: must be all|groups|none|NAMES (got 3)"),
        (
            lambda: make_settings({"probabilities": 3}),
            "settings: probabilities: must be all|groups|none|NAMES (got 3)",
        ),
        (
            lambda: validated(LossConfig, {"class_weights": "even"}, "a.yaml"),
            "a.yaml: class_weights: must be table or equal or balanced (got 'even')",
        ),
        (
            lambda: validated(LossConfig, {"class_weights": {"tumor": "much"}}, "a.yaml"),
            "a.yaml: class_weights: must be table or equal or balanced (got {'tumor': 'much'})",
        ),
    ],
)
def test_a_value_of_several_types_is_refused_in_our_words(make: Callable[[], Any], message: str) -> None:
    """Pydantic tells of one of the types, under a key of its own."""
    with pytest.raises(UsageError) as refused:
        make()
    assert str(refused.value) == message


def test_no_message_of_a_setting_names_a_python_type() -> None:
    for name, declared in SETTINGS.items():
        if len(declared.types) > 1:
            with pytest.raises(UsageError, match=rf"^settings: {name}: must be [\w|,]+ \(got <object"):
                make_settings({name: object()})
