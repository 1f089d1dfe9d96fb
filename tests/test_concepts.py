"""Coded concepts of classes: those of the table are the DICOM standard's, a card may state others."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from wsi_seg.core.card import CardClass
from wsi_seg.core.concepts import CONCEPTS, Concept, concept_of


def test_concepts_are_those_of_the_dicom_standard() -> None:
    table = pytest.importorskip("pydicom.sr._concepts_dict", reason="the extra dicom is not installed")
    for concept in CONCEPTS.values():
        named = table.concepts[concept.scheme].values()
        meanings = {codes[concept.value][0] for codes in named if concept.value in codes}
        assert concept.meaning in meanings


def test_concepts_of_classes() -> None:
    stated = Concept(scheme="NCIt", value="C12345", meaning="Stroma")
    assert concept_of("stroma", stated) == stated
    assert concept_of("Tumour").value == "108369006"
    private = concept_of("other_immune\\infiltrate")
    assert (private.scheme, private.value) == ("99WSISEG", "other_immune infiltrate")
    card = CardClass.model_validate(
        {"code": 1, "name": "stroma", "color": [1, 2, 3], "concept": stated.model_dump()}
    )
    assert card.concept == stated
    for wrong in ({"value": "C\\1"}, {"scheme": ""}, {"meaning": "x" * 65}, {"category": "organ"}):
        with pytest.raises(ValidationError):
            Concept.model_validate(stated.model_dump() | wrong)
