import math

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dermbatch.images.lesion import clean
from dermbatch.records.outcome import ColourStatistics
from workers.stages.geometry import asymmetry, diameter, measure, perimeter

COLOUR = ColourStatistics(mean_rgb=(1, 2, 3), std_rgb=(0, 0, 0), skin_mean_rgb=None, colours=1)


def measured(mask, spacing=None, aspect=1.0):
    cleaned, outlines = clean(mask.astype(np.uint8) * 255, min_share=0.05, min_pixels=1)
    return measure(cleaned, outlines, COLOUR, spacing, components=len(outlines), aspect=aspect)


def ellipse(height, width, rows, columns, angle=0.0, centre=None):
    y, x = np.mgrid[:height, :width]
    row, column = centre or (height / 2 + 0.3, width / 2 - 0.2)
    y, x = y - row, x - column
    turned_x = x * math.cos(angle) + y * math.sin(angle)
    turned_y = -x * math.sin(angle) + y * math.cos(angle)
    return (turned_y / rows) ** 2 + (turned_x / columns) ** 2 <= 1


def ellipse_perimeter(a, b):
    """Ramanujan's second approximation: exact to 1e-5 at these axes."""
    h = ((a - b) / (a + b)) ** 2
    return math.pi * (a + b) * (1 + 3 * h / (10 + math.sqrt(4 - 3 * h)))


@pytest.mark.parametrize("radius", [10, 50, 200])
def test_a_disc(radius):
    found = measured(ellipse(3 * radius, 3 * radius + 11, radius, radius))
    assert found.area_px == pytest.approx(math.pi * radius**2, rel=0.01)
    assert found.perimeter_px == pytest.approx(2 * math.pi * radius, rel=0.02)
    assert found.equivalent_diameter_px == pytest.approx(2 * radius, rel=0.01)
    assert found.diameter_px == pytest.approx(2 * radius, abs=1.5)
    assert found.border_irregularity == pytest.approx(1, abs=0.03)
    assert found.asymmetry < 0.03
    assert found.centroid == pytest.approx((1.5 * radius + 0.3, (3 * radius + 11) / 2 - 0.2), abs=0.2)
    assert found.components == 1


@pytest.mark.parametrize("angle", [0.0, 0.3, math.pi / 4, 1.2])
def test_an_ellipse_at_any_angle(angle):
    found = measured(ellipse(400, 420, 60, 150, angle))
    assert found.area_px == pytest.approx(math.pi * 60 * 150, rel=0.01)
    assert found.perimeter_px == pytest.approx(ellipse_perimeter(60, 150), rel=0.02)
    assert found.diameter_px == pytest.approx(300, abs=2)
    assert found.border_irregularity == pytest.approx(
        ellipse_perimeter(60, 150) ** 2 / (4 * math.pi**2 * 9000), rel=0.04
    )
    assert found.asymmetry < 0.03


def test_a_square():
    mask = np.zeros((300, 300), bool)
    mask[40:240, 60:260] = True
    found = measured(mask)
    assert found.area_px == 200 * 200
    assert found.perimeter_px == pytest.approx(800, rel=0.025)
    assert found.diameter_px == pytest.approx(200 * math.sqrt(2), rel=1e-6)
    assert found.centroid == pytest.approx((139.5, 159.5))
    assert found.border_irregularity == pytest.approx(4 / math.pi, rel=0.05)
    assert found.area_fraction == pytest.approx(40000 / 90000)
    box = found.bounding_box
    assert (box.top, box.left, box.bottom, box.right) == (40, 60, 240, 260)


def test_a_single_pixel_has_the_measures_of_one():
    mask = np.zeros((5, 5), bool)
    mask[2, 3] = True
    found = measured(mask)
    assert (found.area_px, found.centroid) == (1, (2, 3))
    assert found.perimeter_px == pytest.approx(math.pi)
    assert found.diameter_px == pytest.approx(math.sqrt(2))
    assert found.asymmetry == pytest.approx(0, abs=0.2)


def test_what_is_lopsided_is_asymmetric():
    half = ellipse(300, 300, 100, 100)
    half[:, :150] = False
    drop = ellipse(300, 300, 60, 60) | ellipse(300, 300, 15, 15, centre=(150, 240))
    triangle = cv2.fillPoly(np.zeros((300, 300), np.uint8), [np.array([[20, 20], [280, 60], [40, 280]])], 255)
    assert asymmetry(half.astype(np.uint8) * 255) == pytest.approx(0.09, abs=0.05)
    assert asymmetry(triangle) > 0.1
    assert (
        asymmetry(drop.astype(np.uint8) * 255) > asymmetry(ellipse(300, 300, 60, 60).astype(np.uint8) * 255) + 0.01
    )


def test_a_ragged_border_is_irregular():
    y, x = np.mgrid[:400, :400] - 200
    star = np.hypot(x, y) < 120 + 25 * np.sin(12 * np.arctan2(y, x))
    assert measured(star).border_irregularity > 1.8


def test_millimetres_follow_the_spacing():
    mask = ellipse(300, 300, 80, 40)
    pixels, found = measured(mask), measured(mask, (0.05, 0.05))
    assert found.area_mm2 == pytest.approx(pixels.area_px * 0.0025)
    assert found.perimeter_mm == pytest.approx(pixels.perimeter_px * 0.05)
    assert found.diameter_mm == pytest.approx(pixels.diameter_px * 0.05)
    assert found.border_irregularity == pytest.approx(pixels.border_irregularity)
    assert pixels.area_mm2 is None
    assert pixels.perimeter_mm is None
    assert pixels.diameter_mm is None


def test_pixels_that_are_not_square_are_measured_in_their_true_shape():
    disc = measured(ellipse(400, 400, 50, 100), (0.2, 0.1))  # a disc of 10 mm, seen by tall pixels
    assert disc.area_mm2 == pytest.approx(math.pi * 100, rel=0.01)
    assert disc.perimeter_mm == pytest.approx(2 * math.pi * 10, rel=0.03)
    assert disc.diameter_mm == pytest.approx(20, abs=0.3)
    assert disc.border_irregularity == pytest.approx(1, abs=0.08)
    assert disc.asymmetry < 0.03
    assert disc.area_px == pytest.approx(math.pi * 50 * 100, rel=0.01)


def test_an_aspect_without_a_spacing_makes_shapes_true_and_no_millimetres():
    plain = ellipse(400, 400, 50, 100)
    disc = measured(plain, aspect=2.0)
    assert disc.border_irregularity == pytest.approx(1, abs=0.08)
    assert disc.asymmetry < 0.03
    assert (disc.area_mm2, disc.perimeter_mm, disc.diameter_mm) == (None, None, None)
    assert disc.area_px == measured(plain).area_px
    assert measured(plain).border_irregularity > 1.15


blobs = st.builds(
    lambda a, b, angle, row, column: ellipse(120, 120, a, b, angle) | ellipse(120, 120, 20, 25, 0, (row, column)),
    st.integers(12, 30),
    st.integers(12, 40),
    st.floats(0, math.pi),
    st.integers(35, 85),
    st.integers(35, 85),
)


@settings(max_examples=40, deadline=None)
@given(blobs, st.integers(1, 3))
def test_turning_by_right_angles_changes_no_measure(mask, turns):
    straight, turned = measured(mask), measured(np.rot90(mask, turns))
    assert turned.area_px == straight.area_px
    assert turned.perimeter_px == pytest.approx(straight.perimeter_px)
    assert turned.diameter_px == pytest.approx(straight.diameter_px, rel=1e-5)
    assert turned.border_irregularity == pytest.approx(straight.border_irregularity)
    assert turned.asymmetry == pytest.approx(straight.asymmetry, abs=0.03)


@settings(max_examples=40, deadline=None)
@given(blobs)
def test_measures_keep_their_bounds(mask):
    found = measured(mask)
    assert 0 <= found.asymmetry < 1
    assert found.border_irregularity > 0.9
    assert found.equivalent_diameter_px <= found.diameter_px + 1
    box = found.bounding_box
    assert max(box.bottom - box.top, box.right - box.left) <= found.diameter_px + 1
    assert box.top <= found.centroid[0] <= box.bottom
    assert box.left <= found.centroid[1] <= box.right


def test_two_lesions_are_measured_together():
    mask = ellipse(200, 400, 40, 40, 0, (100, 80)) | ellipse(200, 400, 40, 40, 0, (100, 300))
    outlines = clean(mask.astype(np.uint8) * 255, min_share=0, min_pixels=1)[1]
    found = measured(mask)
    assert found.components == 2
    assert found.perimeter_px == pytest.approx(sum(perimeter(outline) for outline in outlines))
    assert found.diameter_px == pytest.approx(220 + 80, abs=2)
    assert diameter(outlines[:1]) == pytest.approx(80, abs=2)
