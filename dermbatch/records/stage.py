"""What stages make of an image."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from dermbatch.records.image import ImageInfo
from dermbatch.records.record import Record
from dermbatch.stages import Stage


class PurifyOutput(Record):
    """What purification found."""

    kind: Literal["purify"] = "purify"
    occluded_fraction: float = Field(description="share of pixels taken for hair, ruler or ink, 0 to 1")


class BoundingBox(Record):
    """Half-open pixel box: rows ``top <= r < bottom``, columns ``left <= c < right``."""

    top: int
    left: int
    bottom: int
    right: int


class ColourStatistics(Record):
    """Colour of the lesion in sRGB, 0 to 255, and how many of the six ABCD-rule colours it shows."""

    mean_rgb: tuple[float, float, float]
    std_rgb: tuple[float, float, float]
    skin_mean_rgb: tuple[float, float, float] | None = Field(default=None, description="outside the lesion")
    colours: int = Field(description="white, red, light brown, dark brown, blue-grey, black: count present")


class LesionGeometry(Record):
    """Measures of the lesion mask. The _mm fields are there only where the image states its pixel spacing."""

    area_px: int
    perimeter_px: float
    bounding_box: BoundingBox
    centroid: tuple[float, float]
    diameter_px: float = Field(description="largest distance between two points of the outline (Feret)")
    equivalent_diameter_px: float
    asymmetry: float = Field(description="0 symmetric to 1: mean non-overlap when folded over both main axes")
    border_irregularity: float = Field(description="perimeter^2 / (4 pi area); 1 for a disc")
    area_mm2: float | None = None
    perimeter_mm: float | None = None
    diameter_mm: float | None = None
    area_fraction: float = Field(description="share of the image, 0 to 1")
    components: int = Field(description="separate lesions found; the mask holds the one that the picture is of")
    colour: ColourStatistics


class SegmentOutput(Record):
    """What segmentation found; no geometry where there is no lesion."""

    kind: Literal["segment"] = "segment"
    lesion: LesionGeometry | None
    touches_frame: bool
    confidence: float = Field(description="mean of |2p - 1| over the lesion and its near surroundings")


class EnhanceOutput(Record):
    """What enhancement made of the lesion's surroundings."""

    kind: Literal["enhance"] = "enhance"
    method: Literal["super_resolution", "native", "none"] = Field(
        description="native: the crop was large enough; none: no lesion to enhance"
    )
    box: BoundingBox | None = Field(default=None, description="the crop in the source image")
    scale: float | None = Field(default=None, description="enhanced over source resolution; 1 for native")
    height: int | None = None
    width: int | None = None


class ClassifyOutput(Record):
    """Diagnosis probabilities: research and triage support, not a diagnosis."""

    kind: Literal["classify"] = "classify"
    probabilities: dict[str, float]
    label: str = Field(description="the most probable")
    embedding_sha256: str = Field(description="digest of embedding.npy's float32 bytes")


StageOutput = PurifyOutput | SegmentOutput | EnhanceOutput | ClassifyOutput


class ModelUsed(Record):
    """The model that really ran."""

    name: str
    version: str
    sha256: str = Field(description="digest of the served model file")


class StageRecord(Record):
    """What one stage did to one image; ``stage.json`` beside its artifacts in a folder of results."""

    stage: Stage
    key: str = Field(description="the stage key: what this stage's output depends on, digested")
    model: ModelUsed
    parameters: dict[str, float | int | str | bool]
    fed_by: dict[Stage, str] = Field(description="stage keys of the artifacts that it was fed")
    artifacts: dict[str, str] = Field(description="file name to object key")
    inline: dict[str, bytes] = Field(
        default={}, description="small files by name, Base64: kept here instead of under their keys in the store"
    )
    seconds: float = Field(description="time of the run that made the artifacts")
    image: ImageInfo | None = Field(default=None, description="the source image, in stage.json only")
    output: StageOutput
