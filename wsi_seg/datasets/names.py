"""Annotations that say their class by a name, as QuPath's do, or by a value or color of a mask."""

from __future__ import annotations

import re
from typing import Annotated

from pydantic import BaseModel, Field

from wsi_seg.annotations.annotation import IGNORE, UNCLASSIFIED, is_named
from wsi_seg.core.classes import QUPATH_NAMES, canonical_name
from wsi_seg.core.errors import DataError
from wsi_seg.datasets.labels import LabelScheme, MaskValues
from wsi_seg.datasets.region import IGNORED, not_class

# QuPath's class of areas to look at. It says where, not what: no label.
REGION = "Region*"


# A name; of masks, a code or a color such as '#c80000'.
Name = Annotated[str, Field(coerce_numbers_to_str=True)]
COLOR = re.compile(r"#[0-9a-f]{6}", re.IGNORECASE)


class NamedClasses(BaseModel):
    """How the class names of annotations are read."""

    class_names: dict[Name, str] = {}
    """From names of the annotations to classes of the model, such as {Carcinoma: tumor}. Names of the model's
    own classes, and QuPath's for them (Tumor, Immune cells, …), need no entry. Annotations without a class
    are called Unclassified. Of masks: from all codes or colors, such as {0: stroma, 255: tumor} or
    {'#c80000': tumor}; left out, the codes are the model's."""
    ignored_classes: tuple[Name, ...] = ()
    """Names whose area has zero weight, besides Ignore* and Region*; codes or colors of masks."""

    def mask_values(
        self,
        scheme: LabelScheme,
        what: str,
        known_class: str | None = None,
        *,
        options: tuple[str, str] = ("class_names", "ignored_classes"),
    ) -> MaskValues:
        """Return the meaning of the values of masks.

        Args:
            scheme: the model's classes.
            what: the data set or file, the start of the message.
            known_class: as of `target_of`.
            options: as of `target_of`.

        Raises:
            DataError: a name is neither a code nor a color, or both occur, or a class is none of the model's.
        """
        names = [*self.class_names, *self.ignored_classes]
        colored = bool(names) and COLOR.fullmatch(names[0]) is not None
        for name in names:
            if not (COLOR.fullmatch(name) if colored else name.isdecimal() and int(name) < 256):
                one = "a color, as the first is" if colored else "a code (0 … 255) or a color ('#rrggbb')"
                raise DataError(f"{what}: {name!r} in {' or '.join(options)} is not {one}")
        values = {name: int(name[1:], 16) if colored else int(name) for name in names}
        targets = {} if self.class_names else scheme.targets_of_codes()
        for name, of_model in self.class_names.items():
            targets[values[name]] = scheme.channel(of_model, f"{what}, by {options[0]}")
        if known_class is not None:
            known = scheme.channel(known_class, what)
            targets = {value: known if t == known else not_class(known) for value, t in targets.items()}
        targets |= {values[name]: IGNORED for name in self.ignored_classes}
        lacking = f"is in neither {' nor '.join(options)}; add it to one"
        return MaskValues(targets, colored, lacking) if names else MaskValues(targets)

    def target_of(
        self,
        name: str | None,
        scheme: LabelScheme,
        what: str,
        known_class: str | None = None,
        *,
        options: tuple[str, str] = ("class_names", "ignored_classes"),
    ) -> int:
        """Return the target of an annotation's area.

        Args:
            name: its class; None where it has none.
            scheme: the model's classes.
            what: file and annotation, the start of the message.
            known_class: the only class that annotations tell apart; all others are then not that class.
            options: how the user sets `class_names` and `ignored_classes`, for the message.

        Returns:
            The output channel of its class, `not_class` of the known one, or IGNORED.

        Raises:
            DataError: the name is neither a class of the model nor an ignored one.
        """
        mapped = is_named(name, self.class_names)
        if is_named(name, self.ignored_classes) or (is_named(name, (IGNORE, REGION)) and not mapped):
            return IGNORED
        to_classes, to_ignored = options
        if name is None and not mapped:
            raise DataError(f"{what} has no class; give it one, or put {UNCLASSIFIED} into {to_ignored}")
        channel = self._channel(canonical_name(name or UNCLASSIFIED), scheme, what, to_classes)
        if known_class is not None:
            known = scheme.channel(known_class, what)
            return known if channel == known else not_class(known)
        if channel is None:
            raise DataError(
                f"{what} is of class {name!r}, which the model does not have "
                f"({', '.join(c.name for c in scheme.classes)}); put it into {to_classes} or {to_ignored}"
            )
        return IGNORED if scheme.classes[channel].code in scheme.ignored_codes else channel

    def _is_class(self, name: str, scheme: LabelScheme) -> bool:
        """Return whether a name of the annotations stands for a class of the model."""
        return self._channel(canonical_name(name), scheme, name, "class_names") is not None

    def _channel(self, asked: str, scheme: LabelScheme, what: str, option: str) -> int | None:
        mapped = {canonical_name(key): value for key, value in self.class_names.items()}.get(asked)
        if mapped is not None:
            return scheme.channel(mapped, f"{what}, by {option}")
        own = [canonical_name(c.name) for c in scheme.classes]
        qupath = [canonical_name(QUPATH_NAMES.get(name, name)) for name in own]
        return next((names.index(asked) for names in (own, qupath) if asked in names), None)
