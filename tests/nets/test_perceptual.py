"""MobileNetV2's features as a perceptual distance: what eyes see counts, where pixels say otherwise."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import pytest
import torch

from dermbatch.errors import UsageError
from dermbatch.phantoms.phantom import phantom
from lesionnets.losses.adversarial import content_loss
from lesionnets.losses.perceptual import CONTENT_TAPS, PerceptualFeatures, imagenet_features, perceptual_distance
from lesionnets.nets.classify.mobilenet import MobileNetV2

WEIGHTS = (
    Path(__file__).parents[3] / "shared/data/weights/mobilenet_v2_imagenet/tf2_mobilenet_v2_1.0_224_ptq.tflite"
)
Image = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def weights() -> Path:
    if not WEIGHTS.is_file():
        pytest.skip("the ImageNet weights are not beside the checkout")
    return WEIGHTS


def tensor(image: Image) -> torch.Tensor:
    return torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255


def shifted(image: Image, pixels: int) -> Image:
    return np.roll(image, pixels, axis=1)


def blurred(image: Image, sigma: float) -> Image:
    return np.asarray(cv2.GaussianBlur(image, (0, 0), sigma), np.uint8)


def noisy(image: Image, deviation: float) -> Image:
    noise = np.random.default_rng(0).normal(0, deviation, image.shape)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def brighter(image: Image, levels: int) -> Image:
    return np.clip(image.astype(int) + levels, 0, 255).astype(np.uint8)


@pytest.mark.shared_data
def test_more_of_a_distortion_is_further_away(weights: Path) -> None:
    features = imagenet_features(weights)
    for seed in range(3):
        image = phantom(seed, height=96, width=128).image
        for distort, amounts in ((blurred, (0.7, 1.5, 3)), (noisy, (2, 6, 12)), (shifted, (0, 1, 2))):
            found = [
                perceptual_distance(features, tensor(image), tensor(distort(image, amount))).item()
                for amount in amounts
            ]
            assert found == sorted(found)
            assert found[0] < found[-1] / 2


@pytest.mark.shared_data
def test_it_orders_distortions_as_eyes_do_and_pixels_do_not(weights: Path) -> None:
    # Nobody sees a shift by a pixel or a little more light; everybody sees blur and noise.
    features = imagenet_features(weights, CONTENT_TAPS)
    for seed in range(3):
        image = phantom(seed, height=192, width=256).image
        for harmless, harmful in (
            (shifted(image, 1), blurred(image, 1.3)),
            (brighter(image, 8), noisy(image, 4)),
            (brighter(image, 8), blurred(image, 1.0)),
        ):
            truth, one, other = tensor(image), tensor(harmless), tensor(harmful)
            assert (one - truth).square().mean() > (other - truth).square().mean()
            assert perceptual_distance(features, truth, one) < perceptual_distance(features, truth, other)


@pytest.mark.shared_data
def test_content_loss_wants_detail_and_not_just_pixels(weights: Path) -> None:
    features = imagenet_features(weights, CONTENT_TAPS)
    image = phantom(1, height=96, width=128).image
    truth, blur, light = tensor(image), tensor(blurred(image, 1.0)), tensor(brighter(image, 8))
    assert content_loss(truth, truth, features).item() == 0
    assert content_loss(light, truth, features) < content_loss(blur, truth, features)
    picture = blur.clone().requires_grad_()
    content_loss(picture, truth, features).backward()
    assert picture.grad is not None
    assert picture.grad.any()


def test_features_are_frozen_and_a_half_a_quarter_and_an_eighth_of_the_size() -> None:
    frozen = PerceptualFeatures(MobileNetV2())
    picture = torch.rand(2, 3, 33, 64, requires_grad=True)
    found = frozen(picture)
    assert [tuple(values.shape) for values in found] == [(2, 16, 17, 32), (2, 24, 9, 16), (2, 32, 5, 8)]
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert all(values.requires_grad for values in found)


def test_weights_that_are_not_there_are_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no weight file"):
        imagenet_features(tmp_path / "none.tflite")
