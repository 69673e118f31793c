"""What single networks of the papers promise besides what the harness checks for all (test_networks)."""

from __future__ import annotations

import re
from pathlib import Path

import onnxruntime
import pytest
import torch
from costs import multiply_adds
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.nn import functional

from dermbatch.errors import UsageError
from lesionnets.graphs.assembly import export_network
from lesionnets.losses.balanced import balanced_pixel_loss
from lesionnets.nets.classify.mobilenet import MobileNetV2
from lesionnets.nets.mutual.mask_guided import localisation_map
from lesionnets.nets.mutual.mb_dcnn import CoarseSN, EnhancedSN, MaskCN
from lesionnets.nets.purify.partial_unet import PartialConvolution, PartialUNet, composed
from lesionnets.nets.segment.dilated_unet import DilatedUNet
from lesionnets.nets.segment.efficient_unet import EfficientUNet
from lesionnets.nets.segment.side_layers import STRIDES, SideLayer, SideLayersVgg
from lesionnets.nets.segment.unet_mobilenet import UNetMobileNet
from lesionnets.nets.sizes import padded, scaled
from lesionnets.nets.tflite import load_mobilenet

WEIGHTS = Path(__file__).parents[3] / "shared" / "data" / "weights" / "mobilenet_v2_imagenet"


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 2**31), st.integers(1, 3), st.sampled_from([1, 3, 5]), st.integers(1, 2))
def test_partial_convolution_against_its_equation(seed: int, channels: int, kernel: int, stride: int) -> None:
    torch.manual_seed(seed)
    layer = PartialConvolution(channels, 2, kernel, stride=stride)
    nn.init.normal_(layer.bias)
    values, valid = torch.randn(1, channels, 6, 7), (torch.rand(1, channels, 6, 7) > 0.7).float()
    with torch.no_grad():
        found, reached = layer(values, valid)
    half = kernel // 2
    framed, known = (functional.pad(t[0], (half, half, half, half)) for t in (values, valid))
    for row in range(found.shape[2]):
        for column in range(found.shape[3]):
            at = (
                ...,
                slice(row * stride, row * stride + kernel),
                slice(column * stride, column * stride + kernel),
            )
            count = known[at].sum()
            expected = torch.zeros(2)
            if count > 0:
                # W (X * M) sum(1) / sum(M) + b, eq. 1
                product = (layer.conv.weight * (framed[at] * known[at])).sum(dim=(1, 2, 3))
                expected = product * layer.window / count + layer.bias.flatten()
            torch.testing.assert_close(found[0, :, row, column], expected.detach(), rtol=1e-4, atol=1e-4)
            assert reached[0, 0, row, column] == float(count > 0)


def test_what_lies_in_a_hole_has_no_influence() -> None:
    torch.manual_seed(0)
    model = PartialUNet(0.125).eval()
    image, valid = torch.rand(1, 3, 64, 64), torch.ones(1, 1, 64, 64)
    valid[..., 20:30, 10:40] = 0
    other = torch.where(valid > 0, image, torch.rand_like(image))
    with torch.inference_mode():
        painted = model(image, valid)
        torch.testing.assert_close(model(other, valid), painted, rtol=0, atol=0)
        assert (model(1 - image, valid) != painted).any()
        # Nor does a picture without a valid pixel yield anything but numbers.
        assert model(image, torch.zeros_like(valid)).isfinite().all()
    mixed = composed(image, painted, valid)
    torch.testing.assert_close(mixed[..., :20, :], image[..., :20, :], rtol=0, atol=0)
    torch.testing.assert_close(mixed[..., 20:30, 10:40], painted[..., 20:30, 10:40], rtol=0, atol=0)


def reach(model: nn.Module) -> int:
    """Furthest pixel, in rows, that one logit depends on."""
    # Nothing negative, so that no ReLU cuts a path off.
    for parameter in model.parameters():
        nn.init.constant_(parameter, 0.01)
    image = torch.ones(1, 3, 512, 512, requires_grad=True)
    model(image)[0, 0, 256, 256].backward()
    assert image.grad is not None
    rows = image.grad.abs().sum(dim=(0, 1, 3)).nonzero().flatten()
    return int((rows - 256).abs().max())


def test_dilation_more_than_doubles_the_field_of_view() -> None:
    model = DilatedUNet(0.0625)
    dilated = reach(model)
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            module.padding = tuple(side // 2 for side in module.kernel_size)
            module.dilation = (1, 1)
    assert dilated > 2 * reach(model)


def test_coarse_weights_start_the_enhanced_network_and_its_map_counts() -> None:
    torch.manual_seed(0)
    coarse, enhanced = CoarseSN(0.125, 1), EnhancedSN(0.125, 1).eval()
    loaded = enhanced.load_state_dict(coarse.state_dict(), strict=False)
    assert loaded.unexpected_keys == []
    assert {key.split(".")[0] for key in loaded.missing_keys} == {"told"}
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        nowhere, everywhere = (enhanced(image, torch.full((1, 1, 4, 4), value)) for value in (0.0, 1.0))
    assert (nowhere != everywhere).any()


def test_mask_guided_classification_sees_the_mask_and_its_maps_make_the_logits() -> None:
    torch.manual_seed(0)
    model = MaskCN(width=0.125, blocks=1).eval()
    image, mask = torch.rand(2, 3, 64, 80), torch.zeros(2, 1, 64, 80)
    with torch.inference_mode():
        logits, maps = model(image, mask)
        assert (model(image, mask + 1)[0] != logits).any()
    torch.testing.assert_close(maps.mean(dim=(2, 3)) + model.head.bias, logits)


def test_the_localisation_map_is_the_likeliest_class_map_up_to_one() -> None:
    maps = torch.tensor([[[[1.0, 2.0]], [[-1.0, 4.0]]], [[[-1.0, -2.0]], [[3.0, 3.0]]]])
    found = localisation_map(torch.tensor([[0.0, 1.0], [1.0, 0.0]]), maps)
    torch.testing.assert_close(found, torch.tensor([[[[0.0, 1.0]]], [[[0.0, 0.0]]]]))


@pytest.mark.parametrize("stride", sorted(set(STRIDES)))
def test_an_untrained_side_layer_interpolates(stride: int) -> None:
    layer = SideLayer(4, stride)
    maps = torch.rand(1, 16, 5, 6)
    with torch.inference_mode():
        found = layer.up(maps)
    expected = functional.interpolate(maps, scale_factor=float(stride), mode="bilinear", align_corners=False)
    inner = (..., slice(stride, -stride), slice(stride, -stride))
    torch.testing.assert_close(found[inner], expected[inner])


def test_early_side_layers_make_the_border_and_deep_ones_the_feature_map() -> None:
    torch.manual_seed(0)
    model = SideLayersVgg(0.125, scales=(1.0,))
    scores = model(torch.rand(1, 3, 32, 32))
    for values, left_out in ((scores.border, 4), (scores.feature, 0)):
        model.zero_grad()
        values.sum().backward(retain_graph=True)
        used = [
            any(p.grad is not None and bool(p.grad.any()) for p in side.conv.parameters()) for side in model.sides
        ]
        assert used == [number != left_out for number in range(5)]


def test_three_scales_are_the_mean_of_each() -> None:
    torch.manual_seed(0)
    model, image = SideLayersVgg(0.125).eval(), torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        together = model(image)
        alone = []
        for scale in model.scales:
            model.scales = (scale,)
            alone.append(model(image))
    for number, values in enumerate(together):
        torch.testing.assert_close(values, torch.stack([each[number] for each in alone]).mean(dim=0))


def test_exported_with_free_sides_a_scale_follows_the_image() -> None:
    torch.manual_seed(0)
    model = SideLayersVgg(0.0625, scales=(1.5,)).eval()
    outputs = ["score", "border", "feature", "sides"]
    example = [torch.rand(2, 3, 64, 64)]
    graph = export_network(model, example, inputs=["image"], outputs=outputs, multiple=STRIDES[-1])
    session = onnxruntime.InferenceSession(graph.SerializeToString(), providers=["CPUExecutionProvider"])
    image = torch.rand(1, 3, 96, 128)
    with torch.inference_mode():
        expected = model(image)
    for ours, theirs in zip(expected, session.run(outputs, {"image": image.numpy()}), strict=True):
        torch.testing.assert_close(torch.from_numpy(theirs), ours, rtol=1e-4, atol=1e-5)


def test_the_mobilenet_unet_takes_a_backbones_weights_as_they_are() -> None:
    torch.manual_seed(0)
    backbone, model = MobileNetV2().eval(), UNetMobileNet(0.25).eval()
    model.load_encoder(backbone)
    image = torch.rand(1, 3, 64, 64)
    with torch.inference_mode():
        torch.testing.assert_close(backbone.layers[-1](model.encoder(2 * image - 1)), backbone(image))


def test_the_efficient_unet_takes_weights_by_the_names_of_efficientnet_pytorch() -> None:
    torch.manual_seed(0)
    one, other = EfficientUNet(0.125, 0.1), EfficientUNet(0.125, 0.1)
    theirs = {re.sub(r"^_blocks\.\d+\.", "_blocks.", key): v for key, v in one.encoder.state_dict().items()}
    assert "_blocks.6._bn2.weight" in theirs
    assert len(theirs) == len(one.encoder.state_dict())
    other.load_encoder(theirs | {"_fc.weight": torch.zeros(1000, 1536)})
    torch.testing.assert_close(other.encoder.state_dict(), one.encoder.state_dict(), rtol=0, atol=0)
    theirs.pop("_conv_stem.weight")
    with pytest.raises(UsageError, match="not those of an EfficientNet-B3"):
        other.load_encoder(theirs)
    with pytest.raises(UsageError, match="of this width"):
        other.load_encoder(theirs | {"_conv_stem.weight": torch.zeros(40, 3, 3, 3)})


def learned(model: nn.Module) -> float:
    """Overlap with dark squares that a network finds, in evaluation mode, after a few steps on them."""
    truth = torch.zeros(4, 1, 32, 32)
    for number in range(4):
        truth[number, :, 4 * number : 4 * number + 16, 20 - 5 * number :] = 1
    image = 0.8 - 0.5 * truth + 0.05 * torch.randn(4, 3, 32, 32)
    optimiser = torch.optim.Adam(model.parameters(), lr=3e-3)
    for _ in range(40):
        optimiser.zero_grad()
        outputs = model.train()(image)
        maps = outputs if isinstance(outputs, tuple) else (outputs,)
        torch.stack([balanced_pixel_loss(logits, truth) for logits in maps]).sum().backward()
        optimiser.step()
    with torch.inference_mode():
        outputs = model.eval()(image)
    found = (outputs[0] if isinstance(outputs, tuple) else outputs) > 0
    overlap = (found & (truth > 0)).sum() / (found | (truth > 0)).sum()
    return overlap.item()


@pytest.mark.parametrize(
    ("network", "hyper"),
    [
        (DilatedUNet, {"width": 0.125}),
        (EfficientUNet, {"width": 0.125, "depth": 0.1}),
        (CoarseSN, {"width": 0.125, "blocks": 1}),
        (SideLayersVgg, {"width": 0.125, "scales": (1.0,)}),
    ],
)
def test_a_few_steps_teach_a_segmentation_network(network: type[nn.Module], hyper: dict[str, object]) -> None:
    torch.manual_seed(0)
    assert learned(network(**hyper)) > 0.7


@pytest.mark.shared_data
def test_a_few_steps_teach_the_mobilenet_unet_that_starts_from_imagenet() -> None:
    path = WEIGHTS / "tf2_mobilenet_v2_1.0_224_ptq.tflite"
    if not path.is_file():
        pytest.skip("the ImageNet weights are not beside the checkout")
    torch.manual_seed(0)
    backbone, model = MobileNetV2(), UNetMobileNet(0.25)
    load_mobilenet(backbone, path)
    model.load_encoder(backbone)
    assert learned(model) > 0.7


def test_sizes() -> None:
    assert [scaled(728, width) for width in (1.0, 0.125, 0.001)] == [728, 91, 4]
    assert padded(torch.ones(1, 1, 33, 32), 16).shape == (1, 1, 48, 32)
    assert padded(torch.ones(1, 1, 33, 32), 16).sum() == 33 * 32


def test_multiply_adds_are_counted() -> None:
    layers = nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1),  # 27 * 8 a pixel
        nn.Conv2d(8, 8, 3, stride=2, padding=1, groups=8),  # 9 * 8 of every fourth pixel
        nn.ConvTranspose2d(8, 4, 2, stride=2),  # 4 * 8 * 4 of every fourth pixel
        nn.Flatten(),
        nn.Linear(4 * 10 * 12, 5),
    )
    expected = 27 * 8 * 120 + 9 * 8 * 30 + 4 * 8 * 4 * 30 + 480 * 5
    assert multiply_adds(layers, [(1, 3, 10, 12)]) == expected
    assert multiply_adds(layers.to("meta"), [(2, 3, 10, 12)]) == 2 * expected
