import pytest

from dermbatch.records.outcome import (
    BoundingBox,
    ClassifyOutput,
    ColourStatistics,
    EnhanceOutput,
    LesionGeometry,
    PurifyOutput,
    SegmentOutput,
)
from workers.image.quality import quality_flags

LESION = LesionGeometry(
    area_px=1,
    perimeter_px=1,
    bounding_box=BoundingBox(top=0, left=0, bottom=1, right=1),
    centroid=(0, 0),
    diameter_px=1,
    equivalent_diameter_px=1,
    asymmetry=0,
    border_irregularity=1,
    area_fraction=0.1,
    components=1,
    colour=ColourStatistics(mean_rgb=(0, 0, 0), std_rgb=(0, 0, 0), colours=1),
)
TWO = LESION.model_copy(update={"components": 2})


def classified(*probabilities):
    by_label = dict(zip("abcdefg", probabilities, strict=False))
    return ClassifyOutput(probabilities=by_label, label=max(by_label, key=by_label.get), embedding_sha256="")


def segmented(lesion=LESION, *, touches_frame=False, confidence=0.95):
    return SegmentOutput(lesion=lesion, touches_frame=touches_frame, confidence=confidence)


@pytest.mark.parametrize(
    ("outputs", "flags"),
    [
        ([PurifyOutput(occluded_fraction=0.149), segmented()], ()),
        ([EnhanceOutput(method="native"), classified(1, 0, 0)], ()),
        ([PurifyOutput(occluded_fraction=0.15)], ("heavily_occluded",)),
        ([segmented(None)], ("no_lesion",)),
        ([segmented(TWO)], ("several_lesions",)),
        ([segmented(touches_frame=True)], ("touches_frame",)),
        ([segmented(confidence=0.74)], ("low_confidence",)),
        ([segmented(confidence=0.75)], ()),
        ([classified(0.45, 0.35, 0.2)], ("low_confidence",)),
        ([classified(0.5, 0.3, 0.2)], ()),
        ([classified(0.3, *[0.7 / 6] * 6)], ("low_confidence",) if (0.3 - 1 / 7) / (6 / 7) < 0.2 else ()),
        ([classified(1.0)], ()),
        ([segmented(TWO, touches_frame=True, confidence=0), classified(0.34, 0.33, 0.33)],
         ("several_lesions", "touches_frame", "low_confidence")),
        ([], ()),
    ],
)  # fmt: skip
def test_flags(outputs, flags):
    assert quality_flags(outputs) == flags
