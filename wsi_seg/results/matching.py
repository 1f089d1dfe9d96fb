"""Results that are there against those that a run would make: the same, of other software, or something else.

A record is the manifest of whole results, or the plan of an unfinished run.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from wsi_seg.core.errors import OutputError, SlideError
from wsi_seg.core.files import reason_of
from wsi_seg.core.storage import is_remote
from wsi_seg.slides.identity import Content, FileStamp, Verdict, compare_content
from wsi_seg.slides.slide import SlideInfo

Record = Mapping[str, Any]
Versions = Mapping[str, str]

REPLACE_OR_KEEP = "choose another output folder, or pass --overwrite to replace them"


@dataclass(frozen=True, slots=True)
class ExpectedResults:
    """The results that a run is about to make."""

    path: str
    """Of the slide: absolute, or its URL."""
    slide: SlideInfo
    files: tuple[FileStamp, ...]
    """See `identity.stamp_slide`."""
    versions: Versions
    """See `run_inputs.made_with`."""
    key_with: Callable[[Versions], str]
    """Returns the key that the run would have with these versions, see `pipeline.summary.run_key`."""
    choices: Mapping[str, Any]
    """Model and settings as a manifest says them, as far as they decide the results."""
    overwrite: bool = False
    verify: bool = False
    """Compare all bytes of a slide, even where its time of change is the same."""

    @property
    def key(self) -> str:
        return self.key_with(self.versions)

    def content(self, sha256: str | None = None) -> dict[str, Any]:
        """Return what a record says of the slide's content."""
        return {"path": self.path, **Content(self.files, sha256).to_json()}


def absolute(path: str | Path) -> str:
    """Return a path as another working folder would find it; a URL as it is."""
    return str(path) if is_remote(path) else str(Path(path).absolute())


def versions_note(recorded: Versions | None, versions: Versions) -> str:
    """Return what to say of results that other software made; "" of those that this has made."""
    if recorded == versions:
        return ""
    return f"made by {_describe(recorded)}, this is {_describe(versions)}; kept, --overwrite redoes it"


def note_on_kept(record: Record, expected: ExpectedResults, place: str | Path) -> str:
    """Return what to say of whole results that are kept, as they are those that a run would make.

    Those of other software are kept where nothing that was asked for is known to differ.

    Raises:
        OutputError: they are others.
        SlideError: the slide cannot be read, to compare it.
    """
    check_same_slide(record, expected, place)
    recorded = versions_of(record)
    changed = _changed_print(_slide_of(record).get("fingerprint"), expected.slide.fingerprint)
    different = _differences(record, expected.choices)
    alike = record.get("key") == expected.key_with(recorded or {})
    if not changed and not alike and not different:  # damage may be in what was taken for tissue
        changed = _compare(record.get("content"), expected) == "changed"
    if not changed and not alike and (recorded == expected.versions or different):
        what = f" ({', '.join(different)})" if different else ""
        raise OutputError(
            f"{place}: holds results of another slide, model or settings{what}; {REPLACE_OR_KEEP}"
        )
    verdict = "changed" if changed else _compare(record.get("content"), expected)
    if verdict == "changed":
        raise OutputError(
            f"{place}: holds results of {expected.slide.path} before its content changed; {REPLACE_OR_KEEP}"
        )
    if verdict == "unknown" and expected.verify:
        raise OutputError(
            f"{place}: its manifest holds no hash of the whole slide to verify; pass --overwrite to redo it"
        )
    notes = [versions_note(recorded, expected.versions)]
    if verdict == "unknown":
        notes.append("no hash of the whole slide was recorded, so samples of it were compared")
    return "; ".join(filter(None, notes))


def check_same_slide(record: Record, expected: ExpectedResults, place: str | Path) -> None:
    """Refuse to replace what is not of this slide.

    Raises:
        OutputError: the record is of another slide.
    """
    if not _same_slide(record, expected):
        raise OutputError(_another_slide(record, place))


def check_same_record(record: Record, other: Record, place: str | Path) -> None:
    """Refuse to put results in the place of those of another slide; OutputError as for `check_same_slide`."""
    if _path_of(record) != _path_of(other) and not _same_print(record, _slide_of(other).get("fingerprint")):
        raise OutputError(_another_slide(record, place))


def check_resumable(record: Record, content: Any, expected: ExpectedResults, place: str | Path) -> None:
    """Refuse to resume an unfinished run of other software, settings or content.

    Args:
        record: the plan of that run.
        content: what is recorded of the slide's content, see `ExpectedResults.content`.
        expected: the run that would resume it.
        place: for messages.

    Raises:
        OutputError: with the way out.
        SlideError: the slide cannot be read, to compare it.
    """
    recorded = versions_of(record)
    again = "choose another output folder, or pass --overwrite to start again"
    if recorded != expected.versions:
        raise OutputError(
            f"{place}: holds an unfinished run of {_describe(recorded)}, and this is "
            f"{_describe(expected.versions)}; resume it with the former, {again}"
        )
    if record.get("run_key") != expected.key:
        raise OutputError(
            f"{place}: holds an unfinished run with other settings, slide or model; finish that one, {again}"
        )
    verdict = _compare(content, expected)
    if verdict != "same":
        why = {
            "changed": "before its content changed",
            "unknown": "when its file was another, and no hash of all of it to compare",
        }[verdict]
        raise OutputError(f"{place}: holds an unfinished run of {expected.slide.path} {why}; {again}")


def versions_of(record: Record) -> Versions | None:
    """Return the versions of the software that made results; None where they do not say."""
    recorded = record.get("made_with")
    return recorded if isinstance(recorded, dict) else None


def _compare(content: Any, expected: ExpectedResults) -> Verdict:
    before = Content.from_json(content)
    try:
        return compare_content(expected.path, expected.files, before, verify=expected.verify)
    except OSError as error:
        raise SlideError(
            f"{error.filename or expected.path}: cannot be read, to compare it with what was run before "
            f"({reason_of(error)})"
        ) from error


def _differences(record: Any, choices: Mapping[str, Any], within: str = "") -> list[str]:
    """Return the names of choices that a record says otherwise; what it does not say is no difference."""
    found = []
    for name, value in choices.items():
        if not isinstance(record, dict) or name not in record:
            continue
        if isinstance(value, dict):
            found += _differences(record[name], value, f"{within}{name}.")
        elif name == "device":  # which of several alike makes no difference
            if str(record[name]).partition(":")[0] != str(value).partition(":")[0]:
                found.append(name)
        elif record[name] != value:
            found.append(f"{within}{name}".removeprefix("settings."))
    return found


def _changed_print(before: Any, now: str) -> bool:
    """Return whether two fingerprints of one kind differ; each reader has its own."""
    return str(before).partition(":")[0] == now.partition(":")[0] and before != now


def _slide_of(record: Record) -> Mapping[str, Any]:
    slide = record.get("slide")
    return slide if isinstance(slide, dict) else {}


def _path_of(record: Record) -> str:
    content = record.get("content")
    path = content.get("path") if isinstance(content, dict) else None
    return str(path or _slide_of(record).get("path"))


def _same_slide(record: Record, expected: ExpectedResults) -> bool:
    return _path_of(record) == expected.path or _same_print(record, expected.slide.fingerprint)


def _same_print(record: Record, fingerprint: Any) -> bool:
    return fingerprint is not None and _slide_of(record).get("fingerprint") == fingerprint


def _another_slide(record: Record, place: str | Path) -> str:
    return (
        f"{place}: holds results of another slide, {_path_of(record)}; "
        "choose another output folder or name, or move them elsewhere"
    )


def _describe(versions: Versions | None) -> str:
    if versions is None:
        return "an earlier wsi-seg"
    return " with ".join(f"{name} {version}" for name, version in versions.items())
