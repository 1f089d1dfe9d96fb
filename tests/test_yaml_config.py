"""Configuration files: what is wrong in them is said in one line."""

from __future__ import annotations

from pathlib import Path

import pytest
from pydantic import BaseModel, ConfigDict, Field, model_validator

from wsi_seg.core.errors import UsageError
from wsi_seg.core.yaml_config import read_yaml, validated


class Section(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Inner(Section):
    color: str = "red"
    width: int = Field(default=1, ge=1)


class Outer(Section):
    name: str
    one: Inner = Inner()
    many: tuple[Inner, ...] = ()
    maybe: Inner | None = None
    table: dict[str, Inner] = {}

    @model_validator(mode="after")
    def _check(self) -> Outer:
        if self.name == "bad":
            raise ValueError("bad is no name")
        return self


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "x"}, "unknown key 'nam'; did you mean 'name'?"),
        ({"name": "x", "one": {"colr": "b"}}, "unknown key 'one.colr'; did you mean 'color'?"),
        ({"name": "x", "many": [{}, {"with": 2}]}, "unknown key 'many.1.with'; did you mean 'width'?"),
        ({"name": "x", "maybe": {"widht": 2}}, "unknown key 'maybe.widht'; did you mean 'width'?"),
        ({"name": "x", "table": {"k": {"widht": 2}}}, "unknown key 'table.k.widht'; did you mean 'width'?"),
        ({}, "key 'name' is missing"),
        ({"name": "bad"}, "bad is no name"),
        ({"name": "x", "many": [{"width": 0}]}, "many.0.width: Input should be greater than"),
        ({"name": "x", "one": {"width": "wide"}}, "(got 'wide')"),
        ({"name": "x", "one": 3}, "one: Input should be"),
    ],
)
def test_first_error_in_one_line(values, message):
    with pytest.raises(UsageError) as caught:
        validated(Outer, values, "my.yaml")
    text = str(caught.value)
    assert text.startswith("my.yaml: ") and message in text and "\n" not in text


def test_right_values():
    made = validated(Outer, {"name": "x", "many": [{"width": 3}]}, "my.yaml")
    assert made == Outer(name="x", many=(Inner(width=3),))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"a: [1\nb: 2", "no valid YAML"),
        (b"- a\n- b\n", "must be a mapping"),
        (b"\xff\xfe\xfa", "no valid YAML"),
        (b"a: !!python/object/apply:os.getcwd []", "no valid YAML"),
    ],
)
def test_files_that_are_no_configuration(content, message, tmp_path):
    path = tmp_path / "my.yaml"
    path.write_bytes(content)
    with pytest.raises(UsageError) as caught:
        read_yaml(path)
    text = str(caught.value)
    assert text.startswith(str(path)) and message in text and "\n" not in text


def test_missing_and_empty_files(tmp_path):
    with pytest.raises(UsageError, match=r"no\.yaml: cannot be read"):
        read_yaml(tmp_path / "no.yaml")
    (tmp_path / "empty.yaml").write_text("# nothing but a comment\n")
    assert read_yaml(tmp_path / "empty.yaml") == {}


def test_a_file_extends_another(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text("a: 1\nb: {x: 1, y: {p: 1, q: 2}}\nc: [1, 2]\n")
    (tmp_path / "more").mkdir()
    own = tmp_path / "more" / "own.yaml"
    own.write_text("extends: ../base.yaml\nb: {y: {q: 3}}\nc: [4]\n")
    assert read_yaml(own) == {"a": 1, "b": {"x": 1, "y": {"p": 1, "q": 3}}, "c": [4]}
    (tmp_path / "base.yaml").write_text("extends: more/own.yaml\n")
    with pytest.raises(UsageError, match=r"which leads back to own\.yaml"):
        read_yaml(own)
    own.write_text("extends: none.yaml\n")
    with pytest.raises(UsageError, match=r"none\.yaml: cannot be read"):
        read_yaml(own)


def test_plain_scalars_are_read_as_yaml_1_2_reads_them(tmp_path: Path) -> None:
    path = tmp_path / "a.yaml"
    path.write_text(
        "texts: [no, off, yes, on, n, 2024-05-01, 12:30:00, 1_000, '12', a: b]\n"
        "others: [true, False, null, ~, 12, -3, 010, 0x1f, 0o17, 1.5, 1e-3, .5, -.inf]\n"
        "base: &base {a: 1}\nmerged: {<<: *base, b: 2}\nnothing:\n"
    )
    values = read_yaml(path)
    assert values["texts"] == [
        "no",
        "off",
        "yes",
        "on",
        "n",
        "2024-05-01",
        "12:30:00",
        "1_000",
        "12",
        {"a": "b"},
    ]
    assert values["others"] == [True, False, None, None, 12, -3, 10, 31, 15, 1.5, 1e-3, 0.5, float("-inf")]
    assert [type(value) for value in values["others"][4:9]] == [int] * 5
    assert values["merged"] == {"a": 1, "b": 2} and values["nothing"] is None
