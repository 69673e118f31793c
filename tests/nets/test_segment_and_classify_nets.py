"""What the small plain U-Net and MobileNetV2 promise, and what is refused as a checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from costs import count_parameters
from torch import nn

from dermbatch.errors import UsageError
from lesionnets import checkpoint
from lesionnets.nets.classify.mobilenet import (
    FEATURES,
    LesionClassifier,
    MobileNetV2,
    lesion_weight,
)
from lesionnets.nets.efficient_lite import Convolution
from lesionnets.nets.segment.unet import UNet


@pytest.mark.parametrize(("height", "width"), [(2, 2), (33, 47), (64, 64), (65, 31)])
def test_unet_gives_a_logit_for_every_pixel_of_any_image(height: int, width: int) -> None:
    with torch.inference_mode():
        logits = UNet(width=0.25).eval()(torch.rand(1, 3, height, width))
    assert logits.shape == (1, 1, height, width)
    assert logits.isfinite().all()


def test_unet_is_of_the_size_that_the_recipe_promises() -> None:
    assert 1_000_000 < count_parameters(UNet()) < 1_500_000


def test_mobilenet_has_the_published_size_and_stride() -> None:
    # 2,223,872 with batch norm's two values a channel; folding leaves one bias in place of each pair.
    backbone = MobileNetV2()
    assert count_parameters(backbone) == 2_223_872 - sum(
        module.out_channels for module in backbone.modules() if isinstance(module, nn.Conv2d)
    )
    with torch.inference_mode():
        assert backbone.eval()(torch.rand(1, 3, 97, 64)).shape == (1, FEATURES, 4, 2)


def test_strided_convolutions_are_padded_as_tensorflow_does() -> None:
    layer = Convolution(1, 1, 3, stride=2, activate=False)
    nn.init.ones_(layer.conv.weight)
    nn.init.zeros_(layer.conv.bias)  # type: ignore[arg-type]
    image = torch.arange(16.0).reshape(1, 1, 4, 4)
    # TensorFlow's SAME pads an even side after it only: the first window is the top left 3 x 3.
    assert layer(image)[0, 0, 0, 0] == image[0, 0, :3, :3].sum()
    assert layer(image)[0, 0, 1, 1] == image[0, 0, 2:, 2:].sum()


def test_class_maps_sum_to_the_logits() -> None:
    torch.manual_seed(1)
    model = LesionClassifier(size=96).eval()
    with torch.inference_mode():
        logits, embedding, maps = model(torch.rand(2, 3, 96, 96), (torch.rand(2, 1, 96, 96) > 0.7).float())
    torch.testing.assert_close(maps.sum(dim=(2, 3)) + model.head.bias, logits, rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(embedding.norm(dim=1), torch.ones(2))


def test_the_lesion_weighs_what_is_in_it_and_everything_where_there_is_none() -> None:
    mask = torch.zeros(2, 1, 64, 64)
    mask[0, :, :32, 32:] = 1
    weight = lesion_weight(mask, (2, 2))
    assert weight[0, 0, 0, 1] > 0.99
    torch.testing.assert_close(weight[1], torch.full((1, 2, 2), 0.25))


@pytest.mark.parametrize(
    "name", ["unet.Nothing", "nothing.UNet", "unet", "..unet.UNet", "unet.double_convolution"]
)
def test_an_unknown_network_is_a_usage_error(name: str) -> None:
    with pytest.raises(UsageError, match="no network"):
        checkpoint.network(name, {})


def test_foreign_weights_and_hyper_parameters_are_usage_errors(tmp_path: Path) -> None:
    path = tmp_path / "best.pt"
    state = UNet(width=0.5).state_dict()
    checkpoint.save(path, recipe="r", network="unet.UNet", hyper={"width": 0.25}, state=state, figures={})
    with pytest.raises(UsageError, match="do not fit"):
        checkpoint.load(path).build()
    with pytest.raises(UsageError, match="hyper-parameters"):
        checkpoint.network("unet.UNet", {"depth": 3})


def test_a_file_that_is_no_checkpoint_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="no checkpoint"):
        checkpoint.load(tmp_path / "missing.pt")
    for content in ("not a checkpoint", "torn"):  # pickle takes the first letters for orders
        (tmp_path / "text.pt").write_text(content)
        with pytest.raises(UsageError, match="not a checkpoint"):
            checkpoint.load(tmp_path / "text.pt")
    torch.save({"state": {}}, tmp_path / "other.pt")
    with pytest.raises(UsageError, match="not a checkpoint"):
        checkpoint.load(tmp_path / "other.pt")
    checkpoint.save(tmp_path / "a.pt", recipe="a", network="unet.UNet", hyper={}, state={}, figures={})
    with pytest.raises(UsageError, match="recipe 'a', not by 'b'"):
        checkpoint.load(tmp_path / "a.pt", recipe="b")
