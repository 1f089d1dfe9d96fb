"""All kinds of data sets; a new one is added to `AnyDataset` and passes `wsi_seg.testing.datasets`."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from wsi_seg.datasets.bcss import BcssRegions
from wsi_seg.datasets.made_artifacts import MadeArtifacts
from wsi_seg.datasets.masks import MaskedImages
from wsi_seg.datasets.outlined_images import OutlinedImages
from wsi_seg.datasets.reviews import ReviewedSlides
from wsi_seg.datasets.slides import AnnotatedSlides

AnyDataset = Annotated[
    BcssRegions | MaskedImages | OutlinedImages | AnnotatedSlides | ReviewedSlides | MadeArtifacts,
    Field(discriminator="kind"),
]
