from functools import cache

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from processed import CHOICES
from standins import Triton, double_by_squares, enlarge_four_times, served, skin_with_lesion, whole_triton

from dermbatch.images.fitting import fit
from dermbatch.records.asked import ImageJob, ModelChoice, Order
from dermbatch.stages import Stage
from workers.image.steps import plan
from workers.stages.enhance import EnhanceParameters, doubler_of, enhance, feathered, halvings, lesion_box


@cache
def noise(shape):
    return np.random.default_rng(0).normal(0, 12, shape)


@cache
def textured(height, width, radius, centre=None):
    """A lesion on skin, both with texture, and its mask."""
    image = skin_with_lesion(height, width, radius=radius, centre=centre)
    mask = (image[..., 0] < 140).astype(np.uint8) * 255
    return cv2.GaussianBlur((image + noise(image.shape)).clip(0, 255).astype(np.uint8), (3, 3), 0), mask


def run(image, mask, **parameters):
    client = Triton({"m": enlarge_four_times})
    return enhance(image, mask, client, served(), EnhanceParameters(**parameters)), client


def crop_of(image, box):
    return image[box.top : box.bottom, box.left : box.right]


@pytest.mark.parametrize(
    ("radius", "scale", "side", "method"),
    [
        (83, 4, 800, "super_resolution"),
        (125, 1024 / 300, 1024, "super_resolution"),
        (280, 1024 / 673, 1024, "super_resolution"),
        (290, 1024 / 697, 1024, "resampled"),
        (380, 1024 / 912, 1024, "resampled"),
        (425, 1024 / 1020, 1024, "resampled"),
    ],
)
def test_small_crops_are_brought_to_the_long_side_at_most_four_times(radius, scale, side, method):
    image, mask = textured(1100, 1300, radius)
    enhanced, _ = run(image, mask)
    output = enhanced.output
    height, width = crop_of(image, output.box).shape[:2]
    assert output.method == method
    assert output.scale == pytest.approx(scale, rel=0.01)
    assert enhanced.image.shape[:2] == (output.height, output.width)
    assert max(output.height, output.width) == pytest.approx(side, abs=8)
    assert output.height == pytest.approx(height * output.scale, abs=0.51)
    assert min(output.height - height, output.width - width) >= 0


def test_what_is_hardly_enlarged_is_resampled_without_the_network():
    image, mask = textured(1100, 1300, 380)
    enhanced, client = run(image, mask)
    size = enhanced.output.width, enhanced.output.height
    expected = cv2.resize(crop_of(image, enhanced.output.box), size, interpolation=cv2.INTER_CUBIC)
    np.testing.assert_array_equal(enhanced.image, expected)
    assert client.asked == []


@pytest.mark.parametrize(("radius", "asked"), [(280, "twice"), (200, "m")])
def test_what_is_enlarged_at_most_twice_is_asked_of_the_doubler(radius, asked):
    image, mask = textured(1100, 1300, radius)
    client = Triton({"m": enlarge_four_times, "twice": double_by_squares})
    doubler = served("twice", scale=2, tile=320, overlap=10, grid=2)
    made = enhance(image, mask, client, served(), EnhanceParameters(), doubler=doubler)
    assert made.output == run(image, mask)[0].output
    assert {name for name, _ in client.asked} == {asked}
    assert max(item["IMAGE"].shape[0] for _, item in client.asked) > (160 if asked == "twice" else 0)
    if asked == "twice":
        box, size = made.output.box, (made.output.width, made.output.height)
        whole = double_by_squares(image)["ENHANCED"]
        whole = whole[2 * box.top : 2 * box.bottom, 2 * box.left : 2 * box.right]
        middle = slice(made.output.height // 2 - 50, made.output.height // 2 + 50)
        expected = fit(whole, (size[1], size[0]))[middle, middle]
        np.testing.assert_allclose(made.image[middle, middle].astype(int), expected, atol=1)


def test_a_doubler_is_of_the_version_of_the_model_that_names_it():
    asked, doubler = [], served("twice", scale=2)

    class Client(Triton):
        def model(self, stage, choice):
            asked.append((stage, choice))
            return doubler

    client = Client({})
    assert doubler_of(served(), client) is None
    assert doubler_of(served(version="3", doubler="twice"), client) == doubler
    assert asked == [(Stage.ENHANCE, ModelChoice(name="twice", version="3"))]


def test_the_stage_key_holds_the_doubler_and_records_say_it():
    order = Order(stages=(Stage.SEGMENT, Stage.ENHANCE), models=CHOICES)
    job = ImageJob(batch="b", index=0, name="a", source="s3://b/a", order=order)

    def step(doubler):
        triton = whole_triton()
        own = served("enhance", **({} if doubler is None else {"doubler": "twice"}))
        triton.model = lambda stage, choice: {"twice": doubler, "enhance": own}.get(
            choice.name, triton.models[stage]
        )
        return plan(job, triton)[-1]

    without, first, second = map(step, (None, served("twice"), served("twice", sha256="cd" * 32)))
    assert len({without.key, first.key, second.key}) == 3
    assert second.stated["doubler"] == "twice"
    assert second.stated["doubler_sha256"] == "cd" * 32
    assert "doubler" not in without.stated


def test_a_large_crop_is_kept_pixel_by_pixel():
    image, mask = textured(1300, 1500, 430)
    enhanced, client = run(image, mask)
    output = enhanced.output
    assert (output.method, output.scale) == ("native", 1)
    assert max(output.height, output.width) >= 1024
    np.testing.assert_array_equal(enhanced.image, crop_of(image, output.box))
    assert client.asked == []


def test_without_a_lesion_there_is_nothing_to_enhance():
    image, mask = textured(200, 200, 40)
    enhanced, client = run(image, np.zeros_like(mask))
    assert enhanced.image is None
    assert enhanced.output.method == "none"
    assert client.asked == []


@pytest.mark.parametrize("radius", [20, 90, 200])
def test_the_background_is_the_sources_own(radius):
    image, mask = textured(500, 640, radius)
    enhanced, _ = run(image, mask)
    box, size = enhanced.output.box, (enhanced.output.width, enhanced.output.height)
    plain = cv2.resize(crop_of(image, box), size, interpolation=cv2.INTER_CUBIC)
    lesion = cv2.resize(crop_of(mask, box), size, interpolation=cv2.INTER_LINEAR)
    np.testing.assert_array_equal(enhanced.image[lesion == 0], plain[lesion == 0])
    # Deep inside the lesion it is the network's own work.
    detailed = enlarge_four_times(image)["ENHANCED"]
    detailed = detailed[4 * box.top : 4 * box.bottom, 4 * box.left : 4 * box.right]
    row, column = enhanced.output.height // 2, enhanced.output.width // 2
    if enhanced.output.scale == 4:
        middle = slice(row - 20, row + 20), slice(column - 20, column + 20)
        np.testing.assert_allclose(enhanced.image[middle].astype(int), detailed[middle], atol=1)


def test_the_enhanced_lesion_has_more_contrast_than_bicubic():
    image, mask = textured(500, 640, 110)
    enhanced, _ = run(image, mask)
    box, size = enhanced.output.box, (enhanced.output.width, enhanced.output.height)
    plain = cv2.resize(crop_of(image, box), size, interpolation=cv2.INTER_CUBIC)
    inner = cv2.resize(crop_of(mask, box), size) == 255
    contrast = [cv2.Laplacian(picture, cv2.CV_32F)[inner].std() for picture in (enhanced.image, plain)]
    assert contrast[0] > 1.05 * contrast[1]


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 99), st.integers(0, 99), st.integers(3, 60), st.floats(0, 0.5))
def test_the_box_holds_the_lesion_and_stays_in_the_image(row, column, radius, margin):
    mask = cv2.circle(np.zeros((100, 100), np.uint8), (column, row), radius, 255, -1)
    box = lesion_box(mask, margin)
    assert 0 <= box.top < box.bottom <= 100
    assert 0 <= box.left < box.right <= 100
    assert np.count_nonzero(crop_of(mask, box)) == np.count_nonzero(mask)


@settings(max_examples=50, deadline=None)
@given(st.integers(10, 50), st.integers(3, 30), st.integers(0, 5))
def test_the_weight_is_zero_outside_and_on_the_rim(centre, radius, feather):
    lesion = cv2.circle(np.zeros((60, 60), np.uint8), (centre, 30), radius, 255, -1)
    weight = feathered(lesion, feather)
    assert weight.min() >= 0
    assert weight.max() <= 1
    outside = lesion == 0 if feather == 0 else cv2.erode(lesion, np.ones((3, 3), np.uint8)) == 0
    assert not weight[outside].any()
    if radius > 1.5 * (2 * feather + 2):  # the kernels are squares, and 1.5 is a little more than their diagonal
        assert weight[30, centre] == 1


def test_a_lesion_cut_off_by_the_frame_is_enhanced_up_to_it():
    lesion = np.full((20, 30), 255, np.uint8)
    assert (feathered(lesion, 2) == 1).all()


@pytest.mark.parametrize(
    ("scale", "wanted", "count"),
    [(4, 4, 0), (4, 2.1, 0), (4, 2, 1), (4, 1.2, 1), (4, 1, 2), (2, 1.2, 0), (3, 1, 0)],
)
def test_halving_leaves_enough(scale, wanted, count):
    assert halvings(scale, wanted) == count


def test_parameters_come_from_the_models_configuration():
    model = served(scale="4", tile="160", overlap="12")
    assert EnhanceParameters.of(model) == EnhanceParameters(scale=4, tile=160, overlap=12)
