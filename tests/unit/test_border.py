"""Border maps: measures by sector, known by construction, and the stage that keeps them."""

import cv2
import numpy as np
import pytest

from dermbatch.models.served import ServedModel
from tests.unit.standins import Triton
from workers.stages.border import SECTORS, border_measures
from workers.stages.segment import SegmentParameters, segment

SIDE, CENTRE, RADIUS = 200, (100, 100), 60


def disc():
    return cv2.circle(np.zeros((SIDE, SIDE), np.uint8), CENTRE, RADIUS, 255, -1)


def test_a_sharp_disc_is_sharp_and_regular_all_around():
    found = border_measures(disc(), disc())
    assert len(found.sharpness) == len(found.irregularity) == SECTORS
    assert min(found.sharpness) > 0.99
    assert max(found.irregularity) < 0.01


def test_a_border_that_fades_to_the_right_is_blurred_there_alone():
    faded = disc()
    blurred = cv2.GaussianBlur(faded, (0, 0), 12)
    faded[:, 130:] = blurred[:, 130:]
    sharpness = border_measures(faded, disc()).sharpness
    assert min(range(SECTORS), key=lambda n: sharpness[n]) == 2  # from the top, clockwise: a quarter
    assert sharpness[2] < 0.6 < 0.95 < sharpness[6]


def test_a_notch_at_the_bottom_makes_its_sector_irregular():
    mask = disc()
    cv2.circle(mask, (100, 160), 14, 0, -1)
    irregularity = border_measures(mask, mask).irregularity
    assert max(range(SECTORS), key=lambda n: irregularity[n]) == 4
    assert irregularity[4] > 5 * irregularity[0]


@pytest.mark.parametrize("mask", [np.zeros((40, 40), np.uint8), np.pad(np.full((3, 3), 255, np.uint8), 18)])
def test_no_lesion_or_a_speck_has_no_border(mask):
    assert border_measures(np.zeros((40, 40), np.uint8), mask) is None


def test_the_stage_asks_for_borders_where_the_model_gives_them():
    shapes = {"IMAGE": (-1, -1, 3), "LESION": (-1, -1), "BORDER": (-1, -1)}
    model = ServedModel("sides", "1", "ab" * 32, 4, shapes)
    triton = Triton({"sides": lambda IMAGE: {"LESION": disc(), "BORDER": disc()}})  # noqa: N803 - a tensor's name
    image = np.full((SIDE, SIDE, 3), 200, np.uint8)
    found = segment(image, triton, model, SegmentParameters.of(model))
    np.testing.assert_array_equal(found.border, disc())
    assert found.output.border is not None
    plain = ServedModel("sides", "1", "ab" * 32, 4, {"IMAGE": (-1, -1, 3), "LESION": (-1, -1)})
    without = segment(image, triton, plain, SegmentParameters.of(plain))
    assert without.border is None
    assert without.output.border is None
