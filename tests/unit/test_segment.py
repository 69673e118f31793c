import math

import numpy as np
import pytest
from standins import Triton, segment_dark, served, skin_with_lesion

from workers.stages.segment import SegmentParameters, confidence, segment


def run(image, **options):
    client = Triton({"m": segment_dark})
    return segment(image, client, served(), SegmentParameters(), **options)


@pytest.mark.parametrize("size", [(300, 400), (767, 1022), (2304, 3072)])
def test_the_mask_lies_on_the_lesion_at_the_images_size(size):
    image = skin_with_lesion(*size)
    truth = image[..., 0] < 140
    found = run(image)
    assert found.mask.shape == size
    overlap = (found.mask > 0) & truth
    assert overlap.sum() / ((found.mask > 0) | truth).sum() > 0.97
    lesion = found.output.lesion
    assert lesion.area_px == np.count_nonzero(found.mask)
    assert lesion.colour.mean_rgb == pytest.approx((90, 60, 50), abs=3)
    assert lesion.colour.skin_mean_rgb == pytest.approx((200, 150, 130), abs=1)
    assert lesion.area_mm2 is None
    assert not found.output.touches_frame
    assert found.output.confidence > 0.9


def test_the_spacing_of_pixels_leads_to_millimetres():
    lesion = run(skin_with_lesion(400, 400, radius=100), spacing_mm=(0.02, 0.02)).output.lesion
    assert lesion.area_mm2 == pytest.approx(math.pi * 4, rel=0.02)
    assert lesion.diameter_mm == pytest.approx(4, rel=0.02)


def test_no_lesion_is_an_answer():
    found = run(np.full((300, 400, 3), (200, 150, 130), np.uint8))
    assert not found.mask.any()
    assert found.output.lesion is None
    assert not found.output.touches_frame
    assert found.output.confidence > 0.9


def test_a_lesion_that_runs_out_of_the_picture_is_told():
    found = run(skin_with_lesion(300, 400, centre=(150, 10), radius=60))
    assert found.output.touches_frame


def test_all_lesion_is_possible():
    found = run(np.full((30, 40, 3), 60, np.uint8))
    assert found.mask.all()
    assert found.output.lesion.area_fraction == 1
    assert found.output.lesion.colour.skin_mean_rgb is None


def test_confidence_is_that_near_the_lesion():
    probability = np.zeros((100, 100), np.uint8)
    probability[40:60, 40:60] = 255
    probability[:20] = 128  # undecided, but far away
    lesion = run(skin_with_lesion(300, 300, radius=30)).output.lesion
    assert confidence(probability, lesion, (300, 300)) > 0.99
    assert confidence(probability, None, (300, 300)) == pytest.approx(0.8, abs=0.01)
    assert confidence(np.full((9, 9), 128, np.uint8), None, (9, 9)) < 0.01


def test_parameters_come_from_the_models_configuration():
    assert SegmentParameters.of(served(threshold="0.4")) == SegmentParameters(threshold=0.4)
    assert SegmentParameters.of(served(lesions="3")) == SegmentParameters(lesions=3)
    assert SegmentParameters.of(served(lesions="0")).lesions == 1


def test_of_two_lesions_one_is_measured_and_both_are_told():
    image = np.minimum(
        skin_with_lesion(300, 400, centre=(150, 190), radius=40),
        skin_with_lesion(300, 400, centre=(60, 360), radius=30),
    )
    found = run(image)
    assert found.mask[150, 190]
    assert not found.mask[60, 360]
    assert found.output.lesion.components == 2
    assert found.output.lesion.area_px == pytest.approx(math.pi * 40**2, rel=0.02)
    both = segment(image, Triton({"m": segment_dark}), served(), SegmentParameters(lesions=2))
    assert both.mask[150, 190]
    assert both.mask[60, 360]
